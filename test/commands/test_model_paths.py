"""Flags that name a model in the Hugging Face cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from test.helpers import save_model, write_jsonl
from text.commands import main
from text.commands.model_paths import locate_models
from text.commands.train_flags import ModelFlags, TrainFlags


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the saved model org/model in a cache."""
    model = tmp_path / "hub" / "models--org--model"
    folder = model / "snapshots" / "a1"
    save_model(folder, 0)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_model_name_in_a_group_is_resolved_and_printed(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = TrainFlags(model=ModelFlags(encoder="org/model"))
    assert locate_models(flags).model.encoder == str(snapshot)
    assert capsys.readouterr().out == f"--encoder: org/model is {snapshot} in the Hugging Face cache\n"
    assert locate_models(TrainFlags()) == TrainFlags()


def test_a_collection_is_encoded_with_a_model_from_the_cache(snapshot: Path, tmp_path: Path) -> None:
    passages = write_jsonl(tmp_path / "p.jsonl", [{"_id": "a", "text": "oak elm"}])
    command = ["encode", f"--collection={passages}", f"--output_dir={tmp_path / 'e'}", "--device=cpu"]
    assert main([*command, "--model=org/model"]) == 0
    assert main([*command, "--model=org/absent"]) == 2


def test_a_model_that_is_not_supported_ends_a_command_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "clip"}')
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")
    passages = write_jsonl(tmp_path / "p.jsonl", [{"_id": "a", "text": "oak elm"}])
    code = main(["encode", f"--model={folder}", f"--collection={passages}", f"--output_dir={tmp_path / 'e'}"])
    [line] = capsys.readouterr().err.splitlines()
    assert code == 2
    for part in (str(folder / "config.json"), '"clip"', "supported.md"):
        assert part in line
