"""Loading cross-encoders: ``RobertaCrossEncoder`` for RoBERTa and BERT, and ``transformers`` for all other models."""

from __future__ import annotations

import os

from text.errors import UnsupportedModelError, UsageError
from text.models.cross_encoder import CrossEncoder, RobertaCrossEncoder
from text.models.cross_encoder_files import read_classifier_settings
from text.models.files import list_weights_files
from text.models.transformers_cross_encoder import TransformersCrossEncoder


def load_cross_encoder(
    folder: str | os.PathLike[str],
    *,
    library: str | None = None,
    dropout: float | None = None,
    allow_new_head: bool = False,
) -> CrossEncoder:
    """Load a cross-encoder from a local folder of ``transformers`` or sentence-transformers.

    Args:
        folder: A folder of AutoModelForSequenceClassification or CrossEncoder with one label.
        library: "transformers" computes the model by ``transformers``. None prefers ``RobertaCrossEncoder``, and uses
            ``transformers`` for all models that it does not support.
        dropout: Dropout rate that replaces all saved rates. None keeps them.
        allow_new_head: Add a head with random weights to an encoder without one, to train it.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged, or the weights do not fit the configuration.
        UnsupportedModelError: No library supports the model, it has no head, or more than one label.
        MissingPackageError: The model needs ``transformers``, which is not installed.
        UsageError: ``library`` is unknown.
    """
    if library not in (None, "transformers"):
        raise UsageError(f'library is "{library}". Use "transformers" or None.')
    settings = read_classifier_settings(folder)
    if not (settings.has_head or allow_new_head):
        reason = "the model has no classification head, so it cannot score pairs. Train a reranker from it: "
        raise UnsupportedModelError.at(folder, f"{reason}dpr-text train --task=rerank.")
    if library is None and len(list_weights_files(settings.folder)) == 1:
        try:
            return RobertaCrossEncoder.from_pretrained(folder, dropout=dropout)
        except UnsupportedModelError:
            pass  # The errors of the next line are about all models.
    return TransformersCrossEncoder.from_pretrained(folder, dropout=dropout)
