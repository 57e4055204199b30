"""Loggers that write metrics.csv and speed.csv, one table each for a run, also if the run was interrupted.

metrics.csv holds the reproducible metrics. speed.csv holds those that depend on the machine and on the time.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only

from text.artifacts import write_text

SPEED_METRICS = ("examples/s", "padding")
"""Metrics in ``speed.csv``. They depend on the clock, or on how batches are split among ranks."""


class MetricsCSV(CSVLogger):
    """Lightning's CSV logger, which writes ``metrics.csv`` and ``speed.csv`` directly into the run's folder.

    Args:
        folder: The run's folder.
        keep_steps: Optimizer steps before the checkpoint that the run resumes from. The rows of these steps are kept.
            Later rows are removed, because their steps are trained and logged again.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep_steps: int = 0) -> None:
        # Each row is flushed at once, so that it can be watched and is not lost if the run is interrupted.
        super().__init__(os.fspath(folder), name="", version="", flush_logs_every_n_steps=1)
        self._keep_steps = keep_steps
        self._kept: list[dict[str, str]] = []
        self._speed = Path(folder, "speed.csv")

    @property
    def experiment(self) -> Any:
        """Lightning's writer of ``metrics.csv``, or None before the first row.

        Lightning reads this property before a checkpoint is checked, when no file may change yet.
        """
        return None if self._experiment is None else super().experiment

    def save(self) -> None:
        """Write the rows so far, if there are any."""
        if self._experiment is not None:
            super().save()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # pyright: ignore
        """Add a row to ``metrics.csv``, and one to ``speed.csv`` if the metrics include the speed."""
        row = {name: value for name, value in metrics.items() if name not in SPEED_METRICS}
        if self._experiment is None:
            self._start_tables()
        # An epoch is logged after its checkpoint is saved, so a resumed run may already have this row.
        if {**{name: str(value) for name, value in row.items()}, "step": str(step)} not in self._kept[-1:]:
            super().log_metrics(row, step)
        if SPEED_METRICS[0] in metrics:
            with open(self._speed, "a", encoding="utf-8", newline="") as file:
                values = (f"{metrics[name]:.6g}" for name in SPEED_METRICS)
                csv.writer(file, lineterminator="\n").writerow([*values, int(metrics["epoch"]), step])

    def _start_tables(self) -> None:
        """Create both files with the rows that are kept."""
        self._kept = _read_rows(Path(self.save_dir, "metrics.csv"), self._keep_steps)
        with warnings.catch_warnings():
            # Lightning warns that it overwrites the file. The rows to keep have already been read.
            warnings.filterwarnings("ignore", message="Experiment logs directory", category=UserWarning)
            super().experiment.metrics.extend(self._kept)
        self._start_speed(_read_rows(self._speed, self._keep_steps))

    def _start_speed(self, kept: list[dict[str, str]]) -> None:
        names = [*SPEED_METRICS, "epoch", "step"]
        lines = [names, *([row.get(name, "") for name in names] for row in kept)]
        write_text(self._speed, "".join(",".join(line) + "\n" for line in lines))


def _read_rows(path: str | os.PathLike[str], keep_steps: int) -> list[dict[str, str]]:
    if not keep_steps or not os.path.exists(path):
        return []
    # A killed run may have left an incomplete last line.
    whole_lines = Path(path).read_text(encoding="utf-8").rpartition("\n")[0].split("\n")
    rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(whole_lines)]
    return [row for row in rows if int(row["step"]) < keep_steps]
