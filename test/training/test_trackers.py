"""Loggers that the user asks for: which are opened, what they get, and how a resumed run continues."""

from __future__ import annotations

import csv
import getpass
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from test.training.conftest import Run
from text.errors import MissingPackageError
from text.training import build_trainer, fit_and_test
from text.training.trackers import Trackers, open_loggers, select_public_settings

SETTINGS = {"seed": 1, "encoder": "tiny", "data_path": "/home/ada/nq", "train_files": ["a.jsonl"], "tied": None}


def test_metrics_csv_is_always_there_and_other_loggers_are_chosen(tmp_path: Path) -> None:
    def open_names(names: list[str] | None) -> list[type]:
        return [type(logger) for logger in open_loggers(tmp_path, names)]

    assert open_names(None) == open_names(["csv", "tensorboard"]) == [TensorBoardLogger]
    assert open_names(["csv"]) == open_names([]) == []
    with pytest.raises(ValueError, match='"web"'):
        open_names(["csv", "web"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_requested_logger_without_its_package_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=rf'^{name} is not installed.*"dpr-text\[{name}\]"'):
        open_loggers(tmp_path, [name])


def test_settings_that_may_name_a_file_are_not_sent() -> None:
    assert select_public_settings(SETTINGS | {"question_prompt": "query: ", "passage_prompt": "a/b"}) == {
        "seed": 1,
        "encoder": "tiny",
        "question_prompt": "query: ",
    }


def test_other_ranks_open_no_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    trackers: Any = Trackers(tmp_path, ["wandb", "mlflow"], is_resumed=False, settings={})
    trackers.setup(None, None, "fit")
    assert not list(tmp_path.iterdir())


def train_tracked(rows: Path, folder: Path, name: str | None, checkpoint: Path | None = None) -> list[dict[str, str]]:
    """Train for two steps, or for three if the run resumes, and return the rows of metrics.csv."""
    run = Run(rows, folder)
    options: dict[str, Any] = {"num_batches": 3, "log_every_n_steps": 1, "validate_every_n_steps": 1}
    path = None if checkpoint is None else str(checkpoint)
    max_epochs = 1 if checkpoint is None else 2
    trainer = build_trainer(
        folder, **options, max_epochs=max_epochs, checkpoint=path, logger=[name or "csv"], settings=SETTINGS
    )
    fit_and_test(trainer, run.task, run.data, checkpoint=path)
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def find_leaks(folder: Path) -> list[str]:
    """Return the private words in files for the server."""
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    private = [socket.gethostname(), getpass.getuser(), "/home/ada", "a.jsonl", str(Path.cwd()), str(folder)]
    return [word for word in private if len(word) > 2 and word.encode() in content]


@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_changes_no_record_leaks_nothing_and_continues(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    plain, tracked = tmp_path / "plain", tmp_path / "tracked"
    assert train_tracked(rows, tracked, name) == train_tracked(rows, plain, None)
    ids = json.loads((tracked / "loggers.json").read_text())
    last = Path("checkpoints/last.ckpt")
    assert train_tracked(rows, tracked, name, tracked / last) == train_tracked(rows, plain, None, plain / last)
    assert json.loads((tracked / "loggers.json").read_text()) == ids and list(ids) == [name]
    if name == "wandb":
        [one, other] = (tracked / "wandb").glob(f"offline-run-*-{ids['wandb']}")
        assert not find_leaks(one / "files") and not find_leaks(other / "files")
        assert not [leak for path in (one, other) for leak in find_leaks_in_record(path)]
    else:
        [run] = (tracked / "mlflow").glob(f"*/{ids['mlflow']}")
        steps = [int(line.split()[2]) for line in (run / "metrics/valid_mrr_at_10").read_text().splitlines()]
        assert steps == [0, 1, 2, 3, 4, 5]
        assert (run / "params/seed").read_text() == "1" and not (run / "params/data_path").exists()
        assert not find_leaks(run / "tags")


def find_leaks_in_record(folder: Path) -> list[str]:
    """Return the private words in the record that ``wandb sync`` sends."""
    [record] = folder.glob("*.wandb")
    content = record.read_bytes()
    private = [socket.gethostname(), "/home/ada", "a.jsonl", str(Path.cwd()), str(folder)]
    return [word for word in private if len(word) > 2 and word.encode() in content]
