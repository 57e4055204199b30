"""Tests of the check that a passage id belongs to one passage, in a file, in all files of a run and in a collection."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law, parse_place, records, shared_file, write_jsonl
from text.datasets import DPRDataPipe, DPRFile, PassageCollection, open_splits
from text.datasets.identities import is_same_passage
from text.errors import DataError
from text.records import Passage


def passage(text: str, title: str = "", **identity: Any) -> dict[str, Any]:
    return {"title": title, "text": text, **identity}


def row(positive: dict[str, Any], *hard: dict[str, Any], question: str = "q") -> dict[str, Any]:
    return {"question": question, "positive_ctxs": [positive], "hard_negative_ctxs": list(hard)}


def get_second_place(error: BaseException) -> str:
    """Return the second place in an error."""
    found = re.search(r"is also the id of a passage .+ at (\S+ \(byte \d+\) \S+)\. ", str(error))
    assert found, error
    return found[1]


# An id in one file


@pytest.mark.parametrize("placeholder", ["0", "None", "nan", "-1", " ", 0, -1, 2**63])
@pytest.mark.parametrize("key", ["passage_id", "psg_id", "id", "docidx"])
def test_placeholder_is_refused_with_two_places(tmp_path: Path, placeholder: Any, key: str) -> None:
    rows = [row(passage(f"positive {i}", **{key: placeholder}), passage(f"negative {i}")) for i in range(3)]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError, match="placeholder") as caught:
        DPRFile(path)
    byte = len(path.read_bytes().splitlines(keepends=True)[0])
    assert parse_place(caught.value, path) == (2, byte, "positive_ctxs[0]")
    assert get_second_place(caught.value) == f"{path}:1 (byte 0) positive_ctxs[0]"


def test_ids_that_are_numbered_per_pool_are_refused(tmp_path: Path) -> None:
    pools = {
        name: [passage(f"{name} {i}", passage_id=str(i)) for i in range(3)]
        for name in ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
    }
    path = write_jsonl(tmp_path / "train.jsonl", [{"question": "q", **pools}])
    with pytest.raises(DataError) as caught:
        DPRFile(path)
    assert "placeholder" not in str(caught.value)
    assert parse_place(caught.value, path)[:2] == (1, 0)


@pytest.mark.parametrize("absent", [None, ""])
def test_passage_without_an_id_is_identified_by_title_and_text(tmp_path: Path, absent: str | None) -> None:
    rows = [row(passage(f"positive {i}", passage_id=absent), passage(f"negative {i}", id=absent)) for i in range(3)]
    [batch] = DPRDataPipe(write_jsonl(tmp_path / "train.jsonl", rows), 3)
    assert len({each.keys for example in batch for each in (*example.positives, *example.hard_negatives)}) == 6


def test_empty_id_falls_back_to_the_next_key(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", [row({"text": "a", "passage_id": "", "psg_id": None, "docidx": 7})])
    [[example]] = DPRDataPipe(path, 1)
    assert example.positives[0].passage_id == "7"


def test_id_of_one_text_with_two_titles_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "train.jsonl",
        [row(passage("See the article.", title="Oak", id="1"), passage("See the article.", title="Elm", id="1"))],
    )
    with pytest.raises(DataError) as caught:
        DPRFile(path)
    assert parse_place(caught.value, path)[:2] == (1, 0)


def test_the_same_text_under_another_title_is_a_negative(tmp_path: Path) -> None:
    see = "See the article."
    path = write_jsonl(tmp_path / "train.jsonl", [row(passage(see, title="Oak"), passage(see, title="Elm"))])
    [[example]] = DPRDataPipe(path, 1)
    assert [each.title for each in example.hard_negatives] == ["Elm"]
    assert not set(example.positives[0].keys) & set(example.hard_negatives[0].keys)


def test_passages_of_an_unusable_row_are_not_compared(tmp_path: Path) -> None:
    rows = [row(passage("a", id="1")), {**row(passage("b", id="1")), "question": " "}]
    DPRDataPipe(write_jsonl(tmp_path / "train.jsonl", rows), 1, train=True, max_skipped=0.5)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (("Oak", "An oak , old."), ("OAK", "an oak, old."), True),
        (("", "the \u201cold\u201d oak\u2019s age \u2013 9"), ("", 'the "old" oak\'s age - 9'), True),
        (("", "an\u00a0o\u00adak\u200b"), ("", "an oak"), True),
        (("", "\uff21n oak\u2026"), ("", "An oak..."), True),
        (("", "C++"), ("", "C#"), False),
        (("", "-5"), ("", "5"), False),
        (("", "An oak."), ("", "An oak"), False),
        (("C++", "a language"), ("C", "a language"), False),
        (("Oak", "An oak"), ("", "An oak"), True),  # Many files leave titles out.
        (("Oak", "An oak"), ("Elm", "An oak"), False),
        (("", "caf\u00e9"), ("", "cafe\u0301"), True),
        (("", "cafe"), ("", "cafes"), False),
        (("", "\u0915\u093f"), ("", "\u0915\u0940"), False),  # The Hindi syllables differ in a vowel sign.
        (("", "!!!"), ("", "???"), False),
        (("", "\u200b"), ("", "\u200e"), False),
        (("", "\u957f\u57ce"), ("", "\u957f\u6c5f"), False),
    ],
)
def test_harmless_differences_by_hand(one: tuple[str, str], other: tuple[str, str], is_same: bool) -> None:
    assert is_same_passage(Passage("1", *one), Passage("1", *other)) is is_same
    assert is_same_passage(Passage("1", *other), Passage("1", *one)) is is_same


def test_passages_with_harmless_differences_can_be_trained_on(tmp_path: Path) -> None:
    rows = [row(passage("An oak, old.", id="1")), row(passage("an oak , old .", id="1"), question="r")]
    assert DPRDataPipe(write_jsonl(tmp_path / "train.jsonl", rows), 2).num_rows == 2


@pytest.mark.parametrize("titles", list(permutations(["", "Alpha", "Beta"])))
def test_two_titles_are_found_in_any_order(tmp_path: Path, titles: tuple[str, ...]) -> None:
    contexts = [passage("See the article.", title=title, id="1") for title in titles]
    rows = [row(each, question=f"q{i}") for i, each in enumerate(contexts)]
    one_row = write_jsonl(tmp_path / "row.jsonl", [row(*contexts)])
    one_file = write_jsonl(tmp_path / "rows.jsonl", rows)
    for path in (one_row, one_file):
        with pytest.raises(DataError, match="with a different title"):
            DPRFile(path)
    halves = [write_jsonl(tmp_path / f"{i}.jsonl", part) for i, part in enumerate((rows[:2], rows[2:]))]
    with pytest.raises(DataError, match="with a different title"):
        DPRDataPipe(halves, 1)


names, contents = st.sampled_from(["", "1", "01", "1a", "2", "a"]), st.sampled_from(["x", "y", "z"])
contexts = st.builds(lambda name, text: passage(text, id=name), names, contents)


@law
@given(st.lists(st.tuples(contexts, st.lists(contexts, max_size=3)), min_size=1, max_size=4))
def test_check_equals_a_comparison_of_all_pairs(
    tmp_path: Path, pools: list[tuple[dict[str, Any], list[dict[str, Any]]]]
) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [row(positive, *hard) for positive, hard in pools])
    texts: dict[str, set[str]] = {}
    for positive, hard in pools:
        for each in (positive, *hard):
            texts.setdefault(each["id"], set()).add(each["text"])
    texts.pop("", None)
    if any(len(found) > 1 for found in texts.values()):
        with pytest.raises(DataError):
            DPRFile(path)
    else:
        DPRFile(path)


# An id in several files


def write_splits(folder: Path, **ids: str) -> dict[str, list[str]]:
    """Write a file per stage with one passage. Its id is the name of the stage, or the given id."""
    return {
        stage: [str(write_jsonl(folder / f"{stage}.jsonl", [row(passage(f"of {stage}", id=ids.get(stage, stage)))]))]
        for stage in ("train", "valid", "test")
    }


@pytest.mark.parametrize("stages", [("train", "valid"), ("train", "test"), ("valid", "test")])
def test_id_of_two_texts_in_two_splits_is_refused(tmp_path: Path, stages: tuple[str, str]) -> None:
    files = write_splits(tmp_path, **dict.fromkeys(stages, "1"))
    with pytest.raises(DataError) as caught:
        open_splits(files, batch_size=1)
    assert parse_place(caught.value, files[stages[1]][0]) == (1, 0, "positive_ctxs[0]")
    assert get_second_place(caught.value) == f"{files[stages[0]][0]}:1 (byte 0) positive_ctxs[0]"


def test_id_of_two_texts_in_two_training_files_is_refused(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [row(passage(name, id="1"))]) for name in "ab"]
    with pytest.raises(DataError) as caught:
        DPRDataPipe(paths, 1)
    assert parse_place(caught.value, paths[1]) == (1, 0, "positive_ctxs[0]")


def test_splits_may_share_passages(tmp_path: Path) -> None:
    paths = {stage: [str(write_jsonl(tmp_path / f"{stage}.jsonl", records(3)))] for stage in ("train", "valid", "test")}
    assert len(open_splits(paths, batch_size=1)) == 3


def test_rows_and_collection_must_agree(tmp_path: Path) -> None:
    collection = write_jsonl(tmp_path / "passages.jsonl", [{"_id": "1", "text": "an oak"}, {"_id": "2", "text": "a"}])
    compact = {"question": "r", "positive_ids": ["1"]}
    good = write_jsonl(tmp_path / "good.jsonl", [compact, row(passage("An  oak", id="1"), passage("x", id="3"))])
    assert DPRFile(good, PassageCollection(collection)).findings.num_rows == 2
    bad = write_jsonl(tmp_path / "bad.jsonl", [compact, row(passage("An elm.", id="1"))])
    with pytest.raises(DataError, match=re.escape(str(collection))) as caught:
        DPRFile(bad, PassageCollection(collection))
    assert parse_place(caught.value, bad)[::2] == (2, "positive_ctxs[0]")
    assert f" at {collection}:1 (byte 0). " in str(caught.value)


def test_findings_from_sidecars_are_compared_across_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text.datasets.formats.jsonl.INDEXED_BYTES", 0)
    monkeypatch.setattr("text.datasets.dpr_file.INDEXED_BYTES", 0)
    files = write_splits(tmp_path, train="1", valid="1")
    for _ in range(2):  # The second pass loads the sidecars.
        with pytest.raises(DataError) as caught:
            open_splits(files, batch_size=1)
        assert parse_place(caught.value, files["valid"][0]) == (1, 0, "positive_ctxs[0]")


@pytest.mark.parametrize("folder", ["squad_w100", "fairytaleqa"])
def test_published_sets_have_no_conflict(tmp_path: Path, folder: str) -> None:
    prefix = "dpr_" if folder == "fairytaleqa" else ""
    files = {}
    for stage, name in (("train", "dev"), ("valid", "dev"), ("test", "test")):
        source = shared_file(f"{folder}/{prefix}{name}.jsonl.gz")
        copy = tmp_path / f"{stage}.jsonl.gz"  # Sidecars are written beside the copy.
        copy.write_bytes(source.read_bytes())
        files[stage] = [str(copy)]
    assert open_splits(files, batch_size=16)["train"].num_rows > 900
