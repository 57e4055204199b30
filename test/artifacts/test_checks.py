"""A command looks at its paths before it works, and creates nothing while it looks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from text.artifacts import check_files, check_output_folder, check_readable, check_writable
from text.commands.cli import exit_code
from text.errors import UsageError


def test_inputs_that_can_be_read_and_outputs_that_are_new_pass(tmp_path: Path):
    (tmp_path / "in").write_text("x")
    check_files([tmp_path / "in", None], [tmp_path / "out", tmp_path / "new" / "folder" / "out"], overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["missing", "folder", "fifo", "/dev/zero", "in/x"])
def test_an_input_that_is_no_file_is_refused_at_once(tmp_path: Path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "in").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match=name) as caught:
        check_readable(tmp_path / name)
    assert exit_code(caught.value) == 2


@pytest.mark.parametrize("name", ["folder", "fifo", "/dev/null", "a.gz", "a.zst", "in", "hard", "soft"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_takes_the_place_of_no_input_and_of_no_other_thing(tmp_path: Path, name, overwrite):
    (tmp_path / "folder").mkdir()
    (tmp_path / "in").write_text("x")
    (tmp_path / "hard").hardlink_to(tmp_path / "in")
    (tmp_path / "soft").symlink_to("in")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match=name):
        check_writable(tmp_path / name, [tmp_path / "in"], overwrite=overwrite)


def test_an_earlier_result_is_replaced_only_with_overwrite(tmp_path: Path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(FileExistsError) as caught:
        check_writable(tmp_path / "out", overwrite=False)
    assert exit_code(caught.value) == 2
    check_writable(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_text() == "x"


def test_a_folder_in_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "x" / "y"):
        with pytest.raises(UsageError, match="file"):
            check_output_folder(path)
    check_output_folder(tmp_path / "x" / "y")
    check_output_folder("relative/folder")


@pytest.mark.parametrize("name", ["model/config.json", "model/new.json", "model/encoder/weights", "link/config.json"])
def test_an_output_does_not_lie_in_a_folder_that_is_read(tmp_path: Path, name):
    (tmp_path / "model" / "encoder").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("x")
    (tmp_path / "link").symlink_to("model")
    with pytest.raises(UsageError, match=name):
        check_files([tmp_path / "model"], [tmp_path / name], overwrite=True)
    check_files([tmp_path / "model"], [tmp_path / "models" / "config.json"], overwrite=True)


@pytest.mark.parametrize("name", ["", "x" * 300, "loop"])
def test_a_path_that_names_no_file_is_refused(tmp_path: Path, name):
    (tmp_path / "loop").symlink_to("loop")
    for overwrite in (False, True):
        with pytest.raises(UsageError):
            check_writable(f"{tmp_path}/{name}" if name else "", overwrite=overwrite)


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(OSError) as caught:
        check_output_folder("/proc/self/x")
    assert caught.value.filename == "/proc/self" and exit_code(caught.value) in (2, 4)
