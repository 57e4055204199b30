"""Training run that is small enough to repeat many times: 11 questions, batches of 4, 3 epochs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from text.datasets import DPRDataPipe
from text.models import BiEncoder, roberta_tiny
from text.training import (
    AccumulatedGradients,
    AtomicCheckpointIO,
    BiEncoderTask,
    DPRDataModule,
    MetricsCSV,
    RandomState,
)
from text.transforms import BiEncoderCollator, Tokenize, train_tokenizer

SUBJECTS = ["oak", "elm", "ash", "yew", "fir", "bay", "fig", "pear", "plum", "beech", "maple"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


def write_rows(path: Path) -> Path:
    """Write questions about trees, each with a positive and two hard negatives."""

    def passage(subject: str, fact: str) -> dict[str, str]:
        return {"title": subject, "text": f"The {subject} tree {fact}.", "passage_id": f"{subject}/{fact}"}

    records = [
        {
            "question": f"how tall is the {subject}",
            "answers": [str(height)],
            "positive_ctxs": [passage(subject, f"grows {height} metres tall")],
            "hard_negative_ctxs": [passage(subject, "has green leaves"), passage(subject, "has brown bark")],
        }
        for height, subject in enumerate(SUBJECTS, start=5)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


class Run:
    """Parts of one training run, built from scratch as in a new process."""

    def __init__(
        self, rows: Path, folder: Path, *, num_workers: int = 0, seed: int = 0, validate: bool = True, **trainer_options
    ) -> None:
        train, valid = (DPRDataPipe(rows, 4, train=is_train, seed=3) for is_train in (True, False))
        tokenizer = train_tokenizer(train.texts(), 300)
        collate = BiEncoderCollator(Tokenize(tokenizer, 32), Tokenize(tokenizer, 32))
        torch.manual_seed(seed)
        encoder = roberta_tiny(vocab_size=tokenizer.get_vocab_size(), pooling="mean", max_position_embeddings=34)
        self.task = BiEncoderTask(BiEncoder(encoder, encoder), learning_rate=1e-3, warmup_steps=2)
        evaluated = valid if validate else None
        self.data = DPRDataModule(collate, train=train, valid=evaluated, test=evaluated, num_workers=num_workers)
        options = {
            "max_epochs": 3,
            "accelerator": "cpu",
            "logger": MetricsCSV(folder, keep_steps=trainer_options.pop("keep_steps", 0)),
            "log_every_n_steps": 1,
            "plugins": [AtomicCheckpointIO()],
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "gradient_clip_val": 1.0,
        }
        callbacks = [AccumulatedGradients(), RandomState(), *trainer_options.pop("callbacks", [])]
        self.trainer = Trainer(**(options | trainer_options), callbacks=callbacks)

    def fit(self, checkpoint: Path | None = None) -> Run:
        self.trainer.fit(self.task, self.data, ckpt_path=checkpoint, weights_only=True)
        return self

    def copy_weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.task.state_dict().items()}


class Interrupt(Exception):
    pass


class SaveAndStop(Callback):
    """Callback that saves a checkpoint after a number of optimizer steps, and then ends the run like a crash."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise Interrupt
