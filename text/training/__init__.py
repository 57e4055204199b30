"""Training on PyTorch Lightning: the task, the data module, the trainer and its callbacks."""

from text.errors import explain_missing

with explain_missing("train"):
    import pytorch_lightning  # noqa: F401

from text.training.best_checkpoint import build_checkpoint_callbacks
from text.training.callbacks import AccumulatedGradients, ProgressBar, RandomState, TensorFloat32, Throughput
from text.training.checkpoints import (
    AtomicCheckpointIO,
    check_hash,
    estimate_checkpoint_size,
    find_valid_checkpoint,
    read_checkpoint,
)
from text.training.data_module import DPRDataModule
from text.training.failures import StepFailures
from text.training.interrupt import SaveOnSignal
from text.training.lightning_internals import is_rank_zero
from text.training.loggers import MetricsCSV
from text.training.objective import Objective
from text.training.pool import RECALL_AT, PassagePool
from text.training.rerank_objective import RerankObjective
from text.training.rerank_task import CrossEncoderTask
from text.training.task import BiEncoderTask
from text.training.trainer import (
    MONITORS,
    build_trainer,
    check_checkpoint,
    check_devices,
    check_schedule,
    choose_monitor,
    fit_and_test,
    print_lines,
    print_rank_zero,
    resolve_max_lengths,
    seed_everything_quietly,
)
from text.training.worst_questions import WorstQuestions

__all__ = [
    "MONITORS",
    "RECALL_AT",
    "AccumulatedGradients",
    "AtomicCheckpointIO",
    "BiEncoderTask",
    "CrossEncoderTask",
    "DPRDataModule",
    "MetricsCSV",
    "Objective",
    "PassagePool",
    "ProgressBar",
    "RandomState",
    "RerankObjective",
    "SaveOnSignal",
    "StepFailures",
    "TensorFloat32",
    "Throughput",
    "WorstQuestions",
    "build_checkpoint_callbacks",
    "build_trainer",
    "check_checkpoint",
    "check_devices",
    "check_hash",
    "check_schedule",
    "choose_monitor",
    "estimate_checkpoint_size",
    "find_valid_checkpoint",
    "fit_and_test",
    "is_rank_zero",
    "print_lines",
    "print_rank_zero",
    "read_checkpoint",
    "resolve_max_lengths",
    "seed_everything_quietly",
]
