"""The questions of files as a collection, so that a teacher's question encoder can encode them to disk."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from text.artifacts import write_text
from text.datasets import PassageCollection, read_questions
from text.errors import ArtifactError
from text.records import make_question_id
from text.retrieval.plan import QUESTIONS


def open_texts(
    collection: str | os.PathLike[str] | None,
    questions: Sequence[str | os.PathLike[str]] | None,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> PassageCollection:
    """Open the collection to encode, or write one of questions. See ``write_question_collection``.

    Args:
        collection: File of passages. None means the questions.
        questions: Files of questions. They are not used if there is a collection.
        folder: Output folder of the embeddings.
        overwrite: Replace the questions of other embeddings.
    """
    if collection is not None:
        return PassageCollection(collection)
    return write_question_collection(questions or (), folder, overwrite=overwrite)


def write_question_collection(
    paths: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str], *, overwrite: bool = False
) -> PassageCollection:
    """Write the questions of files to ``questions.jsonl`` in the folder of their embeddings.

    The id of a question is a hash of its text (``make_question_id``). A question that occurs several times is written
    once. An equal file is kept, so that an interrupted encoding continues.

    Args:
        paths: Files of questions or of training rows, as ``read_questions`` reads them.
        folder: Output folder of the embeddings. It is created if it is missing.
        overwrite: Replace the questions of other embeddings.

    Raises:
        DataError: As ``read_questions``.
        ArtifactError: The folder holds embeddings of a collection or of other questions, and ``overwrite`` is false.
        OSError: A file cannot be read or written.
    """
    texts = dict.fromkeys(question.text for path in paths for question in read_questions(path))
    lines = [json.dumps({"_id": make_question_id(text), "text": text}, ensure_ascii=False) for text in texts]
    content, path = "".join(f"{line}\n" for line in lines), Path(folder, QUESTIONS)
    if not path.exists() or path.read_bytes() != content.encode():
        if not overwrite and Path(folder, "plan.json").exists():
            raise ArtifactError(f"{folder}: holds embeddings of other texts. Use another folder, or overwrite them.")
        write_text(path, content)
    return PassageCollection(path)
