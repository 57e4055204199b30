"""DPRDataPipe, which reads files in the DPR format and yields batches of Example.

``text/datasets/order.py`` decides which rows each batch holds. The process that uses a batch reads its rows, and only
parses the passages that ``text/datasets/sampling.py`` chooses.
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

import text.datasets.torchdata_pipes  # noqa: F401  The import adds torchdata's methods to DataPipes.
from text.datasets.collection import PassageCollection
from text.datasets.dpr_file import DPRFile, DPRReader
from text.datasets.held_out import draw_held_out
from text.datasets.identities import check_ids_across
from text.datasets.order import EpochOrder
from text.datasets.same_questions import SameQuestions
from text.datasets.sampling import sample_first, sample_negatives
from text.datasets.skipping import SkippedRow, check_skipped, count_findings, find_skipped
from text.datasets.token_cache import TextTokenizer, TokenCache, TokenReader, TokenRow
from text.datasets.tokenless import EmptyTextFinder, find_tokenless
from text.errors import DataError
from text.records import Example, TokenizedExample

Reader = DPRReader | TokenReader
T = TypeVar("T")

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class DPRDataPipe(IterDataPipe[list[Example]]):
    r"""DataPipe of batches of examples from one or several files in the DPR format.

    All rows are checked when the pipe is built. For a large file, the findings are kept in a sidecar file beside it.
    Each epoch contains every usable row once, unless ``rates`` says otherwise. The batches do not depend on the number
    of workers and ranks: workers take whole batches in turn, and each rank takes its share of every batch. Iterating
    again without ``set_epoch`` repeats the same batches.

    >>> import json, tempfile
    >>> rows = [{"question": f"{n} + 1", "positive_ctxs": [{"title": "sum", "text": f"{n + 1}"}]} for n in range(5)]
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write("".join(json.dumps(row) + "\n" for row in rows)), file.flush()
    ...     pipe = DPRDataPipe(file.name, batch_size=2)
    ...     print([[example.question for example in batch] for batch in pipe])
    [['0 + 1', '1 + 1'], ['2 + 1', '3 + 1'], ['4 + 1']]

    Args:
        paths: Path of each data set: JSONL or a JSON array, plain or compressed with gzip or zstd.
        batch_size: Questions per batch, summed over all ranks.
        train: True shuffles the rows and samples new negatives in each epoch. False keeps the order of the files and
            takes the first negatives of each pool.
        passages: Collection in which the passage ids of compact rows are looked up.
        rates: Number of passes over each data set per epoch, by default 1. A fraction takes a random share of the rows,
            drawn anew in each epoch. Training only.
        one_set_per_batch: Fill each training batch from one data set, as DPR does. By default data sets are mixed.
        rows_together: Number of consecutive rows of a file that stay together when training rows are shuffled. If
            neighbouring rows are about the same topic, their passages are harder in-batch negatives than random ones
            (topic-aware batches, arXiv:2104.06967). 1 shuffles single rows.
        sample_positives: Train on a random known positive of each question instead of the first (gold) one.
        num_hard_negatives: Maximum number of passages from ``hard_negative_ctxs`` per question.
        num_other_negatives: Maximum number of passages from ``negative_ctxs`` per question.
        score_key: Key of the score by a guide or teacher, which every passage must then have. By default no scores are
            read.
        seed: Seed of all random choices, together with the epoch.
        drop_last: Drop the last batch of an epoch if it is smaller than ``batch_size``. With ``one_set_per_batch``,
            this applies to the last batch of each data set.
        max_skipped: Maximum share of unusable rows. A row is unusable if it has no positive, a field of the wrong type
            or, in training, a blank question.
        skip_no_positives: Skip rows whose pool of positives is empty, as DPR does. They do not count towards
            ``max_skipped``.

    Raises:
        DataError: A row cannot be parsed, two different passages have the same id, too many rows are unusable, or the
            rows do not fill one batch. The error gives path, line, byte and field.
        ValueError: A count, share or rate is out of range.
        UsageError: A path is a folder, a pipe or a device.
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
        # This raises errors for options before the files are read, which can take minutes.
        self._make_order([0] * len(paths))
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
        """Unusable rows, except those that ``skip_no_positives`` skips."""
        self.order: EpochOrder
        """Order of the row numbers in each epoch."""
        self.counts: Counter[str]
        """Number of findings of the check, by reason."""
        self._use_findings()
        self.stored_key = ""
        """Identity of the stored embeddings of these rows, as a part of the fingerprint. Empty without them."""
        self._part = ""
        """Identity of the rows that this pipe took in a ``split``. Empty without a split."""
        self._caches: list[TokenCache] | None = None
        self._epoch, self._first_batch = 0, 0
        self._rank, self._num_ranks = 0, 1
        self._worker, self._num_workers = 0, 1

    @property
    def names(self) -> list[str]:
        """Name of each data set: the file name, or a longer part of the path if file names are equal."""
        paths = [Path(file.path) for file in self.files]
        short = [path.name.split(".")[0] for path in paths]
        longer = [f"{path.parent.name}/{path.name}" for path in paths]
        return next((names for names in (short, longer) if len(set(names)) == len(paths)), list(map(str, paths)))

    @property
    def batch_size(self) -> int:
        """Questions per batch, summed over all ranks."""
        return self.order.batch_size

    @property
    def seed(self) -> int:
        """Seed of all random choices, together with the epoch."""
        return self.order.seed

    @property
    def rows_per_set(self) -> list[int]:
        """Number of questions per epoch from each data set."""
        return self.order.rows_per_set

    @property
    def num_rows(self) -> int:
        """Number of questions per epoch, before ``drop_last``."""
        return self.order.num_rows

    @property
    def has_negatives(self) -> bool:
        """True if any row lists negatives of a kind that the batches use."""
        wanted = {"hard_negatives": self.num_hard_negatives, "other_negatives": self.num_other_negatives}
        return any(
            size > 0 and wanted[name] > 0
            for file in self.files
            for name, sizes in file.findings.pool_sizes.items()
            for size in sizes
        )

    @property
    def is_part(self) -> bool:
        """True if this pipe is one of the two that ``split`` returned."""
        return bool(self._part)

    @property
    def fingerprint(self) -> str:
        """Hash of the content of the data and of the options that mix it; 16 hexadecimal digits."""
        order = self.order
        data = [(file.findings.sha256, rate) for file, rate in zip(self.files, order.rates, strict=True)]
        collection = [file.passages.sha256 for file in self.files if file.passages is not None]
        described = repr((data, collection, order.one_set_per_batch, order.rows_together, order.drop_last)) + self._part
        described += self.stored_key
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    if TYPE_CHECKING:  # torch adds this method at run time, and its type does not cover the results.

        def map(
            self, fn: Callable[[list[Example]], T], input_col: Any = None, output_col: Any = None
        ) -> IterDataPipe[T]:
            """Return a pipe that applies a function, such as a ``BiEncoderCollator``, to each batch."""
            ...

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch. ``start_row`` does not change it."""
        return len(self.order.get_batch_sizes(0))

    def set_epoch(self, epoch: int, start_row: int = 0) -> None:
        """Set the epoch and the row at which the next iteration starts.

        The workers of a DataLoader with ``persistent_workers`` keep the epoch that they started with. Make a new
        DataLoader for each epoch, or leave out that option.

        Args:
            epoch: 0-based number of the epoch.
            start_row: Number of rows to skip: the rows of the batches of this epoch that are already done.

        Raises:
            ValueError: ``start_row`` is not at the start of a batch.
        """
        self._epoch, self._first_batch = epoch, self.order.find_batch(epoch, start_row)

    def count_rows_before(self, epoch: int, batch: int) -> int:
        """Return the number of rows before a batch of an epoch: the ``start_row`` that continues with this batch."""
        return self.order.count_rows_before(epoch, batch)

    def find_lines(self, epoch: int, batch: int) -> list[tuple[str, int]]:
        """Return the file and the 1-based line of each row of a batch, for all ranks together."""
        items = next(islice(self.order.iter_batches(epoch), batch, None)).tolist()
        places = [(self.files[source], row) for source, row in map(self.order.locate, items)]
        return [(file.path, file.rows.find_place(row)[0]) for file, row in places]

    def split(
        self, share: float, *, num_hard_negatives: int = 30, num_other_negatives: int = 30
    ) -> tuple[DPRDataPipe, DPRDataPipe]:
        """Split the questions into a training pipe and a validation pipe. Both pipes read the same files.

        Rows with the same question, or the same question id, always go to the same pipe. The seed of the pipe decides
        which questions are held out.

        Args:
            share: Share of the distinct questions to hold out for validation, above 0 and below 1.
            num_hard_negatives: Maximum number of hard negatives per question in validation.
            num_other_negatives: Maximum number of other negatives per question in validation.

        Returns:
            The training pipe and the validation pipe.

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

    def cache_tokens(self, tokenize: TextTokenizer) -> None:
        """Build or load a token cache, and yield TokenizedExamples from it from now on.

        Args:
            tokenize: Tokenizer of the model.

        Raises:
            DataError: A file has changed since it was checked.
            ValueError: The pipe reads scores, which a token cache does not store.
            OSError: The cache cannot be written, or the disk is full.
        """
        if any(file.score_key is not None for file in self.files):
            raise ValueError("a token cache does not store scores. Leave out score_key, or train without the cache.")
        pools = (self.num_hard_negatives > 0, self.num_other_negatives > 0)
        self._caches = [TokenCache(file.whole, tokenize, pools) for file in self.files]

    def leave_out_tokenless(self, collate: EmptyTextFinder) -> list[str]:
        """Skip rows whose question or positives have no tokens. They count as unusable rows.

        A positive without tokens is dropped if its row has other positives. Negatives without tokens are counted here,
        and the collator drops them from each batch.

        Args:
            collate: Collator with the tokenizer, such as a ``BiEncoderCollator``.

        Returns:
            Places of the usable rows that have passages without tokens.

        Raises:
            DataError: Too many rows are unusable, or a file has changed since it was checked.
        """
        found = [find_tokenless(file, collate) for file in self.files]
        for file, tokenless in zip(self.files, found, strict=True):
            counts = Counter(file.findings.counts) + tokenless.counts
            unusable = file.findings.unusable.merge(tokenless.unusable)
            file.findings = file.findings._replace(unusable=unusable, counts=dict(+counts))
        self._without_tokens = frozenset[int]().union(*(tokenless.positives for tokenless in found))
        self._use_findings()
        return [
            file.rows.describe_place(row)
            for file, tokenless in zip(self.files, found, strict=True)
            for row in tokenless.rows
        ]

    def apply_sharding(
        self,
        num_of_instances: int,
        instance_id: int,
        sharding_group: SHARDING_PRIORITIES = SHARDING_PRIORITIES.DEFAULT,
    ) -> None:
        """Restrict iteration to the share of this process. PyTorch's DataLoader calls this in each rank and worker.

        By default PyTorch numbers the workers of all ranks in one group, and the rank changes fastest.
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
        # This method is not a generator itself, because torch would append its own lines to the messages of errors.
        return self._iter_batches()

    def texts(self) -> Iterator[str]:
        """Yield each question, and the title and text of each passage, of the usable rows in file order."""
        for file in self.files:
            with file.open() as reader:
                for number in file.find_usable_rows().tolist():
                    row = reader.read(number)
                    yield row.question
                    for passage in (*row.positives, *row.hard_negatives, *row.other_negatives):
                        if passage is not None:
                            yield passage.title
                            yield passage.text

    def _copy(self, **attributes: Any) -> DPRDataPipe:
        """Return a copy of the pipe with other values of some attributes."""
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
        num_trained = sum(self.order.get_batch_sizes(0))
        if not num_trained:
            raise DataError(
                f"{', '.join(file.path for file in self.files)}: {self.num_rows} rows do not fill a batch of "
                f"{self.batch_size}, and drop_last drops smaller batches. Use a smaller batch_size."
            )
        counts = count_findings(self.files, self.num_hard_negatives, self.num_other_negatives, self._skip_no_positives)
        counts["questions left out of each epoch by drop_last"] = self.num_rows - num_trained
        self.counts = +counts

    def _iter_batches(self) -> Iterator[list[Example]]:
        shares = self.order.iter_shares(
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
        """Return the example of an item, with only the passages that one step uses."""
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
        if isinstance(row, TokenRow):  # The collator takes both kinds of examples.
            tokenized: Any = TokenizedExample(row.question, *passages, source, number, known)
            return tokenized
        return Example(row.question, row.answers, *passages, source, number, known)
