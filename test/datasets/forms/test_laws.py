"""There and back gives the same rows: random rows, and the shared data sets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from test.datasets.forms.helpers import convert, read_rows
from test.helpers import shared_file, write_jsonl
from text.datasets import DPRFile, PassageCollection

law = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda text: text.strip())
scores = st.integers(-5, 5) | st.floats(-2, 2)


@st.composite
def passages(draw: st.DrawFn, has_score: bool) -> list[dict[str, Any]]:
    """Draw passages with optional ids and titles. Equal ids in a row have equal contents."""
    found = []
    for number in range(draw(st.integers(0, 3))):
        passage: dict[str, Any] = {"text": draw(texts)}
        if draw(st.booleans()):
            passage = {"passage_id": f"{draw(texts)}/{number}", **passage}
        if draw(st.booleans()):
            passage["title"] = draw(texts | st.just(""))
        if has_score:
            passage["score"] = draw(scores)
        found.append(passage)
    return found


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        has_score = draw(st.booleans())
        row: dict[str, Any] = {"question": draw(texts)}
        if draw(st.booleans()):
            row["question_id"] = draw(texts)
        row["positive_ctxs"] = draw(passages(has_score).filter(bool))
        row["hard_negative_ctxs"] = draw(passages(has_score))
        if draw(st.booleans()):
            row["answers"] = draw(st.lists(texts, max_size=2))
        if draw(st.booleans()):
            row["negative_ctxs"] = draw(passages(has_score))
        found.append(row)
    return found


@law
@given(rows=rows())
@pytest.mark.parametrize("form", ["dpr", "tevatron", "flagembedding"])
def test_random_rows_there_and_back(rows: list[dict[str, Any]], form: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", rows)
    convert(tmp_path / "rows.jsonl", tmp_path / form, to=form)
    convert(tmp_path / form, tmp_path / "back")
    assert read_rows(tmp_path / "back" / "train.jsonl") == rows


@law
@given(records=st.lists(st.tuples(texts, texts, texts, texts), min_size=1, max_size=4))
def test_random_tuples_there_and_back(records: list[tuple[str, ...]], tmp_path: Path) -> None:
    names = "anchor positive negative_1 negative_2".split()
    tuples: list[dict[str, Any]] = [dict(zip(names, record, strict=True)) for record in records]
    write_jsonl(tmp_path / "rows.jsonl", tuples)
    convert(tmp_path / "rows.jsonl", tmp_path / "rows")
    convert(tmp_path / "rows", tmp_path / "back", to="sentence-transformers")
    assert read_rows(tmp_path / "back" / "train.jsonl") == tuples


@law
@given(contents=st.lists(st.tuples(texts, texts | st.just("")), min_size=1, max_size=5))
def test_compact_rows_there_and_back(contents: list[tuple[str, str]], tmp_path: Path) -> None:
    contexts = [{"title": title, "text": text} for text, title in contents]
    rows = [{"question": "q", "positive_ctxs": contexts, "hard_negative_ctxs": contexts[:1]}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    convert(tmp_path / "rows.jsonl", tmp_path / "compact", compact=True)
    collection = tmp_path / "compact" / "passages.jsonl"
    assert len(read_rows(collection)) == len(set(contents))
    convert(tmp_path / "compact" / "train.jsonl", tmp_path / "full", compact=False, collection=collection)
    [row] = read_rows(tmp_path / "full" / "train.jsonl")
    for name in ("positive_ctxs", "hard_negative_ctxs"):
        found = [(passage["text"], passage.get("title", "")) for passage in row[name]]
        assert found == [(passage["text"], passage["title"]) for passage in rows[0][name]]


def read_contents(path: Path, collection: Path | None = None) -> list[Any]:
    """Return question and passages of each row, as training reads them."""
    file = DPRFile(path, PassageCollection(collection) if collection else None)
    with file.open() as reader:
        found = []
        for number in file.find_usable_rows().tolist():
            row = reader.read(number)
            pools = (row.positives, row.hard_negatives, row.other_negatives)
            found.append((row.question, row.answers, *map(list, pools)))
        return found


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tevatron", "flagembedding"])
@pytest.mark.parametrize(
    "name",
    [
        "dpr/nq_dev_10.jsonl",
        "dpr/squad1_dev_10.jsonl",
        "squad_w100/dev.jsonl.gz",
        "fairytaleqa/dpr_dev.jsonl.gz",
    ],
)
def test_shared_rows_there_and_back(name: str, form: str, tmp_path: Path) -> None:
    source = tmp_path / Path(name).name
    shutil.copy(shared_file(name), source)
    [there] = convert(source, tmp_path / "there", to=form)
    [back] = convert(tmp_path / "there", tmp_path / "back")
    assert read_contents(Path(back.path)) == read_contents(source)
    assert back.num_rows == there.num_rows > 8


@pytest.mark.parametrize("form", ["tevatron", "flagembedding"])
def test_rows_of_dpr_scale_there_and_back(form: str, tmp_path: Path) -> None:
    source = shared_file("dpr/dpr_scale_9.jsonl")  # Its ids restart in each row, so training refuses it.
    convert(source, tmp_path / "there", to=form)
    convert(tmp_path / "there", tmp_path / "back")
    assert read_rows(tmp_path / "back" / "train.jsonl") == read_rows(source)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("fairytaleqa", "tevatron"),
        ("beir/cosqa", "flagembedding"),
        ("beir/cranfield", "tevatron"),
        ("beir/vaswani_npl", "flagembedding"),
        ("beir/xquad/zh", "tevatron"),
    ],
)
def test_shared_folders_there_and_back(name: str, form: str, tmp_path: Path) -> None:
    shutil.copytree(shared_file(name), tmp_path / "beir")
    *splits, passages = convert(tmp_path / "beir", tmp_path / "rows")
    convert(tmp_path / "beir", tmp_path / "there", to=form)
    convert(tmp_path / "there", tmp_path / "back")
    for split in splits:
        path = Path(split.path)
        compact = read_contents(path, Path(passages.path))
        assert read_contents(tmp_path / "back" / path.name) == compact
        assert len(compact) == split.num_rows


@pytest.mark.slow
def test_compact_rows_of_squad_are_the_given_ones(tmp_path: Path) -> None:
    # ids.jsonl holds up to 20 hard negatives of the same rows, which jsonl.gz holds in full.
    full, ids = shared_file("squad_w100/dev.jsonl.gz"), shared_file("squad_w100/dev.ids.jsonl")
    convert(full, tmp_path / "compact", compact=True)
    for found, expected in zip(read_rows(tmp_path / "compact" / "valid.jsonl"), read_rows(ids), strict=True):
        assert found["question"] == expected["question"]
        assert found["positive_ids"] == expected["positive_ids"]
        assert expected["hard_negative_ids"][: len(found["hard_negative_ids"])] == found["hard_negative_ids"]
