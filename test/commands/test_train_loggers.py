"""``dpr-text train --logger``: its values, missing packages, and stages of a loop that it does not change."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from test.commands.test_loop import loop_flags, name_stages
from test.commands.training import fail_train
from text.commands.cli import parse_flags
from text.commands.train_flags import TrainFlags


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], None),
        (["--logger=csv"], ["csv"]),
        (["--logger=tensorboard,csv"], ["tensorboard", "csv"]),
        (["--logger=[tensorboard, csv]"], ["tensorboard", "csv"]),
        (["--logger", "tensorboard", "csv"], ["tensorboard", "csv"]),
    ],
)
def test_loggers_are_a_list(arguments: list[str], expected: list[str] | None) -> None:
    assert parse_flags(TrainFlags, arguments).run.logger == expected


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_reported_before_the_data_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    code, line = fail_train(capsys, f"--logger=csv,{name}", f"--output_dir={tmp_path}/run")
    assert code == 2 and f"--logger={name}" in line and f'pip install "dpr-text[{name}]"' in line
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = fail_train(capsys, "--logger=csv,web", f"--output_dir={tmp_path}/run")
    assert code == 2 and "--logger[1]" in line and '"web"' in line


def test_a_logger_does_not_repeat_a_stage() -> None:
    assert name_stages(loop_flags(train={"logger": ["csv"]})) == name_stages(loop_flags())
