"""Training on pytorch-lightning: the task, the data module, and what a run needs around them."""

from text.training.callbacks import AccumulatedGradients, ProgressBar, RandomState, Throughput
from text.training.checkpoints import AtomicCheckpointIO, best_and_last, check_hash, expected_size, newest_valid
from text.training.data_module import DPRDataModule
from text.training.failures import StepFailures
from text.training.interrupt import SaveOnSignal
from text.training.loggers import MetricsCSV
from text.training.objective import Objective
from text.training.pool import RECALL_AT, PassagePool
from text.training.task import BiEncoderTask
from text.training.worst_questions import WorstQuestions

__all__ = [
    "RECALL_AT",
    "AccumulatedGradients",
    "AtomicCheckpointIO",
    "BiEncoderTask",
    "DPRDataModule",
    "MetricsCSV",
    "Objective",
    "PassagePool",
    "ProgressBar",
    "RandomState",
    "SaveOnSignal",
    "StepFailures",
    "Throughput",
    "WorstQuestions",
    "best_and_last",
    "check_hash",
    "expected_size",
    "newest_valid",
]
