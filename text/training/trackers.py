"""Loggers that the user asks for: TensorBoard, Weights & Biases and MLflow. They are Lightning's own classes.

``metrics.csv`` (``text.training.loggers``) is always written and is the record that reports read. These loggers get the
same metrics. A package is imported only if its logger is requested.

The trackers, Weights & Biases and MLflow, may send data to a server. They get the metrics and the settings of a run,
but no text with a slash, no list, no name of the user and no command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from text.artifacts import read_json, write_json
from text.errors import explain_missing

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
"""Names of the loggers. csv stands for ``metrics.csv``."""
_TRACKED_RUNS = "loggers.json"
"""File in a run's folder with the id of the run at each tracker."""
_PROJECT = "dpr-text"
"""Default project or experiment at a tracker."""
_WANDB_SETTINGS = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "host": _PROJECT,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""Settings that keep the output, the code, the command line and the machine out of Weights & Biases."""


def open_loggers(folder: str | os.PathLike[str], names: Sequence[str] | None) -> list[Logger]:
    """Return the loggers of a run besides ``MetricsCSV``. ``Trackers`` adds the trackers later.

    Args:
        folder: The run's folder.
        names: Names from ``LOGGERS``. None uses TensorBoard if it is installed.

    Raises:
        ValueError: A name is unknown.
        MissingPackageError: The package of a logger is not installed.
    """
    if unknown := sorted(set(names or ()) - set(LOGGERS)):
        raise ValueError(f'logger is "{unknown[0]}". Use {", ".join(LOGGERS)}.')
    for name in names or ():
        if name != "csv":
            with explain_missing(name):
                import_module(name)
    return open_tensorboard(folder) if names is None or "tensorboard" in names else []


def open_tensorboard(folder: str | os.PathLike[str]) -> list[Logger]:
    """Return a list with the logger of ``tensorboard/`` in a run's folder. It is empty without TensorBoard."""
    if find_spec("tensorboard") is not None:
        return [TensorBoardLogger(os.fspath(folder), name="tensorboard", version="")]
    rank_zero_only(print)('note: no TensorBoard logs are written. To enable them: pip install "dpr-text[tensorboard]"')
    return []


class Trackers(Callback):
    """Callback that opens the trackers of a run when the run starts, on rank 0.

    ``loggers.json`` stores the id of the run at each tracker, so that a resumed run continues there.

    Args:
        folder: The run's folder.
        names: Names of loggers. Only "wandb" and "mlflow" are used.
        is_resumed: The run continues.
        settings: Settings of the run, which the trackers show (``select_public_settings``).
    """

    def __init__(
        self, folder: str | os.PathLike[str], names: Sequence[str], *, is_resumed: bool, settings: Mapping[str, Any]
    ) -> None:
        self._folder, self._names, self._is_resumed = Path(folder), set(names) & set(_TRACKERS), is_resumed
        self._settings = select_public_settings(settings)
        self._opened: list[Logger] = []

    @rank_zero_only
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the trackers before the first stage.

        Raises:
            ConnectionError: A tracker cannot be opened.
        """
        names, self._names = self._names, set()
        if not names:
            return
        path = self._folder / _TRACKED_RUNS
        known = read_json(path, dict[str, str]) if self._is_resumed and path.is_file() else {}
        run_ids = {}
        for name in sorted(names):
            try:
                logger, run_ids[name] = _TRACKERS[name](self._folder, known.get(name), self._settings)
            except Exception as error:  # The packages have no common class of errors.
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                raise ConnectionError(f"--logger={name}: cannot start the run: {reason} {_ADVICE[name]}") from error
            self._opened.append(logger)
            trainer.loggers = [*trainer.loggers, logger]
        write_json(path, {**known, **run_ids})

    def close(self) -> None:
        """End the runs of Weights & Biases, so that another run of this process gets its own. MLflow's have ended."""
        for logger in self._opened:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()


class MLflowMetrics(MLFlowLogger):
    """Lightning's MLflow logger, with ``_at_`` in place of ``@``, which MLflow does not allow in a metric's name."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics under names that MLflow allows."""
        super().log_metrics({name.replace("@", "_at_"): value for name, value in metrics.items()}, step)


def select_public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that contain no path with a folder: numbers, booleans, and texts without a slash.

    >>> select_public_settings({"seed": 1, "schedule": "linear", "data_path": "/home/ada/nq", "train_files": ["a"]})
    {'seed': 1, 'schedule': 'linear'}
    """
    kept = {name: value for name, value in settings.items() if isinstance(value, int | float | str)}
    return {name: value for name, value in kept.items() if not {"/", os.sep} & set(str(value))}


def _open_wandb(folder: Path, run_id: str | None, settings: Mapping[str, Any]) -> tuple[Logger, str]:
    """Start or continue a run of Weights & Biases, and return its logger and its id."""
    logger = WandbLogger(
        name=folder.resolve().name,
        save_dir=folder,
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        id=run_id,
        settings=_WANDB_SETTINGS,
    )
    logger.log_hyperparams(dict(settings))
    return logger, str(logger.experiment.id)


def _open_mlflow(folder: Path, run_id: str | None, settings: Mapping[str, Any]) -> tuple[Logger, str]:
    """Start or continue a run of MLflow, and return its logger and its id. The default server is a local folder."""
    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 needs it for a folder.
    logger = MLflowMetrics(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=folder.resolve().name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"),
        save_dir=str(folder.resolve() / "mlflow"),
        tags={"mlflow.user": "", "mlflow.source.name": _PROJECT},  # By default, the user and the program's path.
        run_id=run_id,
    )
    if run_id is None:  # MLflow does not allow changes of settings.
        logger.log_hyperparams(dict(settings))
    return logger, str(logger.run_id)


_TRACKERS: dict[str, Callable[[Path, str | None, Mapping[str, Any]], tuple[Logger, str]]] = {
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
}
_ADVICE = {
    "wandb": "WANDB_MODE=offline logs without an account and without a network.",
    "mlflow": "Check MLFLOW_TRACKING_URI.",
}
"""Advice for each tracker that cannot be opened."""
