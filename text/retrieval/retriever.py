"""Retrieve passages for questions, with a model and the embeddings of a collection."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from text.datasets import Question
from text.errors import ArtifactError, DataError
from text.evaluation import Run, max_passage
from text.records import Passage
from text.retrieval.arguments import list_questions
from text.retrieval.devices import get_default_device
from text.retrieval.embedder import Embedder
from text.retrieval.exact import ExactSearch, Hits, append_passages
from text.retrieval.indexes import Index, check_index, open_index
from text.retrieval.memory import Embeddings, MemoryEmbeddings, number_passages
from text.retrieval.plan import describe_changed_files, select_passage_files
from text.retrieval.shards import EmbeddingShards

ShardsT = TypeVar("ShardsT", bound=Embeddings)


class Retriever(Generic[ShardsT]):
    """A model and the embeddings of a collection, for searching. ``load_retriever`` loads both from disk.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from text.models import roberta_tiny
    >>> from text.retrieval import encode_collection
    >>> from text.transforms import Tokenize, train_tokenizer
    >>> tokenize = Tokenize(train_tokenizer(["a beetle ate the oak"], vocab_size=300), max_length=32)
    >>> embedder = Embedder(roberta_tiny(vocab_size=300, pooling="mean"), tokenize)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "passages.jsonl")
    ...     _ = path.write_text('{"_id": "p1", "title": "Oaks", "text": "A beetle ate the oak."}')
    ...     retriever = Retriever(encode_collection(embedder, path, Path(folder, "embeddings")), embedder)
    ...     retriever.search(["who ate the oak"], k=3)[0].passage_ids
    ['p1']

    Args:
        shards: Embeddings of the passages, on disk or in memory.
        embedder: The embedder of questions. It has the model that encoded the passages.
        index: An index of these embeddings, such as a ``FaissIndex``. None means exact search, on the device of the
            embedder. If this is a GPU, the embeddings that fit stay there for the next search.

    Raises:
        ArtifactError: Another model encoded the passages.
    """

    def __init__(self, shards: ShardsT, embedder: Embedder, index: Index | None = None) -> None:
        self.shards: ShardsT = shards
        if isinstance(shards, EmbeddingShards):
            _check_model(shards, embedder)
        self.embedder = embedder
        self.index = index
        self._lock = threading.Lock()
        self._exact_search: ExactSearch | None = None
        """Exact search, which keeps embeddings on a GPU. It is made when the first search needs it."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        embeddings: str | os.PathLike[str],
        *,
        precision: str | None = None,
        device: str = "cpu",
        check_hashes: bool = True,
    ) -> Retriever[EmbeddingShards]:
        """Load a model and the embeddings that it encoded.

        Args:
            model: Folder of the model.
            embeddings: Folder of the embeddings.
            precision: Precision of the question encoder (``Embedder.from_pretrained``). By default the device decides.
            device: Device for encoding questions and for the search.
            check_hashes: Read all embeddings once and compare their hashes. Otherwise only sizes are compared.

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: A file is damaged, or the model did not encode the embeddings.
        """
        embedder = Embedder.from_pretrained(model, "question", precision=precision, device=device)
        return Retriever(EmbeddingShards(embeddings, check_hashes=check_hashes), embedder)

    @classmethod
    def from_texts(
        cls,
        model: str | os.PathLike[str],
        texts: Iterable[str] | Iterable[Passage],
        *,
        precision: str | None = None,
        device: str = "cpu",
    ) -> Retriever[MemoryEmbeddings]:
        """Load a model and embed texts in memory. Nothing is written to disk.

        The scores are the same as with ``encode_collection`` and ``dtype="float32"``. Warns if texts are longer than
        the model's limit and are truncated.

        Args:
            model: Folder of the model.
            texts: Texts or passages. A text without an id gets its position in the list as its id, starting with "0".
            precision: Precision of the encoders (``Embedder.from_pretrained``). By default the device decides.
            device: Device for encoding and for the search.

        Raises:
            FileNotFoundError: The folder, or a file of the model, is missing.
            ArtifactError, UnsupportedModelError: As ``Embedder.from_pretrained``.
            TypeError: ``texts`` is not a list, or a text is neither a string nor a passage. The message names its
                position.
            ValueError: There are no texts, a text is blank, or two passages have the same id.

        >>> import tempfile
        >>> from text.bundle import BiEncoderBundle
        >>> from text.models import BiEncoder, roberta_tiny
        >>> from text.transforms import train_tokenizer
        >>> encoder, tokenizer = roberta_tiny(vocab_size=300, pooling="mean"), train_tokenizer(["oaks"], vocab_size=300)
        >>> limits = {"question_max_length": 32, "passage_max_length": 64}
        >>> with tempfile.TemporaryDirectory() as model:
        ...     BiEncoderBundle(model=BiEncoder(encoder, encoder), tokenizer=tokenizer, **limits).save(model)
        ...     retriever = Retriever.from_texts(model, ["a beetle ate the oak", "the elm is tall"])
        >>> retriever.search(["a beetle ate the oak"], k=1)[0].passage_ids
        ['0']
        """
        passages = number_passages(texts)
        embedder = Embedder.from_pretrained(model, "passage", precision=precision, device=device)
        embeddings = MemoryEmbeddings([passage.passage_id for passage in passages], embedder.embed_texts(passages))
        return Retriever(embeddings, Embedder.from_pretrained(model, "question", precision=precision, device=device))

    def search(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[Hits]:
        """Return the k passages with the highest scores for each question.

        Args:
            questions: Texts of the questions. Long questions are truncated; ``embedder.count_truncated`` counts them.
            k: Passages per question. A smaller collection returns all its passages.
            extra_ids: Passage ids for each question. A passage that is not among the k best is appended with its
                score.

        Raises:
            TypeError: ``questions`` is not a list, a question is not a string, or k is not an integer.
            ValueError: k is below 1, or a question is blank.
        """
        listed = list_questions(questions)
        for row, question in enumerate(listed):
            if not question.strip():
                raise ValueError(f"question {row} is blank. Give each question a text.")
        embeddings, _ = self.embedder.embed_list(listed)
        index = self._get_exact_search() if self.index is None else self.index
        hits = index.search(embeddings, k)
        return append_passages(self.shards, embeddings, hits, extra_ids) if extra_ids is not None else hits

    def _get_exact_search(self) -> ExactSearch:
        device = next(self.embedder.encoder.parameters()).device
        with self._lock:  # Two threads would keep the embeddings on a GPU twice.
            if self._exact_search is None or self._exact_search.device != device:
                self._exact_search = ExactSearch(self.shards, device)
            return self._exact_search


def _check_model(shards: EmbeddingShards, embedder: Embedder) -> None:
    """Check that the embedder has the model and the similarity that encoded the passages.

    Only the question encoder may be another one, if the model was saved with the passage encoder that encoded the
    passages (train --frozen_passages).
    """
    if shards.plan.side != "passage":
        raise ArtifactError(f"{shards.folder}: holds embeddings of questions, not of passages. Use another folder.")
    ours, theirs = embedder.model_hashes, shards.plan.model
    is_passage_encoder = embedder.has_own_passages and select_passage_files(ours) == select_passage_files(theirs)
    if ours != theirs and not is_passage_encoder:
        changes = describe_changed_files(ours, theirs)
        raise ArtifactError(
            f"{shards.folder}: encoded by another model ({changes}). "
            "Search with the model that encoded these embeddings."
        )
    ours, theirs = embedder.similarity, shards.plan.settings.similarity
    if ours != theirs:
        raise ArtifactError(
            f"{shards.folder}: encoded for {theirs} similarity, but the model uses {ours}. "
            "Search with the model that encoded these embeddings."
        )


def load_retriever(
    model: str | os.PathLike[str],
    embeddings: str | os.PathLike[str],
    *,
    index: str | None = None,
    index_parameters: str = "",
    milvus: str | os.PathLike[str] | None = None,
    precision: str | None = None,
    device: str | None = None,
    check_hashes: bool = True,
) -> Retriever[EmbeddingShards]:
    """Load a model, the embeddings that it encoded, and optionally an index.

    Args:
        model: Folder of the model.
        embeddings: Folder of the embeddings.
        index: FAISS factory string, such as "HNSW32". The first call builds the index in the folder of the embeddings.
        index_parameters: FAISS search parameters, such as "efSearch=256".
        milvus: A Milvus Lite file that ends in ".db", or the address of a Milvus server.
        precision: Precision of the question encoder (``Embedder.from_pretrained``). By default the device decides.
        device: Device for encoding questions and for the search. By default a GPU if there is one.
        check_hashes: Read all embeddings once and compare their hashes. Otherwise only sizes are compared.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged, or the model did not encode the embeddings.
        ModuleNotFoundError: FAISS or Milvus is not installed.
        ValueError: An argument is invalid.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from text.bundle import BiEncoderBundle
    >>> from text.models import BiEncoder, roberta_tiny
    >>> from text.retrieval import encode_collection
    >>> from text.transforms import train_tokenizer
    >>> encoder, tokenizer = roberta_tiny(vocab_size=300, pooling="mean"), train_tokenizer(["beetles ate the oak"], 300)
    >>> bundle = BiEncoderBundle(
    ...     model=BiEncoder(encoder, encoder), tokenizer=tokenizer, question_max_length=16, passage_max_length=32
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model, path, embeddings = (Path(folder, name) for name in ("model", "passages.jsonl", "embeddings"))
    ...     bundle.save(model)
    ...     _ = path.write_text('{"_id": "p1", "title": "Oaks", "text": "Beetles ate the oak."}')
    ...     _ = encode_collection(model, path, embeddings)
    ...     retriever = load_retriever(model, embeddings)
    ...     [found] = retriever.search(["what ate the oak"])
    ...     found.passage_ids
    ['p1']
    """
    device = device or get_default_device()
    check_index(embeddings, index=index, index_parameters=index_parameters, milvus=milvus)
    retriever = Retriever.from_pretrained(
        model, embeddings, precision=precision, device=device, check_hashes=check_hashes
    )
    retriever.index = open_index(retriever.shards, index=index, index_parameters=index_parameters, milvus=milvus)
    return retriever


def search_questions(
    search: Callable[..., list[Hits]],
    questions: Sequence[Question],
    k: int,
    *,
    with_positives: bool = False,
    max_passage_hits: int | None = None,
    source: str | os.PathLike[str] = "questions",
) -> Run:
    """Search for questions and return a run.

    Args:
        search: ``Retriever.search`` or ``BM25.search``.
        questions: The questions, such as ``read_questions`` returns.
        k: Passages per question.
        with_positives: Add the known positives of each question to the run, even if they rank below k.
        max_passage_hits: Score each document by its best window among the k passages (MaxP), and keep this many
            documents per question. The passages must be windows of documents.
        source: File of the questions, for error messages.

    Raises:
        DataError: With ``with_positives``, no question has a positive with an id. With ``max_passage_hits``, a
            passage is not a window.
        ValueError: k is below 1.

    >>> from text.datasets import Question
    >>> def search(texts, k, extra_ids):
    ...     return [Hits(["oak#0", "oak#1", "elm#0"][:k], [3.0, 2.0, 1.0][:k]) for _ in texts]
    >>> questions = [Question("q1", "what ate the oak", [])]
    >>> search_questions(search, questions, 3)
    {'q1': {'oak#0': 3.0, 'oak#1': 2.0, 'elm#0': 1.0}}
    >>> search_questions(search, questions, 3, max_passage_hits=2)
    {'q1': {'oak': 3.0, 'elm': 1.0}}
    """
    positives = [question.positive_ids for question in questions]
    if with_positives and not any(positives):
        raise DataError(f"{os.fspath(source)}: no positives with ids. Use training rows whose positives have ids.")
    hits = search([question.text for question in questions], k, extra_ids=positives if with_positives else None)
    pairs = zip(questions, hits, strict=True)
    run = {question.question_id: dict(zip(each.passage_ids, each.scores, strict=True)) for question, each in pairs}
    return run if max_passage_hits is None else max_passage(run, max_passage_hits)
