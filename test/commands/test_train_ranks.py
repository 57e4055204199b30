"""``dpr-text train`` with two processes gives the results of one process and writes them once."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TINY_SET = ROOT / "examples/dpr/data/nq3_tiny/data/retriever"
FLAGS = f"--data_path={TINY_SET} --max_epochs=2 --dropout=0 --vocab_size=300 --batch_size=4 --validate_every_n_steps=4"


def run(folder: Path, *launcher: str, flags: str = FLAGS) -> str:
    command = [sys.executable, *(launcher or ["-m"]), "text", "train", *flags.split(), f"--output_dir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_figures(folder: Path) -> list[dict[str, float]]:
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    printed = run(tmp_path / "two", "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m")
    assert printed.count("test: loss") == printed.count("train: 10 questions") == 1
    run(tmp_path / "one")
    two, one = read_figures(tmp_path / "two"), read_figures(tmp_path / "one")
    assert len(two) == len(one)
    # An epoch has 3 steps, so the last validation is the one at the end.
    assert [row["step"] + 1 for row in two if "valid_loss" in row] == [4, 6]
    for found, expected in zip(two, one, strict=True):
        assert found == pytest.approx(expected, rel=5e-3)  # AdamW divides by small numbers
    sizes = [len(load_file(tmp_path / name / "model/passage_encoder/model.safetensors")) for name in ("one", "two")]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
@pytest.mark.parametrize("data", ["", "--valid_share=0.3"], ids=["no validation", "a share of the training data"])
def test_two_processes_equal_one_without_validation_data(tmp_path: Path, data: str) -> None:
    flags = f"--train_files={TINY_SET}/train.jsonl --max_epochs=2 --dropout=0 --vocab_size=300 --batch_size=4 {data}"
    printed = run(
        tmp_path / "two", "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", flags=flags
    )
    assert printed.count("train data: ") == 1 and "test: loss" not in printed
    run(tmp_path / "one", flags=flags)
    two, one = read_figures(tmp_path / "two"), read_figures(tmp_path / "one")
    assert any("valid_loss" in row for row in one) == bool(data)
    for found, expected in zip(two, one, strict=True):
        assert found == pytest.approx(expected, rel=5e-3)  # AdamW divides by small numbers
    files = [sorted(path.name for path in (tmp_path / name / "checkpoints").iterdir()) for name in ("one", "two")]
    assert files[0] == files[1] == (["best.ckpt", "last.ckpt"] if data else ["last.ckpt"])
