"""``dpr-text serve``: a search page and a JSON interface.

    dpr-text serve --model=runs/nq/model --embeddings=runs/nq/embeddings
    dpr-text serve --model=a/model --embeddings=a/e --other_model=b/model --other_embeddings=b/e --bm25

The page shows the results of several searches side by side. With ``--fusion``, one of them is a hybrid search. After
SIGTERM, SIGINT or SIGHUP the server answers the pending questions and stops.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from text.commands.cli import number_field, pick_arguments
from text.commands.model_paths import model_path_field
from text.commands.searchers import fuse_served_searches, rerank_served_searches
from text.errors import UsageError

OPEN_TO_OTHERS = (
    "--host={host}: everyone who can reach this address can read the whole collection. There is no password and no "
    "encryption. To require a password, use 127.0.0.1 behind a proxy."
)


@dataclass(frozen=True, kw_only=True)
class ServeFlags:
    """Serve a search page and a JSON interface over encoded passages.

    Examples::

        dpr-text serve --model=runs/nq/model --embeddings=runs/nq-passages --bm25
    """

    model: str = model_path_field()
    """Folder of the model that encoded the passages."""
    embeddings: str
    """Folder of the embeddings (dpr-text encode). Their collection must still be at its path."""
    index: str | None = None
    """FAISS factory string for approximate search, such as HNSW32 or IVF4096,SQ8. The index is built next to the
    embeddings on first use; without an index, search is exact."""
    index_parameters: str = ""
    """Search-time parameters of the FAISS index, such as efSearch=256."""
    other_model: str | None = model_path_field(None)
    """Second model, to show its results next to those of the first. Requires --other_embeddings."""
    other_embeddings: str | None = None
    """Folder of the second model's embeddings."""
    bm25: bool = False
    """Also search the collection with BM25, and show these results too."""
    fusion: Literal["ranks", "scores"] | None = field(default=None, metadata={"bare": "ranks"})
    """Also fuse --model and BM25 (hybrid search), by reciprocal rank fusion (ranks) or normalized scores (scores), and
    show the result in the first column. Requires --bm25."""
    fusion_weight: float | None = number_field(None, least=0, most=1)
    """Weight of the model in the fusion, from 0 to 1. BM25 has 1 minus this weight. The default is 0.5."""
    fusion_depth: int | None = number_field(None, least=1)
    """Number of passages per question that --model and BM25 find before the fusion. The default is 100, or --max_k if
    it is larger."""
    rerank: str | None = model_path_field(None)
    """Folder of a reranker. A new first column shows the passages of the first search after reranking, each with its
    rank before reranking."""
    rerank_k: int | None = number_field(None, least=1)
    """Number of passages per question that --rerank sorts. The default is 50."""
    k: int = 10
    """Number of passages per question if the request does not give a number."""
    max_k: int = 100
    """Maximum number of passages that a request may ask for."""
    max_characters: int = number_field(1000, least=1)
    """Maximum length of a question in characters. Longer questions are refused."""
    host: str = "127.0.0.1"
    """Address to listen on. There is no password, so everyone who can reach the address can search."""
    allowed_hosts: list[str] = field(default_factory=list)
    """Host names that clients use to reach the server through a proxy. Requests for names other than these, --host and
    localhost are refused (protection against DNS rebinding)."""
    port: int = number_field(8000, least=0, most=65535)
    """Port to listen on. 0 picks a free port."""
    max_batch: int = number_field(32, least=1)
    """Maximum number of questions to encode and search together."""
    queue_size: int = number_field(256, least=1)
    """Maximum number of waiting questions. Further questions get status 503."""
    encoder_precision: Literal["float32", "bfloat16", "float16", "int8"] | None = None
    """Precision of the question encoder. The default is float32 on a CPU, bfloat16 on a GPU, and float16 on a GPU older
    than Ampere. int8 needs a CPU, and float16 needs a GPU."""
    device: str | None = None
    """Device for the encoder and the search, such as cpu or cuda. By default, a GPU is used if there is one."""
    check_hashes: bool = True
    """Verify the hashes of all embedding files at the start. With false, only the file sizes are verified, which is
    faster."""

    def __post_init__(self) -> None:
        if (self.other_model is None) != (self.other_embeddings is None):
            raise UsageError("--other_model, --other_embeddings: give both of them or neither.")
        if (self.other_model, self.other_embeddings) == (self.model, self.embeddings):
            raise UsageError("--other_model, --other_embeddings: same as the first model. Give another model.")
        if self.index_parameters and self.index is None:
            raise UsageError("--index_parameters needs --index.")
        if self.fusion is not None and not self.bm25:
            raise UsageError("--fusion needs --bm25.")
        if self.fusion is None and (self.fusion_weight, self.fusion_depth) != (None, None):
            raise UsageError("--fusion_weight, --fusion_depth: these flags need --fusion.")
        if self.fusion_depth is not None and self.fusion_depth < self.max_k:
            raise UsageError(
                f"--fusion_depth is {self.fusion_depth}. The value must be at least {self.max_k} (--max_k)."
            )
        if self.rerank_k is not None and self.rerank is None:
            raise UsageError("--rerank_k needs --rerank.")
        if not 1 <= self.k <= self.max_k:
            raise UsageError(f"--k is {self.k}. The value must be 1 to {self.max_k} (--max_k).")


def serve(flags: ServeFlags) -> None:
    """Run the server until a signal stops it."""
    from text.serving.app import make_app
    from text.serving.hosts import read_host_names
    from text.serving.server import bind_socket, format_address, is_loopback, make_server

    _import_searches(flags)
    with bind_socket(flags.host, flags.port) as listener:
        allowed_hosts = read_host_names([flags.host, *flags.allowed_hosts])
        if not is_loopback(listener):
            print(f"dpr-text serve: warning: {OPEN_TO_OTHERS.format(host=flags.host)}", file=sys.stderr)
        app = make_app(
            load_searches(flags),
            k=flags.k,
            max_k=flags.max_k,
            max_characters=flags.max_characters,
            max_batch=flags.max_batch,
            queue_size=flags.queue_size,
            allowed_hosts=allowed_hosts,
        )
        server = make_server(app)
        print(f"http://{format_address(listener)}/", flush=True)
        server.run([listener])


def _import_searches(flags: ServeFlags) -> None:
    """Import the optional search modules, so that a missing package is reported before a model is loaded."""
    if flags.bm25:
        import text.retrieval.bm25
    if flags.index is not None:
        import text.retrieval.faiss_index  # noqa: F401


def load_searches(flags: ServeFlags) -> list[Any]:
    """Return the searches of the page: reranked and fused results in front if requested, then each model, then BM25."""
    from text.retrieval.devices import describe_precision, get_default_device, get_default_precision
    from text.retrieval.shards import read_plan
    from text.serving import Search, load_search, name_folders

    for model, embeddings in ((flags.model, flags.embeddings), (flags.other_model, flags.other_embeddings)):
        if model is not None and embeddings is not None:  # Report a wrong path before loading a model.
            read_plan(embeddings)
            os.listdir(model)
    models = [flags.model, *([flags.other_model] if flags.other_model is not None else [])]
    folders = [flags.embeddings, flags.other_embeddings or ""] if flags.other_model == flags.model else models
    # Searches are named after the folder that differs. Clients tell searches apart by their names.
    names = [f"{name} (model)" if name in ("BM25", "hybrid") else name for name in name_folders(folders)]
    options: dict[str, Any] = {
        "precision": flags.encoder_precision,
        "device": flags.device,
        "check_hashes": flags.check_hashes,
    }
    index = {"index": flags.index, "index_parameters": flags.index_parameters}
    searches = [load_search(flags.model, flags.embeddings, name=names[0], **index, **options)]
    if flags.other_model is not None and flags.other_embeddings is not None:
        searches.append(load_search(flags.other_model, flags.other_embeddings, name=names[1], **options))
    if flags.encoder_precision is None:
        device = flags.device or get_default_device()
        for line in describe_precision(get_default_precision(device), device):
            print(f"dpr-text serve: {line}", file=sys.stderr)
    if flags.bm25:
        from text.retrieval.bm25 import BM25

        collection = searches[0].collection
        searches.append(Search("BM25", BM25(collection).search, collection))
    searches = fuse_served_searches(searches, **pick_arguments(fuse_served_searches, flags))
    return rerank_served_searches(searches, **pick_arguments(rerank_served_searches, flags))
