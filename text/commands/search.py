"""``dpr-text search``: write a TREC run by dense search, BM25 or both, or answer questions at a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from text.artifacts import check_files
from text.commands.cli import list_given_flags, number_field, pick_arguments
from text.commands.model_paths import model_path_field
from text.commands.prompt import answer_questions
from text.commands.searchers import load_searcher, rerank_search
from text.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SearchFlags:
    r"""Search encoded passages with a model, a collection with BM25, or both (hybrid search).

    Examples::

        dpr-text search --model=runs/nq/model --embeddings=runs/nq-passages --questions=test.qa.csv --run=nq.trec
        dpr-text search --bm25 --collection=psgs_w100.tsv --questions=test.qa.csv --run=bm25.trec
        dpr-text search --model=runs/nq/model --embeddings=runs/nq-passages --bm25 --collection=psgs_w100.tsv \
            --questions=test.qa.csv --run=hybrid.trec
        dpr-text search --model=runs/nq/model --embeddings=runs/nq-passages --collection=psgs_w100.tsv \
            --rerank=runs/reranker/model --questions=test.qa.csv --run=reranked.trec
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
    """Search with BM25. Requires --collection. With --model and --embeddings, both searches are fused."""
    bm25_k1: float | None = number_field(None, least=0)
    """Term frequency saturation of BM25, used with --bm25. The default is 0.9, as in Anserini."""
    bm25_b: float | None = number_field(None, least=0)
    """Length normalization of BM25 (0 to 1), used with --bm25. The default is 0.4, as in Anserini."""
    bm25_index: str | None = None
    """Folder of a BM25 index on disk, for --bm25. The index is built there on first use and then reused. Use it if the
    collection is too large for memory. Without it, BM25 needs about 2.45 KB of memory per passage of 100 words."""
    collection: str | None = None
    """Passage file for --bm25 and --rerank. With --embeddings, it must be the encoded file."""
    rerank: str | None = model_path_field(None)
    """Folder of a reranker, or of a second bi-encoder, that sorts the first passages again. The other passages follow
    in their earlier order. Requires --collection. RUN.partial keeps the scores of an interrupted search."""
    rerank_k: int | None = number_field(None, least=1)
    """Number of passages per question that --rerank sorts. The default is 50."""
    fusion: Literal["ranks", "scores"] | None = None
    """Fuse the model and BM25 by reciprocal rank fusion (ranks), or by scores that are normalized to 0..1 for each
    question (scores). The default is ranks."""
    fusion_weight: float | None = number_field(None, least=0, most=1)
    """Weight of the model in the fusion, from 0 to 1. BM25 has 1 minus this weight. The default is 0.5. dpr-text
    evaluate --choose_weight finds a good value."""
    fusion_depth: int | None = number_field(None, least=1)
    """Number of passages per question that the model and BM25 find before the fusion. The default is 100, or --k if it
    is larger."""
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
        if self.index is not None and self.milvus is not None:
            raise UsageError("--index, --milvus: give at most one of them.")
        if bool(self.model) != bool(self.embeddings) or not (self.model or self.bm25):
            raise UsageError("--model, --embeddings: give both of them, or use --bm25 instead.")
        if (self.bm25 or self.rerank is not None) != (self.collection is not None):
            raise UsageError("--collection: required for --bm25 and --rerank, and not used otherwise.")
        if self.rerank_k is not None and self.rerank is None:
            raise UsageError("--rerank_k needs --rerank.")
        if not self.model and (self.index is not None or self.milvus is not None or self.interactive):
            raise UsageError("--index, --milvus, --interactive: besides --bm25, they need --model and --embeddings.")
        if not self.bm25 and (self.bm25_k1, self.bm25_b, self.bm25_index) != (None, None, None):
            raise UsageError("--bm25_k1, --bm25_b, --bm25_index: these flags need --bm25.")
        given = list_given_flags(self, ("fusion", "fusion_weight", "fusion_depth"))
        if given and not (self.model and self.bm25):
            raise UsageError(f"--{given[0]} is for a hybrid search. It needs --model, --embeddings and --bm25.")
        if self.fusion_depth is not None and self.fusion_depth < self.k:
            raise UsageError(f"--fusion_depth is {self.fusion_depth}. The value must be at least {self.k} (--k).")
        if self.qrels is not None and self.questions is None:
            raise UsageError("--qrels needs --questions.")
        if self.index_parameters and self.index is None:
            raise UsageError("--index_parameters needs --index.")
        if self.max_passage_hits is not None and not 1 <= self.max_passage_hits <= self.k:
            raise UsageError(f"--max_passage_hits is {self.max_passage_hits}. The value must be 1 to {self.k} (--k).")


def search(flags: SearchFlags) -> None:
    """Write the run of a file of questions, or answer questions at a prompt."""
    from text.evaluation.run_source import get_source_path, write_sourced_run
    from text.retrieval import search_questions
    from text.retrieval.counts import describe_run, describe_truncated_questions, read_judged_questions
    from text.retrieval.reranking import keep_reranking
    from text.retrieval.run_files import hash_question_words

    arguments, reranking = (pick_arguments(each, flags) for each in (load_searcher, rerank_search))
    if flags.questions is None or flags.run is None:
        loaded = rerank_search(load_searcher(**arguments), **reranking)
        if loaded.retriever is not None:
            answer_questions(loaded.searcher, loaded.retriever, min(flags.k, 5))
        return
    inputs = [flags.questions, flags.collection, flags.qrels, flags.model or None, flags.embeddings or None]
    inputs.append(flags.rerank)
    check_files(inputs, [flags.run, get_source_path(flags.run)], overwrite=flags.overwrite)
    questions = read_judged_questions(flags.questions, flags.qrels, log=print)
    loaded = rerank_search(load_searcher(**arguments), **reranking)
    if loaded.retriever is not None:
        for line in describe_truncated_questions(loaded.retriever.embedder, questions):
            print(line)
    words = hash_question_words(questions)
    with keep_reranking(loaded.searcher, f"{flags.run}.partial", overwrite=flags.overwrite):
        run = search_questions(
            loaded.searcher.search,
            questions,
            flags.k,
            with_positives=flags.with_positives,
            max_passage_hits=flags.max_passage_hits,
            source=flags.questions,
        )
        settings = {"fusion": loaded.fusion, "reranking": loaded.reranking, "overwrite": flags.overwrite}
        write_sourced_run(flags.run, run, loaded.records, words, **settings)
    for line in describe_run(flags.run, run, min(flags.max_passage_hits or flags.k, loaded.num_passages)):
        print(line)
