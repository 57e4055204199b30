"""Stages of a loop: commands, each in a folder named after all that decides its result."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import text
from examples.dpr.cli import UsageError, parse
from examples.dpr.config import DPRConfig
from examples.dpr.encode import EncodeConfig
from examples.dpr.evaluate import EvaluateConfig
from examples.dpr.mine import MineConfig
from examples.dpr.search import SearchConfig
from examples.dpr.windows import WindowsConfig
from text.artifacts import sha256, write_json
from text.errors import InterruptedRun

_ROOT = Path(__file__).parents[2]
CONFIGS = {
    "main": DPRConfig,
    "encode": EncodeConfig,
    "search": SearchConfig,
    "evaluate": EvaluateConfig,
    "mine": MineConfig,
    "windows": WindowsConfig,
}
_WRITES = {
    "main": "output_dir",
    "encode": "output_dir",
    "search": "run",
    "evaluate": "output_dir",
    "mine": "output",
    "windows": "output_dir",
}
"""The flag of a driver that says where its result goes."""


_READS = ("passages", "reuse", "tokenizer")
"""Flags that name a file or folder which no stage makes."""


class File(NamedTuple):
    """A file or folder, and what decides its content."""

    path: Path
    content: str
    """A hash of what is there already; the stage and the name of what a stage makes."""

    def __str__(self) -> str:
        return str(self.path)

    def part(self, name: str) -> File:
        """A file of this folder."""
        return File(self.path / name, f"{self.content}/{name}")


@cache
def external(path: str) -> File:
    """What no stage makes: a file, or a folder with all that is in it; read once."""
    if os.path.isfile(path):
        return File(Path(path), sha256(path))
    files = sorted(each for each in Path(path).rglob("*") if each.is_file())
    return File(Path(path), _hash([[each.relative_to(path).as_posix(), sha256(each)] for each in files]))


class Stage(NamedTuple):
    """A command, its folder, and what it makes there."""

    driver: str
    arguments: list[str]
    folder: Path
    result: File


def stage_of(driver: str, flags: Mapping[str, Any], parent: str | os.PathLike[str], makes: str = "") -> Stage:
    """A stage in a folder that is named after its flags, those that are not given too, and the content of its files.

    Args:
        driver: One of ``CONFIGS``.
        flags: Of the driver, other than where its result goes; files by themselves or in lists.
        parent: Where the folder is, or will be.
        makes: Name of the result in the folder; the folder itself, if empty.

    Raises:
        UsageError: The driver does not take the flags.
    """
    try:
        settings = asdict(parse(CONFIGS[driver], _spelled({**flags, _WRITES[driver]: makes or "folder"})))
    except ValueError as error:
        raise UsageError(f"flags of {driver}.py: {error}") from None
    read = {name: external(flags[name]) for name in _READS if flags.get(name) is not None}
    contents = {name: _content(value) for name, value in {**flags, **read}.items()}
    key = _hash([text.__version__, driver, makes, {**settings, **contents}])[:16]
    folder = Path(parent, f"{driver}-{key}")
    arguments = _spelled({**flags, _WRITES[driver]: folder / makes})
    return Stage(driver, arguments, folder, File(folder / makes, f"{folder.name}/{makes}"))


def do(stage: Stage, title: str) -> None:
    """Runs the command, unless it has run to its end before; a training goes on from its last checkpoint.

    Raises:
        SystemExit: The command failed, with its exit code.
        InterruptedRun: A signal came; the command has had one, too, and has ended.
    """
    done = stage.folder / "done.json"
    if done.is_file():
        print(f"== {title}: {stage.folder} is there", flush=True)
        return
    command = [sys.executable, str(_ROOT / f"examples/dpr/{stage.driver}.py"), *stage.arguments, *_going_on(stage)]
    print(f"== {title}: {shlex.join(command[1:])}", flush=True)
    started = time.monotonic()
    # A training knows three signals: if the whole job was sent one, this is no second of its kind.
    if code := _call(command, signal.SIGUSR1 if stage.driver == "main" else signal.SIGTERM):
        print(f"{title}: {stage.driver}.py ended with {code}; the same command tries again from there", file=sys.stderr)
        raise SystemExit(code if code > 0 else 128 - code)
    write_json(done, {"command": command, "seconds": round(time.monotonic() - started, 1)})


def _going_on(stage: Stage) -> list[str]:
    if stage.driver in ("encode", "evaluate"):  # go on, or replace, by themselves
        return []
    return ["--resume" if any(stage.folder.glob("checkpoints/*.ckpt")) else "--overwrite"]


def _call(command: list[str], to_stop: signal.Signals) -> int:
    """Exit code of a command, which can import this project wherever it is called."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    try:
        return process.wait()
    except InterruptedRun:
        process.send_signal(to_stop)
        process.wait()
        raise


def _spelled(flags: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={_word(value)}" for name, value in flags.items() if value is not None]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps([str(each) if isinstance(each, File) else each for each in value])
    return str(value) if isinstance(value, File | Path | str) else json.dumps(value)


def _content(value: Any) -> Any:
    """What decides a result, of a flag's value."""
    if isinstance(value, list):
        return [_content(each) for each in value]
    return value.content if isinstance(value, File) else value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
