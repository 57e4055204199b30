"""DPRDataPipe: JSONL in the DPR format to batches of Example.

The order of an epoch is a permutation of row numbers drawn from (seed, epoch). Batches are cut
from it before anything is sharded, because in contrastive training the batch is the objective:
which questions meet must not depend on the number of workers or ranks. Shuffling and skipping
happen on row numbers; a row is read when its batch is due, by the process that needs it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import IterDataPipe, get_worker_info
from torch.utils.data.datapipes.iter.sharding import SHARDING_PRIORITIES
from tqdm import tqdm

from text.datasets.jsonl import JsonlFile
from text.datasets.parse import FieldError, SkipRow, parse_example
from text.errors import DataError
from text.records import Example, Passage

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class SkippedRow(NamedTuple):
    """A row that no batch will hold."""

    path: str
    line: int
    byte: int
    reason: str


class DPRDataPipe(IterDataPipe[list[Example]]):
    """Batches of Examples from one or several JSONL files in the DPR format.

    All rows are checked once when the pipe is made. Then every usable row comes once an epoch,
    in batches that are the same for any number of workers and ranks: a worker takes whole
    batches in turn, a rank takes its share of each batch. Iterating again without ``set_epoch``
    gives the same batches again.

    >>> for batch in DPRDataPipe("train.jsonl", batch_size=16, train=True):  # doctest: +SKIP
    ...     print(batch[0].question, batch[0].positives[0].title)

    Args:
        paths: One file or several; rows are taken as if the files were one, in the order given.
        batch_size: Questions per batch, over all ranks together.
        train: True shuffles the rows, and samples hard and other negatives anew each epoch.
            False keeps the order of the files and takes the first negatives of each pool.
        sample_positives: In training, a random known positive instead of the first (gold) one.
        num_hard_negatives: Passages from ``hard_negative_ctxs`` per question, fewer where the
            pool holds fewer.
        num_other_negatives: Passages from ``negative_ctxs`` per question, likewise.
        seed: With the epoch, decides everything random.
        drop_last: Leaves out the last batch of an epoch where it is short.
        max_skipped: Largest share of rows that may be unusable (blank question in training, no
            positive) before that is an error.

    Raises:
        DataError: A row cannot be parsed or lacks a field, too many rows are unusable, or there
            is not one batch; with path, line, byte and field.
        ValueError: A count or share is out of range.
        OSError: A file cannot be read.
    """

    def __init__(
        self,
        paths: Paths,
        batch_size: int,
        *,
        train: bool = False,
        sample_positives: bool = False,
        num_hard_negatives: int = 1,
        num_other_negatives: int = 0,
        seed: int = 0,
        drop_last: bool = False,
        max_skipped: float = 0.001,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_hard_negatives", num_hard_negatives, 0),
            ("num_other_negatives", num_other_negatives, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; expected {least} or more")
        if not 0 <= max_skipped <= 1:
            raise ValueError(f"max_skipped is {max_skipped}; expected a share from 0 to 1")
        self.files = [JsonlFile(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
        if not self.files:
            raise ValueError("paths is empty; expected at least one file")
        self.batch_size = batch_size
        self.train = train
        self.sample_positives = sample_positives
        self.num_hard_negatives = num_hard_negatives
        self.num_other_negatives = num_other_negatives
        self.seed = seed
        self.drop_last = drop_last
        self.counts: Counter[str] = Counter()
        """What was found while checking the rows, by reason."""
        self.skipped: list[SkippedRow] = []
        """The rows that no batch will hold."""
        self._has_negatives = False
        self._first_rows = np.cumsum([0, *map(len, self.files)])  # of each file, and the end
        self._rows = self._check_rows(max_skipped)
        self._epoch, self._start_row = 0, 0
        self._rank, self._num_ranks = 0, 1
        self._worker, self._num_workers = 0, 1

    @property
    def num_rows(self) -> int:
        """Usable rows, which is questions per epoch."""
        return len(self._rows)

    @property
    def has_negatives(self) -> bool:
        """Whether any row brings a negative of its own."""
        return self._has_negatives

    def __len__(self) -> int:
        """Batches in a whole epoch, also where ``start_row`` leaves some out."""
        whole, rest = divmod(self.num_rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int, start_row: int = 0) -> None:
        """Chooses what the next iteration gives.

        With ``persistent_workers`` a DataLoader's workers keep the epoch that they started with:
        make a new DataLoader, or a new iterator without that option, for each epoch.

        Args:
            epoch: 0-based.
            start_row: Rows of the epoch's order that were consumed before, a multiple of
                ``batch_size``.

        Raises:
            ValueError: ``start_row`` would cut batches other than those of the whole epoch.
        """
        if start_row < 0 or start_row % self.batch_size:
            raise ValueError(f"start_row is {start_row}; expected a multiple of the batch size {self.batch_size}")
        self._epoch, self._start_row = epoch, start_row

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
        for row in self._rows:
            example = self._whole_example(row)
            yield example.question
            for passage in (*example.positives, *example.hard_negatives, *example.other_negatives):
                yield passage.title
                yield passage.text

    def _batches(self) -> Iterator[list[Example]]:
        order = self._rows
        if self.train:
            order = np.random.default_rng([self.seed, self._epoch]).permutation(order)
        starts = range(self._start_row, len(self) * self.batch_size, self.batch_size)
        for start in starts[self._worker :: self._num_workers]:
            rows = order[start : start + self.batch_size]
            share = slice(*(len(rows) * rank // self._num_ranks for rank in (self._rank, self._rank + 1)))
            yield [self._example(row) for row in rows[share]]

    def _example(self, row: int) -> Example:
        """A row with only the passages that one step uses."""
        example = self._whole_example(row)
        if not self.train:
            return example._replace(
                hard_negatives=example.hard_negatives[: self.num_hard_negatives],
                other_negatives=example.other_negatives[: self.num_other_negatives],
            )
        random = np.random.default_rng([self.seed, self._epoch, int(row)])
        positives = example.positives
        if self.sample_positives:
            chosen = int(random.integers(len(positives)))
            positives = [positives[chosen], *positives[:chosen], *positives[chosen + 1 :]]
        return example._replace(
            positives=positives,
            hard_negatives=_sample(example.hard_negatives, self.num_hard_negatives, random),
            other_negatives=_sample(example.other_negatives, self.num_other_negatives, random),
        )

    def _locate(self, row: int) -> tuple[JsonlFile, int]:
        file = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return self.files[file], int(row - self._first_rows[file])

    def _whole_example(self, row: int) -> Example:
        """A row that was usable when the pipe was made, with all its passages."""
        file, line = self._locate(row)
        try:
            return parse_example(file.parse(line), Counter())
        except (SkipRow, FieldError) as error:
            raise DataError(f"{file.where(line)} {error}; the file has changed since it was checked") from None

    def _check_rows(self, max_skipped: float) -> np.ndarray:
        """Reads every row once; returns the numbers of the usable ones."""
        total, usable = int(self._first_rows[-1]), []
        names = ", ".join(os.path.basename(file.path) for file in self.files)
        # delay: a small file is checked before a bar is worth showing.
        for row in tqdm(range(total), desc=f"Checking {names}", unit="row", delay=2, leave=False, disable=None):
            file, line = self._locate(row)
            if file.is_blank(line):
                self.counts["blank lines, left out"] += 1
                continue
            reason = self._check_row(file, line)
            if reason is None:
                usable.append(row)
            else:
                self.skipped.append(SkippedRow(file.path, line + 1, file.offset(line), reason))
        self._check_amounts(len(usable), max_skipped)
        return np.array(usable, dtype=np.int64)

    def _check_row(self, file: JsonlFile, line: int) -> str | None:
        """Why a row is left out, if it is."""
        try:
            example = parse_example(file.parse(line), self.counts)
        except SkipRow as skip:
            reason = str(skip)
            if reason == "blank question" and not self.train:
                raise DataError(f"{file.where(line)} question: blank; expected a question to evaluate") from None
            return reason
        except FieldError as error:
            raise DataError(f"{file.where(line)} {error}") from None
        for name, pool, asked in (
            ("hard_negative_ctxs", example.hard_negatives, self.num_hard_negatives),
            ("negative_ctxs", example.other_negatives, self.num_other_negatives),
        ):
            self._has_negatives |= bool(pool[:asked])
            if len(pool) < asked:
                self.counts[f"rows with fewer {name} than asked for"] += 1
        return None

    def _check_amounts(self, num_usable: int, max_skipped: float) -> None:
        paths = ", ".join(file.path for file in self.files)
        num_skipped = len(self.skipped)
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
        if self.drop_last and num_usable < self.batch_size:
            raise DataError(
                f"{paths}: {num_usable} rows make no batch of {self.batch_size} with drop_last; "
                "expected at least one batch: take a smaller batch_size"
            )


def _sample(pool: list[Passage], n: int, random: np.random.Generator) -> list[Passage]:
    """``n`` different passages of the pool, or all of a smaller one, in random order."""
    return [pool[i] for i in random.permutation(len(pool))[:n]]
