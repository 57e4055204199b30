"""Scoring of runs: metrics computed by hand, notes and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from test.helpers import parse_place, write_collection
from text.datasets import PassageCollection, Question
from text.errors import DataError
from text.evaluation import write_run
from text.retrieval import ScoredRun, describe_scores, score_run, split_seen, summarize_scores
from text.retrieval.scoring import build_dpr_result, read_fused_run, score_by_answers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write three questions and a run of two of them, which p1 and p3 answer."""
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
    assert "1 questions missing in the run were skipped" in describe_scores(skipped, by_answers=True)
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


def test_results_have_the_format_of_dpr(folder: Path) -> None:
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
    # The passage "2" has the id of its question. Without it, p2 is the first passage.
    fused = read_fused_run(folder / "run.trec", folder / "other.trec", drop_self_matches=True)
    assert fused["2"] == {"p2": 1 / 61}


def test_questions_in_only_one_fused_run_are_noted(folder: Path) -> None:
    write_run(folder / "other.trec", {"1": {"p3": 9.0}, "2": {"p2": 0.5}, "3": {"p2": 0.5}})
    scored = score_run(folder / "run.trec", qrels=folder / "qrels", fuse_with=folder / "other.trec")
    missing = f"2 are missing in {folder}/run.trec, 1 in {folder}/other.trec"
    assert scored.notes == [f"note: 3 questions are in only one of the fused runs ({missing})"]
    assert score_run(folder / "run.trec", qrels=folder / "qrels", fuse_with=folder / "run.trec").notes == []


def test_blank_answers_and_slow_regular_expressions_are_noted(folder: Path) -> None:
    lines = [
        {"question": "who sang", "answers": ["\u200b", "toad"]},
        {"question": "who slept", "answers": ["\ufeff"]},
        {"question": "who fell", "answers": ["(o|oo|ooo?)+(b|bb)+$"], "answer_is_regex": True},
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_collection(folder / "corpus.jsonl", ["p1", "p2", "p3"], ["a toad sang", "o" * 3000 + "c", "the king slept"])
    write_run(folder / "run.trec", {"0": {"p1": 1.0}, "1": {"p2": 1.0}, "2": {"p2": 2.0, "p3": 1.0}})
    scored = score_run(
        folder / "run.trec", questions=folder / "questions.jsonl", collection=folder / "corpus.jsonl", k=[1]
    )
    assert {name: metrics["accuracy@1"] for name, metrics in scored.metrics.items()} == {"0": 1.0, "2": 0.0}
    assert scored.num_without_answers == 1
    blank, slow = scored.notes
    assert blank.startswith("note: 2 blank answers") and slow.startswith("note: 1 regular expressions timed out")


def test_a_summary_compares_runs_of_the_same_questions() -> None:
    run = ScoredRun("a", {"q1": {"mrr@10": 1.0}, "q2": {"mrr@10": 0.5}}, 0, 0, [])
    other = run._replace(path="b", metrics={"q2": {"mrr@10": 0.5}, "q1": {"mrr@10": 0.0}})
    row = summarize_scores(run, other)["mrr@10"]
    assert (row["mean"], row["other"]) == (0.75, 0.25) and 0 < row["p"] <= 1
    assert row["low"] == 0.5 and row["high"] == 1.0
    assert summarize_scores(run, run)["mrr@10"]["p"] == 1.0
    with pytest.raises(DataError, match=r"^b: "):
        summarize_scores(run, other._replace(metrics={"q1": {"mrr@10": 0.0}}))


def test_answers_in_scripts_without_spaces_are_counted(folder: Path) -> None:
    write_collection(folder / "zh.jsonl", ["p1", "p2", "p3"], ["长城是中国古代的工程", "富士山", "他生于1985年"])
    (folder / "zh.csv").write_text("长城在哪\t['中国']\n他生于\t['1985']\n谁\t['中国']\n")
    scored = score_run(folder / "run.trec", questions=folder / "zh.csv", collection=folder / "zh.jsonl", k=[2])
    assert [figures["accuracy@2"] for figures in scored.metrics.values()] == [1.0, 1.0, 0.0]
    assert scored.num_unspaced == 2
    assert "2 questions have answers in a script without spaces" in describe_scores(scored, by_answers=True)


def test_judgments_without_a_relevant_passage_raise(folder: Path) -> None:
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
    assert "1 questions without a relevant passage were skipped" in describe_scores(scored, by_answers=False)


def test_a_run_without_a_judged_passage_is_noted(folder: Path) -> None:
    (folder / "other").write_text("0 0 doc1 1\n1 0 doc3 1\n")
    scored = score_run(folder / "run.trec", qrels=folder / "other")
    [note] = scored.notes
    assert f"{folder}/run.trec" in note and f"{folder}/other" in note
    assert set(scored.metrics["0"].values()) == {0.0}
    (folder / "other").write_text("0 0 doc1 1\n1 0 doc3 1\n1 0 p2 0\n")  # p2 is judged as not relevant.
    assert not score_run(folder / "run.trec", qrels=folder / "other").notes


def test_a_run_with_question_numbers_of_another_file_raises(folder: Path) -> None:
    rows = [{"question": f"q{n}", "answers": ["toad"], "positive_ids": ["p1"]} for n in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_positives: dict[str, Any] = {"positives": folder / "rows.jsonl"}
    by_answers: dict[str, Any] = {"questions": folder / "rows.jsonl", "collection": folder / "corpus.jsonl"}
    for judged in (by_positives, by_answers):
        with pytest.raises(DataError, match=rf"^{folder}/run.trec: .*{folder}/rows.jsonl"):
            score_run(folder / "run.trec", **judged)
        assert score_run(folder / "run.trec", **judged, skip_missing=True).num_skipped == 4


def test_rows_of_one_question_share_their_positives(folder: Path) -> None:
    # One row per positive. A run that ranks the three positives of each question first is perfect.
    rows = [
        {"qid": f"{q}{p}", "question": f"Who\u00e9  {q}" if p else f"whoe\u0301 {q}", "positive_ids": [f"{q}{p}"]}
        for p in range(3)
        for q in "abcd"
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{row['qid']} Q0 {row['qid'][0]}{p} {p} {3 - p}.0 x\n" for row in rows for p in range(3)]
    (folder / "perfect.trec").write_text("".join(lines))
    scored = score_run(folder / "perfect.trec", positives=folder / "rows.jsonl", k=[3, 10])
    assert len(scored.metrics) == 12
    assert all(each["mrr@10"] == each["recall@3"] == each["ndcg@10"] == 1.0 for each in scored.metrics.values())
    (folder / "train.jsonl").write_text('{"question": "x", "positive_ids": ["a2"]}\n')
    [seen, _] = split_seen(scored, folder / "train.jsonl")["seen"]
    assert set(seen.metrics) == {"a0", "a1", "a2"}


def test_rows_with_contradicting_ids_raise(folder: Path) -> None:
    contexts = [{"passage_id": "p1", "text": text} for text in ("a toad", "a frog", "a toad ")]
    rows = [{"question": f"q{n}", "positive_ctxs": [each]} for n, each in enumerate(contexts)]
    rows[2]["hard_negative_ctxs"] = [{"passage_id": "p1"}]  # The text may be missing if there is an id.
    good, bad = folder / "good.jsonl", folder / "bad.jsonl"
    good.write_text("".join(json.dumps(row) + "\n" for row in (rows[0], rows[2])))
    bad.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    scored = score_run(folder / "run.trec", positives=good)
    assert len(split_seen(scored, good)) == 2
    for check in (lambda: score_run(folder / "run.trec", positives=bad), lambda: split_seen(scored, bad)):
        with pytest.raises(DataError) as caught:
            check()
        assert parse_place(caught.value, bad)[::2] == (2, "positive_ctxs[0]")
        assert f"{bad}:1 (byte 0) positive_ctxs[0]" in str(caught.value)


def test_split_seen_by_relevant_passages_in_the_training_rows(folder: Path) -> None:
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
    # Only the ids of positives matter. Blank questions, duplicate row ids and malformed answers are ignored.
    train[0] |= {"id": "1", "answers": {}}
    train[1] |= {"id": "1", "question": " "}
    (folder / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    assert split_seen(scored, folder / "other.jsonl", scored) == parts
    (folder / "none.jsonl").write_text('{"question": "who croaked", "positive_ctxs": [{"text": "a toad"}]}')
    with pytest.raises(DataError, match=rf"^{folder}/none.jsonl: "):
        split_seen(scored, folder / "none.jsonl")
    by_answers = score_run(folder / "run.trec", questions=folder / "questions.csv", collection=folder / "corpus.jsonl")
    with pytest.raises(DataError, match=rf"^{folder}/run.trec: "):
        split_seen(by_answers, folder / "train.jsonl")


def test_invalid_arguments_raise(folder: Path) -> None:
    run, qrels = folder / "run.trec", folder / "qrels"
    for judged in ({}, {"qrels": qrels, "positives": qrels}, {"questions": qrels}, {"qrels": qrels, "collection": run}):
        with pytest.raises(ValueError, match=r"^qrels, positives, questions"):
            score_run(run, **judged)  # pyright: ignore[reportArgumentType]
    for k in ([], [0, 1]):
        with pytest.raises(ValueError, match=r"^k is "):
            score_run(run, qrels=qrels, k=k)
