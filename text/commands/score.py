"""``dpr-text score``: write the scores of a teacher into training rows. Repeat the command to continue after a stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from text.artifacts import check_files
from text.commands.cli import number_field
from text.commands.model_paths import model_path_field
from text.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ScoreFlags:
    """Score every passage of training rows with a teacher: a reranker, a bi-encoder or BM25.

    dpr-text train --score_key reads the scores for --distillation and --guide_margin.

    Examples::

        dpr-text score --rows=train.jsonl --teacher=ms-marco-MiniLM-L6-v2 --output=scored.jsonl
        dpr-text score --rows=train.jsonl --bm25 --collection=psgs_w100.tsv --score_key=bm25_score --output=scored.jsonl
    """

    rows: str
    """Training rows in the DPR format. They may be compressed, and compact rows need --collection."""
    output: str
    """Output file for the scored rows. OUTPUT.scores.json names the teacher. After an interruption, OUTPUT.partial
    holds the scores so far."""
    teacher: str | None = model_path_field(None)
    """Folder of the teacher: a reranker, or any model that dpr-text encode accepts. Its files tell which it is."""
    bm25: bool = False
    """Score with BM25 instead of a model. Requires --collection, and passages with ids in the rows."""
    collection: str | None = None
    """Passage file of compact rows, or for --bm25."""
    score_key: str = "teacher_score"
    """Name of the field for the scores."""
    overwrite_scores: bool = False
    """Replace scores that the rows already have under --score_key."""
    encoder_precision: Literal["float32", "bfloat16", "float16", "int8"] | None = None
    """Precision of the teacher. The default is float32 on a CPU, bfloat16 on a GPU, and float16 on a GPU older than
    Ampere. int8 needs a CPU, and float16 needs a GPU."""
    device: str | None = None
    """Device of the teacher, such as cpu or cuda. By default, a GPU is used if there is one."""
    batch_tokens: int | None = number_field(None, least=1)
    """Maximum number of tokens in a batch on a GPU. Lower it if the memory of the GPU is not enough."""
    overwrite: bool = False
    """Replace an existing output file, and the partial scores of another teacher."""

    def __post_init__(self) -> None:
        if (self.teacher is None) != self.bm25:
            raise UsageError("--teacher, --bm25: give exactly one of them.")
        if self.bm25 and self.collection is None:
            raise UsageError("--bm25 needs --collection.")
        given = {"encoder_precision": self.encoder_precision, "device": self.device, "batch_tokens": self.batch_tokens}
        unused = [f"--{name}" for name, value in given.items() if value is not None]
        if self.bm25 and unused:
            raise UsageError(f"{unused[0]} needs --teacher. BM25 has no such setting.")


def score(flags: ScoreFlags) -> None:
    """Write the scored rows and print their number."""
    from text.datasets import PassageCollection
    from text.datasets.dpr_rows import format_counts
    from text.evaluation.negative_audit import get_audit_path
    from text.evaluation.score_source import get_scores_path
    from text.retrieval.row_scores import check_score_key, score_rows
    from text.retrieval.teachers import BM25Teacher, describe_default_precision, load_teacher

    check_score_key(flags.score_key)
    outputs = [flags.output, get_scores_path(flags.output), get_audit_path(flags.output)]
    check_files([flags.rows, flags.collection, flags.teacher], outputs, overwrite=flags.overwrite)
    collection = None if flags.collection is None else PassageCollection(flags.collection)
    if flags.teacher is not None:
        precision, device = flags.encoder_precision, flags.device
        teacher = load_teacher(flags.teacher, precision=precision, device=device, batch_tokens=flags.batch_tokens)
        for line in describe_default_precision(precision, device):
            print(line)
    else:
        assert collection is not None
        teacher = BM25Teacher(collection)
    counts = score_rows(
        flags.rows,
        flags.output,
        teacher,
        collection=collection,
        score_key=flags.score_key,
        overwrite_scores=flags.overwrite_scores,
        overwrite=flags.overwrite,
    )
    print(f"{flags.output}: {counts.rows} rows, {counts.passages} passages{format_counts(counts.unusable)}")
    print(f"{flags.score_key}: {teacher.record}")
