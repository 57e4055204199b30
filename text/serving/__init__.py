"""The search page and the JSON interface: question batcher, web application and server.

The web application needs fastapi and uvicorn, so this package does not import it. Import its parts by module:
``make_app`` from ``text.serving.app``, ``read_host_names`` from ``text.serving.hosts``, and ``make_server`` and
``bind_socket`` from ``text.serving.server``.
"""

from text.serving.batcher import Batcher, QueueFull
from text.serving.searches import (
    FoundPassage,
    Search,
    SearchRequest,
    SearchResult,
    fuse_searches,
    load_search,
    make_reranked_search,
    name_folders,
    search_all,
)

__all__ = [
    "Batcher",
    "FoundPassage",
    "QueueFull",
    "Search",
    "SearchRequest",
    "SearchResult",
    "fuse_searches",
    "load_search",
    "make_reranked_search",
    "name_folders",
    "search_all",
]
