"""The folder of a run: what a new run removes, what stays, what is refused, and the lock."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from text.artifacts import list_facts, seal, write_json
from text.bundle import BiEncoderBundle
from text.errors import UsageError
from text.models import BiEncoder, roberta_tiny
from text.runs.contents import find_foreign_files, find_run_files
from text.runs.folder import RunFolder
from text.runs.folder_lock import LOCK, lock_folder
from text.runs.manifest import write_manifest
from text.training import estimate_checkpoint_size
from text.transforms import train_tokenizer

WRITTEN = (
    *("config.yaml", "tokenizer.json", "run.json", "metrics.csv", "speed.csv", "lengths.json"),
    *("checkpoints/last.ckpt", "tensorboard/events.out.tfevents.1.a.0", "model/config.json", "model/README.md"),
    *("model/question_encoder/model.safetensors", "model/question_encoder/1_Pooling/config.json"),
)
FOREIGN = (
    *(
        "notes.txt",
        "evaluation/figures.json",
        "checkpoints/mine.ckpt",
        "model/pytorch_model.bin",
        "model/a/config.json",
    ),
    *("tensorboard/notes", "model/question_encoder/x/y/config.json"),
)


@pytest.fixture(scope="module")
def bundle() -> BiEncoderBundle:
    return make_bundle(roberta_tiny(vocab_size=300), roberta_tiny(vocab_size=300))


def make_bundle(*encoders: nn.Module) -> BiEncoderBundle:
    tokenizer = train_tokenizer(["a b c"], 300)
    return BiEncoderBundle(model=BiEncoder(*encoders), tokenizer=tokenizer, question_max_length=8, passage_max_length=8)


def fill(folder: Path, names: tuple[str, ...], content: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(folder: Path, bundle: BiEncoderBundle, settings: Mapping[str, Any] | None = None) -> None:
    """Start a run with --overwrite."""
    with RunFolder.open(str(folder), overwrite=True) as run:
        run.start(settings or {"encoder": "tiny"}, bundle)


@pytest.fixture
def unfinished(tmp_path: Path, bundle: BiEncoderBundle) -> Path:
    """The folder of a run that was killed, with files of others in it."""
    start(tmp_path / "run", bundle)
    fill(tmp_path / "run", tuple(name for name in WRITTEN if not (tmp_path / "run" / name).exists()), "of the run")
    fill(tmp_path / "run", FOREIGN, "precious")
    return tmp_path / "run"


@pytest.fixture
def finished(unfinished: Path) -> Path:
    """The folder of a run that has ended, with files of others in it."""
    write_manifest(unfinished, {}, {})
    return unfinished


def test_the_files_of_a_run_are_known(finished: Path) -> None:
    assert find_run_files(finished) == sorted([*WRITTEN, "manifest.json"])
    assert set(find_foreign_files(finished)) == {
        name for name in FOREIGN if name.split("/")[0] in ("checkpoints", "model", "tensorboard")
    }
    manifest = json.loads((finished / "manifest.json").read_text())
    assert set(manifest["files"]) == set(WRITTEN)
    assert manifest["files"]["metrics.csv"] == list_facts(finished, [finished / "metrics.csv"])["metrics.csv"]._asdict()


@pytest.mark.parametrize("kind", ["finished", "unfinished"])
def test_a_new_run_removes_the_files_of_the_earlier_run_alone(
    kind: str, request: pytest.FixtureRequest, bundle: BiEncoderBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(kind)
    start(folder, bundle)
    left = snapshot(folder)
    assert {name: left.pop(name) for name in FOREIGN} == dict.fromkeys(FOREIGN, b"precious")
    assert left.keys() == {"config.yaml", "tokenizer.json", "run.json"}
    assert "checkpoints/mine.ckpt" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        *("manifest.json", "config.yaml", "run.json", "report.html", "rejects.jsonl", "checkpoints/last.ckpt"),
        *("model/config.json", "model/passage_encoder/model.safetensors", "tensorboard/hparams.yaml"),
    ],
)
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_that_no_run_claims_is_refused(tmp_path: Path, name: str, overwrite: bool) -> None:
    fill(tmp_path, (name,), "{}")
    with pytest.raises(UsageError, match=f"^{tmp_path}/{name}: "), RunFolder.open(str(tmp_path), overwrite=overwrite):
        pass
    assert snapshot(tmp_path) == {name: b"{}"}


@pytest.mark.parametrize("name", ["rejects.jsonl", "report.html", "model/passage_encoder/config.json"])
def test_a_file_that_the_manifest_does_not_list_is_refused(finished: Path, name: str) -> None:
    fill(finished, (name,), "precious")
    before = snapshot(finished)
    with pytest.raises(UsageError, match=f"^{finished}/{name}: "), RunFolder.open(str(finished), overwrite=True):
        pass
    assert snapshot(finished) == before


def put_link(folder: Path) -> str:
    (folder.parent / "elsewhere").mkdir()
    shutil.rmtree(folder / "model")
    (folder / "model").symlink_to(folder.parent / "elsewhere")
    return "model"


def put_folder(folder: Path) -> str:
    (folder / "metrics.csv").unlink()
    (folder / "metrics.csv").mkdir()
    return "metrics.csv"


def put_file(folder: Path) -> str:
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").write_text("precious")
    return "checkpoints"


@pytest.mark.parametrize("put", [put_link, put_folder, put_file])
def test_what_stands_in_the_way_of_a_run_is_refused(unfinished: Path, put: Callable[[Path], str]) -> None:
    name = put(unfinished)
    with pytest.raises(UsageError, match=f"^{unfinished}/{name}: "), RunFolder.open(str(unfinished), overwrite=True):
        pass


def test_a_manifest_that_lists_other_files_removes_none_of_them(finished: Path, bundle: BiEncoderBundle) -> None:
    (finished.parent / "precious.txt").write_text("precious")
    manifest = json.loads((finished / "manifest.json").read_text())
    facts = {"bytes": 8, "sha256": "0" * 64}
    manifest["files"] |= {"../precious.txt": facts, "notes.txt": facts, str(finished.parent / "precious.txt"): facts}
    write_json(finished / "manifest.json", seal(manifest))
    start(finished, bundle)
    assert (finished.parent / "precious.txt").exists() and (finished / "notes.txt").exists()


def test_a_new_run_does_not_remove_what_it_reads(finished: Path, bundle: BiEncoderBundle) -> None:
    before = snapshot(finished)
    inputs: dict[str, Any] = {
        "encoder": f"{finished}/model",
        "tokenizer": f"{finished}/tokenizer.json",
        "train_files": [f"{finished}/lengths.json"],
    }
    for name, value in inputs.items():
        with pytest.raises(UsageError, match=f"--{name} "):
            start(finished, bundle, {name: value})
        assert snapshot(finished) == before


def test_a_run_that_is_killed_while_it_removes_files_can_be_started_again(
    finished: Path, bundle: BiEncoderBundle
) -> None:
    (finished / "manifest.json").unlink()  # It goes first.
    (finished / "config.yaml").unlink()
    start(finished, bundle)
    assert (finished / "config.yaml").exists() and not (finished / "metrics.csv").exists()


def test_a_full_disk_is_found_before_anything_is_removed(finished: Path, bundle: BiEncoderBundle) -> None:
    before = snapshot(finished)
    with torch.device("meta"):
        large = roberta_tiny(vocab_size=1 << 40)
    assert estimate_checkpoint_size(large) > shutil.disk_usage(finished).total
    with pytest.raises(OSError, match=str(finished)), RunFolder.open(str(finished), overwrite=True) as run:
        run.start({"encoder": "tiny"}, make_bundle(large, large))
    assert snapshot(finished) == before


@pytest.mark.parametrize("continues", [True, False])
def test_files_in_the_place_of_a_passage_encoder_are_found_before_a_tied_run(finished: Path, continues: bool) -> None:
    shared = roberta_tiny(vocab_size=300)
    checkpoint = str(finished / "checkpoints" / "last.ckpt") if continues else None
    fill(finished, ("model/passage_encoder/notes.txt",), "precious")
    before = snapshot(finished)
    run = RunFolder(finished, checkpoint)
    with pytest.raises(FileExistsError, match=f"^{finished}/model/passage_encoder/notes.txt: "):
        run.start({"encoder": "tiny"}, make_bundle(shared, shared))
    assert snapshot(finished) == before
    (finished / "model" / "passage_encoder" / "notes.txt").unlink()
    run.start({"encoder": "tiny"}, make_bundle(shared, shared))


def test_a_tied_run_replaces_an_untied_one(unfinished: Path) -> None:
    shared = roberta_tiny(vocab_size=300)
    fill(unfinished, ("model/passage_encoder/model.safetensors",), "of the run")
    start(unfinished, make_bundle(shared, shared))
    assert not (unfinished / "model" / "passage_encoder").exists()


def test_an_error_leaves_neither_folder_nor_lock(tmp_path: Path) -> None:
    for folder in (tmp_path / "a" / "b", tmp_path):
        with pytest.raises(ZeroDivisionError), lock_folder(folder):
            assert (folder / LOCK).is_file()
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_a_killed_run_left_is_no_obstacle_and_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("process 1 on a machine\n")
    with lock_folder(tmp_path):
        pass
    (tmp_path / "precious").write_text("precious")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError), lock_folder(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_the_folder_is_locked_for_other_processes(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "run"):
        if (pid := os.fork()) == 0:
            try:
                with lock_folder(tmp_path / "run"):
                    os._exit(0)
            except BlockingIOError as error:
                os._exit(7 if f"process {os.getppid()} on " in str(error) else 8)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert (tmp_path / "run" / LOCK).is_file()


def test_a_path_in_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match=f"^{tmp_path}/file"), lock_folder(path):
            pass
