"""Early stopping that also works in a resumed run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningModule, Trainer, callbacks
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from text.training.best_checkpoint import is_best_state
from text.training.saved_state import StateError, check_keys, check_like, find_state


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's EarlyStopping with resuming fixed.

    If a run that stopped early resumes, it trains again only with a higher ``patience``. Lightning would train on, and
    would use the ``patience`` of the checkpoint.
    """

    @property
    def has_ended(self) -> bool:
        """True if none of the last ``patience`` validations improved the metric."""
        return self.wait_count >= self.patience

    def check_states(self, states: Mapping[str, Any]) -> None:
        """Check the state in a checkpoint. A run that began without early stopping has none.

        Raises:
            StateError: The state is invalid.
        """
        if self.state_key not in states:
            return
        state, key = find_state(states, self.state_key)
        ours = self.state_dict()
        check_keys(state, ours, key, exact=False)
        for name in ("wait_count", "stopped_epoch", "best_score", "stopping_reason"):
            check_like(state[name], ours[name], f"{key}.{name}")
        if state["stopping_reason"] not in [reason.value for reason in EarlyStoppingReason]:
            raise StateError(f"{key}.stopping_reason: unknown reason {state['stopping_reason']}.")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load the best metric so far from the checkpoint callbacks: the run may have begun without early stopping."""
        for name, state in checkpoint["callbacks"].items():
            if is_best_state(name) and state["monitor"] == self.monitor and state["best_model_score"] is not None:
                self.best_score = state["best_model_score"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state, but keep the ``patience`` of this run."""
        super().load_state_dict({**state_dict, "patience": self.patience, "stopping_reason_message": None})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further if the run has already stopped early."""
        trainer.should_stop = self.has_ended
