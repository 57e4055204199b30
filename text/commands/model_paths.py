"""Flags that name a model: a path, or the name of a model in the Hugging Face cache."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from text.artifacts.hub_cache import find_model
from text.commands.flag_fields import get_flag_groups

RANDOM_ENCODERS = ("tiny", "mini", "small", "base", "large")
"""Sizes of an encoder with random weights, as in ``text.models.SIZES``. Importing that package would load torch."""


def model_path_field(default: Any = dataclasses.MISSING, *, names: tuple[str, ...] = ()) -> Any:
    """Return a field for the path of a model or tokenizer. ``locate_models`` resolves it.

    Args:
        default: Default of the flag. Without a default the flag is required.
        names: Allowed values that are neither a path nor the name of a model.
    """
    return dataclasses.field(default=default, metadata={"model_path": names})


def locate_models(flags: Any) -> Any:
    """Replace names of models in the flags by their folders, and print each folder.

    Raises:
        UsageError: ``find_model`` does not find a model.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(flags):
        value, names = getattr(flags, field.name), field.metadata.get("model_path")
        if field.name in get_flag_groups(type(flags)):
            changes[field.name] = locate_models(value)
        elif value and names is not None:
            changes[field.name] = find_model(value, field.name, names)
            if changes[field.name] != value and os.environ.get("RANK", "0") == "0":
                print(f"--{field.name}: {value} is {changes[field.name]} in the Hugging Face cache", flush=True)
    return dataclasses.replace(flags, **changes) if changes else flags
