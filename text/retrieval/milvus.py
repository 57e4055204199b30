"""Search with Milvus, either in a local file (Milvus Lite) or on a server.

Embeddings are uploaded once, to a Milvus collection whose name contains the key of their plan. Embeddings of another
model or of other texts therefore never mix. The search is exact with the index type FLAT and approximate with others.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any, ClassVar

from torch import Tensor

from text.errors import ArtifactError, explain_missing
from text.progress import show_progress
from text.retrieval.exact import Hits, check_questions
from text.retrieval.shards import EmbeddingShards

with explain_missing("milvus"):
    from pymilvus import DataType, MilvusClient, MilvusException
    from pymilvus.exceptions import ConnectionConfigException, ParamError

_ROWS = 1 << 10
"""Embeddings per request."""
_ID_BYTES = 512
"""Maximum length of a passage id in bytes."""
_LARGEST_K = 16384
"""Maximum number of passages per question in Milvus."""
_LOCAL_TYPES = ("FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8", "AUTOINDEX")
"""Index types of Milvus Lite. It accepts any other word at first, and logs a traceback later."""


class MilvusIndex:
    """An index of embeddings in Milvus.

    Several objects in one process can share a file. Milvus Lite runs a server for the file inside this process, which
    stops when the last of these objects is closed.

    Args:
        shards: The embeddings to search. They are uploaded if Milvus does not have them yet.
        uri: A file that ends in .db (Milvus Lite), or an address such as http://localhost:19530.
        token: "user:password" or an API key, if the server requires one.
        index_type: Index type, such as "FLAT", "HNSW" or "IVF_FLAT".
        index_params: Settings of the index, such as {"M": 32}.

    Raises:
        ValueError: ``uri`` is neither an address nor a Milvus Lite file, the index type is unknown, or an id is too
            long for Milvus.
        ConnectionError: Milvus cannot be reached, or refuses the request.
        ArtifactError: The file is damaged. Only Milvus can detect this, because the file has no known hash.
    """

    _open_files: ClassVar[Counter[str]] = Counter()
    """Number of open objects per file."""

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
        if index_params:
            self.name += f"_{sha256(json.dumps(index_params, sort_keys=True).encode()).hexdigest()[:8]}"
        self.uri = os.fspath(uri)
        self._file = os.path.abspath(self.uri) if self.uri.endswith(".db") else None
        if self._file is not None and index_type not in _LOCAL_TYPES:
            raise ValueError(f'index_type is "{index_type}". A Milvus Lite file supports {", ".join(_LOCAL_TYPES)}.')
        with self._translate_errors():
            self.client = MilvusClient(self.uri, token=token)
        if self._file is not None:
            self._open_files[self._file] += 1
        try:
            self._load(index_type, index_params or {})
        except BaseException:
            self.close()
            raise

    def _load(self, index_type: str, index_params: dict[str, Any]) -> None:
        with self._translate_errors():
            if self._count_rows() != len(self.shards):
                self._upload(index_type, index_params)
            self.client.load_collection(self.name)

    def search(self, questions: Tensor, k: int) -> list[Hits]:
        """Return the k best passages for each question, with the scores that Milvus computes.

        Equal scores are ordered by passage id, highest first.

        Args:
            questions: (N, D) float32, embedded by the model that encoded the passages.
            k: Maximum number of passages per question.

        Raises:
            ValueError: As for ``search_exact``, or k is above 16,384, the limit of Milvus.
            ConnectionError: Milvus cannot be reached, or refuses the request.
        """
        check_questions(self.shards, questions, k)
        if k > _LARGEST_K:
            raise ValueError(f"k is {k}, but Milvus returns at most {_LARGEST_K} passages. Use a smaller k.")
        hits = []
        with self._translate_errors():
            for chunk in questions.float().split(_ROWS):
                results = self.client.search(self.name, data=list(chunk.numpy()), limit=k, output_fields=["passage_id"])
                hits += [_sort_hits(result) for result in results]
        return hits

    def close(self) -> None:
        """Close the connection. For a file, stop its server if no other object uses it."""
        self.client.close()
        if self._file is None:
            return
        file, self._file = self._file, None
        self._open_files[file] -= 1
        if not self._open_files[file]:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(file)

    def _count_rows(self) -> int:
        if not self.client.has_collection(self.name):
            return 0
        return int(self.client.get_collection_stats(self.name)["row_count"])

    def _upload(self, index_type: str, params: dict[str, Any]) -> None:
        """Upload all rows. An incomplete earlier upload is removed first."""
        if too_long := next((name for name in self.shards.iter_passage_ids() if len(name.encode()) > _ID_BYTES), None):
            raise ValueError(
                f"{self.shards.folder}: the id {too_long[:40]}... has more than {_ID_BYTES} bytes. "
                "This is the limit of Milvus: use shorter ids, or another index."
            )
        with suppress(MilvusException):
            self.client.drop_collection(self.name)
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("passage_id", DataType.VARCHAR, is_primary=True, max_length=_ID_BYTES)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=self.shards.plan.embedding_dim)
        index = self.client.prepare_index_params()
        index.add_index("embedding", index_type=index_type, metric_type="IP", params=params)
        self.client.create_collection(self.name, schema=schema, index_params=index)
        with show_progress("Uploading", len(self.shards), "passages") as progress:
            for first, block in self.shards.iter_blocks(_ROWS):
                ids = [self.shards.get_passage_id(row) for row in range(first, first + len(block))]
                rows = [{"passage_id": name, "embedding": row} for name, row in zip(ids, block, strict=True)]
                self.client.insert(self.name, rows)
                progress.update(len(block))
        self.client.flush(self.name)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate an exception of Milvus into one line with the file or address."""
        try:
            yield
        except (ConnectionConfigException, ParamError) as error:
            raise ValueError(
                f'milvus is "{self.uri}": {_get_first_line(error)}. Use a file that ends in .db, or an address.'
            ) from None
        except MilvusException as error:
            if self.uri.endswith(".db"):
                raise ArtifactError(
                    f"{self.uri}: {_get_first_line(error)}. Remove the file to upload the embeddings again."
                ) from None
            raise ConnectionError(
                f"{self.uri}: {_get_first_line(error)}. Check that Milvus is running and supports this index."
            ) from None


def _get_first_line(error: MilvusException) -> str:
    return str(error.message).splitlines()[0]


def _sort_hits(result: Any) -> Hits:
    pairs = sorted(((float(hit["distance"]), str(hit["passage_id"])) for hit in result), reverse=True)
    return Hits([passage_id for _, passage_id in pairs], [score for score, _ in pairs])
