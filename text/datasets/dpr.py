"""DPRDataPipe: JSONL in the DPR format to batches of Example.

The order of an epoch is a permutation of row numbers drawn from (seed, epoch). Batches are cut
from it before anything is sharded, because in contrastive training the batch is the objective:
which questions meet must not depend on the number of workers or ranks. Shuffling and skipping
happen on row numbers; a row is read when its batch is due, by the process that needs it.

An item is one place of a row in an epoch: a row that comes c times is the items
row, row + R, ..., row + (c - 1) * R, with R the rows of all files together.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import IterDataPipe, get_worker_info
from torch.utils.data.datapipes.iter.sharding import SHARDING_PRIORITIES

from text.datasets.collection import PassageCollection
from text.datasets.dpr_file import BLANK, DPRFile, DPRReader
from text.datasets.formats.dpr_record import POOLS
from text.datasets.token_cache import TokenCache, Tokenizes, TokenReader, TokenRow
from text.errors import DataError
from text.records import Example, TokenizedExample

T = TypeVar("T")
Reader = DPRReader | TokenReader

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class SkippedRow(NamedTuple):
    """A row that no batch will hold."""

    path: str
    line: int
    byte: int
    reason: str


class DPRDataPipe(IterDataPipe[list[Example]]):
    """Batches of Examples from one or several files in the DPR format.

    All rows are checked once when the pipe is made, and what was found is kept beside a large file.
    Then every usable row comes once an epoch, in batches that are the same for any number of workers
    and ranks: a worker takes whole batches in turn, a rank takes its share of each batch (of a last
    batch with fewer rows than ranks, some take none). Iterating again without ``set_epoch`` gives the
    same batches again.

    >>> import json, tempfile
    >>> rows = [{"question": f"{n} + 1", "positive_ctxs": [{"title": "sum", "text": f"{n + 1}"}]} for n in range(5)]
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write("".join(json.dumps(row) + "\\n" for row in rows)), file.flush()
    ...     pipe = DPRDataPipe(file.name, batch_size=2)
    ...     print([[example.question for example in batch] for batch in pipe])
    [['0 + 1', '1 + 1'], ['2 + 1', '3 + 1'], ['4 + 1']]

    Args:
        paths: One file or several data sets; JSONL or a JSON array, plain or compressed by gzip or zstd.
        batch_size: Questions per batch, over all ranks together.
        train: True shuffles the rows, and samples hard and other negatives anew each epoch.
            False keeps the order of the files and takes the first negatives of each pool.
        passages: The collection that compact rows name passages of.
        rates: How often each data set comes in an epoch of training, by default once each. A fraction
            takes that share of its rows, drawn anew each epoch.
        one_set_per_batch: In training, each batch is of one data set (as DPR's); otherwise all are mixed.
        rows_together: In training, so many rows that stand side by side in a file stay together. Of rows on one
            article, each then meets the passages of the others in its batch, which are harder to tell apart than
            random ones (topic-aware batches, arXiv:2104.06967). 1 mixes all.
        sample_positives: In training, a random known positive instead of the first (gold) one.
        num_hard_negatives: Passages from ``hard_negative_ctxs`` per question, fewer where the
            pool holds fewer.
        num_other_negatives: Passages from ``negative_ctxs`` per question, likewise.
        score_key: Key of a guide's or teacher's score, which every passage must have then; by default none
            is looked for.
        seed: With the epoch, decides everything random.
        drop_last: Leaves out the last batch of an epoch, or of each set in it, where it is short.
        max_skipped: Largest share of rows that may be unusable (blank question in training, no
            positive) before that is an error.

    Raises:
        DataError: A row cannot be parsed or lacks a field, too many rows are unusable, or there
            is not one batch; with path, line, byte and field.
        ValueError: A count, share or rate is out of range.
        OSError: A file cannot be read.
    """

    def __init__(
        self,
        paths: Paths,
        batch_size: int,
        *,
        train: bool = False,
        passages: PassageCollection | None = None,
        rates: Sequence[float] | None = None,
        one_set_per_batch: bool = False,
        rows_together: int = 1,
        sample_positives: bool = False,
        num_hard_negatives: int = 1,
        num_other_negatives: int = 0,
        score_key: str | None = None,
        seed: int = 0,
        drop_last: bool = False,
        max_skipped: float = 0.001,
    ) -> None:
        paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("rows_together", rows_together, 1),
            ("num_hard_negatives", num_hard_negatives, 0),
            ("num_other_negatives", num_other_negatives, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; expected {least} or more")
        if not 0 <= max_skipped <= 1:
            raise ValueError(f"max_skipped is {max_skipped}; expected a share from 0 to 1")
        if not paths:
            raise ValueError("paths is empty; expected at least one file")
        self.rates = [1.0] * len(paths) if rates is None else [float(rate) for rate in rates]
        if len(self.rates) != len(paths) or not all(0 < rate < 1000 for rate in self.rates):
            raise ValueError(f"rates is {self.rates}; expected a number above 0 (and below 1000) for each of {paths}")
        if not train and (one_set_per_batch or set(self.rates) != {1.0}):
            raise ValueError("rates and one_set_per_batch are for training; expected neither in evaluation")
        self.files = [DPRFile(path, passages, score_key) for path in paths]
        self.batch_size = batch_size
        self.train = train
        self.one_set_per_batch = one_set_per_batch
        self.rows_together = rows_together
        self.sample_positives = sample_positives
        self.num_hard_negatives = num_hard_negatives
        self.num_other_negatives = num_other_negatives
        self.seed = seed
        self.drop_last = drop_last
        self._num_usable = [file.findings.num_rows - len(file.findings.unusable) for file in self.files]
        self._first_rows = [0, *accumulate(file.findings.num_rows for file in self.files)]  # of each file, and the end
        self.counts = self._count()
        """What was found while checking the rows, by reason."""
        self.skipped = list(self._skipped())
        """The rows that no batch will hold."""
        self._check_amounts(max_skipped)
        self._caches: list[TokenCache] | None = None
        self._epoch, self._first_batch = 0, 0
        self._rank, self._num_ranks = 0, 1
        self._worker, self._num_workers = 0, 1

    @property
    def names(self) -> list[str]:
        """A name of each data set: of its file, with its folder or its whole path where files have the same name."""
        paths = [Path(file.path) for file in self.files]
        short = [path.name.split(".")[0] for path in paths]
        longer = [f"{path.parent.name}/{path.name}" for path in paths]
        return next((names for names in (short, longer) if len(set(names)) == len(paths)), list(map(str, paths)))

    @property
    def rows_per_set(self) -> list[int]:
        """Questions that each data set brings to an epoch."""
        return [round(rate * num_rows) for rate, num_rows in zip(self.rates, self._num_usable, strict=True)]

    @property
    def num_rows(self) -> int:
        """Questions per epoch, before ``drop_last``."""
        return sum(self.rows_per_set)

    @property
    def has_negatives(self) -> bool:
        """Whether any row brings a negative of its own."""
        asked = {"hard_negatives": self.num_hard_negatives, "other_negatives": self.num_other_negatives}
        return any(
            size > 0 and asked[name] > 0
            for file in self.files
            for name, sizes in file.findings.pool_sizes.items()
            for size in sizes
        )

    @property
    def fingerprint(self) -> str:
        """Names the data and how it is mixed, by content; 16 hexadecimal digits."""
        data = [(file.findings.sha256, rate) for file, rate in zip(self.files, self.rates, strict=True)]
        collection = [file.passages.sha256 for file in self.files if file.passages is not None]
        described = repr((data, collection, self.one_set_per_batch, self.rows_together, self.drop_last))
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """Batches in a whole epoch, also where ``start_row`` leaves some out."""
        return len(self._batch_sizes(0))

    def set_epoch(self, epoch: int, start_row: int = 0) -> None:
        """Chooses what the next iteration gives.

        With ``persistent_workers`` a DataLoader's workers keep the epoch that they started with:
        make a new DataLoader, or a new iterator without that option, for each epoch.

        Args:
            epoch: 0-based.
            start_row: Rows of the epoch's order that were consumed before, in whole batches.

        Raises:
            ValueError: ``start_row`` would cut batches other than those of the whole epoch.
        """
        starts = np.cumsum([0, *self._batch_sizes(epoch)])
        batch = int(np.searchsorted(starts, start_row))
        if batch == len(starts) or starts[batch] != start_row:
            raise ValueError(
                f"start_row is {start_row}; expected the end of a batch of epoch {epoch}: "
                f"a multiple of the batch size {self.batch_size}, at most {starts[-1]}"
            )
        self._epoch, self._first_batch = epoch, batch

    def rows_before(self, epoch: int, batch: int) -> int:
        """Rows of an epoch's order that stand before a batch: ``start_row`` to go on with it."""
        return sum(self._batch_sizes(epoch)[:batch])

    def lines(self, epoch: int, batch: int) -> list[tuple[str, int]]:
        """File and 1-based line of each row of a batch of an epoch, of all ranks together."""
        ends = np.cumsum([0, *self._batch_sizes(epoch)])
        places = [self._place(item) for item in self._items(epoch)[ends[batch] : ends[batch + 1]].tolist()]
        return [(self.files[source].path, row + 1) for source, row in places]

    def cache_tokens(self, tokenize: Tokenizes) -> None:
        """Gives TokenizedExamples, out of a token cache, from now on; makes the cache first, where it is not there.

        Args:
            tokenize: What tokenizes them later on would.

        Raises:
            DataError: A file has changed since it was checked.
            ValueError: Scores are asked for, which it does not keep.
            OSError: The cache cannot be written, or the disk is full.
        """
        if any(file.score_key is not None for file in self.files):
            raise ValueError("a token cache keeps no scores; expected no score_key with it")
        pools = (self.num_hard_negatives > 0, self.num_other_negatives > 0)
        self._caches = [TokenCache(file, tokenize, pools) for file in self.files]

    def apply_sharding(
        self,
        num_of_instances: int,
        instance_id: int,
        sharding_group: SHARDING_PRIORITIES = SHARDING_PRIORITIES.DEFAULT,
    ) -> None:
        """Takes this process's share; torch's DataLoader calls this in each rank and worker.

        By default torch counts ranks and workers as one group, worker by worker.
        """
        if sharding_group == SHARDING_PRIORITIES.DISTRIBUTED:
            self._num_ranks, self._rank = num_of_instances, instance_id
        elif sharding_group == SHARDING_PRIORITIES.MULTIPROCESSING:
            self._num_workers, self._worker = num_of_instances, instance_id
        else:
            info = get_worker_info()
            self._num_workers = info.num_workers if info else 1
            self._num_ranks = num_of_instances // self._num_workers
            self._worker, self._rank = divmod(instance_id, self._num_ranks)

    def __iter__(self) -> Iterator[list[Example]]:
        # Not a generator itself: torch would append its own lines to the message of an error.
        return self._batches()

    def texts(self) -> Iterator[str]:
        """Every question and passage text of the usable rows, in file order."""
        for file in self.files:
            with file.open() as reader:
                for number in file.usable():
                    row = reader.read(int(number))
                    yield row.question
                    for passage in (*row.positives, *row.hard_negatives, *row.other_negatives):
                        if passage is not None:
                            yield passage.title
                            yield passage.text

    def _batches(self) -> Iterator[list[Example]]:
        with ExitStack() as stack:
            readers = [stack.enter_context(source.open()) for source in self._caches or self.files]
            for items, next_items in pairwise(chain(self._shares(), [[]])):
                for source, row in map(self._place, next_items):
                    readers[source].prefetch(row)
                yield [self._example(readers, item) for item in items]

    def _shares(self) -> Iterator[list[int]]:
        """The items that are this process's of each batch that is its worker's."""
        items = self._items(self._epoch)
        ends = np.cumsum([0, *self._batch_sizes(self._epoch)])
        for batch in range(self._first_batch + self._worker, len(ends) - 1, self._num_workers):
            of_batch = items[ends[batch] : ends[batch + 1]]
            share = slice(*(len(of_batch) * rank // self._num_ranks for rank in (self._rank, self._rank + 1)))
            yield of_batch[share].tolist()

    def _items(self, epoch: int) -> np.ndarray:
        """All items of an epoch, in the order in which batches take them."""
        sets = [self._items_of_set(number, epoch) for number in range(len(self.files))]
        if not self.train:
            return np.concatenate(sets)
        if self.one_set_per_batch:
            cut = [_cut(items, self.batch_size, self.drop_last) for items in sets]
            return np.concatenate([cut[number][i] for number, i in self._order_of_batches(epoch)])
        return _shuffle(np.concatenate(sets), self.rows_together, np.random.default_rng([self.seed, epoch]))

    def _items_of_set(self, number: int, epoch: int) -> np.ndarray:
        """The items of one data set, shuffled if batches are of one set."""
        num_all = self._first_rows[-1]
        is_small = num_all * (self.rates[number] + 1) < 1 << 31
        rows = self.files[number].usable(np.int32 if is_small else np.int64) + self._first_rows[number]
        whole, rest = divmod(self.rows_per_set[number], max(1, len(rows)))
        random = np.random.default_rng([self.seed, epoch, number + 1])  # [..., 0] would be [...]
        copies = [rows + copy * num_all for copy in range(whole)]
        if rest:
            copies.append(_shuffle(rows, self.rows_together, random)[:rest] + whole * num_all)
        items = copies[0] if len(copies) == 1 else np.concatenate([rows[:0], *copies])
        return _shuffle(items, self.rows_together, random) if self.one_set_per_batch else items

    def _batch_sizes(self, epoch: int) -> list[int]:
        """The number of rows of each batch of an epoch, in order."""
        if self.one_set_per_batch:
            sizes = [_sizes(num_rows, self.batch_size, self.drop_last) for num_rows in self.rows_per_set]
            return [sizes[number][i] for number, i in self._order_of_batches(epoch)]
        return _sizes(self.num_rows, self.batch_size, self.drop_last)

    def _order_of_batches(self, epoch: int) -> list[tuple[int, int]]:
        """Data set and place within it of each batch of an epoch, where a batch is of one set."""
        batches = [
            (number, i)
            for number, num_rows in enumerate(self.rows_per_set)
            for i in range(len(_sizes(num_rows, self.batch_size, self.drop_last)))
        ]
        return [batches[i] for i in np.random.default_rng([self.seed, epoch]).permutation(len(batches))]

    def _place(self, item: int) -> tuple[int, int]:
        """Data set, and row in it, of an item."""
        number = item % self._first_rows[-1]
        source = bisect_right(self._first_rows, number) - 1
        return source, number - self._first_rows[source]

    def _example(self, readers: Sequence[Reader], item: int) -> Example:
        """An item with only the passages that one step uses."""
        source, number = self._place(item)
        row = readers[source].read(number)
        positives: list[Any] = row.positives
        random = Random((self.seed << 96) + (self._epoch << 64) + item) if self.train else None
        if random and self.sample_positives:
            chosen = int(random.random() * len(positives))
            positives = [positives[chosen], *positives[:chosen], *positives[chosen + 1 :]]
        hard_negatives: list[Any] = _take(row.hard_negatives, self.num_hard_negatives, random)
        other_negatives: list[Any] = _take(row.other_negatives, self.num_other_negatives, random)
        if isinstance(row, TokenRow):  # for the collator, the same
            tokenized: Any = TokenizedExample(row.question, positives, hard_negatives, other_negatives, source, number)
            return tokenized
        return Example(row.question, row.answers, positives, hard_negatives, other_negatives, source, number)

    def _count(self) -> Counter[str]:
        counts = Counter[str]()
        for file in self.files:
            findings = file.findings
            counts += Counter(findings.counts)
            counts["blank lines, left out"] += list(findings.unusable.values()).count(BLANK)
            for name, pool, asked in (
                ("hard_negatives", POOLS[1], self.num_hard_negatives),
                ("other_negatives", POOLS[2], self.num_other_negatives),
            ):
                few = sum(num_rows for size, num_rows in findings.pool_sizes[name].items() if size < asked)
                counts[f"rows with fewer {pool} than asked for"] += few
        if self.drop_last:
            counts["questions left out of each epoch by drop_last"] = self.num_rows - sum(self._batch_sizes(0))
        return +counts

    def _skipped(self) -> Iterator[SkippedRow]:
        for file in self.files:
            for row, reason in file.findings.unusable.items():
                if reason == "blank question" and not self.train:
                    raise DataError(f"{file.rows.where(row)} question: blank; expected a question to evaluate")
                if reason != BLANK:
                    yield SkippedRow(file.path, row + 1, file.rows.offset(row), reason)

    def _check_amounts(self, max_skipped: float) -> None:
        paths = ", ".join(file.path for file in self.files)
        num_usable, num_skipped = sum(self._num_usable), len(self.skipped)
        num_rows = num_skipped + num_usable
        if num_rows == 0:
            raise DataError(f"{paths}: no rows, only blank lines; expected one JSON object a line")
        if num_usable == 0 or num_skipped / num_rows > max_skipped:
            reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(row.reason for row in self.skipped).items())
            first = self.skipped[0]
            raise DataError(
                f"{first.path}:{first.line} (byte {first.byte}): {first.reason}; in all {num_skipped} of {num_rows} "
                f"rows of {paths} are unusable ({reasons}), expected at most {max_skipped:.3%} (max_skipped)"
            )
        if not self._batch_sizes(0):
            raise DataError(
                f"{paths}: {self.num_rows} rows make no batch of {self.batch_size} with drop_last; "
                "expected at least one batch: take a smaller batch_size"
            )


def _sizes(num_rows: int, batch_size: int, drop_last: bool) -> list[int]:
    """Sizes of the batches that a number of rows makes."""
    whole, rest = divmod(num_rows, batch_size)
    return [batch_size] * whole + [rest] * (rest > 0 and not drop_last)


def _shuffle(items: np.ndarray, together: int, random: np.random.Generator) -> np.ndarray:
    """In random order, neighbours together in runs that start elsewhere each time."""
    if together == 1:
        return random.permutation(items)
    runs = np.split(items, np.arange(random.integers(1, together, endpoint=True), len(items), together))
    return np.concatenate([runs[i] for i in random.permutation(len(runs))])


def _cut(items: np.ndarray, batch_size: int, drop_last: bool) -> list[np.ndarray]:
    return [items[i * batch_size :][:size] for i, size in enumerate(_sizes(len(items), batch_size, drop_last))]


def _take(pool: Sequence[T | None], n: int, random: Random | None) -> list[T]:
    """``n`` different ones of the pool that can be used, or all of them: in random order, else the first ones."""
    if n == 0:
        return []
    places = range(len(pool)) if random is None else _shuffled(len(pool), random)
    return list(islice((passage for i in places if (passage := pool[i]) is not None), n))


def _shuffled(n: int, random: Random) -> Iterator[int]:
    """0 to n - 1 in random order, each drawn when it is asked for (Fisher-Yates)."""
    moved: dict[int, int] = {}
    for last in range(n - 1, -1, -1):
        # random() alone is the same in every version of Python.
        i = int(random.random() * (last + 1))
        yield moved.get(i, i)
        moved[i] = moved.get(last, last)
