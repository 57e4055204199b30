"""Approximate search by FAISS: an index finds candidates, the embeddings on disk give their scores.

So scores, and the order of what is found, are those of the exact search; what an index can do wrong is to miss.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import faiss
import numpy as np
from torch import Tensor

from text.artifacts import atomic_write, remove_leftovers, sha256, write_json
from text.errors import ArtifactError
from text.progress import show_progress
from text.retrieval.exact import BLOCK, Found, check_questions, in_order
from text.retrieval.shards import EmbeddingShards

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

    Raises:
        ArtifactError: The two have not as many rows, of as many numbers.
    """

    def __init__(self, index: faiss.Index, shards: EmbeddingShards) -> None:
        expected = (len(shards), shards.plan.embedding_dim)
        if (index.ntotal, index.d) != expected:
            raise ArtifactError(f"{shards.folder}: index of {(index.ntotal, index.d)} rows and numbers, not {expected}")
        self.index = index
        self.shards = shards

    @classmethod
    def build(cls, shards: EmbeddingShards, factory: str, folder: str | os.PathLike[str]) -> FaissIndex:
        """Builds an index and writes it, with a manifest.

        Args:
            shards: Embeddings of the collection.
            factory: FAISS's name of an index, such as "HNSW32", "IVF4096,SQ8" or "OPQ64,IVF4096,PQ64".
            folder: Where it goes.

        Raises:
            ValueError: FAISS knows no such index, or cannot train it on so few rows.
            OSError: The folder cannot be written, or the disk is full.
        """
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
        Path(folder).mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        Path(folder, "index.json").unlink(missing_ok=True)
        with atomic_write(Path(folder, "index.faiss")) as temporary:
            faiss.write_index(index, str(temporary))
        digest = sha256(Path(folder, "index.faiss"))
        write_json(Path(folder, "index.json"), {"factory": factory, "plan": shards.plan.key, "sha256": digest})
        return cls(index, shards)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], shards: EmbeddingShards, *, check_hashes: bool = True) -> FaissIndex:
        """Opens an index; it is memory-mapped where its kind can be.

        Raises:
            FileNotFoundError: There is none.
            ArtifactError: It is damaged, or of other embeddings.
        """
        path, note = Path(folder, "index.faiss"), Path(folder, "index.json")
        try:
            facts = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:
            raise ArtifactError(f"{note}: not JSON. Remove {folder}, so that the index is built again.") from None
        if facts["plan"] != shards.plan.key:
            raise ArtifactError(f"{folder}: index of other embeddings than {shards.folder}; expected one of these")
        if check_hashes and (found := sha256(path)) != facts["sha256"]:
            raise ArtifactError(f"{path}: SHA-256 is {found}; expected {facts['sha256']}, it is damaged")
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise ArtifactError(f"{path}: {_reason(error)}; expected an index of FAISS") from None
        return cls(index, shards)

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
        """
        check_questions(self.shards, questions, k)
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
