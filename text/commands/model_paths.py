"""The flags that name a model: a path, or the name of a model in the cache of Hugging Face."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from text.artifacts.hub_cache import find_model
from text.commands.flag_fields import flag_groups

RANDOM_ENCODERS = ("tiny", "mini", "small", "base", "large")
"""Sizes of an encoder with random weights, the names of ``text.models.SIZES``. That package would load torch."""


def model_path(default: Any = dataclasses.MISSING, *, names: tuple[str, ...] = ()) -> Any:
    """Return a field for the path of a model or tokenizer, which ``locate_models`` looks up.

    Args:
        default: Its default. Without one the flag is required.
        names: Values that are neither a path nor the name of a model.
    """
    return dataclasses.field(default=default, metadata={"model_path": names})


def locate_models(flags: Any) -> Any:
    """Return the flags with the folders of models that were given by name, and print each of them.

    Raises:
        UsageError: As ``find_model``.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(flags):
        value, names = getattr(flags, field.name), field.metadata.get("model_path")
        if field.name in flag_groups(type(flags)):
            changes[field.name] = locate_models(value)
        elif value and names is not None:
            changes[field.name] = find_model(value, field.name, names)
            if changes[field.name] != value and os.environ.get("RANK", "0") == "0":
                print(f"--{field.name}: {value} is {changes[field.name]}, from the cache of Hugging Face.", flush=True)
    return dataclasses.replace(flags, **changes) if changes else flags
