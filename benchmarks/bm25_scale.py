"""Measure a BM25 index on disk and the index in memory: time to build, peak memory, disk, and time per question.

    PYTHONPATH=. python -m benchmarks.bm25_scale

The passages have 100 words each, drawn from a Zipf distribution over a vocabulary of a million words, and no text
occurs twice. A question has 8 words of one passage. The index on disk holds all passages; the index in memory holds as
many as --in_memory says, and the index on disk is also measured at that size. Each side runs in a separate process.
Peak memory covers the whole process, so a process that only loads the library is measured too. The script
writes benchmarks/results/bm25_scale-DATE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import describe_hardware, describe_versions, make_parser, run_side, write_result

NUM_WORDS, NUM_QUESTIONS, QUESTION_WORDS = 100, 50, 8
VOCABULARY = 1_000_000
_LETTERS = "bcdfghjklmnpqrstvwxz"
_ROWS_AT_ONCE = 10_000


def main() -> None:
    """Run the benchmark, or measure one side with --side."""
    parser = make_parser(__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000, help="Passages on disk (default: %(default)s).")
    parser.add_argument("--in_memory", type=int, default=100_000, help="Passages in memory (default: %(default)s).")
    parser.add_argument("--side", choices=SIDES, help="Measure only this side, on --file.")
    parser.add_argument("--file", help="Passages to measure --side on.")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure_side(arguments.side, arguments.file)))
        return
    with tempfile.TemporaryDirectory() as folder:
        large = write_passages(Path(folder, "large.tsv"), arguments.passages)
        small = write_passages(Path(folder, "small.tsv"), arguments.in_memory)
        runs = [("nothing", small), ("memory", small), ("disk", small), ("disk", large)]
        results = [run_side("benchmarks.bm25_scale", side, file) for side, file in runs]
    write_result("bm25_scale", format_page(arguments, results))


def write_passages(path: Path, num_passages: int) -> str:
    """Write passages of Zipf-distributed words, whose texts are distinct, and return the path."""
    generator = np.random.default_rng(0)
    words = [name_word(rank) for rank in range(VOCABULARY)]
    with open(path, "w", encoding="utf-8") as file:
        file.write("id\ttext\ttitle\n")
        for start in range(0, num_passages, _ROWS_AT_ONCE):
            size = (min(_ROWS_AT_ONCE, num_passages - start), NUM_WORDS)
            # Zipf's law: the probability of a rank is proportional to 1 / rank.
            ranks = np.exp(generator.random(size) * np.log(VOCABULARY)).astype(np.int64) - 1
            for row, drawn in enumerate(ranks.tolist(), start=start):
                file.write(f"{row}\t{' '.join(words[rank] for rank in drawn)}\t{name_word(row)}\n")
    return str(path)


def name_word(rank: int) -> str:
    """Return the word of a rank. No two words have the same stem.

    >>> name_word(0), name_word(20), name_word(420)
    ('bobo', 'cobo', 'bocobo')
    """
    size, width = len(_LETTERS), 2
    while rank >= size**width:
        rank, width = rank - size**width, width + 1
    return "".join(f"{_LETTERS[rank // size**place % size]}o" for place in reversed(range(width)))


def build_in_memory(file: str, folder: str) -> Any:
    """Return the index in memory."""
    from text.datasets import PassageCollection
    from text.retrieval.bm25 import BM25

    return BM25(PassageCollection(file))


def build_on_disk(file: str, folder: str) -> Any:
    """Return the index on disk."""
    from text.datasets import PassageCollection
    from text.retrieval.bm25_building import build_bm25
    from text.retrieval.bm25_shards import BM25Shards

    collection = PassageCollection(file)
    build_bm25(collection, folder)
    return BM25Shards(folder, collection, check_hashes=False)


def load_library(file: str, folder: str) -> Any:
    """Import the library and open the collection, as both sides do."""
    import text.retrieval.bm25_building
    import text.retrieval.bm25_shards  # noqa: F401
    from text.datasets import PassageCollection

    PassageCollection(file)


SIDES = {"nothing": load_library, "memory": build_in_memory, "disk": build_on_disk}


def measure_side(side: str, file: str) -> dict[str, float]:
    """Return seconds to build, the peak memory in MB, bytes on disk, and milliseconds per question."""
    questions = draw_questions(file) if side != "nothing" else []
    with tempfile.TemporaryDirectory(dir=os.path.dirname(file)) as folder:
        load_library(file, folder)  # The imports and the check of the collection are not measured.
        start = time.perf_counter()
        index = SIDES[side](file, os.path.join(folder, "index"))
        figures = {"build": time.perf_counter() - start, "build_memory": read_peak_memory()}
        figures |= {"disk": sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())}
        times = []
        for question in questions:
            start = time.perf_counter()
            index.search([question], 100)
            times.append(time.perf_counter() - start)
        figures["question"] = 1000 * float(np.median(times)) if times else 0.0
    return figures | {"memory": read_peak_memory()}


def draw_questions(file: str) -> list[str]:
    """Return questions of words of the first passages."""
    with open(file, encoding="utf-8") as lines:
        next(lines)
        texts = [line.split("\t")[1].split() for _, line in zip(range(NUM_QUESTIONS), lines, strict=False)]
    return [" ".join(words[:QUESTION_WORDS]) for words in texts]


def read_peak_memory() -> float:
    """Return the peak memory of this process in MB."""
    [peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(peak) / 1000


def format_page(arguments: argparse.Namespace, results: list[dict[str, float]]) -> str:
    """Return the page with one row for each side."""
    small, large = arguments.in_memory, arguments.passages
    rows = []
    for name, size, result in zip(
        ("library alone", "in memory", "on disk", "on disk"), (small, small, small, large), results, strict=True
    ):
        rows.append(
            f"| {name} | {size:,} | {result['build']:.0f} | {result['build_memory']:.0f} | {result['memory']:.0f} | "
            f"{result['disk'] / size:.0f} | {result['question']:.1f} |"
        )
    return "\n".join(
        [
            "# BM25 at scale",
            "",
            describe_hardware(),
            describe_versions("bm25s", "numpy"),
            "",
            f"`python -m benchmarks.bm25_scale --passages={large} --in_memory={small}`: passages of {NUM_WORDS} words "
            f"from a Zipf distribution over {VOCABULARY:,} words, {NUM_QUESTIONS} questions of {QUESTION_WORDS} words, "
            "100 results each, asked one after the other. Peak memory covers the whole process, with the pages of "
            "the index that the system keeps in memory.",
            "",
            "| index | passages | build, s | peak memory of the build, MB | peak memory with search, MB | "
            "bytes on disk per passage | median ms per question |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
