"""Training a cross-encoder: its loss and ranks by hand, learning, exact resume, and two ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import multiprocessing

from test.ranks import process_group
from test.training.conftest import Interrupt, SaveAndStop, write_rows
from text.datasets import DPRDataPipe
from text.models import RobertaCrossEncoder, roberta_tiny
from text.records import CrossEncoderBatch, TokenBatch
from text.training import (
    AccumulatedGradients,
    AtomicCheckpointIO,
    CrossEncoderTask,
    DPRDataModule,
    RandomState,
    RerankObjective,
)
from text.training.distributed import scale_for_backward
from text.training.row_ranks import RowRanks
from text.transforms import CrossEncoderCollator, TokenizePairs, train_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]

NO_TOKENS = TokenBatch(*(torch.empty(0) for _ in range(4)), lengths=np.zeros(0, dtype=np.int64))
LOGITS = torch.tensor([2.0, 1.0, 0.0, 3.0, 5.0])


def build_batch(*scores: float) -> CrossEncoderBatch:
    """Return a batch of two questions with three and two pairs."""
    return CrossEncoderBatch(
        pairs=NO_TOKENS,
        pair_index=torch.tensor([[0, 1, 2], [3, 4, -1]]),
        positive_index=torch.tensor([0, 3]),
        owner=torch.tensor([0, 0, 0, 1, 1]),
        passage_keys=torch.arange(10).reshape(5, 2),
        scores=torch.tensor(scores or [math.nan] * 5),
        sources=torch.tensor([0, 1]),
        rows=torch.tensor([4, 9]),
        counts={},
    )


def test_the_loss_by_hand() -> None:
    # The positive has 2 against 1 and 0 in the first row, and 3 against 5 in the second.
    expected = [math.log(1 + math.exp(-1) + math.exp(-2)), math.log(1 + math.exp(2))]
    torch.testing.assert_close(RerankObjective()(build_batch(), LOGITS), torch.tensor(expected))


def test_likely_positives_are_removed() -> None:
    losses = RerankObjective(guide_margin=0.1)(build_batch(0.9, 0.85, 0.2, 0.5, math.nan), LOGITS)
    torch.testing.assert_close(losses, torch.tensor([math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))]))


def test_distillation_by_hand() -> None:
    # The first student prefers its positive by 2 to 1 against the scored negative; the teacher is indifferent. The
    # second question has one score, so its loss stays contrastive.
    batch = build_batch(0.0, 0.0, math.nan, 1.0, math.nan)
    logits = torch.tensor([math.log(2), 0.0, 9.0, 3.0, 5.0])
    kl = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    losses = RerankObjective(distillation=1.0)(batch, logits)
    torch.testing.assert_close(losses, torch.tensor([kl, math.log(1 + math.exp(2))]))
    half = RerankObjective(distillation=0.5)(batch, logits)
    torch.testing.assert_close(half[0], (kl + RerankObjective()(batch, logits)[0]) / 2)
    margin = RerankObjective(distillation=1.0, distillation_loss="margin_mse")(batch, logits)
    torch.testing.assert_close(margin[0], torch.tensor(math.log(2) ** 2))


@pytest.mark.parametrize(
    "options",
    [{"distillation": 1.1}, {"distillation_loss": "mse"}, {"teacher_temperature": 0.0}, {"guide_margin": math.inf}],
)
def test_values_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValueError):
        RerankObjective(**options)


def test_ranks_among_the_passages_of_a_row_by_hand() -> None:
    ranks = RowRanks()
    ranks.add(build_batch(), LOGITS)  # ranks 0 and 1
    ranks.add(build_batch(), -LOGITS)  # ranks 2 and 0
    assert ranks.compute_ranks().tolist() == [0, 1, 2, 0] and ranks.num_passages == 10
    metrics = ranks.compute_metrics()
    assert metrics["average_rank"] == pytest.approx(0.75)
    assert metrics["mrr@10"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1) / 4)
    assert metrics["recall@1"] == pytest.approx(0.5)
    worst, second = ranks.find_worst(3, 1)
    assert worst.place == (0, 4) and worst.num_above == 2
    assert [each.keys for each in worst.above] == [(4, 5)] and worst.positive.keys == (0, 1)
    assert second.place == (1, 9) and second.above[0].score == 5.0


class Run:
    """Parts of one training run, built from scratch as in a new process."""

    def __init__(self, rows: Path, *, dropout: float = 0.1, epochs: int = 3, rate: float = 1e-3, callbacks=()) -> None:
        train, valid = (
            DPRDataPipe(rows, 4, train=is_train, seed=3, num_hard_negatives=2) for is_train in (True, False)
        )
        tokenizer = train_tokenizer(train.texts(), 300)
        self.collate = CrossEncoderCollator(TokenizePairs(tokenizer, 48))
        torch.manual_seed(0)
        rates: dict[str, Any] = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        encoder = roberta_tiny(vocab_size=300, max_position_embeddings=50, **rates)
        self.task = CrossEncoderTask(
            RobertaCrossEncoder.from_encoder(encoder, dropout), learning_rate=rate, warmup_steps=2
        )
        self.data = DPRDataModule(self.collate, train=train, valid=valid, test=valid)
        self.trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=1.0,
            callbacks=[AccumulatedGradients(), RandomState(), *callbacks],
        )

    def fit(self, checkpoint: Path | None = None) -> Run:
        self.trainer.fit(self.task, self.data, ckpt_path=checkpoint, weights_only=True)
        return self


def test_a_resumed_run_gives_the_same_weights(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    undisturbed = Run(rows).fit()
    with pytest.raises(Interrupt):
        Run(rows, callbacks=[SaveAndStop(5, tmp_path / "stopped.ckpt")]).fit()
    resumed = Run(rows).fit(tmp_path / "stopped.ckpt")
    for name, tensor in undisturbed.task.state_dict().items():
        assert tensor.equal(resumed.task.state_dict()[name]), name
    metrics, again = (run.trainer.callback_metrics for run in (undisturbed, resumed))
    assert metrics["valid_loss"] == again["valid_loss"] and metrics["train_loss_epoch"] == again["train_loss_epoch"]


@pytest.mark.slow
def test_training_lowers_the_loss_and_raises_the_mrr(tmp_path: Path) -> None:
    run = Run(write_rows(tmp_path / "rows.jsonl"), dropout=0.0, epochs=30)
    [before] = run.trainer.validate(run.task, run.data, verbose=False)
    after = run.fit().trainer.callback_metrics
    assert after["valid_loss"] < 0.2 * before["valid_loss"]
    assert after["valid_mrr@10"] == 1.0 > before["valid_mrr@10"]
    assert after["train_loss_epoch"] < 0.2


def compute_gradients(task: CrossEncoderTask, batch: CrossEncoderBatch, num_questions: int) -> list[torch.Tensor]:
    task.zero_grad()
    losses = task.compute_losses(batch)
    scale_for_backward(losses, torch.tensor(float(num_questions))).backward()
    return [each.grad.clone() for each in task.parameters() if each.grad is not None]


def compare_ranks(rank: int, num_ranks: int, folder: str) -> None:
    """Check that gradients and ranks of positives equal those of one process, also if a rank has no question."""
    run = Run(Path(folder, "rows.jsonl"), dropout=0.0)
    task, collate = run.task, run.collate
    assert run.data.valid is not None
    examples = next(iter(run.data.valid))[:3]
    expected, whole = compute_gradients(task, collate(examples), 3), evaluate(task, collate(examples))
    with process_group(rank, num_ranks, folder):
        for shares in ([examples[:2], examples[2:]], [examples, []]):
            batch = collate(shares[rank])
            found, ranks = compute_gradients(task, batch, 3), evaluate(task, batch)
            assert ranks.compute_ranks().equal(whole.compute_ranks()) and ranks.num_passages == whole.num_passages
            for ours, theirs in zip(found, expected, strict=True):
                torch.distributed.all_reduce(ours)
                torch.testing.assert_close(ours / num_ranks, theirs, atol=1e-6, rtol=1e-4)


def evaluate(task: CrossEncoderTask, batch: CrossEncoderBatch) -> RowRanks:
    task.pool = task.build_pool()
    with torch.no_grad():
        task.evaluate(batch)
    return task.pool


@pytest.mark.slow
def test_ranks_equal_one_process(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    multiprocessing.spawn(compare_ranks, (2, str(tmp_path)), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
