"""Messages of Lightning and torch that a user cannot act on are hidden. All other messages are shown."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from test.training.conftest import Run
from text.training import build_trainer, fit_and_test, lightning_messages
from text.training.lightning_messages import hide_messages

HIDDEN = [
    ("pytorch_lightning.utilities.rank_zero", "GPU available: True (cuda), used: False"),
    ("pytorch_lightning.utilities.rank_zero", "💡 Tip: For seamless cloud uploads and versioning, try installing x"),
    ("pytorch_lightning.utilities.rank_zero", f"{'-' * 100}\ndistributed_backend=gloo\nAll distributed processes"),
    ("lightning_fabric.utilities.distributed", "Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/2"),
]
SHOWN = [
    ("pytorch_lightning.utilities.rank_zero", "Trainer already configured with a GPU available: no"),
    ("pytorch_lightning.utilities.rank_zero", "`Trainer.fit` stopped: No training batches."),
    ("lightning_fabric.utilities.rank_zero", "GPU available: True (cuda), used: False"),
]
SYNC = "It is recommended to use `self.log('valid_mrr@10', ..., sync_dist=True)` when logging on epoch level"
RESULT = "pytorch_lightning.trainer.connectors.logger_connector.result"


@pytest.fixture
def records() -> Iterator[list[str]]:
    """Messages that Lightning logs during the test."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Collect()
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    for logger in loggers:
        logger.addHandler(handler)
    yield found
    for logger in loggers:
        logger.removeHandler(handler)


def test_records_are_hidden_only_inside_the_block(records: list[str]) -> None:
    with hide_messages():
        for name, message in [*HIDDEN, *SHOWN]:
            logging.getLogger(name).warning(message)
    assert records == [message for _, message in SHOWN]
    for name, message in HIDDEN:
        logging.getLogger(name).warning(message)
    assert records[len(SHOWN) :] == [message for _, message in HIDDEN]


def test_warnings_are_hidden_by_module_and_message_only_inside_the_block() -> None:
    def warn(message: str, module: str) -> None:
        warnings.warn_explicit(message, UserWarning, "f.py", 1, module=module)

    with hide_messages():
        warn(SYNC, RESULT)
        with pytest.raises(UserWarning):
            warn(SYNC, "text.training.task")
        with pytest.raises(UserWarning):
            warn("You called `self.log` twice", RESULT)
    with pytest.raises(UserWarning):
        warn(SYNC, RESULT)


def test_lightning_logs_nothing_in_new_and_resumed_runs(rows: Path, tmp_path: Path, records: list[str]) -> None:
    for max_epochs, checkpoint in ((1, None), (2, str(tmp_path / "checkpoints/last.ckpt"))):
        run = Run(rows, tmp_path / "parts")  # its Trainer is not used
        records.clear()
        options = {"max_epochs": max_epochs, "num_batches": 3, "monitor": "valid_loss", "checkpoint": checkpoint}
        trainer = build_trainer(tmp_path, **options)  # type: ignore[arg-type]
        fit_and_test(trainer, run.task, run.data, checkpoint=checkpoint)
        assert records == []


def test_every_filter_names_an_existing_lightning_module() -> None:
    for name in [*lightning_messages._LINES, *lightning_messages._WARNINGS]:
        assert __import__(name, fromlist=["_"]).__name__ == name
