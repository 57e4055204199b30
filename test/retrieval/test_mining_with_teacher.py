"""Mining with a teacher: denoised rows that train, kept scores after an interruption, and the audit of negatives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test.helpers import write_collection
from text.datasets import DPRDataPipe, PassageCollection
from text.errors import ArtifactError
from text.evaluation import write_run
from text.evaluation.negative_audit import read_audit
from text.evaluation.score_source import TeacherRecord, read_score_source
from text.records import Passage
from text.retrieval import Filters, mine_hard_negatives, mined_rows, score_rows

NUM = 12
WORDS = ["a toad sang", "an oak fell", "the king slept", "snow on the hill", "a mole dug", "the elm and the fig"]


class TableTeacher:
    """A teacher that scores passage pN as (7 N + letters of the question) mod 10, and counts its calls."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.record = TeacherRecord("reranker", "folder", "a", {})
        self.calls: list[int] = []
        self._fail_at = fail_at

    def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
        if len(self.calls) == self._fail_at:
            raise KeyboardInterrupt
        self.calls.append(len(passages))
        pairs = zip(questions, passages, strict=True)
        return np.array([score_pair(question, each.passage_id) for question, each in pairs], dtype=np.float32)


def score_pair(question: str, passage_id: str) -> float:
    return float((7 * int(passage_id[1:]) + len(question)) % 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write rows with one positive each, and a run that finds all passages in another order for each question."""
    write_collection(tmp_path / "corpus.jsonl", [f"p{n}" for n in range(NUM)], [f"{n} {n} {n}" for n in range(NUM)])
    rows = [
        {"qid": f"q{n}", "question": "who" + "o" * n, "answers": ["none"], "positive_ids": [f"p{n}"]} for n in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {f"q{n}": {f"p{m}": float((5 * m + 3 * n) % NUM) for m in range(NUM)} for n in range(8)}
    write_run(tmp_path / "dense.trec", found)
    return tmp_path


def mine(folder: Path, output: str, teacher: TableTeacher | None, **options: Any) -> None:
    arguments = (folder / "rows.jsonl", folder / "corpus.jsonl", [folder / "dense.trec"], folder / output)
    mine_hard_negatives(*arguments, num=[3], teacher=teacher, **options)


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_denoised_rows_train_with_the_scores_of_their_teacher(folder: Path) -> None:
    mine(folder, "out", TableTeacher(), filters=Filters(teacher_margin=1.0), score_key="s", round_name="second")
    for number, row in enumerate(read_rows(folder / "out")):
        question, [positive] = row["question"], row["positive_ctxs"]
        assert positive["s"] == score_pair(question, f"p{number}")
        order = sorted(range(NUM), key=lambda m, n=number: -((5 * m + 3 * n) % NUM))
        allowed = [m for m in order if m != number and score_pair(question, f"p{m}") <= positive["s"] - 1]
        negatives = row["hard_negative_ctxs"]
        assert [each["passage_id"] for each in negatives] == [f"p{m}" for m in allowed[:3]]
        for each, place in zip(negatives, allowed, strict=False):
            assert (each["s"], each["round"]) == (score_pair(question, each["passage_id"]), "second")
            assert (each["source"], each["rank"]) == ("dense", order.index(place) + 1)
    source = read_score_source(folder / "out")
    assert source is not None and source.teachers == {"s": TableTeacher().record}
    options = json.loads((folder / "out.summary.json").read_text())["options"]
    assert options["teacher"]["identity"] == "a" and (options["score_key"], options["round"]) == ("s", "second")
    rejected = read_rows(folder / "out.rejected.jsonl")
    assert {line["reason"] for line in rejected} == {"a positive", "teacher scores it near the positive"}
    assert all(("teacher_score" in line) == ("teacher" in line["reason"]) for line in rejected)
    pipe = DPRDataPipe(str(folder / "out"), 1, train=True, num_hard_negatives=1, score_key="s")
    assert pipe.num_rows == 8


def test_positives_without_text_keep_their_place(folder: Path) -> None:
    contexts = [None, {"text": "0 0 0", "passage_id": "p0", "title": "title p0"}, {"text": " "}, {"text": "b"}]
    row = {"qid": "q0", "question": "who", "positive_ctxs": contexts}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")

    class LengthTeacher(TableTeacher):
        def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
            return np.array([len(passage.text) for passage in passages], dtype=np.float32)

    mine(folder, "out", LengthTeacher())
    [mined] = read_rows(folder / "out")
    assert [each and each.get("teacher_score") for each in mined["positive_ctxs"]] == [None, 5.0, None, 1.0]


@pytest.mark.parametrize("group", [1, 3])
def test_the_number_of_rows_scored_together_does_not_matter(
    folder: Path, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters, all_together, fewer = Filters(teacher_relative_margin=0.05), TableTeacher(), TableTeacher()
    mine(folder, "all", all_together, filters=filters)
    monkeypatch.setattr(mined_rows, "_GROUP", group)
    mine(folder, "some", fewer, filters=filters)
    assert (folder / "all").read_bytes() == (folder / "some").read_bytes()
    assert sum(all_together.calls) == sum(fewer.calls) and len(all_together.calls) < len(fewer.calls)


def test_an_interrupted_mining_keeps_its_scores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mined_rows, "_GROUP", 2)
    filters, whole = Filters(teacher_margin=1.0), TableTeacher()
    mine(folder, "whole", whole, filters=filters)
    with pytest.raises(KeyboardInterrupt):
        mine(folder, "out", TableTeacher(fail_at=3), filters=filters)
    assert [path.name for path in folder.glob("out*")] == ["out.partial"]
    again = TableTeacher()
    mine(folder, "out", again, filters=filters)
    assert again.calls == whole.calls[3:]
    for ending in ("", ".rejected.jsonl"):
        assert Path(f"{folder}/out{ending}").read_bytes() == Path(f"{folder}/whole{ending}").read_bytes()
    assert not (folder / "out.partial").exists()


def test_scores_of_compact_rows_are_replaced_and_an_audit_follows_its_rows(folder: Path) -> None:
    collection = PassageCollection(folder / "corpus.jsonl")
    score_rows(folder / "rows.jsonl", folder / "scored", TableTeacher(), collection=collection)
    (folder / "scored").replace(folder / "rows.jsonl")
    mine(folder, "out", TableTeacher())
    assert all("teacher_score" not in row for row in read_rows(folder / "out"))
    score_rows(folder / "out", folder / "again", TableTeacher(), score_key="again")
    before, after = read_audit(folder / "out"), read_audit(folder / "again")
    assert before is not None and after is not None and before.evidence == after.evidence
    for row in read_rows(folder / "again"):
        assert all(each["again"] == each["teacher_score"] for each in row["hard_negative_ctxs"])


def test_replaced_rows_keep_no_record_of_the_rows_before_them(folder: Path) -> None:
    for teacher in (TableTeacher(), None):  # The scores of the first rows are gone.
        mine(folder, "out", teacher)
        known = read_score_source(folder / "out")
        assert (known is None) is (teacher is None) and read_audit(folder / "out") is not None
    passages = PassageCollection(folder / "corpus.jsonl")
    score_rows(folder / "rows.jsonl", folder / "out", TableTeacher(), collection=passages, overwrite=True)
    assert read_audit(folder / "out") is None and read_score_source(folder / "out") is not None


def test_a_teachers_margin_needs_a_teacher(folder: Path) -> None:
    with pytest.raises(ValueError, match="teacher"):
        mine(folder, "out", None, filters=Filters(teacher_margin=1.0))
    assert not list(folder.glob("out*"))


def test_the_audit_by_hand(tmp_path: Path) -> None:
    write_collection(tmp_path / "corpus.jsonl", [f"p{n}" for n in range(6)], WORDS)
    rows = [
        {"qid": "q", "question": "who sang", "answers": ["mole"], "positive_ids": ["p0"]},
        {"qid": "r", "question": "Who sang", "answers": [], "positive_ids": ["p1"]},
        {"qid": "s", "question": "what", "answers": ["king"], "positive_ids": ["p0"]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ranking = {f"p{n}": 9.0 - n for n in range(6)}
    write_run(tmp_path / "dense.trec", dict.fromkeys("qrs", ranking))
    arguments = (tmp_path / "rows.jsonl", tmp_path / "corpus.jsonl", [tmp_path / "dense.trec"])

    class OakTeacher(TableTeacher):
        def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
            return np.array([WORDS.index(passage.text) for passage in passages], dtype=np.float32)

    mine_hard_negatives(*arguments, tmp_path / "out", num=[2], teacher=OakTeacher(), filters=Filters(answers=False))
    # q: p1 is a positive of r; takes p2, p3. r: p0 is a positive of q; takes p2, p3. s: takes p1, p2, which has "king".
    audit = read_audit(tmp_path / "out")
    assert audit is not None and audit.sources == {"dense": 6} and audit.round is None
    assert [each[:4] for each in audit.evidence] == [
        ("a positive of another row with the same question", "candidates", 2, 6),
        ("contains an answer", "candidates", 1, 4),
        ("the teacher scores it above the positive", "candidates", 6, 6),
        ("a positive of another row with the same question", "hard negatives", 0, 4),
        ("contains an answer", "hard negatives", 1, 4),
        ("the teacher scores it above the positive", "hard negatives", 6, 6),
    ]
    mine_hard_negatives(
        *arguments, tmp_path / "kept", num=[2], teacher=OakTeacher(), filters=Filters(teacher_margin=0.0)
    )
    audit = read_audit(tmp_path / "kept")
    assert audit is not None
    # All candidates score above a positive: q has p2, p3, p5; r has p2 to p5; s has p1, p3, p4, p5.
    assert [each[:4] for each in audit.evidence] == [
        ("a positive of another row with the same question", "candidates", 2, 10),
        ("contains an answer", "candidates", 2, 9),
        ("the teacher scores it above the positive", "candidates", 11, 11),
        ("a positive of another row with the same question", "hard negatives", 0, 0),
        ("contains an answer", "hard negatives", 0, 0),
        ("the teacher scores it above the positive", "hard negatives", 0, 0),
    ]
    (tmp_path / "out").write_text("changed")
    with pytest.raises(ArtifactError, match=r"out\.audit\.json"):
        read_audit(tmp_path / "out")


@pytest.mark.parametrize("answers", [True, False])
def test_a_passage_that_several_runs_found_counts_once_in_the_audit(tmp_path: Path, answers: bool) -> None:
    write_collection(tmp_path / "corpus.jsonl", [f"p{n}" for n in range(6)], WORDS)
    rows = [
        {"qid": "q", "question": "who sang", "answers": ["oak", "king"], "positive_ids": ["p0"]},
        {"qid": "r", "question": "Who sang", "answers": ["mole"], "positive_ids": ["p2"]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("one", "two"):
        write_run(tmp_path / f"{name}.trec", {qid: {f"p{n}": 9.0 - n for n in range(6)} for qid in "qr"})
    counts = []
    for names, num in ((["one"], [2]), (["one", "two"], [1, 1])):
        runs, output = [tmp_path / f"{name}.trec" for name in names], tmp_path / "-".join(names)
        filters = Filters(answers=answers, teacher_margin=0.0)
        arguments = (tmp_path / "rows.jsonl", tmp_path / "corpus.jsonl", runs, output)
        mine_hard_negatives(*arguments, num=num, teacher=TableTeacher(), filters=filters)
        audit = read_audit(output)
        assert audit is not None
        counts.append([each[:4] for each in audit.evidence])
    assert counts[0] == counts[1]
    assert sum(found for _, among, found, _ in counts[0] if among == "candidates") >= 4
