"""BiEncoder: one encoder for questions, one for passages (arXiv:2004.04906).

What is similar to what is left to ``text/losses.py``.

Dimensions: B questions; P passages; D width of an embedding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from text.models import checkpoint, modules
from text.models.files import check_saved_files
from text.models.roberta import RobertaEncoder
from text.models.roberta_config import RobertaOptions
from text.records import TokenBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


class BiEncoder(nn.Module):
    """Two encoders side by side.

    Args:
        question_encoder: Takes ``input_ids`` and ``attention_mask``, gives (B, D).
        passage_encoder: Likewise; pass the same object twice to tie the two.
        freeze_question: The question encoder is not trained, nor is there dropout in it.
        freeze_passage: The same for the passage encoder.

    Raises:
        ValueError: One side of a tied pair is to be frozen alone.
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
            raise ValueError("the two encoders are one object; expected both frozen or neither")
        self._frozen = [
            encoder
            for encoder, freeze in ((question_encoder, freeze_question), (passage_encoder, freeze_passage))
            if freeze
        ]
        for encoder in self._frozen:
            encoder.requires_grad_(False).eval()  # modules are born in training mode

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **overrides: Unpack[RobertaOptions]) -> BiEncoder:
        """Two encoders from where ``save_pretrained`` put them, or from a checkpoint of FAIR's DPR.

        Args:
            path: A folder that holds ``question_encoder`` and, unless tied, ``passage_encoder``. Or a file of
                FAIR's DPR: its "model_dict", or a dict with that.
            overrides: Fields of RobertaConfig to set otherwise in both.

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: As ``RobertaEncoder.from_pretrained``, or a file is not the one that
                ``text.bundle.BiEncoderBundle`` saved.
        """
        if os.path.isfile(path):
            sides = checkpoint.read_dpr(path, overrides.get("num_attention_heads"))
            return cls(*(RobertaEncoder.from_saved(side, **overrides) for side in sides))
        check_saved_files(Path(path))
        question_encoder = RobertaEncoder.from_pretrained(Path(path) / "question_encoder", **overrides)
        passage_folder = Path(path) / "passage_encoder"
        if not passage_folder.exists():
            return cls(question_encoder, question_encoder)
        return cls(question_encoder, RobertaEncoder.from_pretrained(passage_folder, **overrides))

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        similarity: str | None = None,
        max_lengths: Mapping[str, int] | None = None,
    ) -> None:
        """Write each encoder to a folder of its own; tied encoders share one folder.

        This saves the weights alone. ``text.bundle.BiEncoderBundle`` saves the tokenizer and all settings with them.
        sentence-transformers loads both encoders as one model if a tokenizer is beside each: ``encode_query`` uses the
        question encoder, ``encode_document`` the passage encoder.

        Args:
            folder: Is created if it is missing.
            similarity: As in ``RobertaEncoder.save_pretrained``.
            max_lengths: Maximum tokens of a text in sentence-transformers, by the name of the encoder's folder.

        Raises:
            TypeError: An encoder is not a RobertaEncoder.
            OSError: The folder cannot be written, or a passage encoder is left in it beside which
                these tied ones would load as two.
        """
        self.check_folder(folder)
        sides = {"question_encoder": self.question_encoder, "passage_encoder": self.passage_encoder}
        prompts = {}
        for name, encoder in list(sides.items())[: 1 if self.is_tied else 2]:
            if not isinstance(encoder, RobertaEncoder):
                raise TypeError(f"{name} is a {type(encoder).__name__}; expected a RobertaEncoder")
            max_length = None if max_lengths is None else max_lengths[name]
            encoder.save_pretrained(Path(folder) / name, similarity=similarity, max_length=max_length)
            prompts = {**encoder.config.prompts, **prompts}
        passage_folder = "question_encoder" if self.is_tied else "passage_encoder"
        modules.save_pair(folder, {"query": "question_encoder", "document": passage_folder}, prompts, similarity)

    def check_folder(self, folder: str | os.PathLike[str]) -> None:
        """Check that these encoders can be saved in a folder.

        Raises:
            FileExistsError: The encoders are tied, and a passage encoder lies in the folder.
        """
        left = Path(folder) / "passage_encoder"
        if self.is_tied and left.exists():
            raise FileExistsError(f"{left} is of an earlier model; expected none beside tied encoders: remove it")

    @property
    def is_tied(self) -> bool:
        return self.question_encoder is self.passage_encoder

    def train(self, mode: bool = True) -> BiEncoder:
        super().train(mode)
        for encoder in self._frozen:
            encoder.eval()
        return self

    def forward(self, questions: TokenBatch, passages: TokenBatch) -> tuple[Tensor, Tensor]:
        """Embeds both sides: (B, D) and (P, D)."""
        return (
            self.question_encoder(questions.input_ids, questions.attention_mask),
            self.passage_encoder(passages.input_ids, passages.attention_mask),
        )
