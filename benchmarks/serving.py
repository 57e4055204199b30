"""Measure ``dpr-text serve`` over loopback: questions per second, latency, and the gain of batches.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.serving

The collection is squad_w100, encoded by all-MiniLM-L6-v2. Its questions ask for ten passages each. Each client reads a
reply and asks its next question at once. All clients are one process, and the server is another one on the same cores.
A second server answers questions one by one (--max_batch=1). At the largest number of clients the two servers take
turns, and the result is the median of the ratio within a round. Replies other than 200 and 503 are errors. The CPU time
of the server is reported too, because other work on the machine slows it less than the clock. Memory is resident
memory. Writes benchmarks/results/serving-DATE.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import numpy as np
import torch

from benchmarks.encoder import SHARED, minilm
from benchmarks.report import hardware, versions, write_result
from text.datasets import read_questions
from text.retrieval import Embedder, encode_collection

SQUAD = SHARED / "squad_w100"
CLIENTS = (1, 8, 64)
ROUNDS = 3
WARM_UP = 2.0
"""Seconds of questions before each measurement."""


class Load(NamedTuple):
    """Measurement with one number of clients."""

    seconds: float
    cpu_seconds: float
    """CPU time of all threads of the server."""
    milliseconds: list[float]
    """Latency of each question with status 200."""
    statuses: Counter[int]
    """Number of replies by status."""
    mebibytes: tuple[float, float]
    """Resident memory of the server before and after."""

    @property
    def per_second(self) -> float:
        return len(self.milliseconds) / self.seconds

    @property
    def cpu_milliseconds(self) -> float:
        """CPU time for each question."""
        return 1000 * self.cpu_seconds / self.statuses.total()


def join_rounds(loads: Sequence[Load]) -> Load:
    """Return several rounds as one measurement."""
    return Load(
        sum(load.seconds for load in loads),
        sum(load.cpu_seconds for load in loads),
        [each for load in loads for each in load.milliseconds],
        sum((load.statuses for load in loads), Counter[int]()),
        (loads[0].mebibytes[0], loads[-1].mebibytes[1]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="seconds for each number of clients")
    parser.add_argument("--embeddings", help="earlier embeddings of the same passages; by default they are made first")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        embeddings = arguments.embeddings or encode_squad(folder)
        paths = [f"/search?{urlencode({'q': q.text})}" for q in read_questions(SQUAD / "test.qa.csv")]
        with (
            run_server(embeddings) as (process, port),
            run_server(embeddings, "--max_batch=1") as (process_one, port_one),
        ):
            sides = {"together": (process, port), "one by one": (process_one, port_one)}
            few = {str(n): measure(process, port, n, paths, arguments.seconds) for n in CLIENTS[:-1]}
            rounds = [
                {name: measure(*side, CLIENTS[-1], paths, arguments.seconds / ROUNDS) for name, side in sides.items()}
                for _ in range(ROUNDS)
            ]
    many = {f"{CLIENTS[-1]}, {name}": join_rounds([each[name] for each in rounds]) for name in sides}
    ratio = statistics.median(each["together"].per_second / each["one by one"].per_second for each in rounds)
    write_result("serving", report(few | many, ratio, arguments.seconds, len(paths)))


def encode_squad(folder: str) -> str:
    """Encode the passages of squad_w100 to a folder, and return the folder."""
    embedder = Embedder.from_pretrained(minilm(), "passage", titles="join")
    encode_collection(embedder, SQUAD / "passages.tsv", folder)
    return folder


@contextmanager
def run_server(embeddings: str, *flags: str) -> Iterator[tuple[int, int]]:
    """Start a server. Yield the id of its process and its port."""
    command = [sys.executable, "-W", "ignore", "-m", "text", "serve", f"--model={minilm()}"]
    with subprocess.Popen(
        [*command, f"--embeddings={embeddings}", "--device=cpu", "--port=0", *flags],
        env={**os.environ, "PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = re.search(r":(\d+)/$", process.stdout.readline().strip())
        assert found, "the server did not start"
        try:
            yield process.pid, int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)


def measure(process: int, port: int, clients: int, paths: list[str], seconds: float) -> Load:
    """Ask the server of a process with a number of clients."""
    asyncio.run(ask(port, clients, paths, WARM_UP))
    before, cpu_before, started = resident(process), cpu_seconds(process), time.perf_counter()
    replies = asyncio.run(ask(port, clients, paths, seconds))
    taken, cpu = time.perf_counter() - started, cpu_seconds(process) - cpu_before
    milliseconds = [1000 * latency for status, latency in replies if status == 200]
    return Load(taken, cpu, milliseconds, Counter(status for status, _ in replies), (before, resident(process)))


async def ask(port: int, clients: int, paths: list[str], seconds: float) -> list[tuple[int, float]]:
    """Return status and seconds of each reply to some clients."""
    end = time.perf_counter() + seconds
    running = (run_client(port, islice(cycle(paths), number * 31, None), end) for number in range(clients))
    return [reply for replies in await asyncio.gather(*running) for reply in replies]


async def run_client(port: int, paths: Iterator[str], end: float) -> list[tuple[int, float]]:
    replies = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (started := time.perf_counter()) < end:
        writer.write(f"GET {next(paths)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        [length] = re.findall(r"content-length: (\d+)", head)
        await reader.readexactly(int(length))
        replies.append((int(head.split()[1]), time.perf_counter() - started))
    writer.close()
    return replies


def resident(process: int) -> float:
    """Return the resident memory of a process in MiB."""
    [kibibytes] = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(kibibytes) / 1024


def cpu_seconds(process: int) -> float:
    """Return the CPU time of all threads of a process, in user and kernel mode."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def report(loads: dict[str, Load], ratio: float, seconds: float, num_questions: int) -> str:
    lines = [
        f"# Serving\n\n{hardware()}; {torch.get_num_threads()} threads. {versions('torch', 'fastapi', 'uvicorn')}.\n",
        f"{num_questions:,} questions of squad_w100, ten passages each; {seconds:.0f} s for each row.\n",
        "| clients | questions/s | p50 ms | p95 ms | CPU ms each | errors | 503 | MiB before | after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, load in loads.items():
        p50, p95 = np.percentile(load.milliseconds, [50, 95])
        errors = load.statuses.total() - load.statuses[200] - load.statuses[503]
        cells = [
            *(name, f"{load.per_second:,.0f}", f"{p50:,.0f}", f"{p95:,.0f}", f"{load.cpu_milliseconds:.1f}"),
            *(str(errors), str(load.statuses[503]), *(f"{size:,.0f}" for size in load.mebibytes)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    together, one_by_one = list(loads.values())[-2:]
    cpu_ratio = one_by_one.cpu_milliseconds / together.cpu_milliseconds
    return "\n".join(
        [
            *lines,
            f"\nBatches give {ratio:.2f} times the questions per second of one by one (median of {ROUNDS} rounds).",
            f"One by one takes {cpu_ratio:.2f} times as much CPU time for each question.\n",
        ]
    )


if __name__ == "__main__":
    main()
