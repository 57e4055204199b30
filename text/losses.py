"""Training objectives over one batch of question and passage embeddings.

Pure functions of tensors: no model, no other process, so that a value can be checked with a
pencil. Who counts as a negative of whom is decided where the batch is laid out
(``text/transforms/collate.py``) and comes in as ``ignore``.

Dimensions: B questions; P passages, all positives and negatives of the batch; D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SIMILARITIES = ("dot", "cosine")


def similarity_logits(question_embeddings: Tensor, passage_embeddings: Tensor, *, similarity: str = "dot") -> Tensor:
    """How similar every question is to every passage.

    Args:
        question_embeddings: (B, D) float.
        passage_embeddings: (P, D) float, same device.
        similarity: "dot" (arXiv:2004.04906, eq. 1) or "cosine".

    Returns:
        (B, P); within -1 and 1 for "cosine".

    Raises:
        ValueError: The embeddings are not (B, D) and (P, D) with one D, or ``similarity`` is unknown.
    """
    if question_embeddings.ndim != 2 or question_embeddings.shape[1:] != passage_embeddings.shape[1:]:
        raise ValueError(
            "expected question_embeddings (B, D) and passage_embeddings (P, D) with one D, "
            f"got {tuple(question_embeddings.shape)} and {tuple(passage_embeddings.shape)}"
        )
    if similarity not in SIMILARITIES:
        raise ValueError(f'similarity is "{similarity}"; expected one of {", ".join(SIMILARITIES)}')
    if similarity == "cosine":
        question_embeddings = F.normalize(question_embeddings, dim=-1)
        passage_embeddings = F.normalize(passage_embeddings, dim=-1)
    return question_embeddings @ passage_embeddings.T


def in_batch_nll(
    question_embeddings: Tensor,
    passage_embeddings: Tensor,
    positive_index: Tensor,
    *,
    ignore: Tensor | None = None,
    temperature: float = 1.0,
    similarity: str = "dot",
    reduction: str = "mean",
) -> Tensor:
    """Mean negative log-likelihood of each question's positive passage.

    Other questions' passages are its in-batch negatives (arXiv:2004.04906, eq. 2), save those
    that ``ignore`` takes out.

    Args:
        question_embeddings: (B, D) float.
        passage_embeddings: (P, D) float, same device.
        positive_index: (B,) int64, the row of ``passage_embeddings`` that answers each question.
        ignore: (B, P) bool. True takes a passage out of that question's softmax: another known
            positive, or a passage of another question where only its own shall count. The
            question's own positive always stays in.
        temperature: Divides the logits; no unit, positive. DPR uses 1.
        similarity: "dot" or "cosine".
        reduction: "mean" over the questions, or "none".

    Returns:
        Scalar, or (B,), in nats; log(P) when all logits are equal and nothing is ignored.

    Raises:
        ValueError: As ``similarity_logits``.
    """
    logits = similarity_logits(question_embeddings, passage_embeddings, similarity=similarity) / temperature
    if ignore is not None:
        # Two questions can share a positive: its copy must not count as a negative, yet a row
        # without its own positive would have an infinite loss.
        logits = logits.masked_fill(ignore.scatter(1, positive_index[:, None], False), -torch.inf)
    return F.cross_entropy(logits, positive_index, reduction=reduction)
