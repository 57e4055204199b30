"""Mining of rows: the written files, the summary, and the order of positives and negatives."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from test.helpers import parse_place, write_collection
from text.errors import DataError
from text.evaluation import read_run, write_run
from text.records import Passage
from text.retrieval import Filters, MinedRow, MiningSummary, Negative, RejectedCandidate, mine_hard_negatives
from text.retrieval.mining import name_sources

TEXTS = {"p1": "a toad sang", "p2": "an oak fell", "p3": "the king slept", "p4": "snow on the hill", "p5": "a mole dug"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a row with two positives, and two runs of its question."""
    write_collection(tmp_path / "corpus.jsonl", list(TEXTS), list(TEXTS.values()))
    row = {"qid": "q", "question": "who sang", "answers": ["toad"], "positive_ids": ["p2", "p1"], "more": [1]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    write_run(tmp_path / "dense.trec", {"q": {"p3": 5.0, "p1": 4.0, "p4": 3.0, "p2": 2.0, "p5": 1.0}})
    write_run(tmp_path / "bm25.trec", {"q": {"p3": 9.0, "p5": 8.0}})
    return tmp_path


def test_sources_give_their_number_of_negatives_in_order(folder: Path) -> None:
    runs = [folder / "dense.trec", folder / "bm25.trec"]
    summary = mine_hard_negatives(folder / "rows.jsonl", folder / "corpus.jsonl", runs, folder / "out", num=[2, 1])
    record = json.loads((folder / "out").read_text())
    assert [each["passage_id"] for each in record["positive_ctxs"]] == ["p2", "p1"] and record["more"] == [1]
    assert [(each["passage_id"], each["source"], each["rank"]) for each in record["hard_negative_ctxs"]] == [
        ("p3", "dense", 1),
        ("p4", "dense", 3),
        ("p5", "bm25", 2),
    ]
    lines = [json.loads(line) for line in (folder / "out.rejected.jsonl").read_text().splitlines()]
    assert [(line["question_id"], line["passage_id"], line["source"], line["reason"]) for line in lines] == [
        ("q", "p1", "dense", "a positive"),
        ("q", "p3", "bm25", "taken already"),
    ]
    written = json.loads((folder / "out.summary.json").read_text())
    inputs, options = written.pop("inputs"), written.pop("options")
    assert written == summary.to_json()
    assert [inputs["rows"], inputs["collection"], *inputs["runs"]] == [
        {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in (folder / "rows.jsonl", folder / "corpus.jsonl", *runs)
    ]
    assert options["num"] == [2, 1] and options["filters"]["last_rank"] == 100
    assert summary.to_json() == {
        "rows": 1,
        "rows_left_out": {},
        "rows_with_too_few": 0,
        "rows_with_answers_matched_as_strings": 0,
        "rows_without_answers": 0,
        "slow_regular_expressions": [],
        "negatives": {"dense": 2, "bm25": 1},
        "rejected": {"a positive": 1, "taken already": 1},
        "rejected_where_too_few": {},
    }


def test_best_positive_first_changes_the_order_and_the_margins(folder: Path) -> None:
    arguments = (folder / "rows.jsonl", folder / "corpus.jsonl", [folder / "dense.trec"], folder / "out")
    filters = Filters(margin=0.5)
    mine_hard_negatives(*arguments, num=[2], filters=filters, best_positive_first=True)
    record = json.loads((folder / "out").read_text())
    assert [each["passage_id"] for each in record["positive_ctxs"]] == ["p1", "p2"]
    assert [each["passage_id"] for each in record["hard_negative_ctxs"]] == ["p4", "p5"]  # Below 4 - 0.5.
    summary = mine_hard_negatives(*arguments, num=[2], filters=filters)
    record = json.loads((folder / "out").read_text())
    assert [each["passage_id"] for each in record["hard_negative_ctxs"]] == ["p5"]  # Below 2 - 0.5.
    assert summary.num_short == 1 and summary.rejected_in_short_rows == {"within the margin": 2, "a positive": 2}


def test_a_positive_of_another_row_with_the_same_question_is_not_a_negative(folder: Path) -> None:
    rows = [{"qid": "q", "question": "who sang", "positive_ids": ["p2"]}]
    rows.append({"qid": "r", "question": "Who sang ", "positive_ids": ["p3"]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine_hard_negatives(folder / "rows.jsonl", folder / "corpus.jsonl", [folder / "dense.trec"], folder / "out")
    record = json.loads((folder / "out").read_text().splitlines()[0])
    assert [each["passage_id"] for each in record["hard_negative_ctxs"]] == [
        "p1"
    ]  # p3 ranks first, but it is a positive of r.
    lines = [json.loads(line) for line in (folder / "out.rejected.jsonl").read_text().splitlines()]
    assert (lines[0]["passage_id"], lines[0]["reason"]) == ("p3", "a positive of another row")


def test_rows_with_other_texts_than_the_collection_raise(folder: Path) -> None:
    row = {"qid": "q", "question": "who sang", "positive_ctxs": [{"text": "an elm fell", "passage_id": "p2"}]}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        mine_hard_negatives(folder / "rows.jsonl", folder / "corpus.jsonl", [folder / "dense.trec"], folder / "out")
    assert parse_place(caught.value, folder / "rows.jsonl")[::2] == (1, "positive_ctxs[0]")
    assert f"{folder}/corpus.jsonl" in str(caught.value)


def test_a_summary_samples_every_negative_with_the_same_probability() -> None:
    passages = [Passage(f"p{n}", "", "oak") for n in range(40)]
    counts, trials = Counter[str](), 400
    for seed in range(trials):
        summary = MiningSummary(2, Counter(), seed)
        for first, second in zip(passages[::2], passages[1::2], strict=True):
            negatives = [Negative(each, "bm25", 1, 1.0) for each in (first, second)]
            summary.add(MinedRow("q", {}, [], negatives, [RejectedCandidate("p", "bm25", 1, 1.0, "a positive")]))
        assert len(summary.sample) == 10 and summary.negatives == {"bm25": 40}
        counts.update(negative.passage.passage_id for _, negative in summary.sample)
    # Each is expected 100 times, with a standard deviation of 8.7.
    assert set(counts) == {each.passage_id for each in passages}
    assert all(60 < count < 140 for count in counts.values())


def test_a_run_with_row_numbers_of_another_file_raises(folder: Path) -> None:
    rows = [{"question": f"q{n}", "answers": ["蟾蜍"] if n else [], "positive_ids": ["p1"]} for n in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = (folder / "rows.jsonl", folder / "corpus.jsonl", [folder / "other.trec"], folder / "out")
    for number in (2, 7):
        write_run(folder / "other.trec", {str(n): {"p3": 1.0} for n in range(number)})
        with pytest.raises(DataError, match=rf"^{folder}/other.trec: .*{folder}/rows.jsonl"):
            mine_hard_negatives(*arguments)
        assert not (folder / "out").exists()
    write_run(folder / "other.trec", {str(n): {"p3": 1.0} for n in range(6)})
    summary = mine_hard_negatives(*arguments)
    assert summary.num_rows == 6 and summary.num_unspaced == 5
    assert summary.to_json()["rows_with_answers_matched_as_strings"] == 5
    assert summary.to_json()["rows_without_answers"] == summary.num_without_answers == 1


def test_regular_expressions_that_time_out_are_counted(folder: Path) -> None:
    write_collection(folder / "corpus.jsonl", ["p1", "p2", "p3"], ["a toad sang", "o" * 3000 + "c", "the king slept"])
    row = {"question": "who", "answers": ["x", "(o|oo|ooo?)+(b|bb)+$"], "answer_is_regex": True, "positive_ids": ["p1"]}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    write_run(folder / "new.trec", {"0": {"p2": 1.0, "p3": 0.5}})
    summary = mine_hard_negatives(folder / "rows.jsonl", folder / "corpus.jsonl", [folder / "new.trec"], folder / "out")
    assert summary.negatives == {"new": 1} and summary.slow == {row["answers"][1]}


def test_a_failed_mining_writes_nothing(folder: Path) -> None:
    write_run(folder / "strange.trec", {"q": {"p9": 1.0}})
    with pytest.raises(DataError, match=rf"^{folder}/corpus.jsonl: no passage p9"):
        mine_hard_negatives(
            folder / "rows.jsonl", folder / "corpus.jsonl", [folder / "strange.trec"], folder / "out", num=[1]
        )
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize(
    ("runs", "num", "message"),
    [
        ([], [1], "^runs "),
        (["a/dense.trec", "b/dense.run"], [1, 1], "^runs .*a/dense.trec.*b/dense.run"),
        (["a.trec", "b.trec"], [1], "^num is .1.*a, b"),
        (["a.trec"], [-1], "^num is .-1"),
    ],
)
def test_invalid_sources_raise(runs: list[str], num: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        name_sources(runs, num)


def test_a_run_in_memory_is_a_source_and_is_written_with_the_rows(folder: Path) -> None:
    arguments = (folder / "rows.jsonl", folder / "corpus.jsonl")
    found = read_run(folder / "dense.trec")
    summary = mine_hard_negatives(*arguments, [folder / "bm25.trec"], folder / "out", num=[2, 1], model_run=found)
    assert summary.negatives == {"out": 2, "bm25": 1}
    assert (folder / "out.trec").read_bytes() == (folder / "dense.trec").read_bytes()
    again = mine_hard_negatives(*arguments, [folder / "out.trec", folder / "bm25.trec"], folder / "again", num=[2, 1])
    assert again.negatives == summary.negatives
    for ending in ("", ".rejected.jsonl", ".summary.json"):
        assert Path(f"{folder}/again{ending}").read_bytes() == Path(f"{folder}/out{ending}").read_bytes()


def test_mining_writes_all_files_or_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (folder / "rows.jsonl", folder / "corpus.jsonl", [], folder / "out")
    found = read_run(folder / "dense.trec")

    def stop(self: MiningSummary, row: MinedRow) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(MiningSummary, "add", stop)
        mine_hard_negatives(*arguments, model_run=found, overwrite=False)
    assert not [path for path in folder.iterdir() if "out" in path.name or path.name.startswith(".dpr")]
    mine_hard_negatives(*arguments, model_run=found, overwrite=False)  # The same call succeeds without overwrite.
    before = {path: path.read_bytes() for path in folder.glob("out*")}
    assert len(before) == 5
    with pytest.raises(FileExistsError):
        mine_hard_negatives(*arguments, model_run=found, overwrite=False)
    assert {path: path.read_bytes() for path in folder.glob("out*")} == before
