"""Callbacks that save ``best.ckpt`` and ``last.ckpt``, also in a run that resumes.

A checkpoint stores the paths of its run's files. These paths are never followed: the files are looked up in the folder
of the run and beside the checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from text.artifacts import atomic_write
from text.errors import ArtifactError
from text.training.checkpoints import check_hash, read_checkpoint
from text.training.distributed import get_rank
from text.training.saved_state import StateError, check_equal, check_keys, check_tensor, find_state


def build_checkpoint_callbacks(
    folder: str | os.PathLike[str], monitor: str | None, mode: str = "min"
) -> list[ModelCheckpoint]:
    """Return the callbacks that keep ``best.ckpt`` and, after every validation, ``last.ckpt``.

    Without a monitor there is no best checkpoint, and ``last.ckpt`` is saved after every epoch.

    The option ``save_last`` of ModelCheckpoint is not enough: it saves only when the best checkpoint is saved, so a
    resumed run would lose all steps since then.

    Args:
        folder: Folder of the checkpoints.
        monitor: Metric that chooses the best checkpoint, or None.
        mode: Whether the minimum or the maximum of the metric is best: "min" or "max".
    """
    last = _Checkpoint(Path(folder), filename="last", enable_version_counter=False)
    if monitor is None:
        return [last]
    return [_Checkpoint(Path(folder), filename="best", monitor=monitor, mode=mode, enable_version_counter=False), last]


def check_best(callbacks: Iterable[Any], checkpoint: str, states: Mapping[str, Any]) -> Path | None:
    """Check that the best checkpoint of a run still exists, and return its path, or None if there is none yet.

    Args:
        callbacks: Callbacks of the run. Only those of ``build_checkpoint_callbacks`` are checked.
        checkpoint: The checkpoint to resume from.
        states: States of the callbacks in the checkpoint, already checked by ``check_states``.

    Raises:
        ArtifactError: The best checkpoint is missing or damaged, or its metric is worse than the best one so far.
    """
    for callback in callbacks:
        if isinstance(callback, _Checkpoint):
            score = states[callback.state_key]["best_model_score"]
            if score is not None:
                return callback.find_best(Path(checkpoint), score)
    return None


def is_best_state(key: str) -> bool:
    """Return whether a key of the callback states belongs to a callback of ``build_checkpoint_callbacks``."""
    return str(key).startswith(_Checkpoint.__qualname__)


class _Checkpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which also keeps the best checkpoint of the run that it resumes.

    Lightning forgets the best metric if the folder has another name or if another metric is monitored.
    """

    _resumed: Path | None = None
    _is_tested = False

    def check_states(self, states: Mapping[str, Any]) -> None:
        """Check the callback states in a checkpoint: the monitor, and that all copies of the best metric agree.

        Raises:
            StateError: The best checkpoint so far was chosen by another metric, or the state is missing or invalid.
        """
        monitors = [
            _check_best_state(state, f"callbacks.{name}") for name, state in states.items() if is_best_state(name)
        ]
        others = [monitor for monitor in monitors if monitor is not None]
        if self.monitor and others and self.monitor not in others:
            raise StateError(
                f"its best checkpoint was chosen by {others[0]}, but --monitor of this run is {self.monitor}."
            )
        state, key = find_state(states, self.state_key)
        check_equal(state["monitor"], self.monitor, f"{key}.monitor")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the path of the checkpoint for ``load_state_dict``, which Lightning calls next."""
        self._resumed, self._is_tested = Path(str(trainer.ckpt_path)), trainer.state.fn != "fit"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best metric so far. Copy the best checkpoint here if it is beside the resumed checkpoint.

        Raises:
            ArtifactError: The best checkpoint is missing or damaged, or its metric is worse than the best one so far.
        """
        if self._is_tested or not state_dict["best_model_path"]:  # empty before the first validation
            return
        score: Tensor | None = state_dict["best_model_score"]
        here = Path(str(self.dirpath), f"{self.filename}{self.FILE_EXTENSION}")
        assert self._resumed is not None, "Lightning calls on_load_checkpoint first"
        source = self._resumed if score is None else self.find_best(self._resumed, score)
        is_earlier = score is not None and source != here
        if (is_earlier or not here.exists()) and get_rank() == 0:
            with atomic_write(here) as temporary:
                shutil.copyfile(source, temporary)
        self.best_model_path = str(here)
        if score is not None:
            self.best_model_score = self.kth_value = score
            self.kth_best_model_path, self.best_k_models = str(here), {str(here): score}

    def find_best(self, resumed: Path, score: Tensor) -> Path:
        """Return the best checkpoint so far: in the folder of the run, or beside the resumed checkpoint.

        If the resumed checkpoint is in another folder, a checkpoint in the run's folder belongs to an earlier run.
        """
        here = Path(str(self.dirpath), f"{self.filename}{self.FILE_EXTENSION}")
        is_same_run = here.resolve().parents[1] in resumed.resolve().parents
        for path in (*([here] if is_same_run else []), resumed.with_name(here.name)):
            if path.exists():
                check_hash(path)
                self._check_best(path, score)
                return path
        raise ArtifactError(
            f"{here}: missing. It holds the best weights so far ({self.monitor} {score:.4f}). "
            "Restore the file, or start a new run."
        )

    def _check_best(self, path: Path, score: Tensor) -> None:
        """Check that the metric of a checkpoint is not worse than the best one so far.

        It may be better: the run may have been killed after it saved the best checkpoint and before the last one.
        """
        try:
            state, key = find_state(read_checkpoint(path)["callbacks"], self.state_key)
            _check_best_state(state, key)
        except StateError as error:
            raise ArtifactError(f"{path}: not the best checkpoint of the run: {error} Restore the file.") from None
        found = state["best_model_score"]
        if found is None or (found < score if self.mode == "max" else found > score):
            raise ArtifactError(
                f"{path}: not the best checkpoint of the run: its {self.monitor} is {found}, the best was {score:.6g}. "
                "Restore the file, or start a new run."
            )


def _check_best_state(state: Mapping[str, Any], key: str) -> str | None:
    """Check the state of a ``_Checkpoint``, and return its monitor.

    Raises:
        StateError: The state is invalid, or its copies of the best metric differ.
    """
    check_keys(
        state, ("monitor", "best_model_score", "best_model_path", "best_k_models", "kth_value"), key, exact=False
    )
    monitor, score, path = state["monitor"], state["best_model_score"], state["best_model_path"]
    if not isinstance(monitor, str | None) or not isinstance(path, str):
        raise StateError(f"{key}: monitor and best_model_path must be strings.")
    scores = list(state["best_k_models"].values()) if isinstance(state["best_k_models"], Mapping) else [None]
    if score is None and not scores and (monitor is None or not path):
        return monitor
    for each in (score, *scores, state["kth_value"]):
        check_tensor(each, (), f"{key}.best_model_score", is_float=True)
    if not path or len(scores) != 1 or not score == scores[0] == state["kth_value"]:
        raise StateError(f"{key}: best_model_score, best_k_models and kth_value differ.")
    return monitor
