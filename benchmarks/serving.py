"""Questions over loopback to serve.py: how many a second, how long each takes, and what answering together gains.

    pip install -e '.[test]' && PYTHONPATH=. python -m benchmarks.serving

The passages of squad_w100, encoded by all-MiniLM-L6-v2, and its questions, ten passages each. Clients ask, read the
answer, and ask the next question at once; they are one process, the server is another, on the same cores. Beside it
stands a second server that answers questions one by one (--max_batch=1); with most clients the two take turns, and what
counts is the median of the ratio within a round. Errors are replies other than 200, the
announced 503 apart. Memory is what is resident; the processor's time is that of the server, which other work on the
machine slows less than the clock. Writes benchmarks/results/serving-DATE.md.
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
from examples.dpr import encode
from text.datasets import read_questions

SQUAD = SHARED / "squad_w100"
CLIENTS = (1, 8, 64)
ROUNDS = 3
WARM_UP = 2.0
"""Seconds."""


class Load(NamedTuple):
    """What came of a number of clients."""

    seconds: float
    cpu_seconds: float
    """Of the server, all threads."""
    milliseconds: list[float]
    """Of each question that was answered."""
    statuses: Counter[int]
    mebibytes: tuple[float, float]
    """Before and after."""

    @property
    def per_second(self) -> float:
        return len(self.milliseconds) / self.seconds

    @property
    def cpu_milliseconds(self) -> float:
        """For each question."""
        return 1000 * self.cpu_seconds / self.statuses.total()


def joined(loads: Sequence[Load]) -> Load:
    """Rounds as one."""
    return Load(
        sum(load.seconds for load in loads),
        sum(load.cpu_seconds for load in loads),
        [each for load in loads for each in load.milliseconds],
        sum((load.statuses for load in loads), Counter[int]()),
        (loads[0].mebibytes[0], loads[-1].mebibytes[1]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="for each number of clients")
    parser.add_argument("--embeddings", help="made earlier, of the same passages; by default they are made first")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        embeddings = arguments.embeddings or encoded(folder)
        paths = [f"/search?{urlencode({'q': q.text})}" for q in read_questions(SQUAD / "test.qa.csv")]
        with server(embeddings) as (process, port), server(embeddings, "--max_batch=1") as (process_one, port_one):
            sides = {"together": (process, port), "one by one": (process_one, port_one)}
            few = {str(n): measured(process, port, n, paths, arguments.seconds) for n in CLIENTS[:-1]}
            rounds = [
                {name: measured(*side, CLIENTS[-1], paths, arguments.seconds / ROUNDS) for name, side in sides.items()}
                for _ in range(ROUNDS)
            ]
    many = {f"{CLIENTS[-1]}, {name}": joined([each[name] for each in rounds]) for name in sides}
    ratio = statistics.median(each["together"].per_second / each["one by one"].per_second for each in rounds)
    write_result("serving", report(few | many, ratio, arguments.seconds, len(paths)))


def encoded(folder: str) -> str:
    config = encode.EncodeConfig(
        model=str(minilm()), titles="join", collection=str(SQUAD / "passages.tsv"), output_dir=folder
    )
    encode.main(config)
    return folder


@contextmanager
def server(embeddings: str, *flags: str) -> Iterator[tuple[int, int]]:
    """The process of a server, and its port."""
    command = [sys.executable, "-W", "ignore", "examples/dpr/serve.py", f"--model={minilm()}"]
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


def measured(process: int, port: int, clients: int, paths: list[str], seconds: float) -> Load:
    asyncio.run(ask(port, clients, paths, WARM_UP))
    before, cpu_before, started = resident(process), cpu_seconds(process), time.perf_counter()
    replies = asyncio.run(ask(port, clients, paths, seconds))
    taken, cpu = time.perf_counter() - started, cpu_seconds(process) - cpu_before
    answered = [1000 * of_reply for status, of_reply in replies if status == 200]
    return Load(taken, cpu, answered, Counter(status for status, _ in replies), (before, resident(process)))


async def ask(port: int, clients: int, paths: list[str], seconds: float) -> list[tuple[int, float]]:
    """Status and seconds of each reply."""
    end = time.perf_counter() + seconds
    of_clients = (client(port, islice(cycle(paths), number * 31, None), end) for number in range(clients))
    return [reply for of_client in await asyncio.gather(*of_clients) for reply in of_client]


async def client(port: int, paths: Iterator[str], end: float) -> list[tuple[int, float]]:
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
    [kibibytes] = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(kibibytes) / 1024


def cpu_seconds(process: int) -> float:
    """In user and kernel mode, all threads."""
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
    of_cpu = one_by_one.cpu_milliseconds / together.cpu_milliseconds
    return "\n".join(
        [
            *lines,
            f"\nTogether is {ratio:.2f} times as many questions a second as one by one (median of {ROUNDS} rounds),",
            f"and one by one takes {of_cpu:.2f} times the processor's time.\n",
        ]
    )


if __name__ == "__main__":
    main()
