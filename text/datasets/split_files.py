"""Find the files of the splits train, valid and test.

A folder has a file for each split: ``train.jsonl``, ``valid.jsonl`` (or ``dev.jsonl``) and ``test.jsonl``. Or it is a
download of FAIR's DPR, whose script writes ``downloads/data/retriever/nq-train.json`` and ``nq-dev.json``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from text.errors import UsageError

STAGES = ("train", "valid", "test")
_NAMES = {"train": ("train",), "valid": ("valid", "dev"), "test": ("test",)}
"""Names of the file of each stage, without ending."""
_ENDINGS = tuple(f"{ending}{packed}" for ending in (".jsonl", ".json") for packed in ("", ".gz", ".zst"))
"""Endings of files of rows. Of several files that differ only in the ending, the first one is taken."""
_FAIR_FOLDERS = ("", "data/retriever", "downloads/data/retriever")
"""Where FAIR's files may be in a folder."""


def find_splits(
    data_path: str | None,
    *,
    train_files: Sequence[str] | None = None,
    valid_file: str | None = None,
    test_file: str | None = None,
) -> dict[str, list[str]]:
    """Return the files of each stage. A stage without a file is left out, but for training.

    Args:
        data_path: Folder that may hold every split that no other argument names.
        train_files: Training files.
        valid_file: Validation file.
        test_file: Test file.

    Raises:
        UsageError: There is no training file, or the folder has several files for one stage.
    """
    named = {
        "train": list(train_files or ()),
        "valid": [valid_file] if valid_file else [],
        "test": [test_file] if test_file else [],
    }
    wanted = [stage for stage, paths in named.items() if not paths]
    found = {} if data_path is None else find_in_folder(data_path, wanted)
    files = {stage: paths or ([found[stage]] if stage in found else []) for stage, paths in named.items()}
    if not files["train"]:
        if data_path is None:
            raise UsageError("no training data. Give --data_path, a folder with train.jsonl, or --train_files.")
        looked = describe_missing("train", data_path)
        raise UsageError(f"no training data. {looked} Correct --data_path, or give --train_files.")
    return {stage: paths for stage, paths in files.items() if paths}


def find_in_folder(folder: str | os.PathLike[str], stages: Iterable[str] = STAGES) -> dict[str, str]:
    """Return the file of each of some stages in a folder. A stage without a file is left out.

    Raises:
        UsageError: The folder does not exist, or has several files for one stage.
    """
    if not os.path.isdir(folder):
        hint = " It is a file: give it as --train_files." if os.path.isfile(folder) else ""
        raise UsageError(f"--data_path: {os.fspath(folder)} is no folder.{hint}")
    stages = list(stages)
    found = {stage: path for stage in stages if (path := find_split(folder, stage)) is not None}
    if found:
        return found
    sets = _find_fair_sets(folder, stages)
    if len(sets) > 1:
        raise UsageError(
            f"{os.fspath(folder)} holds several data sets: {', '.join(name.rstrip('-') for name in sets)}. Choose by "
            f"flags instead of --data_path: {'; or '.join(map(_spell_flags, sets.values()))}."
        )
    return next(iter(sets.values()), {})


def find_split(folder: str | os.PathLike[str], stage: str, prefix: str = "") -> str | None:
    """Return the path of a split: the first that exists of JSONL and JSON, each plain, gzip or zstd.

    Args:
        folder: Where to look.
        stage: train, valid or test. The file of valid may also be named dev.
        prefix: Name of the data set before the name of the split, such as ``nq-``.

    Raises:
        UsageError: The folder has files of both names, and they are two files.
    """
    found = []
    for name in _NAMES[stage]:
        paths = [os.path.join(folder, f"{prefix}{name}{ending}") for ending in _ENDINGS]
        found += [path for path in paths if os.path.lexists(path)][:1]  # a link to nothing is an error later on
    if len(found) > 1 and os.path.realpath(found[0]) != os.path.realpath(found[1]):
        raise UsageError(f"{found[0]} and {found[1]} are both there. Remove one, or choose by --{stage}_file.")
    return found[0] if found else None


def describe_missing(stage: str, folder: str | os.PathLike[str]) -> str:
    """Return sentences about a stage that has no file in a folder: names looked for, and files that were not read."""
    names = " and ".join(f"{name}.jsonl" for name in _NAMES[stage])
    known = {os.path.basename(path) for each in STAGES if (path := find_split(folder, each)) is not None}
    others = sorted(name for name in os.listdir(folder) if name.endswith(_ENDINGS) and name not in known)
    unread = f" Not read: {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}." if others else ""
    return f"Looked in {os.fspath(folder)} for {names} (or .json; plain, .gz or .zst).{unread}"


def describe_files(
    files: Mapping[str, Sequence[str]], *, data_path: str | None = None, valid_share: float | None = None
) -> list[str]:
    """Return a line for each stage with all its files, or with what its absence means.

    Args:
        files: From ``find_splits``.
        data_path: As in ``find_splits``.
        valid_share: Share of the training questions that is held out for validation.
    """
    lines = {stage: f"{stage} data: {', '.join(files.get(stage, ['none']))}" for stage in STAGES}
    looked = {stage: f" {describe_missing(stage, data_path)}" if data_path else "" for stage in STAGES}
    if "valid" not in files and valid_share is not None:
        lines["valid"] = f"valid data: {valid_share:.6g} of the training questions (--valid_share)"
    elif "valid" not in files:
        hint = "The last checkpoint is the model. Give --valid_file or --valid_share to choose the best one."
        lines["valid"] = f"no validation data.{looked['valid']} {hint}"
    if "test" not in files:
        lines["test"] = f"no test data.{looked['test']} There are no test metrics. Give --test_file to have some."
    return list(lines.values())


def _find_fair_sets(folder: str | os.PathLike[str], stages: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the files of each data set whose name stands before the name of the split, such as ``nq-train.json``."""
    sets: dict[str, dict[str, str]] = {}
    for place in (os.path.normpath(os.path.join(folder, each)) for each in _FAIR_FOLDERS):
        for prefix in _find_prefixes(place):
            paths = {stage: path for stage in stages if (path := find_split(place, stage, prefix)) is not None}
            sets |= {prefix: paths} if paths and prefix not in sets else {}
    return sets


def _find_prefixes(folder: str) -> list[str]:
    """Return what stands before ``train``, ``dev`` and the other names of splits in a folder, with the hyphen."""
    if not os.path.isdir(folder):
        return []
    stems = [name[: -len(ending)] for name in os.listdir(folder) for ending in _ENDINGS if name.endswith(ending)]
    ends = [f"-{name}" for names in _NAMES.values() for name in names]
    return sorted({stem[: -len(end) + 1] for stem in stems for end in ends if stem.endswith(end)})


def _spell_flags(files: Mapping[str, str]) -> str:
    return " ".join(f"--{stage}_{'files' if stage == 'train' else 'file'}={path}" for stage, path in files.items())
