"""Windows of words, which long passages are cut into because a small encoder represents short texts better.

A document is scored by its best window (MaxP; Dai and Callan, arXiv:1905.09217). ``text.evaluation.max_passage`` turns
a run of windows into a run of documents.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from text.artifacts import write_together
from text.datasets.collection import PassageCollection, format_beir_line
from text.datasets.dpr_file import DPRFile
from text.datasets.dpr_rows import Record, passage_to_context, replace_contexts
from text.errors import DataError
from text.progress import track
from text.records import Passage
from text.words import find_pieces, has_unspaced_script


def cut_windows(passage: Passage, words: int, stride: int) -> list[Passage]:
    """Return the windows of a passage.

    Each window has the title of the passage. Its id is the id of the passage, ``#`` and a number from 0 on, as in
    Pyserini. A short passage has one window. In scripts without spaces, such as Chinese, each letter counts as a word.

    Args:
        passage: A passage of any length.
        words: Words per window. The last window may have fewer.
        stride: Words between the starts of consecutive windows. Windows overlap if it is below ``words``.

    Raises:
        ValueError: ``stride`` is not between 1 and ``words``. A larger stride would lose words.

    >>> [each.text for each in cut_windows(Passage("p", "", "a b c d e f g"), 4, 2)]
    ['a b c d', 'c d e f', 'e f g']
    """
    if not 1 <= stride <= words:
        raise ValueError(f"stride is {stride}. Use a number from 1 to {words}, the number of words per window.")
    if has_unspaced_script(passage.text):
        found = find_pieces(passage.text)
        cut = [found[start : start + words] for start in _compute_starts(len(found), words, stride)]
        texts = [passage.text[pieces[0][0] : pieces[-1][1]] for pieces in cut]
    else:
        found = passage.text.split()
        texts = [" ".join(found[start : start + words]) for start in _compute_starts(len(found), words, stride)]
    names = [f"{passage.passage_id}#{number}" if passage.passage_id else "" for number in range(len(texts))]
    return [Passage(name, passage.title, text) for name, text in zip(names, texts, strict=True)]


def _compute_starts(num_words: int, words: int, stride: int) -> range:
    return range(0, max(0, num_words - words) + stride, stride)


def cut_collection(collection: PassageCollection, words: int, stride: int) -> Iterator[Passage]:
    """Yield the windows of all passages of a collection. Windows are cut as in ``cut_windows``.

    Raises:
        DataError: The collection is empty.
        ValueError: ``stride`` is not between 1 and ``words``.
    """
    if not len(collection):
        raise DataError(f"{collection.path}: the collection has no passages.")
    for passage in track(collection, "Cutting", "passages"):
        yield from cut_windows(passage, words, stride)


def cut_rows(file: DPRFile, words: int, stride: int) -> Iterator[Record]:
    """Yield the usable rows of a file. The windows of their positives become the positives; negatives are dropped.

    Raises:
        ValueError: ``stride`` is not between 1 and ``words``.
    """
    with file.open() as reader, file.rows.open() as lines:
        for row in file.find_usable_rows().tolist():
            windows = chain.from_iterable(cut_windows(each, words, stride) for each in reader.read(row).positives)
            yield replace_contexts(lines.parse(row).as_dict(), [passage_to_context(each) for each in windows], [])


def write_windows(
    collection: PassageCollection,
    passages_path: str | os.PathLike[str],
    file: DPRFile | None = None,
    rows_path: str | os.PathLike[str] = "",
    *,
    words: int,
    stride: int,
    overwrite: bool = True,
) -> tuple[int, int]:
    """Write the windows of a collection, and the rows of a file with windows as positives.

    Both files are written atomically, and appear together.

    Args:
        collection: The collection to cut.
        passages_path: File to write the windows to, as BEIR's JSON lines.
        file: Rows to convert, or None.
        rows_path: File to write the rows to, as JSON lines.
        words: Words per window.
        stride: Words between the starts of consecutive windows.
        overwrite: Replace existing files.

    Returns:
        The number of windows and the number of rows.

    Raises:
        FileExistsError: A file exists, and ``overwrite`` is false.
        DataError: The collection is empty.
        ValueError: ``stride`` is not between 1 and ``words``.
    """
    with write_together([passages_path, *([rows_path] if file else [])], overwrite=overwrite) as temporaries:
        num_windows = _write_lines(temporaries[0], map(format_beir_line, cut_collection(collection, words, stride)))
        if file is None:
            return num_windows, 0
        rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in cut_rows(file, words, stride))
        return num_windows, _write_lines(temporaries[1], rows)


def _write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines to a file and return their number."""
    with open(path, "w", encoding="utf-8") as out:
        return sum(1 for line in lines if out.write(line))
