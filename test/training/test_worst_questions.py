"""worst_questions.jsonl, compared with plain loops over all questions and passages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from test.training.conftest import Run
from text.datasets import DPRDataPipe
from text.training import WorstQuestions

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
]


def rank_by_loops(run: Run, rows: Path) -> list[dict[str, Any]]:
    """Return for each question, in file order, the passages that score higher than its positive, best first."""
    task, questions, passages = run.task.eval(), [], {}
    for examples in DPRDataPipe(rows, 4):
        batch: Any = run.data.collate(examples)
        with torch.no_grad():
            question_embeddings, passage_embeddings = task.model(batch.questions, batch.passages)
        texts = [p for e in examples for p in (e.positives[0], *e.hard_negatives)]
        passages |= {p.text: embedding.tolist() for p, embedding in zip(texts, passage_embeddings, strict=True)}
        questions += [(e, embedding.tolist()) for e, embedding in zip(examples, question_embeddings, strict=True)]
    found = []
    for example, question in questions:
        scores = {text: sum(a * b for a, b in zip(question, p, strict=True)) for text, p in passages.items()}
        own = example.positives[0].text
        above = sorted((text for text in scores if scores[text] > scores[own]), key=lambda text: -scores[text])
        found.append({"question": example.question, "own": own, "above": above, "scores": scores})
    return found


def test_the_file_of_the_last_validation_equals_plain_loops(rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "worst_questions.jsonl"
    run = Run(rows, tmp_path / "run", callbacks=[WorstQuestions(path, num_questions=5, num_above=2)], max_epochs=2)
    run.task.learning_rate = 1e-5  # low, so that some questions stay hard
    run.fit()
    expected = sorted(rank_by_loops(run, rows), key=lambda entry: -len(entry["above"]))[:5]
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["question"] for row in written] == [entry["question"] for entry in expected]
    assert len(written) == 5
    lines = rows.read_text().splitlines()
    for row, entry in zip(written, expected, strict=True):
        assert (row["step"], row["path"]) == (6, str(rows))
        assert json.loads(lines[row["line"] - 1])["question"] == row["question"]
        assert row["num_above"] == len(entry["above"])
        assert row["positive"]["text"] == entry["own"]
        assert [passage["text"] for passage in row["above"]] == entry["above"][:2]
        for passage in (row["positive"], *row["above"]):
            assert passage["score"] == pytest.approx(entry["scores"][passage["text"]], rel=1e-4)
            assert passage["passage_id"].startswith(passage["title"])


def test_row_numbers_count_skipped_rows_of_the_file(rows: Path, tmp_path: Path) -> None:
    kept = rows.read_text().splitlines(keepends=True)
    empty = json.dumps({"question": "none", "positive_ctxs": []}) + "\n"
    rows.write_text(empty + "".join(kept[:3]) + empty + "".join(kept[3:]))
    pipe = DPRDataPipe(rows, 4, max_skipped=1)
    places = [(example.source, example.row) for batch in pipe for example in batch]
    assert places == [(0, row) for row in range(13) if row not in (0, 4)]
