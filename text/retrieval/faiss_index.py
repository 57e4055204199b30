"""Approximate search with FAISS. The index finds candidates, and the embeddings on disk give their scores.

Scores and their order are therefore the same as in exact search. The index can only miss passages.

Dimensions: N questions; D width of an embedding.
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
from text.retrieval.exact import BLOCK, Hits, check_questions, rank_rows
from text.retrieval.index_files import INDEX, METADATA, IndexMetadata
from text.retrieval.mapped_files import MappedFile
from text.retrieval.shards import EmbeddingShards

with explain_missing("faiss"):
    import faiss

_FATAL = re.compile(r"(?<!\d)0+(?!\d)|(HNSW1|NSG[12])(?!\d)")
"""Factory strings that make FAISS crash or hang."""
_FROM_ONE = re.compile(r"(nprobe|efSearch|k_factor\w*)$")
"""Search parameters for which 0 finds nothing."""
TRAINED_ON = 1 << 18
"""Maximum number of embeddings that train a quantizer or a clustering. They are spread evenly over the collection."""


class FaissIndex:
    """A FAISS index of the embeddings of a collection.

    Args:
        index: The index of FAISS. Its ids are the rows of the embeddings.
        shards: The embeddings from which the index was built.
        file: The file of a loaded index, which FAISS may have memory-mapped.

    Raises:
        ArtifactError: The index and the embeddings differ in their number of rows or in their width.
    """

    def __init__(self, index: faiss.Index, shards: EmbeddingShards, file: MappedFile | None = None) -> None:
        expected = (len(shards), shards.plan.embedding_dim)
        if (index.ntotal, index.d) != expected:
            raise ArtifactError(
                f"{shards.folder}: the index has shape {(index.ntotal, index.d)}, but the embeddings have {expected}. "
                "Build the index again."
            )
        self.index = index
        self.shards = shards
        self._file = file

    @classmethod
    def build(cls, shards: EmbeddingShards, factory: str, folder: str | os.PathLike[str]) -> FaissIndex:
        """Build an index, and write it with its metadata.

        Args:
            shards: Embeddings of the collection.
            factory: FAISS factory string, such as "HNSW32", "IVF4096,SQ8" or "OPQ64,IVF4096,PQ64".
            folder: Output folder of the index.

        Raises:
            ValueError: FAISS does not know the index, or there are too few embeddings to train it.
            UsageError: A folder, a device or a pipe has the name of an index file.
            OSError: The folder cannot be written, or the disk is full.
        """
        path, metadata = Path(folder, INDEX), Path(folder, METADATA)
        for each in (path, metadata):
            check_writable(each, overwrite=True)
        index = make_index(factory, shards.plan.embedding_dim)
        try:
            if not index.is_trained:
                rows = np.unique(np.linspace(0, len(shards) - 1, TRAINED_ON).astype(np.int64))
                index.train(shards.read_rows(rows))  # pyright: ignore[reportCallIssue]
            with show_progress("Indexing", len(shards), "passages") as progress:
                for _, block in shards.iter_blocks(BLOCK):
                    index.add(block)  # pyright: ignore[reportCallIssue]
                    progress.update(len(block))
        except RuntimeError as error:
            raise ValueError(
                f'index is "{factory}": FAISS cannot build it from {len(shards)} embeddings ({_get_reason(error)}). '
                "Use a factory string that needs fewer embeddings, such as Flat or HNSW32."
            ) from None
        with atomic_write(path) as temporary:
            _write_index(index, temporary, path)
        write_json(metadata, IndexMetadata(factory, shards.plan.key, read_facts(path)))
        return cls(index, shards)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], shards: EmbeddingShards, *, check_hashes: bool = True) -> FaissIndex:
        """Load an index. It is memory-mapped if FAISS supports this for its type.

        Args:
            folder: Folder of the index.
            shards: The embeddings from which the index was built.
            check_hashes: Read the file once and compare its hash. Otherwise only the size is compared.

        Raises:
            FileNotFoundError: The folder holds no index.
            ArtifactError: The index is missing or damaged, or was built from other embeddings.
        """
        path = Path(folder, INDEX)
        try:
            metadata = read_json(Path(folder, METADATA), IndexMetadata)
            if metadata.plan != shards.plan.key:
                raise ArtifactError(f"{folder}: the index was not built from the embeddings in {shards.folder}.")
            check_facts(path, metadata.file, check_hash=check_hashes)
        except ArtifactError as error:
            raise ArtifactError(f"{error} Remove {folder} to build the index again.") from None
        file = MappedFile(path)
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise ArtifactError(
                f"{path}: not a FAISS index ({_get_reason(error)}). Remove {folder} to build the index again."
            ) from None
        _turn_prefetch_off(index)
        return cls(index, shards, file)

    def set_parameters(self, parameters: str) -> None:
        """Set FAISS search parameters, such as "efSearch=256" or "nprobe=32".

        Raises:
            ValueError: This type of index has no such parameter, or the value is out of range.
        """
        _set_parameters(self.index, parameters)

    def search(self, questions: Tensor, k: int, *, num_candidates: int | None = None) -> list[Hits]:
        """Return the k best of the candidates that the index finds for each question.

        Args:
            questions: (N, D) float32, embedded by the model that encoded the passages.
            k: Maximum number of passages per question. There are fewer if the index finds fewer.
            num_candidates: Candidates per question, which are scored exactly. By default 4 k.

        Raises:
            ValueError: As for ``search_exact``, or FAISS cannot search with the parameters of the index.
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
                f"{self.shards.folder}: FAISS cannot search the index ({_get_reason(error)}). "
                "Use other index parameters."
            ) from None
        # FAISS fills missing candidates with -1.
        return [
            rank_rows(self.shards, question, candidates[candidates >= 0], k)
            for question, candidates in zip(questions, rows, strict=True)
        ]


def make_index(factory: str, width: int, parameters: str = "") -> faiss.Index:
    """Return an empty index. This is fast, so it can check a factory string and parameters before slow work.

    Args:
        factory: FAISS factory string, such as "HNSW32".
        width: D.
        parameters: Search parameters, such as "efSearch=256".

    Raises:
        ValueError: FAISS does not know the index, or the index has no such parameter.
    """
    message = f'index is "{factory}", which FAISS cannot build for {width} dimensions'
    if _FATAL.search(factory):  # FAISS would crash or hang.
        raise ValueError(f"{message}: a number in it is too small. Use a factory string such as HNSW32.")
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(f"{message} ({_get_reason(error)}). Use a factory string such as HNSW32.") from None
    _set_parameters(index, parameters)
    return index


def _turn_prefetch_off(index: faiss.Index) -> None:
    """Turn off the prefetch threads of a memory-mapped index.

    The threads would continue to read the file after a search has returned. If the file were truncated then, the read
    would kill the process (SIGBUS).
    """
    ivf = faiss.try_extract_index_ivf(index)
    lists = None if ivf is None or ivf.invlists is None else faiss.downcast_InvertedLists(ivf.invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists):
        lists.prefetch_nthread = 0


def _write_index(index: faiss.Index, temporary: Path, path: Path) -> None:
    """Write an index to a temporary file that will be renamed to ``path``.

    Raises:
        OSError: The disk is full or fails. FAISS reports no error number, so the error is ENOSPC.
    """
    try:
        faiss.write_index(index, str(temporary))
    except RuntimeError as error:
        raise OSError(errno.ENOSPC, f"FAISS cannot write the index: {_get_reason(error)}", os.fspath(path)) from None


def _set_parameters(index: faiss.Index, parameters: str) -> None:
    seen = set()
    for parameter in parameters.split(",") if parameters else ():
        name, _, value = parameter.partition("=")
        kind = "an integer of 1 or more" if _FROM_ONE.search(name) else "an integer of 0 or more"
        is_number = re.fullmatch(r"\d{1,9}", value) and (int(value) > 0 or not _FROM_ONE.search(name))
        if not is_number or name in seen:
            fault = f"{name} is given twice" if name in seen else f'"{parameter}" is not NAME=NUMBER with {kind}'
            raise ValueError(f'index_parameters are "{parameters}": {fault}. An example is nprobe=32,ht=20.')
        seen.add(name)
        try:
            faiss.ParameterSpace().set_index_parameter(index, name, int(value))
        except RuntimeError:
            raise ValueError(
                f'index_parameters are "{parameters}": this type of index has no parameter "{name}". '
                "Use nprobe for IVF and efSearch for HNSW."
            ) from None


def _get_reason(error: RuntimeError) -> str:
    """Return the message of a FAISS error without the location in its source code."""
    return str(error).strip().splitlines()[-1].rpartition(": ")[2]
