"""How fast rows are selected from a raw JSON array, beside ``json.load`` and the way that DPR's example had.

    PYTHONPATH=. python -m benchmarks.select

Each side runs in a process of its own, in turn; what counts is the median of the ratio within a
round. Memory is the peak above the interpreter with its imports. Writes benchmarks/results/select-DATE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.pipeline import SHARED, TINY_SET, changed
from benchmarks.report import hardware, versions, warm, write_result

POOLS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
FORMS = {"indented": 4, "compact": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default=str(SHARED / "dpr" / "nq_dev_10.jsonl"), help="real rows, to be repeated")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--file")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.file)))
        return
    rows = arguments.rows if os.path.exists(arguments.rows) else str(TINY_SET)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for form, indent in FORMS.items():
            file = make_array(rows, Path(folder, "rows.json"), arguments.megabytes, indent)
            results[form] = [{side: run(side, file) for side in SIDES} for _ in range(arguments.rounds)]
    write_result("select", page(arguments, results))


def make_array(rows: str, path: Path, megabytes: int, indent: int | None) -> str:
    """Repeats rows, each time with other questions and passage ids."""
    records = [json.loads(line) for line in Path(rows).read_bytes().splitlines()]
    with open(path, "w", encoding="utf-8") as file:
        number = 0
        while file.tell() < megabytes * 1_000_000:
            record = changed(records[number % len(records)], number)
            one = json.dumps([record], indent=indent)[1:-1]
            file.write(("," if number else "[") + one.rstrip("\n"))
            number += 1
        file.write("\n]\n" if indent else "]")
    return str(path)


def run(side: str, file: str) -> dict[str, float]:
    """One side in a process of its own; the file is in the page cache."""
    warm(file)
    command = [sys.executable, "-m", "benchmarks.select", "--side", side, "--file", file]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(side, figures, flush=True)
    return figures


def measure(side: str, file: str) -> dict[str, float]:
    from text.datasets import select_rows as _  # noqa: F401  imports are not what is measured

    with tempfile.TemporaryDirectory(dir=Path(file).parent) as folder:
        before, began = _memory(), time.perf_counter()
        SIDES[side](file, os.path.join(folder, "out.jsonl"))
        seconds = time.perf_counter() - began
    return {"megabytes_s": os.path.getsize(file) / 1e6 / seconds, "memory": _memory() - before}


def ours(file: str, out: str) -> None:
    from text.datasets import select_rows

    select_rows(file, out, 1 << 40)


def checking(file: str, out: str) -> None:
    from text.datasets import select_rows
    from text.errors import DataError

    with suppress(DataError):  # there is no row after the last one
        select_rows(file, out, 1, skip_items=1 << 40)


def load(file: str, out: str) -> None:
    with open(file, encoding="utf-8") as raw:
        json.load(raw)


def original(file: str, out: str) -> None:
    with open(file, encoding="utf-8") as raw, open(out, "w", encoding="utf-8") as selected:
        for record in json.load(raw):
            if all(record[pool] for pool in POOLS):
                selected.write(json.dumps(record) + "\n")


SIDES = {"ours": ours, "checking": checking, "load": load, "original": original}


def page(arguments: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "# Selection from a raw JSON array",
        "",
        hardware(),
        versions("pysimdjson", "orjson", "numpy"),
        "",
        f"`python -m benchmarks.select --megabytes={arguments.megabytes} --rounds={arguments.rounds}`: real NQ rows "
        "repeated with other ids; all of them are kept, so ours and original also write the whole file.",
        "",
        "- ours: `select_rows`, with its checks of every key and number, and written through to the disk.",
        "- checking: `select_rows`, but all rows are passed over (`skip_items`): nothing is written.",
        "- load: `json.load` alone, which writes nothing.",
        "- original: `json.load`, rows with three pools that are not empty, `json.dumps` of each.",
        "",
        "| form | side | MB/s | ours / it | checking / it | memory above start, MB |",
        "|---|---|---|---|---|---|",
    ]
    for form, rounds in results.items():
        for side in SIDES:
            speed, memory = (statistics.median(r[side][f] for r in rounds) for f in ("megabytes_s", "memory"))
            ratios = (
                statistics.median(r[ours]["megabytes_s"] / r[side]["megabytes_s"] for r in rounds)
                for ours in ("ours", "checking")
            )
            shown = " | ".join(f"{ratio:.2f}" for ratio in ratios)
            lines.append(f"| {form} | {side} | {speed:,.0f} | {shown} | {memory:,.0f} |")
    return "\n".join(lines) + "\n"


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
