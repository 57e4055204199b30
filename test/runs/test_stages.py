"""Stages of a loop: the names of their folders, and how a stage runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from text.errors import ArtifactError, UsageError
from text.runs.stages import Stage, is_complete, plan_stage, run_stage
from text.runs.tracked import TrackedFile


def resolve_settings(command: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Return the flags of a fictitious command: ``words`` and ``stride`` with default values, and files."""
    given = dict(each.removeprefix("--").split("=", 1) for each in arguments)
    if unknown := given.keys() - {"words", "stride", "collection", "rows", "output_dir"}:
        raise ValueError(f"unknown: {unknown}")
    return {
        "words": 64,
        "stride": 32,
        **given,
        **{name: int(given[name]) for name in ("words", "stride") if name in given},
    }


def plan_windows(parent: Path, **arguments: Any) -> Stage:
    return plan_stage("windows", arguments, parent, resolve_settings=resolve_settings)


def write_file(path: Path, content: str) -> TrackedFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return TrackedFile.read(path)


def test_the_name_of_a_folder_depends_on_values_and_contents(tmp_path: Path) -> None:
    a, b, c = (write_file(tmp_path / name, content) for name, content in (("a", "1"), ("b", "1"), ("c", "2")))
    name = plan_windows(tmp_path, rows=a, words=64).folder.name
    assert plan_windows(tmp_path / "elsewhere", rows=b, words=64).folder.name == name
    assert plan_windows(tmp_path, rows=a).folder.name == name, "a flag that is not given counts as its default value"
    assert plan_windows(tmp_path, rows=a, words=None).folder.name == name
    names = [plan_windows(tmp_path, rows=rows, words=words).folder.name for rows, words in ((c, 64), (a, 32))]
    assert len({name, *names}) == 3


def test_the_name_of_a_folder_depends_on_the_content_of_a_user_file(tmp_path: Path) -> None:
    paths = [str(write_file(tmp_path / name, content)) for name, content in (("a", "1"), ("b", "1"), ("c", "2"))]
    a, b, c = (plan_windows(tmp_path, collection=path).folder for path in paths)
    assert a == b != c


def test_each_part_of_a_result_has_its_own_key(tmp_path: Path) -> None:
    stage = plan_windows(tmp_path, words=8)
    assert stage.result.path == stage.folder
    keys = [stage.result.key, stage.result.get_part("a").key, stage.result.get_part("b").key]
    assert len(set(keys)) == 3 and all(stage.folder.name in key for key in keys)
    folders = [plan_windows(tmp_path, rows=stage.result.get_part(name)).folder for name in "ab"]
    assert folders[0] != folders[1]


def test_arguments_contain_the_inputs_and_the_result(tmp_path: Path) -> None:
    rows = write_file(tmp_path / "rows", "1")
    stage = plan_windows(tmp_path, rows=[rows], words=8)
    assert stage.arguments == [f'--rows=["{tmp_path}/rows"]', "--words=8", f"--output_dir={stage.folder}"]


def test_the_hash_of_a_folder_covers_names_and_contents(tmp_path: Path) -> None:
    for folder, name, content in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        write_file(tmp_path / folder / "inner" / name, content)
    a, b, c, d = (TrackedFile.read(tmp_path / name).key for name in "abcd")
    assert a == b and len({a, c, d}) == 3


def test_the_error_for_an_unknown_flag_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"windows.*wrods"):
        plan_windows(tmp_path, wrods=3)


def create_windows_stage(tmp_path: Path, *arguments: str, inputs: Sequence[TrackedFile] = ()) -> Stage:
    folder = tmp_path / "stage"
    flags = [*arguments, f"--output_dir={folder}"]
    return Stage("windows", flags, folder, TrackedFile(folder, "stage/"), {}, inputs)


PASSAGES = "id\ttext\ttitle\n1\tone two three\ttitle\n"


def create_stage(folder: Path) -> Stage:
    collection = write_file(folder / "passages.tsv", PASSAGES)
    return create_windows_stage(folder, f"--collection={collection}", inputs=[collection])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a complete stage."""
    folder = tmp_path_factory.mktemp("finished")
    run_stage(create_stage(folder), "first")
    return folder


@pytest.fixture
def stage(finished: Path, tmp_path: Path) -> Stage:
    """Return a copy of the complete stage that a test may damage."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return create_stage(tmp_path)


def test_a_stage_runs_once_in_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_file(tmp_path / "passages.tsv", PASSAGES)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if sys.version_info >= (3, 11):  # Older versions always search the working directory first.
        write_file(tmp_path / "cwd" / "text" / "__init__.py", "raise SystemExit(99)")
    stage = create_windows_stage(tmp_path, "--collection=../passages.tsv")
    first = run_stage(stage, "first")
    done = json.loads((stage.folder / "done.json").read_text())
    assert done["command"] == ["dpr-text", "windows", *stage.arguments, "--overwrite"]
    content = (stage.folder / "passages.jsonl").read_bytes()
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert done["files"] == {"passages.jsonl": facts}
    capfd.readouterr()
    before = (stage.folder / "passages.jsonl").stat()
    assert run_stage(stage, "second") == first
    assert f"already complete in {stage.folder}" in capfd.readouterr().out
    assert (stage.folder / "passages.jsonl").stat() == before
    assert first.get_part("passages.jsonl").key == facts["sha256"]


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_truncated_or_missing_result_is_detected_by_its_size(stage: Stage, change: Any) -> None:
    assert is_complete(stage)
    change(stage.folder / "passages.jsonl")
    for look in (is_complete, lambda stage: run_stage(stage, "again")):
        with pytest.raises(ArtifactError) as error:
            look(stage)
        assert str(error.value).startswith(f"{stage.folder}/passages.jsonl: ") and f"remove {stage.folder}" in str(
            error.value
        )


def test_a_changed_result_is_detected_by_its_hash(stage: Stage) -> None:
    path = stage.folder / "passages.jsonl"
    path.write_bytes(path.read_bytes().replace(b"two", b"six"))
    with pytest.raises(ArtifactError, match=f"{path}: SHA-256"):
        run_stage(stage, "again")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"command": [], "seconds": 1, "files": [], "sha256": ""}'])
def test_a_damaged_done_file_is_refused(stage: Stage, content: str) -> None:
    (stage.folder / "done.json").write_text(content)
    with pytest.raises(ArtifactError, match=f"{stage.folder}/done.json"):
        is_complete(stage)


def test_a_done_file_without_a_file_of_the_stage_is_refused(stage: Stage) -> None:
    done = json.loads((stage.folder / "done.json").read_text())
    (stage.folder / "done.json").write_text(json.dumps({**done, "files": {}}))
    with pytest.raises(ArtifactError, match=f"{stage.folder}/done.json"):
        is_complete(stage)


@pytest.mark.slow
def test_a_stage_of_an_earlier_version_runs_again(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    (stage.folder / "done.json").write_text('{"command": [], "seconds": 1.0}')
    (stage.folder / "passages.jsonl").write_text("half")
    assert not is_complete(stage)
    run_stage(stage, "again")
    assert is_complete(stage) and "already complete" not in capfd.readouterr().out


@pytest.mark.slow
def test_the_folders_of_later_stages_depend_on_the_content_of_a_result(tmp_path: Path, stage: Stage) -> None:
    result = run_stage(stage, "again")
    one = plan_windows(tmp_path, rows=result.get_part("passages.jsonl"))
    shutil.rmtree(stage.folder)
    (tmp_path / "passages.tsv").write_text(PASSAGES.replace("two", "six"))
    collection = TrackedFile.read(tmp_path / "passages.tsv")
    other = run_stage(create_windows_stage(tmp_path, f"--collection={collection}", inputs=[collection]), "other")
    assert plan_windows(tmp_path, rows=other.get_part("passages.jsonl")).folder != one.folder
    same = write_file(tmp_path / "copy.jsonl", (stage.folder / "passages.jsonl").read_text())
    assert (
        plan_windows(tmp_path, rows=same).folder == plan_windows(tmp_path, rows=other.get_part("passages.jsonl")).folder
    )


@pytest.mark.slow
def test_an_input_that_changes_while_the_loop_runs_is_detected(tmp_path: Path) -> None:
    collection = write_file(tmp_path / "passages.tsv", PASSAGES)
    stage = create_windows_stage(tmp_path, f"--collection={collection}", inputs=[collection])
    (tmp_path / "passages.tsv").write_text(PASSAGES.replace("two", "six"))
    with pytest.raises(ArtifactError, match=f"{tmp_path}/passages.tsv: "):
        run_stage(stage, "first")
    assert not stage.folder.exists()
    (tmp_path / "passages.tsv").write_text(PASSAGES)  # Only the modification time has changed.
    run_stage(stage, "first")
    assert is_complete(stage)


def test_a_failed_stage_exits_with_the_code_of_its_command(tmp_path: Path) -> None:
    stage = create_windows_stage(tmp_path, f"--collection={tmp_path}/none")
    with pytest.raises(SystemExit) as error:
        run_stage(stage, "first")
    assert error.value.code == 2
    assert not (stage.folder / "done.json").exists()


@pytest.mark.parametrize(
    ("command", "arguments", "settings", "expected"),
    [
        ("encode", [], {}, ["--gpus=4"]),
        ("encode", ["--gpus=2"], {}, []),
        ("encode", ["--device=cpu"], {}, []),
        ("train", [], {"batch_size": 128}, ["--gpus=4", "--overwrite"]),
        ("train", [], {"batch_size": 3}, ["--gpus=3", "--overwrite"]),
        ("train", ["--gpus=0"], {"batch_size": 128}, ["--overwrite"]),
        ("search", [], {}, ["--overwrite"]),
    ],
)
def test_training_and_encoding_use_all_gpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: list[str],
    settings: dict[str, Any],
    expected: list[str],
) -> None:
    commands = []

    def run(started: list[str], stop_signal: object) -> int:
        commands.append(started[3:])
        write_file(tmp_path / "stage" / "result", "1")
        return 0

    monkeypatch.setattr("text.runs.stages._run_command", run)
    stage = Stage(command, arguments, tmp_path / "stage", TrackedFile(tmp_path / "stage", "stage/"), settings)
    run_stage(stage, "first", 4)
    started = [command, *arguments, *expected]
    assert commands == [started]
    assert json.loads((tmp_path / "stage" / "done.json").read_text())["command"] == ["dpr-text", *started]
    assert f"first: dpr-text {' '.join(started)}\n" in capsys.readouterr().out
