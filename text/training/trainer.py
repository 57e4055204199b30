"""Functions that build the Trainer of a run, check its settings, and train and test with it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from text.errors import UsageError
from text.models import BiEncoder
from text.training.best_checkpoint import build_checkpoint_callbacks, check_best
from text.training.callbacks import AccumulatedGradients, ProgressBar, RandomState, TensorFloat32, Throughput
from text.training.checkpoints import AtomicCheckpointIO, read_checkpoint
from text.training.data_module import DPRDataModule
from text.training.early_stopping import EarlyStopping
from text.training.failures import StepFailures
from text.training.interrupt import SaveOnSignal
from text.training.lightning_internals import skip_signal_broadcast, validate_by_steps
from text.training.lightning_messages import hide_messages
from text.training.loggers import MetricsCSV
from text.training.pool import RECALL_AT
from text.training.task_base import TrainingTask
from text.training.trackers import Trackers, open_loggers
from text.training.worst_questions import WorstQuestions
from text.transforms import Tokenizer

MONITORS = {"valid_loss": "min", "valid_average_rank": "min", "valid_mrr@10": "max"} | {
    f"valid_recall@{k}": "max" for k in RECALL_AT
}
"""Validation metrics that can choose the best checkpoint, each with the best direction ("min" or "max")."""

print_rank_zero = rank_zero_only(print)
"""``print`` on rank 0 only."""


@rank_zero_only
def print_lines(lines: Iterable[str]) -> None:
    """Print each line, on rank 0 only."""
    for line in lines:
        print(line)


def seed_everything_quietly(seed: int) -> None:
    """Seed Python, NumPy and torch without a message."""
    seed_everything(seed, verbose=False)


@hide_messages()
def build_trainer(
    output_dir: str | os.PathLike[str],
    *,
    max_epochs: int,
    num_batches: int,
    checkpoint: str | None = None,
    gpus: int = 0,
    num_nodes: int = 1,
    fast_dev_run: bool = False,
    precision: Any = "32-true",
    tf32: bool | None = None,
    gradient_clip_val: float = 2.0,
    accumulate_batches: int = 1,
    validate_every_n_steps: int | None = None,
    log_every_n_steps: int = 10,
    monitor: str | None = "valid_mrr@10",
    early_stopping: int | None = None,
    logger: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Trainer:
    """Return a Trainer that logs into a run's folder, and saves the last checkpoint and the best one by a metric.

    Args:
        output_dir: The run's folder.
        max_epochs: Passes over the training data.
        num_batches: Batches in an epoch.
        checkpoint: The checkpoint that the run resumes from; ``metrics.csv`` keeps the rows before it.
        gpus: Number of GPUs of each machine. 0 trains on the CPU.
        num_nodes: Number of machines.
        fast_dev_run: Run one batch of each stage and save nothing.
        precision: Precision, as Lightning names it, such as "bf16-mixed".
        tf32: Compute float32 matrix products in TF32 (``choose_tf32``). None does so wherever it is possible.
        gradient_clip_val: Maximum gradient norm. 0 disables clipping.
        accumulate_batches: Batches in an optimizer step.
        validate_every_n_steps: Optimizer steps between validations. The end of the run is validated too. None validates
            after each epoch.
        log_every_n_steps: Optimizer steps between rows of ``metrics.csv``.
        monitor: Metric that chooses the best checkpoint, a key of ``MONITORS``. None is for a run without validation
            data, and saves only the last checkpoint.
        early_stopping: Stop after this many consecutive validations without a better metric. None never stops early.
        logger: Loggers besides ``metrics.csv``: "tensorboard", "wandb" and "mlflow". "csv" stands for ``metrics.csv``
            alone. None uses TensorBoard if it is installed.
        settings: Settings of the run, for the pages of Weights & Biases and MLflow.

    Raises:
        ValueError: ``monitor`` or a logger is unknown.
        MissingPackageError: The package of a logger is not installed.
        UsageError: A setting needs validation data, the machine has fewer GPUs, several machines have no launcher, or
            ``tf32`` is true where it has no effect.
    """
    if monitor is not None and monitor not in MONITORS:
        raise ValueError(f'monitor is "{monitor}". Use one of {", ".join(MONITORS)}.')
    choose_monitor(monitor is not None, early_stopping=early_stopping, validate_every_n_steps=validate_every_n_steps)
    check_devices(gpus, num_nodes)
    if not gpus and (num_gpus := torch.cuda.device_count()):
        print_rank_zero(f"note: training on the CPU. --gpus={num_gpus} uses all GPUs of this machine.")
    uses_tf32 = choose_tf32(tf32, gpus=gpus, precision=precision)
    if uses_tf32:
        print_rank_zero("precision: TF32 for float32 matrix products. --tf32=false computes them in full float32.")
    folder = Path(output_dir)
    callbacks: list[Any] = [AccumulatedGradients(), RandomState(), Throughput(), ProgressBar(), StepFailures()]
    if uses_tf32:
        callbacks.append(TensorFloat32())
    loggers: list[Any] = []
    if early_stopping is not None and monitor is not None:
        callbacks.append(EarlyStopping(monitor, patience=early_stopping, mode=MONITORS[monitor]))
    if not fast_dev_run:
        callbacks.append(WorstQuestions(folder / "worst_questions.jsonl"))
        callbacks.append(SaveOnSignal(folder / "checkpoints" / "last.ckpt"))
        callbacks.extend(
            build_checkpoint_callbacks(folder / "checkpoints", monitor, MONITORS.get(monitor or "", "min"))
        )
        loggers.append(MetricsCSV(folder, keep_steps=_count_steps(checkpoint)))
        loggers.extend(open_loggers(folder, logger))
    tracked = [] if fast_dev_run else logger or []
    callbacks.append(Trackers(folder, tracked, is_resumed=checkpoint is not None, settings=settings or {}))
    by_steps = {"val_check_interval": validate_every_n_steps, "check_val_every_n_epoch": None}
    trainer = Trainer(
        max_epochs=max_epochs,
        accelerator="gpu" if gpus else "cpu",
        devices=gpus or int(os.environ.get("LOCAL_WORLD_SIZE", 1)),  # torchrun sets it
        num_nodes=num_nodes,
        fast_dev_run=fast_dev_run,
        precision=precision,
        gradient_clip_val=gradient_clip_val,
        accumulate_grad_batches=accumulate_batches,
        limit_val_batches=0 if monitor is None else None,
        **({} if validate_every_n_steps is None else by_steps),
        log_every_n_steps=min(log_every_n_steps, math.ceil(num_batches / accumulate_batches)),  # steps in an epoch
        default_root_dir=folder,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
        enable_checkpointing=not fast_dev_run,
        enable_model_summary=False,
    )
    skip_signal_broadcast(trainer)
    if validate_every_n_steps is not None:
        validate_by_steps(trainer, validate_every_n_steps)
    return trainer


def choose_monitor(
    has_validation_file: bool,
    *,
    valid_share: float | None = None,
    monitor: str | None = None,
    early_stopping: int | None = None,
    validate_every_n_steps: int | None = None,
    validate_first: bool = False,
) -> str | None:
    """Return the metric that chooses the best checkpoint, or None for a run without validation data.

    Args:
        has_validation_file: True if the run has a validation file.
        valid_share: Fraction of the training questions that is held out for validation.
        monitor: The requested metric. The default is ``valid_mrr@10``.
        early_stopping: See ``build_trainer``.
        validate_every_n_steps: See ``build_trainer``.
        validate_first: See ``fit_and_test``.

    Raises:
        UsageError: The run has no validation data, and another setting needs it.
    """
    if has_validation_file or valid_share is not None:
        return monitor or "valid_mrr@10"
    needs = {
        "--monitor": monitor is not None,
        "--early_stopping": early_stopping is not None,
        "--validate_every_n_steps": validate_every_n_steps is not None,
        "--validate_first": validate_first,
    }
    if given := [flag for flag, is_given in needs.items() if is_given]:
        raise UsageError(f"{given[0]} needs validation data. Give --valid_file or --valid_share, or omit {given[0]}.")
    return None


def check_checkpoint(checkpoint: str | None, trainer: Trainer, task: TrainingTask, data: DPRDataModule) -> None:
    """Check that a run can resume from a checkpoint and from its best checkpoint so far. Nothing is changed.

    Args:
        checkpoint: The checkpoint to resume from, or None.
        trainer: Trainer from ``build_trainer``.
        task: Task of the run.
        data: Data of the run.

    Raises:
        ArtifactError: The checkpoint does not fit the run. Or the best checkpoint is missing, damaged, has a worse
            metric than recorded, or comes from a run with another seed or other data.
    """
    if checkpoint is None:
        return
    content = read_checkpoint(checkpoint)
    task.check_checkpoint(content, checkpoint, trainer, data)
    best = check_best(trainer.checkpoint_callbacks, checkpoint, content["callbacks"])
    if best is not None and best.resolve() != Path(checkpoint).resolve():
        data.check_state(read_checkpoint(best).get(type(data).__qualname__, {}), str(best))


@hide_messages()
def fit_and_test(
    trainer: Trainer,
    task: TrainingTask,
    data: DPRDataModule,
    *,
    checkpoint: str | None = None,
    validate_first: bool = False,
) -> Mapping[str, float]:
    """Train, and return the test metrics of the best checkpoint. Without test data, return an empty dict.

    A run without validation data has no best checkpoint, so its last weights are tested.

    Args:
        trainer: Trainer from ``build_trainer``.
        task: Task to train. Afterwards it has the weights of the best checkpoint, or the last weights.
        data: Data of each stage.
        checkpoint: The checkpoint to resume from.
        validate_first: Also validate before the first step, unless the run resumes.

    Raises:
        NonFiniteLossError: The loss is NaN or infinite.
        InterruptedRun: A signal arrived. The checkpoint is saved.
        MemoryError: A batch does not fit into memory.
        ChildProcessError: A data worker died.
        ConnectionError: Another process of the run ended.
    """
    failures = next(each for each in trainer.callbacks if isinstance(each, StepFailures))  # pyright: ignore
    trackers = next(each for each in trainer.callbacks if isinstance(each, Trackers))  # pyright: ignore
    with closing(trackers), failures.translate_errors():
        if validate_first and checkpoint is None:
            trainer.validate(task, data, verbose=False)
        first_step = _count_steps(checkpoint)  # read before training overwrites the checkpoint
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        _print_end(trainer, first_step)
        for name, share in trainer.callback_metrics.items():
            if name.endswith("_truncated"):
                print_rank_zero(f"{name}: {share:.2%}")
        metrics = _restore_best_and_test(trainer, task, data)
    if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
        print_rank_zero("fast_dev_run: all stages ran, nothing was saved")
    return metrics


def _restore_best_and_test(trainer: Trainer, task: TrainingTask, data: DPRDataModule) -> Mapping[str, float]:
    """Load the weights of the best checkpoint into the task, and return its test metrics."""
    best = trainer.checkpoint_callback  # the first one, which saves the best checkpoint if there is a monitor
    path = best.best_model_path if isinstance(best, ModelCheckpoint) and best.monitor is not None else ""
    if data.test is None:
        if path:
            task.load_state_dict(AtomicCheckpointIO().load_checkpoint(path, map_location="cpu")["state_dict"])
        return {}
    [metrics] = trainer.test(task, data, ckpt_path=path or None, weights_only=True, verbose=False)
    return metrics


def check_schedule(num_batches: int, *, max_epochs: int, accumulate_batches: int = 1, warmup_steps: int = 0) -> None:
    """Print a note if warmup is longer than the run.

    Args:
        num_batches: Batches in an epoch.
        max_epochs: See ``build_trainer``.
        accumulate_batches: See ``build_trainer``.
        warmup_steps: Optimizer steps until the peak learning rate.
    """
    num_steps = max_epochs * math.ceil(num_batches / accumulate_batches)
    if warmup_steps > num_steps:
        print_rank_zero(
            f"note: --warmup_steps is {warmup_steps}, but the run has only {num_steps} steps. "
            "The learning rate never reaches its peak."
        )


def resolve_max_lengths(
    question: int | None,
    passage: int | None,
    model: BiEncoder,
    tokenizer: Tokenizer,
    defaults: tuple[int, int] = (64, 256),
) -> dict[str, int]:
    """Return the maximum lengths as a dict with keys ``question_max_length`` and ``passage_max_length``.

    Args:
        question: Maximum tokens of a question, or None for the default.
        passage: Maximum tokens of title and text together, or None for the default.
        model: Model whose question encoder limits both lengths.
        tokenizer: Tokenizer whose special tokens must fit, together with one token each of title and text.
        defaults: Default maximum tokens of a question and of a passage. The encoder's limit applies if it is lower.

    Raises:
        UsageError: A length is higher than the encoder's limit, or too low for a text.
    """
    least = tokenizer.num_special_tokens_to_add(True) + 2
    encoder_limit: int = model.question_encoder.max_length  # pyright: ignore[reportAssignmentType]
    limits = {}
    requests = zip(("question_max_length", "passage_max_length"), (question, passage), defaults, strict=True)
    for name, requested, default in requests:
        limits[name] = min(default, encoder_limit) if requested is None else requested
        if not least <= limits[name] <= encoder_limit:
            raise UsageError(
                f"--{name} is {limits[name]}. Give {least} to {encoder_limit} tokens, including special tokens."
            )
    return limits


def check_devices(gpus: int, num_nodes: int) -> None:
    """Check that this machine has enough GPUs, and that a run on several machines has a launcher.

    Raises:
        UsageError: The machine has fewer GPUs, or the launcher is missing.
    """
    num_gpus = torch.cuda.device_count()
    if not 0 <= gpus <= num_gpus:
        raise UsageError(f"--gpus is {gpus}, but this machine has {num_gpus} GPUs. To train on the CPU, use --gpus=0.")
    if num_nodes > 1 and not {"MASTER_ADDR", "SLURM_JOB_ID"} & set(os.environ):
        raise UsageError(f"--num_nodes is {num_nodes}. Start the command with torchrun or SLURM on each machine.")


def choose_tf32(tf32: bool | None, *, gpus: int, precision: str) -> bool:
    """Return whether a run computes float32 matrix products in TF32.

    TF32 keeps 10 of the 23 bits of a factor's mantissa. GPUs have it from Ampere on, which has compute capability 8.0.

    Args:
        tf32: The user's choice. None uses TF32 wherever it is possible.
        gpus: Number of GPUs of each machine. 0 means the CPU.
        precision: Precision of the run. Only "32-true" computes the encoders in float32.

    Raises:
        UsageError: ``tf32`` is true, but it would have no effect on the run.
    """
    is_nvidia = gpus > 0 and torch.version.hip is None
    has_tf32 = is_nvidia and precision == "32-true" and torch.cuda.get_device_capability() >= (8, 0)
    if tf32 and not has_tf32:
        raise UsageError(
            "--tf32 needs --gpus, --precision=32-true, and GPUs of the Ampere generation or later. Remove --tf32."
        )
    return has_tf32 and tf32 is not False


def _count_steps(checkpoint: str | None) -> int:
    """Return the number of optimizer steps before a checkpoint."""
    return 0 if checkpoint is None else read_checkpoint(checkpoint)["global_step"]


def _print_end(trainer: Trainer, first_step: int) -> None:
    """Print why training ended, unless it trained all its epochs."""
    stopping = trainer.early_stopping_callback
    if isinstance(stopping, EarlyStopping) and stopping.has_ended:
        print_rank_zero(
            f"early stopping: {stopping.monitor} did not improve on {stopping.best_score:.4f} "
            f"in {stopping.wait_count} validations. Training ended after step {trainer.global_step}."
        )
    if trainer.global_step == first_step:
        print_rank_zero(
            f"note: this run was already complete at step {first_step}, so nothing was trained. "
            "To continue, use a higher --max_epochs, or a higher --early_stopping if it stopped early."
        )
