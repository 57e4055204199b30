"""Training on pytorch-lightning: the task, the data module, and what a run needs around them."""

from text.training.callbacks import RandomState, Throughput
from text.training.checkpoints import AtomicCheckpointIO
from text.training.data_module import DPRDataModule
from text.training.loggers import MetricsCSV
from text.training.pool import PassagePool
from text.training.task import BiEncoderTask

__all__ = [
    "AtomicCheckpointIO",
    "BiEncoderTask",
    "DPRDataModule",
    "MetricsCSV",
    "PassagePool",
    "RandomState",
    "Throughput",
]
