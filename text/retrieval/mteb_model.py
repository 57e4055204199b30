"""Adapter by which ``mteb`` runs a saved model on its tasks.

>>> import mteb
>>> from text.retrieval.mteb_model import MTEBModel
>>> mteb.evaluate(MTEBModel("runs/nq/model"), mteb.get_tasks(["NFCorpus"]))  # doctest: +SKIP
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from text.artifacts import hash_json
from text.errors import explain_missing
from text.records import Passage
from text.retrieval.embedder import Embedder

with explain_missing("bench"):
    from mteb.models import ModelMeta


class MTEBModel:
    """A saved model with the encoder protocol of mteb 2.

    Documents are encoded as passages, with their titles. All other texts are encoded as questions. The limits, prompts
    and treatment of titles are those of the model; mteb's own prompts and batch size are not used.

    Args:
        model: Folder of the model.
        revision: Name of this state of the model in mteb's results. The default is a hash of its files, so that mteb
            never reuses results of other weights.
        precision: Precision of the encoders (``Embedder.from_pretrained``). By default the device decides.
        device: Device of the encoders.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        revision: str | None = None,
        *,
        precision: str | None = None,
        device: str = "cpu",
    ) -> None:
        self._question, self._passage = (
            Embedder.from_pretrained(model, side, precision=precision, device=device)
            for side in ("question", "passage")
        )
        state = [self._question.model_hashes, self._question.settings, self._passage.settings]
        folder = Path(model).resolve()
        names = {"name": f"dpr-text/{folder.parent.name}-{folder.name}", "revision": revision or hash_json(state)[:16]}
        sizes = {"embed_dim": self._passage.encoder.embedding_dim, "max_tokens": self._passage.settings["max_length"]}
        self.mteb_model_meta = ModelMeta.create_empty(overwrites=names | sizes | {"framework": ["PyTorch"]})

    def encode(self, inputs: Any, *, prompt_type: str | None = None, **task: Any) -> Tensor:
        """Return the (N, D) float32 embeddings of the texts in mteb's batches.

        Args:
            inputs: Batches with lists of texts.
            prompt_type: "document" for passages, and "query" or None for other texts.
            task: Other arguments of mteb, which do not change embeddings.
        """
        if prompt_type != "document":
            return self._question.embed_list([text for batch in inputs for text in batch["text"]])[0]
        return self._passage.embed_list([passage for batch in inputs for passage in _list_passages(batch)])[0]

    def similarity(self, embeddings1: Tensor, embeddings2: Tensor) -> Tensor:
        """Return the dot products of all pairs. Embeddings of a model with cosine similarity have length 1."""
        return embeddings1 @ embeddings2.T

    def similarity_pairwise(self, embeddings1: Tensor, embeddings2: Tensor) -> Tensor:
        """Return the dot products of the embeddings in the same rows."""
        return (embeddings1 * embeddings2).sum(dim=-1)


def _list_passages(batch: dict[str, list[str]]) -> list[Passage]:
    """Return the documents of a batch. mteb gives a title and a body, or only a text."""
    texts = batch.get("body", batch["text"])
    return [Passage("", title, text) for title, text in zip(batch.get("title", [""] * len(texts)), texts, strict=True)]
