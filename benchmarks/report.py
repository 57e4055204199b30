"""Parts of all benchmarks: the argument parser, and result files with hardware, versions and a dated name."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def make_parser(description: str | None, *, rounds: int | None = None) -> argparse.ArgumentParser:
    """Return a parser that prints the description as written. With ``rounds``, it has the flag --rounds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help="Rounds in which all sides take turns (default: %(default)s)."
        )
    return parser


def describe_hardware() -> str:
    """Return processor, cores and memory in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB of memory; {platform.system()}"


def describe_versions(*packages: str) -> str:
    """Return the versions of Python and of packages in one line."""
    found = (f"{package} {importlib.metadata.version(package)}" for package in packages)
    return ", ".join([f"Python {platform.python_version()}", *found])


def fill_page_cache(path: str) -> None:
    """Read a file once, so that the speed of the disk does not affect the measurement."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def run_side(module: str, side: str, file: str) -> dict[str, Any]:
    """Measure one side of a benchmark in a separate process, with its file in the page cache.

    Args:
        module: Module of the benchmark, whose --side and --file print the figures as JSON.
        side: Name of the side.
        file: Input of the side.
    """
    fill_page_cache(file)
    command = [sys.executable, "-m", module, f"--side={side}", f"--file={file}"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def write_result(name: str, page: str) -> None:
    """Print the page and write it to ``results/NAME-DATE.md`` with today's date."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{datetime.date.today().isoformat()}.md"
    path.write_text(page, encoding="utf-8")
    print(f"\n{page}\n{path}")
