"""Finding the files of each split in a file or folder, and recognizing the form of records by their keys."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable

from text.artifacts import check_readable, read_json
from text.datasets.formats.compressed_files import COMPRESSIONS, detect_form
from text.datasets.forms.columns import POSITIVE_NAMES, QUESTION_NAMES
from text.datasets.forms.records import JsonArray, JsonLines, Record, Records
from text.datasets.forms.splits import name_stage
from text.datasets.forms.tables import DELIMITERS, Table
from text.errors import DataError, UsageError
from text.progress import Progress

_TEXT_ENDINGS = (".jsonl", ".json", *DELIMITERS)
_ARROW_ENDINGS = (".parquet", ".arrow")
ENDINGS = (*(ending + packed for packed in COMPRESSIONS for ending in _TEXT_ENDINGS), *_ARROW_ENDINGS)
"""Endings of the files that can be read."""
_KEYS = {
    "dpr": ({"question"}, {"positive_ctxs", "positive_ids"}),
    "dpr-output": ({"question"}, {"ctxs"}),
    "tevatron": ({"query", "query_text"}, {"positive_passages", "positive_document_ids"}),
    "flagembedding": ({"query"}, {"pos"}),
    "sentence-transformers": (set(QUESTION_NAMES), set(POSITIVE_NAMES)),
}
"""For each form, the possible keys of its question and of its positives."""


def open_records(path: str, counts: Counter[str], progress: Progress | None = None) -> Records:
    """Open the records of a file. The ending of the name tells the format, and the first bytes tell the compression.

    Args:
        path: JSON lines, JSON array, CSV, TSV, Parquet or Arrow stream.
        counts: Number of blank lines and repaired rows, by kind. It is updated while the records are read.
        progress: Progress bar to advance by the bytes read.

    Raises:
        UsageError: The file cannot be read, or its name has another ending.
        MissingPackageError: pyarrow is needed and not installed.
        DataError: The name contradicts the compression.
    """
    check_readable(path)
    ending = _find_ending(path)
    if ending is None:
        raise UsageError(
            f"{path}: unknown kind of file. Give a file that ends in {', '.join(_TEXT_ENDINGS)} or .parquet."
        )
    if ending in _ARROW_ENDINGS:
        from text.datasets.forms.arrow_files import ArrowFile  # This import needs pyarrow.

        return ArrowFile(path, progress)
    form = detect_form(path)
    kind = ending.removesuffix(".gz").removesuffix(".zst")
    if kind in DELIMITERS:
        return Table(path, form, DELIMITERS[kind], counts, progress)
    return (JsonArray if form.is_array else JsonLines)(path, form, counts, progress)


def is_table(path: str | os.PathLike[str]) -> bool:
    """Return whether the ending of a file marks a table: CSV, TSV, Parquet or Arrow."""
    ending = _find_ending(os.fspath(path))
    return ending is not None and not ending.startswith(".json")


def find_split_files(path: str | os.PathLike[str], *, only_tables: bool = False) -> dict[str, list[str]]:
    """Return the files of each split. A split is named train, valid or test where possible.

    Args:
        path: A file, a folder with files that are named by their split, or a folder that ``datasets`` has saved.
        only_tables: Look only for tables. The result is then empty if there are none.

    Raises:
        UsageError: The path does not exist, the folder has no files of splits, or two files for one split.
        ArtifactError: A JSON file of ``datasets`` is damaged.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        check_readable(path)
        return {_name_split(os.path.basename(path)) or "train": [path]}
    if os.path.isfile(os.path.join(path, "dataset_dict.json")):
        return _find_saved_splits(path)
    if is_saved_split(path):
        files = _list_saved_files(path)
        if not files:
            raise DataError(f"{path}: no rows. Give a data set with at least one row.")
        return {_name_split(os.path.basename(os.path.realpath(path))) or "train": files}
    found = _list_by_name(path, only_tables) or _list_by_name(os.path.join(path, "data"), only_tables)
    if not found and not only_tables:
        raise UsageError(
            f"{path}: no data found. Give a file, a BEIR or MS MARCO folder, a folder that datasets has saved, or a "
            "folder with files such as train.jsonl or train.parquet."
        )
    return found


def is_saved_split(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds one split that ``datasets`` has saved."""
    return os.path.isfile(os.path.join(path, "state.json"))


def recognize_form(record: Record, place: str) -> str:
    """Return the form of a record. A key whose value is null counts only if the other keys do not fit any form.

    Args:
        record: The first record.
        place: Place of the record, for the error message.

    Raises:
        UsageError: No form has these keys, or several have. The message lists the candidates.
    """
    keys = list(record)
    found = _find_forms({key for key in keys if record[key] is not None}) or _find_forms(set(keys))
    shown = f"found {' '.join(', '.join(keys).split())[:200] or 'none'}"
    if len(found) > 1:
        raise UsageError(f"{place}: the keys fit several forms: {', '.join(found)}. Choose one with --form; {shown}.")
    if not found:
        forms = "; ".join(
            f"{form}: {_list_keys(names)} and {_list_keys(others)}" for form, (names, others) in _KEYS.items()
        )
        raise UsageError(
            f"{place}: the keys do not fit any form; {shown}. Name the columns, as in "
            f"--columns='{{question: q, positive: p}}', or give one of these forms: {forms}."
        )
    return found[0]


def _find_forms(keys: set[str]) -> list[str]:
    return [form for form, (questions, positives) in _KEYS.items() if questions & keys and positives & keys]


def _list_keys(names: Iterable[str]) -> str:
    return " or ".join(sorted(names))


def _find_saved_splits(path: str) -> dict[str, list[str]]:
    """Return the Arrow files of each split that ``datasets`` has saved. A split without rows has no file."""
    file = os.path.join(path, "dataset_dict.json")
    names = read_json(file, dict[str, list[str]]).get("splits")
    if not names:
        raise DataError(f"{file}: splits names no splits. Save the data set again.")
    stages = list(map(name_stage, names))
    if len(set(stages)) < len(stages):
        raise UsageError(
            f"{path}: two of the splits {', '.join(names)} are the same stage. Give a folder of one split."
        )
    found = {stage: _list_saved_files(os.path.join(path, name)) for stage, name in zip(stages, names, strict=True)}
    if not any(found.values()):
        raise DataError(f"{path}: no rows. Give a data set with at least one row.")
    return {stage: files for stage, files in found.items() if files}


def _list_saved_files(folder: str) -> list[str]:
    """Return the Arrow files of a split that ``datasets`` has saved. A split without rows has none."""
    content = read_json(os.path.join(folder, "state.json"), dict)
    entries = content.get("_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries or ()]
    if content.get("_indices_data_files") or not isinstance(entries, list):
        raise UsageError(f"{folder}: saved with indices. Call flatten_indices() before save_to_disk().")
    for name in names:
        if not isinstance(name, str) or os.path.basename(name) != name or not name.endswith(".arrow"):
            raise DataError(f"{folder}/state.json: _data_files does not name Arrow files. Save the data set again.")
    return [os.path.join(folder, str(name)) for name in names]


def _list_by_name(folder: str, only_tables: bool) -> dict[str, list[str]]:
    """Return the files of each split in a folder. Files whose names differ only in numbers are parts of one split."""
    groups: dict[str, dict[str, list[str]]] = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        is_used = is_table(name) if only_tables else _find_ending(name) is not None
        split = _name_split(name) if is_used else None
        copied = next((name.removesuffix(packed) for packed in COMPRESSIONS[1:] if name.endswith(packed)), None)
        if split and not (copied and os.path.isfile(os.path.join(folder, copied))):
            kind = re.sub(r"\d+", "#", name)
            groups.setdefault(split, {}).setdefault(kind, []).append(os.path.join(folder, name))
    for split, kinds in groups.items():
        if len(kinds) > 1:
            first, second, *_ = kinds.values()
            raise UsageError(
                f"{first[0]} and {second[0]} are both data of {split}. Give one of the files, or remove one."
            )
    found = {split: paths for split, [paths] in ((split, kinds.values()) for split, kinds in groups.items())}
    for paths in found.values():
        _check_parts(paths)
    return found


def _check_parts(paths: list[str]) -> None:
    """Check that no part is missing among files such as train-00000-of-00002.parquet.

    Raises:
        UsageError: The names tell another number of parts than there are files.
    """
    number = re.search(r"-\d+-of-(\d+)\b", os.path.basename(paths[0]))
    if number and int(number[1]) != len(paths):
        raise UsageError(
            f"{paths[0]} is one of {int(number[1])} files, but the folder holds {len(paths)} of them. Add the others."
        )


def _name_split(name: str) -> str | None:
    """Return the stage that a file name contains as a word, or None if it contains none or several."""
    words = re.split(r"[^a-z]+", name.lower())
    stages = {stage for word in words if (stage := name_stage(word)) in ("train", "valid", "test")}
    return stages.pop() if len(stages) == 1 else None


def _find_ending(name: str) -> str | None:
    return next((ending for ending in ENDINGS if name.endswith(ending)), None)
