"""Where the files of a data set are."""

from __future__ import annotations

import os

STAGES = ("train", "valid", "test")
TINY_SET = "examples/dpr/data/nq3_tiny/data/retriever"
"""What comes with the project."""


def find_split(folder: str, stage: str) -> str:
    """The file of one split, in any of the forms that it may have; as JSONL, where there is none."""
    names = [f"{stage}{form}{packed}" for form in (".jsonl", ".json") for packed in ("", ".gz", ".zst")]
    paths = [os.path.join(folder, name) for name in names]
    return next((path for path in paths if os.path.exists(path)), paths[0])
