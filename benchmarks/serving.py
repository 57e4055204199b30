"""Measure ``dpr-text serve`` over loopback: questions per second, latency, and the speed-up of batching.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.serving

The collection is squad_w100, encoded with all-MiniLM-L6-v2. Each question asks for ten passages. A client sends its
next question as soon as it has read a response. All clients run in one process, and the server runs in another process
on the same cores. A second server answers questions one by one (--max_batch=1), and a third fuses the model with BM25.
At the largest number of clients, the first two servers take turns, and the result is the median of the ratios within
the rounds. With one client, the first and the third take turns, and the result is the median of the differences.
Responses other than 200 and 503 are errors. The page also reports the CPU time of the server, because other work on
the machine affects it less than wall-clock time. Memory is resident memory. The script writes
benchmarks/results/serving-DATE.md.
"""

from __future__ import annotations

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

from benchmarks.encoder import SHARED, find_minilm
from benchmarks.report import describe_hardware, describe_versions, make_parser, write_result
from text.datasets import read_questions
from text.retrieval import Embedder, encode_collection

SQUAD = SHARED / "squad_w100"
CLIENTS = (1, 8, 64)
ROUNDS = 3
WARM_UP = 2.0
"""Seconds of warm-up before each measurement."""


class Load(NamedTuple):
    """Measurement with one number of clients."""

    seconds: float
    cpu_seconds: float
    """CPU time of all threads of the server."""
    milliseconds: list[float]
    """Latency of each question with status 200."""
    statuses: Counter[int]
    """Number of responses by status."""
    mebibytes: tuple[float, float]
    """Resident memory of the server in MiB, before and after."""

    @property
    def per_second(self) -> float:
        """Questions answered per second."""
        return len(self.milliseconds) / self.seconds

    @property
    def cpu_milliseconds(self) -> float:
        """CPU time per question in milliseconds."""
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
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--seconds", type=float, default=30, help="Seconds of measurement per number of clients (default: %(default)s)."
    )
    parser.add_argument(
        "--embeddings",
        help="Folder of existing embeddings of squad_w100. By default, the script encodes the passages first.",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        embeddings = arguments.embeddings or encode_squad(folder)
        paths = [f"/search?{urlencode({'q': q.text})}" for q in read_questions(SQUAD / "test.qa.csv")]
        with (
            run_server(embeddings) as dense,
            run_server(embeddings, "--max_batch=1") as one,
            run_server(embeddings, "--bm25", "--fusion") as hybrid,
        ):
            alone = take_turns({"dense": dense, "hybrid": hybrid}, CLIENTS[0], paths, arguments.seconds)
            few = {str(n): measure_load(*dense, n, paths, arguments.seconds) for n in CLIENTS[1:-1]}
            many = take_turns({"together": dense, "one by one": one}, CLIENTS[-1], paths, arguments.seconds)
    write_result("serving", format_page(alone, few, many, arguments.seconds, len(paths)))


def take_turns(
    servers: dict[str, tuple[int, int]], clients: int, paths: list[str], seconds: float
) -> list[dict[str, Load]]:
    """Measure servers in turn for a number of rounds, and return the measurements of each round by server."""
    return [
        {name: measure_load(*server, clients, paths, seconds / ROUNDS) for name, server in servers.items()}
        for _ in range(ROUNDS)
    ]


def encode_squad(folder: str) -> str:
    """Encode the passages of squad_w100 into a folder. Return the folder."""
    embedder = Embedder.from_pretrained(find_minilm(), "passage", titles="join")
    encode_collection(embedder, SQUAD / "passages.tsv", folder)
    return folder


@contextmanager
def run_server(embeddings: str, *flags: str) -> Iterator[tuple[int, int]]:
    """Start a server. Yield its process id and its port."""
    command = [sys.executable, "-W", "ignore", "-m", "text", "serve", f"--model={find_minilm()}"]
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


def measure_load(process: int, port: int, clients: int, paths: list[str], seconds: float) -> Load:
    """Measure a server under the load of a number of clients, after a warm-up."""
    asyncio.run(ask_questions(port, clients, paths, WARM_UP))
    before, cpu_before, started = read_resident_memory(process), read_cpu_seconds(process), time.perf_counter()
    replies = asyncio.run(ask_questions(port, clients, paths, seconds))
    taken, cpu = time.perf_counter() - started, read_cpu_seconds(process) - cpu_before
    milliseconds = [1000 * latency for status, latency in replies if status == 200]
    return Load(
        taken, cpu, milliseconds, Counter(status for status, _ in replies), (before, read_resident_memory(process))
    )


async def ask_questions(port: int, clients: int, paths: list[str], seconds: float) -> list[tuple[int, float]]:
    """Return status and latency in seconds of each response to a number of clients."""
    end = time.perf_counter() + seconds
    running = (run_client(port, islice(cycle(paths), number * 31, None), end) for number in range(clients))
    return [reply for replies in await asyncio.gather(*running) for reply in replies]


async def run_client(port: int, paths: Iterator[str], end: float) -> list[tuple[int, float]]:
    """Send requests over one connection until the end time. Return status and latency of each response."""
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


def read_resident_memory(process: int) -> float:
    """Return the resident memory of a process in MiB."""
    [kibibytes] = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(kibibytes) / 1024


def read_cpu_seconds(process: int) -> float:
    """Return the CPU time of all threads of a process, in user and kernel mode."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def format_page(
    alone: list[dict[str, Load]], few: dict[str, Load], many: list[dict[str, Load]], seconds: float, num_questions: int
) -> str:
    """Return the page of results.

    Args:
        alone: Rounds with one client, dense and hybrid.
        few: Measurements by number of clients.
        many: Rounds with many clients, questions together and one by one.
        seconds: Seconds of each row.
        num_questions: Number of distinct questions.
    """
    lines = [
        f"# Serving\n\n{describe_hardware()}; {torch.get_num_threads()} threads. "
        f"{describe_versions('torch', 'fastapi', 'uvicorn')}.\n",
        f"{num_questions:,} questions of squad_w100, ten passages each; {seconds:.0f} s per row.\n",
        "| clients | questions/s | p50 ms | p95 ms | CPU ms per question | errors | 503 | MiB before | after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, load in (join_turns(alone, CLIENTS[0]) | few | join_turns(many, CLIENTS[-1])).items():
        p50, p95 = np.percentile(load.milliseconds, [50, 95])
        errors = load.statuses.total() - load.statuses[200] - load.statuses[503]
        cells = [
            *(name, f"{load.per_second:,.0f}", f"{p50:,.0f}", f"{p95:,.0f}", f"{load.cpu_milliseconds:.1f}"),
            *(str(errors), str(load.statuses[503]), *(f"{size:,.0f}" for size in load.mebibytes)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    added = [np.median(each["hybrid"].milliseconds) - np.median(each["dense"].milliseconds) for each in alone]
    added_cpu = [each["hybrid"].cpu_milliseconds - each["dense"].cpu_milliseconds for each in alone]
    ratios = [each["together"].per_second / each["one by one"].per_second for each in many]
    cpu_ratios = [each["one by one"].cpu_milliseconds / each["together"].cpu_milliseconds for each in many]
    return "\n".join(
        [
            *lines,
            f"\nMedians of {ROUNDS} rounds: hybrid search takes {statistics.median(added):.1f} ms more a question, and "
            f"{statistics.median(added_cpu):.1f} ms more CPU time. "
            f"Batching gives {statistics.median(ratios):.2f} times as many questions per second. "
            f"Without it, a question takes {statistics.median(cpu_ratios):.2f} times as much CPU time.\n",
        ]
    )


def join_turns(rounds: list[dict[str, Load]], clients: int) -> dict[str, Load]:
    """Return the rounds of each server as one measurement, by number of clients and server."""
    return {f"{clients}, {name}": join_rounds([each[name] for each in rounds]) for name in rounds[0]}


if __name__ == "__main__":
    main()
