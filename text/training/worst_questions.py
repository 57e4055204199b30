"""worst_questions.jsonl: what the last validation found hardest, and what stood in front of the answers.

The pool knows ranks, and where texts stand; these are read from the data, a row for each question and passage told.
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
    """Writes the file anew after each validation, on rank zero.

    Args:
        path: Where to.
        num_questions: Most of them; questions whose positive ranks first are not among them.
        num_above: Most passages to tell of each that rank before its positive.
    """

    def __init__(self, path: str | os.PathLike[str], num_questions: int = 20, num_above: int = 3) -> None:
        self.path = path
        self.num_questions, self.num_above = num_questions, num_above

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        task: Any = pl_module
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        worst = task.pool.find_worst(self.num_questions, self.num_above, task.device)
        rows = ({"step": trainer.global_step, **row} for row in describe(worst, data.valid))
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def describe(worst: Sequence[Outranked], pipe: DPRDataPipe) -> list[dict[str, Any]]:
    """Questions and passages with their texts.

    Args:
        worst: Found in the batches of ``pipe``.
        pipe: That of the evaluation.

    Raises:
        DataError: A file has changed since it was checked.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(file.open()) for file in pipe.files]
        return [_row(outranked, pipe, readers) for outranked in worst]


def _row(outranked: Outranked, pipe: DPRDataPipe, readers: Sequence[DPRReader]) -> dict[str, Any]:
    source, number = outranked.place
    question, answers = readers[source].read(number)[:2]
    return {
        "path": pipe.files[source].path,
        "line": number + 1,
        "question": question,
        "answers": answers,
        "num_above": outranked.num_above,
        "positive": _passage(outranked.positive, readers),
        "above": [_passage(pooled, readers) for pooled in outranked.above],
    }


def _passage(pooled: PooledPassage, readers: Sequence[DPRReader]) -> dict[str, Any]:
    source, number = pooled.place
    passage = next(passage for passage in _passages(readers[source].read(number)) if passage.keys == pooled.keys)
    return {
        "passage_id": passage.passage_id,
        "title": passage.title,
        "text": passage.text,
        "score": pooled.score,
    }


def _passages(row: Row) -> list[Passage]:
    return [p for p in (*row.positives, *row.hard_negatives, *row.other_negatives) if p is not None]
