"""Conversion of files in tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from text.datasets.forms.converting import ConvertedFile, Output, convert_data
from text.datasets.forms.data_set import DataSet
from text.datasets.forms.reading import Reading


def convert(
    source: Path,
    target: Path,
    *,
    to: str = "dpr",
    compact: bool | None = None,
    num_negatives: int | None = None,
    collection: Path | None = None,
    skip_missing: bool = False,
    **reading: Any,
) -> list[ConvertedFile]:
    """Convert a file or folder to files in a new folder."""
    data = DataSet(
        source, Reading(**reading), collection=str(collection) if collection else None, skip_missing=skip_missing
    )
    return convert_data(data, target, Output(to, compact, num_negatives), overwrite=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]
