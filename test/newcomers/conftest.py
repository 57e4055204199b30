"""What the three kinds of new users share: the installed command, called in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Command = Callable[..., str]
"""Takes the arguments of a command line and returns what it prints."""


def call(command: list[str], folder: Path, *, exit_code: int = 0, environment: Mapping[str, str] | None = None) -> str:
    """Run a command in a folder and return what it prints.

    Args:
        command: The program and its arguments.
        folder: The working directory.
        exit_code: What the command must end with. After an error its line on stderr is returned.
        environment: Variables to set.
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
    """The command ``dpr-text`` of the running environment, in an empty folder."""
    program = str(Path(sys.executable).with_name("dpr-text"))
    return lambda *arguments, exit_code=0: call([program, *arguments], tmp_path, exit_code=exit_code)
