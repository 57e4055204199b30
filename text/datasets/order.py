"""The order of the rows of an epoch, and the batches that it is cut into.

The order is a permutation drawn from (seed, epoch). It is cut into batches before anything is sharded, because in
contrastive training the batch is part of the objective: which questions meet must not depend on the number of workers
or ranks. This module knows numbers of rows only. ``DPRDataPipe`` reads the rows.

An item is one place of a row in an epoch. With R rows in all data sets together, a row that comes c times is the items
row, row + R, ..., row + (c - 1) * R.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, islice

import numpy as np


class EpochOrder:
    """The order of the usable rows of one or several data sets in each epoch.

    >>> order = EpochOrder([5, 2], batch_size=3)
    >>> [items.tolist() for items in order.batches(epoch=0)]
    [[0, 1, 2], [3, 4, 5], [6]]
    >>> order.locate(5)  # the first row of the second data set
    (1, 0)
    >>> list(order.shares(epoch=0, rank=1, num_ranks=2))
    [[1, 2], [4, 5], [6]]
    >>> shuffled = EpochOrder([5, 2], batch_size=3, shuffle=True, seed=1)
    >>> [items.tolist() for items in shuffled.batches(epoch=0)]
    [[5, 0, 1], [4, 2, 6], [3]]

    Args:
        num_rows: Rows of each data set.
        batch_size: Questions per batch, over all ranks together.
        unusable: Numbers of the rows of each data set that no batch holds.
        rates: How often each data set comes in an epoch, by default once. A fraction takes that share of its rows,
            drawn anew in each epoch.
        rows_together: This many neighbouring rows of a data set stay together when they are shuffled.
        one_set_per_batch: Each batch holds rows of one data set.
        seed: Decides the order, together with the epoch.
        drop_last: Leave out the last batch of an epoch, or of each data set with ``one_set_per_batch``, if it is short.
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
            raise ValueError("rates and one_set_per_batch are for training, where rows are shuffled")
        self.batch_size = batch_size
        self.rows_together = rows_together
        self.one_set_per_batch = one_set_per_batch
        self.seed = seed
        self.drop_last = drop_last
        self.shuffle = shuffle
        self._unusable = [np.fromiter(rows, np.int64) for rows in unusable] or [np.zeros(0, np.int64)] * len(num_rows)
        self._first_rows = [0, *accumulate(num_rows)]
        """Where each data set starts among all rows, and the number of all rows."""
        self.rows_per_set = [
            round(rate * (size - len(rows)))
            for rate, size, rows in zip(self.rates, num_rows, self._unusable, strict=True)
        ]
        """Questions that each data set brings to an epoch."""

    @property
    def num_rows(self) -> int:
        """Questions per epoch, before ``drop_last``."""
        return sum(self.rows_per_set)

    def batch_sizes(self, epoch: int) -> list[int]:
        """Return the number of rows of each batch of an epoch, in order."""
        if self.one_set_per_batch:
            sizes = [self._cut(num_rows) for num_rows in self.rows_per_set]
            return [sizes[number][i] for number, i in self._order_of_batches(epoch)]
        return self._cut(self.num_rows)

    def rows_before(self, epoch: int, batch: int) -> int:
        """Return the number of rows of an epoch that come before a batch."""
        return sum(self.batch_sizes(epoch)[:batch])

    def find_batch(self, epoch: int, start_row: int) -> int:
        """Return the number of the batch before which ``start_row`` rows of an epoch come.

        Raises:
            ValueError: No batch starts or ends there.
        """
        starts = np.cumsum([0, *self.batch_sizes(epoch)])
        batch = int(np.searchsorted(starts, start_row))
        if batch == len(starts) or starts[batch] != start_row:
            raise ValueError(
                f"start_row is {start_row}; expected the end of a batch of epoch {epoch}: "
                f"a multiple of the batch size {self.batch_size}, at most {starts[-1]}"
            )
        return batch

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the items of each batch of an epoch, of all ranks together."""
        items, start = self._items(epoch), 0
        for size in self.batch_sizes(epoch):
            yield items[start : start + size]
            start += size

    def shares(
        self,
        epoch: int,
        first_batch: int = 0,
        *,
        rank: int = 0,
        num_ranks: int = 1,
        worker: int = 0,
        num_workers: int = 1,
    ) -> Iterator[list[int]]:
        """Yield the items that one data worker of one rank takes of an epoch, from ``first_batch`` on.

        A worker takes whole batches in turn. A rank takes its share of each batch. The shares of two ranks differ in
        size by at most one, and are empty for some ranks in a last batch with fewer rows than ranks.
        """
        for items in islice(self.batches(epoch), first_batch + worker, None, num_workers):
            start, end = (len(items) * each // num_ranks for each in (rank, rank + 1))
            yield items[start:end].tolist()

    def locate(self, item: int) -> tuple[int, int]:
        """Return the number of an item's data set, and the number of its row there."""
        row = item % self._first_rows[-1]
        source = bisect_right(self._first_rows, row) - 1
        return source, row - self._first_rows[source]

    def _items(self, epoch: int) -> np.ndarray:
        """Return all items of an epoch, in the order in which batches take them."""
        sets = [self._items_of_set(source, epoch) for source in range(len(self.rates))]
        if not self.shuffle:
            return np.concatenate(sets)
        if self.one_set_per_batch:
            order = self._order_of_batches(epoch)
            size = self.batch_size
            return np.concatenate([sets[source][batch * size : (batch + 1) * size] for source, batch in order])
        return _shuffle(np.concatenate(sets), self.rows_together, np.random.default_rng([self.seed, epoch]))

    def _items_of_set(self, source: int, epoch: int) -> np.ndarray:
        """Return the items of one data set, shuffled if each batch holds rows of one set."""
        num_all = self._first_rows[-1]
        rows = self._usable_rows(source)
        whole, rest = divmod(self.rows_per_set[source], max(1, len(rows)))
        # NumPy draws the same numbers for [seed, epoch, 0] as for [seed, epoch], which shuffles all sets.
        random = np.random.default_rng([self.seed, epoch, source + 1])
        copies = [rows + copy * num_all for copy in range(whole)]
        if rest:
            copies.append(_shuffle(rows, self.rows_together, random)[:rest] + whole * num_all)
        items = copies[0] if len(copies) == 1 else np.concatenate([rows[:0], *copies])
        return _shuffle(items, self.rows_together, random) if self.one_set_per_batch else items

    def _usable_rows(self, source: int) -> np.ndarray:
        """Return the usable rows of a data set, counted over all data sets."""
        is_small = self._first_rows[-1] * (self.rates[source] + 1) < 1 << 31  # then items fit into half the memory
        rows = np.arange(*self._first_rows[source : source + 2], dtype=np.int32 if is_small else np.int64)
        return np.delete(rows, self._unusable[source]) if len(self._unusable[source]) else rows

    def _order_of_batches(self, epoch: int) -> list[tuple[int, int]]:
        """Return the data set of each batch and the batch's number in it, where each batch holds rows of one set."""
        batches = [
            (source, batch)
            for source, num_rows in enumerate(self.rows_per_set)
            for batch in range(len(self._cut(num_rows)))
        ]
        return [batches[i] for i in np.random.default_rng([self.seed, epoch]).permutation(len(batches))]

    def _cut(self, num_rows: int) -> list[int]:
        """Return the sizes of the batches that a number of rows makes."""
        whole, rest = divmod(num_rows, self.batch_size)
        return [self.batch_size] * whole + [rest] * (rest > 0 and not self.drop_last)


def _shuffle(items: np.ndarray, together: int, random: np.random.Generator) -> np.ndarray:
    """Return items in random order, with neighbours together in runs that start elsewhere each time."""
    if together == 1:
        return random.permutation(items)
    runs = np.split(items, np.arange(random.integers(1, together, endpoint=True), len(items), together))
    return np.concatenate([runs[i] for i in random.permutation(len(runs))])
