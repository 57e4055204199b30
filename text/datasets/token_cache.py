"""TokenCache: a file of arrays with the token ids of the texts of a data file.

Building the cache tokenizes each distinct text once. Later epochs neither parse nor tokenize. The cache is a sidecar
(``text/datasets/formats/sidecars.py``), and its name identifies the data and the tokenizer. It holds three arrays: the
token ids of all texts, the passages of all rows, and the rows. Passages and rows hold offsets into the token ids.
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
    get_array_lengths,
    is_in_range,
    write_array,
)
from text.datasets.formats.dpr_record import Row
from text.datasets.formats.sidecars import load_or_make_sidecar
from text.errors import ArtifactError
from text.progress import track
from text.records import Passage, TokenizedPassage, hash_text

_FORMAT = 3  # Increase when the format of the file changes.
_TEXTS_AT_ONCE = 4096
_LEFT_OUT = -1  # Length of the text of an unusable passage.
_PASSAGE = np.dtype("i8, i8, i8, i8, i4, i4")
_PASSAGE.names = ("id_key", "content_key", "title", "text", "title_length", "text_length")
"""Keys of a passage; offsets and lengths of its title and text, in tokens."""
_ROW = np.dtype("i8, i8, i4, i4, i4, i4")
_ROW.names = ("question", "passages", "question_length", "num_positives", "num_hard", "num_other")
"""Offset of the question in the tokens, offset of the first passage, length of the question, and pool sizes."""
_PASSAGE_FIELDS, _ROW_FIELDS = Struct("=qqqqii"), Struct("=qqiiii")
"""The same layouts for ``struct``, which reads a few records faster than NumPy."""
_NUMBERED = np.dtype([("id_key", "<i8"), ("content_key", "<i8"), ("title", "<i4"), ("text", "<i4")])
"""A passage while the cache is built. The numbers of its texts stand in for offsets that are not known yet."""
_PASSAGES_AT_ONCE = 1 << 16


class TextTokenizer(Protocol):
    """Interface of a tokenizer for the cache, such as a Tokenize of ``text.transforms``."""

    fingerprint: str
    """Hash of everything that decides the token ids."""
    vocab_size: int
    """Number of token ids."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text, without special tokens."""
        ...


class TokenRow(NamedTuple):
    """A Row with token ids in place of texts, and without answers."""

    question: np.ndarray
    positives: list[TokenizedPassage]
    hard_negatives: Sequence[TokenizedPassage | None]
    other_negatives: Sequence[TokenizedPassage | None]


class TokenCache:
    """The rows of a DPRFile with token ids in place of texts.

    Args:
        file: The data file.
        tokenize: Tokenizer of the texts.
        pools: Whether to store the hard negatives, and whether to store the other negatives.

    Raises:
        DataError: The file has changed since it was checked.
        OSError: The cache cannot be written, or the disk is full.
    """

    def __init__(self, file: DPRFile, tokenize: TextTokenizer, pools: tuple[bool, bool]) -> None:
        self.file = file
        wanted = "".join(name for name, is_wanted in zip("ho", pools, strict=True) if is_wanted)
        names = [f"tokens-{_FORMAT}{wanted}", tokenize.fingerprint[:16]]
        names += [file.passages.key] if file.passages is not None else []
        dtype = np.dtype("<u2" if tokenize.vocab_size <= 1 << 16 else "<u4")
        self._arrays = load_or_make_sidecar(
            file.rows.plain_path,
            "-".join(names),
            lambda path: _Writer(path, tokenize, dtype).write(file, pools),
            lambda path: _load(path, dtype, file.findings.num_rows, tokenize.vocab_size),
        )

    @contextmanager
    def open(self) -> Iterator[TokenReader]:
        """Open the cache to read usable rows.

        Raises:
            DataError: The file has changed since it was checked.
        """
        with self.file.rows.open():  # Opening the data file checks that it has not changed.
            pass
        yield TokenReader(self._arrays)


class TokenReader:
    """Reader of the rows of a TokenCache.

    Args:
        arrays: Arrays of the cache.
    """

    def __init__(self, arrays: ArrayFile) -> None:
        self._tokens, self._passages, self._rows = arrays.columns

    def prefetch(self, row: int) -> None:
        """Do nothing, because the texts of the row that will be used are not known yet."""

    def read(self, row: int) -> TokenRow:
        """Return the row with this number."""
        fields = _ROW_FIELDS.unpack(self._rows.read_bytes(row, row + 1))
        question, start, length, num_positives, num_hard, num_other = fields
        first_hard = start + num_positives
        first_other = first_hard + num_hard
        return TokenRow(
            self._tokens.slice(question, question + length),
            [self._build_passage(*fields) for fields in self._read_passages(start, first_hard)],
            _Pool(self, first_hard, first_other),
            _Pool(self, first_other, first_other + num_other),
        )

    def read_passage(self, number: int) -> TokenizedPassage | None:
        """Return the passage with this number, or None for an unusable passage."""
        [fields] = self._read_passages(number, number + 1)
        return None if fields[-1] == _LEFT_OUT else self._build_passage(*fields)

    def _read_passages(self, start: int, end: int) -> Iterator[tuple[int, ...]]:
        return _PASSAGE_FIELDS.iter_unpack(self._passages.read_bytes(start, end))

    def _build_passage(
        self, id_key: int, content_key: int, title: int, text: int, title_length: int, text_length: int
    ) -> TokenizedPassage:
        tokens = self._tokens.slice
        return TokenizedPassage(
            (id_key, content_key), tokens(title, title + title_length), tokens(text, text + text_length)
        )


class _Pool(Sequence["TokenizedPassage | None"]):
    """A pool of passages of the cache, read lazily."""

    def __init__(self, reader: TokenReader, start: int, end: int) -> None:
        self._reader = reader
        self._numbers = range(start, end)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> TokenizedPassage | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._reader.read_passage(self._numbers[i])


class _Writer:
    """Writer of a cache. It tokenizes distinct texts, thousands at a time."""

    def __init__(self, path: Path, tokenize: TextTokenizer, dtype: np.dtype) -> None:
        self._path = path
        self._tokenize = tokenize
        self._dtype = dtype
        self._numbers: dict[int, int] = {}  # Number of each text, by the hash of the text.
        self._pending: list[str] = []
        self._text_ends = array("q", [0])
        self._passages = array("q")  # Three entries per passage, with the memory layout of _NUMBERED.
        self._row_ends = array("q", [0])
        self._row_heads = array("i")

    def write(self, file: DPRFile, pools: tuple[bool, bool]) -> None:
        """Write the cache of a file."""
        usable = set(file.find_usable_rows().tolist())
        rows = track(range(file.findings.num_rows), f"Tokenizing {file.path}", "rows")
        with open(self._path, "wb") as out, file.open() as reader:
            for number in rows:
                if number in usable:
                    self._add(reader.read(number), pools)
                else:
                    self._row_heads.extend([0, 0, 0, 0])
                self._row_ends.append(len(self._passages) // 3)
                if len(self._pending) >= _TEXTS_AT_ONCE:
                    self._flush(out)
            self._flush(out)
            self._finish(out)

    def _add(self, row: Row, pools: tuple[bool, bool]) -> None:
        negatives = [pool if wanted else () for pool, wanted in zip(row[3:], pools, strict=True)]
        self._row_heads.extend([self._assign_number(row.question), len(row.positives), *map(len, negatives)])
        for passage in (*row.positives, *negatives[0], *negatives[1]):
            self._add_passage(passage)

    def _add_passage(self, passage: Passage | None) -> None:
        if passage is None:
            self._passages.extend([0, 0, _pack(0, _LEFT_OUT)])
        else:
            self._passages.extend(passage.keys)
            self._passages.append(_pack(self._assign_number(passage.title), self._assign_number(passage.text)))

    def _assign_number(self, text: str) -> int:
        """Return the number of a text. A new text is queued for tokenization."""
        number = self._numbers.setdefault(hash_text(text), len(self._numbers))
        if number == len(self._text_ends) - 1 + len(self._pending):
            self._pending.append(text)
        return number

    def _flush(self, out: BinaryIO) -> None:
        for tokens in self._tokenize.encode(self._pending) if self._pending else ():
            out.write(tokens.astype(self._dtype).tobytes())
            self._text_ends.append(self._text_ends[-1] + len(tokens))
        self._pending = []

    def _finish(self, out: BinaryIO) -> None:
        """Write the passages and the rows, and replace the numbers of texts with offsets."""
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
        heads = np.asarray(self._row_heads).reshape(-1, 4)
        rows = np.zeros(len(heads), _ROW)
        is_usable = heads[:, 1] > 0
        rows["question"][is_usable] = starts[heads[is_usable, 0]]
        rows["question_length"][is_usable] = lengths[heads[is_usable, 0]]
        rows["passages"] = np.asarray(self._row_ends)[:-1]
        for place, name in enumerate(("num_positives", "num_hard", "num_other"), start=1):
            rows[name] = heads[:, place]
        write_array(out, rows)
        write_array(out, get_array_lengths([range(self._text_ends[-1]), passages, rows]))


def _pack(title: int, text: int) -> int:
    """Return the 64-bit number that holds two 32-bit numbers in this order in memory."""
    return (title & 0xFFFFFFFF) | (text << 32)


def _load(path: Path, dtype: np.dtype, num_rows: int, vocab_size: int) -> ArrayFile:
    """Open a cache and check that all its token ids, offsets and lengths are in range.

    Raises:
        ArtifactError: The cache is damaged, or does not match the data and the tokenizer.
    """
    arrays = ArrayFile(path, [dtype, _PASSAGE, _ROW])
    tokens, passages, rows = arrays.columns
    is_valid = (
        len(rows) == num_rows
        and is_in_range(tokens, vocab_size)
        and all(_are_valid_passages(piece, len(tokens)) for piece in passages.iter_pieces())
        and all(_are_valid_rows(piece, len(tokens), len(passages)) for piece in rows.iter_pieces())
    )
    if not is_valid:
        raise ArtifactError(f"{path}: does not match its data file. Remove it.")
    return arrays


def _are_valid_passages(passages: np.ndarray, num_tokens: int) -> bool:
    is_text = _are_valid_spans(passages["title"], passages["title_length"], num_tokens)
    is_text &= _are_valid_spans(passages["text"], passages["text_length"], num_tokens)
    return bool((is_text | (passages["text_length"] == _LEFT_OUT)).all())


def _are_valid_rows(rows: np.ndarray, num_tokens: int, num_passages: int) -> bool:
    sizes = np.stack([rows[name].astype(np.int64) for name in ("num_positives", "num_hard", "num_other")])
    is_row = _are_valid_spans(rows["question"], rows["question_length"], num_tokens)
    is_row &= _are_valid_spans(rows["passages"], sizes.sum(axis=0), num_passages)
    return bool(is_row.all() and (sizes >= 0).all())


def _are_valid_spans(starts: np.ndarray, lengths: np.ndarray, end: int) -> np.ndarray:
    """Return which spans lie between 0 and ``end``. Nothing is added, because sums could overflow in a damaged file."""
    return (starts >= 0) & (starts <= end) & (lengths >= 0) & (lengths <= end - starts)
