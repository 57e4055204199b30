"""Measure how fast ``dpr-text convert`` reads Tevatron rows, against a loop of orjson alone.

    PYTHONPATH=. python -m benchmarks.convert

The rows have 30 passages of random words, and no text occurs twice. Each side runs in a separate process, and the sides
take turns. The result is the median of the ratios within the rounds. Memory is the peak of the whole process. The
script writes benchmarks/results/convert-DATE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.report import describe_hardware, describe_versions, make_parser, run_side, write_result

WORDS = [f"{first}{vowel}{last}" for first in "bdfgklmnprst" for vowel in "aeiou" for last in "bdfgklmnprst"]
NUM_PASSAGES = 30


def main() -> None:
    """Run the benchmark, or measure one side with --side."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--megabytes", type=int, default=1000, help="Size of the rows in MB (default: %(default)s).")
    parser.add_argument("--side", choices=SIDES, help="Measure only this side, on --file.")
    parser.add_argument("--file", help="Rows to measure --side on.")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure_side(arguments.side, arguments.file)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = write_rows(Path(folder, "train.jsonl"), arguments.megabytes)
        results = [
            {side: run_side("benchmarks.convert", side, file) for side in SIDES} for _ in range(arguments.rounds)
        ]
    write_result("convert", format_page(arguments, results))


def write_rows(path: Path, megabytes: int) -> str:
    """Write rows of Tevatron with distinct texts, and return the path."""
    generator = random.Random(0)

    def draw(num_words: int) -> str:
        return " ".join(generator.choices(WORDS, k=num_words))

    size, number = 0, 0
    with open(path, "w", encoding="utf-8") as file:
        while size < megabytes * 1_000_000:
            passages = [{"docid": f"{number}-{i}", "title": draw(3), "text": draw(100)} for i in range(NUM_PASSAGES)]
            row = {"query_id": str(number), "query": draw(8), "positive_passages": passages[:1]}
            size += file.write(json.dumps(row | {"negative_passages": passages[1:]}) + "\n")
            number += 1
    return str(path)


def convert_file(path: str, folder: str) -> None:
    """Convert the rows with the function behind ``dpr-text convert``."""
    from text.datasets.forms.converting import Output, convert_data
    from text.datasets.forms.data_set import DataSet
    from text.datasets.forms.reading import Reading

    convert_data(DataSet(path, Reading()), folder, Output())


def loop_over_lines(path: str, folder: str) -> None:
    """Parse and write each row unchanged, without any check."""
    import orjson

    with open(path, "rb") as lines, open(os.path.join(folder, "train.jsonl"), "wb") as out:
        for line in lines:
            out.write(orjson.dumps(orjson.loads(line)) + b"\n")
        out.flush()
        os.fsync(out.fileno())


SIDES = {"ours": convert_file, "orjson": loop_over_lines}


def measure_side(side: str, file: str) -> dict[str, float]:
    """Return wall-clock and CPU seconds, and the peak memory in MB."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(file)) as folder:
        start, used = time.perf_counter(), time.process_time()
        SIDES[side](file, folder)
        seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    [peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return {**seconds, "memory": int(peak) / 1000, "bytes": os.path.getsize(file)}


def format_page(arguments: argparse.Namespace, results: list[dict[str, dict[str, float]]]) -> str:
    """Return the page with the medians."""

    def speed(side: str, clock: str) -> float:
        return statistics.median(result[side]["bytes"] / result[side][clock] / 1e6 for result in results)

    rows = []
    for side in SIDES:
        ratio = statistics.median(result[side]["cpu_seconds"] / result["orjson"]["cpu_seconds"] for result in results)
        memory = max(result[side]["memory"] for result in results)
        rows.append(
            f"| {side} | {speed(side, 'seconds'):.0f} | {speed(side, 'cpu_seconds'):.0f} | {ratio:.2f} | {memory:.0f} |"
        )
    return "\n".join(
        [
            "# Conversion of Tevatron rows",
            "",
            describe_hardware(),
            describe_versions("orjson", "numpy"),
            "",
            f"`python -m benchmarks.convert --megabytes={arguments.megabytes} --rounds={arguments.rounds}`: rows of "
            f"{NUM_PASSAGES} passages with distinct texts.",
            "",
            "- ours: `dpr-text convert`. It checks every key and text, and syncs the output to disk.",
            "- orjson: a loop that parses each line and writes it again. It checks nothing.",
            "",
            "| side | MB/s | MB/s of CPU time | CPU time / orjson | peak memory, MB |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
