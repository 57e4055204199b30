"""Default settings of a training run, read from the model that training starts from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from text.bundle import SIDES, ModelDefaults, find_encoder_folder, read_defaults
from text.foreign_settings import read_modules

_NO_LIMIT = 1 << 30
"""More tokens than any encoder supports."""
_UNIT_TEMPERATURE = 0.05
"""Temperature for similarities from -1 to 1. It equals the scale of 20 in sentence-transformers."""
_DPR_DEFAULTS = ModelDefaults("pair", "dot", 1.0, tied=False, max_lengths=(64, 256))
"""DPR's settings. They apply to random weights and to encoders without saved settings."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Model settings of a training run."""

    titles: str
    similarity: str
    temperature: float
    tied: bool
    default_max_lengths: tuple[int, int]
    """Maximum tokens of a question and of a passage, further limited by the encoder."""


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
    frozen_passages: str | None = None,
) -> ModelSettings:
    """Return each setting from its flag, otherwise from the saved model, otherwise from DPR.

    Args:
        encoder: Encoder that training starts from: a size, a folder or a file.
        titles: "pair", "join" or None.
        similarity: "dot", "cosine" or None.
        temperature: Divisor of the logits. The temperature of the saved model is used only if neither ``similarity``
            nor ``normalize`` changes. Otherwise the default depends on the similarity.
        tied: Whether one encoder embeds both sides. Freezing only one side requires two encoders.
        normalize: Whether to scale embeddings to length 1. None keeps the behavior of the model.
        freeze_question: Whether the question encoder is frozen.
        freeze_passage: Whether the passage encoder is frozen.
        frozen_passages: Folder of embeddings that replace the frozen passage encoder, or None.

    Raises:
        ArtifactError, UnsupportedModelError: The model cannot be loaded, see ``text.bundle.BiEncoderBundle.load``.
    """
    defaults = (read_defaults(encoder) if os.path.isdir(encoder) else None) or _DPR_DEFAULTS
    chosen = similarity or defaults.similarity
    if temperature is None and chosen == defaults.similarity and normalize is None:
        temperature = defaults.temperature
    if temperature is None:
        is_unit_length = normalize if normalize is not None else _is_normalizing(encoder)
        temperature = _UNIT_TEMPERATURE if chosen == "cosine" or is_unit_length else 1.0
    return ModelSettings(
        titles=titles or defaults.titles,
        similarity=_adopt_similarity(chosen, encoder, frozen_passages),
        temperature=temperature,
        tied=defaults.tied and not (freeze_question or freeze_passage) if tied is None else tied,
        default_max_lengths=defaults.max_lengths or (_NO_LIMIT, _NO_LIMIT),
    )


def _adopt_similarity(similarity: str, encoder: str, frozen_passages: str | None) -> str:
    """Return the similarity of existing embeddings if the encoder gives length 1, so that "dot" and "cosine" agree.

    Otherwise return the given similarity. ``dpr-text encode`` uses "dot" for such encoders of sentence-transformers.
    """
    if frozen_passages is None or not all(_is_normalizing(encoder, side) for side in SIDES):
        return similarity
    from text.retrieval.plan import read_plan

    return read_plan(frozen_passages).settings.similarity


def _is_normalizing(encoder: str, side: str = "question") -> bool:
    """Return whether the saved encoder of a side scales embeddings to length 1."""
    folder = find_encoder_folder(encoder, side) if os.path.isdir(encoder) else Path(encoder)
    if not (folder / "modules.json").is_file():
        return False
    return any(kind.rpartition(".")[2] == "Normalize" for kind, _ in read_modules(folder))
