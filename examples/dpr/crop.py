"""Adds questions that are words of the passages: training rows with more questions on each positive passage.

    python examples/dpr/crop.py --rows=train.jsonl --output=more.jsonl --num=4

Rows on one passage stand side by side, then its crops, so that main.py --rows_together can keep them in one batch: a
passage is embedded once for all of its questions there, which makes the crops cheap.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import Any

from examples.dpr.cli import UsageError, run
from examples.dpr.splits import check_readable
from text.artifacts import atomic_write
from text.datasets import DPRFile, PassageCollection, crop
from text.records import Passage


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Adds questions that are words of the passages: training rows with more questions on each positive passage."""

    rows: str | None = None
    """Training rows in the DPR format."""
    collection: str | None = None
    """The passages, if the rows name theirs by id only."""
    output: str | None = None
    """Where the rows go, and the new ones."""
    num: int = 4
    """New questions on each passage that is the first positive of a row."""
    seed: int = 0
    """Of the words."""

    def __post_init__(self) -> None:
        if self.rows is None or self.output is None:
            raise UsageError("expected --rows and --output")
        if self.num < 1:
            raise UsageError(f"--num is {self.num}; expected at least 1")


def main(config: CropConfig) -> None:
    """Writes the rows, ordered by passage, each passage's crops after its rows."""
    assert config.rows is not None and config.output is not None
    for path in filter(None, (config.rows, config.collection)):
        check_readable(path)
    num_rows = num_crops = 0
    with atomic_write(config.output) as path, open(path, "w", encoding="utf-8") as output:
        for record, is_crop in cropped(config):
            output.write(json.dumps(record, ensure_ascii=False) + "\n")
            num_rows, num_crops = num_rows + 1, num_crops + is_crop
    print(f"{config.output}: {num_rows - num_crops} rows, {num_crops} crops of {num_crops // config.num} passages")


def cropped(config: CropConfig) -> Iterator[tuple[dict[str, Any], bool]]:
    """Records, and whether each is a crop."""
    assert config.rows is not None
    collection = PassageCollection(config.collection) if config.collection is not None else None
    file, random = DPRFile(config.rows, collection), Random(config.seed)
    with file.open() as reader, file.rows.open() as lines:

        def passage(row: int) -> Passage:
            return reader.read(row).positives[0]

        def order(row: int) -> tuple[str, str]:
            return passage(row).title, passage(row).text

        for _, same in groupby(sorted(file.usable().tolist(), key=order), key=order):
            first, *others = same
            for row in (first, *others):
                yield json.loads(lines.read(row)), False
            for _ in range(config.num):
                yield _row(crop(passage(first).text, random), passage(first)), True


def _row(question: str, positive: Passage) -> dict[str, Any]:
    context = {"passage_id": positive.passage_id, "title": positive.title, "text": positive.text}
    pools: dict[str, Any] = {"positive_ctxs": [context], "negative_ctxs": [], "hard_negative_ctxs": []}
    return {"question": question, "answers": [], **pools}


if __name__ == "__main__":
    sys.exit(run(main, CropConfig))
