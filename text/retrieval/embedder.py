"""One side of a model: texts to embeddings that can be compared by their dot product.

Dimensions: N texts; D width of an embedding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from text.artifacts import sha256
from text.bundle import encoder_folder, load_side
from text.models import RobertaEncoder, quantize_int8, to_bfloat16
from text.models.chunks import cut_by_length
from text.records import Passage, TokenBatch
from text.transforms import Tokenize, title_and_text

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
        """SHA-256 of the files of the passage encoder, whichever side this is: what embeddings on disk are known by.
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
        embedder.model = _hash_files(encoder_folder(folder, "passage"))
        embedder.settings |= {"prompt": loaded.prompt, "precision": precision}
        return embedder

    def tokenize(self, texts: Sequence[str] | Sequence[Passage]) -> TokenBatch:
        """Questions, or passages, (N, L)."""
        if isinstance(texts, str):
            raise ValueError("texts is a string; expected a list of them")
        parts = [text if isinstance(text, str) else title_and_text(text, self.titles) for text in texts]
        return self.tokenize_texts(parts)

    @torch.inference_mode()
    def embed(self, tokens: TokenBatch) -> Tensor:
        """(N, D) float32, on the CPU."""
        device = next(self.encoder.parameters()).device
        if device.type == "cpu":  # cuts by length itself
            embeddings = self.encoder(tokens.input_ids, tokens.attention_mask).float()
        else:
            embeddings = self._embed_on(device, tokens)
        return F.normalize(embeddings, dim=-1) if self.similarity == "cosine" else embeddings

    def __call__(self, texts: Sequence[str] | Sequence[Passage]) -> Tensor:
        """(N, D) float32, on the CPU."""
        return self.embed(self.tokenize(texts))

    def _embed_on(self, device: torch.device, tokens: TokenBatch) -> Tensor:
        """A few texts of like length at a time; fewer, where memory does not hold them."""
        lengths = tokens.attention_mask.sum(dim=1).tolist()
        while True:
            try:
                chunks = cut_by_length(lengths, self.max_tokens)
                found = [
                    self.encoder(
                        tokens.input_ids[rows, :length].to(device, non_blocking=True),
                        tokens.attention_mask[rows, :length].to(device, non_blocking=True),
                    )
                    for rows, length in chunks
                ]
            except torch.cuda.OutOfMemoryError:
                if self.max_tokens <= self.tokenize_texts.max_length:
                    raise
                self.max_tokens //= 2
                torch.cuda.empty_cache()
            else:
                order = torch.tensor([row for rows, _ in chunks for row in rows])
                return torch.cat(found).float().cpu()[order.argsort()]


def _move(encoder: RobertaEncoder, device: str) -> RobertaEncoder:
    try:
        return encoder.to(device)
    except torch.cuda.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f'device is "{device}" ({reason}); expected one of this machine, such as cpu') from None


def _hash_files(folder: Path) -> dict[str, str]:
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin", ".json", ".txt", ".bpe")
    )
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}
