"""Training steps of ``benchmarks/gpu.py``: this library, transformers and sentence-transformers, on the same batch."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn

from benchmarks.gpu_workload import DEVICE, Side, Sizes, Workload, count_operations, write_texts
from text.datasets import DPRDataPipe
from text.models import BiEncoder, RobertaEncoder
from text.records import BiEncoderBatch, Example, Passage, TokenBatch
from text.training import BiEncoderTask, DPRDataModule, Objective, build_trainer, fit_and_test
from text.training.grad_cache import embed_in_chunks
from text.transforms import BiEncoderCollator, Tokenize

WARMUP_STEPS = 4
"""Steps of a whole run before the clock starts."""
QUESTION_TOKENS = 20
"""Maximum tokens of a question."""


def list_training_sides(workload: Workload, mean: int, *, is_ragged: bool = False) -> list[Side]:
    """Return the sides of a training step."""
    sizes = workload.sizes
    examples = write_examples(sizes, mean, sizes.num_questions, is_ragged=is_ragged)
    longest = sizes.max_length if is_ragged else mean
    collate = BiEncoderCollator(Tokenize(workload.tokenizer, QUESTION_TOKENS), Tokenize(workload.tokenizer, longest))
    batch = collate(examples)
    lengths = [*batch.questions.lengths.tolist(), *batch.passages.lengths.tolist()]
    work: Any = {
        "num_passages": len(batch.owner),
        "operations": count_operations(sizes.encoder, lengths, is_training=True),
    }
    ours = partial(build_our_step, workload, batch)
    sides = [
        Side("dpr-text, plain", ours, **work),
        Side("dpr-text, compiled", partial(ours, is_compiled=True), seconds=100, **work),
        Side(f"dpr-text, chunks of {sizes.chunk_tokens:,} tokens", partial(ours, is_chunked=True), **work),
        Side("sentence-transformers", partial(build_sentence_transformers_step, workload, batch), **work),
        Side("transformers", partial(build_transformers_step, workload, batch), **work),
        Side(
            "dpr-text, whole run from JSON lines, not compiled",
            partial(build_training_run, workload, collate, mean, is_ragged=is_ragged),
            is_self_timed=True,
            seconds=40,
            **work,
        ),
    ]
    # The compiler takes a minute on a CPU.
    return [side for side in sides if not (sizes.is_small and side.name == "dpr-text, compiled")]


def write_examples(sizes: Sizes, mean: int, num: int, *, is_ragged: bool) -> list[Example]:
    """Return questions, each with a positive and a hard negative. No text occurs twice."""
    questions = write_texts(num, 13, seed=1)
    texts = write_texts(2 * num, mean, seed=2, is_ragged=is_ragged)
    pairs = zip(questions, texts[:num], texts[num:], strict=True)
    return [
        Example(question, [], [Passage(f"p{n}", "", positive)], [Passage(f"n{n}", "", negative)], [])
        for n, (question, positive, negative) in enumerate(pairs)
    ]


def load_encoders(workload: Workload, *, is_compiled: bool = False) -> BiEncoder:
    """Load two encoders with the same weights. ``dpr-text train --compile`` compiles their layers in the same way."""
    encoders = [RobertaEncoder.from_pretrained(workload.encoder_folder) for _ in range(2)]
    for layer in (layer for encoder in encoders for layer in encoder.layers if is_compiled):
        layer.compile(dynamic=True)
    return BiEncoder(*encoders)


def build_our_step(
    workload: Workload, batch: BiEncoderBatch, *, is_compiled: bool = False, is_chunked: bool = False
) -> Callable[[], None]:
    """Return a training step of this library with two encoders."""
    if is_compiled:
        torch.compiler.reset()
    model = load_encoders(workload, is_compiled=is_compiled)
    task = BiEncoderTask(model, Objective()).to(DEVICE).train()
    on_device: BiEncoderBatch = task.transfer_batch_to_device(batch, torch.device(DEVICE), 0)

    def embed(encoder: nn.Module, tokens: TokenBatch) -> Tensor:
        return embed_in_chunks(encoder, tokens, workload.sizes.chunk_tokens)

    def compute_loss() -> Tensor:
        if is_chunked:
            questions = embed(model.question_encoder, on_device.questions)
            texts = embed(model.passage_encoder, on_device.passages)
        else:
            questions, texts = model(on_device.questions, on_device.passages)
        return task.objective(on_device, questions, texts[on_device.text_index]).mean()

    return build_step(task, compute_loss)


def build_transformers_step(workload: Workload, batch: BiEncoderBatch) -> Callable[[], None]:
    """Return a training step with two encoders of transformers, padded, and the loss of this library."""
    from transformers import AutoModel

    first = AutoModel.from_pretrained(workload.encoder_folder, attn_implementation="sdpa").to(DEVICE).train()
    sides = nn.ModuleList([first, copy.deepcopy(first)])
    task = BiEncoderTask(BiEncoder(nn.Linear(1, 1), nn.Linear(1, 1)), Objective())
    on_device: BiEncoderBatch = task.transfer_batch_to_device(batch, torch.device(DEVICE), 0)

    def compute_loss() -> Tensor:
        questions, passages = (
            side(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask.long()).last_hidden_state[:, 0]
            for side, tokens in zip(sides, (on_device.questions, on_device.passages), strict=True)
        )
        return task.objective(on_device, questions, passages[on_device.text_index]).mean()

    return build_step(sides, compute_loss)


def build_sentence_transformers_step(workload: Workload, batch: BiEncoderBatch) -> Callable[[], None]:
    """Return a training step of sentence-transformers with one encoder, whose optimizer has half the weights."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(str(workload.encoder_folder), device=DEVICE).train()
    loss = MultipleNegativesRankingLoss(model)
    columns = [(batch.questions, slice(None)), *((batch.passages, slice(start, None, 2)) for start in (0, 1))]
    features = [
        {
            "input_ids": tokens.input_ids[rows].to(DEVICE),
            "attention_mask": tokens.attention_mask[rows].long().to(DEVICE),
        }
        for tokens, rows in columns
    ]
    labels = torch.zeros(len(batch.positive_index), device=DEVICE)
    return build_step(model, lambda: loss([dict(each) for each in features], labels))


def build_step(model: nn.Module, compute_loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a function that makes a training step in bfloat16 with AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, cache_enabled=False):
            loss = compute_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()

    return run


def build_training_run(
    workload: Workload, collate: BiEncoderCollator, mean: int, *, is_ragged: bool
) -> Callable[[], float]:
    """Return a function that trains as ``dpr-text train`` does, and returns the seconds of a step."""
    sizes, folder = workload.sizes, workload.folder
    num_steps = WARMUP_STEPS + sizes.num_steps
    examples = write_examples(sizes, mean, num_steps * sizes.num_questions, is_ragged=is_ragged)
    rows = (
        {
            "question": example.question,
            "positive_ctxs": [
                {"passage_id": passage.passage_id, "text": passage.text} for passage in example.positives
            ],
            "hard_negative_ctxs": [{"passage_id": p.passage_id, "text": p.text} for p in example.hard_negatives],
        }
        for example in examples
    )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def run() -> float:
        pipe = DPRDataPipe(folder / "rows.jsonl", sizes.num_questions, train=True)
        task = BiEncoderTask(load_encoders(workload), Objective())
        options: Any = {"gpus": int(DEVICE == "cuda"), "precision": "bf16-mixed", "monitor": None}
        trainer = build_trainer(folder / "run", max_epochs=1, num_batches=num_steps, **options)
        clock, callbacks = _Clock(), trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        # The checkpoint has 3 GB.
        callbacks[:] = [*(each for each in callbacks if not isinstance(each, Checkpoint)), clock]
        fit_and_test(trainer, task, DPRDataModule(collate, train=pipe))
        return clock.seconds / sizes.num_steps

    return run


class _Clock(Callback):
    """Callback that measures the steps after ``WARMUP_STEPS``."""

    def __init__(self) -> None:
        self.seconds, self._start = 0.0, 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        if batch_idx == WARMUP_STEPS:
            self._start = self._read()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the clock after the last batch, before the checkpoint is saved."""
        if trainer.is_last_batch:
            self.seconds = self._read() - self._start

    def _read(self) -> float:
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
