"""Search a BM25 index on disk, shard by shard. The results equal the results of ``BM25`` in memory.

Dimensions: W words, R passages and T postings of a shard; N passages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from text.datasets import PassageCollection
from text.errors import ArtifactError
from text.progress import track
from text.retrieval.arguments import check_k, list_questions
from text.retrieval.bm25_folder import NUMBERS, WORDS, load_array, read_index_plan
from text.retrieval.bm25_words import WordStems
from text.retrieval.exact import Hits
from text.retrieval.mapped_files import MappedFile, map_array
from text.retrieval.plan import get_shard_path


class BM25Shards:
    """A BM25 index on disk, which is memory-mapped. ``text.retrieval.bm25_building.build_bm25`` builds it.

    The memory of a search holds the scores of one shard. The operating system caches the postings that were read.

    Args:
        folder: Folder of the index.
        collection: The passages of the index, in which ids are looked up.
        check_hashes: Read all files once and compare their hashes. Otherwise only sizes are compared.

    Raises:
        FileNotFoundError: The folder holds no index.
        ArtifactError: The index is not complete, is damaged, or belongs to another collection.
    """

    def __init__(
        self, folder: str | os.PathLike[str], collection: PassageCollection, *, check_hashes: bool = True
    ) -> None:
        self.plan = read_index_plan(folder, check_hashes=check_hashes)
        if self.plan.collection_sha256 != collection.sha256:
            raise ArtifactError(f"{os.fspath(folder)}: built from another collection than {collection.path}.")
        self._collection = collection
        self._hashes = load_array(Path(folder, WORDS), "int64", mapped=True)
        self._numbers = load_array(Path(folder, NUMBERS), "int32", mapped=True)
        self._find_stems = WordStems()
        self._shards = [_Shard(folder, shard, self.plan.get_shard_rows(shard)) for shard in range(self.plan.num_shards)]

    def search(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[Hits]:
        """Return the k passages with the highest scores for each question. See ``BM25.search``."""
        k, listed = check_k(k), list_questions(questions)
        extra_ids = extra_ids if extra_ids is not None else [()] * len(listed)
        pairs = zip(track(listed, "BM25", "questions"), extra_ids, strict=True)
        return [self._search_one(self._find_words(question), k, ids) for question, ids in pairs]

    def score_pairs(self, questions: Sequence[str], passage_ids: Sequence[str]) -> np.ndarray:
        """Return the (N,) float32 scores of N pairs of a question and a passage. See ``BM25.score_pairs``."""
        places = np.array([self._collection.find_row(name) for name in passage_ids], dtype=np.int64)
        rows_of = dict[str, list[int]]()
        for row, question in enumerate(questions):
            rows_of.setdefault(question, []).append(row)
        scores = np.zeros(len(places), dtype=np.float32)
        for question, rows in rows_of.items():
            scores[rows] = self._score_rows(self._find_words(question), places[rows])
        return scores

    def _find_words(self, question: str) -> list[int]:
        """Return the numbers of a question's words that occur in the collection."""
        hashes = np.array(self._find_stems(question), dtype=np.int64)
        places = np.searchsorted(self._hashes, hashes).clip(max=len(self._hashes) - 1)
        return self._numbers[places[self._hashes[places] == hashes]].tolist()

    def _search_one(self, words: Sequence[int], k: int, extra_ids: Sequence[str]) -> Hits:
        rows, scores, least = np.zeros(0, np.int64), np.zeros(0, np.float32), 0.0
        for shard in self._shards if words else ():
            found = shard.score(words)
            places = np.flatnonzero((found >= least) & (found > 0))
            rows = np.concatenate([rows, places + shard.rows.start])
            scores = np.concatenate([scores, found[places]])
            if len(rows) > k:
                least = np.partition(scores, -k)[-k]
                rows, scores = rows[scores >= least], scores[scores >= least]
        pairs = [(float(score), self._get_id(row)) for score, row in zip(scores, rows.tolist(), strict=True)]
        pairs = sorted(pairs, reverse=True)[:k]
        pairs += self._score_extra(words, set(extra_ids) - {passage_id for _, passage_id in pairs})
        return Hits([passage_id for _, passage_id in pairs], [score for score, _ in pairs])

    def _score_extra(self, words: Sequence[int], passage_ids: Iterable[str]) -> list[tuple[float, str]]:
        """Return the score and the id of passages, highest first. Ids that the collection lacks are left out."""
        names, rows = [], []
        for name in passage_ids:
            try:
                rows.append(self._collection.find_row(name))
            except KeyError:
                continue
            names.append(name)
        scores = self._score_rows(words, np.array(rows, dtype=np.int64)).tolist()
        return sorted(zip(scores, names, strict=True), reverse=True)

    def _score_rows(self, words: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """Return the (N,) scores of the passages at (N,) rows of the collection."""
        scores, numbers = np.zeros(len(rows), np.float32), rows // self.plan.shard_rows
        for number in np.unique(numbers).tolist() if words else ():
            shard, is_here = self._shards[number], numbers == number
            scores[is_here] = shard.score(words)[rows[is_here] - shard.rows.start]
        return scores

    def _get_id(self, row: int) -> str:
        number, place = divmod(row, self.plan.shard_rows)
        return self._shards[number].get_id(place)


class _Shard:
    """One shard of an index."""

    def __init__(self, folder: str | os.PathLike[str], shard: int, rows: range) -> None:
        def load(name: str, dtype: str) -> np.ndarray:
            file = MappedFile(get_shard_path(folder, shard, f".{name}.npy"))
            self._files.append(file)
            return map_array(file, dtype, load_array(file.path, dtype, mapped=True).shape)

        self.rows, self._files = rows, list[MappedFile]()
        self._words, self._starts = load("words", "int32"), load("starts", "int64")
        self._places, self._scores = load("rows", "int32"), load("scores", "float32")
        self._ends = load("ends", "int64")
        self._ids = MappedFile(get_shard_path(folder, shard, ".ids"))
        sizes = (len(self._words) + 1, len(self._places), len(self._ends))
        if sizes != (len(self._starts), len(self._scores), len(rows)):
            raise ArtifactError(f"{get_shard_path(folder, shard, '')}: its arrays do not match. Build the index again.")

    def score(self, words: Sequence[int]) -> np.ndarray:
        """Return the (R,) float32 scores of the passages of the shard for the words of a question."""
        for file in self._files:
            file.check()
        scores = np.zeros(len(self.rows), dtype=np.float32)
        places = np.searchsorted(self._words, np.array(words, dtype=np.int32))
        for word, place in zip(words, places.tolist(), strict=True):
            if place < len(self._words) and self._words[place] == word:
                part = slice(int(self._starts[place]), int(self._starts[place + 1]))
                scores[self._places[part]] += self._scores[part]
        return scores

    def get_id(self, place: int) -> str:
        """Return the id of the passage at a place in the shard."""
        self._ids.check()
        start = int(self._ends[place - 1]) if place else 0
        return self._ids.content[start : int(self._ends[place])].decode()
