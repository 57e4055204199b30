"""Filter for messages of pytorch-lightning and torch that a user of a command cannot act on.

These messages advertise other products, ask for changes to this library's code, or repeat the command's own output. All
other messages stay. Tested with pytorch-lightning 2.6.6.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LINES = {
    "pytorch_lightning.utilities.rank_zero": (
        "GPU available: ",
        "TPU available: ",
        "\N{ELECTRIC LIGHT BULB} Tip: ",
        "Loading `train_dataloader` to estimate",
        "Restor(ing|ed) (all )?states from the checkpoint",
        "Loaded model weights from the checkpoint",
        "`Trainer.fit` stopped: `max_epochs=",
        r"`Trainer\(val_check_interval=1\)` was configured",
        "Running in `fast_dev_run` mode",
        r"Using \w+ Automatic Mixed Precision",
        "You are using a CUDA device .* Tensor Cores",
        r"-+\ndistributed_backend=",
    ),
    "lightning_fabric.utilities.distributed": ("Initializing distributed: ",),
    "pytorch_lightning.accelerators.cuda": ("LOCAL_RANK: ",),
    "pytorch_lightning.trainer.connectors.checkpoint_connector": ("`weights_only` was not set, defaulting to",),
}
"""Regular expressions that match the start of hidden log records, by logger."""
_WARNINGS = {
    "pytorch_lightning.callbacks.model_checkpoint": ("Checkpoint directory .* exists and is not empty",),
    "pytorch_lightning.trainer.call": ("Be aware that when using `ckpt_path`",),  # early stopping was switched off
    "pytorch_lightning.trainer.connectors.logger_connector.result": (
        # All ranks compute metrics from the questions and passages of all ranks.
        r"It is recommended to use `self.log\(.*sync_dist=True",
    ),
    "pytorch_lightning.trainer.setup": ("GPU available but not used",),  # build_trainer prints its own note
    "pytorch_lightning.utilities._pytree": (r"`isinstance\(treespec, LeafSpec\)` is deprecated",),
}
"""Regular expressions that match the start of hidden warnings, by module."""


@contextmanager
def hide_messages() -> Iterator[None]:
    """Hide these messages inside the block, or inside a decorated function."""
    filters = {logging.getLogger(name): _Filter(beginnings) for name, beginnings in _LINES.items()}
    with warnings.catch_warnings():
        for module, beginnings in _WARNINGS.items():
            for beginning in beginnings:
                warnings.filterwarnings("ignore", message=f"(?s){beginning}", module=re.escape(module))
        try:
            for logger, each in filters.items():
                logger.addFilter(each)
            yield
        finally:
            for logger, each in filters.items():
                logger.removeFilter(each)


class _Filter(logging.Filter):
    """Logging filter that drops records whose message starts with one of several patterns."""

    def __init__(self, beginnings: tuple[str, ...]) -> None:
        super().__init__()
        self._pattern = re.compile("|".join(beginnings))

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to keep a record."""
        return self._pattern.match(record.getMessage()) is None
