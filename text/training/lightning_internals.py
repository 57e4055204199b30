"""Private and undocumented parts of pytorch-lightning, each behind a function with a plain name.

No other file of ``text/`` uses any. Tested with pytorch-lightning 2.6.6. Look through this file first when another
version fails.
"""

from __future__ import annotations

import math
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.trainer import call
from pytorch_lightning.utilities import rank_zero_only

from text.training.saved_state import StateError, check_equal


def is_rank_zero() -> bool:
    """Return whether this process is the one that writes the files of a run. A Trainer need not exist yet."""
    return rank_zero_only.rank == 0  # pyright: ignore[reportFunctionMemberAccess]


def count_trained_batches(trainer: Trainer) -> int:
    """Return the number of batches of the current epoch that were trained on."""
    return _batch_progress(trainer).current.processed


def is_last_batch(trainer: Trainer) -> bool:
    """Return whether the current training batch is the last one of its epoch."""
    return _batch_progress(trainer).is_last_batch


def is_validation_next(trainer: Trainer) -> bool:
    """Return whether a validation follows the current training batch."""
    loop: Any = trainer.fit_loop
    return sum(trainer.num_val_batches) > 0 and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def validate_by_steps(trainer: Trainer, num_steps: int) -> None:
    """Validate after every ``num_steps`` optimizer steps and after the last step of the run.

    Lightning counts batches instead of steps, and ends a run without a validation of its last steps.

    Args:
        trainer: Made with ``check_val_every_n_epoch=None``, so that checkpoints are saved after validations.
        num_steps: Optimizer steps between validations.
    """
    loop: Any = trainer.fit_loop.epoch_loop

    def is_due(data_fetcher: Any) -> bool:
        if loop.restarting and (loop.restarted_on_last or loop.val_loop.restarted_mid_evaluation):
            return True  # the checkpoint was saved in a validation, which Lightning finishes or skips
        is_end = is_last_batch(trainer) and trainer.current_epoch + 1 == trainer.max_epochs
        return not loop._should_accumulate() and (is_end or trainer.global_step % num_steps == 0)

    loop._should_check_val_fx = is_due


def restart_validation(trainer: Trainer) -> None:
    """Mark the validation in training as one that has begun and evaluated nothing.

    A run that continues from a checkpoint with this mark runs the whole validation first.
    """
    loop: Any = trainer.fit_loop.epoch_loop.val_loop
    nothing = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    begun = {**nothing, "ready": 1, "started": 1}
    loop.batch_progress.load_state_dict({"total": begun, "current": nothing, "is_last_batch": False})


def should_log_step(trainer: Trainer) -> bool:
    """Return whether metrics of the current training step go to the loggers (``log_every_n_steps``)."""
    return trainer._logger_connector.should_update_logs


def log_step_metrics(trainer: Trainer) -> None:
    """Send the metrics of the current training step to the loggers. Lightning does so after ``on_train_batch_end``."""
    trainer._logger_connector.update_train_step_metrics()


def log_epoch_metrics(trainer: Trainer) -> None:
    """Send the metrics of the current epoch of training to the loggers. Lightning does so after the callbacks."""
    call._call_lightning_module_hook(trainer, "on_train_epoch_end")
    loop: Any = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped -= 1  # the row of the epoch has the number of its last step
    trainer._logger_connector.update_train_epoch_metrics()
    loop._batches_that_stepped += 1


def loop_states(trainer: Trainer) -> dict[str, Any]:
    """Return what a checkpoint keeps of Lightning's loops: how far training and each evaluation have come."""
    return trainer._checkpoint_connector._get_loops_state_dict()


def check_progress(
    loops: dict[str, Any], *, epoch: int, num_steps: int, num_batches: int, accumulated: int
) -> tuple[int, bool]:
    """Return the batches of the epoch that a checkpoint was saved after, and whether the last one is the epoch's last.

    Args:
        loops: Of the form of ``loop_states``.
        epoch: Epochs that were complete.
        num_steps: Optimizer steps.
        num_batches: Batches in an epoch.
        accumulated: Batches in an optimizer step.

    Raises:
        StateError: Two counts contradict one another.
    """
    fit, key = loops["fit_loop"], "loops.fit_loop"
    epochs, batches = fit["epoch_progress"], fit["epoch_loop.batch_progress"]
    count = batches["current"]["processed"]
    is_last = count == num_batches
    if count > num_batches:
        raise StateError(f"{key}.epoch_loop.batch_progress: {count} batches. An epoch has {num_batches}.")
    check_equal(batches["is_last_batch"], is_last, f"{key}.epoch_loop.batch_progress.is_last_batch")
    _check_counts(epochs["current"], epoch, f"{key}.epoch_progress.current")
    check_equal(epochs["total"], epochs["current"], f"{key}.epoch_progress.total")
    before = epoch * num_batches
    _check_counts(batches["current"], batches["current"]["completed"], f"{key}.epoch_loop.batch_progress.current")
    total = {name: before + each for name, each in batches["current"].items()}
    check_equal(batches["total"], total, f"{key}.epoch_loop.batch_progress.total")
    steps_of_epoch = count // accumulated if not is_last else math.ceil(count / accumulated)
    expected = epoch * math.ceil(num_batches / accumulated) + steps_of_epoch
    check_equal(num_steps, expected, "global_step")
    for name, place in _STEPS.items():
        tracker: Any = fit[name]
        for part in place:
            tracker = tracker[part]
        check_equal(tracker["completed"], num_steps, f"{key}.{name}.{'.'.join(place)}.completed")
    _check_validation(fit["epoch_loop.val_loop.batch_progress"], f"{key}.epoch_loop.val_loop.batch_progress")
    return count, is_last


def is_between_steps(loops: dict[str, Any], trainer: Trainer) -> bool:
    """Return whether a checkpoint was saved after batches whose gradients wait for an optimizer step."""
    batches = loops["fit_loop"]["epoch_loop.batch_progress"]
    return batches["current"]["processed"] % trainer.accumulate_grad_batches != 0 and not batches["is_last_batch"]


_STEPS = {
    "epoch_loop.automatic_optimization.optim_progress": ("optimizer", "step", "total"),
    "epoch_loop.scheduler_progress": ("total",),
}
"""Where Lightning counts optimizer steps."""


def _check_counts(counts: dict[str, int], completed: int, key: str) -> None:
    """Check the counts of something that may be under way: begun once more than it was completed."""
    check_equal(counts["completed"], completed, f"{key}.completed")
    in_order = [counts[name] for name in ("completed", "processed", "started", "ready")]
    if in_order != sorted(in_order) or in_order[-1] > completed + 1:
        raise StateError(f"{key}: the counts {counts} contradict one another.")


def _check_validation(progress: dict[str, Any], key: str) -> None:
    """Check the counts of the validation in training."""
    for part in ("total", "current"):
        _check_counts(progress[part], progress[part]["completed"], f"{key}.{part}")


def close_bars(callback: TQDMProgressBar) -> None:
    """Close the bars that are shown. Those that stay on the screen end their line."""
    for stage in ("val", "test", "train"):
        bar = getattr(callback, f"_{stage}_progress_bar")
        if bar is not None:
            bar.close()


def _batch_progress(trainer: Trainer) -> Any:
    return trainer.fit_loop.epoch_loop.batch_progress
