"""Stages of a loop: commands of ``dpr-text``, each in a folder named after everything that decides its result.

A complete stage has ``done.json`` with the size and SHA-256 of its files, and only files that still have them are used.
The name of a folder holds the content of what the stage reads: another model gives other folders to all later stages.

This module knows no flags of a command. The caller gives a function that turns the arguments of a command into the
values of all its flags.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import text
from text.artifacts import FileFacts, check_listed, hash_json, list_facts, read_json, read_sealed, seal, write_json
from text.errors import ArtifactError, InterruptedRun, UsageError
from text.runs.tracked import TrackedFile

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


_PASSED_OVER = {"train": ("checkpoints", "tensorboard", "report.html", "manifest.json")}
"""What the stages of a command leave that no later stage reads. It may be removed or written again."""


_WITHOUT_EFFECT = {"encode": ("gpus",)}
"""Flags of commands that change no byte of the result, so that the name of a stage's folder leaves them out."""


class Done(NamedTuple):
    """Content of ``done.json``."""

    command: list[str]
    seconds: float
    files: dict[str, FileFacts]
    """The files of the stage, relative to its folder."""


class Stage(NamedTuple):
    """A command with its arguments, its folder and its result."""

    command: str
    arguments: list[str]
    folder: Path
    result: TrackedFile
    settings: Mapping[str, Any]
    """The value of every flag of the command."""
    inputs: Sequence[TrackedFile] = ()
    """What the command reads."""


def resolve_arguments(resolve_settings: ResolveSettings, command: str, arguments: Arguments) -> Mapping[str, Any]:
    """Return the value of every flag of a command.

    Raises:
        UsageError: The command does not take the arguments.
    """
    try:
        return resolve_settings(command, spell_arguments(arguments))
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
    given = {name: TrackedFile.read(path) for name in _INPUTS if isinstance(path := arguments.get(name), str)}
    inputs = _find_inputs([*arguments.values(), *given.values()])
    keys = {name: key for name, value in {**arguments, **given}.items() if (key := _key(value)) != value}
    left_out = _WITHOUT_EFFECT.get(command, ())
    decisive = {name: value for name, value in {**settings, **keys}.items() if name not in left_out}
    folder = Path(parent, f"{command}-{hash_json([text.__version__, command, result, decisive])[:16]}")
    spelled = spell_arguments({**arguments, _OUTPUT[command]: folder / result})
    return Stage(command, spelled, folder, _find_result(folder, result), settings, inputs)


def is_complete(stage: Stage) -> bool:
    """Return whether the stage was run to its end before. Its files have the sizes that they had.

    Raises:
        ArtifactError: As ``run_stage``.
    """
    return _read_result(stage, check_hashes=False) is not None


def has_stages(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a complete stage of a loop."""
    return any(Path(folder).glob(f"*-{'[0-9a-f]' * 16}/{_DONE}"))


def run_stage(stage: Stage, title: str) -> TrackedFile:
    """Run the command of a stage, unless it has ended before, and return its result.

    Training resumes from its last checkpoint.

    Raises:
        ArtifactError: A file of a complete stage is damaged. Or a file that the stage reads changed while the loop ran.
        SystemExit: The command failed. The exit code is the command's.
        InterruptedRun: A signal came. The command has received one too and has ended.
    """
    if (result := _read_result(stage, check_hashes=True)) is not None:
        print(f"== {title}: {stage.folder} is there", flush=True)
        return result
    for each in stage.inputs:
        each.check_unchanged()
    (stage.folder / _DONE).unlink(missing_ok=True)  # An earlier version wrote it.
    command = [stage.command, *stage.arguments, *_continue_arguments(stage)]
    print(f"== {title}: dpr-text {shlex.join(command)}", flush=True)
    started = time.monotonic()
    # A second SIGTERM stops training at once. If the first one went to all processes, only another signal lets it save.
    stop_signal = signal.SIGUSR1 if stage.command == "train" else signal.SIGTERM
    if code := _call([sys.executable, "-m", "dpr_text", *command], stop_signal):
        message = f"{stage.command} ended with exit code {code}. Run the same command again to continue from there."
        print(f"{title}: {message}", file=sys.stderr)
        raise SystemExit(to_exit_code(code))
    for each in stage.inputs:
        each.check_unchanged()
    return write_done(stage, ["dpr-text", *command], round(time.monotonic() - started, 1))


def write_done(stage: Stage, command: list[str], seconds: float) -> TrackedFile:
    """Say that a stage is complete, and return its result.

    Args:
        stage: Its folder holds the files that its command has written.
        command: The command line.
        seconds: That it took.

    Raises:
        ArtifactError: The result is missing.
    """
    files = list_facts(stage.folder, _list_files(stage))
    result = _track(stage.folder, stage.result.path, files)
    write_json(stage.folder / _DONE, seal(Done(command, seconds, files)))
    return result


def _find_result(folder: Path, result: str) -> TrackedFile:
    """Return the result of a stage by its content if the stage is complete, or else by its name."""
    done = _read_done(folder)
    return (
        TrackedFile(folder / result, f"{folder.name}/{result}")
        if done is None
        else _track(folder, folder / result, done.files)
    )


def _read_result(stage: Stage, *, check_hashes: bool) -> TrackedFile | None:
    """Return the result of a complete stage after a look at its files. None if the stage is not complete."""
    done = _read_done(stage.folder)
    if done is None:
        return None
    try:
        check_listed(stage.folder, done.files, check_hashes=check_hashes)
    except ArtifactError as error:
        raise ArtifactError(f"{error} To run this stage of the loop again, remove {stage.folder}.") from None
    return _track(stage.folder, stage.result.path, done.files)


def _read_done(folder: Path) -> Done | None:
    """Return the content of ``done.json``. None without it, and if an earlier version wrote it, without facts.

    Raises:
        ArtifactError: The file is damaged.
    """
    path = folder / _DONE
    if not os.path.lexists(path):
        return None
    try:
        if read_json(path, dict[str, Any]).keys() == {"command", "seconds"}:
            return None
        return read_sealed(path, Done)
    except ArtifactError as error:
        raise ArtifactError(f"{error} To run this stage of the loop again, remove {folder}.") from None


def _track(folder: Path, result: Path, files: Mapping[str, FileFacts]) -> TrackedFile:
    """Return the result of a stage by the facts of its files."""
    whole = TrackedFile.of_facts(folder, files)
    return whole if result == folder else whole.part(result.relative_to(folder).as_posix())


def _list_files(stage: Stage) -> list[Path]:
    """Return the files of a stage that later stages may read. Hidden files, such as locks and caches, are left out."""
    left_out = (_DONE, *_PASSED_OVER.get(stage.command, ()))
    found = (path for path in stage.folder.rglob("*") if path.is_file())
    parts = {path: path.relative_to(stage.folder).parts for path in found}
    return [
        path for path, each in parts.items() if each[0] not in left_out and not any(n.startswith(".") for n in each)
    ]


def _find_inputs(values: Sequence[Any]) -> list[TrackedFile]:
    """Return the files among the values of arguments, also those in lists."""
    each = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in each if isinstance(item, TrackedFile)]


def _continue_arguments(stage: Stage) -> list[str]:
    """Return the flags that let a command continue, or replace, what an interrupted one has left."""
    if stage.command == "encode":  # It does so without a flag.
        return []
    return ["--resume" if any(stage.folder.glob("checkpoints/*.ckpt")) else "--overwrite"]


def _call(command: list[str], stop_signal: signal.Signals) -> int:
    """Return the exit code of a command, which can import this package in any working directory.

    If this process is interrupted, the command gets ``stop_signal`` and this process waits for its end.
    """
    process = subprocess.Popen(command, env=build_environment())
    try:
        return process.wait()
    except InterruptedRun:
        process.send_signal(stop_signal)
        process.wait()
        raise


def build_environment() -> dict[str, str]:
    """Return the variables with which ``python -m dpr_text`` runs this package in any working directory."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def to_exit_code(returncode: int) -> int:
    """Return the exit code of a process as a shell has it: 128 and the signal's number if a signal ended it.

    >>> to_exit_code(3), to_exit_code(-9)
    (3, 137)
    """
    return returncode if returncode >= 0 else 128 - returncode


def spell_arguments(arguments: Arguments) -> list[str]:
    """Return flags as a command line has them. Values that are None are left out."""
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
