"""The settings that a training run takes from the model it starts from, where no flag gives them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from text.bundle import ModelDefaults, encoder_folder, read_defaults
from text.foreign_settings import read_modules

_NO_LIMIT = 1 << 30
"""More tokens than any encoder takes."""
_UNIT_TEMPERATURE = 0.05
"""For similarities between -1 and 1. sentence-transformers multiplies them by 20."""
_PLAIN = ModelDefaults("pair", "dot", 1.0, tied=False, max_lengths=(64, 256))
"""DPR's settings, for random weights and encoders without settings of their own."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Settings of the model that a run trains."""

    titles: str
    similarity: str
    temperature: float
    tied: bool
    default_max_lengths: tuple[int, int]
    """Maximum tokens of a question and of a passage, as far as the encoder takes them."""


def choose_model_settings(
    encoder: str,
    *,
    titles: str | None = None,
    similarity: str | None = None,
    temperature: float | None = None,
    tied: bool | None = None,
    normalize: bool | None = None,
    freeze_question: bool = False,
    freeze_passage: bool = False,
) -> ModelSettings:
    """Return the settings that were asked for, or else those of the model, or else DPR's.

    Args:
        encoder: Where training starts: a size, a folder or a file.
        titles: "pair", "join" or None.
        similarity: "dot", "cosine" or None.
        temperature: Divides the logits. The default belongs to the similarity: if another similarity or length of the
            embeddings is asked for than the model's own, the model's own temperature does not count.
        tied: One encoder for both sides. A side that is frozen alone needs two encoders.
        normalize: Whether embeddings have length 1. None is what the model does.
        freeze_question: The question encoder is not trained.
        freeze_passage: The passage encoder is not trained.

    Raises:
        ArtifactError, UnsupportedModelError: As ``text.bundle.BiEncoderBundle.load``.
    """
    own = (read_defaults(encoder) if os.path.isdir(encoder) else None) or _PLAIN
    chosen = similarity or own.similarity
    if temperature is None and chosen == own.similarity and normalize is None:
        temperature = own.temperature
    if temperature is None:
        is_unit_length = normalize if normalize is not None else _normalizes(encoder)
        temperature = _UNIT_TEMPERATURE if chosen == "cosine" or is_unit_length else 1.0
    return ModelSettings(
        titles=titles or own.titles,
        similarity=chosen,
        temperature=temperature,
        tied=own.tied and not (freeze_question or freeze_passage) if tied is None else tied,
        default_max_lengths=own.max_lengths or (_NO_LIMIT, _NO_LIMIT),
    )


def _normalizes(encoder: str) -> bool:
    """Return whether the saved encoder scales embeddings to length 1."""
    folder = encoder_folder(encoder, "question") if os.path.isdir(encoder) else Path(encoder)
    if not (folder / "modules.json").is_file():
        return False
    return any(kind.rpartition(".")[2] == "Normalize" for kind, _ in read_modules(folder))
