"""The same search by Milvus: embedded in a file, or a cluster by its address.

Embeddings are uploaded once, into a collection that is named after their plan: a search never meets those of another
model or of other texts. Whether it is exact depends on the kind of index; FLAT is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pymilvus import DataType, MilvusClient, MilvusException
from torch import Tensor
from tqdm import tqdm

from text.retrieval.exact import Found, check_questions
from text.retrieval.shards import EmbeddingShards

_ROWS = 1 << 10
"""Sent at once."""
_ID_BYTES = 512
_LARGEST_K = 16384


class MilvusIndex:
    """Embeddings in Milvus.

    Args:
        shards: What is searched.
        uri: A file that ends in .db (milvus-lite), or an address such as http://localhost:19530.
        token: "user:password" or an API key, where the cluster asks for one.
        index_type: Of Milvus, such as "FLAT", "HNSW", "IVF_FLAT".
        index_params: Of it, such as {"M": 32}.

    Raises:
        ConnectionError: Milvus cannot be reached, or refuses.
    """

    def __init__(
        self,
        shards: EmbeddingShards,
        uri: str | os.PathLike[str],
        *,
        token: str = "",
        index_type: str = "FLAT",
        index_params: dict[str, Any] | None = None,
    ) -> None:
        self.shards = shards
        self.name = f"passages_{shards.plan.key[:16]}_{index_type.lower()}"
        self.uri = os.fspath(uri)
        with self._told():
            self.client = MilvusClient(self.uri, token=token)
            if self._num_rows() != len(shards):
                self._upload(index_type, index_params or {})
            self.client.load_collection(self.name)

    def search(self, questions: Tensor, k: int) -> list[Found]:
        """The k best, by Milvus' scores; of equal ones, the larger id first.

        Raises:
            ValueError: As for ``search_exact``; or k is above 16,384, which is Milvus' own limit.
            ConnectionError: Milvus cannot be reached, or refuses.
        """
        check_questions(self.shards, questions, k)
        if k > _LARGEST_K:
            raise ValueError(f"k is {k}; expected {_LARGEST_K} or less, the limit of Milvus")
        found = []
        with self._told():
            for some in questions.float().split(_ROWS):
                hits = self.client.search(self.name, data=list(some.numpy()), limit=k, output_fields=["passage_id"])
                found += [_in_order(of_question) for of_question in hits]
        return found

    def close(self) -> None:
        self.client.close()

    def _num_rows(self) -> int:
        if not self.client.has_collection(self.name):
            return 0
        return int(self.client.get_collection_stats(self.name)["row_count"])

    def _upload(self, index_type: str, params: dict[str, Any]) -> None:
        """All rows; what a broken upload left is dropped first."""
        with suppress(MilvusException):
            self.client.drop_collection(self.name)
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("passage_id", DataType.VARCHAR, is_primary=True, max_length=_ID_BYTES)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=self.shards.plan.embedding_dim)
        index = self.client.prepare_index_params()
        index.add_index("embedding", index_type=index_type, metric_type="IP", params=params)
        self.client.create_collection(self.name, schema=schema, index_params=index)
        with tqdm(total=len(self.shards), unit=" passages", desc="Uploading", disable=None) as progress:
            for first, block in self.shards.blocks(_ROWS):
                ids = [self.shards.passage_id(row) for row in range(first, first + len(block))]
                rows = [{"passage_id": name, "embedding": row} for name, row in zip(ids, block, strict=True)]
                self.client.insert(self.name, rows)
                progress.update(len(block))
        self.client.flush(self.name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An error of Milvus in one line, with its address."""
        try:
            yield
        except MilvusException as error:
            raise ConnectionError(f"{self.uri}: {str(error.message).splitlines()[0]}; expected Milvus there") from None


def _in_order(hits: Any) -> Found:
    pairs = sorted(((float(hit["distance"]), str(hit["passage_id"])) for hit in hits), reverse=True)
    return Found([passage_id for _, passage_id in pairs], [score for score, _ in pairs])
