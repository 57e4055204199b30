"""``dpr-text train`` with and without validation and test data: inputs, printed lines and output files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from test.commands.training import SMALL, TINY_SET, read_metrics
from text.commands import main
from text.training import read_checkpoint

Capture = pytest.CaptureFixture[str]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
TRAIN, VALID, TEST = (str(TINY_SET / f"{stage}.jsonl") for stage in ("train", "valid", "test"))
FLAGS = {"train": f"--train_files={TRAIN}", "valid": f"--valid_file={VALID}", "test": f"--test_file={TEST}"}


def run(folder: Path, *flags: str, max_epochs: int = 1) -> int:
    return main(["train", f"--output_dir={folder}", f"--max_epochs={max_epochs}", "--vocab_size=300", *SMALL, *flags])


def fail(capsys: Capture, folder: Path, *flags: str) -> tuple[int, str]:
    """Run a training that fails, and return its exit code and its only line on stderr."""
    capsys.readouterr()
    code = run(folder, *flags)
    [line] = capsys.readouterr().err.splitlines()
    return code, line


def assert_model_is_checkpoint(folder: Path, name: str) -> None:
    """Check that the saved model equals a checkpoint, by the word embeddings, which every step changes."""
    saved = read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")["state_dict"]
    model = load_file(folder / "model/question_encoder/model.safetensors")
    expected = saved["model.question_encoder.embeddings.word.weight"]
    assert torch.equal(model["embeddings.word_embeddings.weight"], expected)


def test_training_data_alone_gives_the_last_checkpoint_and_no_other_metrics(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "run"
    assert run(folder, FLAGS["train"]) == 0
    printed = capsys.readouterr().out
    assert f"train data: {TRAIN}" in printed.splitlines()
    assert "no validation data" in printed and "--valid_share" in printed and "test: " not in printed
    assert not {"valid.jsonl", "test.jsonl"} & {Path(word).name for word in printed.split()}
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert not (folder / "worst_questions.jsonl").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (list(manifest["data"]), manifest["test"]) == (["train"], {})
    assert not any(name.startswith(("valid", "test")) for name in read_metrics(folder)[0])
    card = (folder / "model" / "README.md").read_text()
    assert "| train | train.jsonl | 10 |" in card and "## Results" not in card and "no validation data" in card
    page = (folder / "report.html").read_text()
    for heading in ("Validation", "Worst validation questions", "Test", "Embedding collapse"):
        assert f"<h2>{heading}" not in page
    assert "<h2>Training" in page and "no validation data" in page
    assert_model_is_checkpoint(folder, "last")
    # The run can continue for more epochs, but not with validation data.
    code, line = fail(capsys, folder, "--resume", FLAGS["train"], FLAGS["valid"])
    assert code == 5 and str(folder) in line
    assert run(folder, FLAGS["train"], "--resume", max_epochs=2) == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["monitor"] is None
    assert run(tmp_path / "again", f"--config={folder / 'config.yaml'}", "--fast_dev_run") == 0


@pytest.mark.parametrize(
    "stages", [("train", "test"), pytest.param(("train", "valid"), marks=pytest.mark.slow)], ids="-".join
)
def test_each_stage_can_be_left_out(tmp_path: Path, capsys: Capture, stages: tuple[str, ...]) -> None:
    folder = tmp_path / "run"
    shutil.copy(TRAIN, tmp_path / "copy.jsonl")
    flags = {**FLAGS, "test": f"--test_file={tmp_path}/copy.jsonl"}
    assert run(folder, *(flags[stage] for stage in stages)) == 0
    printed = capsys.readouterr().out
    assert ("test: loss" in printed) == ("test" in stages)
    assert (folder / "checkpoints" / "best.ckpt").exists() == ("valid" in stages)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert tuple(manifest["data"]) == stages
    assert bool(manifest["test"]) == ("test" in stages)
    assert ("## Results" in (folder / "model" / "README.md").read_text()) == ("test" in stages)
    card, page = ((folder / name).read_text() for name in ("model/README.md", "report.html"))
    for shown in (printed, card, page):
        assert ("train and test read the same rows" in shown) == ("test" in stages)
    assert_model_is_checkpoint(folder, "best" if "valid" in stages else "last")


def test_valid_share_holds_out_questions_and_is_a_setting_of_the_run(tmp_path: Path, capsys: Capture) -> None:
    flags = [f"--train_files=[{TRAIN}, {TEST}]", "--valid_share=0.2"]
    folder = tmp_path / "run"
    assert run(folder, *flags) == 0
    printed = capsys.readouterr().out
    assert "train: 16 questions" in printed and "valid: 4 questions" in printed and "0.2" in printed
    code, line = fail(capsys, folder, "--resume", flags[0], "--valid_share=0.3")
    assert code == 5 and "valid_share" in line
    card = (folder / "model" / "README.md").read_text()
    assert "held out from the training files" in card and "| valid | train.jsonl |" in card
    manifest = json.loads((folder / "manifest.json").read_text())["data"]
    assert [file["path"] for file in manifest["valid"]["files"]] == [TRAIN, TEST]
    assert manifest["train"]["questions"] + manifest["valid"]["questions"] == 20


@pytest.mark.parametrize(
    "flag", ["--early_stopping=2", "--monitor=valid_loss", "--validate_every_n_steps=2", "--validate_first"]
)
def test_a_flag_that_needs_validation_data_is_refused_without_it(tmp_path: Path, capsys: Capture, flag: str) -> None:
    code, line = fail(capsys, tmp_path / "run", FLAGS["train"], flag)
    assert code == 2 and flag.split("=")[0] in line and "--valid_share" in line
    assert not (tmp_path / "run").exists()


def test_training_data_is_required_and_no_split_may_be_empty(tmp_path: Path, capsys: Capture) -> None:
    for flags, parts in (
        ([], ["--data_path", "--train_files"]),
        ([FLAGS["valid"]], ["--train_files"]),
        ([f"--data_path={tmp_path}"], [str(tmp_path), "train.jsonl"]),
        ([f"--data_path={TRAIN}"], [TRAIN, "--train_files"]),
        ([FLAGS["train"], "--valid_share=0.01"], ["0.01"]),
        ([FLAGS["train"], FLAGS["valid"], "--valid_share=0.5"], ["--valid_share", "--valid_file", VALID]),
        ([f"--train_files=[{TRAIN}, {TRAIN}]"], ["--train_rates", TRAIN]),
        ([f"--data_path={TINY_SET}", "--valid_share=0.5"], ["--valid_share", VALID]),
        ([FLAGS["train"], "--valid_share=1"], ["valid_share"]),
    ):
        code, line = fail(capsys, tmp_path / "run", *flags)
        assert code == 2 and all(part in line for part in parts), line


def test_the_download_folder_of_fair_is_read(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "downloads/data/retriever"
    folder.mkdir(parents=True)
    for stage, name in (("train", "nq-train"), ("valid", "nq-dev")):
        rows = [json.loads(line) for line in (TINY_SET / f"{stage}.jsonl").read_text().splitlines()]
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=4))
    assert run(tmp_path / "run", f"--data_path={tmp_path / 'downloads'}", "--fast_dev_run") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [f"train data: {folder}/nq-train.json", f"valid data: {folder}/nq-dev.json"]
    assert printed[2].startswith("no test data")
