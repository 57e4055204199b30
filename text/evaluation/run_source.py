"""Source of a run: the model, collection and questions behind it, in a file ``RUN.json`` beside ``RUN``.

TREC's six columns have no room for this information. A run of another program has no such file. Its source is then
unknown and not checked.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from text.artifacts import FileFacts, hash_file, read_facts, read_sealed_beside, write_sealed, write_together
from text.datasets.formats.compressed_files import detect_form, read_chunks
from text.errors import ArtifactError, DataError, UsageError
from text.evaluation.fusion import FusionMethod
from text.evaluation.score_source import TeacherRecord
from text.evaluation.trec import Run, format_run
from text.records import hash_text


class SearchRecord(NamedTuple):
    """Model and collection of a search. Paths are as the user gave them."""

    engine: str
    """BM25, exact, a FAISS factory string, or Milvus."""
    collection: str
    """File of the searched passages."""
    collection_sha256: str
    model: str
    """Folder of the model. Empty for BM25."""
    model_files: dict[str, str]
    """SHA-256 of the model's files, by file name. Empty for BM25."""
    by_windows: bool = False
    """True if windows were searched and the run contains their documents, whose collection is unknown."""

    def __str__(self) -> str:
        by = "BM25" if not self.model else f"{self.model} ({self.engine})"
        return f"{by} on {Path(self.collection).name}"


class FusionRecord(NamedTuple):
    """Settings of the fusion that made a run from several searches."""

    method: FusionMethod
    """See ``text.evaluation.fuse_rankings``."""
    weights: list[float]
    """Weight of each fused search or run, in order."""
    depth: int | None = None
    """Number of passages per question that each search returned. None if complete runs were fused."""


class RerankingRecord(NamedTuple):
    """Model that reranked the first passages of a search."""

    teacher: TeacherRecord
    k: int
    """Number of passages per question that were reranked."""

    def __str__(self) -> str:
        return f"first {self.k} reranked by {self.teacher.model}"


class RunSource(NamedTuple):
    """Content of ``RUN.json``."""

    run: FileFacts
    """Size and hash of the run."""
    searches: list[SearchRecord]
    """The search that found the passages, or all searches of a fused run."""
    questions: dict[str, int]
    """``hash_words`` of the text of each question, by question id."""
    fusion: FusionRecord | None = None
    """Settings of the last fusion. None if no searches were fused, and in files of earlier versions."""
    reranking: RerankingRecord | None = None
    """Reranking of the passages after the search. None if there was none."""


def name_collections(searches: Iterable[SearchRecord]) -> list[SearchRecord]:
    """Return searches with collection paths cut to file names, so that shared results show no folders."""
    return [search._replace(collection=Path(search.collection).name) for search in searches]


def hash_words(question: str) -> int:
    """Return a 64-bit hash of a question's letters and digits, ignoring case.

    Files of the same data set differ in question marks and in the spaces around punctuation.

    >>> hash_words("who is Victoria 's  secret ?") == hash_words("Who is Victoria's secret")
    True
    """
    composed = unicodedata.normalize("NFC", question).casefold()
    return hash_text("".join(filter(str.isalnum, composed)))


def get_source_path(run: str | os.PathLike[str]) -> Path:
    """Return the path of the source file of a run.

    >>> get_source_path("runs/bm25.trec").name
    'bm25.trec.json'
    """
    return Path(f"{os.fspath(run)}.json")


def read_run_source(run: str | os.PathLike[str]) -> RunSource | None:
    """Return the source of a run, or None if the run has no source file.

    Raises:
        ArtifactError: The source file is damaged, or the run has changed since it was written.
    """
    advice = "To use the run without checks of its source"
    return read_sealed_beside(get_source_path(run), RunSource, run, lambda source: source.run, advice)


def write_source(
    path: Path,
    run: Path,
    searches: Sequence[SearchRecord],
    questions: Mapping[str, int],
    fusion: FusionRecord | None = None,
    reranking: RerankingRecord | None = None,
) -> None:
    """Write the source of a run to a file. Both files may have temporary names.

    Args:
        path: File to write.
        run: Complete file of the run.
        searches: See ``RunSource``.
        questions: See ``RunSource``.
        fusion: See ``RunSource``.
        reranking: See ``RunSource``.
    """
    write_sealed(path, RunSource(read_facts(run), list(searches), dict(questions), fusion, reranking))


def write_sourced_run(
    path: str | os.PathLike[str],
    run: Run,
    searches: Sequence[SearchRecord],
    questions: Mapping[str, int],
    *,
    fusion: FusionRecord | None = None,
    reranking: RerankingRecord | None = None,
    overwrite: bool = False,
) -> None:
    """Write a run and its source file atomically: both files or neither.

    Args:
        path: File of the run.
        run: Scores by question id and passage id.
        searches: See ``RunSource``.
        questions: See ``RunSource``.
        fusion: See ``RunSource``.
        reranking: See ``RunSource``.
        overwrite: Replace existing files.

    Raises:
        FileExistsError: One of the files exists, and ``overwrite`` is false.
        OSError: A file cannot be written.
    """
    with write_together([path, get_source_path(path)], overwrite=overwrite) as [run_file, source_file]:
        with open(run_file, "w", encoding="utf-8") as file:
            file.writelines(format_run(run))
        write_source(source_file, run_file, searches, questions, fusion, reranking)


def check_same_questions(
    run: str | os.PathLike[str],
    questions: Mapping[str, int],
    other: str | os.PathLike[str],
    other_questions: Mapping[str, int],
) -> int:
    """Check that a run and another file use the same ids for the same questions.

    A few questions may differ because they were corrected. If the files belong to different data sets, nearly all
    questions differ.

    Args:
        run: File of the run.
        questions: ``hash_words`` of the run's questions by id.
        other: File of another run, or of questions.
        other_questions: ``hash_words`` of the other file's questions by id.

    Returns:
        Number of common ids whose questions differ.

    Raises:
        ArtifactError: The questions of more than half of the common ids differ.
    """
    common = questions.keys() & other_questions.keys()
    changed = sum(questions[question_id] != other_questions[question_id] for question_id in common)
    if 2 * changed > len(common):
        raise ArtifactError(
            f"{os.fspath(run)}: has other questions than {os.fspath(other)}: {changed} of {len(common)} common ids "
            "have different texts. Use a run for the same questions."
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
    """Check that a run comes from a given collection. A compressed copy counts as the same collection.

    Args:
        run: File of the run.
        searches: Searches of the run, from its source.
        other: File of the collection, or of another run over the collection.
        sha256: SHA-256 of the collection.
        collection: File of the collection if ``other`` is a run.

    Raises:
        ArtifactError: The run comes from a different collection.
    """
    for search in searches:
        if search.by_windows or search.collection_sha256 == sha256:
            continue
        if not _is_copy(search.collection, search.collection_sha256, collection or other, sha256):
            raise ArtifactError(
                f"{os.fspath(run)}: its collection {search.collection} is not the collection of {os.fspath(other)}. "
                "Search the same collection for both."
            )


def _is_copy(path: str, sha256: str, other: str | os.PathLike[str], other_sha256: str) -> bool:
    """Return whether one file is a compressed copy of another. Both must still have their hashes."""
    copies = [(path, sha256), (os.fspath(other), other_sha256)]
    try:
        if all(detect_form(each).compression is None for each, _ in copies):
            return False
        is_unchanged = all(hash_file(each) == digest for each, digest in copies)
        return is_unchanged and _hash_unpacked(path) == _hash_unpacked(os.fspath(other))
    except (DataError, OSError, UsageError):  # The searched file is gone or has changed.
        return False


def _hash_unpacked(path: str) -> str:
    """Return the SHA-256 of a file's decompressed content."""
    digest = hashlib.sha256()
    for chunk in read_chunks(path, detect_form(path)):
        digest.update(chunk)
    return digest.hexdigest()
