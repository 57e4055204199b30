"""One side of a model: texts to embeddings that can be compared by their dot product.

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

from text.artifacts import sha256
from text.bundle import encoder_folder, load_side, model_files
from text.errors import SettingsWarning
from text.models import RobertaEncoder, quantize_int8, to_bfloat16
from text.models.chunks import MAX_TOKENS, cut_by_length, lengths_of
from text.records import Passage, TokenBatch
from text.retrieval.arguments import list_texts
from text.transforms import Tokenize, title_and_text

BLOCK_ROWS = 1 << 11
"""Texts that are sorted by length and embedded together."""
_PRECISIONS = {"float32": lambda encoder: encoder, "bfloat16": to_bfloat16, "int8": quantize_int8}
PRECISIONS = tuple(_PRECISIONS)


class Embedder:
    """Embeds questions or passages.

    Args:
        encoder: Put into evaluation.
        tokenize: Within what the encoder takes.
        similarity: "dot", or "cosine", which makes all embeddings as long as 1.
        titles: "pair" or "join" (``text.transforms.title_and_text``).
        max_tokens: Of one call of the encoder on a GPU; halved where memory does not hold them.
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
        self.model: dict[str, str] = {}
        """SHA-256 of the files that both encoders read, whichever side this is. Embeddings are known by it.
        Empty without ``from_pretrained``: then nobody checks that they are searched with the model that made them."""
        self.settings: dict[str, Any] = {
            "max_length": tokenize.max_length,
            "similarity": similarity,
            "titles": titles,
        }
        """Settings that decide the embeddings too."""

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
        """From the model of a run, or any folder that ``RobertaEncoder.from_pretrained`` takes, with its tokenizer.

        Args:
            folder: Its ``config.json`` says limits, titles and similarity, where a run wrote it.
            side: "question" or "passage".
            max_length: Most tokens of a text; by default the model's own limit.
            titles: "pair" or "join"; by default as the model was trained, or "pair".
            precision: Of the encoder: "float32", "bfloat16" or "int8" (``text.models.quantize_int8``).
            device: Such as "cuda".

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: A file is damaged, or not of a model that can be loaded.
            ValueError: ``side`` or ``precision`` is another word, ``max_length`` more than the encoder takes, there is
                no such device, or none for "int8".
        """
        if precision not in PRECISIONS:
            raise ValueError(f'precision is "{precision}". Use one of {", ".join(PRECISIONS)}.')
        if precision == "int8" and not device.startswith("cpu"):
            raise ValueError(f'precision "int8" needs a CPU, the device is "{device}". Use bfloat16.')
        loaded = load_side(folder, side)
        max_length = loaded.max_length if max_length is None else max_length
        if max_length > loaded.encoder.max_length:
            limit = f"the encoder in {folder} takes at most {loaded.encoder.max_length}"
            raise ValueError(f"max_length is {max_length}; {limit}")
        encoder = _PRECISIONS[precision](loaded.encoder)
        embedder = cls(
            _move(encoder, device),
            Tokenize(loaded.tokenizer, max_length, loaded.prompt),
            similarity=loaded.similarity,
            titles=titles or loaded.titles,
        )
        embedder.model = _hash_model(folder)
        embedder.settings |= {"prompt": loaded.prompt, "precision": precision}
        return embedder

    def tokenize(self, texts: Sequence[str] | Sequence[Passage]) -> TokenBatch:
        """Questions, or passages, (N, L)."""
        if isinstance(texts, str):
            raise TypeError("texts is a str. Give a list of texts.")
        parts = [text if isinstance(text, str) else title_and_text(text, self.titles) for text in texts]
        return self.tokenize_texts(parts)

    def count_truncated(self, texts: Sequence[str] | Sequence[Passage]) -> int:
        """Return the number of texts that are longer than the limit, so that their end is not embedded."""
        return int(self.tokenize(texts).truncated.sum()) if texts else 0

    def embed(self, tokens: TokenBatch) -> Tensor:
        """Return (N, D) float32 embeddings on the CPU."""
        embeddings = torch.empty(len(tokens.input_ids), self.encoder.embedding_dim)
        for rows, piece in self.embed_in_pieces(tokens):
            embeddings[rows] = piece
        return embeddings

    def embed_in_pieces(self, tokens: TokenBatch, start: int = 0) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the embeddings of a few texts at a time, the longest texts first.

        The pieces after ``start`` texts are the same as those of a call that started at the first text, so that work
        can stop after any piece.

        Args:
            tokens: The texts.
            start: The number of texts to pass over, in the order of this function.

        Yields:
            The rows of n texts, and their (n, D) float32 embeddings on the CPU.
        """
        lengths = lengths_of(tokens.attention_mask)
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])[start:]
        waiting: tuple[list[int], Tensor] | None = None
        while order:
            num_done = 0
            for places, length in cut_by_length([lengths[row] for row in order], self._max_tokens_at_once):
                rows = [order[place] for place in places]
                embeddings = self._embed_rows(tokens, rows, length)
                if embeddings is None:  # Memory was too small: cut the rest again.
                    break
                if waiting is not None:  # A GPU computes a piece while the caller works on the one before.
                    yield waiting[0], waiting[1].cpu()
                waiting, num_done = (rows, embeddings), num_done + len(rows)
            order = order[num_done:]
        if waiting is not None:
            yield waiting[0], waiting[1].cpu()

    def embed_texts(self, texts: Iterable[str] | Iterable[Passage]) -> Tensor:
        """Return (N, D) float32 embeddings of texts in memory, on the CPU.

        Warns of texts that are longer than the limit, so that their end is not embedded.

        Args:
            texts: Questions, or passages with or without titles.

        Raises:
            TypeError: ``texts`` is no list, or one of the texts is neither a string nor a passage; with its place.
            ValueError: A text has half of a surrogate pair.
        """
        listed = list_texts(texts)
        embeddings, num_cut = self.embed_list(listed)
        if num_cut:
            limit = f"{self.tokenize_texts.max_length} tokens, so their end is cut off"
            message = f"{num_cut} of {len(listed)} texts are longer than {limit}."
            advice = "Cut long texts into windows (text.datasets.cut_windows)."
            warnings.warn(f"{message} {advice}", SettingsWarning, stacklevel=2)
        return embeddings

    def embed_list(self, texts: Sequence[str] | Sequence[Passage]) -> tuple[Tensor, int]:
        """Return (N, D) float32 embeddings of a list of texts, and the number of texts whose end was cut off.

        A few thousand texts are tokenized at once, so that the tokens of all texts are never in memory together.
        """
        embeddings, num_cut = [torch.empty(0, self.encoder.embedding_dim)], 0
        for start in range(0, len(texts), BLOCK_ROWS):
            tokens = self.tokenize(texts[start : start + BLOCK_ROWS])
            num_cut += int(tokens.truncated.sum())
            embeddings.append(self.embed(tokens))
        return torch.cat(embeddings), num_cut

    __call__ = embed_texts

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @property
    def _max_tokens_at_once(self) -> int:
        return MAX_TOKENS if self._device.type == "cpu" else self.max_tokens

    @torch.inference_mode()
    def _embed_rows(self, tokens: TokenBatch, rows: list[int], length: int) -> Tensor | None:
        """Return the (n, D) float32 embeddings of some rows; None, with half the ``max_tokens``, if memory is full."""
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
    """Return the hashes of the files of both encoders. Those of the passage encoder go by their names in its folder."""
    passage, question = encoder_folder(folder, "passage"), encoder_folder(folder, "question")
    hashes = {path.relative_to(passage).as_posix(): sha256(path) for path in model_files(folder, "passage")}
    if question not in (passage, Path(folder)):
        files = model_files(folder, "question")
        hashes |= {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    return hashes


def _move(encoder: RobertaEncoder, device: str) -> RobertaEncoder:
    try:
        moved = encoder.to(device)
        torch.zeros(1, device=device).item()  # The meta device takes an encoder, but computes nothing.
        return moved
    except torch.cuda.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f'device is "{device}" ({reason}). Use a device of this machine, such as cpu.') from None
