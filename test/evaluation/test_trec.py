"""Tests of qrels and runs: round trips, formats, refused lines."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
import pytrec_eval
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law
from text.errors import DataError
from text.evaluation import rank_passages, read_qrels, read_run, write_run
from text.evaluation.trec import ENCODED, check_common_questions, check_counted_questions

characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from(
    " \t\n\r\x00\x1f\x85\xa0\u2028\u3000\ufeff%25%20%A0"
)
ids = st.text(characters, min_size=1, max_size=6)
runs = st.dictionaries(
    ids, st.dictionaries(ids, st.floats(allow_nan=False, allow_infinity=False), min_size=1), min_size=1
)


@law
@given(runs)
def test_runs_round_trip(tmp_path: Path, run: dict[str, dict[str, float]]) -> None:
    path = tmp_path / "run.trec"
    write_run(path, run)
    assert read_run(path) == run
    # trec_eval and Python must find six columns in each line, although they define white space differently.
    with path.open(encoding="utf-8") as file:
        peer = pytrec_eval.parse_run(file)
    with path.open(encoding="utf-8", newline="\n") as file:
        assert all(len(line.splitlines()) == 1 and len(line.split()) == 6 for line in file)
    is_encoded = ENCODED in path.read_text(encoding="utf-8")
    decode = unquote if is_encoded else str
    assert {decode(q): {decode(p): score for p, score in scores.items()} for q, scores in peer.items()} == run


def test_ids_with_white_space_are_percent_encoded(tmp_path: Path) -> None:
    path, run = tmp_path / "run.trec", {"q 1": {"Oak (tree)": 2.0, "b\nc": 1.0, "a%20b": 0.5}}
    write_run(path, run)
    assert path.read_text() == (
        "q%201 Q0 Oak%20(tree) 1 2.0 dpr-text+percent-encoded\n"
        "q%201 Q0 b%0Ac 2 1.0 dpr-text+percent-encoded\n"
        "q%201 Q0 a%2520b 3 0.5 dpr-text+percent-encoded\n"
    )
    assert read_run(path) == run


@pytest.mark.parametrize("name", ["\ufeffq", "q\x7f", "\x00", " ", "\x85q", "q\u2028", "\u3000"])
def test_ids_that_other_programs_would_split_are_percent_encoded(tmp_path: Path, name: str) -> None:
    for run in ({name: {"a": 1.0}}, {"q": {name: 1.0}}):
        write_run(tmp_path / "run.trec", run)
        assert read_run(tmp_path / "run.trec") == run
        assert (tmp_path / "run.trec").read_text().isascii()


def test_ids_of_other_programs_are_not_decoded(tmp_path: Path) -> None:
    path, line = tmp_path / "run.trec", "q%201 Q0 <dbpedia:100%25> 1 2.0 dpr-text\n"
    path.write_text(line)
    assert read_run(path) == {"q%201": {"<dbpedia:100%25>": 2.0}}
    write_run(path, read_run(path))
    assert path.read_text() == line
    (tmp_path / "qrels").write_text("q%201 0 <dbpedia:100%25> 1\n")
    assert read_qrels(tmp_path / "qrels") == {"q%201": {"<dbpedia:100%25>": 1}}


def test_a_run_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    write_run(path, {"q1": {"a": 0.5, "b": 2.0, "c": 0.5}}, name="mine")
    # If scores are equal, the larger id comes first.
    assert path.read_text() == "q1 Q0 b 1 2.0 mine\nq1 Q0 c 2 0.5 mine\nq1 Q0 a 3 0.5 mine\n"
    assert rank_passages({"9": 1.0, "10": 1.0}) == ["9", "10"]  # Ids are compared as strings.
    for refused, name in (({"q": {"": 1.0}}, "x"), ({"": {"a": 1.0}}, "x"), ({}, "my run"), ({}, "")):
        with pytest.raises(ValueError, match=r"empty|name"):
            write_run(path, refused, name)
    assert path.read_text().startswith("q1 Q0 b 1 2.0 mine\n")


@pytest.mark.parametrize(
    "content",
    ["query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\n", "q1 0 a 2\nq1 0 b 0\n\n"],
    ids=["BEIR", "TREC"],
)
def test_qrels_are_read_in_both_formats(tmp_path: Path, content: str) -> None:
    (tmp_path / "qrels").write_text(content)
    assert read_qrels(tmp_path / "qrels") == {"q1": {"a": 2, "b": 0}}
    (tmp_path / "marked").write_text(content, encoding="utf-8-sig")
    assert read_qrels(tmp_path / "marked") == read_qrels(tmp_path / "qrels")


def test_compressed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "qrels.gz").write_bytes(gzip.compress(b"q1 0 a 2\n"))
    (tmp_path / "run.zst").write_bytes(zstandard.compress(b"q1 Q0 a 1 0.5 x\n"))
    assert read_qrels(tmp_path / "qrels.gz") == {"q1": {"a": 2}}
    assert read_run(tmp_path / "run.zst") == {"q1": {"a": 0.5}}
    for read in (read_qrels, read_run):
        (tmp_path / "cut.gz").write_bytes(gzip.compress(b"q1 0 a 2\n")[:-4])
        with pytest.raises(DataError, match=rf"^{tmp_path}/cut.gz"):
            read(tmp_path / "cut.gz")


def test_ids_may_contain_spaces_if_tabs_separate_columns(tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tdoc 7\t1\nq 2\td\t 0\n")
    assert read_qrels(tmp_path / "qrels.tsv") == {"q1": {"doc 7": 1}, "q 2": {"d": 0}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("q1\tdoc 7\t1\nq 2\td\t0\n", {"q1": {"doc 7": 1}, "q 2": {"d": 0}}),  # no header
        ("q1\t0\tdoc 7\t1\nq 2\t0\td\t0\n", {"q1": {"doc 7": 1}, "q 2": {"d": 0}}),
        ("q1 a 1\nq2 b -1\n", {"q1": {"a": 1}, "q2": {"b": -1}}),
        ("q1 Q0 a 1.0\nq2 0 b 2\n", {"q1": {"a": 1}, "q2": {"b": 2}}),
        ("topic iteration document relevance\nq1 0 a 1\n", {"q1": {"a": 1}}),
        ("1 0.5 a 2\n1 1 b 0\n1 4.5 c 1\n", {"1": {"a": 2, "b": 0, "c": 1}}),  # as in TREC-COVID
        ("qid docid rel\nq1 a 1\n", {"q1": {"a": 1}}),
        ("q1 1 a 1\nq2 1 b 0\n", {"q1": {"a": 1}, "q2": {"b": 0}}),  # a constant other than 0
        ("q\t1\t10\t1\n", {"q": {"10": 1}}),  # With tabs, any second column is valid.
    ],
)
def test_the_first_line_determines_the_columns(tmp_path: Path, content: str, expected: dict) -> None:
    (tmp_path / "qrels").write_text(content)
    assert read_qrels(tmp_path / "qrels") == expected


@pytest.mark.parametrize(
    ("read", "content", "place"),
    [
        (read_qrels, "q1 0 a 1\nq1 0 a 1\n", ':2: question "q1" and passage "a" '),
        (read_qrels, "q1 0 a relevant\n", ':1: the relevance is "relevant"'),
        (read_qrels, "q1 a\n", ':1: "q1 a"'),
        (read_qrels, "q1 a 0.5\nq1 b 1\n", ':1: the relevance is "0.5"'),  # not a header
        (read_qrels, "q1 a 0,5\nq1 b 1\n", ':1: the relevance is "0,5"'),
        (read_qrels, "query a nan\n", ':1: the relevance is "nan"'),
        (read_qrels, "query1 a relevant\n", ':1: the relevance is "relevant"'),
        (read_qrels, "query-id corpus-id score\nq1 a 0.5\n", ':2: the relevance is "0.5"'),
        (read_qrels, "q1 doc 7 1\n", ':1: "q1 doc 7 1"'),  # an id with a space, in columns separated by spaces
        (read_qrels, "q1 a 1\nq1 doc 7 1\n", ':2: "q1 doc 7 1"'),
        (read_qrels, "q1 0 doc 7 1\n", ':1: "q1 0 doc 7 1"'),
        (read_qrels, "q 1 10 1\nq 1 11 1\n", ':1: "q 1 10 1"'),
        (read_qrels, "topic 1 p1 1\ntopic 2 p2 1\n", ':2: "topic 2 p2 1"'),
        (read_qrels, "topic 0 p1 1\ntopic 1 p2 1\n", ':2: "topic 1 p2 1"'),
        (read_qrels, "q1 doc 7 1\nq2 doc 8 1\n", ':1: "q1 doc 7 1"'),
        (read_qrels, "", ": "),
        (read_qrels, "query-id\tcorpus-id\tscore\n", ": "),
        (read_run, "\n", ": "),
        (read_qrels, "q1\ta\t1\nq1 b 1\n", ':2: "q1 b 1"'),
        (read_qrels, "q1\t\t1\n", ":1: "),
        (read_run, "q1 Q0 a 1 0.5 x\nq1 Q0 a 2 0.4 x\n", ':2: question "q1" and passage "a" '),
        (read_run, "q1 Q0 a 1 nan x\n", ':1: "q1 Q0 a 1 nan x"'),
        (read_run, "q1 Q0 a 1 0.5\n", ':1: "q1 Q0 a 1 0.5"'),
        (read_run, "q1 Q0 Oak tree 1 0.5 x\n", ':1: "q1 Q0 Oak tree 1 0.5 x"'),
        (read_run, "\nq\udcff Q0 a 1 0.5 x\n", ":2: "),
    ],
)
def test_an_invalid_line_is_refused_with_its_place(tmp_path: Path, read, content: str, place: str) -> None:
    (tmp_path / "file").write_text(content, errors="surrogateescape")
    with pytest.raises(DataError, match="^" + re.escape(f"{tmp_path / 'file'}{place}")):
        read(tmp_path / "file")


def test_a_run_needs_a_common_question_with_the_other_file() -> None:
    check_common_questions("run.trec", {"q1": {}, "q2": {}}, "qrels.tsv", ["q0", "q2"])
    for asked in (["q0"], []):
        with pytest.raises(DataError, match=r"^run.trec: .*qrels.tsv"):
            check_common_questions("run.trec", {"q1": {}}, "qrels.tsv", asked)


def test_a_run_must_fit_a_file_with_numbers_as_ids() -> None:
    counted = [str(number) for number in range(6)]

    def check(found: list[int], asked: list[str] = counted, **options: bool) -> None:
        check_counted_questions("run.trec", {str(number): {} for number in found}, "rows.jsonl", asked, **options)

    for found in ([0, 1, 2, 3, 4, 5], [1, 5], [0, 1, 2, 3, 4], [1, 3]):  # BM25 finds no passage for some questions.
        check(found)
    check([0, 1, 2], ["a", "b"])  # The ids are not numbers, so they identify the questions.
    check([0, 1, 2], skip_missing=True)
    for found in ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2], [0]):
        with pytest.raises(DataError, match=r"^run.trec: .*rows.jsonl"):
            check(found)
    with pytest.raises(DataError, match=r"^run.trec: .*rows.jsonl"):
        check([0, 9], skip_missing=True)


NOT_NUMBERS = ["1_0", "\u0661", "0x10", "infinity", "nan", "1e999", "9" * 5000, "1e", ".", "--1"]


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_numbers_in_python_syntax_alone_are_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "run").write_text(f"q Q0 p 1 0.5 name\nq Q0 r 2 {value} name\n")
    with pytest.raises(DataError, match=r"run:2: "):
        read_run(tmp_path / "run")
    (tmp_path / "qrels").write_text(f"q 0 p 1\nq 0 r {value}\n")
    with pytest.raises(DataError, match=r"qrels:2: "):
        read_qrels(tmp_path / "qrels")


def test_numbers_in_c_syntax_are_read(tmp_path: Path) -> None:
    values = ["1", "-1", "+1", "1.", ".5", "1e-3", "1E+3", "007"]
    (tmp_path / "run").write_text("".join(f"q Q0 p{n} 1 {value} name\n" for n, value in enumerate(values)))
    assert list(read_run(tmp_path / "run")["q"].values()) == [1, -1, 1, 1, 0.5, 0.001, 1000, 7]
    (tmp_path / "qrels").write_text("q 0 a 007\nq 0 b -1\nq 0 c 2.0\n")
    assert read_qrels(tmp_path / "qrels") == {"q": {"a": 7, "b": -1, "c": 2}}
    (tmp_path / "qrels").write_text("q\ta\t\u00a01\n")
    with pytest.raises(DataError, match=r"qrels:1: "):
        read_qrels(tmp_path / "qrels")
