"""Run ``dpr-text train`` in this process on the tiny data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from text.commands.cli import run_command
from text.commands.train import train
from text.commands.train_flags import TrainFlags

ROOT = Path(__file__).parents[2]
TINY_SET = ROOT / "examples/dpr/data/nq3_tiny/data/retriever"
SMALL = ("--eval_hard_negatives=2", "--eval_other_negatives=0", "--passage_max_length=40")
"""Flags that make a training quicker, for tests in which the metrics do not matter."""


def run_train(*flags: str) -> int:
    """Train on the tiny data set unless a flag names other data, and return the exit code."""
    data = [] if any(flag.startswith(("--data_path", "--config")) for flag in flags) else [f"--data_path={TINY_SET}"]
    return run_command(train, TrainFlags, [*data, *flags], program="dpr-text train")


def fail_train(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    """Run a training that fails, and return its exit code and its only line on stderr."""
    capsys.readouterr()
    code = run_train(*flags)
    [line] = capsys.readouterr().err.splitlines()
    return code, line


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rewrite_rows(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Apply a function to each record of a JSONL file."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(change(record)) + "\n" for record in records), encoding="utf-8")
