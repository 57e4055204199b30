"""Early stopping that a resumed run keeps to."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer, callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, for runs that are resumed.

    A run that has ended stays ended until it gets more patience. Lightning would train on with the first patience.
    """

    @property
    def has_ended(self) -> bool:
        """Whether the last ``patience`` validations had no better metric."""
        return self.wait_count >= self.patience

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the best figure so far also from a run that began without early stopping."""
        for state in checkpoint.get("callbacks", {}).values():
            if state.get("monitor") == self.monitor and state["best_model_score"] is not None:
                self.best_score = state["best_model_score"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = self.has_ended
