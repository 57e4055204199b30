"""Reading JSON and YAML files. Damaged and hostile files raise one error that names the path."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from text.artifacts import read_json, read_json_lines, read_yaml, write_yaml
from text.commands.cli import get_exit_code
from text.errors import ArtifactError, UsageError

BAD_JSON = [
    b"",
    b"{",
    b'{"a": 1',
    b"[" * 100_000,
    b'{"a": 1, "a": 2}',
    b'{"x": {"a": 1, "a": 1}}',
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1} {"b": 1}',
    b'{"a": "\xff"}',
    b'{"a": "\\ud800"}',
    b"\xff\xfe{\x00}\x00",
    b'{"a": ' + b"9" * 5000 + b"}",
    b"\0" * 100,
    b"[]",
    b"null",
    b'"x"',
]


@pytest.mark.parametrize("content", BAD_JSON, ids=lambda content: repr(content[:20]))
def test_the_error_names_a_bad_json_file(tmp_path: Path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=str(path)) as caught:
        read_json(path, dict[str, Any])
    assert get_exit_code(caught.value) == 5 and len(str(caught.value).splitlines()) == 1
    with pytest.raises(UsageError, match=str(path)):
        read_json(path, dict[str, Any], error=UsageError)


def test_a_missing_json_file_raises_file_not_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json", dict)


@pytest.mark.parametrize("read", [read_json, read_yaml, read_json_lines])
def test_a_pipe_device_or_folder_is_refused_at_once(tmp_path: Path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ArtifactError, match=str(path)):
            read(path, dict)


def test_json_lines_survive_a_round_trip(tmp_path: Path):
    rows = [{"a": 1, "text": "one\u2028line"}, {"a": 2, "text": ""}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_json_lines(path, dict[str, Any]) == rows


def test_the_error_names_a_bad_line(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": "x"}\n')
    with pytest.raises(ArtifactError, match=f"^{path}:2: a "):
        read_json_lines(path, dict[str, int])
    path.write_text('{"a": 1}\n\n')
    with pytest.raises(ArtifactError, match=f"^{path}:2: "):
        read_json_lines(path, dict[str, int])


BAD_YAML = [
    ("a: 1\nb: 2\na: 3", 3),
    ("x:\n  a: 1\n  a: 1", 3),
    ("x: [{a: 1, a: 2}]", 1),
    ("a: &x [*x]", 1),
    ("a: &x {b: *x}", 1),
    ("a: [1", 1),
    ("a: 1\n---\na: 2", 2),
    ("a: !!python/object/apply:os.system [ls]", 1),
    ("? [a]\n: 1", 1),
]


@pytest.mark.parametrize(("content", "line"), BAD_YAML)
def test_the_error_names_the_line_of_a_bad_yaml_file(tmp_path: Path, content, line):
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=f"^{path}:{line}: "):
        read_yaml(path, dict[str, Any], error=UsageError)


@pytest.mark.parametrize(
    "content", ["", "- 1", "x", "[" * 5000, "a: '\0'", "a: \x1b[2J", "a: !!int x", "a: !!timestamp 2020-99-01"]
)
def test_the_error_names_a_yaml_file_that_is_not_a_valid_object(tmp_path: Path, content):
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=f"^{path}"):
        read_yaml(path, dict[str, Any], error=UsageError)


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(ArtifactError, match=r"a\.yaml"):
        read_yaml(tmp_path / "a.yaml", dict)


def test_words_and_numbers_are_read_as_in_yaml_1_2(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 010\nb: 1e-5\nc: yes\nd:\ne: 2020-01-01\nf: .5\ng: 0x10\nh: true\ni: 1_000\nj: ~\nk: '1'\n")
    expected = {"a": 10, "b": 1e-5, "c": "yes", "d": None, "e": "2020-01-01", "f": 0.5, "g": "0x10", "h": True}
    assert read_yaml(path, dict) == {**expected, "i": "1_000", "j": None, "k": "1"}


def test_yaml_survives_a_round_trip(tmp_path: Path):
    content = {"z": 1, "a": [1.5, None, True, "yes", "010", "1e5", "~", "0x10", "2020-01-01", ""], "ü": {"x": 1e-7}}
    write_yaml(tmp_path / "a.yaml", content)
    assert read_yaml(tmp_path / "a.yaml", dict) == content
    assert list(read_yaml(tmp_path / "a.yaml", dict)) == list(content)
