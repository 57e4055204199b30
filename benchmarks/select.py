"""Measure how fast ``select_rows`` reads a raw JSON array, against ``json.load`` and the code of DPR's example.

    PYTHONPATH=. python -m benchmarks.select

Each side runs in a separate process, and the sides take turns. The result is the median of the ratios within the
rounds. Memory is the peak in addition to the interpreter with its imports. The script writes
benchmarks/results/select-DATE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.pipeline import SHARED, TINY_SET, change_ids
from benchmarks.report import describe_hardware, describe_versions, make_parser, run_side, write_result

POOLS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
FORMS = {"indented": 4, "compact": None}


def main() -> None:
    """Run the benchmark, or measure one side with --side."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument(
        "--megabytes", type=int, default=1000, help="Size of the JSON array in MB (default: %(default)s)."
    )
    parser.add_argument(
        "--rows",
        default=str(SHARED / "dpr" / "nq_dev_10.jsonl"),
        help="JSONL file of rows that the script repeats (default: %(default)s).",
    )
    parser.add_argument("--side", choices=SIDES, help="Measure only this side, on --file.")
    parser.add_argument("--file", help="JSON array to measure --side on.")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure_side(arguments.side, arguments.file)))
        return
    rows = arguments.rows if os.path.exists(arguments.rows) else str(TINY_SET)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for form, indent in FORMS.items():
            file = make_array(rows, Path(folder, "rows.json"), arguments.megabytes, indent)
            results[form] = [_run_sides(file) for _ in range(arguments.rounds)]
    write_result("select", format_page(arguments, results))


def make_array(rows: str, path: Path, megabytes: int, indent: int | None) -> str:
    """Write a JSON array of repeated rows. Each copy has its own question and passage ids."""
    records = [json.loads(line) for line in Path(rows).read_bytes().splitlines()]
    with open(path, "w", encoding="utf-8") as file:
        number = 0
        while file.tell() < megabytes * 1_000_000:
            record = change_ids(records[number % len(records)], number)
            item = json.dumps([record], indent=indent)[1:-1]
            file.write(("," if number else "[") + item.rstrip("\n"))
            number += 1
        file.write("\n]\n" if indent else "]")
    return str(path)


def _run_sides(file: str) -> dict[str, dict[str, Any]]:
    """Measure each side in a separate process, and print its figures."""
    results = {}
    for side in SIDES:
        results[side] = run_side("benchmarks.select", side, file)
        print(side, results[side], flush=True)
    return results


def measure_side(side: str, file: str) -> dict[str, float]:
    """Return the speed and the peak memory of one side."""
    from text.datasets import select_rows as _  # noqa: F401  Imports are not measured.

    with tempfile.TemporaryDirectory(dir=Path(file).parent) as folder:
        before, began = _read_peak_memory(), time.perf_counter()
        SIDES[side](file, os.path.join(folder, "out.jsonl"))
        seconds = time.perf_counter() - began
    return {"megabytes_s": os.path.getsize(file) / 1e6 / seconds, "memory": _read_peak_memory() - before}


def run_ours(file: str, out: str) -> None:
    """Select all rows with ``select_rows``."""
    from text.datasets import select_rows

    select_rows(file, out, 1 << 40)


def run_checking(file: str, out: str) -> None:
    """Check all rows with ``select_rows`` and select none."""
    from text.datasets import select_rows
    from text.errors import DataError

    with suppress(DataError):  # select_rows skips all rows and finds no row to select.
        select_rows(file, out, 1, skip_items=1 << 40)


def run_load(file: str, out: str) -> None:
    """Read the array with ``json.load`` and write nothing."""
    with open(file, encoding="utf-8") as raw:
        json.load(raw)


def run_original(file: str, out: str) -> None:
    """Select the rows with three non-empty pools with ``json``, as DPR's example does."""
    with open(file, encoding="utf-8") as raw, open(out, "w", encoding="utf-8") as selected:
        for record in json.load(raw):
            if all(record[pool] for pool in POOLS):
                selected.write(json.dumps(record) + "\n")


SIDES = {"ours": run_ours, "checking": run_checking, "load": run_load, "original": run_original}


def format_page(arguments: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the page of results."""
    lines = [
        "# Selection from a raw JSON array",
        "",
        describe_hardware(),
        describe_versions("pysimdjson", "orjson", "numpy"),
        "",
        f"`python -m benchmarks.select --megabytes={arguments.megabytes} --rounds={arguments.rounds}`: real NQ rows, "
        "repeated with different ids. All rows are selected, so ours and original also write the whole file.",
        "",
        "- ours: `select_rows`. It checks every key and number, and syncs the output to disk.",
        "- checking: `select_rows` with all rows skipped (`skip_items`). It writes nothing.",
        "- load: `json.load` alone. It writes nothing.",
        "- original: `json.load`, then `json.dumps` of each row with three non-empty pools.",
        "",
        "| form | side | MB/s | speed of ours / side | speed of checking / side | additional memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for form, rounds in results.items():
        for side in SIDES:
            speed, memory = (statistics.median(r[side][f] for r in rounds) for f in ("megabytes_s", "memory"))
            ratios = (
                statistics.median(r[own]["megabytes_s"] / r[side]["megabytes_s"] for r in rounds)
                for own in ("ours", "checking")
            )
            shown = " | ".join(f"{ratio:.2f}" for ratio in ratios)
            lines.append(f"| {form} | {side} | {speed:,.0f} | {shown} | {memory:,.0f} |")
    return "\n".join(lines) + "\n"


def _read_peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
