"""Scoring of runs: by hand, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from test.helpers import write_collection
from text.datasets import PassageCollection, Question
from text.errors import DataError
from text.evaluation import write_run
from text.retrieval import ScoredRun, describe_scores, score_run, split_seen, summarize_scores
from text.retrieval.scoring import build_dpr_result, read_fused_run, score_by_answers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two of three questions in a run, whose passages p1 and p3 answer them."""
    write_collection(tmp_path / "corpus.jsonl", ["p1", "p2", "p3"], ["a toad sang", "an oak fell", "the king slept"])
    (tmp_path / "questions.csv").write_text("who sang\t['toad']\nwho slept\t['king']\nwho fell\t['oak']\n")
    write_run(tmp_path / "run.trec", {"0": {"p1": 2.0, "p2": 1.0}, "1": {"p2": 2.0, "p3": 1.0}})
    (tmp_path / "qrels").write_text("0 0 p1 1\n1 0 p3 1\n2 0 p2 1\n")
    return tmp_path


def test_accuracy_by_hand(folder: Path) -> None:
    by_answers = {"questions": folder / "questions.csv", "collection": folder / "corpus.jsonl", "k": [1, 2]}
    scored = score_run(folder / "run.trec", **by_answers)
    assert scored.path == f"{folder}/run.trec" and scored.num_missing == 1 and scored.results == []
    assert scored.metrics == {
        "0": {"accuracy@1": 1.0, "accuracy@2": 1.0},
        "1": {"accuracy@1": 0.0, "accuracy@2": 1.0},
        "2": {"accuracy@1": 0.0, "accuracy@2": 0.0},
    }
    skipped = score_run(folder / "run.trec", **by_answers, skip_missing=True, keep_results=True)
    assert list(skipped.metrics) == ["0", "1"] and skipped.num_missing == 0 and skipped.num_skipped == 1
    assert "1 questions that the run lacks left out" in describe_scores(skipped, by_answers=True)
    assert [len(result["ctxs"]) for result in skipped.results] == [2, 2]


def test_qrels_and_answers_agree(folder: Path) -> None:
    by_qrels = score_run(folder / "run.trec", qrels=folder / "qrels", k=[1, 2])
    by_answers = score_run(
        folder / "run.trec", questions=folder / "questions.csv", collection=folder / "corpus.jsonl", k=[1, 2]
    )
    for question_id, metrics in by_answers.metrics.items():
        for k in (1, 2):
            assert by_qrels.metrics[question_id][f"recall@{k}"] == metrics[f"accuracy@{k}"]
    assert by_qrels.num_missing == 1 and by_qrels.results == []


def test_a_result_has_the_form_of_dpr(folder: Path) -> None:
    collection = PassageCollection(folder / "corpus.jsonl")
    question = Question("q", "who sang", ["toad"])
    assert build_dpr_result(question, {"p2": 1.0, "p1": 2.5}, collection) == {
        "question": "who sang",
        "answers": ["toad"],
        "ctxs": [
            {"id": "p1", "title": "title p1", "text": "a toad sang", "score": "2.5", "has_answer": True},
            {"id": "p2", "title": "title p2", "text": "an oak fell", "score": "1.0", "has_answer": False},
        ],
    }
    with pytest.raises(DataError, match=rf"^{folder}/corpus.jsonl: no passage p9"):
        score_by_answers({"q": {"p9": 1.0}}, [question], collection)


def test_a_fused_run_has_the_questions_of_both(folder: Path) -> None:
    write_run(folder / "other.trec", {"1": {"p3": 9.0}, "2": {"2": 1.0, "p2": 0.5}})
    fused = read_fused_run(folder / "run.trec", folder / "other.trec")
    assert fused["1"] == {"p2": 1 / 61, "p3": 1 / 62 + 1 / 61} and list(fused["2"]) == ["2", "p2"]
    assert list(read_fused_run(folder / "run.trec", folder / "other.trec", drop_self_matches=True)["2"]) == ["p2"]


def test_a_summary_compares_runs_of_the_same_questions() -> None:
    run = ScoredRun("a", {"q1": {"mrr@10": 1.0}, "q2": {"mrr@10": 0.5}}, 0, 0, [])
    other = run._replace(path="b", metrics={"q2": {"mrr@10": 0.5}, "q1": {"mrr@10": 0.0}})
    row = summarize_scores(run, other)["mrr@10"]
    assert (row["mean"], row["other"]) == (0.75, 0.25) and 0 < row["p"] <= 1
    assert row["low"] == 0.5 and row["high"] == 1.0
    assert summarize_scores(run, run)["mrr@10"]["p"] == 1.0
    with pytest.raises(DataError, match=r"^b: "):
        summarize_scores(run, other._replace(metrics={"q1": {"mrr@10": 0.0}}))


def test_answers_in_scripts_without_spaces_are_told(folder: Path) -> None:
    write_collection(folder / "zh.jsonl", ["p1", "p2", "p3"], ["长城是中国古代的工程", "富士山", "他生于1985年"])
    (folder / "zh.csv").write_text("长城在哪\t['中国']\n他生于\t['1985']\n谁\t['中国']\n")
    scored = score_run(folder / "run.trec", questions=folder / "zh.csv", collection=folder / "zh.jsonl", k=[2])
    assert [figures["accuracy@2"] for figures in scored.metrics.values()] == [1.0, 1.0, 0.0]
    assert scored.num_unspaced == 2
    assert "2 questions have answers in a script without spaces" in describe_scores(scored, by_answers=True)


def test_judgments_without_a_relevant_passage_are_refused(folder: Path) -> None:
    (folder / "none").write_text("0 0 p1 0\n1 0 p3 -1\n")
    with pytest.raises(DataError, match=rf"^{folder}/none: "):
        score_run(folder / "run.trec", qrels=folder / "none")
    # The only question with a relevant passage is not in the run.
    (folder / "few").write_text("0 0 p1 0\n2 0 p2 1\n")
    for skip_missing in (False, True):
        with pytest.raises(DataError, match=rf"^{folder}/run.trec: .*{folder}/few"):
            score_run(folder / "run.trec", qrels=folder / "few", skip_missing=skip_missing)
    (folder / "some").write_text("0 0 p1 1\n1 0 p3 0\n")
    scored = score_run(folder / "run.trec", qrels=folder / "some")
    assert list(scored.metrics) == ["0"] and scored.num_without_answers == 1 and not scored.notes
    assert "1 questions without a relevant passage left out" in describe_scores(scored, by_answers=False)


def test_a_run_without_a_judged_passage_is_told(folder: Path) -> None:
    (folder / "other").write_text("0 0 doc1 1\n1 0 doc3 1\n")
    scored = score_run(folder / "run.trec", qrels=folder / "other")
    [note] = scored.notes
    assert f"{folder}/run.trec" in note and f"{folder}/other" in note
    assert set(scored.metrics["0"].values()) == {0.0}
    (folder / "other").write_text("0 0 doc1 1\n1 0 doc3 1\n1 0 p2 0\n")  # judged, though not relevant
    assert not score_run(folder / "run.trec", qrels=folder / "other").notes


def test_a_run_of_another_file_is_refused_where_ids_count_the_questions(folder: Path) -> None:
    rows = [{"question": f"q{n}", "answers": ["toad"], "positive_ids": ["p1"]} for n in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_positives: dict[str, Any] = {"positives": folder / "rows.jsonl"}
    by_answers: dict[str, Any] = {"questions": folder / "rows.jsonl", "collection": folder / "corpus.jsonl"}
    for judged in (by_positives, by_answers):
        with pytest.raises(DataError, match=rf"^{folder}/run.trec: .*{folder}/rows.jsonl"):
            score_run(folder / "run.trec", **judged)
        assert score_run(folder / "run.trec", **judged, skip_missing=True).num_skipped == 4


def test_seen_questions_have_a_relevant_passage_in_the_training_rows(folder: Path) -> None:
    train = [
        {"question": "who croaked", "positive_ids": ["p1", "p9"]},
        {"question": "who slept", "positive_ids": ["p8"]},
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    scored = score_run(folder / "run.trec", qrels=folder / "qrels", k=[1])
    parts = split_seen(scored, folder / "train.jsonl", scored)
    found = {name: [list(run.metrics) for run in both if run is not None] for name, both in parts.items()}
    assert found == {"seen": [["0"], ["0"]], "unseen": [["1", "2"], ["1", "2"]]}
    assert split_seen(scored, folder / "train.jsonl")["seen"][1] is None
    by_answers = score_run(folder / "run.trec", questions=folder / "questions.csv", collection=folder / "corpus.jsonl")
    with pytest.raises(DataError, match=rf"^{folder}/run.trec: "):
        split_seen(by_answers, folder / "train.jsonl")


def test_arguments_that_are_refused(folder: Path) -> None:
    run, qrels = folder / "run.trec", folder / "qrels"
    for judged in ({}, {"qrels": qrels, "positives": qrels}, {"questions": qrels}, {"qrels": qrels, "collection": run}):
        with pytest.raises(ValueError, match=r"^qrels, positives, questions"):
            score_run(run, **judged)  # pyright: ignore[reportArgumentType]
    for k in ([], [0, 1]):
        with pytest.raises(ValueError, match=r"^k is "):
            score_run(run, qrels=qrels, k=k)
