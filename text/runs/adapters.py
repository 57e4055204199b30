"""The adapters of a training run: merged into its model, and saved alone in ``adapter/``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from text.bundle import SIDES, BiEncoderBundle
from text.models.lora import merge_adapters

_NUM_TEXTS = 16
"""Number of training texts whose embeddings are compared before and after merging."""


def finish_adapters(
    folder: str | os.PathLike[str], bundle: BiEncoderBundle, texts: Iterable[str], encoder: str
) -> None:
    """Save the adapters of a model, and merge them into its weights. Nothing happens without adapters.

    Args:
        folder: Output folder, with a folder for each encoder in it.
        bundle: The trained model. Its encoders are changed in place.
        texts: Training texts. The embeddings of the first ones must not change by merging.
        encoder: The model that training started from.

    Raises:
        ArtifactError: See ``text.models.lora.merge_adapters``.
        OSError: The folder cannot be written.
    """
    some = list(itertools.islice((text for text in texts if text.strip()), _NUM_TEXTS))
    merged = {}
    for side in SIDES[: 1 if bundle.model.is_tied else 2]:
        base = Path(encoder, f"{side}_encoder")
        tokens = bundle.transform(side)(some)
        started_from = str(base) if base.is_dir() else encoder
        merged[side] = merge_adapters(bundle.encoder(side), tokens, started_from, side)
    for side, adapters in merged.items():  # All sides have passed their checks.
        if adapters is not None:
            adapters.save(Path(folder, f"{side}_encoder"))
