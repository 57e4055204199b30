"""``dpr-text windows``: cut passages, and the positives of training rows, into windows of words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from text.artifacts import check_files
from text.commands.cli import number_field


@dataclass(frozen=True, kw_only=True)
class WindowsFlags:
    """Cut passages into windows of words.

    Use it for passages that are longer than the encoder's limit. Encode passages.jsonl, and mine rows.jsonl with
    --best_positive_first, because only some windows of a positive answer the question. dpr-text search
    --max_passage_hits then ranks documents by their best window (MaxP).

    Examples::

        dpr-text windows --collection=articles.jsonl --words=100 --stride=50 --output_dir=data/windows
    """

    collection: str
    """Passage file."""
    rows: str | None = None
    """Training rows in the DPR format. Each positive is replaced by all of its windows, and negatives are dropped, so
    mine new negatives (dpr-text mine)."""
    words: int = number_field(64, least=1)
    """Words per window. A window should fit the encoder's token limit."""
    stride: int = number_field(32, least=1)
    """Words between the starts of two neighboring windows, at most --words. Half of --words keeps sentences whole in
    one of two windows."""
    output_dir: str
    """Output folder for passages.jsonl and rows.jsonl."""
    overwrite: bool = False
    """Replace earlier results."""


def windows(flags: WindowsFlags) -> None:
    """Write passages.jsonl and, if rows are given, rows.jsonl."""
    from text.datasets import DPRFile, PassageCollection, write_windows
    from text.datasets.dpr_rows import count_unusable_rows, format_counts

    passages_path, rows_path = Path(flags.output_dir, "passages.jsonl"), Path(flags.output_dir, "rows.jsonl")
    check_files([flags.collection, flags.rows], [passages_path, rows_path], overwrite=flags.overwrite)
    collection = PassageCollection(flags.collection)
    file = DPRFile(flags.rows, collection) if flags.rows is not None else None
    unusable = format_counts(count_unusable_rows(file)) if file else ""
    num_windows, num_rows = write_windows(
        collection,
        passages_path,
        file,
        rows_path,
        words=flags.words,
        stride=flags.stride,
        overwrite=flags.overwrite,
    )
    print(f"{passages_path}: {num_windows} windows from {len(collection)} passages")
    if file:
        print(f"{rows_path}: {num_rows} rows{unusable}")
