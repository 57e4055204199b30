"""Loading an encoder: ``RobertaEncoder`` for RoBERTa and BERT, and ``transformers`` for all other models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text.errors import UnsupportedModelError, UsageError
from text.models.encoder import TextEncoder
from text.models.files import list_weights_files
from text.models.roberta import RobertaEncoder
from text.models.roberta_config import POOLINGS, RobertaOptions
from text.models.sentence_files import read_module_list
from text.models.transformers_encoder import TransformersEncoder

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_TOWER_OPTIONS = ("pooling", "projection_dim", "normalize", "max_seq_length")
"""Options that both kinds of encoders have."""


def load_encoder(
    path: str | os.PathLike[str], *, library: str | None = None, **overrides: Unpack[RobertaOptions]
) -> TextEncoder:
    """Load an encoder from a folder or file of any supported library.

    Args:
        path: See ``RobertaEncoder.from_pretrained`` and ``TransformersEncoder.from_pretrained``.
        library: "transformers" computes the model by ``transformers``. None prefers ``RobertaEncoder``, and uses
            ``transformers`` for all models that it does not support.
        overrides: Options that replace the saved values.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged, or the weights do not fit the configuration.
        UnsupportedModelError: No library supports the model.
        MissingPackageError: The model needs ``transformers``, which is not installed.
        UsageError: ``library`` is unknown, or it does not support an option.
    """
    if library not in (None, "transformers"):
        raise UsageError(f'library is "{library}". Use "transformers" or None.')
    folder = Path(path)
    if folder.is_file():
        if library is not None:
            raise UsageError(f"{folder} is a file. transformers loads folders only.")
        return RobertaEncoder.from_pretrained(folder, **overrides)
    if library is None and overrides.get("pooling") in (None, *POOLINGS) and not _is_sharded(folder):
        try:
            return RobertaEncoder.from_pretrained(folder, **overrides)
        except UnsupportedModelError:
            pass  # The errors of the next line are about all models.
    return TransformersEncoder.from_pretrained(folder, **_convert_options(overrides))


def _is_sharded(folder: Path) -> bool:
    """Return whether the weights have several files, which a RobertaEncoder does not read."""
    transformer = read_module_list(folder)[0][1] if (folder / "modules.json").exists() else folder
    return len(list_weights_files(transformer)) > 1


def _convert_options(overrides: RobertaOptions) -> dict[str, Any]:
    """Return the options of a TransformersEncoder."""
    given: dict[str, Any] = dict(overrides)
    options = {name: given[name] for name in _TOWER_OPTIONS if name in given}
    rates = {given[name] for name in _DROPOUTS if name in given}
    others = [name for name in given if name not in (*_TOWER_OPTIONS, *_DROPOUTS)]
    if others or len(rates) > 1:
        raise UsageError(f"{(others or _DROPOUTS)[0]} cannot be changed in a model of transformers.")
    return options | ({"dropout": rates.pop()} if rates else {})
