"""Names of the splits of a data set."""

from __future__ import annotations

_STAGES = {"train": "train", "training": "train", "test": "test"}
_STAGES |= dict.fromkeys(("valid", "validation", "val", "dev", "development"), "valid")


def name_stage(split: str) -> str:
    """Return the stage of a split: train, valid or test. Another name is returned as it is.

    >>> name_stage("dev"), name_stage("validation"), name_stage("pair")
    ('valid', 'valid', 'pair')
    """
    return _STAGES.get(split.lower(), split)
