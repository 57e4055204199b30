"""Wrappers of private and undocumented parts of pytorch-lightning.

No other file of ``text/`` uses such parts. Tested with pytorch-lightning 2.6.6. Check this file first if another
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
    """Return whether this process has rank 0, which writes the files of a run. This works before a Trainer exists."""
    return rank_zero_only.rank == 0  # pyright: ignore[reportFunctionMemberAccess]


def count_trained_batches(trainer: Trainer) -> int:
    """Return how many batches of the current epoch were trained."""
    return _get_batch_progress(trainer).current.processed


def is_last_batch(trainer: Trainer) -> bool:
    """Return whether the current training batch is the last one of its epoch."""
    return _get_batch_progress(trainer).is_last_batch


def is_validation_next(trainer: Trainer) -> bool:
    """Return whether a validation follows the current training batch."""
    loop: Any = trainer.fit_loop
    return sum(trainer.num_val_batches) > 0 and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def validate_by_steps(trainer: Trainer, num_steps: int) -> None:
    """Validate after every ``num_steps`` optimizer steps and after the last step of the run.

    Lightning would count batches instead of steps, and would not validate the last steps of a run.

    Args:
        trainer: Built with ``check_val_every_n_epoch=None``, so that checkpoints are saved after validations.
        num_steps: Optimizer steps between validations.
    """
    loop: Any = trainer.fit_loop.epoch_loop

    def is_due(data_fetcher: Any) -> bool:
        if loop.restarting and (loop.restarted_on_last or loop.val_loop.restarted_mid_evaluation):
            return True  # the checkpoint was saved during a validation, which Lightning finishes or skips
        is_end = is_last_batch(trainer) and trainer.current_epoch + 1 == trainer.max_epochs
        return not loop._should_accumulate() and (is_end or trainer.global_step % num_steps == 0)

    loop._should_check_val_fx = is_due


def restart_validation(trainer: Trainer) -> None:
    """Reset the current validation to its first batch.

    A run that resumes from a checkpoint saved in this state starts with the whole validation.
    """
    loop: Any = trainer.fit_loop.epoch_loop.val_loop
    zeros = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    begun = {**zeros, "ready": 1, "started": 1}
    loop.batch_progress.load_state_dict({"total": begun, "current": zeros, "is_last_batch": False})


def skip_signal_broadcast(trainer: Trainer) -> None:
    """Turn off Lightning's exchange of received signals, for which every host waits for its GPU before each batch.

    ``SaveOnSignal`` exchanges the signals after each batch.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None


def should_log_step(trainer: Trainer) -> bool:
    """Return whether the metrics of the current training step are logged (``log_every_n_steps``)."""
    return trainer._logger_connector.should_update_logs


def log_step_metrics(trainer: Trainer) -> None:
    """Log the metrics of the current training step. Lightning does this after ``on_train_batch_end``."""
    trainer._logger_connector.update_train_step_metrics()


def log_epoch_metrics(trainer: Trainer) -> None:
    """Log the metrics of the current training epoch. Lightning does this after the callbacks."""
    call._call_lightning_module_hook(trainer, "on_train_epoch_end")
    loop: Any = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped -= 1  # the row of the epoch has the number of its last step
    trainer._logger_connector.update_train_epoch_metrics()
    loop._batches_that_stepped += 1


def get_loop_states(trainer: Trainer) -> dict[str, Any]:
    """Return the states of Lightning's loops as in a checkpoint: the progress of training and of each evaluation."""
    return trainer._checkpoint_connector._get_loops_state_dict()


def check_progress(
    loops: dict[str, Any], *, epoch: int, num_steps: int, num_batches: int, accumulated: int
) -> tuple[int, bool]:
    """Check the progress in a checkpoint.

    Args:
        loops: States of the loops, in the form of ``get_loop_states``.
        epoch: Number of complete epochs.
        num_steps: Number of optimizer steps.
        num_batches: Batches in an epoch.
        accumulated: Batches in an optimizer step.

    Returns:
        The number of batches trained in the current epoch, and whether they are all batches of the epoch.

    Raises:
        StateError: Two counts contradict each other.
    """
    fit, key = loops["fit_loop"], "loops.fit_loop"
    epochs, batches = fit["epoch_progress"], fit["epoch_loop.batch_progress"]
    count = batches["current"]["processed"]
    is_last = count == num_batches
    if count > num_batches:
        raise StateError(f"{key}.epoch_loop.batch_progress: {count} batches, but an epoch has {num_batches}.")
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
    """Return whether a checkpoint was saved between two optimizer steps, with accumulated gradients."""
    batches = loops["fit_loop"]["epoch_loop.batch_progress"]
    return batches["current"]["processed"] % trainer.accumulate_grad_batches != 0 and not batches["is_last_batch"]


_STEPS = {
    "epoch_loop.automatic_optimization.optim_progress": ("optimizer", "step", "total"),
    "epoch_loop.scheduler_progress": ("total",),
}
"""Keys of Lightning's counts of optimizer steps."""


def _check_counts(counts: dict[str, int], completed: int, key: str) -> None:
    """Check the counts of begun and completed batches or epochs. At most one may be begun and not completed."""
    check_equal(counts["completed"], completed, f"{key}.completed")
    in_order = [counts[name] for name in ("completed", "processed", "started", "ready")]
    if in_order != sorted(in_order) or in_order[-1] > completed + 1:
        raise StateError(f"{key}: the counts {counts} contradict each other.")


def _check_validation(progress: dict[str, Any], key: str) -> None:
    """Check the counts of the validation during training."""
    for part in ("total", "current"):
        _check_counts(progress[part], progress[part]["completed"], f"{key}.{part}")


def close_bars(callback: TQDMProgressBar) -> None:
    """Close the visible progress bars, so that the output continues on a new line."""
    for stage in ("val", "test", "train"):
        bar = getattr(callback, f"_{stage}_progress_bar")
        if bar is not None:
            bar.close()


def _get_batch_progress(trainer: Trainer) -> Any:
    return trainer.fit_loop.epoch_loop.batch_progress
