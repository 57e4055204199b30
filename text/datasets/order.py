"""The order of the rows of an epoch, and their batches.

The order is a permutation that depends on the seed and the epoch. It is cut into batches before the batches are divided
among workers and ranks. In contrastive training a batch supplies the negatives, so its questions must not depend on the
number of workers or ranks. This module only knows row numbers. ``DPRDataPipe`` reads the rows.

An item is one occurrence of a row in an epoch. R is the number of rows of all data sets. A row that occurs c times has
the items row, row + R, ..., row + (c - 1) * R.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, islice

import numpy as np


class EpochOrder:
    """The order of the usable rows of one or several data sets in each epoch.

    >>> order = EpochOrder([5, 2], batch_size=3)
    >>> [items.tolist() for items in order.iter_batches(epoch=0)]
    [[0, 1, 2], [3, 4, 5], [6]]
    >>> order.locate(5)  # the first row of the second data set
    (1, 0)
    >>> list(order.iter_shares(epoch=0, rank=1, num_ranks=2))
    [[1, 2], [4, 5], [6]]
    >>> shuffled = EpochOrder([5, 2], batch_size=3, shuffle=True, seed=1)
    >>> [items.tolist() for items in shuffled.iter_batches(epoch=0)]
    [[5, 0, 1], [4, 2, 6], [3]]

    Args:
        num_rows: Rows of each data set.
        batch_size: Questions per batch, summed over all ranks.
        unusable: Numbers of the unusable rows of each data set.
        rates: Number of passes over each data set per epoch, by default 1. A fraction takes a random share of the rows,
            drawn anew in each epoch.
        rows_together: Number of consecutive rows of a data set that stay together when rows are shuffled.
        one_set_per_batch: Fill each batch from one data set.
        seed: Seed of the order, together with the epoch.
        drop_last: Drop the last batch of an epoch if it is smaller than ``batch_size``. With ``one_set_per_batch``,
            this applies to the last batch of each data set.
        shuffle: Shuffle the rows. False keeps the order of the data sets and of their rows.

    Raises:
        ValueError: A count or a rate is out of range, or an option needs ``shuffle``.
    """

    def __init__(
        self,
        num_rows: Sequence[int],
        batch_size: int,
        *,
        unusable: Sequence[Collection[int] | np.ndarray] = (),
        rates: Sequence[float] | None = None,
        rows_together: int = 1,
        one_set_per_batch: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        shuffle: bool = False,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("rows_together", rows_together, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; expected {least} or more")
        self.rates = [1.0] * len(num_rows) if rates is None else [float(rate) for rate in rates]
        if len(self.rates) != len(num_rows) or not all(0 < rate < 1000 for rate in self.rates):
            sets = "the data set" if len(num_rows) == 1 else f"each of the {len(num_rows)} data sets"
            raise ValueError(f"rates is {self.rates}; expected a number above 0 and below 1000 for {sets}")
        if not shuffle and (one_set_per_batch or set(self.rates) != {1.0}):
            raise ValueError("rates and one_set_per_batch are only for training, where the rows are shuffled")
        self.batch_size = batch_size
        self.rows_together = rows_together
        self.one_set_per_batch = one_set_per_batch
        self.seed = seed
        self.drop_last = drop_last
        self.shuffle = shuffle
        self._unusable = [np.fromiter(rows, np.int64) for rows in unusable] or [np.zeros(0, np.int64)] * len(num_rows)
        self._first_rows = [0, *accumulate(num_rows)]
        """First row of each data set, counted over all data sets, and the total number of rows."""
        self.rows_per_set = [
            round(rate * (size - len(rows)))
            for rate, size, rows in zip(self.rates, num_rows, self._unusable, strict=True)
        ]
        """Number of questions per epoch from each data set."""

    @property
    def num_rows(self) -> int:
        """Number of questions per epoch, before ``drop_last``."""
        return sum(self.rows_per_set)

    def get_batch_sizes(self, epoch: int) -> list[int]:
        """Return the number of rows of each batch of an epoch, in order."""
        if self.one_set_per_batch:
            sizes = [self._compute_batch_sizes(num_rows) for num_rows in self.rows_per_set]
            return [sizes[number][i] for number, i in self._shuffle_batches(epoch)]
        return self._compute_batch_sizes(self.num_rows)

    def count_rows_before(self, epoch: int, batch: int) -> int:
        """Return the number of rows before a batch of an epoch."""
        return sum(self.get_batch_sizes(epoch)[:batch])

    def find_batch(self, epoch: int, start_row: int) -> int:
        """Return the number of the batch that starts at ``start_row`` of an epoch.

        Raises:
            ValueError: No batch starts at this row, and it is not the end of the epoch.
        """
        starts = np.cumsum([0, *self.get_batch_sizes(epoch)])
        batch = int(np.searchsorted(starts, start_row))
        if batch == len(starts) or starts[batch] != start_row:
            raise ValueError(
                f"start_row is {start_row}, which is not the start of a batch of epoch {epoch}. Give a multiple of the "
                f"batch size {self.batch_size}, at most {starts[-1]}."
            )
        return batch

    def iter_batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the items of each batch of an epoch, for all ranks together."""
        items, start = self._draw_items(epoch), 0
        for size in self.get_batch_sizes(epoch):
            yield items[start : start + size]
            start += size

    def iter_shares(
        self,
        epoch: int,
        first_batch: int = 0,
        *,
        rank: int = 0,
        num_ranks: int = 1,
        worker: int = 0,
        num_workers: int = 1,
    ) -> Iterator[list[int]]:
        """Yield the items of each batch that one data worker of one rank reads, from ``first_batch`` on.

        Workers take whole batches in turn, and each rank takes its share of every batch. The sizes of the shares differ
        by at most one. If the last batch has fewer rows than there are ranks, some shares are empty.
        """
        for items in islice(self.iter_batches(epoch), first_batch + worker, None, num_workers):
            start, end = (len(items) * each // num_ranks for each in (rank, rank + 1))
            yield items[start:end].tolist()

    def locate(self, item: int) -> tuple[int, int]:
        """Return the number of the item's data set, and the number of its row in the data set."""
        row = item % self._first_rows[-1]
        source = bisect_right(self._first_rows, row) - 1
        return source, row - self._first_rows[source]

    def _draw_items(self, epoch: int) -> np.ndarray:
        """Return all items of an epoch, in the order of the batches."""
        sets = [self._draw_set_items(source, epoch) for source in range(len(self.rates))]
        if not self.shuffle:
            return np.concatenate(sets)
        if self.one_set_per_batch:
            order = self._shuffle_batches(epoch)
            size = self.batch_size
            items = [sets[source][batch * size : (batch + 1) * size] for source, batch in order]
            return np.concatenate(items) if items else sets[0][:0]
        return _shuffle(np.concatenate(sets), self.rows_together, np.random.default_rng([self.seed, epoch]))

    def _draw_set_items(self, source: int, epoch: int) -> np.ndarray:
        """Return the items of one data set in an epoch. With ``one_set_per_batch`` they are shuffled."""
        num_all = self._first_rows[-1]
        rows = self._get_usable_rows(source)
        whole, rest = divmod(self.rows_per_set[source], max(1, len(rows)))
        # NumPy draws the same numbers for [seed, epoch, 0] as for [seed, epoch], which shuffles all data sets.
        random = np.random.default_rng([self.seed, epoch, source + 1])
        copies = [rows + copy * num_all for copy in range(whole)]
        if rest:
            copies.append(_shuffle(rows, self.rows_together, random)[:rest] + whole * num_all)
        items = copies[0] if len(copies) == 1 else np.concatenate([rows[:0], *copies])
        return _shuffle(items, self.rows_together, random) if self.one_set_per_batch else items

    def _get_usable_rows(self, source: int) -> np.ndarray:
        """Return the usable rows of a data set, numbered over all data sets."""
        is_small = self._first_rows[-1] * (self.rates[source] + 1) < 1 << 31  # 32-bit items take half the memory.
        rows = np.arange(*self._first_rows[source : source + 2], dtype=np.int32 if is_small else np.int64)
        return np.delete(rows, self._unusable[source]) if len(self._unusable[source]) else rows

    def _shuffle_batches(self, epoch: int) -> list[tuple[int, int]]:
        """Return the shuffled batches of an epoch with ``one_set_per_batch``: data set and number of each batch."""
        batches = [
            (source, batch)
            for source, num_rows in enumerate(self.rows_per_set)
            for batch in range(len(self._compute_batch_sizes(num_rows)))
        ]
        return [batches[i] for i in np.random.default_rng([self.seed, epoch]).permutation(len(batches))]

    def _compute_batch_sizes(self, num_rows: int) -> list[int]:
        """Return the sizes of the batches of a number of rows."""
        whole, rest = divmod(num_rows, self.batch_size)
        return [self.batch_size] * whole + [rest] * (rest > 0 and not self.drop_last)


def _shuffle(items: np.ndarray, together: int, random: np.random.Generator) -> np.ndarray:
    """Return the items in random order. Runs of ``together`` items stay together, from a random offset on."""
    if together == 1:
        return random.permutation(items)
    runs = np.split(items, np.arange(random.integers(1, together, endpoint=True), len(items), together))
    return np.concatenate([runs[i] for i in random.permutation(len(runs))])
