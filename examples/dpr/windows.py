"""Cuts passages into windows of words: a collection of these, and training rows whose positives are such.

    python examples/dpr/windows.py --collection=corpus.jsonl --rows=train.jsonl --output_dir=runs/windows

Writes passages.jsonl, to encode, and rows.jsonl, to mine from (mine.py --best_positive_first, since only some of a
positive's windows answer). search.py --max_passage_hits gives documents by their best windows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from examples.dpr.cli import UsageError, run
from examples.dpr.paths import check_files
from examples.dpr.rows import Record, context, left_out, told, with_contexts
from text.artifacts import atomic_write
from text.datasets import DPRFile, PassageCollection, cut_windows
from text.datasets.collection import beir_line
from text.errors import DataError


@dataclass(frozen=True, kw_only=True)
class WindowsConfig:
    """Cuts passages into windows of words: a collection of these, and training rows whose positives are such."""

    collection: str | None = None
    """Passages."""
    rows: str | None = None
    """Training rows in the DPR format. All windows of a positive are positives; negatives are left out, for mine.py
    to find others."""
    words: int = 64
    """Of a window."""
    stride: int = 32
    """Words from one start to the next."""
    output_dir: str = "runs/windows"
    """Where passages.jsonl and rows.jsonl go."""
    overwrite: bool = False
    """Replace an earlier result."""

    def __post_init__(self) -> None:
        if self.collection is None:
            raise UsageError("expected --collection")
        if not 1 <= self.stride <= self.words:
            raise UsageError(f"--stride is {self.stride}; expected 1 to {self.words}, which --words is")


def main(config: WindowsConfig) -> None:
    """Writes both files."""
    assert config.collection is not None
    folder = Path(config.output_dir)
    outputs = [folder / "passages.jsonl", folder / "rows.jsonl"]
    check_files([config.collection, config.rows], outputs, overwrite=config.overwrite)
    collection = PassageCollection(config.collection)
    if not len(collection):
        raise DataError(f"{config.collection}: no passages; expected one or more")
    cut = (
        cut_windows(each, config.words, config.stride) for each in tqdm(collection, desc="Cutting", unit=" passages")
    )
    count = _write(folder / "passages.jsonl", map(beir_line, chain.from_iterable(cut)))
    print(f"{folder / 'passages.jsonl'}: {count} windows of {len(collection)} passages")
    if config.rows is not None:
        file = DPRFile(config.rows, collection)
        few, rows = told(left_out(file)), rows_of_windows(config, file)
        count = _write(folder / "rows.jsonl", (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"{folder / 'rows.jsonl'}: {count} rows{few}")


def rows_of_windows(config: WindowsConfig, file: DPRFile) -> Iterator[Record]:
    """Each usable row, with the windows of its positives for these."""
    with file.open() as reader, file.rows.open() as lines:
        for row in file.usable().tolist():
            positives = [cut_windows(each, config.words, config.stride) for each in reader.read(row).positives]
            contexts = [context(each) for each in chain.from_iterable(positives)]
            yield with_contexts(json.loads(lines.read(row)), contexts, [])


def _write(path: Path, lines: Iterable[str]) -> int:
    """How many there are."""
    count = 0
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(line)
            count += 1
    return count


if __name__ == "__main__":
    sys.exit(run(main, WindowsConfig))
