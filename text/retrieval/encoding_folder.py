"""The folder of embeddings: checked before the work, cleared of earlier embeddings, and finished by a manifest.

The files of an encoding are those that its plan names. Nothing else in the folder is read, replaced or removed.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from text.artifacts import check_listed, check_output_folder, read_facts, remove_leftovers, write_json
from text.errors import ArtifactError, UsageError
from text.retrieval.index_files import find_indexes
from text.retrieval.plan import (
    MANIFEST,
    Manifest,
    Plan,
    find_shard,
    place_collection,
    read_plan,
    read_shard_manifest,
    shard_path,
    write_plan,
)


def check_encoding_folder(folder: str | os.PathLike[str]) -> None:
    """Check that a folder is new, is empty, or holds embeddings. Hidden files do not count. Nothing is created.

    Raises:
        FileExistsError: The folder holds something else, such as a run, a model or data.
        ArtifactError: Its plan is damaged, or an earlier version wrote it.
        UsageError: A link, a folder or a pipe stands in the place of a file of the embeddings.
        UsageError, OSError: As ``check_output_folder``.
    """
    check_output_folder(folder)
    _check_place(Path(folder, "plan.json"))
    if Path(folder, "plan.json").is_file():
        _check_places(folder, read_plan(folder))
    elif names := sorted(name for name in _list_names(folder) if not name.startswith(".")):
        raise FileExistsError(f"{os.fspath(folder)}: holds {names[0]}, but no embeddings. Use a folder of its own.")


def start_encoding(folder: str | os.PathLike[str], plan: Plan, *, overwrite: bool = False) -> Plan:
    """Create the folder and write ``plan.json``, or check that a begun encoding has the same plan.

    Args:
        folder: The folder.
        plan: What is to be encoded.
        overwrite: Remove the embeddings that the folder holds.

    Returns:
        The plan to encode with. It has the ``block_rows`` that a begun encoding has.

    Raises:
        ArtifactError: The folder holds embeddings of another plan, or a damaged plan.
        FileExistsError, UsageError: As ``check_encoding_folder``.
        OSError: The folder cannot be written, or the disk is too small for all embeddings.
    """
    check_encoding_folder(folder)
    plan = place_collection(folder, plan)
    _check_places(folder, plan)
    Path(folder).mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    is_begun = Path(folder, "plan.json").is_file()
    if is_begun and not overwrite:
        return _continue_plan(folder, plan)
    earlier = list_encoding(folder) if is_begun else []
    _check_disk(folder, plan, sum(path.stat().st_size for path in earlier))
    _remove_files(folder, earlier)
    write_plan(folder, plan)  # The earlier plan stays until now, so that what is left still counts as embeddings.
    return plan


def finish_encoding(folder: str | os.PathLike[str], plan: Plan) -> None:
    """Write the manifest after all ranks are done. Embeddings without a manifest are not read.

    Raises:
        ArtifactError: A shard is missing, damaged or of another plan.
    """
    files = {}
    for shard in range(plan.num_shards):
        path = shard_path(folder, shard, ".json")
        try:
            files |= read_shard_manifest(folder, plan, shard).files
        except FileNotFoundError:
            raise ArtifactError(
                f"{path}: missing, the shard is not encoded. Run the encoding again to continue it."
            ) from None
        files[path.name] = read_facts(path)
    check_listed(folder, files, check_hashes=False)  # Each rank has compared the hashes of its shards.
    write_json(Path(folder, MANIFEST), Manifest(plan.key, files))


def list_encoding(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files of the embeddings in a folder and of their indexes, without the plan.

    Raises:
        FileNotFoundError, ArtifactError: As ``read_plan``.
    """
    plan = read_plan(folder)
    shards = [Path(folder, name) for name in sorted(_list_names(folder)) if find_shard(name, plan) is not None]
    manifest, indexes = Path(folder, MANIFEST), find_indexes(folder, plan)
    # The manifest is first, so that half of the embeddings is never read.
    return [path for path in (manifest, *indexes, *shards) if path.is_file() and not path.is_symlink()]


def list_changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield each difference of two plans as "name: before -> after". The path of the collection may differ."""
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from (f"{name} {change}" for change in list_changes(old, new))
        elif old != new and name != "path":
            yield f"{name}: {old} -> {new}"


def _check_places(folder: str | os.PathLike[str], plan: Plan) -> None:
    for name in sorted(_list_names(folder)):
        if name == MANIFEST or find_shard(name, plan) is not None:
            _check_place(Path(folder, name))


def _check_place(path: Path) -> None:
    """Check that a path is free or a regular file. What a link names is not known to be of the embeddings."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UsageError(f"{path} is a link, a folder, a device or a pipe. Move it, or take another folder.")


def _continue_plan(folder: str | os.PathLike[str], plan: Plan) -> Plan:
    """Return the plan of a begun encoding, which may differ only in ``block_rows``."""
    found = read_plan(folder)
    asked = plan._replace(block_rows=found.block_rows)
    if found.key != asked.key:
        changes = "; ".join(list_changes(found.to_dict(), asked.to_dict()))
        raise ArtifactError(f"{folder}: holds embeddings of another plan ({changes}). Use another folder or overwrite.")
    return found


def _remove_files(folder: str | os.PathLike[str], files: list[Path]) -> None:
    """Remove files, and the folders of indexes that are empty then. Print what else stays in the folder."""
    for path in files:
        path.unlink()
    for inner in {path.parent for path in files} - {Path(folder)}:
        if not os.listdir(inner):
            inner.rmdir()
    others = sorted(name for name in _list_names(folder) if not name.startswith(".") and name != "plan.json")
    if files and others:
        print(f"{os.fspath(folder)}: {', '.join(others)} stay, because no plan names them", file=sys.stderr)


def _check_disk(folder: str | os.PathLike[str], plan: Plan, freed: int) -> None:
    needed = plan.num_rows * plan.embedding_dim * np.dtype(plan.dtype).itemsize
    free = shutil.disk_usage(folder).free + freed
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free} bytes are free, the embeddings need {needed}", os.fspath(folder))


def _list_names(folder: str | os.PathLike[str]) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []
