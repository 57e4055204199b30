"""Manage the folder of embeddings: check it, remove earlier embeddings, and write the manifest at the end.

Only files that the plan names belong to an encoding. All other files in the folder are never read, replaced or
removed.
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
    QUESTIONS,
    EmbeddingsManifest,
    Plan,
    describe_changed_files,
    find_shard,
    get_shard_path,
    make_collection_path_relative,
    read_plan,
    read_shard_manifest,
    write_plan,
)


def check_encoding_folder(folder: str | os.PathLike[str]) -> None:
    """Check that a folder is missing, is empty, or holds embeddings. Hidden files are ignored. Nothing is created.

    Raises:
        FileExistsError: The folder holds something else, such as a run, a model or data.
        ArtifactError: The plan in the folder is damaged, or an earlier version wrote it.
        UsageError: A link, a folder or a pipe has the name of an embeddings file.
        UsageError, OSError: As ``check_output_folder``.
    """
    check_output_folder(folder)
    _check_place(Path(folder, "plan.json"))
    if Path(folder, "plan.json").is_file():
        _check_places(folder, read_plan(folder))
    elif names := sorted(name for name in _list_names(folder) if not name.startswith(".") and name != QUESTIONS):
        raise FileExistsError(f"{os.fspath(folder)}: holds {names[0]}, but no embeddings. Use a new or empty folder.")


def start_encoding(folder: str | os.PathLike[str], plan: Plan, *, overwrite: bool = False) -> Plan:
    """Create the folder and write ``plan.json``, or check that an interrupted encoding has the same plan.

    Args:
        folder: Output folder of the embeddings.
        plan: The plan of the encoding.
        overwrite: Remove the embeddings that the folder holds.

    Returns:
        The plan to encode with. An encoding that continues keeps its ``block_rows`` and ``max_tokens``.

    Raises:
        ArtifactError: The folder holds embeddings of another plan, or a damaged plan.
        FileExistsError, UsageError: As ``check_encoding_folder``.
        OSError: The folder cannot be written, or the disk is too small for all embeddings.
    """
    check_encoding_folder(folder)
    plan = make_collection_path_relative(folder, plan)
    _check_places(folder, plan)
    Path(folder).mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    has_plan = Path(folder, "plan.json").is_file()
    if has_plan and not overwrite:
        return continue_plan(folder, plan)
    earlier = list_embedding_files(folder) if has_plan else []
    _check_disk(folder, plan, sum(path.stat().st_size for path in earlier))
    _remove_files(folder, earlier)
    # The earlier plan is replaced last, so a folder with partly removed files still counts as embeddings.
    write_plan(folder, plan)
    return plan


def continue_plan(folder: str | os.PathLike[str], plan: Plan) -> Plan:
    """Return the plan in the folder. It may differ from the new plan only in ``block_rows`` and ``max_tokens``.

    Raises:
        ArtifactError: The folder holds embeddings of another plan, or a damaged plan.
    """
    found = read_plan(folder)
    wanted = plan._replace(block_rows=found.block_rows, max_tokens=found.max_tokens)
    if found.key != wanted.key:
        changes = "; ".join(list_changes(found.to_dict(), wanted.to_dict()))
        raise ArtifactError(f"{folder}: holds other embeddings ({changes}). Use another folder, or overwrite them.")
    return found


def find_precision(
    folder: str | os.PathLike[str], reuse: str | os.PathLike[str] | None = None, *, overwrite: bool = False
) -> str | None:
    """Return the precision that an encoding must keep, or None if it is free to choose one.

    Args:
        folder: Output folder of the encoding. Embeddings in it are continued.
        reuse: Folder of embeddings to reuse.
        overwrite: The embeddings in ``folder`` are removed, not continued.

    Raises:
        ArtifactError: A plan is damaged.
    """
    for each in ([] if overwrite else [folder]) + ([] if reuse is None else [reuse]):
        if Path(each, "plan.json").is_file():
            return read_plan(each).settings.precision
    return None


def finish_encoding(folder: str | os.PathLike[str], plan: Plan) -> None:
    """Write the manifest after all ranks have finished. Embeddings without a manifest cannot be opened.

    Raises:
        ArtifactError: A shard is missing, is damaged, or belongs to another plan.
    """
    files = {}
    for shard in range(plan.num_shards):
        path = get_shard_path(folder, shard, ".json")
        try:
            files |= read_shard_manifest(folder, plan, shard).files
        except FileNotFoundError:
            raise ArtifactError(
                f"{path}: missing, because the shard is not encoded yet. Run the encoding again to continue it."
            ) from None
        files[path.name] = read_facts(path)
    check_listed(folder, files, check_hashes=False)  # Each rank has already checked the hashes of its shards.
    write_json(Path(folder, MANIFEST), EmbeddingsManifest(plan.key, files))


def list_embedding_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files of the embeddings in a folder and of their FAISS indexes, without the plan.

    Raises:
        FileNotFoundError, ArtifactError: As ``read_plan``.
    """
    plan = read_plan(folder)
    shards = [Path(folder, name) for name in sorted(_list_names(folder)) if find_shard(name, plan) is not None]
    manifest, indexes = Path(folder, MANIFEST), find_indexes(folder, plan)
    # The manifest is removed first, so that partly removed embeddings are never opened.
    return [path for path in (manifest, *indexes, *shards) if path.is_file() and not path.is_symlink()]


def list_changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield each difference of two plans as "name: before -> after", and the names of changed model files.

    The path of the collection is ignored.
    """
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old == new or name == "path":
            continue
        if not isinstance(old, dict) or not isinstance(new, dict):
            yield f"{name}: {old} -> {new}"
        elif name == "model":
            yield describe_changed_files(old, new)
        else:
            yield from (f"{name} {change}" for change in list_changes(old, new))


def _check_places(folder: str | os.PathLike[str], plan: Plan) -> None:
    for name in sorted(_list_names(folder)):
        if name == MANIFEST or find_shard(name, plan) is not None:
            _check_place(Path(folder, name))


def _check_place(path: Path) -> None:
    """Check that a path is missing or a regular file. A link could point to a file that is not part of an encoding."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UsageError(f"{path} is a link, a folder, a device or a pipe. Move it, or use another folder.")


def _remove_files(folder: str | os.PathLike[str], files: list[Path]) -> None:
    """Remove files and the index folders that become empty. Print the names of the files that remain."""
    for path in files:
        path.unlink()
    for inner in {path.parent for path in files} - {Path(folder)}:
        if not os.listdir(inner):
            inner.rmdir()
    others = sorted(name for name in _list_names(folder) if not name.startswith(".") and name != "plan.json")
    if files and others:
        print(f"{os.fspath(folder)}: kept {', '.join(others)}, which do not belong to the embeddings", file=sys.stderr)


def _check_disk(folder: str | os.PathLike[str], plan: Plan, freed: int) -> None:
    needed = plan.num_rows * plan.embedding_dim * np.dtype(plan.dtype).itemsize
    free = shutil.disk_usage(folder).free + freed
    if free < needed:
        raise OSError(errno.ENOSPC, f"the embeddings need {needed} bytes, but {free} are free", os.fspath(folder))


def _list_names(folder: str | os.PathLike[str]) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []
