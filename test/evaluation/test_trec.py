"""Qrels and runs: there and back, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law
from text.errors import DataError
from text.evaluation import rank_passages, read_qrels, read_run, write_run
from text.evaluation.trec import check_common_questions

ids = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=4)
runs = st.dictionaries(
    ids, st.dictionaries(ids, st.floats(allow_nan=False, allow_infinity=False), min_size=1), min_size=1
)


@law
@given(runs)
def test_there_and_back(tmp_path: Path, run: dict[str, dict[str, float]]) -> None:
    write_run(tmp_path / "run.trec", run)
    assert read_run(tmp_path / "run.trec") == run


def test_a_run_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    write_run(path, {"q1": {"a": 0.5, "b": 2.0, "c": 0.5}}, name="mine")
    # Of equal scores, the larger id first.
    assert path.read_text() == "q1 Q0 b 1 2.0 mine\nq1 Q0 c 2 0.5 mine\nq1 Q0 a 3 0.5 mine\n"
    assert rank_passages({"9": 1.0, "10": 1.0}) == ["9", "10"]  # ids are texts
    with pytest.raises(ValueError, match='"a b"'):
        write_run(path, {"q": {"a b": 1.0}})


@pytest.mark.parametrize(
    "content",
    ["query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\n", "q1 0 a 2\nq1 0 b 0\n\n"],
    ids=["BEIR", "TREC"],
)
def test_qrels_of_both_forms(tmp_path: Path, content: str) -> None:
    (tmp_path / "qrels").write_text(content)
    assert read_qrels(tmp_path / "qrels") == {"q1": {"a": 2, "b": 0}}
    (tmp_path / "marked").write_text(content, encoding="utf-8-sig")
    assert read_qrels(tmp_path / "marked") == read_qrels(tmp_path / "qrels")


def test_ids_with_spaces_in_the_tab_form(tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tdoc 7\t1\nq 2\td\t 0\n")
    assert read_qrels(tmp_path / "qrels.tsv") == {"q1": {"doc 7": 1}, "q 2": {"d": 0}}


@pytest.mark.parametrize(
    ("read", "content", "place"),
    [
        (read_qrels, "q1 0 a 1\nq1 0 a 1\n", ":2: question q1 and passage a "),
        (read_qrels, "q1 0 a relevant\n", ":1: q1 0 a relevant"),
        (read_qrels, "q1 a\n", ":1: q1 a"),
        (read_run, "q1 Q0 a 1 0.5 x\nq1 Q0 a 2 0.4 x\n", ":2: question q1 and passage a "),
        (read_run, "q1 Q0 a 1 nan x\n", ":1: q1 Q0 a 1 nan x"),
        (read_run, "q1 Q0 a 1 0.5\n", ":1: q1 Q0 a 1 0.5"),
        (read_run, "\nq\udcff Q0 a 1 0.5 x\n", ":2: "),
    ],
)
def test_wrong_line_is_refused_with_its_place(tmp_path: Path, read, content: str, place: str) -> None:
    (tmp_path / "file").write_text(content, errors="surrogateescape")
    with pytest.raises(DataError, match="^" + re.escape(f"{tmp_path / 'file'}{place}")):
        read(tmp_path / "file")


def test_a_run_needs_a_question_of_the_other_file() -> None:
    check_common_questions("run.trec", {"q1": {}, "q2": {}}, "qrels.tsv", ["q0", "q2"])
    for asked in (["q0"], []):
        with pytest.raises(DataError, match=r"^run.trec: .*qrels.tsv"):
            check_common_questions("run.trec", {"q1": {}}, "qrels.tsv", asked)
