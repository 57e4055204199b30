"""Search encoded passages, or a collection by BM25, and write a TREC run. Or answer questions at a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from text.artifacts import check_files
from text.commands.cli import number
from text.commands.model_paths import model_path
from text.commands.prompt import answer_questions
from text.errors import UsageError

if TYPE_CHECKING:
    from text.evaluation.run_source import SearchRecord


@dataclass(frozen=True, kw_only=True)
class SearchFlags:
    """Search encoded passages, or a collection by BM25.

    Examples::

        dpr-text search --model=runs/nq/model --embeddings=runs/nq-passages --questions=test.qa.csv --run=nq.trec
        dpr-text search --bm25 --collection=psgs_w100.tsv --questions=test.qa.csv --run=bm25.trec
        dpr-text search --model=runs/nq/model --embeddings=runs/nq-passages --interactive
    """

    model: str = model_path("")
    """Folder of the model that encoded the passages. Required unless --bm25."""
    embeddings: str = ""
    """Folder of the embeddings (dpr-text encode). Required unless --bm25."""
    index: str | None = None
    """FAISS factory string, such as HNSW32 or IVF4096,SQ8. The index is built beside the embeddings when it is first
    asked for. Without an index the search is exact."""
    index_parameters: str = ""
    """Search parameters of the FAISS index, such as efSearch=256."""
    milvus: str | None = None
    """Search in Milvus: a file that ends in .db, or the address of a server. Embeddings are uploaded when they are
    first searched there."""
    bm25: bool = False
    """Search by BM25 instead of a model. Needs --collection."""
    bm25_k1: float | None = number(None, least=0)
    """Saturation of the frequency of a word in BM25. By default 0.9, as in Anserini. Needs --bm25."""
    bm25_b: float | None = number(None, least=0)
    """Weight of a passage's length in BM25, 0 to 1. By default 0.4, as in Anserini. Needs --bm25."""
    collection: str | None = None
    """File of passages for --bm25."""
    questions: str | None = None
    """File of questions: DPR's qa.csv, JSON lines with question and answers, or BEIR's queries.jsonl."""
    qrels: str | None = None
    """Search only for the questions that this file judges. BEIR has the questions of all splits in one file, and the
    qrels of each split in a file of their own."""
    interactive: bool = False
    """Read questions from a prompt and print up to 5 passages for each."""
    with_positives: bool = False
    """The questions are training rows. Add their positives to the run, whatever their rank, so that dpr-text mine can
    compare scores with theirs."""
    k: int = number(100, least=1)
    """Passages for each question."""
    max_passage_hits: int | None = None
    """The passages are windows (dpr-text windows). Score each document by its best window among the k (MaxP), and keep
    this many documents for each question."""
    run: str | None = None
    """File for the TREC run. Required unless --interactive. RUN.json beside it says which model, collection and
    questions the run belongs to."""
    overwrite: bool = False
    """Replace an earlier run."""
    encoder_precision: Literal["float32", "bfloat16", "int8"] = "float32"
    """Precision of the question encoder. int8 needs a CPU."""
    device: str | None = None
    """Device of the encoder and the search, such as cpu or cuda. By default a GPU if there is one."""
    check_hashes: bool = True
    """Read all embeddings once and compare their hashes. Otherwise only sizes are compared."""

    def __post_init__(self) -> None:
        if (self.questions is None) == (not self.interactive):
            raise UsageError("--questions, --interactive: give one of the two.")
        if (self.run is None) == (not self.interactive):
            raise UsageError("--run is the file for the answers to --questions. Give both of them or none.")
        if sum([self.index is not None, self.milvus is not None, self.bm25]) > 1:
            raise UsageError("--index, --milvus, --bm25: give at most one of them.")
        if self.bm25 != (self.collection is not None) or (self.bm25 and self.interactive):
            raise UsageError("--bm25 needs --collection and --questions, and --collection needs --bm25.")
        if not self.bm25 and (self.bm25_k1, self.bm25_b) != (None, None):
            raise UsageError("--bm25_k1, --bm25_b: give them with --bm25.")
        if self.qrels is not None and self.questions is None:
            raise UsageError("--qrels needs --questions.")
        if self.bm25 == bool(self.model) or self.bm25 == bool(self.embeddings):
            raise UsageError("--model, --embeddings: give both of them, or --bm25 instead.")
        if self.index_parameters and self.index is None:
            raise UsageError("--index_parameters needs --index.")
        if self.max_passage_hits is not None and not 1 <= self.max_passage_hits <= self.k:
            raise UsageError(f"--max_passage_hits is {self.max_passage_hits}. Use 1 to --k, which is {self.k}.")


def search(flags: SearchFlags) -> None:
    """Write the run of a file of questions, or answer questions at a prompt."""
    from text.evaluation.run_source import source_path, write_sourced_run
    from text.retrieval import search_questions
    from text.retrieval.counts import describe_run, read_judged_questions
    from text.retrieval.run_files import key_questions

    if flags.questions is None or flags.run is None:
        answer_questions(_load_retriever(flags), min(flags.k, 5))
        return
    inputs = [flags.questions, flags.collection, flags.qrels, flags.model or None, flags.embeddings or None]
    check_files(inputs, [flags.run, source_path(flags.run)], overwrite=flags.overwrite)
    questions = read_judged_questions(flags.questions, flags.qrels, tell=print)
    find, num_passages, record = _load_bm25(flags) if flags.bm25 else _load_dense(flags, questions)
    run = search_questions(
        find,
        questions,
        flags.k,
        with_positives=flags.with_positives,
        max_passage_hits=flags.max_passage_hits,
        source=flags.questions,
    )
    write_sourced_run(flags.run, run, [record], key_questions(questions), overwrite=flags.overwrite)
    for line in describe_run(flags.run, run, min(flags.max_passage_hits or flags.k, num_passages)):
        print(line)


def _load_bm25(flags: SearchFlags) -> tuple[Callable[..., Any], int, SearchRecord]:
    """Return the search by BM25, the number of passages, and what the run says of the search."""
    from text.artifacts import sha256
    from text.datasets import PassageCollection
    from text.evaluation.run_source import SearchRecord
    from text.retrieval.bm25 import BM25
    from text.retrieval.counts import check_window, tell_bm25_memory, tell_counts

    options = {name: value for name in ("k1", "b") if (value := getattr(flags, f"bm25_{name}")) is not None}
    collection = PassageCollection(str(flags.collection))
    if flags.max_passage_hits is not None and len(collection):
        check_window(str(flags.collection), collection[0].passage_id)
    tell_counts(collection, print)
    tell_bm25_memory(len(collection), print, least=1 << 30)
    by_windows = flags.max_passage_hits is not None
    record = SearchRecord("BM25", collection.path, sha256(collection.path), "", {}, by_windows)
    return BM25(collection, **options).search, len(collection), record


def _load_dense(flags: SearchFlags, questions: list[Any]) -> tuple[Callable[..., Any], int, SearchRecord]:
    """Return the same of the search with the model. Print how many questions are too long for it."""
    from text.retrieval.counts import check_window, describe_cut_questions
    from text.retrieval.run_files import record_search

    retriever = _load_retriever(flags)
    if flags.max_passage_hits is not None:
        check_window(flags.embeddings, retriever.shards.passage_id(0))
    for line in describe_cut_questions(retriever.embedder, questions):
        print(line)
    engine = flags.index or ("Milvus" if flags.milvus is not None else "exact")
    by_windows = flags.max_passage_hits is not None
    record = record_search(flags.model, flags.embeddings, engine, by_windows=by_windows)
    return retriever.search, len(retriever.shards), record


def _load_retriever(flags: SearchFlags) -> Any:
    from text.retrieval import load_retriever

    return load_retriever(
        flags.model,
        flags.embeddings,
        index=flags.index,
        index_parameters=flags.index_parameters,
        milvus=flags.milvus,
        precision=flags.encoder_precision,
        device=flags.device,
        check_hashes=flags.check_hashes,
    )
