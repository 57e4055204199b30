"""Folders with a collection, questions, and judgments for each split: BEIR's and MS MARCO's layout.

=========  ==================  ==========================  ====================
layout     collection          questions                   judgments
=========  ==================  ==========================  ====================
BEIR       corpus.jsonl        queries.jsonl               qrels/SPLIT.tsv
MS MARCO   collection.tsv      queries.SPLIT.tsv           qrels.SPLIT.tsv
=========  ==================  ==========================  ====================

Each file may be compressed. ``qidpidtriples.SPLIT.tsv`` adds hard negatives to a split of MS MARCO.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from text.datasets.formats.compressed_files import COMPRESSIONS
from text.datasets.forms.judgments import read_text_lines
from text.datasets.questions import read_questions
from text.errors import DataError

MAX_NEGATIVES = 30
"""Maximum number of negatives of a question to read from triples, which list up to a thousand."""


class JudgedFolder(NamedTuple):
    """Files of a folder with judgments."""

    form: str
    """Name of the layout: beir or msmarco."""
    collection: str
    """File of passages."""
    qrels: dict[str, str]
    """Judgments by the name of the split in the folder, such as ``dev``."""
    questions: dict[str, str]
    """Questions by the name of the split."""
    triples: dict[str, str]
    """Triples of question, positive and negative by the name of the split, if there are any."""


def find_judged_folder(folder: str | os.PathLike[str]) -> JudgedFolder | None:
    """Return the files of a folder with judgments, or None if a path has another layout."""
    folder = os.fspath(folder)
    return (_find_beir(folder) or _find_msmarco(folder)) if os.path.isdir(folder) else None


def find_judging_folder(qrels_path: str | os.PathLike[str]) -> JudgedFolder | None:
    """Return the folder with a file of judgments. Return None if the file is not in a BEIR or MS MARCO folder."""
    parent = Path(qrels_path).parent
    for folder in (find_judged_folder(each) for each in (parent.parent, parent)):
        if folder is not None and any(os.path.samefile(qrels_path, each) for each in folder.qrels.values()):
            return folder
    return None


def read_folder_questions(folder: JudgedFolder, split: str) -> dict[str, str]:
    """Return the text of each question of a split, by id.

    Raises:
        DataError: A line cannot be parsed, or an id occurs twice.
        OSError: The file cannot be read.
    """
    path = folder.questions[split]
    if folder.form == "beir":
        return {question.question_id: question.text for question in read_questions(path)}
    questions: dict[str, str] = {}
    for place, line in read_text_lines(path):
        question_id, tab, text = line.partition("\t")
        if not tab or not question_id or not text.strip():
            raise DataError(f"{place}: not an id, a tab and a question. Write one question per line.")
        if question_id in questions:
            raise DataError(f"{place}: question {question_id!r} occurs twice. Keep one line.")
        questions[question_id] = text
    return questions


def read_triples(path: str) -> dict[str, list[str]]:
    """Return the first negatives of each question in a file of triples: question, positive and negative id.

    Raises:
        DataError: A line does not have three columns.
        OSError: The file cannot be read.
    """
    negatives: dict[str, bytearray] = {}  # Ids separated by tabs, because a list needs ten times the memory.
    for place, line in read_text_lines(path):
        fields = line.split("\t")
        if len(fields) != 3 or not all(fields):
            raise DataError(f"{place}: {len(fields)} columns. Give the ids of a question, a positive and a negative.")
        found = negatives.setdefault(fields[0], bytearray())
        if found.count(b"\t") < MAX_NEGATIVES:
            found += f"{fields[2]}\t".encode()
    return {question_id: _split_ids(ids) for question_id, ids in negatives.items()}


def _split_ids(ids: bytearray) -> list[str]:
    return list(dict.fromkeys(ids.decode().removesuffix("\t").split("\t")))


def _find_beir(folder: str) -> JudgedFolder | None:
    collection, questions = (_find_file(os.path.join(folder, name)) for name in ("corpus.jsonl", "queries.jsonl"))
    qrels = _list_files(os.path.join(folder, "qrels"), "")
    if collection is None or questions is None or not qrels:
        return None
    return JudgedFolder("beir", collection, qrels, dict.fromkeys(qrels, questions), {})


def _find_msmarco(folder: str) -> JudgedFolder | None:
    collection, qrels = _find_file(os.path.join(folder, "collection.tsv")), _list_files(folder, "qrels.")
    questions, common = _list_files(folder, "queries."), _find_file(os.path.join(folder, "queries.tsv"))
    found = {split: path for split in qrels if (path := questions.get(split, common)) is not None}
    if collection is None or not found:
        return None
    triples = {split.partition(".")[0]: path for split, path in _list_files(folder, "qidpidtriples.").items()}
    named = {split: triples[split] for split in found if split in triples}
    return JudgedFolder("msmarco", collection, {split: qrels[split] for split in found}, found, named)


def _list_files(folder: str, prefix: str) -> dict[str, str]:
    """Return the TSV files of a folder by the rest of their names, the plain file rather than its compressed copy."""
    found: dict[str, str] = {}
    for ending in COMPRESSIONS:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            split = name.removesuffix(f".tsv{ending}").removeprefix(prefix)
            if name == f"{prefix}{split}.tsv{ending}" and split:
                found.setdefault(split, os.path.join(folder, name))
    return found


def _find_file(path: str) -> str | None:
    """Return a path, or the path of its compressed file if only that file exists."""
    return next((path + ending for ending in COMPRESSIONS if os.path.isfile(path + ending)), None)
