"""Searches encoded passages for questions: a TREC run, for evaluate.py, or an answer at the prompt.

python examples/dpr/search.py --model=runs/dpr/model --embeddings=runs/dpr/embeddings --questions=nq-test.qa.csv
python examples/dpr/search.py --model=runs/dpr/model --embeddings=runs/dpr/embeddings --interactive
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from examples.dpr.cli import UsageError, check_at_least, run, shown
from examples.dpr.paths import check_files, check_readable
from text.artifacts import sha256
from text.datasets import PassageCollection, read_questions
from text.errors import ArtifactError, DataError
from text.evaluation import max_passage, write_run
from text.retrieval import EmbeddingShards, Found, Retriever
from text.retrieval.retriever import Index


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Searches encoded passages for questions: a TREC run, for evaluate.py, or an answer at the prompt."""

    model: str = "runs/dpr/model"
    """Folder of the model that encoded the passages."""
    embeddings: str = "runs/dpr/embeddings"
    """What encode.py wrote."""
    index: str | None = None
    """Factory string of FAISS, such as HNSW32 or IVF4096,SQ8: built beside the embeddings when first asked for."""
    index_parameters: str = ""
    """Of its search, such as efSearch=256."""
    milvus: str | None = None
    """Search in Milvus: a file that ends in .db, or an address; embeddings are uploaded when first asked for."""
    bm25: bool = False
    """Search by words instead, without a model: the baseline. With --collection."""
    collection: str | None = None
    """Passages for --bm25."""
    questions: str | None = None
    """DPR's qa.csv, JSON lines with question and answers, or BEIR's queries.jsonl."""
    interactive: bool = False
    """Ask for questions, and show up to 5 passages."""
    with_positives: bool = False
    """Questions are training rows: their positives are in the run, too, however low, for mine.py to compare with."""
    k: int = 100
    """Passages for each question."""
    max_passage_hits: int | None = None
    """Passages are windows (windows.py): each document with the score of its best one, and so many for each question,
    out of --k windows."""
    run: str = "runs/dpr/run.trec"
    """Where the TREC run goes."""
    overwrite: bool = False
    """Replace an earlier result."""
    precision: Literal["float32", "bfloat16", "int8"] = "float32"
    """Of the encoder; int8 is for a CPU."""
    device: str | None = None
    """Such as cpu or cuda; by default a GPU of the machine, if it has one."""
    check_hashes: bool = True
    """Read all embeddings once to see that they are as they were written; otherwise sizes alone are looked at."""

    def __post_init__(self) -> None:
        if (self.questions is None) == (not self.interactive):
            raise UsageError("--questions names a file, --interactive asks for questions; expected one of the two")
        if sum([self.index is not None, self.milvus is not None, self.bm25]) > 1:
            raise UsageError("--index, --milvus and --bm25 are given; expected one of them")
        if self.bm25 != (self.collection is not None) or (self.bm25 and self.interactive):
            raise UsageError("expected --bm25 together with --collection and --questions")
        if self.index_parameters and self.index is None:
            raise UsageError("--index_parameters are those of --index; expected it, too")
        check_at_least(self, 1, "k")
        if self.max_passage_hits is not None and not 1 <= self.max_passage_hits <= self.k:
            raise UsageError(f"--max_passage_hits is {self.max_passage_hits}; expected 1 to {self.k}, which --k is")


def main(config: SearchConfig) -> None:
    """Writes a run, or answers."""
    if config.questions is not None:
        check_files([config.questions, config.collection], [config.run], overwrite=config.overwrite)
    if config.bm25:
        assert config.collection is not None
        with needs("bm25"):
            from text.retrieval.bm25 import BM25
        write(config, BM25(PassageCollection(config.collection)).search)
    elif config.interactive:
        answer(config, retriever_of(config))
    else:
        write(config, retriever_of(config).search)


def retriever_of(config: SearchConfig) -> Retriever:
    """The model and what it encoded, with the index that is asked for."""
    retriever = Retriever.from_pretrained(
        config.embeddings,
        config.model,
        precision=config.precision,
        device=config.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        check_hashes=config.check_hashes,
    )
    retriever.index = index_of(config, retriever.shards)
    return retriever


def collection_of(shards: EmbeddingShards) -> PassageCollection:
    """The passages that were encoded.

    Raises:
        UsageError: Their file cannot be read.
        ArtifactError: It is not what it was.
    """
    facts = shards.plan.collection
    check_readable(facts["path"])
    if sha256(facts["path"]) != facts["sha256"]:
        raise ArtifactError(f"{facts['path']}: changed since it was encoded; expected the same passages")
    return PassageCollection(facts["path"])


def index_of(config: SearchConfig, shards: EmbeddingShards) -> Index | None:
    """The index that is asked for; of FAISS, one that is there already."""
    if config.milvus is not None:
        with needs("milvus"):
            from text.retrieval.milvus import MilvusIndex
        return MilvusIndex(shards, config.milvus)
    if config.index is None:
        return None
    with needs("faiss"):
        from text.retrieval.faiss_index import FaissIndex
    folder = Path(config.embeddings, f"index-{config.index.replace(',', '-')}")
    is_there = (folder / "index.json").is_file()
    index = FaissIndex.load(folder, shards) if is_there else FaissIndex.build(shards, config.index, folder)
    if config.index_parameters:
        index.set_parameters(config.index_parameters)
    return index


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """What is imported within comes with an extra of this name."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; expected pip install '.[{extra}]'") from None


def write(config: SearchConfig, search: Callable[..., list[Found]]) -> None:
    """A run with the questions of a file."""
    assert config.questions is not None
    questions = read_questions(config.questions)
    for question in questions:
        if question.question_id.split() != [question.question_id]:  # write_run would say so after the search
            raise DataError(f'{config.questions}: id "{question.question_id}"; expected one without spaces')
    positives = [question.positive_ids for question in questions]
    if config.with_positives and not any(positives):
        raise DataError(f"{config.questions}: no positives with ids; expected training rows for --with_positives")
    also = positives if config.with_positives else None
    found = search([question.text for question in questions], config.k, also=also)
    pairs = zip(questions, found, strict=True)
    run = {question.question_id: dict(zip(of.passage_ids, of.scores, strict=True)) for question, of in pairs}
    if config.max_passage_hits is not None:
        run = max_passage(run, config.max_passage_hits)
    write_run(config.run, run)
    most = max((len(of_question) for of_question in run.values()), default=0)
    print(f"{config.run}: {len(run)} questions, up to {most} passages each")


def answer(config: SearchConfig, retriever: Retriever) -> None:
    """Passages for questions from standard input, until its end."""
    collection = collection_of(retriever.shards)
    print("question: ", end="", flush=True)
    for line in sys.stdin:
        if line.strip():
            [found] = retriever.search([line.strip()], min(config.k, 5))
            for passage_id, score in zip(found.passage_ids, found.scores, strict=True):
                passage = collection.find(passage_id)
                print(shown(f"\n{score:.4f}  {passage.title or '(no title)'}  [{passage_id}]\n    {passage.text}"))
        print("\nquestion: ", end="", flush=True)
    print()


if __name__ == "__main__":
    sys.exit(run(main, SearchConfig))
