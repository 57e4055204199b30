"""Serves the search of encoded passages: a page for people, and JSON for programs.

    python examples/dpr/serve.py --model=runs/dpr/model --embeddings=runs/dpr/embeddings
    python examples/dpr/serve.py --model=a/model --embeddings=a/e --other_model=b/model --other_embeddings=b/e --bm25

Several searches stand side by side. SIGTERM and SIGINT end it, once the questions that have come are answered.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from typing import Literal

from examples.dpr.cli import UsageError, check_at_least, run, signals_as_errors
from examples.dpr.search import SearchConfig, collection_of, needs, retriever_of
from examples.dpr.searching import Search


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serves the search of encoded passages: a page for people, and JSON for programs."""

    model: str = "runs/dpr/model"
    """Folder of the model that encoded the passages."""
    embeddings: str = "runs/dpr/embeddings"
    """What encode.py wrote; the collection must still be where it was."""
    index: str | None = None
    """Factory string of FAISS, as for search.py."""
    index_parameters: str = ""
    """Of its search, such as efSearch=256."""
    other_model: str | None = None
    """A second model, to stand beside the first; with --other_embeddings."""
    other_embeddings: str | None = None
    """What it encoded."""
    bm25: bool = False
    """Search by words, too, in the collection of --embeddings."""
    k: int = 10
    """Passages for a question that does not say how many."""
    max_k: int = 100
    """Most passages that a question can ask for."""
    max_characters: int = 1000
    """Of a question; a longer one is refused."""
    host: str = "127.0.0.1"
    """Address to listen at. Who can reach it can search: there are no passwords."""
    port: int = 8000
    """0 takes any that is free."""
    max_batch: int = 32
    """Questions answered together; those that come meanwhile are the next batch."""
    queue_size: int = 256
    """Questions that may wait; another one is told to come again (503)."""
    precision: Literal["float32", "bfloat16", "int8"] = "float32"
    """Of the encoder; int8 is for a CPU."""
    device: str | None = None
    """Such as cpu or cuda; by default a GPU of the machine, if it has one."""
    check_hashes: bool = True
    """Read all embeddings once to see that they are as they were written; otherwise sizes alone are looked at."""

    def __post_init__(self) -> None:
        if (self.other_model is None) != (self.other_embeddings is None):
            raise UsageError("expected --other_model together with --other_embeddings")
        if self.index_parameters and self.index is None:
            raise UsageError("--index_parameters are those of --index; expected it, too")
        if not 1 <= self.k <= self.max_k:
            raise UsageError(f"--k is {self.k}; expected 1 to --max_k, {self.max_k}")
        check_at_least(self, 1, "max_characters", "max_batch", "queue_size")
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"--port is {self.port}; expected 0 to 65535")


def main(config: ServeConfig) -> None:
    """Serves until a signal comes."""
    with needs("serve"):
        from examples.dpr.search_app import make_server
    with signals_as_errors("nothing is served any more"), bound(config.host, config.port) as listener:
        server = make_server(config, searches_of(config))
        print(f"http://{address(listener)}/", flush=True)
        server.run([listener])


def searches_of(config: ServeConfig) -> list[Search]:
    """One for each model, and BM25."""
    pairs = [(config.model, config.embeddings, config.index)]
    if config.other_model is not None and config.other_embeddings is not None:
        pairs.append((config.other_model, config.other_embeddings, None))
    searches = []
    for model, embeddings, index in pairs:
        retriever = retriever_of(
            SearchConfig(
                model=model,
                embeddings=embeddings,
                index=index,
                index_parameters=config.index_parameters if index is not None else "",
                precision=config.precision,
                device=config.device,
                check_hashes=config.check_hashes,
                interactive=True,
            )
        )
        name = model if config.model != config.other_model else embeddings
        searches.append(Search(name, retriever.search, collection_of(retriever.shards), exact=index is None))
    if config.bm25:
        with needs("bm25"):
            from text.retrieval.bm25 import BM25
        collection = searches[0].collection
        searches.append(Search("BM25", BM25(collection).search, collection))
    return searches


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the address, before anything that takes long.

    Raises:
        OSError: The address is taken, or not of this machine.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # elsewhere it would share a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{error.strerror}; expected a free one of this machine", f"{host}:{port}") from None
    return listener


def address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(run(main, ServeConfig))
