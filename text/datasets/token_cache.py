"""TokenCache: the texts of a file as tokens, in a file of arrays.

Each different text is tokenized once, when the cache is made; later epochs neither parse nor tokenize.
The cache is a sidecar (``text/datasets/formats/sidecars.py``), known by the data and the tokenizer. It holds the tokens
of all texts, the passages of all rows, and the rows. A passage and a row say where their tokens stand.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from text.datasets.dpr_file import DPRFile
from text.datasets.formats.array_files import (
    ArrayFile,
    are_within,
    array_lengths,
    write_array,
)
from text.datasets.formats.dpr_record import Row
from text.datasets.formats.sidecars import sidecar
from text.errors import ArtifactError
from text.progress import track
from text.records import Passage, TokenizedPassage, text_key

_FORM = 3  # counts up when the form of the file changes
_TEXTS_AT_ONCE = 4096
_LEFT_OUT = -1
_PASSAGE = np.dtype("i8, i8, i8, i8, i4, i4")
_PASSAGE.names = ("id_key", "content_key", "title", "text", "title_length", "text_length")
"""Keys of a passage, where its title and its text start, and how many tokens they have."""
_ROW = np.dtype("i8, i8, i4, i4, i4, i4")
_ROW.names = ("question", "passages", "question_length", "num_positives", "num_hard", "num_other")
"""Where the question and the passages of a row start, and sizes."""
_PASSAGE_FIELDS, _ROW_FIELDS = Struct("=qqqqii"), Struct("=qqiiii")
"""The same, to read a few of them quickly."""
_NUMBERED = np.dtype([("id_key", "<i8"), ("content_key", "<i8"), ("title", "<i4"), ("text", "<i4")])
"""A passage while the cache is made: numbers of texts that have no place yet."""
_PASSAGES_AT_ONCE = 1 << 16


class Tokenizes(Protocol):
    """What a Tokenize of ``text.transforms`` has."""

    fingerprint: str
    vocab_size: int

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]: ...


class TokenRow(NamedTuple):
    """A Row in tokens."""

    question: np.ndarray
    positives: list[TokenizedPassage]
    hard_negatives: Sequence[TokenizedPassage | None]
    other_negatives: Sequence[TokenizedPassage | None]


class TokenCache:
    """The rows of a file, as ``DPRFile.open`` gives them, with tokens in place of texts.

    Args:
        file: The rows.
        tokenize: What tokenizes the texts.
        pools: Whether the hard negatives, and the other negatives, of a row are wanted.

    Raises:
        DataError: The file has changed since it was checked.
        OSError: The cache cannot be written, or the disk is full.
    """

    def __init__(self, file: DPRFile, tokenize: Tokenizes, pools: tuple[bool, bool]) -> None:
        self.file = file
        wanted = "".join(name for name, is_wanted in zip("ho", pools, strict=True) if is_wanted)
        names = [f"tokens-{_FORM}{wanted}", tokenize.fingerprint[:16]]
        names += [file.passages.key] if file.passages is not None else []
        dtype = np.dtype("<u2" if tokenize.vocab_size <= 1 << 16 else "<u4")
        self._arrays = sidecar(
            file.rows.plain_path,
            "-".join(names),
            lambda path: _Writer(path, tokenize, dtype).write(file, pools),
            lambda path: _load(path, dtype, file.findings.num_rows, tokenize.vocab_size),
        )

    @contextmanager
    def open(self) -> Iterator[TokenReader]:
        """Give a reader of the usable rows.

        Raises:
            DataError: The file has changed since it was checked.
        """
        with self.file.rows.open():  # only to see that it is as it was
            pass
        yield TokenReader(self._arrays)


class TokenReader:
    """Reads the rows of a TokenCache.

    Args:
        arrays: The file of the cache.
    """

    def __init__(self, arrays: ArrayFile) -> None:
        self._tokens, self._passages, self._rows = arrays.columns

    def prefetch(self, row: int) -> None:
        """Does nothing: which of a row's texts will be used is not known."""

    def read(self, row: int) -> TokenRow:
        """A row by its number."""
        fields = _ROW_FIELDS.unpack(self._rows.content(row, row + 1))
        question, start, length, num_positives, num_hard, num_other = fields
        first_hard = start + num_positives
        first_other = first_hard + num_hard
        return TokenRow(
            self._tokens.slice(question, question + length),
            [self._passage(*fields) for fields in self._read_passages(start, first_hard)],
            _Pool(self, first_hard, first_other),
            _Pool(self, first_other, first_other + num_other),
        )

    def passage(self, number: int) -> TokenizedPassage | None:
        [fields] = self._read_passages(number, number + 1)
        return None if fields[-1] == _LEFT_OUT else self._passage(*fields)

    def _read_passages(self, start: int, end: int) -> Iterator[tuple[int, ...]]:
        return _PASSAGE_FIELDS.iter_unpack(self._passages.content(start, end))

    def _passage(
        self, id_key: int, content_key: int, title: int, text: int, title_length: int, text_length: int
    ) -> TokenizedPassage:
        tokens = self._tokens.slice
        return TokenizedPassage(
            (id_key, content_key), tokens(title, title + title_length), tokens(text, text + text_length)
        )


class _Pool(Sequence["TokenizedPassage | None"]):
    """Passages of the cache, read when they are asked for."""

    def __init__(self, reader: TokenReader, start: int, end: int) -> None:
        self._reader = reader
        self._numbers = range(start, end)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> TokenizedPassage | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._reader.passage(self._numbers[i])


class _Writer:
    """Collects rows; different texts are tokenized some thousands at a time."""

    def __init__(self, path: Path, tokenize: Tokenizes, dtype: np.dtype) -> None:
        self._path = path
        self._tokenize = tokenize
        self._dtype = dtype
        self._numbers: dict[int, int] = {}  # of each text, by its key
        self._waiting: list[str] = []
        self._text_ends = array("q", [0])
        self._passages = array("q")  # three a passage, as the dtype lies in memory
        self._row_ends = array("q", [0])
        self._heads = array("i")

    def write(self, file: DPRFile, pools: tuple[bool, bool]) -> None:
        usable = set(file.usable().tolist())
        rows = track(range(file.findings.num_rows), f"Tokenizing {file.path}", "rows")
        with open(self._path, "wb") as out, file.open() as reader:
            for number in rows:
                if number in usable:
                    self._add(reader.read(number), pools)
                else:
                    self._heads.extend([0, 0, 0, 0])
                self._row_ends.append(len(self._passages) // 3)
                if len(self._waiting) >= _TEXTS_AT_ONCE:
                    self._flush(out)
            self._flush(out)
            self._finish(out)

    def _add(self, row: Row, pools: tuple[bool, bool]) -> None:
        negatives = [pool if wanted else () for pool, wanted in zip(row[3:], pools, strict=True)]
        self._heads.extend([self._number(row.question), len(row.positives), *map(len, negatives)])
        for passage in (*row.positives, *negatives[0], *negatives[1]):
            self._add_passage(passage)

    def _add_passage(self, passage: Passage | None) -> None:
        if passage is None:
            self._passages.extend([0, 0, _packed(0, _LEFT_OUT)])
        else:
            self._passages.extend(passage.keys)
            self._passages.append(_packed(self._number(passage.title), self._number(passage.text)))

    def _number(self, text: str) -> int:
        """The number of a text; one that is new is remembered, to be tokenized."""
        number = self._numbers.setdefault(text_key(text), len(self._numbers))
        if number == len(self._text_ends) - 1 + len(self._waiting):
            self._waiting.append(text)
        return number

    def _flush(self, out: BinaryIO) -> None:
        for tokens in self._tokenize.encode(self._waiting) if self._waiting else ():
            out.write(tokens.astype(self._dtype).tobytes())
            self._text_ends.append(self._text_ends[-1] + len(tokens))
        self._waiting = []

    def _finish(self, out: BinaryIO) -> None:
        """Write the passages and the rows, with places in the place of numbers of texts."""
        starts = np.asarray(self._text_ends)
        lengths = np.diff(starts)
        passages = np.asarray(self._passages).view(_NUMBERED)
        for start in range(0, len(passages), _PASSAGES_AT_ONCE):
            piece = passages[start : start + _PASSAGES_AT_ONCE]
            placed = np.zeros(len(piece), _PASSAGE)
            placed["id_key"], placed["content_key"] = piece["id_key"], piece["content_key"]
            is_text = piece["text"] != _LEFT_OUT
            placed["text_length"] = _LEFT_OUT
            for name in ("title", "text"):
                placed[name][is_text] = starts[piece[name][is_text]]
                placed[f"{name}_length"][is_text] = lengths[piece[name][is_text]]
            write_array(out, placed)
        heads = np.asarray(self._heads).reshape(-1, 4)
        rows = np.zeros(len(heads), _ROW)
        is_usable = heads[:, 1] > 0
        rows["question"][is_usable] = starts[heads[is_usable, 0]]
        rows["question_length"][is_usable] = lengths[heads[is_usable, 0]]
        rows["passages"] = np.asarray(self._row_ends)[:-1]
        for place, name in enumerate(("num_positives", "num_hard", "num_other"), start=1):
            rows[name] = heads[:, place]
        write_array(out, rows)
        write_array(out, array_lengths([range(self._text_ends[-1]), passages, rows]))


def _packed(title: int, text: int) -> int:
    """Two 32-bit numbers as the one that has them in this order in memory."""
    return (title & 0xFFFFFFFF) | (text << 32)


def _load(path: Path, dtype: np.dtype, num_rows: int, vocab_size: int) -> ArrayFile:
    """Open a cache and check that all its numbers are tokens and passages that are there.

    Raises:
        ArtifactError: The file does not fit the data and the tokenizer.
    """
    arrays = ArrayFile(path, [dtype, _PASSAGE, _ROW])
    tokens, passages, rows = arrays.columns
    fits = (
        len(rows) == num_rows
        and are_within(tokens, vocab_size)
        and all(_are_passages(piece, len(tokens)) for piece in passages.pieces())
        and all(_are_rows(piece, len(tokens), len(passages)) for piece in rows.pieces())
    )
    if not fits:
        raise ArtifactError(f"{path}: does not fit its data. Remove it.")
    return arrays


def _are_passages(passages: np.ndarray, num_tokens: int) -> bool:
    is_text = _are_spans(passages["title"], passages["title_length"], num_tokens)
    is_text &= _are_spans(passages["text"], passages["text_length"], num_tokens)
    return bool((is_text | (passages["text_length"] == _LEFT_OUT)).all())


def _are_rows(rows: np.ndarray, num_tokens: int, num_passages: int) -> bool:
    sizes = np.stack([rows[name].astype(np.int64) for name in ("num_positives", "num_hard", "num_other")])
    is_row = _are_spans(rows["question"], rows["question_length"], num_tokens)
    is_row &= _are_spans(rows["passages"], sizes.sum(axis=0), num_passages)
    return bool(is_row.all() and (sizes >= 0).all())


def _are_spans(starts: np.ndarray, lengths: np.ndarray, end: int) -> np.ndarray:
    """Return which spans lie between 0 and an end. The sums of hostile numbers may overflow."""
    return (starts >= 0) & (starts <= end) & (lengths >= 0) & (lengths <= end - starts)
