"""Stages of a loop: commands of ``dpr-text``, each in a folder named after everything that decides its result.

This module knows no flags of a command. The caller gives a function that turns the arguments of a command into the
values of all its flags.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import text
from text.artifacts import sha256, write_json
from text.errors import InterruptedRun, UsageError

Arguments = Mapping[str, Any]
"""Flags of a command that are given, with their values."""
ResolveSettings = Callable[[str, Sequence[str]], Mapping[str, Any]]
"""Return the value of every flag of a command, by the command's name and its arguments."""

_ROOT = Path(text.__file__).resolve().parents[1]
_OUTPUT = {
    "train": "output_dir",
    "encode": "output_dir",
    "search": "run",
    "evaluate": "output_dir",
    "mine": "output",
    "windows": "output_dir",
}
"""The flag of each command that names its result."""
_DONE = "done.json"
"""File in the folder of a complete stage."""
_INPUTS = ("collection", "reuse", "tokenizer")
"""Flags that name a file or folder which the user may give. Its content decides the result."""


@cache
def hash_path(path: str | os.PathLike[str]) -> str:
    """Return a hash of a file, or of a folder with all its files. Each path is read once in a process."""
    if os.path.isfile(path):
        return sha256(path)
    files = sorted(each for each in Path(path).rglob("*") if each.is_file())
    return _hash_json([[each.relative_to(path).as_posix(), sha256(each)] for each in files])


class TrackedFile(NamedTuple):
    """A file or folder, and what decides its content."""

    path: Path
    key: str
    """A hash of the content if the file exists before the loop; the stage and the name of a file that a stage makes."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TrackedFile:
        """Return a file or folder that exists before the loop."""
        return cls(Path(path), hash_path(path))

    def __str__(self) -> str:
        return str(self.path)

    def part(self, name: str) -> TrackedFile:
        """Return a file of this folder."""
        return TrackedFile(self.path / name, f"{self.key}/{name}")


class Stage(NamedTuple):
    """A command with its arguments, its folder and its result."""

    command: str
    arguments: list[str]
    folder: Path
    result: TrackedFile
    settings: Mapping[str, Any]
    """The value of every flag of the command."""


def resolve_arguments(resolve_settings: ResolveSettings, command: str, arguments: Arguments) -> Mapping[str, Any]:
    """Return the value of every flag of a command.

    Raises:
        UsageError: The command does not take the arguments.
    """
    try:
        return resolve_settings(command, _spell_arguments(arguments))
    except ValueError as error:
        raise UsageError(f"flags of {command}: {error}") from None


def plan_stage(
    command: str,
    arguments: Arguments,
    parent: str | os.PathLike[str],
    result: str = "",
    *,
    resolve_settings: ResolveSettings,
) -> Stage:
    """Return a stage. Its folder is named after all flags of the command, default values included, and its inputs.

    Args:
        command: train, encode, search, evaluate, mine or windows.
        arguments: Flags of the command, without the flag that names the result. An input is a ``TrackedFile``, alone or
            in a list.
        parent: Folder that holds the stage's folder. It need not exist.
        result: Name of the result in the stage's folder. If it is empty, the folder itself is the result.
        resolve_settings: Returns the value of every flag.

    Raises:
        UsageError: The command does not take the arguments.
    """
    # The name of the folder is not known yet. Any value stands for it.
    settings = resolve_arguments(resolve_settings, command, {**arguments, _OUTPUT[command]: result or "folder"})
    keys = {name: key for name, value in arguments.items() if (key := _key(value)) != value}
    keys |= {name: hash_path(path) for name in _INPUTS if isinstance(path := arguments.get(name), str)}
    decisive = [text.__version__, command, result, {**settings, **keys}]
    folder = Path(parent, f"{command}-{_hash_json(decisive)[:16]}")
    spelled = _spell_arguments({**arguments, _OUTPUT[command]: folder / result})
    return Stage(command, spelled, folder, TrackedFile(folder / result, f"{folder.name}/{result}"), settings)


def is_complete(stage: Stage) -> bool:
    """Return whether the stage was run to its end before."""
    return (stage.folder / _DONE).is_file()


def run_stage(stage: Stage, title: str) -> None:
    """Run the command of a stage, unless it has ended before. Training resumes from its last checkpoint.

    Raises:
        SystemExit: The command failed. The exit code is the command's.
        InterruptedRun: A signal came. The command has received one too and has ended.
    """
    if is_complete(stage):
        print(f"== {title}: {stage.folder} is there", flush=True)
        return
    command = [stage.command, *stage.arguments, *_continue_arguments(stage)]
    print(f"== {title}: dpr-text {shlex.join(command)}", flush=True)
    started = time.monotonic()
    # A second SIGTERM stops training at once. If the first one went to all processes, only another signal lets it save.
    stop_signal = signal.SIGUSR1 if stage.command == "train" else signal.SIGTERM
    if code := _call([sys.executable, "-m", "text", *command], stop_signal):
        message = f"{stage.command} ended with exit code {code}. Run the same command again to continue from there."
        print(f"{title}: {message}", file=sys.stderr)
        raise SystemExit(code if code > 0 else 128 - code)
    write_json(
        stage.folder / _DONE, {"command": ["dpr-text", *command], "seconds": round(time.monotonic() - started, 1)}
    )


def _continue_arguments(stage: Stage) -> list[str]:
    """Return the flags that let a command continue, or replace, what an interrupted one has left."""
    if stage.command in ("encode", "evaluate"):  # They do so without a flag.
        return []
    return ["--resume" if any(stage.folder.glob("checkpoints/*.ckpt")) else "--overwrite"]


def _call(command: list[str], stop_signal: signal.Signals) -> int:
    """Return the exit code of a command, which can import this package in any working directory.

    If this process is interrupted, the command gets ``stop_signal`` and this process waits for its end.
    """
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Without PYTHONSAFEPATH, ``-m text`` would prefer a package of that name in the working directory.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except InterruptedRun:
        process.send_signal(stop_signal)
        process.wait()
        raise


def _spell_arguments(arguments: Arguments) -> list[str]:
    return [f"--{name}={_spell(value)}" for name, value in arguments.items() if value is not None]


def _spell(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps([str(each) if isinstance(each, TrackedFile) else each for each in value])
    return str(value) if isinstance(value, TrackedFile | Path | str) else json.dumps(value)


def _key(value: Any) -> Any:
    """Return what decides a result: the key of a file, or the value itself."""
    if isinstance(value, list):
        return [_key(each) for each in value]
    return value.key if isinstance(value, TrackedFile) else value


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
