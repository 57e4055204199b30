"""Tests of the source file of a run, and of the checks for the same questions and collection."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text.artifacts import hash_file
from text.errors import ArtifactError
from text.evaluation import read_run
from text.evaluation.run_source import (
    SearchRecord,
    check_same_collection,
    check_same_questions,
    get_source_path,
    hash_words,
    read_run_source,
    write_sourced_run,
)

SEARCH = SearchRecord("exact", "corpus.jsonl", "ab", "runs/nq/model", {"model.safetensors": "cd"})
RUN = {"q1": {"p1": 2.0, "p2": 1.0}}


def test_a_run_and_its_source_round_trip(tmp_path: Path) -> None:
    write_sourced_run(tmp_path / "run.trec", RUN, [SEARCH], {"q1": hash_words("who")})
    source = read_run_source(tmp_path / "run.trec")
    assert source is not None and source.searches == [SEARCH] and source.questions == {"q1": hash_words("who")}
    assert read_run(tmp_path / "run.trec") == RUN
    with pytest.raises(FileExistsError):
        write_sourced_run(tmp_path / "run.trec", RUN, [], {})
    (tmp_path / "other.trec").write_bytes((tmp_path / "run.trec").read_bytes())
    assert read_run_source(tmp_path / "other.trec") is None


def test_a_changed_run_or_source_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    write_sourced_run(path, RUN, [SEARCH], {})
    for changed in (path, get_source_path(path)):
        before = changed.read_text()
        changed.write_text(before.replace("p1", "p3").replace("runs/nq", "runs/xx"))
        with pytest.raises(ArtifactError) as error:
            read_run_source(path)
        assert str(error.value).startswith(f"{changed}: ") and f"remove {get_source_path(path)}" in str(error.value)
        changed.write_text(before)


@given(
    ours=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)),
    theirs=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)),
)
def test_most_common_ids_must_have_the_same_questions(ours: dict[str, int], theirs: dict[str, int]) -> None:
    same = sum(1 for name in ours if name in theirs and ours[name] == theirs[name])
    other = sum(1 for name in ours if name in theirs and ours[name] != theirs[name])
    if other > same:
        with pytest.raises(ArtifactError, match=r"a\.trec: .*b\.tsv"):
            check_same_questions("a.trec", ours, "b.tsv", theirs)
    else:
        assert check_same_questions("a.trec", ours, "b.tsv", theirs) == other


def test_another_collection_is_refused_unless_windows_were_searched() -> None:
    check_same_collection("a.trec", [SEARCH], "corpus.jsonl", "ab")
    check_same_collection("a.trec", [SEARCH._replace(by_windows=True)], "other.jsonl", "xy")
    with pytest.raises(ArtifactError, match=r"a\.trec: .*corpus\.jsonl.*other\.jsonl"):
        check_same_collection("a.trec", [SEARCH], "other.jsonl", "xy")


def test_a_compressed_copy_counts_as_the_same_collection(tmp_path: Path) -> None:
    plain, packed, other = (tmp_path / name for name in ("c.tsv", "c.tsv.gz", "other.tsv.gz"))
    plain.write_bytes(b"id\ttext\n1\toak\n")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    other.write_bytes(gzip.compress(b"id\ttext\n1\telm\n"))
    for one, two, is_same in ((packed, plain, True), (plain, packed, True), (plain, other, False)):
        search = SEARCH._replace(collection=str(one), collection_sha256=hash_file(one))
        for name, collection in ((two, None), ("b.trec", two)):
            if is_same:
                check_same_collection("a.trec", [search], name, hash_file(two), collection=collection)
            else:
                with pytest.raises(ArtifactError):
                    check_same_collection("a.trec", [search], name, hash_file(two), collection=collection)
    changed = SEARCH._replace(collection=str(packed), collection_sha256="ab")
    for file in (packed, plain):
        with pytest.raises(ArtifactError):
            check_same_collection("a.trec", [changed], file, hash_file(file))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("who ate the oak", "Who ate the oak?", True),
        ("rock 'n' roll , 1950 s", "Rock 'n' Roll, 1950s", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("who ate the oak", "who ate the elm", False),
        ("谁吃了橡树", "谁吃了榆树", False),
    ],
)
def test_hash_words_ignores_case_spaces_and_punctuation(one: str, other: str, same: bool) -> None:
    assert (hash_words(one) == hash_words(other)) == same
