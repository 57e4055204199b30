"""Checks of the input files of a loop before its first stage runs.

The checks open each file with the functions that the commands use. The loop therefore stops at its start for an error
that would otherwise stop its last stage after hours.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from text.datasets import DPRFile, PassageCollection, open_splits, read_questions
from text.datasets.dpr_rows import count_unusable_rows
from text.evaluation import read_qrels
from text.models import check_encoder_name
from text.retrieval.counts import read_judged_questions
from text.retrieval.devices import check_gpus
from text.retrieval.encoding import check_collection
from text.retrieval.scoring import find_answerable, list_relevant, read_positives
from text.retrieval.teachers import load_teacher
from text.runs.resume import find_tokenizer
from text.runs.stages import Stage, is_complete
from text.training import check_devices
from text.transforms import load_tokenizer

Settings = Mapping[str, Any]
"""Values of all flags of a command."""


def check_inputs(stages: Sequence[Stage], output_dir: str | os.PathLike[str]) -> None:
    """Check the input files of all stages that are not complete. Files that another stage produces are skipped.

    Args:
        stages: The stages of a rehearsal.
        output_dir: Folder of all stages.

    Raises:
        DataError: A stage would refuse the content of a file. The message names the place.
        UsageError, ValueError, OSError: A file or an encoder cannot be read.
    """
    folder, done = os.path.realpath(output_dir), set[str]()
    for stage in stages:
        settings = {name: _drop_produced_paths(value, folder) for name, value in stage.settings.items()}
        checked = {name: settings.get(name) for name in _CHECKED_FLAGS[stage.command]}
        key = json.dumps([stage.command, checked], sort_keys=True, default=str)
        if not is_complete(stage) and key not in done:
            done.add(key)
            _CHECKS[stage.command](settings)


def _drop_produced_paths(value: Any, folder: str) -> Any:
    """Return the value of a flag without the paths that a stage produces."""
    if isinstance(value, list):
        return [each for each in value if _drop_produced_paths(each, folder) is not None]
    is_produced = isinstance(value, str) and os.path.realpath(value).startswith(folder + os.sep)
    return None if is_produced else value


def _check_rows(settings: Settings) -> None:
    if settings["rows"] is not None:
        collection = settings["collection"]
        count_unusable_rows(DPRFile(settings["rows"], PassageCollection(collection) if collection else None))


def _check_teacher(settings: Settings) -> None:
    for name in ("teacher", "rerank"):
        if settings.get(name) is not None:
            _check_teacher_once(settings[name])


@cache
def _check_teacher_once(path: str) -> None:
    """Load a teacher, which several stages may use, and forget it."""
    load_teacher(path, device="cpu")


def _check_scored_rows(settings: Settings) -> None:
    _check_rows(settings)
    _check_teacher(settings)


def _check_train(settings: Settings) -> None:
    check_devices(settings["gpus"], settings["num_nodes"])
    if settings["encoder"] is not None:
        check_encoder_name(settings["encoder"])
        tokenizer = find_tokenizer(settings["tokenizer"], None, settings["encoder"])
        if tokenizer is not None:
            load_tokenizer(tokenizer)
    files = {"train": settings["train_files"], "valid": [settings["valid_file"]], "test": [settings["test_file"]]}
    files = {split: paths for split, paths in files.items() if paths and None not in paths}
    options = {name: settings[name] for name in inspect.signature(open_splits).parameters if name in settings}
    open_splits(files, **options)


def _check_encode(settings: Settings) -> None:
    check_gpus(settings["gpus"], settings["device"])
    if settings["collection"] is not None:
        check_collection(PassageCollection(settings["collection"]))


def _check_search(settings: Settings) -> None:
    _check_teacher(settings)
    if settings["collection"] is not None:
        PassageCollection(settings["collection"])
    if settings["questions"] is None:
        return
    read_judged_questions(settings["questions"], settings["qrels"], log=lambda line: None)
    if settings["with_positives"]:
        read_positives(settings["questions"])


def _check_evaluate(settings: Settings) -> None:
    if settings["qrels"] is not None:
        list_relevant(settings["qrels"], read_qrels(settings["qrels"]))
    if settings["positives"] is not None:
        read_positives(settings["positives"])
    if settings["questions"] is not None:
        find_answerable(settings["questions"], read_questions(settings["questions"]))


_CHECKS: dict[str, Callable[[Settings], None]] = {
    "windows": _check_rows,
    "train": _check_train,
    "encode": _check_encode,
    "search": _check_search,
    "evaluate": _check_evaluate,
    "mine": _check_scored_rows,
    "score": _check_scored_rows,
}
_DATA_FLAGS = [name for name in inspect.signature(open_splits).parameters if name != "files"]
_CHECKED_FLAGS = {
    "windows": ["rows", "collection"],
    "train": ["train_files", "valid_file", "test_file", "encoder", "tokenizer", "gpus", "num_nodes", *_DATA_FLAGS],
    "encode": ["collection", "gpus", "device"],
    "search": ["questions", "collection", "qrels", "with_positives", "rerank"],
    "evaluate": ["qrels", "positives", "questions"],
    "mine": ["rows", "collection", "teacher"],
    "score": ["rows", "collection", "teacher"],
}
"""Flags that the check of each command uses. Stages with the same values are checked once."""
