"""Measure training and encoding on one NVIDIA GPU, against transformers and sentence-transformers.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.gpu

All sides have the size of RoBERTa-base, random weights and the same distinct texts. They compute in bfloat16, and
transformers and sentence-transformers use PyTorch's fused attention. A training step is 128 questions and 256 passages:
forward, backward, gradient clipping and AdamW. The goals of the project are printed beside the figures. The run takes
less than eight minutes: a measurement that would not fit is left out. A side that fails shows its error. The script
writes benchmarks/results/gpu-DATE.md. With --small it runs on a CPU in little, to test the script, and writes nothing.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch

from benchmarks.gpu_encoding import list_encoding_sides
from benchmarks.gpu_training import list_training_sides
from benchmarks.gpu_workload import Side, Sizes, Workload, build_workload
from benchmarks.report import describe_hardware, describe_versions, make_parser, write_result
from text.models import RobertaConfig

PEAKS = {
    "H100": 989,
    "H200": 989,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10": 125,
}
"""Speed of dense bfloat16 products by the data sheets, in TFLOP/s."""
BIG = Sizes()
SMALL = Sizes(
    is_small=True,
    encoder=RobertaConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256
    ),
    num_questions=4,
    num_tokens=24,
    nq_tokens=12,
    chunk_tokens=64,
    max_length=32,
    num_steps=2,
    num_passages=60,
    num_peer_passages=20,
    peer_batches=(4, 8),
)


class Result(NamedTuple):
    """Measured side."""

    side: Side
    seconds: float = float("nan")
    """Seconds of one call."""
    peak_bytes: int = 0
    """Most memory of the GPU in use during the calls."""
    error: str = ""


class Budget:
    """Time that is left for the measurements.

    Args:
        seconds: Time for all measurements.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def has(self, seconds: float) -> bool:
        """Return whether this much time is left."""
        return time.monotonic() + seconds < self._end


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--small", action="store_true", help="Small sizes, to test this script on a CPU.")
    parser.add_argument(
        "--seconds", type=float, default=420, help="Time for all measurements in seconds (default: %(default)s)."
    )
    arguments = parser.parse_args(argv)
    if not arguments.small and not torch.cuda.is_available():
        parser.error("this machine has no GPU. Use --small to test the script on a CPU.")
    sizes, budget = SMALL if arguments.small else BIG, Budget(arguments.seconds)
    peak, description = find_peak()
    lines = [
        "# GPU\n",
        f"{description} {describe_hardware()}. {describe_packages()}.\n",
        f"RoBERTa-base: {sizes.num_questions} questions and {2 * sizes.num_questions} passages in a training step.\n",
    ]
    found: dict[str, list[Result]] = {}
    with build_workload(sizes) as workload:
        for title, sides in list_sections(workload):
            found[title] = [measure(side, sizes, budget) for side in sides]
            lines += format_table(title, found[title], peak)
    page = "\n".join([*lines, *format_goals(found, peak)]) + "\n"
    print(f"\n{page}") if arguments.small else write_result("gpu", page)


def list_sections(workload: Workload) -> Iterator[tuple[str, list[Side]]]:
    """Yield the title and the sides of each table."""
    sizes = workload.sizes
    yield f"Training, {sizes.num_tokens} tokens a passage", list_training_sides(workload, sizes.num_tokens)
    yield f"Encoding, {sizes.nq_tokens} tokens a passage", list_encoding_sides(workload)
    yield (
        f"Training, {sizes.nq_tokens} tokens a passage, of different lengths",
        list_training_sides(workload, sizes.nq_tokens, is_ragged=True),
    )


def measure(side: Side, sizes: Sizes, budget: Budget) -> Result:
    """Return the time and the memory of a side, or its error. The figures are printed at once."""
    if not budget.has(side.seconds):
        return report(Result(side, error="no time left"))
    free_memory()
    try:
        call = side.build()
        seconds = call() if side.is_self_timed else time_call(call, side, sizes)
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return report(Result(side, seconds, peak))
    except Exception as error:  # Any failure of a side is a result, and the other sides are still measured.
        reason = str(error).strip().split("\n")[0][:200].replace("|", "/")
        return report(Result(side, error=f"{type(error).__name__}: {reason}"))


def time_call(call: Callable[[], object], side: Side, sizes: Sizes) -> float:
    """Return the mean seconds of a call, after calls that load and compile kernels."""
    for _ in range(min(side.num_calls, 1 if sizes.is_small else 3)):
        call()
    synchronize()
    start, num_calls = time.perf_counter(), min(side.num_calls, sizes.num_steps)
    for _ in range(num_calls):
        call()
    synchronize()
    return (time.perf_counter() - start) / num_calls


def report(result: Result) -> Result:
    """Print the figures of a side."""
    figures = result.error or f"{result.seconds * 1e3:.0f} ms, {result.side.num_passages / result.seconds:,.0f}/s"
    print(f"{result.side.name}: {figures}", flush=True)
    return result


def format_table(title: str, results: list[Result], peak: float) -> list[str]:
    """Return the table of a section."""
    lines = [
        f"\n## {title}\n",
        "| side | ms | passages/s | share of the peak | peak memory, GB |",
        "|---" * 5 + "|",
    ]
    for side, seconds, peak_bytes, error in results:
        if error:
            lines.append(f"| {side.name} | {error} | | | |")
            continue
        share = f"{side.operations / seconds / peak:.1%}" if side.operations else ""
        figures = f"{seconds * 1e3:,.0f} | {side.num_passages / seconds:,.0f} | {share} | {peak_bytes / 1e9:.1f}"
        lines.append(f"| {side.name} | {figures} |")
    return lines


def format_goals(results: dict[str, list[Result]], peak: float) -> list[str]:
    """Return the table of goals, each beside what was measured."""
    train, encode = (results[title] for title in list(results)[:2])
    whole, to_disk = find_speed(train, "dpr-text, compiled"), find_speed(encode, "dpr-text, to disk")
    slower = find_speed(train, "dpr-text, plain") / find_speed(train, "dpr-text, chunks")
    goals = [
        ("training with compiled layers: share of the peak", find_share(train, "dpr-text, compiled", peak), 0.38),
        ("forward: share of the peak", find_share(encode, "dpr-text, forward", peak), 0.50),
        ("encoding to disk: passages/s", to_disk, 10_000),
        ("training: times sentence-transformers", whole / find_speed(train, "sentence-transformers"), 2),
        ("encoding: times sentence-transformers", to_disk / find_speed(encode, "sentence-transformers"), 2),
    ]
    lines = ["\n## Goals\n", "| quantity | goal | found | reached |", "|---" * 4 + "|"]
    lines += [
        f"| {name} | at least {goal:,} | {value:,.2f} | {'yes' if value >= goal else 'no'} |"
        for name, value, goal in goals
    ]
    reached = "yes" if slower <= 1.45 else "no"
    return [*lines, f"| a step in chunks: times a plain step | at most 1.45 | {slower:.2f} | {reached} |"]


def find_speed(results: list[Result], name: str) -> float:
    """Return the passages per second of the fastest side whose name begins so. Without one, return NaN."""
    found = [result for result in results if result.side.name.startswith(name) and not result.error]
    return max((result.side.num_passages / result.seconds for result in found), default=math.nan)


def find_share(results: list[Result], name: str, peak: float) -> float:
    """Return the share of the peak speed of a side. Without it, return NaN."""
    found = [result for result in results if result.side.name.startswith(name) and not result.error]
    return max((result.side.operations / result.seconds / peak for result in found), default=math.nan)


def find_peak() -> tuple[float, str]:
    """Return the speed of bfloat16 products in FLOP/s, and a sentence about it. Unknown devices are measured."""
    size = 8192 if torch.cuda.is_available() else 256
    left, right = (torch.randn(size, size, dtype=torch.bfloat16) for _ in range(2))
    if torch.cuda.is_available():
        left, right = left.cuda(), right.cuda()
    for _ in range(3):
        _ = left @ right
    synchronize()
    start = time.perf_counter()
    for _ in range(10):
        _ = left @ right
    synchronize()
    measured = 10 * 2 * size**3 / (time.perf_counter() - start)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    peak = next((speed * 1e12 for model, speed in PEAKS.items() if model in name), measured)
    products = f"A product of two {size:,} x {size:,} matrices reaches {measured / 1e12:.3g} TFLOP/s."
    return peak, f"{name}. Peak in bfloat16: {peak / 1e12:.3g} TFLOP/s. {products}"


def describe_packages() -> str:
    """Return the versions of Python and of the measured libraries that are installed."""
    modules = {"torch": "torch", "transformers": "transformers", "sentence_transformers": "sentence-transformers"}
    return describe_versions(*(package for module, package in modules.items() if find_spec(module) is not None))


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free_memory() -> None:
    """Free the memory of the previous side, and forget its peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
