"""``dpr-text search``: write a TREC run by dense search or BM25, or answer questions at a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from text.artifacts import check_files
from text.commands.cli import number_field
from text.commands.model_paths import model_path_field
from text.commands.prompt import answer_questions
from text.errors import UsageError

if TYPE_CHECKING:
    from text.evaluation.run_source import SearchRecord


@dataclass(frozen=True, kw_only=True)
class SearchFlags:
    """Search encoded passages with a model, or search a collection with BM25.

    Examples::

        dpr-text search --model=runs/nq/model --embeddings=runs/nq-passages --questions=test.qa.csv --run=nq.trec
        dpr-text search --bm25 --collection=psgs_w100.tsv --questions=test.qa.csv --run=bm25.trec
        dpr-text search --model=runs/nq/model --embeddings=runs/nq-passages --interactive
    """

    model: str = model_path_field("")
    """Folder of the model that encoded the passages. Required without --bm25."""
    embeddings: str = ""
    """Folder of the embeddings (dpr-text encode). Required without --bm25."""
    index: str | None = None
    """FAISS factory string for approximate search, such as HNSW32 or IVF4096,SQ8. Use it if exact search is too
    slow. The index is built next to the embeddings on first use."""
    index_parameters: str = ""
    """Search-time parameters of the FAISS index, such as efSearch=256."""
    milvus: str | None = None
    """Search with Milvus: a file name that ends in .db, or the address of a server. Embeddings are uploaded on first
    use."""
    bm25: bool = False
    """Search with BM25 instead of a model. Requires --collection."""
    bm25_k1: float | None = number_field(None, least=0)
    """Term frequency saturation of BM25, used with --bm25. The default is 0.9, as in Anserini."""
    bm25_b: float | None = number_field(None, least=0)
    """Length normalization of BM25 (0 to 1), used with --bm25. The default is 0.4, as in Anserini."""
    collection: str | None = None
    """Passage file to search with --bm25."""
    questions: str | None = None
    """Question file: DPR's qa.csv, JSON lines with question and answers, or BEIR's queries.jsonl."""
    qrels: str | None = None
    """Search only the questions that are judged in this file. Use it for BEIR, whose question file covers all
    splits."""
    interactive: bool = False
    """Read questions from a prompt, and print up to 5 passages for each question."""
    with_positives: bool = False
    """Add the positives of each question to the run at any rank, so that dpr-text mine can compare scores. The
    questions must be training rows."""
    k: int = number_field(100, least=1)
    """Number of passages per question."""
    max_passage_hits: int | None = None
    """Score each document by its best window among the k passages (MaxP), and keep this many documents per question.
    Use it if the passages are windows (dpr-text windows)."""
    run: str | None = None
    """Output file for the TREC run, required without --interactive. RUN.json next to it records the model, collection
    and questions."""
    overwrite: bool = False
    """Replace an existing run."""
    encoder_precision: Literal["float32", "bfloat16", "float16", "int8"] | None = None
    """Precision of the question encoder. The default is float32 on a CPU, bfloat16 on a GPU, and float16 on a GPU older
    than Ampere. bfloat16 and int8 are faster on suitable CPUs; int8 needs a CPU, and float16 needs a GPU."""
    device: str | None = None
    """Device for the encoder and the search, such as cpu or cuda. By default, a GPU is used if there is one."""
    check_hashes: bool = True
    """Verify the hashes of all embedding files at the start. With false, only the file sizes are verified, which is
    faster."""

    def __post_init__(self) -> None:
        if (self.questions is None) == (not self.interactive):
            raise UsageError("--questions, --interactive: give exactly one of them.")
        if (self.run is None) == (not self.interactive):
            raise UsageError("Give --run=FILE for the results of --questions. --interactive does not take --run.")
        if sum([self.index is not None, self.milvus is not None, self.bm25]) > 1:
            raise UsageError("--index, --milvus, --bm25: give at most one of them.")
        if self.bm25 != (self.collection is not None) or (self.bm25 and self.interactive):
            raise UsageError("--bm25 needs --collection and --questions. --collection is only for --bm25.")
        if not self.bm25 and (self.bm25_k1, self.bm25_b) != (None, None):
            raise UsageError("--bm25_k1, --bm25_b: these flags need --bm25.")
        if self.qrels is not None and self.questions is None:
            raise UsageError("--qrels needs --questions.")
        if self.bm25 == bool(self.model) or self.bm25 == bool(self.embeddings):
            raise UsageError("--model, --embeddings: give both of them, or use --bm25 instead.")
        if self.index_parameters and self.index is None:
            raise UsageError("--index_parameters needs --index.")
        if self.max_passage_hits is not None and not 1 <= self.max_passage_hits <= self.k:
            raise UsageError(f"--max_passage_hits is {self.max_passage_hits}. The value must be 1 to {self.k} (--k).")


def search(flags: SearchFlags) -> None:
    """Write the run of a file of questions, or answer questions at a prompt."""
    from text.evaluation.run_source import get_source_path, write_sourced_run
    from text.retrieval import search_questions
    from text.retrieval.counts import describe_run, read_judged_questions
    from text.retrieval.run_files import hash_question_words

    if flags.questions is None or flags.run is None:
        answer_questions(_load_retriever(flags), min(flags.k, 5))
        return
    inputs = [flags.questions, flags.collection, flags.qrels, flags.model or None, flags.embeddings or None]
    check_files(inputs, [flags.run, get_source_path(flags.run)], overwrite=flags.overwrite)
    questions = read_judged_questions(flags.questions, flags.qrels, log=print)
    find, num_passages, record = _load_bm25(flags) if flags.bm25 else _load_dense(flags, questions)
    run = search_questions(
        find,
        questions,
        flags.k,
        with_positives=flags.with_positives,
        max_passage_hits=flags.max_passage_hits,
        source=flags.questions,
    )
    write_sourced_run(flags.run, run, [record], hash_question_words(questions), overwrite=flags.overwrite)
    for line in describe_run(flags.run, run, min(flags.max_passage_hits or flags.k, num_passages)):
        print(line)


def _load_bm25(flags: SearchFlags) -> tuple[Callable[..., Any], int, SearchRecord]:
    """Return the BM25 search function, the number of passages, and the record of the search for the run."""
    from text.artifacts import hash_file
    from text.datasets import PassageCollection
    from text.evaluation.run_source import SearchRecord
    from text.retrieval.bm25 import BM25
    from text.retrieval.counts import check_window, log_bm25_memory, log_unusual_passages

    options = {name: value for name in ("k1", "b") if (value := getattr(flags, f"bm25_{name}")) is not None}
    collection = PassageCollection(str(flags.collection))
    if flags.max_passage_hits is not None and len(collection):
        check_window(str(flags.collection), collection[0].passage_id)
    log_unusual_passages(collection, print)
    log_bm25_memory(len(collection), print, min_bytes=1 << 30)
    by_windows = flags.max_passage_hits is not None
    record = SearchRecord("BM25", collection.path, hash_file(collection.path), "", {}, by_windows)
    return BM25(collection, **options).search, len(collection), record


def _load_dense(flags: SearchFlags, questions: list[Any]) -> tuple[Callable[..., Any], int, SearchRecord]:
    """Return the dense search function, the number of passages, and the record of the search for the run.

    Print how many questions are longer than the model's limit.
    """
    from text.retrieval.counts import check_window, describe_truncated_questions
    from text.retrieval.run_files import record_search

    retriever = _load_retriever(flags)
    if flags.max_passage_hits is not None:
        check_window(flags.embeddings, retriever.shards.get_passage_id(0))
    for line in describe_truncated_questions(retriever.embedder, questions):
        print(line)
    engine = flags.index or ("Milvus" if flags.milvus is not None else "exact")
    by_windows = flags.max_passage_hits is not None
    record = record_search(flags.model, flags.embeddings, engine, by_windows=by_windows)
    return retriever.search, len(retriever.shards), record


def _load_retriever(flags: SearchFlags) -> Any:
    from text.retrieval import load_retriever
    from text.retrieval.devices import describe_precision

    retriever = load_retriever(
        flags.model,
        flags.embeddings,
        index=flags.index,
        index_parameters=flags.index_parameters,
        milvus=flags.milvus,
        precision=flags.encoder_precision,
        device=flags.device,
        check_hashes=flags.check_hashes,
    )
    if flags.encoder_precision is None:
        embedder = retriever.embedder
        for line in describe_precision(embedder.settings["precision"], str(embedder.device)):
            print(line)
    return retriever
