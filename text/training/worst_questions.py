"""Hardest questions of the latest validation, with the passages ranked above their positives: worst_questions.jsonl.

The pool knows the ranks and the location of each text. The texts are read from the data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from text.artifacts import write_text
from text.datasets import DPRDataPipe
from text.datasets.dpr_file import DPRReader, Row
from text.records import Passage
from text.training.pool import Outranked, PooledPassage


class WorstQuestions(Callback):
    """Callback that writes ``worst_questions.jsonl`` after each validation, on rank 0.

    Args:
        path: File to write.
        num_questions: Maximum number of questions. Questions whose positive is ranked first are left out.
        num_above: Maximum number of passages per question that are ranked above its positive.
    """

    def __init__(self, path: str | os.PathLike[str], num_questions: int = 20, num_above: int = 3) -> None:
        self.path = path
        self.num_questions, self.num_above = num_questions, num_above

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        task: Any = pl_module
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        worst = task.pool.find_worst(self.num_questions, self.num_above, task.device)
        rows = ({"step": trainer.global_step, **row} for row in describe_questions(worst, data.valid))
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def describe_questions(worst: Sequence[Outranked], pipe: DPRDataPipe) -> list[dict[str, Any]]:
    """Return the questions with the texts of their passages, as rows of ``worst_questions.jsonl``.

    Args:
        worst: Questions from batches of ``pipe``.
        pipe: Data of the evaluation.

    Raises:
        DataError: A file has changed since it was checked.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(file.open()) for file in pipe.files]
        return [_build_record(outranked, pipe, readers) for outranked in worst]


def _build_record(outranked: Outranked, pipe: DPRDataPipe, readers: Sequence[DPRReader]) -> dict[str, Any]:
    source, number = outranked.place
    question, answers = readers[source].read(number)[:2]
    return {
        "path": pipe.files[source].path,
        "line": number + 1,
        "question": question,
        "answers": answers,
        "num_above": outranked.num_above,
        "positive": _build_passage(outranked.positive, readers),
        "above": [_build_passage(pooled, readers) for pooled in outranked.above],
    }


def _build_passage(pooled: PooledPassage, readers: Sequence[DPRReader]) -> dict[str, Any]:
    source, number = pooled.place
    passage = next(passage for passage in _list_passages(readers[source].read(number)) if passage.keys == pooled.keys)
    return {
        "passage_id": passage.passage_id,
        "title": passage.title,
        "text": passage.text,
        "score": pooled.score,
    }


def _list_passages(row: Row) -> list[Passage]:
    return [p for p in (*row.positives, *row.hard_negatives, *row.other_negatives) if p is not None]
