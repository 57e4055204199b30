"""Bi-encoder: one encoder for questions and one for passages (arXiv:2004.04906).

``text/losses.py`` compares the embeddings.

Dimensions: B questions; P passages; D embedding width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from text.errors import UsageError
from text.models import checkpoint, sentence_files
from text.models.encoder import TextEncoder
from text.models.files import check_saved_files
from text.models.loading import load_encoder
from text.models.roberta import RobertaEncoder
from text.models.roberta_config import RobertaOptions
from text.records import TokenBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


class BiEncoder(nn.Module):
    """A question encoder and a passage encoder.

    Args:
        question_encoder: Takes ``input_ids`` and ``attention_mask``. Returns (B, D).
        passage_encoder: Takes the same arguments and returns (P, D). Pass the same object twice to tie the encoders.
        freeze_question: Do not train the question encoder, and turn off its dropout.
        freeze_passage: Do not train the passage encoder, and turn off its dropout.

    Raises:
        ValueError: The encoders are tied and only one of them is frozen.
    """

    def __init__(
        self,
        question_encoder: nn.Module,
        passage_encoder: nn.Module,
        *,
        freeze_question: bool = False,
        freeze_passage: bool = False,
    ) -> None:
        super().__init__()
        self.question_encoder = question_encoder
        self.passage_encoder = passage_encoder
        if self.is_tied and freeze_question != freeze_passage:
            raise ValueError("the two encoders are one object, so freeze both or neither")
        self._frozen = [
            encoder
            for encoder, freeze in ((question_encoder, freeze_question), (passage_encoder, freeze_passage))
            if freeze
        ]
        for encoder in self._frozen:
            encoder.requires_grad_(False).eval()  # New modules are in training mode.

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, library: str | None = None, **overrides: Unpack[RobertaOptions]
    ) -> BiEncoder:
        """Load both encoders from a folder that ``save_pretrained`` wrote, or from a checkpoint of FAIR's DPR.

        Args:
            path: A folder that contains ``question_encoder`` and, unless the encoders are tied, ``passage_encoder``.
                Or a checkpoint file of FAIR's DPR: a dict with "model_dict", or that state dict alone.
            library: See ``load_encoder``.
            overrides: Fields of ``RobertaConfig`` that replace the saved values in both encoders.

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: A file is damaged or changed since ``text.bundle.BiEncoderBundle`` saved it.
            UnsupportedModelError: The model is not supported.
            UsageError: ``library`` is given for a file.
        """
        if os.path.isfile(path):
            if library is not None:
                raise UsageError(f"{path} is a file. transformers loads folders only.")
            sides = checkpoint.read_dpr_checkpoint(path, overrides.get("num_attention_heads"))
            return cls(*(RobertaEncoder.from_saved(side, **overrides) for side in sides))
        if os.path.lexists(Path(path, "config.json")) and Path(path, "question_encoder").is_dir():
            check_saved_files(Path(path, "config.json"))
        question_encoder = load_encoder(Path(path) / "question_encoder", library=library, **overrides)
        passage_folder = Path(path) / "passage_encoder"
        if not passage_folder.exists():
            return cls(question_encoder, question_encoder)
        return cls(question_encoder, load_encoder(passage_folder, library=library, **overrides))

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        similarity: str | None = None,
        max_lengths: Mapping[str, int] | None = None,
    ) -> None:
        """Write each encoder to its own folder. Tied encoders share one folder.

        This method saves weights only. ``text.bundle.BiEncoderBundle`` also saves the tokenizer and all settings.
        If each folder has a tokenizer, sentence-transformers loads both encoders as one model: ``encode_query`` uses
        the question encoder, and ``encode_document`` uses the passage encoder.

        Args:
            folder: Output folder. It is created if it is missing.
            similarity: See ``TextEncoder.save_pretrained``.
            max_lengths: Maximum tokens of a text in sentence-transformers, by the name of the encoder's folder.

        Raises:
            TypeError: An encoder is not a TextEncoder.
            FileExistsError: The encoders are tied, and the folder contains the passage encoder of another model.
            OSError: The folder cannot be written.
        """
        self.check_folder(folder)
        sides = {"question_encoder": self.question_encoder, "passage_encoder": self.passage_encoder}
        prompts = {}
        for name, encoder in list(sides.items())[: 1 if self.is_tied else 2]:
            if not isinstance(encoder, TextEncoder):
                raise TypeError(f"{name} is a {type(encoder).__name__}. Only a TextEncoder can be saved.")
            max_length = None if max_lengths is None else max_lengths[name]
            encoder.save_pretrained(Path(folder) / name, similarity=similarity, max_length=max_length)
            prompts = {**encoder.prompts, **prompts}
        passage_folder = "question_encoder" if self.is_tied else "passage_encoder"
        sentence_files.save_pair(folder, {"query": "question_encoder", "document": passage_folder}, prompts, similarity)

    def check_folder(self, folder: str | os.PathLike[str]) -> None:
        """Check that these encoders can be saved in a folder.

        Raises:
            FileExistsError: The encoders are tied, and the folder contains the passage encoder of another model.
        """
        other = Path(folder) / "passage_encoder"
        if self.is_tied and other.exists():
            raise FileExistsError(f"{other} belongs to an earlier model. Remove it, or save to another folder.")

    @property
    def is_tied(self) -> bool:
        """True if questions and passages use the same encoder."""
        return self.question_encoder is self.passage_encoder

    def train(self, mode: bool = True) -> BiEncoder:
        """Set training or evaluation mode. Frozen encoders stay in evaluation mode."""
        super().train(mode)
        for encoder in self._frozen:
            encoder.eval()
        return self

    def forward(self, questions: TokenBatch, passages: TokenBatch) -> tuple[Tensor, Tensor]:
        """Return the embeddings of questions, (B, D), and of passages, (P, D)."""
        return embed_tokens(self.question_encoder, questions), embed_tokens(self.passage_encoder, passages)


def embed_tokens(encoder: nn.Module, tokens: TokenBatch) -> Tensor:
    """Return the embeddings of N texts, (N, D).

    A ``TextEncoder`` also gets the lengths, so that it does not wait for a GPU to count tokens. Any other encoder is
    called with ids and mask alone.
    """
    if not isinstance(encoder, TextEncoder):
        return encoder(tokens.input_ids, tokens.attention_mask)
    options: dict[str, Any] = {} if encoder.pools_prompt else {"prompt_length": tokens.prompt_length}
    return encoder(tokens.input_ids, tokens.attention_mask, lengths=tokens.lengths, **options)
