"""Embed texts with one encoder of a model, for questions or for passages. Embeddings are compared by dot product.

Dimensions: N texts; D width of an embedding.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from text.artifacts import hash_file
from text.bundle import are_saved_together, find_encoder_folder, list_model_files, load_side
from text.errors import SettingsWarning
from text.models import TextEncoder, embed_tokens, quantize_int8, to_bfloat16, to_float16
from text.models.chunks import MAX_TOKENS, cut_by_length, take_rows
from text.models.transfers import send_to, start_copy_to_host
from text.records import Passage, TokenBatch
from text.retrieval.arguments import list_texts
from text.retrieval.devices import check_device, get_default_precision
from text.transforms import Tokenize, title_and_text

BLOCK_ROWS = 1 << 11
"""Number of texts that are sorted by length and embedded together."""
_PRECISIONS = {
    "float32": lambda encoder: encoder,
    "bfloat16": to_bfloat16,
    "float16": to_float16,
    "int8": quantize_int8,
}
PRECISIONS = tuple(_PRECISIONS)
"""Precisions of an encoder."""


class EmbeddedBatch(NamedTuple):
    """Embeddings of n texts. A GPU may still be computing them."""

    rows: list[int]
    """Rows of the texts."""
    embeddings: Tensor
    """(n, D) float32, on the CPU. Read them with ``wait``."""
    copied: torch.cuda.Event | None = None
    """Event at which the copy from the GPU ends. None if there is no copy."""

    def wait(self) -> Tensor:
        """Wait until a GPU has copied the embeddings, and return them: (n, D) float32 on the CPU."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.embeddings


class Embedder:
    """An encoder and its tokenizer, which turn questions or passages into embeddings.

    Args:
        encoder: The encoder. It is put into evaluation mode.
        tokenize: The tokenizer, with a maximum length that the encoder accepts.
        similarity: "dot" or "cosine". With "cosine", embeddings are normalized to length 1.
        titles: How a passage's title is encoded: "pair" or "join" (``text.transforms.title_and_text``).
        max_tokens: Maximum number of tokens in one batch on a GPU. It is halved if the GPU runs out of memory
            (``encode_collection`` finds the number that fits before it starts).
    """

    side = "passage"
    """Side of the model that ``from_pretrained`` loaded, "question" or "passage"."""

    def __init__(
        self,
        encoder: TextEncoder,
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
        self.has_own_passages = False
        """True if the two encoders of the model are separate and were saved together. The question encoder then
        searches all embeddings of that passage encoder, also those that were encoded with an earlier question
        encoder."""
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
        precision: str | None = None,
        device: str = "cpu",
    ) -> Embedder:
        """Load an encoder and its tokenizer from a folder.

        Args:
            folder: The model of a training run, or any folder that ``text.models.load_encoder`` accepts.
            side: "question" or "passage".
            max_length: Maximum number of tokens per text. By default the limit of the model.
            titles: "pair" or "join". By default as in training, or "pair" if the folder does not say.
            precision: Precision of the encoder: "float32", "bfloat16", "float16" or "int8"
                (``text.models.quantize_int8``). By default "float32" on a CPU, "bfloat16" on a GPU, and "float16" on a
                GPU older than Ampere.
            device: Device of the encoder, such as "cuda". "int8" needs "cpu", and "float16" needs a GPU.

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: A file is damaged, or the model cannot be loaded.
            ValueError: ``side``, ``precision`` or ``device`` is unknown, ``max_length`` is above the encoder's limit,
                or the device does not support the precision.
        """
        if precision is not None:
            _check_precision(precision, device)
        check_device(device)
        precision = precision or get_default_precision(device)
        loaded = load_side(folder, side)
        max_length = loaded.max_length if max_length is None else max_length
        if max_length > loaded.encoder.max_length:
            limit = f"the encoder in {folder} accepts at most {loaded.encoder.max_length} tokens"
            raise ValueError(f"max_length is {max_length}, but {limit}.")
        embedder = cls(
            _PRECISIONS[precision](loaded.encoder).to(device),
            Tokenize(loaded.tokenizer, max_length, loaded.prompt),
            similarity=loaded.similarity,
            titles=titles or loaded.titles,
        )
        embedder.side, embedder.model_hashes = side, hash_model(folder)
        embedder.has_own_passages = are_saved_together(folder, embedder.model_hashes)
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
        _collect_batches(list(self.embed_in_batches(tokens)), embeddings)
        return embeddings

    def embed_in_batches(
        self, tokens: TokenBatch, start: int = 0, *, max_tokens: int | None = None
    ) -> Iterator[EmbeddedBatch]:
        """Yield the embeddings in small batches, the longest texts first. Nothing here waits for a GPU.

        The order does not depend on ``start``, so an interrupted encoding can resume after any batch.

        Args:
            tokens: The tokenized texts.
            start: Number of texts to skip, in the order of this function.
            max_tokens: Maximum number of tokens in one batch on a GPU, which is never halved. By default
                ``self.max_tokens``, which is halved if the GPU runs out of memory.

        Raises:
            torch.cuda.OutOfMemoryError: The GPU runs out of memory, and the batches cannot be made smaller.
        """
        lengths = tokens.lengths.tolist()
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])[start:]
        while order:
            num_done = 0
            for places, length in self._cut_batches([lengths[row] for row in order], max_tokens):
                rows = [order[place] for place in places]
                try:
                    embeddings = self._embed_rows(tokens, rows, length)
                except torch.cuda.OutOfMemoryError:
                    if max_tokens is not None or self.max_tokens <= self.tokenize_texts.max_length:
                        raise
                    embeddings = None
                if embeddings is None:  # The error is gone here, and with it the tensors that its traceback held.
                    torch.cuda.empty_cache()
                    self.max_tokens //= 2
                    break
                yield EmbeddedBatch(rows, *start_copy_to_host(embeddings))
                num_done += len(rows)
            order = order[num_done:]

    def choose_max_tokens(self) -> int:
        """Return the maximum number of tokens in one batch that fits the memory of the GPU.

        A batch of the longest texts with ``max_tokens`` tokens is embedded. If the GPU runs out of memory, half the
        number is tried, and so on.

        Returns:
            The number, or 0 on a CPU, where the memory of a batch needs no check.

        Raises:
            MemoryError: Not even one text fits.
        """
        if self._is_on_cpu:
            return 0
        max_tokens, length = self.max_tokens, self.tokenize_texts.max_length
        while not self._fits_memory(max(max_tokens // length, 1), length):
            if max_tokens <= length:
                raise MemoryError(
                    f"{self.device} has too little free memory to embed a text of {length} tokens. Free memory of this "
                    "GPU, or use another device."
                )
            torch.cuda.empty_cache()
            max_tokens //= 2
        return max_tokens

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

        The texts are tokenized in blocks of a few thousand, so memory holds the tokens of only one block. A GPU embeds
        a block while the next one is tokenized.
        """
        embeddings, num_truncated = torch.empty(len(texts), self.encoder.embedding_dim), 0
        waiting: tuple[list[EmbeddedBatch], Tensor] = ([], embeddings)
        for start in range(0, len(texts), BLOCK_ROWS):
            tokens = self.tokenize(texts[start : start + BLOCK_ROWS])
            num_truncated += int(tokens.truncated.sum())
            batches = list(self.embed_in_batches(tokens))
            _collect_batches(*waiting)
            waiting = (batches, embeddings[start:])
        _collect_batches(*waiting)
        return embeddings, num_truncated

    __call__ = embed_texts

    @property
    def device(self) -> torch.device:
        """Device of the encoder."""
        return next(self.encoder.parameters()).device

    @property
    def _is_on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def _cut_batches(self, lengths: list[int], max_tokens: int | None) -> list[tuple[list[int], int]]:
        """Cut texts into batches: for each batch, the places of its texts and the length of the longest one."""
        if self._is_on_cpu:
            return cut_by_length(lengths, MAX_TOKENS)
        return cut_by_length(lengths, max_tokens or self.max_tokens, limits_padding=False)

    @torch.inference_mode()
    def _embed_rows(self, tokens: TokenBatch, rows: list[int], length: int) -> Tensor:
        """Return the (n, D) float32 embeddings of some rows, on the device of the encoder."""
        batch, device = take_rows(tokens, rows, length), self.device
        ids, mask = send_to(batch.input_ids, device), send_to(batch.attention_mask, device)
        embeddings = embed_tokens(self.encoder, batch._replace(input_ids=ids, attention_mask=mask)).float()
        return F.normalize(embeddings, dim=-1) if self.similarity == "cosine" else embeddings

    def _fits_memory(self, num_texts: int, length: int) -> bool:
        """Return whether the memory of the GPU is enough for a batch of texts that all have this length."""
        nothing = torch.zeros(num_texts, dtype=torch.bool)
        ids = torch.zeros(num_texts, length, dtype=torch.int64)
        lengths = np.full(num_texts, length, dtype=np.int64)
        tokens = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool), nothing, nothing, lengths)
        try:
            self._embed_rows(tokens, list(range(num_texts)), length)
        except torch.cuda.OutOfMemoryError:
            return False
        return True


def _check_precision(precision: str, device: str) -> None:
    """Check that a precision is known, and that a device supports it."""
    if precision not in PRECISIONS:
        raise ValueError(f'precision is "{precision}". Use one of {", ".join(PRECISIONS)}.')
    is_cpu = device.startswith("cpu")
    needed = {"int8": "a CPU", "float16": "a GPU"}
    if precision in needed and is_cpu != (precision == "int8"):
        raise ValueError(
            f'precision "{precision}" needs {needed[precision]}, but the device is "{device}". Use bfloat16. '
            f"Embeddings that were begun in {precision} can be continued only on {needed[precision]}."
        )


def _collect_batches(batches: Iterable[EmbeddedBatch], embeddings: Tensor) -> None:
    """Write the embeddings of batches to their rows of an (N, D) tensor."""
    for batch in batches:
        embeddings[batch.rows] = batch.wait()


def hash_model(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the SHA-256 of the files of both encoders. Passage encoder files have paths relative to its own folder."""
    passage, question = find_encoder_folder(folder, "passage"), find_encoder_folder(folder, "question")
    hashes = {path.relative_to(passage).as_posix(): hash_file(path) for path in list_model_files(folder, "passage")}
    if question not in (passage, Path(folder)):
        files = list_model_files(folder, "question")
        hashes |= {path.relative_to(folder).as_posix(): hash_file(path) for path in files}
    return hashes
