"""Early stopping that a resumed run keeps to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningModule, Trainer, callbacks
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from text.training.best_checkpoint import is_best_state
from text.training.saved_state import StateError, check_keys, check_like, find_state


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, for runs that are resumed.

    A run that has ended stays ended until it gets more patience. Lightning would train on with the first patience.
    """

    @property
    def has_ended(self) -> bool:
        """Whether the last ``patience`` validations had no better metric."""
        return self.wait_count >= self.patience

    def check_states(self, states: Mapping[str, Any]) -> None:
        """Check the state in a checkpoint. A run that began without early stopping has none.

        Raises:
            StateError: It is none.
        """
        if self.state_key not in states:
            return
        state, key = find_state(states, self.state_key)
        ours = self.state_dict()
        check_keys(state, ours, key, exact=False)
        for name in ("wait_count", "stopped_epoch", "best_score", "stopping_reason"):
            check_like(state[name], ours[name], f"{key}.{name}")
        if state["stopping_reason"] not in [reason.value for reason in EarlyStoppingReason]:
            raise StateError(f"{key}.stopping_reason: {state['stopping_reason']}. It is not known.")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the best figure so far also from a run that began without early stopping."""
        for name, state in checkpoint["callbacks"].items():
            if is_best_state(name) and state["monitor"] == self.monitor and state["best_model_score"] is not None:
                self.best_score = state["best_model_score"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience, "stopping_reason_message": None})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = self.has_ended
