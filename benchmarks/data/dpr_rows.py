"""Functions that the scripts of this folder share: BM25, contexts of DPR rows, and files with known checksums."""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bm25s
import Stemmer

from benchmarks.report import make_parser
from text.artifacts import write_together
from text.records import Passage
from text.retrieval.bm25 import K1, B


class Checksum(NamedTuple):
    """Size in bytes and SHA-256 of a file before compression."""

    num_bytes: int
    sha256: str


class Hit(NamedTuple):
    """A passage that BM25 found."""

    row: int
    """Position of the passage in the pool."""
    score: float


def search_bm25(pool: Sequence[Passage], questions: Sequence[str], depth: int) -> Iterator[list[Hit]]:
    """Yield the best passages of each question, best first.

    Tokens and the order of equal scores are those of bm25s, because the published files were made with bm25s.
    ``text.retrieval.BM25`` differs in both: it splits Chinese text into letter pairs, and it orders equal scores by id.

    Args:
        pool: Passages to search. Titles count as text.
        questions: Questions to search for.
        depth: Number of passages per question, including passages with a score of 0.
    """
    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(k1=K1, b=B)
    texts = [f"{passage.title} {passage.text}" for passage in pool]
    index.index(bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False)
    words = bm25s.tokenize(list(questions), stopwords="en", stemmer=stemmer, show_progress=False)
    rows, scores = index.retrieve(words, k=min(depth, len(pool)), show_progress=False)
    for found in zip(rows.tolist(), scores.tolist(), strict=True):
        yield [Hit(row, score) for row, score in zip(*found, strict=True)]


def to_context(passage: Passage, score: float, *, is_positive: bool = False) -> dict[str, Any]:
    """Return a passage as a context of a DPR row."""
    return {
        "title": passage.title,
        "text": passage.text,
        "score": score,
        "title_score": int(is_positive),
        "passage_id": passage.passage_id,
    }


def format_json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def format_tsv(rows: Iterable[Sequence[Any]], line_end: str) -> bytes:
    """Return rows as tab-separated values, quoted if necessary."""
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t", lineterminator=line_end).writerows(rows)
    return file.getvalue().encode()


def make_data_parser(description: str | None) -> argparse.ArgumentParser:
    """Return an argument parser with the flags that ``write_or_exit`` reads."""
    parser = make_parser(description)
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder to write the files to.")
    parser.add_argument("--overwrite", action="store_true", help="Replace existing files.")
    return parser


def write_or_exit(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    contents: Mapping[str, bytes],
    expected: Mapping[str, Checksum],
) -> None:
    """Write the files of a script. Exit with 2 if a file exists, and with 1 if a checksum differs."""
    try:
        different = write_and_compare(arguments.output_dir, contents, expected, overwrite=arguments.overwrite)
    except FileExistsError as error:
        parser.error(str(error))
    if different:
        parser.exit(
            1, f"{', '.join(different)}: not equal to the published files. Check the input and the version of bm25s.\n"
        )


def write_and_compare(
    folder: Path, contents: Mapping[str, bytes], expected: Mapping[str, Checksum], *, overwrite: bool
) -> list[str]:
    """Write files, print whether each has the expected checksum, and return the names of different files.

    Args:
        folder: Folder of the files.
        contents: Bytes by file name. Files with the suffix ``.gz`` are compressed.
        expected: Checksums of the bytes by file name.
        overwrite: Replace existing files.

    Raises:
        FileExistsError: A file exists, and ``overwrite`` is false.
    """
    with write_together([folder / name for name in contents], overwrite=overwrite) as temporaries:
        for temporary, (name, content) in zip(temporaries, contents.items(), strict=True):
            temporary.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    different = []
    for name, content in contents.items():
        found = Checksum(len(content), hashlib.sha256(content).hexdigest())
        is_equal = found == expected[name]
        different += [] if is_equal else [name]
        verdict = "equal" if is_equal else f"DIFFERENT from the published file ({expected[name].num_bytes:,} bytes)"
        print(f"{name:<20} {found.num_bytes:>12,} bytes  {found.sha256[:12]}  {verdict}")
    return different
