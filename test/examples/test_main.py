"""The example script: its original commands run as written, and write the same files as ``dpr-text train``."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from examples.dpr.main import ExampleFlags, main
from test.helpers import read_examples
from text.bundle import BiEncoderBundle
from text.commands.cli import parse_flags, run_command
from text.commands.train import train
from text.commands.train_flags import TrainFlags
from text.models import RobertaEncoder

ROOT = Path(__file__).parents[2]
DATA_DIR = "examples/dpr/data/nq3_tiny/data/retriever/"
SMALL = ("--eval_hard_negatives=2", "--eval_other_negatives=0", "--passage_max_length=40")

# A deprecation warning in Lightning's own code.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*")


def run_python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run ``PYTHONPATH=. python ARGUMENTS`` in a new process."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a copy of the examples and a link to the library, so that runs write nothing into the repository."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "examples", root / "examples")
    (root / "text").symlink_to(ROOT / "text")
    return root


@pytest.fixture(scope="module")
def tiny_run(root: Path) -> Path:
    """Folder that the original example's command writes."""
    done = run_python("examples/dpr/main.py", "--max_epochs=10", f"--data_path={DATA_DIR}", cwd=root)
    assert done.returncode == 0, done.stderr
    assert "model: runs/dpr/model" in done.stdout
    assert "test: loss " in done.stdout
    return root / "runs" / "dpr"


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_training_loss_falls_to_less_than_half(tiny_run: Path) -> None:
    losses = [float(row["train_loss_epoch"]) for row in read_metrics(tiny_run) if row["train_loss_epoch"]]
    assert len(losses) == 10
    assert losses[-1] < losses[0] / 2


def test_a_run_writes_the_files_that_its_manifest_lists(tiny_run: Path) -> None:
    written = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    assert written >= {
        "config.yaml",
        "tokenizer.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "manifest.json",
        "report.html",
        "run.json",
        "model/README.md",
        "model/config.json",
        "model/modules.json",
        "model/tokenizer.json",
        "model/question_encoder/tokenizer.json",
        "model/passage_encoder/tokenizer.json",
        "model/question_encoder/model.safetensors",
        "model/passage_encoder/model.safetensors",
    }
    manifest = json.loads((tiny_run / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        content = (tiny_run / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}, name
    assert set(manifest["files"]) == written - {"manifest.json"}
    assert manifest["data"]["train"]["questions"] == 10
    assert manifest["data"]["train"]["duplicate_keys_checked"] is True
    assert yaml.safe_load((tiny_run / "config.yaml").read_text())["max_epochs"] == 10


def test_the_saved_model_is_the_best_checkpoint(tiny_run: Path) -> None:
    bundle = BiEncoderBundle.load(tiny_run / "model")
    assert not bundle.model.is_tied
    encoder = bundle.encoder("question")
    assert isinstance(encoder, RobertaEncoder)
    assert encoder.config.vocab_size == bundle.tokenizer.get_vocab_size()
    assert (bundle.limits, bundle.similarity) == ({"question_max_length": 64, "passage_max_length": 256}, "dot")
    best = max(float(row["valid_mrr@10"]) for row in read_metrics(tiny_run) if row["valid_mrr@10"])
    assert best > 0.2  # a random ranking of 30 passages has (1 + 1/2 + ... + 1/10) / 30 = 0.098


def test_the_model_card_has_data_settings_and_results(tiny_run: Path) -> None:
    card = (tiny_run / "model" / "README.md").read_text()
    test = json.loads((tiny_run / "manifest.json").read_text())["test"]
    for line in (
        "| train | train.jsonl | 10 |",
        f"| mrr@10 | {test['test_mrr@10']:.4f} |",
        "| question_max_length | 64 |",
        "| passage_max_length | 256 |",
        "| max_epochs | 10 |",
    ):
        assert line in card.splitlines()


def test_the_example_writes_the_same_bytes_as_the_command(tmp_path: Path) -> None:
    flags = [f"--data_path={ROOT / DATA_DIR}", "--max_epochs=2", "--num_positives=2", "--tied", "--similarity=cosine"]
    output_dirs = [f"--output_dir={tmp_path / name}" for name in ("example", "command")]
    assert run_command(main, ExampleFlags, [*flags, *SMALL, output_dirs[0]]) == 0
    assert run_command(train, TrainFlags, [*flags, *SMALL, output_dirs[1]]) == 0
    files = [
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in (tmp_path / "example" / "model", tmp_path / "command" / "model")
    ]
    assert len(files[0]) > 10
    assert files[0] == files[1]
    one, other = tmp_path / "example", tmp_path / "command"
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    settings = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (one, other)]
    assert [settings[0] | {"output_dir": ""}] == [settings[1] | {"output_dir": ""}]


@pytest.mark.slow
def test_the_original_selection_command_runs_as_written(tmp_path: Path) -> None:
    raw = tmp_path / "nq-dev.json"
    records = [json.loads(line) for line in (ROOT / DATA_DIR / "train.jsonl").read_text().splitlines()]
    raw.write_text(json.dumps(records, indent=4))
    out = tmp_path / "out" / "train.jsonl"
    flags = ["--sel_data", f"--sel_raw_path={raw}", f"--sel_out_path={out}", "--sel_num_items=500"]
    done = run_python("examples/dpr/main.py", *flags)
    assert done.returncode == 0, done.stderr
    assert "kept 10 rows" in done.stdout
    assert f"{raw}: only 10 of the 500" in done.stdout
    assert [json.loads(line) for line in out.read_text().splitlines()] == records


def test_selected_splits_are_disjoint_and_can_be_trained_on(tmp_path: Path) -> None:
    raw, folder = tmp_path / "raw.jsonl", tmp_path / "data"
    raw.write_text("".join((ROOT / DATA_DIR / f"{name}.jsonl").read_text() for name in ("train", "valid")))
    for stage, skip, num in (("train", 0, 10), ("valid", 10, 5), ("test", 15, 5)):
        flags = [f"--sel_raw_path={raw}", f"--sel_out_path={folder / stage}.jsonl", f"--sel_num_items={num}"]
        assert run_command(main, ExampleFlags, ["--sel_data", *flags, f"--sel_skip_items={skip}"]) == 0
    rows = [line for path in folder.iterdir() for line in path.read_text().splitlines()]
    assert len(rows) == len(set(rows)) == 20
    assert run_command(main, ExampleFlags, [f"--data_path={folder}", "--fast_dev_run", *SMALL]) == 0


def test_a_selection_can_be_written_to_a_bare_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / DATA_DIR / "train.jsonl", tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = ["--sel_data", "--sel_raw_path=train.jsonl", "--sel_out_path=some.jsonl"]
    assert run_command(main, ExampleFlags, flags) == 0
    assert (tmp_path / "some.jsonl").read_text() == (tmp_path / "train.jsonl").read_text()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--sel_raw_path=nowhere.json", "--sel_out_path={folder}/new.jsonl"], "nowhere.json"),
        (["--sel_raw_path={folder}/train.jsonl", "--sel_out_path={folder}/valid.jsonl"], "valid.jsonl"),
        (["--sel_raw_path={folder}/train.jsonl", "--sel_out_path={folder}/link.jsonl", "--overwrite"], "link.jsonl"),
        (
            ["--sel_raw_path={folder}/train.jsonl", "--sel_out_path={folder}/new.jsonl", "--sel_num_items=0"],
            "num_items",
        ),
    ],
)
def test_a_selection_that_fails_names_the_file_or_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], part: str
) -> None:
    shutil.copytree(ROOT / DATA_DIR, tmp_path, dirs_exist_ok=True)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "train.jsonl")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    argv = ["--sel_data", *(flag.format(folder=tmp_path) for flag in flags)]
    assert run_command(main, ExampleFlags, argv) == 2
    assert part in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_the_original_flags_keep_their_names_and_defaults() -> None:
    flags = parse_flags(ExampleFlags, [])
    assert flags.data.data_path == DATA_DIR.rstrip("/")
    assert (flags.optimization.max_epochs, flags.run.gpus, flags.run.fast_dev_run) == (5, 0, False)
    assert flags.data.batch_size == 5
    assert flags.selection.sel_num_items == 10


def test_the_examples_in_the_help_can_be_parsed() -> None:
    examples = [shlex.split(line) for line in read_examples(ExampleFlags)]
    assert examples
    for program, script, *argv in examples:
        assert (program, script) == ("python", "examples/dpr/main.py")
        parse_flags(ExampleFlags, argv)


def test_the_tiny_set_is_read_only_if_no_file_is_given() -> None:
    for name in ("train_files", "valid_file", "test_file"):
        assert parse_flags(ExampleFlags, [f"--{name}=rows.jsonl"]).data.data_path is None


def test_a_selection_needs_a_file_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / DATA_DIR
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert run_command(main, ExampleFlags, ["--sel_data", f"--sel_raw_path={folder}/valid.jsonl", "--overwrite"]) == 2
    assert "--sel_out_path" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
