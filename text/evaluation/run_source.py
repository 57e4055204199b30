"""The file beside a run that says which model, collection and questions the run belongs to.

TREC's six columns have no place for this, so ``RUN.json`` stands beside ``RUN``. A run of another program has no such
file: its model is then unknown, and nothing is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from text.artifacts import FileFacts, check_facts, read_facts, read_sealed, seal, write_together
from text.artifacts import sha256 as hash_file
from text.datasets.formats.compressed_files import form_of, read_chunks
from text.errors import ArtifactError, DataError, UsageError
from text.evaluation.trec import Run, format_run
from text.records import text_key


class SearchRecord(NamedTuple):
    """What a search used. Paths are as they were given, for people to read."""

    engine: str
    """BM25, exact, a factory string of FAISS, or Milvus."""
    collection: str
    """File of the passages that were searched."""
    collection_sha256: str
    model: str
    """Folder of the model. Empty for BM25."""
    model_files: dict[str, str]
    """SHA-256 of the model's files by name. Empty for BM25."""
    by_windows: bool = False
    """The passages are windows of documents, and the run has documents. Their collection is not known."""

    def __str__(self) -> str:
        by = "BM25" if not self.model else f"{self.model} ({self.engine})"
        return f"{by} on {Path(self.collection).name}"


class RunSource(NamedTuple):
    """Content of ``RUN.json``."""

    run: FileFacts
    """Facts of the run that the file belongs to."""
    searches: list[SearchRecord]
    """The search that found the passages, or the searches of the runs that were fused."""
    questions: dict[str, int]
    """``key_words`` of the text of each question, by id."""


def name_collections(searches: Iterable[SearchRecord]) -> list[SearchRecord]:
    """Return searches without the folders of their collections, for results that are passed on to other people."""
    return [search._replace(collection=Path(search.collection).name) for search in searches]


def key_words(question: str) -> int:
    """Return the identity of a question's letters and digits, hashed to 64 bits.

    Files of one data set write questions with and without question marks, and with words and signs apart or together.

    >>> key_words("who is Victoria 's  secret ?") == key_words("Who is Victoria's secret")
    True
    """
    composed = unicodedata.normalize("NFC", question).casefold()
    return text_key("".join(filter(str.isalnum, composed)))


def source_path(run: str | os.PathLike[str]) -> Path:
    """Return the path of the file beside a run.

    >>> source_path("runs/bm25.trec").name
    'bm25.trec.json'
    """
    return Path(f"{os.fspath(run)}.json")


def read_run_source(run: str | os.PathLike[str]) -> RunSource | None:
    """Return what is known of a run. None if no file stands beside it.

    Raises:
        ArtifactError: The file is damaged, or the run was changed since it was written.
    """
    path = source_path(run)
    if not path.is_file():
        return None
    try:
        source = read_sealed(path, RunSource)
        check_facts(run, source.run)
    except ArtifactError as fault:
        raise ArtifactError(f"{fault} If you remove {path}, the model of the run counts as unknown.") from None
    return source


def fill_source(temporary: Path, run: Path, searches: Sequence[SearchRecord], questions: Mapping[str, int]) -> None:
    """Write the content of the file beside a run into a temporary file.

    Args:
        temporary: The temporary file.
        run: The run, which may also have a temporary name. It is complete.
        searches: As in ``RunSource``.
        questions: As in ``RunSource``.
    """
    content = seal(RunSource(read_facts(run), list(searches), dict(questions)))
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_sourced_run(
    path: str | os.PathLike[str],
    run: Run,
    searches: Sequence[SearchRecord],
    questions: Mapping[str, int],
    *,
    overwrite: bool = False,
) -> None:
    """Write a run and the file beside it, both or none.

    Raises:
        FileExistsError: One of them exists, and ``overwrite`` is false.
        OSError: They cannot be written.
    """
    with write_together([path, source_path(path)], overwrite=overwrite) as [lines, source]:
        with open(lines, "w", encoding="utf-8") as file:
            file.writelines(format_run(run))
        fill_source(source, lines, searches, questions)


def check_same_questions(
    run: str | os.PathLike[str],
    questions: Mapping[str, int],
    other: str | os.PathLike[str],
    other_questions: Mapping[str, int],
) -> int:
    """Check that equal ids in a run and another file stand for equal questions.

    A few questions may have been corrected since. In a file of other questions, nearly all of them differ.

    Args:
        run: The file of the run.
        questions: ``key_words`` of its questions by id.
        other: Another run, or a file of questions.
        other_questions: ``key_words`` of the other questions by id.

    Returns:
        The number of ids that stand for two questions.

    Raises:
        ArtifactError: More than half of the common ids stand for two questions.
    """
    common = questions.keys() & other_questions.keys()
    changed = sum(questions[question_id] != other_questions[question_id] for question_id in common)
    if 2 * changed > len(common):
        raise ArtifactError(
            f"{os.fspath(run)}: of other questions than {os.fspath(other)}: {changed} of {len(common)} common ids are "
            "of different texts. Give a run of the same questions."
        )
    return changed


def check_same_collection(
    run: str | os.PathLike[str],
    searches: Iterable[SearchRecord],
    other: str | os.PathLike[str],
    sha256: str,
    *,
    collection: str | os.PathLike[str] | None = None,
) -> None:
    """Check that a run has passages of this collection. A compressed copy counts as the same collection.

    Args:
        run: The file of the run.
        searches: What is known of it.
        other: Another run, or the file of the collection.
        sha256: SHA-256 of the collection.
        collection: The file of the collection, if ``other`` is a run.

    Raises:
        ArtifactError: Another collection was searched.
    """
    for search in searches:
        if search.by_windows or search.collection_sha256 == sha256:
            continue
        if not _is_copy(search.collection, search.collection_sha256, collection or other, sha256):
            raise ArtifactError(
                f"{os.fspath(run)}: found in {search.collection}, which is another collection than that of "
                f"{os.fspath(other)}. Search the same collection for both."
            )


def _is_copy(path: str, sha256: str, other: str | os.PathLike[str], other_sha256: str) -> bool:
    """Return whether one file is a compressed copy of another, and both are as they were when they were hashed."""
    copies = [(path, sha256), (os.fspath(other), other_sha256)]
    try:
        if all(form_of(each).compression is None for each, _ in copies):
            return False
        is_unchanged = all(hash_file(each) == digest for each, digest in copies)
        return is_unchanged and _hash_unpacked(path) == _hash_unpacked(os.fspath(other))
    except (DataError, OSError, UsageError):  # The file that was searched is not there any more, or is another one.
        return False


def _hash_unpacked(path: str) -> str:
    """Return the SHA-256 of a file's content without compression."""
    digest = hashlib.sha256()
    for chunk in read_chunks(path, form_of(path)):
        digest.update(chunk)
    return digest.hexdigest()
