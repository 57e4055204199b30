"""Approximate search by FAISS: an index finds candidates, the embeddings on disk give their scores.

So scores, and the order of what is found, are those of the exact search; what an index can do wrong is to miss.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
from torch import Tensor

from text.artifacts import atomic_write, check_facts, check_writable, read_facts, read_json, write_json
from text.errors import ArtifactError, explain_missing
from text.progress import show_progress
from text.retrieval.exact import BLOCK, Found, check_questions, in_order
from text.retrieval.index_files import INDEX, NOTE, IndexNote
from text.retrieval.mapped_files import MappedFile
from text.retrieval.shards import EmbeddingShards

with explain_missing("faiss"):
    import faiss

_FATAL = re.compile(r"(?<!\d)0+(?!\d)|(HNSW1|NSG[12])(?!\d)")
_FROM_ONE = re.compile(r"(nprobe|efSearch|k_factor\w*)$")
"""Parameters that find nothing with 0."""
TRAINED_ON = 1 << 18
"""Most embeddings that a quantizer or clustering is trained on, evenly out of all."""


class FaissIndex:
    """An index over the rows of embeddings.

    Args:
        index: Of FAISS, with as many rows.
        shards: What it was built of.
        file: The file from which the index was loaded, which FAISS may have mapped.

    Raises:
        ArtifactError: The two have not as many rows, of as many numbers.
    """

    def __init__(self, index: faiss.Index, shards: EmbeddingShards, file: MappedFile | None = None) -> None:
        expected = (len(shards), shards.plan.embedding_dim)
        if (index.ntotal, index.d) != expected:
            raise ArtifactError(f"{shards.folder}: index of {(index.ntotal, index.d)} rows and numbers, not {expected}")
        self.index = index
        self.shards = shards
        self._file = file

    @classmethod
    def build(cls, shards: EmbeddingShards, factory: str, folder: str | os.PathLike[str]) -> FaissIndex:
        """Builds an index and writes it, with a manifest.

        Args:
            shards: Embeddings of the collection.
            factory: FAISS's name of an index, such as "HNSW32", "IVF4096,SQ8" or "OPQ64,IVF4096,PQ64".
            folder: Where it goes.

        Raises:
            ValueError: FAISS knows no such index, or cannot train it on so few rows.
            UsageError: A folder, a device or a pipe stands in the place of a file of the index.
            OSError: The folder cannot be written, or the disk is full.
        """
        path, note = Path(folder, INDEX), Path(folder, NOTE)
        for each in (path, note):
            check_writable(each, overwrite=True)
        index = make_index(factory, shards.plan.embedding_dim)
        try:
            if not index.is_trained:
                rows = np.unique(np.linspace(0, len(shards) - 1, TRAINED_ON).astype(np.int64))
                index.train(shards.rows(rows))  # pyright: ignore[reportCallIssue]
            with show_progress("Indexing", len(shards), "passages") as progress:
                for _, block in shards.blocks(BLOCK):
                    index.add(block)  # pyright: ignore[reportCallIssue]
                    progress.update(len(block))
        except RuntimeError as error:
            raise ValueError(
                f'index is "{factory}": FAISS cannot build it from {len(shards)} embeddings ({_reason(error)}). '
                "Use another factory string."
            ) from None
        with atomic_write(path) as temporary:
            _write_index(index, temporary, path)
        write_json(note, IndexNote(factory, shards.plan.key, read_facts(path)))
        return cls(index, shards)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], shards: EmbeddingShards, *, check_hashes: bool = True) -> FaissIndex:
        """Opens an index; it is memory-mapped where its kind can be.

        Raises:
            FileNotFoundError: There is none.
            ArtifactError: Its file is missing or damaged, or it is of other embeddings.
        """
        path = Path(folder, INDEX)
        try:
            note = read_json(Path(folder, NOTE), IndexNote)
            if note.plan != shards.plan.key:
                raise ArtifactError(f"{folder}: index of other embeddings than {shards.folder}.")
            check_facts(path, note.file, check_hash=check_hashes)
        except ArtifactError as error:
            raise ArtifactError(f"{error} Remove {folder}, and the index is built again.") from None
        file = MappedFile(path)
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise ArtifactError(f"{path}: no index of FAISS ({_reason(error)}). Remove {folder}.") from None
        _stop_reading_ahead(index)
        return cls(index, shards, file)

    def set_parameters(self, parameters: str) -> None:
        """Set search parameters under the names of FAISS, such as "efSearch=256" or "nprobe=32".

        Raises:
            ValueError: This kind of index has no such parameter, or its value is out of range.
        """
        _set_parameters(self.index, parameters)

    def search(self, questions: Tensor, k: int, *, num_candidates: int | None = None) -> list[Found]:
        """The k best of the candidates that the index finds.

        Args:
            questions: (N, D) float32, by the model of the passages.
            k: Passages for a question; fewer, where the index finds fewer.
            num_candidates: By default four times k.

        Raises:
            ValueError: As for ``search_exact``, or FAISS cannot search with these parameters.
            ArtifactError: A file of the index or of the embeddings has changed since it was opened.
        """
        check_questions(self.shards, questions, k)
        if self._file is not None:
            self._file.check()
        wanted = min(max(k, num_candidates or 4 * k), len(self.shards))
        try:
            _, rows = self.index.search(questions.float().contiguous().numpy(), wanted)  # pyright: ignore[reportCallIssue]
        except RuntimeError as error:
            raise ValueError(
                f"{self.shards.folder}: FAISS cannot search the index ({_reason(error)}). Use other index parameters."
            ) from None
        # Where there are fewer, FAISS fills up with -1.
        return [
            in_order(self.shards, question, of_question[of_question >= 0], k)
            for question, of_question in zip(questions, rows, strict=True)
        ]


def make_index(factory: str, width: int, parameters: str = "") -> faiss.Index:
    """Return an empty index. It is quick, so it also checks a factory string and parameters before slow work.

    Args:
        factory: FAISS's name of an index, such as "HNSW32".
        width: D.
        parameters: Search parameters, such as "efSearch=256".

    Raises:
        ValueError: FAISS knows no such index, or the index has no such parameter.
    """
    message = f'index is "{factory}", which FAISS cannot build for {width} dimensions'
    if _FATAL.search(factory):  # FAISS would end the process, or never return.
        raise ValueError(f"{message}: a number is too small. Use larger numbers.")
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(f"{message} ({_reason(error)}). Use a factory string such as HNSW32.") from None
    _set_parameters(index, parameters)
    return index


def _stop_reading_ahead(index: faiss.Index) -> None:
    """Let only searches read a mapped index.

    FAISS otherwise starts threads that read the lists of a search ahead. They go on after the search has returned, when
    nobody looks at the size of the file any more: a file that becomes shorter then kills the process (SIGBUS).
    """
    ivf = faiss.try_extract_index_ivf(index)
    lists = None if ivf is None or ivf.invlists is None else faiss.downcast_InvertedLists(ivf.invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists):
        lists.prefetch_nthread = 0


def _write_index(index: faiss.Index, temporary: Path, path: Path) -> None:
    """Write an index to a temporary file of ``path``.

    Raises:
        OSError: The disk is full or fails. FAISS does not say why.
    """
    try:
        faiss.write_index(index, str(temporary))
    except RuntimeError as error:
        raise OSError(errno.ENOSPC, f"FAISS cannot write it: {_reason(error)}", os.fspath(path)) from None


def _set_parameters(index: faiss.Index, parameters: str) -> None:
    seen = set()
    for parameter in parameters.split(",") if parameters else ():
        name, _, value = parameter.partition("=")
        kind = "an integer from 1 on" if _FROM_ONE.search(name) else "an integer from 0 on"
        is_number = re.fullmatch(r"\d{1,9}", value) and (int(value) > 0 or not _FROM_ONE.search(name))
        if not is_number or name in seen:
            fault = f"{name} is given twice" if name in seen else f'"{parameter}" is not NAME=NUMBER with {kind}'
            raise ValueError(f'index_parameters are "{parameters}": {fault}. Write them such as nprobe=32,ht=20.')
        seen.add(name)
        try:
            faiss.ParameterSpace().set_index_parameter(index, name, int(value))
        except RuntimeError:
            raise ValueError(
                f'index_parameters are "{parameters}": this kind of index has no "{name}". '
                "Use nprobe for IVF and efSearch for HNSW."
            ) from None


def _reason(error: RuntimeError) -> str:
    """Return the message of a FAISS error without the place in its code."""
    return str(error).strip().splitlines()[-1].rpartition(": ")[2]
