"""``dpr-text mine``: mine hard negatives for training rows from a model's embeddings or from TREC runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from text.artifacts import check_files
from text.commands.cli import MAX_SEED, number_field
from text.commands.model_paths import model_path_field
from text.errors import UsageError
from text.evaluation.run_source import get_source_path
from text.evaluation.score_source import get_scores_path
from text.retrieval import Filters, mine_hard_negatives, search_rows
from text.retrieval.counts import describe_run
from text.retrieval.mining import name_sources
from text.retrieval.mining_summary import describe_summary
from text.retrieval.plan import read_plan
from text.retrieval.row_scores import SCORE_KEY, check_score_key
from text.retrieval.run_files import record_search
from text.retrieval.teachers import describe_default_precision, load_teacher


@dataclass(frozen=True, kw_only=True)
class MineFlags:
    r"""Mine hard negatives for training rows from a model, from runs, or from both.

    Examples::

        dpr-text mine --rows=train.jsonl --collection=psgs_w100.tsv --model=runs/nq/model \
            --embeddings=runs/nq-passages --output=mined.jsonl
        dpr-text mine --rows=train.jsonl --collection=psgs_w100.tsv --runs dense.trec bm25.trec --num 1 1 \
            --output=mined.jsonl
        dpr-text mine --rows=train.jsonl --collection=psgs_w100.tsv --runs=dense.trec --teacher=ms-marco-MiniLM-L6-v2 \
            --teacher_relative_margin=0.05 --output=mined.jsonl
    """

    rows: str
    """Training rows in the DPR format."""
    collection: str
    """Passage file that was searched."""
    output: str
    """Output file for the mined rows. OUTPUT.rejected.jsonl lists the rejected candidates with reasons, and
    OUTPUT.summary.json counts them. OUTPUT.audit.json estimates the share of false negatives. OUTPUT.trec is the run
    of --model."""
    runs: list[str] = field(default_factory=list)
    """TREC runs of the rows' questions (dpr-text search --with_positives). Each run is a source of negatives; a dense
    run and a BM25 run give different kinds."""
    model: str | None = model_path_field(None)
    """Folder of a model to search with, together with --embeddings. Its run becomes the first source."""
    embeddings: str | None = None
    """Folder of the collection's embeddings from this model."""
    encoder_precision: Literal["float32", "bfloat16", "float16", "int8"] | None = None
    """Precision of the question encoder and of the teacher, used with --model or --teacher. The default is float32 on a
    CPU, bfloat16 on a GPU, and float16 on a GPU older than Ampere. int8 needs a CPU, and float16 needs a GPU."""
    teacher: str | None = model_path_field(None)
    """Folder of a reranker or a bi-encoder that scores the positives and the candidates. Its scores are written into
    the rows, for --teacher_margin and for dpr-text train --score_key."""
    score_key: str = "teacher_score"
    """Name of the field for the scores of the teacher, used with --teacher."""
    round: str | None = None
    """Name of this round of mining, which each negative records."""
    num: list[int] = field(default_factory=lambda: [1])
    """Number of negatives from each source: one for --model if given, then one for each of --runs."""
    filters: Filters = field(default_factory=Filters)
    """Conditions that a negative must meet."""
    sort_by_title: bool = False
    """Sort rows by the title of their first positive, for dpr-text train --rows_together."""
    best_positive_first: bool = False
    """Sort the positives of each row by their scores in the first source, because training uses the first positive. Use
    it for windows (dpr-text windows), where only some windows answer the question."""
    overwrite: bool = False
    """Replace earlier results."""
    seed: int = number_field(0, least=0, most=MAX_SEED)
    """Random seed for the sample of negatives that is printed."""

    def __post_init__(self) -> None:
        if (self.model is None) != (self.embeddings is None) or (self.model is None and not self.runs):
            raise UsageError("--runs, --model, --embeddings: give --runs, or --model with --embeddings, or all three.")
        if self.encoder_precision is not None and self.model is None and self.teacher is None:
            raise UsageError("--encoder_precision needs --model or --teacher.")
        if self.teacher is None and (self.filters.needs_teacher or self.score_key != SCORE_KEY):
            raise UsageError("--teacher_margin, --teacher_relative_margin, --score_key: these flags need --teacher.")
        name_sources(self.sources, self.num)

    @property
    def model_run(self) -> str:
        """Output file for the run of the model."""
        return f"{self.output}.trec"

    @property
    def sources(self) -> list[str]:
        """Run files to mine from."""
        return self.runs if self.model is None else [self.model_run, *self.runs]


def mine(flags: MineFlags) -> None:
    """Search with the model if one is given, mine from all runs, and print a summary."""
    check_score_key(flags.score_key)
    outputs = [f"{flags.output}{ending}" for ending in ("", ".rejected.jsonl", ".summary.json", ".audit.json")]
    if flags.model is not None:
        outputs += [flags.model_run, str(get_source_path(flags.model_run))]
    if flags.teacher is not None:
        outputs += [str(get_scores_path(flags.output))]
    inputs = [flags.rows, flags.collection, *flags.runs, flags.model, flags.embeddings, flags.teacher]
    check_files(inputs, outputs, overwrite=flags.overwrite)
    found = model_search = None
    if flags.model is not None and flags.embeddings is not None:
        k = flags.filters.last_rank
        model_search = record_search(flags.model, flags.embeddings, "exact")
        found = search_rows(
            flags.model,
            flags.embeddings,
            flags.rows,
            flags.collection,
            k,
            log=print,
            precision=flags.encoder_precision,
        )
        for line in describe_run(flags.model_run, found, min(k, read_plan(flags.embeddings).num_rows)):
            print(line)
    teacher = None
    if flags.teacher is not None:
        teacher = load_teacher(flags.teacher, precision=flags.encoder_precision)
        for line in describe_default_precision(flags.encoder_precision, None) if flags.model is None else ():
            print(line)
    summary = mine_hard_negatives(
        flags.rows,
        flags.collection,
        flags.runs,
        flags.output,
        num=flags.num,
        filters=flags.filters,
        sort_by_title=flags.sort_by_title,
        best_positive_first=flags.best_positive_first,
        seed=flags.seed,
        model_run=found,
        model_search=model_search,
        teacher=teacher,
        score_key=flags.score_key,
        round_name=flags.round,
        overwrite=flags.overwrite,
    )
    if flags.filters.answers and summary.num_without_answers:
        print(f"{summary.num_without_answers} rows have no answers, so their negatives were not checked for answers")
    for line in describe_summary(flags.output, summary):
        print(line)
    print(f"\nwritten: {', '.join(outputs)}")
