"""Embed texts with one encoder of a model, for questions or for passages. Embeddings are compared by dot product.

Dimensions: N texts; D width of an embedding.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from text.artifacts import hash_file
from text.bundle import find_encoder_folder, list_model_files, load_side
from text.errors import SettingsWarning
from text.models import RobertaEncoder, quantize_int8, to_bfloat16
from text.models.chunks import MAX_TOKENS, cut_by_length, get_lengths
from text.records import Passage, TokenBatch
from text.retrieval.arguments import list_texts
from text.transforms import Tokenize, title_and_text

BLOCK_ROWS = 1 << 11
"""Number of texts that are sorted by length and embedded together."""
_PRECISIONS = {"float32": lambda encoder: encoder, "bfloat16": to_bfloat16, "int8": quantize_int8}
PRECISIONS = tuple(_PRECISIONS)
"""Precisions of an encoder."""


class Embedder:
    """An encoder and its tokenizer, which turn questions or passages into embeddings.

    Args:
        encoder: The encoder. It is put into evaluation mode.
        tokenize: The tokenizer, with a maximum length that the encoder accepts.
        similarity: "dot" or "cosine". With "cosine", embeddings are normalized to length 1.
        titles: How a passage's title is encoded: "pair" or "join" (``text.transforms.title_and_text``).
        max_tokens: Maximum number of tokens in one batch on a GPU. It is halved if the GPU runs out of memory.
    """

    def __init__(
        self,
        encoder: RobertaEncoder,
        tokenize: Tokenize,
        *,
        similarity: str = "dot",
        titles: str = "pair",
        max_tokens: int = 1 << 17,
    ) -> None:
        self.encoder = encoder.eval()
        self.tokenize_texts = tokenize
        self.similarity = similarity
        self.titles = titles
        self.max_tokens = max_tokens
        self.model_hashes: dict[str, str] = {}
        """SHA-256 of the files of both encoders, by which embeddings on disk identify their model. It is empty without
        ``from_pretrained``. A search then cannot check that it has the model that encoded the passages."""
        self.settings: dict[str, Any] = {
            "max_length": tokenize.max_length,
            "similarity": similarity,
            "titles": titles,
        }
        """Settings that change the embeddings."""

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        side: str,
        *,
        max_length: int | None = None,
        titles: str | None = None,
        precision: str = "float32",
        device: str = "cpu",
    ) -> Embedder:
        """Load an encoder and its tokenizer from a folder.

        Args:
            folder: The model of a training run, or any folder that ``RobertaEncoder.from_pretrained`` accepts.
            side: "question" or "passage".
            max_length: Maximum number of tokens per text. By default the limit of the model.
            titles: "pair" or "join". By default as in training, or "pair" if the folder does not say.
            precision: Precision of the encoder: "float32", "bfloat16" or "int8" (``text.models.quantize_int8``).
            device: Device of the encoder, such as "cuda". "int8" needs "cpu".

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: A file is damaged, or the model cannot be loaded.
            ValueError: ``side``, ``precision`` or ``device`` is unknown, ``max_length`` is above the encoder's limit,
                or the device does not support "int8".
        """
        if precision not in PRECISIONS:
            raise ValueError(f'precision is "{precision}". Use one of {", ".join(PRECISIONS)}.')
        if precision == "int8" and not device.startswith("cpu"):
            raise ValueError(f'precision "int8" runs only on a CPU, but the device is "{device}". Use bfloat16.')
        loaded = load_side(folder, side)
        max_length = loaded.max_length if max_length is None else max_length
        if max_length > loaded.encoder.max_length:
            limit = f"the encoder in {folder} accepts at most {loaded.encoder.max_length} tokens"
            raise ValueError(f"max_length is {max_length}, but {limit}.")
        encoder = _PRECISIONS[precision](loaded.encoder)
        embedder = cls(
            _move(encoder, device),
            Tokenize(loaded.tokenizer, max_length, loaded.prompt),
            similarity=loaded.similarity,
            titles=titles or loaded.titles,
        )
        embedder.model_hashes = _hash_model(folder)
        embedder.settings |= {"prompt": loaded.prompt, "precision": precision}
        return embedder

    def tokenize(self, texts: Sequence[str] | Sequence[Passage]) -> TokenBatch:
        """Return the (N, L) token ids and attention mask of questions or passages."""
        if isinstance(texts, str):
            raise TypeError("texts is a str. Give a list of texts.")
        parts = [text if isinstance(text, str) else title_and_text(text, self.titles) for text in texts]
        return self.tokenize_texts(parts)

    def count_truncated(self, texts: Sequence[str] | Sequence[Passage]) -> int:
        """Return the number of texts that are longer than the maximum length and are truncated."""
        return int(self.tokenize(texts).truncated.sum()) if texts else 0

    def embed(self, tokens: TokenBatch) -> Tensor:
        """Return the (N, D) float32 embeddings of tokenized texts, on the CPU."""
        embeddings = torch.empty(len(tokens.input_ids), self.encoder.embedding_dim)
        for rows, batch in self.embed_in_batches(tokens):
            embeddings[rows] = batch
        return embeddings

    def embed_in_batches(self, tokens: TokenBatch, start: int = 0) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the embeddings in small batches, the longest texts first.

        The order does not depend on ``start``, so an interrupted encoding can resume after any batch.

        Args:
            tokens: The tokenized texts.
            start: Number of texts to skip, in the order of this function.

        Yields:
            The rows of n texts, and their (n, D) float32 embeddings on the CPU.
        """
        lengths = get_lengths(tokens.attention_mask)
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])[start:]
        waiting: tuple[list[int], Tensor] | None = None
        while order:
            num_done = 0
            for places, length in cut_by_length([lengths[row] for row in order], self._max_tokens_at_once):
                rows = [order[place] for place in places]
                embeddings = self._embed_rows(tokens, rows, length)
                if embeddings is None:  # The GPU ran out of memory. Batch the rest again with fewer tokens.
                    break
                if waiting is not None:  # The GPU computes one batch while the caller works on the previous one.
                    yield waiting[0], waiting[1].cpu()
                waiting, num_done = (rows, embeddings), num_done + len(rows)
            order = order[num_done:]
        if waiting is not None:
            yield waiting[0], waiting[1].cpu()

    def embed_texts(self, texts: Iterable[str] | Iterable[Passage]) -> Tensor:
        """Return the (N, D) float32 embeddings of texts, on the CPU.

        Warns if texts are longer than the maximum length and are truncated.

        Args:
            texts: Questions, or passages with or without titles.

        Raises:
            TypeError: ``texts`` is not a list, or a text is neither a string nor a passage. The message names its
                position.
            ValueError: A text contains a lone surrogate, so it is not valid Unicode.
        """
        listed = list_texts(texts)
        embeddings, num_truncated = self.embed_list(listed)
        if num_truncated:
            limit = f"{self.tokenize_texts.max_length} tokens"
            message = f"{num_truncated} of {len(listed)} texts are longer than {limit} and were truncated."
            advice = "Cut long texts into windows (text.datasets.cut_windows)."
            warnings.warn(f"{message} {advice}", SettingsWarning, stacklevel=2)
        return embeddings

    def embed_list(self, texts: Sequence[str] | Sequence[Passage]) -> tuple[Tensor, int]:
        """Return the (N, D) float32 embeddings of a list of texts, and the number of truncated texts.

        The texts are tokenized in blocks of a few thousand, so memory holds the tokens of only one block.
        """
        embeddings, num_truncated = [torch.empty(0, self.encoder.embedding_dim)], 0
        for start in range(0, len(texts), BLOCK_ROWS):
            tokens = self.tokenize(texts[start : start + BLOCK_ROWS])
            num_truncated += int(tokens.truncated.sum())
            embeddings.append(self.embed(tokens))
        return torch.cat(embeddings), num_truncated

    __call__ = embed_texts

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @property
    def _max_tokens_at_once(self) -> int:
        return MAX_TOKENS if self._device.type == "cpu" else self.max_tokens

    @torch.inference_mode()
    def _embed_rows(self, tokens: TokenBatch, rows: list[int], length: int) -> Tensor | None:
        """Return the (n, D) float32 embeddings of some rows.

        If GPU memory is full, halve ``max_tokens`` and return None.
        """
        try:
            embeddings = self.encoder(
                tokens.input_ids[rows, :length].to(self._device, non_blocking=True),
                tokens.attention_mask[rows, :length].to(self._device, non_blocking=True),
            )
            embeddings = embeddings.float()
        except torch.cuda.OutOfMemoryError:
            if self.max_tokens <= self.tokenize_texts.max_length:
                raise
            self.max_tokens //= 2
            torch.cuda.empty_cache()
            return None
        return F.normalize(embeddings, dim=-1) if self.similarity == "cosine" else embeddings


def _hash_model(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the SHA-256 of the files of both encoders. Passage encoder files have paths relative to its own folder."""
    passage, question = find_encoder_folder(folder, "passage"), find_encoder_folder(folder, "question")
    hashes = {path.relative_to(passage).as_posix(): hash_file(path) for path in list_model_files(folder, "passage")}
    if question not in (passage, Path(folder)):
        files = list_model_files(folder, "question")
        hashes |= {path.relative_to(folder).as_posix(): hash_file(path) for path in files}
    return hashes


def _move(encoder: RobertaEncoder, device: str) -> RobertaEncoder:
    try:
        moved = encoder.to(device)
        torch.zeros(1, device=device).item()  # The meta device accepts an encoder but cannot compute.
        return moved
    except torch.cuda.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f'device is "{device}" ({reason}). Use a device that this machine has, such as cpu.') from None
