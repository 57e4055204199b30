"""Run one command in several processes like torchrun, but keep the command's own messages and exit codes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from text.runs.stages import build_environment, to_exit_code

_POLL_SECONDS = 0.05
"""Interval for polling the processes."""


def run_ranks(arguments: Sequence[str], num_ranks: int) -> None:
    """Run ``dpr-text`` in several processes, with the environment variables of torchrun.

    If one process fails or this process is interrupted, all processes are killed.

    Args:
        arguments: Name of the command and its flags. Killing the command at any time must not corrupt its output.
        num_ranks: Number of processes.

    Raises:
        SystemExit: A process failed. The exit code is that of the failed process.
        InterruptedRun: A signal stopped this process.
    """
    ranks = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_find_port())}
    command = [sys.executable, "-m", "dpr_text", *arguments]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(num_ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env={**build_environment(), **ranks, **own}))
        while any(process.poll() is None for process in processes):
            _check_ended(processes)
            time.sleep(_POLL_SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    _check_ended(processes)


def _check_ended(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Raise SystemExit with the exit code of the first failed process, if any."""
    if failed := [process.returncode for process in processes if process.poll()]:
        raise SystemExit(to_exit_code(failed[0]))


def _find_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
