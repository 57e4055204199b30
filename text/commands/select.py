"""``dpr-text select``: select rows of a raw DPR file. ``examples/dpr/main.py --sel_data`` does the same."""

from __future__ import annotations

from dataclasses import dataclass

from text.artifacts import check_files
from text.errors import escape_controls


@dataclass(frozen=True, kw_only=True)
class SelectFlags:
    """Select the first usable rows of a raw DPR file.

    Examples::

        dpr-text select --raw_path=nq-train.json.gz --out_path=train.jsonl --num_items=1000
        dpr-text select --raw_path=nq-train.json.gz --out_path=valid.jsonl --num_items=100 --skip_items=1000
    """

    raw_path: str
    """Raw DPR file: a JSON array or JSON lines. It may be compressed with gzip or zstd."""
    out_path: str
    """Output file for the selected rows, as JSON lines."""
    num_items: int = 10
    """Number of rows to select: the first rows with positives, negatives and hard negatives."""
    skip_items: int = 0
    """Number of usable rows to skip first. Use it to make several selections without common rows."""
    keep_without_negatives: bool = False
    """Also keep rows without negative_ctxs, such as those in FAIR's trivia files. Training does not need
    negative_ctxs."""
    overwrite: bool = False
    """Replace an existing output file."""


def select(flags: SelectFlags) -> None:
    """Write the selected rows and print how many rows were kept and dropped."""
    from text.datasets import select_rows

    check_files([flags.raw_path], [flags.out_path], overwrite=flags.overwrite)
    selection = select_rows(
        flags.raw_path,
        flags.out_path,
        flags.num_items,
        skip_items=flags.skip_items,
        keep_without_negatives=flags.keep_without_negatives,
        overwrite=flags.overwrite,
    )
    dropped = ", ".join(f"{count} {reason}" for reason, count in selection.dropped.items()) or "none"
    line = f"{flags.out_path}: kept {selection.kept} rows; skipped {selection.skipped}; dropped: {dropped}"
    print(escape_controls(line))
    if selection.kept < flags.num_items:
        line = f"{flags.raw_path}: only {selection.kept} of the {flags.num_items} requested rows were found"
        print(escape_controls(line))
