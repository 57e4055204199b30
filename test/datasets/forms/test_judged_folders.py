"""BEIR and MS MARCO folders: rows by hand, missing ids, and rows that are kept beside the judgments."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from test.datasets.forms.helpers import convert, read_rows
from test.helpers import write_jsonl
from text.datasets import PassageCollection, find_splits, open_splits
from text.datasets.forms.beir import is_beir_folder, prepare_beir, prepare_qrels
from text.datasets.forms.folders import read_triples
from text.datasets.forms.judgments import read_judgments
from text.errors import DataError, UsageError

QRELS = "query-id\tcorpus-id\tscore\nq1\tb\t1\nq1\ta\t2\nq1\tc\t0\nq2\tc\t1\nq3\ta\t0\n"


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "corpus.jsonl", ({"_id": name, "title": "", "text": f"text {name}"} for name in "abc"))
    write_jsonl(folder / "queries.jsonl", ({"_id": f"q{i}", "text": f"question {i}"} for i in range(1, 5)))
    (folder / "qrels" / "train.tsv").write_text(QRELS)
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq4\tb\t1\n")
    return folder


ROWS = [
    {"question_id": "q1", "question": "question 1", "positive_ids": ["a", "b"], "hard_negative_ids": ["c"]},
    {"question_id": "q2", "question": "question 2", "positive_ids": ["c"], "hard_negative_ids": []},
]


def test_a_beir_folder_gives_compact_rows_and_its_collection(beir: Path, tmp_path: Path) -> None:
    valid, train, passages = convert(beir, tmp_path / "out")
    assert read_rows(Path(train.path)) == ROWS
    assert train.counts == {"questions without a positive, left out": 1}
    assert read_rows(Path(valid.path))[0]["positive_ids"] == ["b"]
    assert read_rows(Path(passages.path)) == read_rows(beir / "corpus.jsonl") and passages.num_rows == 3


def test_min_relevance_decides_what_is_positive(beir: Path, tmp_path: Path) -> None:
    (beir / "qrels" / "dev.tsv").unlink()
    train, _ = convert(beir, tmp_path / "out", min_relevance=2)
    assert read_rows(Path(train.path)) == [ROWS[0] | {"positive_ids": ["a"]}]
    assert train.counts["judgments above 0 and below min_relevance, left out"] == 2


@pytest.mark.parametrize(("old", "new", "named"), [("q2\tc", "q2\tx", "'x'"), ("q2\tc", "q9\tc", "'q9'")])
def test_a_missing_question_or_passage_is_an_error_or_is_counted(beir: Path, tmp_path: Path, old, new, named) -> None:
    path = beir / "qrels" / "train.tsv"
    path.write_text(QRELS.replace(old, new))
    with pytest.raises(DataError) as error:
        convert(beir, tmp_path / "out")
    assert str(error.value).startswith(f"{path}:5 (byte 46): ") and named in str(error.value)
    assert not (tmp_path / "out").exists()
    _, train, _ = convert(beir, tmp_path / "out", skip_missing=True)
    assert sum("missing" in reason for reason in train.counts) == 1 and train.num_rows == 1


def test_passages_without_text_are_no_positives(beir: Path, tmp_path: Path) -> None:
    write_jsonl(beir / "corpus.jsonl", [{"_id": name, "text": "" if name == "c" else name} for name in "abc"])
    _, train, _ = convert(beir, tmp_path / "out")
    assert train.num_rows == 1 and train.counts["judged passages without text, left out"] == 2


def test_rows_are_kept_until_a_file_changes(beir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = prepare_beir(beir)
    assert is_beir_folder(beir) and first.rows.keys() == {"train", "valid"}
    assert read_rows(Path(first.rows["train"])) == ROWS
    assert "converted to 2 rows" in capsys.readouterr().err
    assert prepare_beir(beir) == first and capsys.readouterr().err == ""
    write_jsonl(beir / "queries.jsonl", ({"_id": f"q{i}", "text": f"new question {i}"} for i in range(1, 5)))
    assert read_rows(Path(prepare_beir(beir).rows["train"]))[0]["question"] == "new question 1"


def test_training_reads_a_beir_folder(beir: Path) -> None:
    files = find_splits(str(beir))
    pipes = open_splits(files, batch_size=2)
    assert [example.question for example in next(iter(pipes["valid"]))] == ["question 4"]
    found = {
        example.question: (example.positives, example.hard_negatives)
        for [*batch] in pipes["train"]
        for example in batch
    }
    assert [passage.text for passage in found["question 1"][0]] == ["text a", "text b"]
    assert [passage.text for passage in found["question 1"][1]] == ["text c"] and not found["question 2"][1]
    assert files.collection == str(beir / "corpus.jsonl")
    assert list(files.sources.values()) == [str(beir / "qrels" / f"{name}.tsv") for name in ("train", "dev")]


def test_training_reads_one_file_of_judgments(beir: Path) -> None:
    files = find_splits(None, train_files=[str(beir / "qrels" / "dev.tsv")])
    assert files["train"] == [prepare_qrels(beir / "qrels" / "dev.tsv")] and files.collection is not None
    assert find_splits(str(beir / "qrels" / "dev.tsv")) == files


def test_a_folder_without_training_judgments_names_the_others(beir: Path) -> None:
    (beir / "qrels" / "train.tsv").unlink()
    with pytest.raises(UsageError, match=r"--train_files=.*dev\.tsv"):
        find_splits(str(beir))


def test_rows_beside_judgments_are_ambiguous(beir: Path) -> None:
    (beir / "train.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="--train_files"):
        find_splits(str(beir))


def test_an_msmarco_folder_gives_rows_with_the_negatives_of_triples(tmp_path: Path) -> None:
    folder = tmp_path / "msmarco"
    folder.mkdir()
    (folder / "collection.tsv").write_text('0\tthe first "text"\n1\tthe second\n2\t"the third"\n')
    (folder / "queries.train.tsv").write_text("7\tquestion 7\n8\tquestion 8\n")
    (folder / "queries.dev.small.tsv").write_text("9\tquestion 9\n")
    (folder / "qrels.train.tsv").write_text("7\t0\t0\t1\n8\t0\t1\t1\n")
    (folder / "qrels.dev.small.tsv").write_text("9 0 2 1\n")
    (folder / "qidpidtriples.train.full.2.tsv").write_text("7\t0\t2\n7\t0\t1\n7\t0\t2\n")
    valid, train, passages = convert(folder, tmp_path / "out")
    assert read_rows(Path(train.path)) == [
        {"question_id": "7", "question": "question 7", "positive_ids": ["0"], "hard_negative_ids": ["2", "1"]},
        {"question_id": "8", "question": "question 8", "positive_ids": ["1"], "hard_negative_ids": []},
    ]
    assert read_rows(Path(valid.path))[0]["positive_ids"] == ["2"]
    assert [passage["text"] for passage in read_rows(Path(passages.path))] == [
        'the first "text"',
        "the second",
        '"the third"',
    ]
    assert PassageCollection(folder / "collection.tsv").find("1").text == "the second"


def test_triples_keep_the_first_negatives(tmp_path: Path) -> None:
    (tmp_path / "triples.tsv").write_text("".join(f"q\tp\t{i}\n" for i in range(50)))
    assert read_triples(str(tmp_path / "triples.tsv")) == {"q": [str(i) for i in range(30)]}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("q\tp\t1\nq\tp\t1\n", 2),
        ("q\tp\t1\nq\tp\n", 2),
        ("q\tp\t1\nq\tp\thigh\n", 2),
        ("a\tb\n", 1),
        ("", 1),
    ],
)
def test_wrong_judgments_are_errors_with_their_place(content: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"train\.tsv:{line} \(byte "):
        read_judgments(str(path))


def test_judgments_of_the_forms_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    for content in ("q p\t1\n", "topic\tdoc\trelevance\nq\tp\t1.0\n", "q 0 p 1\n"):
        path.write_text(content if content.count("\t") != 1 else "q\tp\t1\n")
        [[judgment]] = read_judgments(str(path)).values()
        assert judgment.passage_id == "p" and judgment.relevance == 1
    assert Counter(read_judgments(str(path))) == {"q": [judgment]}
