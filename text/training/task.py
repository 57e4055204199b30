"""Lightning module that trains and evaluates a BiEncoder. ``task_base.py`` has what it shares with other models.

Dimensions: B questions of this rank; P passages of this rank; D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from text.models import BiEncoder, embed_tokens
from text.records import BiEncoderBatch, TokenBatch
from text.training.grad_cache import embed_in_chunks
from text.training.objective import Objective
from text.training.pool import PassagePool
from text.training.task_base import TrainingTask

_EVALUATION_CHUNK_SIZE = 128
"""Texts per forward pass in evaluation, as ``val_av_rank_bsz`` in DPR. It affects memory, not metrics."""


class BiEncoderTask(TrainingTask):
    r"""Lightning module that trains a BiEncoder on batches of questions and passages.

    >>> import json, tempfile
    >>> from pytorch_lightning import Trainer
    >>> from text.datasets import DPRDataPipe
    >>> from text.models import roberta_tiny
    >>> from text.training import DPRDataModule
    >>> from text.transforms import BiEncoderCollator, Tokenize, train_tokenizer
    >>> rows = [{"question": f"who ate the {name}", "positive_ctxs": [{"text": name}]} for name in ("oak", "elm")]
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write("".join(json.dumps(row) + "\n" for row in rows)), file.flush()
    ...     train, valid = DPRDataPipe(file.name, batch_size=2, train=True), DPRDataPipe(file.name, batch_size=2)
    ...     tokenize = Tokenize(train_tokenizer(train.texts(), vocab_size=300), max_length=16)
    ...     encoder = roberta_tiny(vocab_size=300, pooling="mean")
    ...     task = BiEncoderTask(BiEncoder(encoder, encoder), Objective(similarity="cosine", temperature=0.05))
    ...     data = DPRDataModule(BiEncoderCollator(tokenize, tokenize), train=train, valid=valid, test=valid)
    ...     trainer = Trainer(
    ...         fast_dev_run=True, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False
    ...     )
    ...     trainer.fit(task, data)
    >>> bool(trainer.callback_metrics["train_loss_epoch"] > 0)
    True

    Args:
        model: The two encoders.
        objective: Loss to minimize. It is also reported during validation.
        chunk_tokens: Embed a batch in chunks of this many tokens (``grad_cache.py``). Batches of any size then fit into
            memory, but training is slower.
        learning_rate: See ``TrainingTask``, and for the arguments below.
        warmup_steps: Optimizer steps until the peak.
        schedule: Shape of the learning rate after the peak.
        weight_decay: Weight decay of all weights except biases and layer norms.
        set_names: Names of the data sets that training mixes.
    """

    objective: Objective
    pool: PassagePool

    def __init__(
        self,
        model: BiEncoder,
        objective: Objective | None = None,
        *,
        learning_rate: float = 2e-5,
        warmup_steps: int = 0,
        schedule: str = "linear",
        weight_decay: float = 0.0,
        chunk_tokens: int | None = None,
        set_names: Sequence[str] = (),
    ) -> None:
        super().__init__(
            model,
            objective,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            schedule=schedule,
            weight_decay=weight_decay,
            set_names=set_names,
        )
        self.chunk_tokens = chunk_tokens

    def build_objective(self) -> Objective:
        """Return DPR's objective."""
        return Objective()

    def compute_losses(self, batch: BiEncoderBatch) -> Tensor:
        """Return the losses of the questions of a training batch, (B,)."""
        return self.objective(batch, *self._embed(batch))

    def evaluate(self, batch: BiEncoderBatch) -> Tensor:
        """Return the losses of the questions of an evaluation batch, (B,), and add the batch to the pool."""
        questions, passages = _embed_all(self.model.question_encoder, batch.questions), batch.passage_embeddings
        if passages is None:
            passages = _embed_all(self.model.passage_encoder, batch.passages)[batch.text_index]
        losses = self.objective(batch, questions, passages)
        self.pool.add(batch, questions, passages)
        return losses

    def build_pool(self) -> PassagePool:
        """Return an empty pool for an evaluation."""
        return PassagePool(self.objective.similarity)

    def _embed(self, batch: BiEncoderBatch) -> tuple[Tensor, Tensor]:
        """Return the embeddings of questions, (B, D), and of passages, (P, D)."""
        if batch.passage_embeddings is not None:
            return self._embed_questions(batch), batch.passage_embeddings
        if self.chunk_tokens is None:
            questions, texts = self.model(batch.questions, batch.passages)
        else:
            questions = embed_in_chunks(self.model.question_encoder, batch.questions, self.chunk_tokens)
            texts = embed_in_chunks(self.model.passage_encoder, batch.passages, self.chunk_tokens)
        return questions, texts[batch.text_index]

    def _embed_questions(self, batch: BiEncoderBatch) -> Tensor:
        if self.chunk_tokens is None:
            return embed_tokens(self.model.question_encoder, batch.questions)
        return embed_in_chunks(self.model.question_encoder, batch.questions, self.chunk_tokens)


def _embed_all(encoder: torch.nn.Module, tokens: TokenBatch) -> Tensor:
    """Return the (N, D) embeddings of all texts of an evaluation batch."""
    return torch.cat([embed_tokens(encoder, chunk) for chunk in _split_into_chunks(tokens)])


def _split_into_chunks(tokens: TokenBatch) -> Iterator[TokenBatch]:
    """Yield a few texts at a time, because evaluation has many more passages than a training step."""
    for start in range(0, max(1, len(tokens.lengths)), _EVALUATION_CHUNK_SIZE):
        rows = slice(start, start + _EVALUATION_CHUNK_SIZE)
        tensors = (field[rows] for field in tokens[:4])
        yield TokenBatch(*tensors, lengths=tokens.lengths[rows], prompt_length=tokens.prompt_length)
