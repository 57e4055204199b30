"""The installed command in an empty folder, for the tests of new users."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Command = Callable[..., str]
"""Function that takes command line arguments and returns the output of the command."""


def run_program(
    command: list[str], folder: Path, *, exit_code: int = 0, environment: Mapping[str, str] | None = None
) -> str:
    """Run a program in a folder and return its output.

    Args:
        command: Program and its arguments.
        folder: The working directory.
        exit_code: Expected exit code. If it is not 0, stderr is returned instead of stdout.
        environment: Environment variables to set.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=inherited | dict(environment or {}), capture_output=True, text=True, check=False
    )
    assert done.returncode == exit_code, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr if exit_code else done.stdout


@pytest.fixture
def dpr_text(tmp_path: Path) -> Command:
    """Return a function that runs the installed ``dpr-text`` in an empty folder."""
    program = str(Path(sys.executable).with_name("dpr-text"))
    return lambda *arguments, exit_code=0: run_program([program, *arguments], tmp_path, exit_code=exit_code)
