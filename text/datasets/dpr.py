"""DPRDataPipe: JSONL in the DPR format to batches of Example.

``text/datasets/order.py`` decides which rows a batch holds. A row is read when its batch is due, by the process that
needs it, and only with the passages that the step uses (``text/datasets/sampling.py``).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from torch.utils.data import IterDataPipe, get_worker_info
from torch.utils.data.datapipes.iter.sharding import SHARDING_PRIORITIES

from text.datasets.collection import PassageCollection
from text.datasets.dpr_file import DPRFile, DPRReader
from text.datasets.held_out import draw_held_out
from text.datasets.identities import check_ids_across
from text.datasets.order import EpochOrder
from text.datasets.same_questions import SameQuestions
from text.datasets.sampling import sample_first, sample_negatives
from text.datasets.skipping import SkippedRow, check_skipped, count_findings, find_skipped
from text.datasets.token_cache import TokenCache, Tokenizes, TokenReader, TokenRow
from text.datasets.tokenless import FindsEmpty, find_tokenless
from text.errors import DataError
from text.records import Example, TokenizedExample

Reader = DPRReader | TokenReader
T = TypeVar("T")

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class DPRDataPipe(IterDataPipe[list[Example]]):
    """Batches of Examples from one or several files in the DPR format.

    All rows are checked once when the pipe is made, and the result of the check is kept beside a large file. Then
    every usable row comes once an epoch. The batches are the same for any number of workers and ranks: a worker takes
    whole batches in turn, a rank takes its share of each batch. Iterating again without ``set_epoch`` gives the same
    batches again.

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
        train: True shuffles the rows, and samples hard and other negatives anew in each epoch.
            False keeps the order of the files and takes the first negatives of each pool.
        passages: Collection in which the passages of compact rows are looked up.
        rates: How often each data set comes in an epoch of training, by default once. A fraction
            takes that share of its rows, drawn anew in each epoch.
        one_set_per_batch: In training, each batch holds rows of one data set, as in DPR. By default all are mixed.
        rows_together: In training, this many neighbouring rows of a file stay together. If they are about one
            article, each meets the passages of the others in its batch, which are harder to tell apart than
            random ones (topic-aware batches, arXiv:2104.06967). 1 mixes all rows.
        sample_positives: In training, train towards a random known positive instead of the first (gold) one.
        num_hard_negatives: Passages from ``hard_negative_ctxs`` per question, or fewer if the pool holds fewer.
        num_other_negatives: Passages from ``negative_ctxs`` per question, or fewer if the pool holds fewer.
        score_key: Key of a guide's or teacher's score, which every passage must then have. By default no score is
            read.
        seed: Decides everything random, together with the epoch.
        drop_last: Leave out the last batch of an epoch, or of each data set with ``one_set_per_batch``, if it is short.
        max_skipped: Largest share of rows that may be unusable: a blank question in training, no positive, a field of
            the wrong type.
        skip_no_positives: Leave out rows whose pool of positives is empty, as DPR does, and count them apart from
            ``max_skipped``.

    Raises:
        DataError: A row cannot be parsed, an id stands with two passages, too many rows are unusable, or there is not
            one batch; with path, line, byte and field.
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
        skip_no_positives: bool = False,
    ) -> None:
        paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        for name, value in (("num_hard_negatives", num_hard_negatives), ("num_other_negatives", num_other_negatives)):
            if value < 0:
                raise ValueError(f"{name} is {value}; expected 0 or more")
        if not 0 <= max_skipped <= 1:
            raise ValueError(f"max_skipped is {max_skipped}; expected a share from 0 to 1")
        if not paths:
            raise ValueError("paths is empty; expected at least one file")
        self._make_order = partial(
            EpochOrder,
            batch_size=batch_size,
            rates=rates,
            rows_together=rows_together,
            one_set_per_batch=one_set_per_batch,
            seed=seed,
            drop_last=drop_last,
            shuffle=train,
        )
        self._make_order([0] * len(paths))  # Refuses a wrong option before the files are read, which may take minutes.
        self.files = [DPRFile(path, passages, score_key) for path in paths]
        check_ids_across(self.files)
        self._same_questions = SameQuestions([file.index for file in self.files])
        self.train = train
        self.sample_positives = sample_positives
        self.num_hard_negatives = num_hard_negatives
        self.num_other_negatives = num_other_negatives
        self._max_skipped, self._skip_no_positives = max_skipped, skip_no_positives
        self._without_tokens: frozenset[int] = frozenset()
        self.skipped: list[SkippedRow]
        """The rows that no batch holds, without those that ``skip_no_positives`` leaves out."""
        self.order: EpochOrder
        """The order of the rows in each epoch, as numbers."""
        self.counts: Counter[str]
        """What the check of the rows found, by reason."""
        self._use_findings()
        self._part = ""
        """Identity of the rows that ``split`` left, by their numbers. Empty for all rows."""
        self._caches: list[TokenCache] | None = None
        self._epoch, self._first_batch = 0, 0
        self._rank, self._num_ranks = 0, 1
        self._worker, self._num_workers = 0, 1

    @property
    def names(self) -> list[str]:
        """A name for each data set: its file, with the folder or the whole path where file names are the same."""
        paths = [Path(file.path) for file in self.files]
        short = [path.name.split(".")[0] for path in paths]
        longer = [f"{path.parent.name}/{path.name}" for path in paths]
        return next((names for names in (short, longer) if len(set(names)) == len(paths)), list(map(str, paths)))

    @property
    def batch_size(self) -> int:
        """Questions per batch, over all ranks together."""
        return self.order.batch_size

    @property
    def seed(self) -> int:
        """Decides everything random, together with the epoch."""
        return self.order.seed

    @property
    def rows_per_set(self) -> list[int]:
        """Questions that each data set brings to an epoch."""
        return self.order.rows_per_set

    @property
    def num_rows(self) -> int:
        """Questions per epoch, before ``drop_last``."""
        return self.order.num_rows

    @property
    def has_negatives(self) -> bool:
        """Whether any row brings a negative of its own."""
        wanted = {"hard_negatives": self.num_hard_negatives, "other_negatives": self.num_other_negatives}
        return any(
            size > 0 and wanted[name] > 0
            for file in self.files
            for name, sizes in file.findings.pool_sizes.items()
            for size in sizes
        )

    @property
    def is_part(self) -> bool:
        """Whether ``split`` has given other rows of the files to another pipe."""
        return bool(self._part)

    @property
    def fingerprint(self) -> str:
        """Identity of the data and of how it is mixed, by content; 16 hexadecimal digits."""
        order = self.order
        data = [(file.findings.sha256, rate) for file, rate in zip(self.files, order.rates, strict=True)]
        collection = [file.passages.sha256 for file in self.files if file.passages is not None]
        described = repr((data, collection, order.one_set_per_batch, order.rows_together, order.drop_last)) + self._part
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    if TYPE_CHECKING:  # torch adds the method at run time, and its type says nothing of the results

        def map(
            self, fn: Callable[[list[Example]], T], input_col: Any = None, output_col: Any = None
        ) -> IterDataPipe[T]:
            """Return a pipe of the results of a function of each batch, such as a ``BiEncoderCollator``."""
            ...

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, also where ``start_row`` leaves some out."""
        return len(self.order.batch_sizes(0))

    def set_epoch(self, epoch: int, start_row: int = 0) -> None:
        """Choose what the next iteration gives.

        With ``persistent_workers`` a DataLoader's workers keep the epoch that they started with:
        make a new DataLoader, or a new iterator without that option, for each epoch.

        Args:
            epoch: 0-based.
            start_row: Rows of the epoch's order that were consumed before, in whole batches.

        Raises:
            ValueError: ``start_row`` would cut batches other than those of the whole epoch.
        """
        self._epoch, self._first_batch = epoch, self.order.find_batch(epoch, start_row)

    def rows_before(self, epoch: int, batch: int) -> int:
        """Return the number of rows of an epoch that come before a batch: the ``start_row`` to continue with it."""
        return self.order.rows_before(epoch, batch)

    def lines(self, epoch: int, batch: int) -> list[tuple[str, int]]:
        """Return the file and the 1-based line of each row of a batch of an epoch, of all ranks together."""
        items = next(islice(self.order.batches(epoch), batch, None)).tolist()
        places = [(self.files[source], row) for source, row in map(self.order.locate, items)]
        return [(file.path, file.rows.place(row)[0]) for file, row in places]

    def split(
        self, share: float, *, num_hard_negatives: int = 30, num_other_negatives: int = 30
    ) -> tuple[DPRDataPipe, DPRDataPipe]:
        """Return this pipe without a share of its questions, and a pipe of these questions for validation.

        No question is on both sides: rows with the same question, or the same question id, go together. The seed of the
        pipe decides which questions are held out. Both pipes read the same files.

        Args:
            share: Share of the different questions to hold out.
            num_hard_negatives: Hard negatives of a question in validation.
            num_other_negatives: Random passages of a question in validation.

        Raises:
            UsageError: ``share`` is not between 0 and 1, or one side would be empty.
        """
        rows = draw_held_out([file.index for file in self.files], share, self.seed)
        part = hashlib.sha256(b"".join(np.array([len(each), *each], np.int64).tobytes() for each in rows)).hexdigest()
        views = [file.split(each) for file, each in zip(self.files, rows, strict=True)]
        rest = self._copy(files=[rest for rest, _ in views], _part=f"without {part}")
        make_order = partial(EpochOrder, batch_size=self.batch_size, seed=self.seed)
        numbers = {"num_hard_negatives": num_hard_negatives, "num_other_negatives": num_other_negatives}
        options = {"train": False, "sample_positives": False, "_make_order": make_order}
        return rest, self._copy(files=[part for _, part in views], _part=f"only {part}", **numbers, **options)

    def cache_tokens(self, tokenize: Tokenizes) -> None:
        """Give TokenizedExamples out of a token cache from now on. The cache is made first if it does not exist.

        Args:
            tokenize: The tokenizer that the batches would be tokenized with later.

        Raises:
            DataError: A file has changed since it was checked.
            ValueError: The pipe reads scores, which a token cache does not keep.
            OSError: The cache cannot be written, or the disk is full.
        """
        if any(file.score_key is not None for file in self.files):
            raise ValueError("a token cache keeps no scores; expected no score_key with it")
        pools = (self.num_hard_negatives > 0, self.num_other_negatives > 0)
        self._caches = [TokenCache(file.whole, tokenize, pools) for file in self.files]

    def leave_out_tokenless(self, collate: FindsEmpty) -> list[str]:
        """Leave out rows whose question or positives have no tokens. They count as unusable rows.

        Of several positives, only those without tokens are left out. Negatives without tokens are counted here, and
        left out of each batch.

        Args:
            collate: Knows the tokenizer, such as a ``BiEncoderCollator``.

        Returns:
            Places of the other rows with passages without tokens.

        Raises:
            DataError: Too many rows are unusable, with the place of each; or a file has changed since it was checked.
        """
        found = [find_tokenless(file, collate) for file in self.files]
        for file, tokenless in zip(self.files, found, strict=True):
            counts = Counter(file.findings.counts) + tokenless.counts
            unusable = file.findings.unusable.merge(tokenless.unusable)
            file.findings = file.findings._replace(unusable=unusable, counts=dict(+counts))
        self._without_tokens = frozenset[int]().union(*(tokenless.positives for tokenless in found))
        self._use_findings()
        return [
            file.rows.where(row) for file, tokenless in zip(self.files, found, strict=True) for row in tokenless.rows
        ]

    def apply_sharding(
        self,
        num_of_instances: int,
        instance_id: int,
        sharding_group: SHARDING_PRIORITIES = SHARDING_PRIORITIES.DEFAULT,
    ) -> None:
        """Take this process's share. torch's DataLoader calls this in each rank and worker.

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
        """Yield every question and passage text of the usable rows, in file order."""
        for file in self.files:
            with file.open() as reader:
                for number in file.usable().tolist():
                    row = reader.read(number)
                    yield row.question
                    for passage in (*row.positives, *row.hard_negatives, *row.other_negatives):
                        if passage is not None:
                            yield passage.title
                            yield passage.text

    def _copy(self, **attributes: Any) -> DPRDataPipe:
        """Return a pipe that differs in some attributes."""
        copied = object.__new__(DPRDataPipe)
        vars(copied).update(vars(self) | attributes)
        copied._use_findings()
        return copied

    def _use_findings(self) -> None:
        """Set the order, the skipped rows and the counts from the findings of the files."""
        self.order = self._make_order(
            [file.findings.num_rows for file in self.files],
            unusable=[file.findings.unusable.rows for file in self.files],
        )
        check_skipped(self.files, self._max_skipped, skip_no_positives=self._skip_no_positives, train=self.train)
        self.skipped = list(find_skipped(self.files, self._skip_no_positives))
        num_trained = sum(self.order.batch_sizes(0))
        if not num_trained:
            raise DataError(
                f"{', '.join(file.path for file in self.files)}: {self.num_rows} rows make no batch of "
                f"{self.batch_size} with drop_last. Take a smaller batch_size."
            )
        counts = count_findings(self.files, self.num_hard_negatives, self.num_other_negatives, self._skip_no_positives)
        counts["questions left out of each epoch by drop_last"] = self.num_rows - num_trained
        self.counts = +counts

    def _batches(self) -> Iterator[list[Example]]:
        shares = self.order.shares(
            self._epoch,
            self._first_batch,
            rank=self._rank,
            num_ranks=self._num_ranks,
            worker=self._worker,
            num_workers=self._num_workers,
        )
        with ExitStack() as stack:
            readers = [stack.enter_context(source.open()) for source in self._caches or self.files]
            for items, next_items in pairwise(chain(shares, [[]])):
                for source, row in map(self.order.locate, next_items):
                    readers[source].prefetch(row)
                yield [self._read_example(readers, item) for item in items]

    def _read_example(self, readers: Sequence[Reader], item: int) -> Example:
        """Return an item with only the passages that one step uses."""
        source, number = self.order.locate(item)
        row = readers[source].read(number)
        random = Random((self.seed << 96) + (self._epoch << 64) + item) if self.train else None
        positives: list[Any] = row.positives
        if self._without_tokens:
            positives = [passage for passage in positives if passage.keys[1] not in self._without_tokens]
        if random and self.sample_positives:
            positives = sample_first(positives, random)
        known = self._same_questions.find_positives(source, number)
        hard_negatives: list[Any] = sample_negatives(row.hard_negatives, self.num_hard_negatives, random)
        other_negatives: list[Any] = sample_negatives(row.other_negatives, self.num_other_negatives, random)
        passages = (positives, hard_negatives, other_negatives)
        if isinstance(row, TokenRow):  # The collator takes both kinds alike.
            tokenized: Any = TokenizedExample(row.question, *passages, source, number, known)
            return tokenized
        return Example(row.question, row.answers, *passages, source, number, known)
