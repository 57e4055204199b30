"""Load the search of ``dpr-text search``: a dense search, BM25, or both fused. Fuse the searches of ``serve``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from text.datasets import PassageCollection
    from text.evaluation.run_source import FusionRecord, RerankingRecord, SearchRecord
    from text.retrieval import Retriever
    from text.retrieval.bm25_shards import BM25Shards
    from text.retrieval.hybrid import Searcher
    from text.serving import Search


class LoadedSearch(NamedTuple):
    """A search, and the facts about it that a run records."""

    searcher: Searcher
    """Object with the method ``search(questions, k, extra_ids)``. It may be wrapped."""
    num_passages: int
    records: list[SearchRecord]
    retriever: Retriever | None = None
    """The dense search, or the dense part of a hybrid search. None for BM25 alone."""
    fusion: FusionRecord | None = None
    """Settings of a hybrid search."""
    reranking: RerankingRecord | None = None
    """Model that reranks the passages."""


def load_searcher(
    *,
    model: str,
    embeddings: str,
    index: str | None,
    index_parameters: str,
    milvus: str | None,
    bm25: bool,
    bm25_k1: float | None,
    bm25_b: float | None,
    bm25_index: str | None,
    collection: str | None,
    k: int,
    max_passage_hits: int | None,
    encoder_precision: str | None,
    device: str | None,
    check_hashes: bool,
    fusion: Literal["ranks", "scores"] | None,
    fusion_weight: float | None,
    fusion_depth: int | None,
) -> LoadedSearch:
    """Load the dense search, BM25, or both as a hybrid search. The arguments are flags of ``dpr-text search``.

    Raises:
        ArtifactError: BM25 would search another collection than the encoded collection. Or any error of
            ``load_retriever``.
        DataError: With ``max_passage_hits``, the passages are not windows.
    """
    by_windows = max_passage_hits is not None
    if bm25:
        import text.retrieval.bm25  # noqa: F401  Report a missing package before the model is loaded.
    if model and collection is not None:
        check_encoded(embeddings, collection)
    dense = words = None
    if model:
        options = {"index": index, "index_parameters": index_parameters, "milvus": milvus, "device": device}
        options |= {"precision": encoder_precision, "check_hashes": check_hashes}
        dense = load_dense(model, embeddings, by_windows=by_windows, **options)
    if bm25:
        parameters = {"k1": bm25_k1, "b": bm25_b}
        words = load_bm25(
            str(collection), by_windows=by_windows, index=bm25_index, check_hashes=check_hashes, **parameters
        )
    if dense is not None and words is not None:
        return fuse_searches(dense, words, k=k, method=fusion, weight=fusion_weight, depth=fusion_depth)
    return dense or words  # type: ignore[return-value]  # The flags require one of them.


def rerank_search(
    loaded: LoadedSearch,
    *,
    rerank: str | None,
    rerank_k: int | None,
    collection: str | None,
    encoder_precision: str | None,
    device: str | None,
) -> LoadedSearch:
    """Return a search whose first passages are reranked, or the same search without ``rerank``.

    Args:
        loaded: The search.
        rerank: Folder of the reranker.
        rerank_k: Number of passages per question to rerank. None means the default.
        collection: File of the searched passages.
        encoder_precision: Precision of the reranker. None means the default of the device.
        device: Device of the reranker. None means a GPU if there is one.
    """
    if rerank is None:
        return loaded
    from text.datasets import PassageCollection
    from text.evaluation.run_source import RerankingRecord
    from text.retrieval.reranking import RERANK_K, RerankedSearch
    from text.retrieval.teachers import load_teacher

    teacher, rerank_k = load_teacher(rerank, precision=encoder_precision, device=device), rerank_k or RERANK_K
    reranked = RerankedSearch(loaded.searcher, teacher, PassageCollection(str(collection)), rerank_k)
    return loaded._replace(searcher=reranked, reranking=RerankingRecord(teacher.record, rerank_k))


def fuse_searches(
    dense: LoadedSearch,
    words: LoadedSearch,
    *,
    k: int,
    method: Literal["ranks", "scores"] | None,
    weight: float | None,
    depth: int | None,
) -> LoadedSearch:
    """Return the hybrid search of a dense search and BM25. None stands for the default of a setting.

    Args:
        dense: The dense search.
        words: BM25.
        k: Passages per question, which determines the default depth.
        method: See ``text.evaluation.fuse_rankings``.
        weight: Weight of the dense search, from 0 to 1.
        depth: See ``HybridSearch``.
    """
    from text.evaluation.fusion import split_weight
    from text.evaluation.run_source import FusionRecord
    from text.retrieval.hybrid import HybridSearch

    method, weights = method or "ranks", split_weight(0.5 if weight is None else weight)
    hybrid = HybridSearch([dense.searcher, words.searcher], method=method, weights=weights, depth=depth)
    record = FusionRecord(method, weights, hybrid.get_depth(k))
    return dense._replace(searcher=hybrid, records=dense.records + words.records, fusion=record)


def fuse_served_searches(
    searches: Sequence[Search],
    *,
    fusion: Literal["ranks", "scores"] | None,
    fusion_weight: float | None,
    fusion_depth: int | None,
    max_k: int,
) -> list[Search]:
    """Return the searches of a page, with the fusion of the first one and the last one in front.

    Args:
        searches: The search of the first model, and further searches. The last one is BM25 if ``fusion`` is given.
        fusion: Method. None adds no fusion.
        fusion_weight: Weight of the first model. None means 0.5.
        fusion_depth: See ``HybridSearch``. None means ``FUSION_DEPTH``, or ``max_k`` if it is larger.
        max_k: Maximum number of passages that a request may ask for.
    """
    from text.evaluation.fusion import split_weight
    from text.evaluation.run_source import FusionRecord
    from text.retrieval.hybrid import FUSION_DEPTH
    from text.serving import fuse_searches

    if fusion is None:
        return list(searches)
    first, *others = searches
    weights = split_weight(0.5 if fusion_weight is None else fusion_weight)
    record = FusionRecord(fusion, weights, fusion_depth or max(FUSION_DEPTH, max_k))
    return [fuse_searches([first, others[-1]], record), first, *others]


def rerank_served_searches(
    searches: Sequence[Search],
    *,
    rerank: str | None,
    rerank_k: int | None,
    encoder_precision: str | None,
    device: str | None,
) -> list[Search]:
    """Return the searches of a page, with the first one after reranking in front. See ``rerank_search``."""
    if rerank is None:
        return list(searches)
    from text.retrieval.reranking import RERANK_K
    from text.retrieval.teachers import load_teacher
    from text.serving import make_reranked_search

    teacher = load_teacher(rerank, precision=encoder_precision, device=device)
    return [make_reranked_search(searches[0], teacher, rerank_k or RERANK_K), *searches]


def check_encoded(embeddings: str, collection: str) -> None:
    """Check that embeddings were encoded from a collection. A compressed copy counts as the same collection.

    Raises:
        ArtifactError: Another collection was encoded.
    """
    from text.artifacts import hash_file
    from text.evaluation.run_source import check_same_collection
    from text.retrieval.run_files import record_search

    encoded = record_search("", embeddings, "exact")
    check_same_collection(embeddings, [encoded], collection, hash_file(collection))


def load_bm25(
    collection: str,
    *,
    by_windows: bool,
    k1: float | None,
    b: float | None,
    index: str | None = None,
    check_hashes: bool = True,
) -> LoadedSearch:
    """Load BM25 over a collection, and print the number of unusual passages.

    Args:
        collection: File of the passages.
        by_windows: True if the passages must be windows.
        k1: See ``BM25``. None means the default.
        b: See ``BM25``. None means the default.
        index: Folder of an index on disk, which is built if it is missing. None builds an index in memory.
        check_hashes: Compare the hashes of the files of an index on disk.
    """
    from text.artifacts import hash_file
    from text.datasets import PassageCollection
    from text.evaluation.run_source import SearchRecord
    from text.retrieval.bm25 import BM25
    from text.retrieval.counts import check_window, log_bm25_memory, log_unusual_passages

    options = {name: value for name, value in (("k1", k1), ("b", b)) if value is not None}
    passages = PassageCollection(collection)
    if by_windows and len(passages):
        check_window(collection, passages[0].passage_id)
    log_unusual_passages(passages, print)
    if index is None:
        log_bm25_memory(len(passages), print)
    record = SearchRecord("BM25", passages.path, hash_file(passages.path), "", {}, by_windows)
    if index is not None:
        return LoadedSearch(_open_bm25_index(passages, index, options, check_hashes), len(passages), [record])
    return LoadedSearch(BM25(passages, **options), len(passages), [record])


def _open_bm25_index(
    passages: PassageCollection, folder: str, options: dict[str, float], check_hashes: bool
) -> BM25Shards:
    """Open a BM25 index on disk. Build or continue it first if it is not complete."""
    from text.artifacts import check_output_folder
    from text.retrieval.bm25_building import build_bm25
    from text.retrieval.bm25_folder import is_finished
    from text.retrieval.bm25_shards import BM25Shards

    if not is_finished(folder):
        check_output_folder(folder)
    build_bm25(passages, folder, **options)  # pyright: ignore[reportArgumentType]
    return BM25Shards(folder, passages, check_hashes=check_hashes)


def load_dense(
    model: str,
    embeddings: str,
    *,
    index: str | None,
    index_parameters: str,
    milvus: str | None,
    precision: str | None,
    device: str | None,
    check_hashes: bool,
    by_windows: bool,
) -> LoadedSearch:
    """Load a model and its embeddings. Print the precision of the encoder if the device decides it."""
    from text.retrieval import load_retriever
    from text.retrieval.counts import check_window
    from text.retrieval.devices import describe_precision
    from text.retrieval.run_files import record_search

    retriever = load_retriever(
        model,
        embeddings,
        index=index,
        index_parameters=index_parameters,
        milvus=milvus,
        precision=precision,
        device=device,
        check_hashes=check_hashes,
    )
    embedder = retriever.embedder
    if precision is None:
        for line in describe_precision(embedder.settings["precision"], str(embedder.device)):
            print(line)
    if by_windows:
        check_window(embeddings, retriever.shards.get_passage_id(0))
    engine = index or ("Milvus" if milvus is not None else "exact")
    files = embedder.model_hashes
    record = record_search(model, embeddings, engine, by_windows=by_windows, model_files=files)
    return LoadedSearch(retriever, len(retriever.shards), [record], retriever)
