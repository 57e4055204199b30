"""In a training step the host waits once for the GPU, whatever the objective."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, multiprocessing, nn

from test.cuda_simulation import simulate_gpu
from test.ranks import process_group
from test.training.conftest import Run, write_rows
from test.training.host_waits import HostWaits
from text.models import BiEncoder, roberta_tiny
from text.training import AtomicCheckpointIO, BiEncoderTask, Objective, StepFailures, build_trainer
from text.training.batch_sums import BatchSums
from text.training.distributed import scale_for_backward

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
]


def watch(trainer: Trainer, number: int, scaler: object = None) -> HostWaits:
    """Count the waits of one batch of a run, from the fetched batch to the logged metrics.

    Args:
        trainer: Trainer of the run.
        number: Number of the batch, from 0.
        scaler: Loss scaler of float16 training. Its tensors are on the GPU.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    advance, waits, batches = loop.advance, HostWaits(), itertools.count()

    def advance_and_count(data_fetcher: Any) -> None:
        if next(batches) != number:
            return advance(data_fetcher)
        waits.mark(vars(scaler) if scaler is not None else ())
        [optimizer] = trainer.optimizers
        for parameter in trainer.lightning_module.parameters():
            waits.mark(parameter, parameter.grad, dict(optimizer.state[parameter]))
        with waits.counting():
            return advance(data_fetcher)

    loop.advance = advance_and_count
    return waits


needs_fused_adamw = pytest.mark.skipif(
    torch.__version__ < "2.4", reason="torch 2.3 has no fused AdamW for CPUs, and the other one reads its step"
)


class WordMean(nn.Module):
    """Encoder without waits: the mean of word vectors. RobertaEncoder on a CPU leaves out padding by host indices."""

    max_length = 32

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(300, 16)
        self.dropout = nn.Dropout(0.1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask[:, :, None] / attention_mask.sum(dim=1)[:, None, None]
        return (self.dropout(self.words(input_ids)) * weights).sum(dim=1)


def count_waits(
    rows: Path, folder: Path, *, model: BiEncoder | None = None, chunk_tokens: int | None = None, **options: Any
) -> HostWaits:
    """Return the waits of the second batch, which is not logged."""
    objective, validate = options.pop("objective", {}), options.pop("validate", False)
    run = Run(rows, folder / "parts", validate=validate)
    task = BiEncoderTask(
        model or BiEncoder(WordMean(), WordMean()),
        Objective(**objective),
        chunk_tokens=chunk_tokens,
        set_names=options.pop("set_names", ()),
    )
    monitor = "valid_loss" if validate else None
    trainer = build_trainer(folder, max_epochs=1, num_batches=3, monitor=monitor, **options)
    waits = watch(trainer, 1)
    trainer.fit(task, run.data)
    return waits


@needs_fused_adamw
@pytest.mark.parametrize(
    "options",
    [
        {"validate": True, "validate_every_n_steps": 1},
        {"chunk_tokens": 40, "set_names": ("a", "b")},
        {"objective": {"symmetric": True, "matryoshka_dims": (8,)}, "accumulate_batches": 2},
        {"objective": {"guide_margin": 0.1, "distillation": 0.5, "all_positives": True}},
        {"objective": {"in_batch_negatives": False}},
    ],
    ids=lambda options: "-".join(options) or "default",
)
def test_the_host_waits_once_in_a_step(rows: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    waits = count_waits(rows, tmp_path, **options)
    assert sum(waits.found.values()) == 1, waits.describe()


@needs_fused_adamw
@pytest.mark.parametrize("options", [{}, {"chunk_tokens": 40}], ids=["plain", "chunks"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_an_encoder_on_a_gpu_adds_no_wait(rows: Path, tmp_path: Path, pooling: str, options: dict[str, Any]) -> None:
    model = BiEncoder(*(roberta_tiny(vocab_size=300, pooling=pooling) for _ in range(2)))
    with simulate_gpu() as calls:
        waits = count_waits(rows, tmp_path, model=model, **options)
    assert calls and sum(waits.found.values()) == 1, waits.describe()


@pytest.mark.skipif(torch.__version__ < "2.4", reason="GradScaler supports the CPU from 2.4 on")
def test_in_float16_the_host_waits_three_times(rows: Path, tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # pyright: ignore[reportPrivateImportUsage]
    options = {
        "plugins": [AtomicCheckpointIO(), MixedPrecision("16-mixed", "cpu", scaler)],
        "log_every_n_steps": 3,
        "max_epochs": 1,
    }
    run = Run(rows, tmp_path, callbacks=[StepFailures()], validate=False, **options)
    run.task.model = BiEncoder(WordMean(), WordMean())
    waits = watch(run.trainer, 1, scaler)
    run.fit()
    # It waits for the loss, for whether a gradient is infinite, and for the loss scale.
    assert sum(waits.found.values()) == 3, waits.describe()


def count_waits_on_rank(rank: int, folder: str) -> None:
    """Count the waits of a step of two ranks with shares of different sizes."""
    with process_group(rank, 2, folder):
        run = Run(write_rows(Path(folder, f"{rank}.jsonl")), Path(folder))
        run.task.objective = Objective(symmetric=True)
        batch: Any = run.data.collate(next(iter(run.data.train))[: 3 - rank])
        embeddings = [
            torch.randn(size, 4, requires_grad=True) for size in (len(batch.positive_index), len(batch.owner))
        ]
        waits = HostWaits()
        waits.mark(batch, embeddings)
        with waits.counting():
            losses = run.task.objective(batch, *embeddings)
            sums = BatchSums(losses, batch)
            scale_for_backward(losses, sums.num_questions).backward()
            assert sums.read().num_questions == 5
        Path(folder, f"{rank}.txt").write_text(waits.describe())


@pytest.mark.slow
def test_each_of_two_ranks_waits_once(tmp_path: Path) -> None:
    multiprocessing.spawn(count_waits_on_rank, (str(tmp_path),), nprocs=2)  # pyright: ignore
    for rank in range(2):
        [line] = Path(tmp_path, f"{rank}.txt").read_text().splitlines()
        assert line.startswith("1 x text/training/batch_sums.py")
