"""Command lines that merge, change or remove settings of a recipe."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text.artifacts import dump_yaml
from text.commands.cli import parse_flags
from text.commands.flag_values import merge_settings
from text.commands.loop import LoopFlags
from text.errors import UsageError

NAMES = st.sampled_from("abc")
SETTINGS = st.recursive(
    st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2), lambda inner: st.dictionaries(NAMES, inner, max_size=3)
)
SECTIONS = st.dictionaries(NAMES, SETTINGS, max_size=3)
Path_ = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SectionFlags:
    """Flags with a section."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Any settings."""
    select: dict[str, Any] = field(default_factory=dict, metadata={"command": "select"})
    """Flags of dpr-text select."""
    out_path: str = "out"
    """A path."""


def flatten(settings: Any, place: Path_ = ()) -> dict[Path_, Any]:
    """Return every leaf value and every empty mapping by its place."""
    if not isinstance(settings, dict) or not settings:
        return {place: settings}
    return {path: value for key, inner in settings.items() for path, value in flatten(inner, (*place, key)).items()}


def expected_values(before: dict[str, Any], changes: dict[str, Any]) -> dict[Path_, Any]:
    """Return the merged values by place. A changed value replaces old values at, above and below its place."""
    values = flatten(before)
    for place, value in flatten(changes).items():
        is_there = any(old[: len(place)] == place and (old != place or values[old] == {}) for old in values)
        if value == {} and (is_there or not place):
            continue  # An empty mapping changes nothing.
        values = {old: each for old, each in values.items() if old[: len(place)] != place and place[: len(old)] != old}
        values[place] = value
    return values


@settings(max_examples=50, deadline=None)
@given(SECTIONS, SECTIONS)
def test_merged_settings_have_the_values_of_both(before: dict[str, Any], changes: dict[str, Any]) -> None:
    kept = json.dumps(before)
    assert flatten(merge_settings(before, changes, "--settings")) == expected_values(before, changes)
    assert json.dumps(before) == kept


@settings(max_examples=50, deadline=None)
@given(SECTIONS, SECTIONS, SECTIONS)
def test_merging_is_associative_and_empty_changes_nothing(
    a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]
) -> None:
    def merge(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        return merge_settings(before, changes, "--settings")

    assert merge(a, {}) == merge({}, a) == merge(a, a) == a
    if all(isinstance(value, dict) for each in (a, b, c) for value in flatten(each).values()):
        assert merge(merge(a, b), c) == merge(a, merge(b, c))


def test_null_removes_a_setting() -> None:
    before = {"a": 1, "b": {"c": 2, "d": [3]}}
    assert merge_settings(before, {"a": None, "b": {"c": None, "d": [4]}}, "--s") == {"b": {"d": [4]}}
    with pytest.raises(UsageError, match=r"--s\.b\.e is null"):
        merge_settings(before, {"b": {"e": None}}, "--s")


def read(folder: Path, content: dict[str, Any], *argv: str) -> SectionFlags:
    (folder / "c.yaml").write_text(dump_yaml(content))
    return parse_flags(SectionFlags, [f"--config={folder}/c.yaml", *argv])


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], {"num_items": 1, "raw_path": "a"}),
        (["--select={num_items: 2}"], {"num_items": 2, "raw_path": "a"}),
        (["--select.num_items=2"], {"num_items": 2, "raw_path": "a"}),
        (["--select.num_items", "2", "--out_path=b"], {"num_items": 2, "raw_path": "a"}),
        (["--select.overwrite"], {"num_items": 1, "raw_path": "a", "overwrite": True}),
        (
            ["--select.overwrite=false", "--select.raw_path=010"],
            {"num_items": 1, "raw_path": "010", "overwrite": False},
        ),
        (["--select.num_items=null"], {"raw_path": "a"}),
        (["--select=null"], {}),
        (["--select=null", "--select.skip_items=3"], {"skip_items": 3}),
        (["--select={num_items: null, skip_items: 3}"], {"raw_path": "a", "skip_items": 3}),
        (
            ["--select.num_items=3", "--select={num_items: 2, skip_items: 4}"],
            {"num_items": 3, "raw_path": "a", "skip_items": 4},
        ),
    ],
)
def test_the_command_line_changes_a_section_of_a_file(
    tmp_path: Path, argv: list[str], expected: dict[str, Any]
) -> None:
    found = read(tmp_path, {"select": {"num_items": 1, "raw_path": "a"}, "settings": {"x": {"y": 1}}}, *argv)
    assert found.select == expected and found.settings == {"x": {"y": 1}}


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ("--select.num_itms=1", "Did you mean --select.num_items?"),
        ("--select.num_items=x", '--select.num_items is "x"'),
        ("--select.num_items=", "--select.num_items"),
        ("--select.skip_items=null", "--select.skip_items is null"),
        ("--select=3", "--select is 3"),
        ("--settings.x=3", "--settings has no flags of its own"),
        ("--num_items=3", "--select.num_items"),
    ],
)
def test_an_invalid_change_is_refused(tmp_path: Path, argv: str, part: str) -> None:
    with pytest.raises(UsageError) as error:
        read(tmp_path, {"select": {"num_items": 1}}, argv)
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("content", "place", "part"),
    [
        ("select:\n  raw_path: a\n  num_items: x\n", "c.yaml:3: ", "num_items"),
        ("select:\n  raw_path: a\n  num_itms: 1\n", "c.yaml:3: ", "Did you mean num_items?"),
        ("out_path: a\nnum_items: 1\n", "c.yaml:2: ", "--select.num_items"),
        ("select: &a {raw_path: 3}\n", "c.yaml:1: ", "raw_path"),
    ],
)
def test_a_fault_in_a_file_has_its_line(tmp_path: Path, content: str, place: str, part: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UsageError) as error:
        parse_flags(SectionFlags, [f"--config={tmp_path}/c.yaml"])
    assert place in str(error.value) and part in str(error.value)


def test_a_recipe_keeps_settings_that_the_command_line_does_not_name() -> None:
    plain, flag, patch = (
        parse_flags(LoopFlags, ["--config=nq-bert-base", *argv])
        for argv in ([], ["--train.batch_size=64"], ["--train={batch_size: 64}", "--rounds=[{}, {}]"])
    )
    assert plain.train["batch_size"] == 128 and len(plain.rounds) == 2
    assert flag.train == patch.train == {**plain.train, "batch_size": 64}
    assert flag.rounds == plain.rounds and patch.rounds == [{}, {}]
