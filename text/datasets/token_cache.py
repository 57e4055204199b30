"""TokenCache: the texts of a file as tokens, in a file that is mapped into memory.

Each different text is tokenized once, when the cache is made; later epochs neither parse nor tokenize.
The cache is a sidecar (``text/datasets/formats/sidecars.py``), known by the data and the tokenizer. It holds, one after
another: the tokens of all texts; then four arrays in numpy's own form, and the byte at which these start.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from text.datasets.dpr_file import DPRFile
from text.datasets.formats.dpr_record import Row
from text.datasets.formats.sidecars import sidecar
from text.progress import track
from text.records import Passage, TokenizedPassage, text_key

_FORM = 2  # counts up when the form of the file changes
_TEXTS_AT_ONCE = 4096
_LEFT_OUT = -1
_PASSAGE = np.dtype([("id_key", "<i8"), ("content_key", "<i8"), ("title", "<i4"), ("text", "<i4")])


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
        self._dtype = np.dtype("<u2" if tokenize.vocab_size <= 1 << 16 else "<u4")
        self._path = sidecar(
            file.rows.plain_path, "-".join(names), lambda path: _Writer(path, tokenize, self._dtype).write(file, pools)
        )

    @contextmanager
    def open(self) -> Iterator[TokenReader]:
        """Maps the cache to read usable rows from it.

        Raises:
            DataError: The file has changed since it was checked.
        """
        with self.file.rows.open():  # only to see that it is as it was
            pass
        yield TokenReader(self._path, self._dtype)


class TokenReader:
    """Reads the rows of a mapped TokenCache."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self._tokens = np.asarray(np.memmap(path, dtype, mode="r", shape=((path.stat().st_size) // dtype.itemsize,)))
        with open(path, "rb") as file:
            file.seek(-8, 2)
            file.seek(int.from_bytes(file.read(8), "little"))
            self._text_ends, self._passages, self._row_ends, self._heads = (_map_array(path, file) for _ in range(4))

    def prefetch(self, row: int) -> None:
        """Does nothing: which of a row's texts will be used is not known."""

    def read(self, row: int) -> TokenRow:
        """A row by its number; its arrays are views of the cache."""
        start = int(self._row_ends[row])
        question, num_positives, num_hard, num_other = self._heads[row].tolist()
        first_hard = start + num_positives
        first_other = first_hard + num_hard
        return TokenRow(
            self.text(question),
            [self._passage(*fields) for fields in self._passages[start:first_hard].tolist()],
            _Pool(self, first_hard, first_other),
            _Pool(self, first_other, first_other + num_other),
        )

    def text(self, number: int) -> np.ndarray:
        return self._tokens[self._text_ends[number] : self._text_ends[number + 1]]

    def passage(self, number: int) -> TokenizedPassage | None:
        fields = self._passages[number].item()
        return None if fields[-1] == _LEFT_OUT else self._passage(*fields)

    def _passage(self, id_key: int, content_key: int, title: int, text: int) -> TokenizedPassage:
        return TokenizedPassage((id_key, content_key), self.text(title), self.text(text))


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
        out.write(bytes(-out.tell() % 64))
        start = out.tell()
        np.save(out, np.frombuffer(self._text_ends, dtype=np.int64))
        np.save(out, np.frombuffer(self._passages, dtype=np.int64).view(_PASSAGE))
        np.save(out, np.frombuffer(self._row_ends, dtype=np.int64))
        np.save(out, np.frombuffer(self._heads, dtype=np.int32).reshape(-1, 4))
        out.write(start.to_bytes(8, "little"))


def _packed(title: int, text: int) -> int:
    """Two 32-bit numbers as the one that has them in this order in memory."""
    return (title & 0xFFFFFFFF) | (text << 32)


def _map_array(path: Path, file: BinaryIO) -> np.ndarray:
    """The array that starts here, mapped; leaves the file at its end."""
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    mapped = np.memmap(path, dtype, mode="r", offset=file.tell(), shape=shape)
    file.seek(mapped.nbytes, 1)
    return np.asarray(mapped)  # plain views of it are cut much faster
