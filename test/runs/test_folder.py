"""The folder of a run: which files a new run removes, keeps or refuses, and the lock."""

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


def write_files(folder: Path, names: tuple[str, ...], content: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start_run(folder: Path, bundle: BiEncoderBundle, settings: Mapping[str, Any] | None = None) -> None:
    """Start a run with ``overwrite``."""
    with RunFolder.open(str(folder), overwrite=True) as run:
        run.start(settings or {"encoder": "tiny"}, bundle)


@pytest.fixture
def unfinished(tmp_path: Path, bundle: BiEncoderBundle) -> Path:
    """Return the folder of a killed run that also holds files of the user."""
    start_run(tmp_path / "run", bundle)
    write_files(
        tmp_path / "run", tuple(name for name in WRITTEN if not (tmp_path / "run" / name).exists()), "of the run"
    )
    write_files(tmp_path / "run", FOREIGN, "precious")
    return tmp_path / "run"


@pytest.fixture
def finished(unfinished: Path) -> Path:
    """Return the folder of a finished run that also holds files of the user."""
    write_manifest(unfinished, {}, {})
    return unfinished


def test_files_of_a_run_and_of_the_user_are_distinguished(finished: Path) -> None:
    assert find_run_files(finished) == sorted([*WRITTEN, "manifest.json"])
    assert set(find_foreign_files(finished)) == {
        name for name in FOREIGN if name.split("/")[0] in ("checkpoints", "model", "tensorboard")
    }
    manifest = json.loads((finished / "manifest.json").read_text())
    assert set(manifest["files"]) == set(WRITTEN)
    assert manifest["files"]["metrics.csv"] == list_facts(finished, [finished / "metrics.csv"])["metrics.csv"]._asdict()


@pytest.mark.parametrize("kind", ["finished", "unfinished"])
def test_a_new_run_removes_only_the_files_of_the_earlier_run(
    kind: str, request: pytest.FixtureRequest, bundle: BiEncoderBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(kind)
    start_run(folder, bundle)
    left = read_files(folder)
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
def test_a_file_that_run_json_does_not_claim_is_refused(tmp_path: Path, name: str, overwrite: bool) -> None:
    write_files(tmp_path, (name,), "{}")
    with pytest.raises(UsageError, match=f"^{tmp_path}/{name}: "), RunFolder.open(str(tmp_path), overwrite=overwrite):
        pass
    assert read_files(tmp_path) == {name: b"{}"}


@pytest.mark.parametrize("name", ["rejects.jsonl", "report.html", "model/passage_encoder/config.json"])
def test_a_file_that_the_manifest_does_not_list_is_refused(finished: Path, name: str) -> None:
    write_files(finished, (name,), "precious")
    before = read_files(finished)
    with pytest.raises(UsageError, match=f"^{finished}/{name}: "), RunFolder.open(str(finished), overwrite=True):
        pass
    assert read_files(finished) == before


def replace_folder_with_link(folder: Path) -> str:
    (folder.parent / "elsewhere").mkdir()
    shutil.rmtree(folder / "model")
    (folder / "model").symlink_to(folder.parent / "elsewhere")
    return "model"


def replace_file_with_folder(folder: Path) -> str:
    (folder / "metrics.csv").unlink()
    (folder / "metrics.csv").mkdir()
    return "metrics.csv"


def replace_folder_with_file(folder: Path) -> str:
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").write_text("precious")
    return "checkpoints"


@pytest.mark.parametrize("block", [replace_folder_with_link, replace_file_with_folder, replace_folder_with_file])
def test_a_path_that_blocks_a_file_of_a_run_is_refused(unfinished: Path, block: Callable[[Path], str]) -> None:
    name = block(unfinished)
    with pytest.raises(UsageError, match=f"^{unfinished}/{name}: "), RunFolder.open(str(unfinished), overwrite=True):
        pass


def test_a_manifest_with_foreign_files_does_not_remove_them(finished: Path, bundle: BiEncoderBundle) -> None:
    (finished.parent / "precious.txt").write_text("precious")
    manifest = json.loads((finished / "manifest.json").read_text())
    facts = {"bytes": 8, "sha256": "0" * 64}
    manifest["files"] |= {"../precious.txt": facts, "notes.txt": facts, str(finished.parent / "precious.txt"): facts}
    write_json(finished / "manifest.json", seal(manifest))
    start_run(finished, bundle)
    assert (finished.parent / "precious.txt").exists() and (finished / "notes.txt").exists()


def test_a_new_run_does_not_remove_its_inputs(finished: Path, bundle: BiEncoderBundle) -> None:
    before = read_files(finished)
    inputs: dict[str, Any] = {
        "encoder": f"{finished}/model",
        "tokenizer": f"{finished}/tokenizer.json",
        "train_files": [f"{finished}/lengths.json"],
    }
    for name, value in inputs.items():
        with pytest.raises(UsageError, match=f"--{name} "):
            start_run(finished, bundle, {name: value})
        assert read_files(finished) == before


def test_a_run_killed_while_it_removes_files_can_be_started_again(finished: Path, bundle: BiEncoderBundle) -> None:
    (finished / "manifest.json").unlink()  # A run removes this file first.
    (finished / "config.yaml").unlink()
    start_run(finished, bundle)
    assert (finished / "config.yaml").exists() and not (finished / "metrics.csv").exists()


def test_a_full_disk_is_detected_before_files_are_removed(finished: Path, bundle: BiEncoderBundle) -> None:
    before = read_files(finished)
    with torch.device("meta"):
        large = roberta_tiny(vocab_size=1 << 40)
    assert estimate_checkpoint_size(large) > shutil.disk_usage(finished).total
    with pytest.raises(OSError, match=str(finished)), RunFolder.open(str(finished), overwrite=True) as run:
        run.start({"encoder": "tiny"}, make_bundle(large, large))
    assert read_files(finished) == before


@pytest.mark.parametrize("is_resuming", [True, False])
def test_files_in_passage_encoder_are_refused_before_a_tied_run(finished: Path, is_resuming: bool) -> None:
    shared = roberta_tiny(vocab_size=300)
    checkpoint = str(finished / "checkpoints" / "last.ckpt") if is_resuming else None
    write_files(finished, ("model/passage_encoder/notes.txt",), "precious")
    before = read_files(finished)
    run = RunFolder(finished, checkpoint)
    with pytest.raises(FileExistsError, match=f"^{finished}/model/passage_encoder/notes.txt: "):
        run.start({"encoder": "tiny"}, make_bundle(shared, shared))
    assert read_files(finished) == before
    (finished / "model" / "passage_encoder" / "notes.txt").unlink()
    run.start({"encoder": "tiny"}, make_bundle(shared, shared))


def test_a_tied_run_replaces_an_untied_one(unfinished: Path) -> None:
    shared = roberta_tiny(vocab_size=300)
    write_files(unfinished, ("model/passage_encoder/model.safetensors",), "of the run")
    start_run(unfinished, make_bundle(shared, shared))
    assert not (unfinished / "model" / "passage_encoder").exists()


def test_an_error_removes_the_new_folder_and_the_lock(tmp_path: Path) -> None:
    for folder in (tmp_path / "a" / "b", tmp_path):
        with pytest.raises(ZeroDivisionError), lock_folder(folder):
            assert (folder / LOCK).is_file()
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_lock_file_of_a_killed_run_is_reused_and_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("process 1 on a machine\n")
    with lock_folder(tmp_path):
        pass
    (tmp_path / "precious").write_text("precious")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError), lock_folder(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_locked_folder_is_refused_to_other_processes(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "run"):
        if (pid := os.fork()) == 0:
            try:
                with lock_folder(tmp_path / "run"):
                    os._exit(0)
            except BlockingIOError as error:
                os._exit(7 if f"process {os.getppid()} on " in str(error) else 8)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert (tmp_path / "run" / LOCK).is_file()


def test_the_error_names_a_path_inside_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match=f"^{tmp_path}/file"), lock_folder(path):
            pass
