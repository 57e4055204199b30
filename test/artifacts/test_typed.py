"""Checks of values from files against a type. Errors name the key."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import pytest

from text.artifacts import FileFacts, check_type
from text.errors import ArtifactError, UsageError


class Record(NamedTuple):
    rows: int
    score: float
    similarity: Literal["dot", "cosine"]
    names: list[str]
    files: dict[str, FileFacts]
    sizes: tuple[int, ...] = ()
    prompt: str | None = None
    free: Any = None


@dataclasses.dataclass(frozen=True)
class Settings:
    rows: int
    names: list[str] = dataclasses.field(default_factory=list)


GOOD: dict[str, Any] = {
    "rows": 3,
    "score": 1,
    "similarity": "dot",
    "names": ["a"],
    "files": {"x": {"bytes": 1, "sha256": "ab"}},
}


def test_an_object_becomes_a_named_tuple_with_nested_named_tuples():
    found = check_type({**GOOD, "sizes": [1, 2], "prompt": None, "free": [None]}, Record, "a.json")
    assert found == Record(3, 1.0, "dot", ["a"], {"x": FileFacts(1, "ab")}, (1, 2), None, [None])
    assert type(found.score) is float and type(found.files["x"]) is FileFacts


def test_an_object_becomes_a_dataclass_with_default_values():
    assert check_type({"rows": 3}, Settings, "a.json") == Settings(3)


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"rows": True}, "rows"),
        ({"rows": 3.0}, "rows"),
        ({"rows": None}, "rows"),
        ({"rows": "3"}, "rows"),
        ({"score": "1"}, "score"),
        ({"score": float("inf")}, "score"),
        ({"score": float("nan")}, "score"),
        ({"score": 10**400}, "score"),
        ({"score": True}, "score"),
        ({"similarity": "Cosine"}, "similarity"),
        ({"similarity": []}, "similarity"),
        ({"names": "a"}, "names"),
        ({"names": ["a", 1]}, r"names\[1\]"),
        ({"files": []}, "files"),
        ({"files": {"x": {"bytes": 1}}}, "files.x.sha256"),
        ({"files": {"x": {"bytes": "1", "sha256": ""}}}, "files.x.bytes"),
        ({"files": {"x": None}}, "files.x"),
        ({"sizes": [1, None]}, r"sizes\[1\]"),
        ({"prompt": 1}, "prompt"),
        ({"prompt": "a\udcff"}, "prompt"),
        ({"more": 1}, "more"),
    ],
)
def test_the_error_names_the_key_of_a_wrong_value(changed, key):
    with pytest.raises(ArtifactError, match=f"^a.json: {key} "):
        check_type({**GOOD, **changed}, Record, "a.json")


@pytest.mark.parametrize("missing", ["rows", "score", "similarity", "names", "files"])
def test_the_error_names_a_missing_key(missing):
    with pytest.raises(ArtifactError, match=f"^a.json: {missing} "):
        check_type({name: value for name, value in GOOD.items() if name != missing}, Record, "a.json")


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_the_error_has_the_requested_class(value):
    with pytest.raises(UsageError, match=r"^a.yaml: "):
        check_type(value, Record, "a.yaml", error=UsageError)


def test_the_error_names_the_inner_key_in_a_union():
    with pytest.raises(ArtifactError, match=r"^a.json: x\[0\] "):
        check_type({"x": ["a"]}, dict[str, list[int] | None], "a.json")
    with pytest.raises(ArtifactError, match=r"^a.json: x is true"):
        check_type({"x": True}, dict[str, int | str], "a.json")
    assert check_type({"x": 1, "y": "1"}, dict[str, int | str], "a.json") == {"x": 1, "y": "1"}
