"""Stages of a loop: what decides the name of a folder, and how a stage runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from text.errors import UsageError
from text.runs.stages import Stage, TrackedFile, hash_path, plan_stage, run_stage


def resolve_settings(command: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Return the flags of a command that has ``words`` and ``stride`` with default values, and files."""
    given = dict(each.removeprefix("--").split("=", 1) for each in arguments)
    if unknown := given.keys() - {"words", "stride", "collection", "rows", "output_dir"}:
        raise ValueError(f"unknown: {unknown}")
    return {
        "words": 64,
        "stride": 32,
        **given,
        **{name: int(given[name]) for name in ("words", "stride") if name in given},
    }


def plan(parent: Path, **arguments: Any) -> Stage:
    return plan_stage("windows", arguments, parent, resolve_settings=resolve_settings)


def write(path: Path, content: str) -> TrackedFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return TrackedFile.read(path)


def test_a_folder_is_named_after_values_and_contents(tmp_path: Path) -> None:
    a, b, c = (write(tmp_path / name, content) for name, content in (("a", "1"), ("b", "1"), ("c", "2")))
    name = plan(tmp_path, rows=a, words=64).folder.name
    assert plan(tmp_path / "elsewhere", rows=b, words=64).folder.name == name
    assert plan(tmp_path, rows=a).folder.name == name, "a flag that is not given counts as its default value"
    assert plan(tmp_path, rows=a, words=None).folder.name == name
    names = [plan(tmp_path, rows=rows, words=words).folder.name for rows, words in ((c, 64), (a, 32))]
    assert len({name, *names}) == 3


def test_content_of_a_path_that_the_user_gives_decides(tmp_path: Path) -> None:
    paths = [str(write(tmp_path / name, content)) for name, content in (("a", "1"), ("b", "1"), ("c", "2"))]
    a, b, c = (plan(tmp_path, collection=path).folder for path in paths)
    assert a == b != c


def test_a_part_of_a_result_has_a_key_of_its_own(tmp_path: Path) -> None:
    stage = plan(tmp_path, words=8)
    assert stage.result.path == stage.folder
    keys = [stage.result.key, stage.result.part("a").key, stage.result.part("b").key]
    assert len(set(keys)) == 3 and all(stage.folder.name in key for key in keys)
    folders = [plan(tmp_path, rows=stage.result.part(name)).folder for name in "ab"]
    assert folders[0] != folders[1]


def test_arguments_name_the_files_and_the_result(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows", "1")
    stage = plan(tmp_path, rows=[rows], words=8)
    assert stage.arguments == [f'--rows=["{tmp_path}/rows"]', "--words=8", f"--output_dir={stage.folder}"]


def test_a_folder_is_hashed_with_names_and_contents(tmp_path: Path) -> None:
    for folder, name, content in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        write(tmp_path / folder / "inner" / name, content)
    a, b, c, d = (hash_path(tmp_path / name) for name in "abcd")
    assert a == b and len({a, c, d}) == 3


def test_a_flag_that_the_command_does_not_take_is_refused_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"windows.*wrods"):
        plan(tmp_path, wrods=3)


def windows_stage(tmp_path: Path, *arguments: str) -> Stage:
    folder = tmp_path / "stage"
    return Stage("windows", [*arguments, f"--output_dir={folder}"], folder, TrackedFile(folder, "stage/"), {})


def test_a_stage_runs_once_in_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "passages.tsv", "id\ttext\ttitle\n1\tone two three\ttitle\n")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if sys.version_info >= (3, 11):  # an older Python always looks in the working directory first
        write(tmp_path / "cwd" / "text" / "__init__.py", "raise SystemExit(99)")
    stage = windows_stage(tmp_path, "--collection=../passages.tsv")
    run_stage(stage, "first")
    assert (stage.folder / "passages.jsonl").is_file()
    done = json.loads((stage.folder / "done.json").read_text())
    assert done["command"] == ["dpr-text", "windows", *stage.arguments, "--overwrite"]
    os.unlink(stage.folder / "passages.jsonl")
    capfd.readouterr()
    run_stage(stage, "second")
    assert str(stage.folder) in capfd.readouterr().out
    assert not (stage.folder / "passages.jsonl").exists()


def test_the_exit_code_of_a_failed_stage_is_the_command_s(tmp_path: Path) -> None:
    stage = windows_stage(tmp_path, f"--collection={tmp_path}/none")
    with pytest.raises(SystemExit) as error:
        run_stage(stage, "first")
    assert error.value.code == 2
    assert not (stage.folder / "done.json").exists()
