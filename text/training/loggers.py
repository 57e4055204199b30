"""metrics.csv and speed.csv: one table each for a run, also where it was interrupted.

What the same run gives again is apart from what depends on the machine and the moment.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from text.artifacts import write_text

SPEED = ("examples/s", "padding")
"""What goes into ``speed.csv``: the clock's, and what depends on how batches are shared out among ranks."""


class MetricsCSV(CSVLogger):
    """Lightning's CSV logger, writing ``metrics.csv`` right in the run's folder, and ``speed.csv`` beside it.

    Args:
        folder: The run's folder.
        keep_steps: Optimizer steps of an earlier part of the run: the rows of these steps stay,
            those after them are trained, and logged, again.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep_steps: int = 0) -> None:
        # Each row is on disk at once, for whoever watches and for a run that is interrupted.
        super().__init__(os.fspath(folder), name="", version="", flush_logs_every_n_steps=1)
        self._keep_steps = keep_steps
        self._kept: list[dict[str, str]] = []
        self._speed = Path(folder, "speed.csv")

    @property
    def experiment(self) -> Any:
        """Lightning's writer of ``metrics.csv``, or None before the first row.

        Lightning asks for it before a checkpoint is checked, and then no file must change yet.
        """
        return None if self._experiment is None else super().experiment

    def save(self) -> None:
        if self._experiment is not None:
            super().save()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # pyright: ignore
        row = {name: value for name, value in metrics.items() if name not in SPEED}
        if self._experiment is None:
            self._start_tables()
        # The row of an epoch may have been written after the checkpoint that the run resumes from was saved.
        if {**{name: str(value) for name, value in row.items()}, "step": str(step)} not in self._kept[-1:]:
            super().log_metrics(row, step)
        if SPEED[0] in metrics:
            with open(self._speed, "a", encoding="utf-8", newline="") as file:
                values = (f"{metrics[name]:.6g}" for name in SPEED)
                csv.writer(file, lineterminator="\n").writerow([*values, int(metrics["epoch"]), step])

    def _start_tables(self) -> None:
        """Start both files with the rows that are kept."""
        self._kept = _rows(Path(self.save_dir, "metrics.csv"), self._keep_steps)
        with warnings.catch_warnings():
            # It starts the file anew, which is what is wanted: the rows to keep are read already.
            warnings.filterwarnings("ignore", message="Experiment logs directory", category=UserWarning)
            super().experiment.metrics.extend(self._kept)
        self._start_speed(_rows(self._speed, self._keep_steps))

    def _start_speed(self, kept: list[dict[str, str]]) -> None:
        names = [*SPEED, "epoch", "step"]
        lines = [names, *([row.get(name, "") for name in names] for row in kept)]
        write_text(self._speed, "".join(",".join(line) + "\n" for line in lines))


def open_tensorboard(folder: str | os.PathLike[str]) -> list[TensorBoardLogger]:
    """Return the logger that writes ``tensorboard/`` into a run's folder. There is none without TensorBoard."""
    if find_spec("tensorboard") is not None:
        return [TensorBoardLogger(os.fspath(folder), name="tensorboard", version="")]
    rank_zero_only(print)('no logs for TensorBoard. To have them: pip install "dpr-text[tensorboard]"')
    return []


def _rows(path: str | os.PathLike[str], keep_steps: int) -> list[dict[str, str]]:
    if not keep_steps or not os.path.exists(path):
        return []
    # A killed run may have torn the last line.
    whole_lines = Path(path).read_text(encoding="utf-8").rpartition("\n")[0].split("\n")
    rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(whole_lines)]
    return [row for row in rows if int(row["step"]) < keep_steps]
