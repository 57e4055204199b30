"""Mines hard negatives, from a model and what it encoded or from runs of any search: rows for training again.

    python examples/dpr/mine.py --rows=train.jsonl --collection=c.tsv --output=hard.jsonl --model=model --embeddings=e
    python examples/dpr/mine.py --rows=train.jsonl --collection=c.tsv --output=more.jsonl --runs='[hard.jsonl.trec]'

The first searches, and leaves the run for the second: other thresholds need no search. Each negative has its id, rank,
score and source; ``OUTPUT.rejected.jsonl`` says why others are not there.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tqdm import tqdm

from examples.dpr import search
from examples.dpr.cli import UsageError, run, shown
from examples.dpr.paths import check_files
from examples.dpr.rows import Record, context, left_out, told, with_contexts
from text.artifacts import atomic_write, sha256, write_json
from text.datasets import DPRFile, PassageCollection, read_questions
from text.datasets.dpr_file import BLANK
from text.errors import ArtifactError, DataError
from text.evaluation import Run, read_run
from text.records import Passage
from text.retrieval import Filters, Negative, Rejected, Source, choose_hard_negatives
from text.retrieval.shards import read_plan

_AUDITED = 10


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    """Mines hard negatives, from a model or from runs: rows for training again."""

    rows: str | None = None
    """Training rows in the DPR format."""
    runs: list[str] = field(default_factory=list)
    """TREC runs of their questions, by search.py (--with_positives) or others; each is a source."""
    model: str | None = None
    """Folder of a model to search with, as one more source, the first one; with --embeddings."""
    embeddings: str | None = None
    """What encode.py made of the collection with that model."""
    num: list[int] = field(default_factory=lambda: [1])
    """Negatives from each source."""
    collection: str | None = None
    """The passages that were searched."""
    output: str | None = None
    """Where the rows go."""
    overwrite: bool = False
    """Replace an earlier result."""
    first_rank: int = 1
    """First rank that is looked at."""
    last_rank: int = 100
    """Last one."""
    min_score: float | None = None
    """Least score."""
    max_score: float | None = None
    """Largest score."""
    margin: float | None = None
    """Least distance of a score below that of the first positive."""
    relative_margin: float | None = None
    """Likewise, as a share of the positive's score."""
    answers: bool = True
    """Leave out passages that hold an answer."""
    max_overlap: float = 0.8
    """Largest share of runs of three words in common with a positive, or with a negative that is taken."""
    sort_by_title: bool = False
    """Rows whose first positives have one title stand together, for main.py --rows_together."""
    best_positive_first: bool = False
    """Positives in the order of their scores in the first source, as training takes the first one: of windows
    (windows.py), that which seems to answer."""
    seed: int = 0
    """Of the sample that is printed."""

    def __post_init__(self) -> None:
        if self.rows is None or self.collection is None or self.output is None:
            raise UsageError("expected --rows, --collection and --output")
        if (self.model is None) != (self.embeddings is None) or (self.model is None and not self.runs):
            raise UsageError("expected --runs, or --model with --embeddings, or all of them")
        if len(self.num) != len(self.runs) + (self.model is not None) or min(self.num) < 0:
            raise UsageError(f"--num is {self.num}; expected a number for each source, the model and each run")
        searched = [f"{self.output}.trec"] if self.model is not None else []
        names = [Path(path).stem for path in (*searched, *self.runs)]
        if len(set(names)) < len(names):
            raise UsageError(f"--runs are {[*searched, *self.runs]}; expected a different name for each")
        self.filters()

    def filters(self) -> Filters:
        names = ("first_rank", "last_rank", "min_score", "max_score", "margin", "relative_margin", "answers")
        return Filters(**{name: getattr(self, name) for name in names}, max_overlap=self.max_overlap)


def main(config: MineConfig) -> None:
    """Writes rows, the reasons, and a summary; prints the last, and a sample."""
    assert config.rows is not None and config.collection is not None
    output = config.output
    assert output is not None
    outputs = [output, f"{output}.rejected.jsonl", f"{output}.summary.json"]
    check_files([config.rows, config.collection, *config.runs], outputs, overwrite=config.overwrite)
    collection = PassageCollection(config.collection)
    file = DPRFile(config.rows, collection)
    tally, random = Tally(left_out(file)), Random(config.seed)
    if config.model is not None:
        config = searched(config)
    with (
        atomic_write(output) as rows,
        atomic_write(f"{output}.rejected.jsonl") as rejects,
        open(rows, "w", encoding="utf-8") as rows_file,
        open(rejects, "w", encoding="utf-8") as rejects_file,
    ):
        for row in mined(config, file, collection):
            rows_file.write(json.dumps(row.record, ensure_ascii=False) + "\n")
            for candidate in row.rejected:
                line = {"question_id": row.question_id, **candidate._asdict()}
                rejects_file.write(json.dumps(line, ensure_ascii=False) + "\n")
            tally.add(row, sum(config.num), random)
    write_json(f"{output}.summary.json", tally.summary())
    report(config, tally)


def searched(config: MineConfig) -> MineConfig:
    """The same, with a run of the model instead of the model.

    Raises:
        ArtifactError: Another collection was encoded.
    """
    assert config.model is not None and config.embeddings is not None and config.collection is not None
    if read_plan(config.embeddings).collection["sha256"] != sha256(config.collection):
        raise ArtifactError(f"{config.embeddings}: not of {config.collection}; expected the collection it was made of")
    found = f"{config.output}.trec"
    search.main(
        search.SearchConfig(
            model=config.model,
            embeddings=config.embeddings,
            questions=config.rows,
            with_positives=True,
            k=config.last_rank,
            run=found,
            overwrite=config.overwrite,
        )
    )
    return replace(config, model=None, embeddings=None, runs=[found, *config.runs])


class MinedRow(NamedTuple):
    """A row of training data, and how its negatives were found."""

    question_id: str
    record: Record
    """With the new negatives."""
    positives: list[Passage]
    negatives: list[Negative]
    rejected: list[Rejected]


class Tally:
    """What there is to say of all rows."""

    def __init__(self, left_out: Counter[str]) -> None:
        self.left_out = left_out
        self.rows = self.short = self.num_negatives = 0
        self.negatives, self.rejected, self.rejected_of_short = Counter[str](), Counter[str](), Counter[str]()
        self.sample: list[tuple[MinedRow, Negative]] = []

    def add(self, row: MinedRow, wanted: int, random: Random) -> None:
        is_short = len(row.negatives) < wanted
        self.rows, self.short = self.rows + 1, self.short + is_short
        self.negatives.update(negative.source for negative in row.negatives)
        self.rejected.update(candidate.reason for candidate in row.rejected)
        self.rejected_of_short.update(candidate.reason for candidate in row.rejected if is_short)
        for negative in row.negatives:  # each of all is as likely to be kept (reservoir sampling; Vitter 1985)
            self.num_negatives += 1
            if len(self.sample) < _AUDITED:
                self.sample.append((row, negative))
            elif (place := random.randrange(self.num_negatives)) < _AUDITED:
                self.sample[place] = (row, negative)

    def summary(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "rows_left_out": dict(self.left_out),
            "rows_with_too_few": self.short,
            "negatives": dict(self.negatives),
            "rejected": dict(self.rejected.most_common()),
            "rejected_where_too_few": dict(self.rejected_of_short.most_common()),
        }


def mined(config: MineConfig, file: DPRFile, collection: PassageCollection) -> Iterator[MinedRow]:
    """Each usable row.

    Raises:
        DataError: A run has none of the questions, or a passage that the collection does not have.
    """
    assert config.rows is not None
    runs = [(path, read_run(path)) for path in config.runs]
    questions, filters = read_questions(config.rows), config.filters()
    for path, found in runs:
        if not any(question.question_id in found for question in questions):
            raise DataError(f"{path}: none of the questions of {config.rows}; expected a run of these")
    with file.open() as reader, file.rows.open() as lines:
        pairs = [pair for pair in zip(questions, _rows(file), strict=True) if pair[1] not in file.findings.unusable]
        if config.sort_by_title:
            pairs.sort(key=lambda pair: reader.read(pair[1]).positives[0].title)
        for question, row in tqdm(pairs, desc="Mining", unit=" rows", disable=None, delay=2):
            read = reader.read(row)
            sources = list(_sources(config, runs, question.question_id))
            positives = _best_first(read.positives, sources[0]) if config.best_positive_first else read.positives
            negatives, rejected = choose_hard_negatives(
                positives,
                read.answers,
                sources,
                lambda name: _find(collection, name, config.runs),
                filters,
                regular_expressions=question.regular_expressions,
            )
            record = json.loads(lines.read(row))
            contexts = None if config.best_positive_first else record.get("positive_ctxs")
            record = with_contexts(record, contexts or [context(each) for each in positives], _found(negatives))
            yield MinedRow(question.question_id, record, positives, negatives, rejected)


def _rows(file: DPRFile) -> list[int]:
    """Numbers of all rows but blank lines, as ``read_questions`` has them."""
    return [row for row in range(len(file.rows)) if file.findings.unusable.get(row) != BLANK]


def _best_first(positives: Sequence[Passage], source: Source) -> list[Passage]:
    """Those without a score last; of equal scores, in their order."""
    return sorted(positives, key=lambda passage: -source.scores.get(passage.passage_id, -math.inf))


def _sources(config: MineConfig, runs: Sequence[tuple[str, Run]], question_id: str) -> Iterator[Source]:
    for (path, found), number in zip(runs, config.num, strict=True):
        yield Source(Path(path).stem, found.get(question_id, {}), number)


def _find(collection: PassageCollection, passage_id: str, runs: Sequence[str]) -> Passage:
    try:
        return collection.find(passage_id)
    except KeyError:
        raise DataError(f"{collection.path}: no passage {passage_id}; expected those of {', '.join(runs)}") from None


def _found(negatives: Sequence[Negative]) -> list[Record]:
    return [
        context(negative.passage) | {"score": negative.score, "rank": negative.rank, "source": negative.source}
        for negative in negatives
    ]


def report(config: MineConfig, tally: Tally) -> None:
    """Prints what was found, why other candidates were not taken, and a sample to be looked at."""
    few = f"{tally.short} with fewer than {sum(config.num)} negatives"
    print(f"{config.output}: {tally.rows} rows, {few}{told(tally.left_out)}")
    for source, count in tally.negatives.items():
        print(f"{count:>10} from {source}")
    print(f"\n{'rejected':>10} {'of short rows':>14}  reason")
    for reason, count in tally.rejected.most_common():
        print(f"{count:>10} {tally.rejected_of_short[reason]:>14}  {reason}")
    for row, negative in tally.sample:
        place = f"[{negative.source} {negative.rank}, {negative.score:.4f}]"
        print(shown(f"\nquestion  {row.record['question']}\npositive  {row.positives[0].text[:200]}"))
        print(shown(f"negative  {negative.passage.text[:200]}  {place}"))


if __name__ == "__main__":
    sys.exit(run(main, MineConfig))
