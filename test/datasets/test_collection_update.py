"""Tests of updating a collection by id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law
from text.datasets import PassageCollection, read_ids, update_collection
from text.errors import DataError
from text.records import Passage


def write_collection(path: Path, texts: dict[str, str]) -> PassageCollection:
    rows = [{"_id": name, "title": "", "text": text} for name, text in texts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return PassageCollection(path)


names = st.sampled_from("abcdefgh")


@law
@given(st.dictionaries(names, st.text('xy\n"é'), min_size=1), st.dictionaries(names, st.text("xz")), st.data())
def test_update_equals_an_update_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, str], upserts: dict[str, str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("u")
    deletes = data.draw(st.sets(st.sampled_from(sorted(before)))) - set(upserts)
    counts = update_collection(
        write_collection(folder / "old", before),
        folder / "new",
        upserts=[Passage(name, "", text) for name, text in upserts.items()],
        deletes=deletes,
    )
    expected = {name: text for name, text in {**before, **upserts}.items() if name not in deletes}
    rows = [json.loads(line) for line in (folder / "new").read_text(encoding="utf-8").splitlines()]
    assert [(row["_id"], row["text"]) for row in rows] == list(expected.items())
    kept = [name for name in before if name not in deletes]
    assert counts == {
        "added": len(set(upserts) - set(before)),
        "replaced": sum(upserts.get(name, before[name]) != before[name] for name in kept),
        "deleted": len(deletes),
        "unchanged": sum(upserts.get(name, before[name]) == before[name] for name in kept),
    }


def test_error_names_the_id_of_a_contradictory_update(tmp_path: Path) -> None:
    old = write_collection(tmp_path / "old", {"a": "x", "b": "y"})
    with pytest.raises(DataError, match=r"old: .*\"c\" "):
        update_collection(old, tmp_path / "new", deletes=["a", "c"])
    with pytest.raises(DataError, match=r"old: a "):
        update_collection(old, tmp_path / "new", upserts=[Passage("a", "", "z")], deletes=["a"])
    with pytest.raises(DataError, match=r"\"c\""):
        update_collection(old, tmp_path / "new", upserts=[Passage("c", "", "z"), Passage("c", "", "y")])
    assert not (tmp_path / "new").exists()


def test_ids_keep_their_spaces(tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes("\ufeffa \r\n\n b\n \t\nc d\u3000\ne\rf".encode())
    assert read_ids(tmp_path / "ids") == {"a ", " b", "c d\u3000", "e\rf"}
