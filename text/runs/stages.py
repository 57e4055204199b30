"""Stages of a loop. A stage is a ``dpr-text`` command in a folder that is named by a hash of its settings and inputs.

A complete stage has ``done.json`` with the size and SHA-256 of its files. Only files that still match are used. Because
the hash covers the content of the inputs, a different model gives all later stages different folders.

This module does not know the flags of a command. The caller passes a function that returns the values of all flags for
the arguments of a command.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import text
from text.artifacts import (
    FileFacts,
    check_listed,
    check_writable,
    hash_json,
    list_facts,
    read_json,
    read_sealed,
    seal,
    write_json,
)
from text.errors import ArtifactError, InterruptedRun, UsageError
from text.runs.tracked import TrackedFile

Arguments = Mapping[str, Any]
"""Values of the flags that are passed to a command, by flag."""
ResolveSettings = Callable[[str, Sequence[str]], Mapping[str, Any]]
"""Function from the name and arguments of a command to the values of all its flags."""

_ROOT = Path(text.__file__).resolve().parents[1]
_OUTPUT = {
    "train": "output_dir",
    "encode": "output_dir",
    "search": "run",
    "evaluate": "output_dir",
    "mine": "output",
    "score": "output",
    "windows": "output_dir",
}
"""Flag of each command that names its output."""
_DONE = "done.json"
"""File that marks the folder of a complete stage."""
_INPUTS = ("collection", "reuse", "tokenizer")
"""Flags with a file or folder of the user. Its content is part of the hash."""
_UNLISTED_FILES = {
    "train": ("checkpoints", "tensorboard", "wandb", "mlflow", "loggers.json", "report.html", "manifest.json")
}
"""Files of a command that no later stage reads. They may be removed or rewritten."""
_HARDWARE_FLAGS = {"encode": ("gpus",), "train": ("gpus",)}
"""Flags that choose the hardware."""
_UNHASHED_FLAGS = {**_HARDWARE_FLAGS, "train": ("gpus", "logger"), "search": ("bm25_index",)}
"""Flags that do not change the result. The hash in a folder's name excludes them."""


class StageRecord(NamedTuple):
    """Content of ``done.json``."""

    command: list[str]
    seconds: float
    files: dict[str, FileFacts]
    """Facts of the stage's files, by path relative to its folder."""


class Stage(NamedTuple):
    """A command with its arguments, folder and result."""

    command: str
    arguments: list[str]
    folder: Path
    result: TrackedFile
    settings: Mapping[str, Any]
    """Values of all flags of the command."""
    inputs: Sequence[TrackedFile] = ()
    """Input files of the command."""


def resolve_arguments(resolve_settings: ResolveSettings, command: str, arguments: Arguments) -> Mapping[str, Any]:
    """Return the values of all flags of a command.

    Raises:
        UsageError: The command does not accept the arguments.
    """
    try:
        return resolve_settings(command, format_arguments(arguments))
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
    """Build a stage. Its folder is named by a hash of its inputs and of all flags that change the result.

    Args:
        command: A key of ``_OUTPUT``, such as train.
        arguments: Flags of the command, without the flag that names the output. An input is a ``TrackedFile``, alone or
            in a list.
        parent: Parent of the stage's folder. It need not exist.
        result: Name of the result in the stage's folder. If it is empty, the folder itself is the result.
        resolve_settings: Function that returns the values of all flags.

    Raises:
        UsageError: The command does not accept the arguments.
    """
    # The name of the folder is not known yet, so a placeholder is used.
    settings = resolve_arguments(resolve_settings, command, {**arguments, _OUTPUT[command]: result or "folder"})
    given = {name: TrackedFile.read(path) for name in _INPUTS if isinstance(path := arguments.get(name), str)}
    inputs = _find_inputs([*arguments.values(), *given.values()])
    keys = {name: key for name, value in {**arguments, **given}.items() if (key := _get_key(value)) != value}
    excluded = _UNHASHED_FLAGS.get(command, ())
    hashed = {name: value for name, value in {**settings, **keys}.items() if name not in excluded}
    folder = Path(parent, f"{command}-{hash_json([text.__version__, command, result, hashed])[:16]}")
    formatted = format_arguments({**arguments, _OUTPUT[command]: folder / result})
    return Stage(command, formatted, folder, _find_result(folder, result), settings, inputs)


def is_complete(stage: Stage) -> bool:
    """Return whether a stage has already finished. Only the sizes of its files are checked.

    Raises:
        ArtifactError: A file of a complete stage is damaged.
    """
    return _read_result(stage, check_hashes=False) is not None


def read_seconds(stage: Stage) -> float:
    """Return the run time of a complete stage, in seconds."""
    done = _read_done(stage.folder)
    return 0.0 if done is None else done.seconds


def has_stages(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a complete stage of a loop."""
    return any(Path(folder).glob(f"*-{'[0-9a-f]' * 16}/{_DONE}"))


def check_report(folder: str | os.PathLike[str], names: Iterable[str], kind: str) -> None:
    """Check that a report can be written and replaces only an earlier report on the stages of the same folder.

    Args:
        folder: Folder of the stages.
        names: Names of the report's files.
        kind: What the stages belong to, such as "loop", for error messages.

    Raises:
        FileExistsError: A file exists, but the folder has no complete stage.
        UsageError, OSError: A file cannot be written, see ``check_writable``.
    """
    for path in (Path(folder, name) for name in names):
        check_writable(path, overwrite=True)
        if path.exists() and not has_stages(folder):
            raise FileExistsError(
                f"{path} already exists, but its folder has no stage of a {kind}. Move it, or choose another folder."
            )


def run_stage(stage: Stage, title: str, num_gpus: int = 0) -> TrackedFile:
    """Run the command of a stage unless the stage is complete, and return the result.

    Interrupted training resumes from its last checkpoint.

    Args:
        stage: The stage.
        title: Name of the stage in messages.
        num_gpus: Number of GPUs of this machine. Training and encoding use all of them unless the stage names its
            number of GPUs or its device.

    Raises:
        ArtifactError: A file of a complete stage is damaged, or an input changed while the loop ran.
        SystemExit: The command failed. The exit code is that of the command.
        InterruptedRun: A signal arrived. The command was signalled too and has ended.
    """
    if (result := _read_result(stage, check_hashes=True)) is not None:
        print(f"== {title}: already complete in {stage.folder}", flush=True)
        return result
    for each in stage.inputs:
        each.check_unchanged()
    (stage.folder / _DONE).unlink(missing_ok=True)  # An earlier version may have written this file.
    command = [stage.command, *stage.arguments, *_get_gpu_flags(stage, num_gpus), *_get_restart_flags(stage)]
    print(f"== {title}: dpr-text {shlex.join(command)}", flush=True)
    started = time.monotonic()
    # Training ends without a checkpoint at its second SIGTERM. The first one may have gone to all processes, so
    # training gets SIGUSR1 instead.
    stop_signal = signal.SIGUSR1 if stage.command == "train" else signal.SIGTERM
    if code := _run_command([sys.executable, "-m", "dpr_text", *command], stop_signal):
        message = f"{stage.command} failed with exit code {code}. Run the same command again to continue from here."
        print(f"{title}: {message}", file=sys.stderr)
        raise SystemExit(to_exit_code(code))
    for each in stage.inputs:
        each.check_unchanged()
    return write_done(stage, ["dpr-text", *command], round(time.monotonic() - started, 1))


def write_done(stage: Stage, command: list[str], seconds: float) -> TrackedFile:
    """Write ``done.json``, which marks a stage as complete, and return the result of the stage.

    Args:
        stage: A stage whose command has written its files.
        command: The command line.
        seconds: Run time of the command in seconds.

    Raises:
        ArtifactError: The result is missing.
    """
    files = list_facts(stage.folder, _list_files(stage))
    result = _track(stage.folder, stage.result.path, files)
    write_json(stage.folder / _DONE, seal(StageRecord(command, seconds, files)))
    return result


def _find_result(folder: Path, result: str) -> TrackedFile:
    """Return the result of a stage, identified by content if the stage is complete and by name otherwise."""
    done = _read_done(folder)
    return (
        TrackedFile(folder / result, f"{folder.name}/{result}")
        if done is None
        else _track(folder, folder / result, done.files)
    )


def _read_result(stage: Stage, *, check_hashes: bool) -> TrackedFile | None:
    """Return the result of a complete stage after a check of its files. None if the stage is not complete."""
    done = _read_done(stage.folder)
    if done is None:
        return None
    try:
        check_listed(stage.folder, done.files, check_hashes=check_hashes)
    except ArtifactError as error:
        raise ArtifactError(f"{error} To run this stage of the loop again, remove {stage.folder}.") from None
    return _track(stage.folder, stage.result.path, done.files)


def _read_done(folder: Path) -> StageRecord | None:
    """Return the content of ``done.json``. None if it is missing, or if an earlier version wrote it without facts.

    Raises:
        ArtifactError: The file is damaged.
    """
    path = folder / _DONE
    if not os.path.lexists(path):
        return None
    try:
        if read_json(path, dict[str, Any]).keys() == {"command", "seconds"}:
            return None
        return read_sealed(path, StageRecord)
    except ArtifactError as error:
        raise ArtifactError(f"{error} To run this stage of the loop again, remove {folder}.") from None


def _track(folder: Path, result: Path, files: Mapping[str, FileFacts]) -> TrackedFile:
    """Return the result of a stage, identified by the facts of its files."""
    whole = TrackedFile.from_facts(folder, files)
    return whole if result == folder else whole.get_part(result.relative_to(folder).as_posix())


def _list_files(stage: Stage) -> list[Path]:
    """Return the files of a stage that later stages may read. Hidden files, such as locks and caches, are excluded."""
    excluded = (_DONE, *_UNLISTED_FILES.get(stage.command, ()))
    found = (path for path in stage.folder.rglob("*") if path.is_file())
    parts = {path: path.relative_to(stage.folder).parts for path in found}
    return [
        path for path, each in parts.items() if each[0] not in excluded and not any(n.startswith(".") for n in each)
    ]


def _find_inputs(values: Sequence[Any]) -> list[TrackedFile]:
    """Return all tracked files in the values of arguments, including lists."""
    each = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in each if isinstance(item, TrackedFile)]


def _get_restart_flags(stage: Stage) -> list[str]:
    """Return the flags with which a command continues or replaces the files of an interrupted command."""
    if stage.command == "encode":  # encode always continues.
        return []
    return ["--resume" if any(stage.folder.glob("checkpoints/*.ckpt")) else "--overwrite"]


def _get_gpu_flags(stage: Stage, num_gpus: int) -> list[str]:
    """Return the flag with which a command uses all GPUs, but no more than it has questions in a batch.

    The number depends on the machine, so it is no part of the stage's arguments and of the name of its folder.
    """
    given = {argument.partition("=")[0] for argument in stage.arguments}
    if stage.command not in _HARDWARE_FLAGS or not num_gpus or given & {"--gpus", "--device"}:
        return []
    return [f"--gpus={min(num_gpus, stage.settings.get('batch_size', num_gpus))}"]


def _run_command(command: list[str], stop_signal: signal.Signals) -> int:
    """Run a command that can import this package in any working directory, and return its exit code.

    If this process is interrupted, it sends ``stop_signal`` to the command and waits until the command ends.
    """
    process = subprocess.Popen(command, env=build_environment())
    try:
        return process.wait()
    except InterruptedRun:
        process.send_signal(stop_signal)
        process.wait()
        raise


def build_environment() -> dict[str, str]:
    """Return environment variables with which ``python -m dpr_text`` finds this package in any working directory."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def to_exit_code(returncode: int) -> int:
    """Return the exit code of a process as a shell reports it: 128 plus the signal number if a signal ended it.

    >>> to_exit_code(3), to_exit_code(-9)
    (3, 137)
    """
    return returncode if returncode >= 0 else 128 - returncode


def format_arguments(arguments: Arguments) -> list[str]:
    """Return flags in the form of a command line. Values that are None are left out."""
    return [f"--{name}={_format_value(value)}" for name, value in arguments.items() if value is not None]


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps([str(each) if isinstance(each, TrackedFile) else each for each in value])
    return str(value) if isinstance(value, TrackedFile | Path | str) else json.dumps(value)


def _get_key(value: Any) -> Any:
    """Return the part of a value that is hashed: the key of a file, or the value itself."""
    if isinstance(value, list):
        return [_get_key(each) for each in value]
    return value.key if isinstance(value, TrackedFile) else value
