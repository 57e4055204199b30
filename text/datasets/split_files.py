"""Find the files of the splits train, valid and test.

A folder has a file for each split: ``train.jsonl``, ``valid.jsonl`` (or ``dev.jsonl``) and ``test.jsonl``. Or it is a
download of FAIR's DPR, whose script writes ``downloads/data/retriever/nq-train.json`` and ``nq-dev.json``. All files
that are taken from a folder belong to one data set.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from text.errors import UsageError

STAGES = ("train", "valid", "test")
_NAMES = {"train": ("train",), "valid": ("valid", "dev"), "test": ("test",)}
"""Names of the file of each stage, without ending."""
_FLAGS = {"train": "--train_files", "valid": "--valid_file", "test": "--test_file"}
_ENDINGS = (".jsonl", ".json")
_PACKINGS = ("", ".gz", ".zst")
"""Endings of compressed files. A file that differs from another one only in these is its copy; the first is taken."""
_ALL_ENDINGS = tuple(ending + packing for ending, packing in product(_ENDINGS, _PACKINGS))
_FAIR_FOLDERS = ("", "data/retriever", "downloads/data/retriever")
"""Where FAIR's files may be in a folder."""

_Files = dict[str, list[str]]
"""The files that may be the split of each stage: one, or several that are to be chosen from."""


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
        train_files: Training files, each once.
        valid_file: Validation file.
        test_file: Test file.

    Raises:
        UsageError: There is no training file, or one is named twice; or as ``find_in_folder``.
    """
    named = {
        "train": list(train_files or ()),
        "valid": [valid_file] if valid_file else [],
        "test": [test_file] if test_file else [],
    }
    counts = Counter(map(os.path.realpath, named["train"]))
    twice = [path for path in named["train"] if counts[os.path.realpath(path)] > 1]
    if twice:
        raise UsageError(
            f"--train_files names {twice[-1]} twice. Give it once, with --train_rates to take it more often."
        )
    wanted = [stage for stage, paths in named.items() if not paths]
    found = {} if data_path is None else find_in_folder(data_path, wanted)
    files = {stage: paths or ([found[stage]] if stage in found else []) for stage, paths in named.items()}
    if not files["train"]:
        if data_path is None:
            raise UsageError("no training data. Give --data_path, a folder with train.jsonl, or --train_files.")
        looked = _describe_missing("train", data_path, files)
        raise UsageError(f"no training data. {looked} Correct --data_path, or give --train_files.")
    return {stage: paths for stage, paths in files.items() if paths}


def find_in_folder(folder: str | os.PathLike[str], stages: Iterable[str] = STAGES) -> dict[str, str]:
    """Return the file of each of some stages in a folder. A stage without a file is left out.

    Raises:
        UsageError: The folder does not exist, has several data sets, or several files for one stage.
    """
    if not os.path.isdir(folder):
        hint = " It is a file: give it as --train_files." if os.path.isfile(folder) else ""
        raise UsageError(f"--data_path: {os.fspath(folder)} is no folder.{hint}")
    stages = list(stages)
    plain, named = _list_splits([folder], ""), _find_named_sets(folder)
    has_named_train = any("train" in files for files in named.values())
    if plain and "train" in stages and "train" not in plain and has_named_train:
        raise UsageError(
            f"{os.fspath(folder)} holds {', '.join(map(os.path.basename, _flatten(plain)))} without a name before the "
            f"split, and training data with one: {', '.join(named)}. Both are not read together. "
            f"{_spell_choices([{**plain, **files} for files in named.values() if 'train' in files])}"
        )
    if not plain and len(named) > 1 and any(stage in files for files in named.values() for stage in stages):
        raise UsageError(
            f"{os.fspath(folder)} holds several data sets: {', '.join(named)}. {_spell_choices(named.values())}"
        )
    files = plain or next(iter(named.values()), {})
    return {stage: _choose(stage, files[stage]) for stage in stages if stage in files}


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
    looked = {stage: f" {_describe_missing(stage, data_path, files)}" if data_path else "" for stage in STAGES}
    if "valid" not in files and valid_share is not None:
        lines["valid"] = f"valid data: {valid_share:.6g} of the training questions (--valid_share)"
    elif "valid" not in files:
        hint = "The last checkpoint is the model. Give --valid_file or --valid_share to choose the best one."
        lines["valid"] = f"no validation data.{looked['valid']} {hint}"
    if "test" not in files:
        lines["test"] = f"no test data.{looked['test']} There are no test metrics. Give --test_file to have some."
    return list(lines.values())


def _describe_missing(stage: str, folder: str | os.PathLike[str], files: Mapping[str, Sequence[str]]) -> str:
    """Return sentences about a stage without a file in a folder: names looked for, and files that are no split."""
    names = " and ".join(f"{name}.jsonl" for name in _NAMES[stage])
    in_sets = " and ".join(f"NAME-{name}.jsonl" for name in _NAMES[stage])
    places = " and in ".join(_FAIR_FOLDERS[1:])
    named = "" if _list_splits([folder], "") else f", and for {in_sets} there, in {places}"
    read = set(map(os.path.realpath, _flatten(files)))
    others = sorted(
        name
        for name in os.listdir(folder)
        if name.endswith(_ALL_ENDINGS) and os.path.realpath(os.path.join(folder, name)) not in read
    )
    unread = f" Taken as no split: {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}." if others else ""
    return f"Looked in {os.fspath(folder)} for {names} (or .json; plain, .gz or .zst){named}.{unread}"


def _find_named_sets(folder: str | os.PathLike[str]) -> dict[str, _Files]:
    """Return the files of each data set whose name stands before the name of the split, such as ``nq-train.json``."""
    places = [os.path.normpath(os.path.join(folder, each)) for each in _FAIR_FOLDERS]
    prefixes = sorted({prefix for place in places for prefix in _find_prefixes(place)})
    return {prefix.rstrip("-"): _list_splits(places, prefix) for prefix in prefixes}


def _find_prefixes(folder: str) -> list[str]:
    """Return what stands before ``train``, ``dev`` and the other names of splits in a folder, with the hyphen."""
    if not os.path.isdir(folder):
        return []
    stems = [name[: -len(ending)] for name in os.listdir(folder) for ending in _ALL_ENDINGS if name.endswith(ending)]
    ends = [f"-{name}" for names in _NAMES.values() for name in names]
    return [stem[: -len(end) + 1] for stem in stems for end in ends if stem.endswith(end)]


def _list_splits(places: Iterable[str | os.PathLike[str]], prefix: str) -> _Files:
    """Return the files of each stage that has any in some folders, without packed copies and second links to a file.

    Args:
        places: Folders.
        prefix: Name of the data set before the name of the split, such as ``nq-``.
    """
    files: _Files = {}
    for stage, place in product(STAGES, places):
        for name, ending in product(_NAMES[stage], _ENDINGS):
            paths = [os.path.join(place, f"{prefix}{name}{ending}{packing}") for packing in _PACKINGS]
            found = [path for path in paths if os.path.lexists(path)][:1]  # a link to nothing is an error later on
            known = set(map(os.path.realpath, files.get(stage, ())))
            if found and os.path.realpath(found[0]) not in known:
                files.setdefault(stage, []).append(found[0])
    return files


def _choose(stage: str, paths: Sequence[str]) -> str:
    if len(paths) > 1:
        raise UsageError(f"{paths[0]} and {paths[1]} are both there. Remove one, or choose by {_FLAGS[stage]}.")
    return paths[0]


def _flatten(files: Mapping[str, Sequence[str]]) -> list[str]:
    return [path for paths in files.values() for path in paths]


def _spell_choices(sets: Iterable[_Files]) -> str:
    """Return a sentence with the flags that choose each data set."""
    flags = [" ".join(f"{_FLAGS[stage]}={paths[0]}" for stage, paths in files.items()) for files in sets]
    return f"Choose by flags instead of --data_path: {'; or '.join(flags)}."
