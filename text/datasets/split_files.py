"""Search for the files of the splits train, valid and test.

A folder holds one file per split: ``train.jsonl``, ``valid.jsonl`` (or ``dev.jsonl``) and ``test.jsonl``. Files of
FAIR's download script are also found, such as ``downloads/data/retriever/nq-train.json``.
All files from one folder belong to one data set. Tables, and judgments of a BEIR or MS MARCO folder, are converted to
rows.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from text.datasets.formats.compressed_files import COMPRESSIONS
from text.datasets.forms.folders import find_judged_folder
from text.datasets.forms.kept_rows import KeptRows, find_kept_rows, keep_file
from text.errors import UsageError

STAGES = ("train", "valid", "test")
"""The splits of a data set."""
_NAMES = {"train": ("train",), "valid": ("valid", "dev"), "test": ("test",)}
"""File names of each stage, without ending."""
_FLAGS = {"train": "--train_files", "valid": "--valid_file", "test": "--test_file"}
_ENDINGS = (".jsonl", ".json")
_ALL_ENDINGS = tuple(ending + compression for ending, compression in product(_ENDINGS, COMPRESSIONS))
_FAIR_FOLDERS = ("", "data/retriever", "downloads/data/retriever")
"""Subfolders in which FAIR's files are searched for."""

_Files = dict[str, list[str]]
"""Candidate files of each stage. With several candidates the user must choose one."""


class SplitFiles(dict[str, list[str]]):
    """Files of each stage. Some of them may hold rows that were converted from a table or a folder.

    Args:
        files: Files in the DPR format by stage.
        sources: File or folder that converted rows come from, by the path of the rows.
        collection: Passages of converted compact rows.
    """

    def __init__(
        self, files: Mapping[str, list[str]], sources: Mapping[str, str], collection: str | None = None
    ) -> None:
        super().__init__(files)
        self.sources, self.collection = dict(sources), collection


def find_splits(
    data_path: str | None,
    *,
    train_files: Sequence[str] | None = None,
    valid_file: str | None = None,
    test_file: str | None = None,
) -> SplitFiles:
    """Return the files of each stage that has any. Tables and judgments are converted once.

    Args:
        data_path: Folder to search for the splits that no other argument names, or a table of training rows.
        train_files: Training files.
        valid_file: Validation file.
        test_file: Test file.

    Raises:
        UsageError: There is no training file, a training file is given twice, the folder is not usable
            (``find_in_folder``), or converted rows have two collections.
        DataError: A row of a table or a judgment cannot be converted.
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
            f"--train_files names {twice[-1]} twice. Give it once, and use --train_rates to train on it more often."
        )
    wanted = [stage for stage, paths in named.items() if not paths]
    found = {} if data_path is None else _find_rows(data_path, wanted)
    given = {stage: [keep_file(path) or KeptRows(path, path) for path in paths] for stage, paths in named.items()}
    rows = {stage: given[stage] or ([found[stage]] if stage in found else []) for stage in named}
    files = {stage: [each.path for each in kept] for stage, kept in rows.items()}
    if not files["train"]:
        if data_path is None:
            raise UsageError("no training data. Give --data_path, a folder with train.jsonl, or --train_files.")
        if (folder := find_judged_folder(data_path)) is not None:
            choices = ", ".join(f"--train_files={path}" for path in folder.qrels.values())
            raise UsageError(f"{data_path} has no judgments for train. To train on others, choose them: {choices}.")
        looked = _describe_missing("train", data_path, files)
        raise UsageError(f"no training data. {looked} Correct --data_path, or give --train_files.")
    kept = [each for stage in rows.values() for each in stage]
    collections = {each.collection: None for each in kept if each.collection is not None}
    if len(collections) > 1:
        raise UsageError(
            f"{' and '.join(collections)} are two collections. Convert both folders to full rows: dpr-text convert "
            "--compact=false."
        )
    sources = {each.path: each.source for each in kept if each.path != each.source}
    return SplitFiles({stage: paths for stage, paths in files.items() if paths}, sources, next(iter(collections), None))


def _find_rows(path: str | os.PathLike[str], stages: Sequence[str]) -> dict[str, KeptRows]:
    """Return the rows of each stage that a folder or table has: files of rows, or converted tables or judgments.

    Tables beside files of rows are not read, because they are often questions, such as ``test.qa.csv``.

    Raises:
        UsageError: ``find_in_folder`` raises, or a folder has files of rows and judgments.
    """
    is_folder = os.path.isdir(path)
    rows = [*_flatten(_list_splits([path], "")), *map(str, _find_named_sets(path))] if is_folder else []
    if rows and find_judged_folder(path) is not None:
        raise UsageError(
            f"{os.fspath(path)} holds rows, {rows[0]}, and also judgments in qrels. Choose with flags instead of "
            f"--data_path, such as {_FLAGS['train']}={rows[0]}."
        )
    kept = {} if rows else find_kept_rows(path, stages)
    if kept or (is_folder and not rows):
        return kept
    return {stage: KeptRows(each, each) for stage, each in find_in_folder(path, stages).items()}


def find_in_folder(folder: str | os.PathLike[str], stages: Iterable[str] = STAGES) -> dict[str, str]:
    """Return the file of each stage that has one in a folder.

    Args:
        folder: Folder to search.
        stages: Stages to search for.

    Raises:
        UsageError: The folder does not exist, has several data sets, or several files for one stage.
    """
    if not os.path.isdir(folder):
        hint = " It is a file. Pass it as --train_files." if os.path.isfile(folder) else ""
        raise UsageError(f"--data_path: {os.fspath(folder)} is not a folder.{hint}")
    stages = list(stages)
    plain, named = _list_splits([folder], ""), _find_named_sets(folder)
    has_named_train = any("train" in files for files in named.values())
    if plain and "train" in stages and "train" not in plain and has_named_train:
        raise UsageError(
            f"{os.fspath(folder)} holds {', '.join(map(os.path.basename, _flatten(plain)))} without the name of a data "
            f"set, and training data of named data sets: {', '.join(named)}. They cannot be read together. "
            f"{_describe_choices([{**plain, **files} for files in named.values() if 'train' in files])}"
        )
    if not plain and len(named) > 1 and any(stage in files for files in named.values() for stage in stages):
        raise UsageError(
            f"{os.fspath(folder)} holds several data sets: {', '.join(named)}. {_describe_choices(named.values())}"
        )
    files = plain or next(iter(named.values()), {})
    return {stage: _choose_file(stage, files[stage]) for stage in stages if stage in files}


def describe_files(
    files: Mapping[str, Sequence[str]], *, data_path: str | None = None, valid_share: float | None = None
) -> list[str]:
    """Return a line per stage with its files, or with the consequence of a missing file.

    Args:
        files: Result of ``find_splits``.
        data_path: As in ``find_splits``.
        valid_share: Share of the training questions to hold out for validation.
    """
    sources = files.sources if isinstance(files, SplitFiles) else {}
    shown = {path: f"{source}, converted to rows" for path, source in sources.items()}
    named = {stage: ", ".join(shown.get(path, path) for path in paths) for stage, paths in files.items()}
    lines = {stage: f"{stage} data: {named.get(stage, 'none')}" for stage in STAGES}
    folder = data_path if data_path is not None and os.path.isdir(data_path) and not sources else None
    looked = {stage: f" {_describe_missing(stage, folder, files)}" if folder else "" for stage in STAGES}
    if "valid" not in files and valid_share is not None:
        lines["valid"] = f"valid data: {valid_share:.6g} of the training questions (--valid_share)"
    elif "valid" not in files:
        hint = "The last checkpoint becomes the model. Pass --valid_file or --valid_share to choose the best one."
        lines["valid"] = f"no validation data.{looked['valid']} {hint}"
    if "test" not in files:
        lines["test"] = f"no test data.{looked['test']} There will be no test metrics. Pass --test_file to get them."
    return list(lines.values())


def _describe_missing(stage: str, folder: str | os.PathLike[str], files: Mapping[str, Sequence[str]]) -> str:
    """Describe a missing stage: the names that were searched for in a folder, and files with other names."""
    names = " and ".join(f"{name}.jsonl" for name in _NAMES[stage])
    in_sets = " and ".join(f"NAME-{name}.jsonl" for name in _NAMES[stage])
    places = " and in ".join(_FAIR_FOLDERS[1:])
    named = "" if _list_splits([folder], "") else f", and for {in_sets} in the same folder, in {places}"
    read = set(map(os.path.realpath, _flatten(files)))
    others = sorted(
        name
        for name in os.listdir(folder)
        if name.endswith(_ALL_ENDINGS) and os.path.realpath(os.path.join(folder, name)) not in read
    )
    unread = f" Other files: {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}." if others else ""
    return f"Looked in {os.fspath(folder)} for {names} (or .json; plain, .gz or .zst){named}.{unread}"


def _find_named_sets(folder: str | os.PathLike[str]) -> dict[str, _Files]:
    """Return the files of each named data set. The name precedes the split, as in ``nq-train.json``."""
    places = [os.path.normpath(os.path.join(folder, each)) for each in _FAIR_FOLDERS]
    prefixes = sorted({prefix for place in places for prefix in _find_prefixes(place)})
    return {prefix.rstrip("-"): _list_splits(places, prefix) for prefix in prefixes}


def _find_prefixes(folder: str) -> list[str]:
    """Return the prefixes of file names before the name of a split, with the hyphen: ``nq-`` in ``nq-train.json``."""
    if not os.path.isdir(folder):
        return []
    stems = [name[: -len(ending)] for name in os.listdir(folder) for ending in _ALL_ENDINGS if name.endswith(ending)]
    ends = [f"-{name}" for names in _NAMES.values() for name in names]
    return [stem[: -len(end) + 1] for stem in stems for end in ends if stem.endswith(end)]


def _list_splits(places: Iterable[str | os.PathLike[str]], prefix: str) -> _Files:
    """Return the files of each stage in some folders, without compressed copies and repeated links.

    Args:
        places: Folders to search.
        prefix: Prefix of the file names, such as ``nq-``.
    """
    files: _Files = {}
    for stage, place in product(STAGES, places):
        for name, ending in product(_NAMES[stage], _ENDINGS):
            paths = [os.path.join(place, f"{prefix}{name}{ending}{compression}") for compression in COMPRESSIONS]
            found = [path for path in paths if os.path.lexists(path)][:1]  # A broken link raises an error later.
            known = set(map(os.path.realpath, files.get(stage, ())))
            if found and os.path.realpath(found[0]) not in known:
                files.setdefault(stage, []).append(found[0])
    return files


def _choose_file(stage: str, paths: Sequence[str]) -> str:
    if len(paths) > 1:
        raise UsageError(f"{paths[0]} and {paths[1]} both exist. Remove one, or choose one with {_FLAGS[stage]}.")
    return paths[0]


def _flatten(files: Mapping[str, Sequence[str]]) -> list[str]:
    return [path for paths in files.values() for path in paths]


def _describe_choices(sets: Iterable[_Files]) -> str:
    """Return a sentence with the flags that select each data set."""
    flags = [" ".join(f"{_FLAGS[stage]}={paths[0]}" for stage, paths in files.items()) for files in sets]
    return f"Choose one with flags instead of --data_path: {'; or '.join(flags)}."
