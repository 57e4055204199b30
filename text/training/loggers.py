"""metrics.csv: one table for a run, also where it was interrupted."""

from __future__ import annotations

import csv
import os
import warnings

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only


class MetricsCSV(CSVLogger):
    """Lightning's CSV logger, writing ``metrics.csv`` right in the run's folder.

    Args:
        folder: The run's folder.
        keep_steps: Optimizer steps of an earlier part of the run: the rows of these steps stay,
            those after them are trained, and logged, again.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep_steps: int = 0) -> None:
        # Each row is on disk at once, for whoever watches and for a run that is interrupted.
        super().__init__(os.fspath(folder), name="", version="", flush_logs_every_n_steps=1)
        kept = _rows(os.path.join(folder, "metrics.csv"), keep_steps)
        with warnings.catch_warnings():
            # It starts the file anew, which is what is wanted: the rows to keep are read already.
            warnings.filterwarnings("ignore", message="Experiment logs directory", category=UserWarning)
            if rank_zero_only.rank == 0:  # pyright: ignore[reportFunctionMemberAccess]
                self.experiment.metrics.extend(kept)


def _rows(path: str, keep_steps: int) -> list[dict[str, str]]:
    if not keep_steps or not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if int(row["step"]) < keep_steps]
