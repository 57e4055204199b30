"""Checks of a command's paths before it runs. They create nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from text.artifacts import check_files, check_output_folder, check_readable, check_writable
from text.commands.cli import get_exit_code
from text.errors import UsageError


def test_readable_inputs_and_new_outputs_pass(tmp_path: Path):
    (tmp_path / "in").write_text("x")
    check_files([tmp_path / "in", None], [tmp_path / "out", tmp_path / "new" / "folder" / "out"], overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["missing", "folder", "fifo", "/dev/zero", "in/x"])
def test_an_input_that_is_not_a_regular_file_is_refused(tmp_path: Path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "in").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match=name) as caught:
        check_readable(tmp_path / name)
    assert get_exit_code(caught.value) == 2


@pytest.mark.parametrize("name", ["folder", "fifo", "/dev/null", "a.gz", "a.zst", "in", "hard", "soft"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_that_is_an_input_or_not_a_regular_file_is_refused(tmp_path: Path, name, overwrite):
    (tmp_path / "folder").mkdir()
    (tmp_path / "in").write_text("x")
    (tmp_path / "hard").hardlink_to(tmp_path / "in")
    (tmp_path / "soft").symlink_to("in")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match=name):
        check_writable(tmp_path / name, [tmp_path / "in"], overwrite=overwrite)


def test_an_existing_output_is_replaced_only_with_overwrite(tmp_path: Path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(FileExistsError) as caught:
        check_writable(tmp_path / "out", overwrite=False)
    assert get_exit_code(caught.value) == 2
    check_writable(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_text() == "x"


def test_an_output_folder_inside_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "x" / "y"):
        with pytest.raises(UsageError, match="file"):
            check_output_folder(path)
    check_output_folder(tmp_path / "x" / "y")
    check_output_folder("relative/folder")


@pytest.mark.parametrize("name", ["model/config.json", "model/new.json", "model/encoder/weights", "link/config.json"])
def test_an_output_inside_an_input_folder_is_refused(tmp_path: Path, name):
    (tmp_path / "model" / "encoder").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("x")
    (tmp_path / "link").symlink_to("model")
    with pytest.raises(UsageError, match=name):
        check_files([tmp_path / "model"], [tmp_path / name], overwrite=True)
    check_files([tmp_path / "model"], [tmp_path / "models" / "config.json"], overwrite=True)


@pytest.mark.parametrize("name", ["", "x" * 300, "loop"])
def test_an_empty_too_long_or_circular_path_is_refused(tmp_path: Path, name):
    (tmp_path / "loop").symlink_to("loop")
    for overwrite in (False, True):
        with pytest.raises(UsageError):
            check_writable(f"{tmp_path}/{name}" if name else "", overwrite=overwrite)


def test_the_error_names_a_folder_that_is_not_writable():
    with pytest.raises(OSError) as caught:
        check_output_folder("/proc/self/x")
    assert caught.value.filename == "/proc/self" and get_exit_code(caught.value) in (2, 4)
