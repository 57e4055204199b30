"""Training objectives over one batch of question and passage embeddings.

Pure functions of tensors: no model, no other process, so that a value can be checked with a
pencil. Who counts as a negative of whom comes in as ``ignore``. Each row stands for itself, so that many
questions can be done a few at a time (``text/training/objective.py``). From passages to questions (CLIP,
arXiv:2103.00020), it is ``in_batch_nll`` with the two sides exchanged.

Dimensions: B questions; P passages, all positives and negatives of the batch; D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SIMILARITIES = ("dot", "cosine")
_LEAST = torch.finfo(torch.float32).min / 2
"""A logit that counts for nothing. Not -inf: where all are, gradients would be NaN."""


def similarity_logits(question_embeddings: Tensor, passage_embeddings: Tensor, *, similarity: str = "dot") -> Tensor:
    """How similar every question is to every passage.

    Args:
        question_embeddings: (B, D) float.
        passage_embeddings: (P, D) float, same device.
        similarity: "dot" (arXiv:2004.04906, eq. 1) or "cosine".

    Returns:
        (B, P), in float32 at least, in mixed precision, too; within -1 and 1 for "cosine".

    Raises:
        ValueError: The embeddings are not (B, D) and (P, D) with one D, or ``similarity`` is unknown.

    >>> similarity_logits(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0], [8.0, -6.0]]))
    tensor([[25.,  0.]])
    >>> similarity_logits(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), similarity="cosine")
    tensor([[0.8000]])
    """
    if question_embeddings.ndim != 2 or question_embeddings.shape[1:] != passage_embeddings.shape[1:]:
        raise ValueError(
            "expected question_embeddings (B, D) and passage_embeddings (P, D) with one D, "
            f"got {tuple(question_embeddings.shape)} and {tuple(passage_embeddings.shape)}"
        )
    if similarity not in SIMILARITIES:
        raise ValueError(f'similarity is "{similarity}"; expected one of {", ".join(SIMILARITIES)}')
    # Between 128 and 256, where dot products of trained encoders are, bfloat16 has steps of 1.
    with torch.autocast(question_embeddings.device.type, enabled=False):
        questions, passages = _precise(question_embeddings), _precise(passage_embeddings)
        if similarity == "cosine":
            questions, passages = F.normalize(questions, dim=-1), F.normalize(passages, dim=-1)
        return questions @ passages.T


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

    Logits are the identity, so that each question costs -log(e / (e + 1)) = log(1 + 1 / e):

    >>> in_batch_nll(torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
    tensor(0.3133)
    >>> in_batch_nll(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), ignore=torch.ones(2, 2, dtype=torch.bool))
    tensor(0.)
    """
    logits = similarity_logits(question_embeddings, passage_embeddings, similarity=similarity) / temperature
    if ignore is not None:
        # Two questions can share a positive: its copy must not count as a negative, yet a row
        # without its own positive would have an infinite loss.
        logits = logits.masked_fill(ignore.scatter(1, positive_index[:, None], False), -torch.inf)
    return F.cross_entropy(logits, positive_index, reduction=reduction)


def multi_positive_nll(
    question_embeddings: Tensor,
    passage_embeddings: Tensor,
    is_positive: Tensor,
    *,
    ignore: Tensor | None = None,
    temperature: float = 1.0,
    similarity: str = "dot",
    reduction: str = "mean",
) -> Tensor:
    """Mean negative log-likelihood of all of a question's positives, each of them against the negatives alone.

    That is SupCon's L_out (arXiv:2004.11362, eq. 2) without the other positives in the denominator: they do not
    compete. With one positive a question it is ``in_batch_nll``.

    Args:
        question_embeddings: (B, D) float.
        passage_embeddings: (P, D) float, same device.
        is_positive: (B, P) bool, True where the passage answers the question; each question has one.
        ignore: (B, P) bool. True takes a passage out, unless it is a positive.
        temperature: Divides the logits; no unit, positive.
        similarity: "dot" or "cosine".
        reduction: "mean" over the questions, or "none".

    Returns:
        Scalar, or (B,), in nats.

    Raises:
        ValueError: A question has no positive; or as ``similarity_logits``.

    All logits are 0: each of the two positives has one negative, and costs log 2.

    >>> multi_positive_nll(torch.zeros(1, 2), torch.ones(3, 2), torch.tensor([[True, True, False]]))
    tensor(0.6931)
    """
    num_positives = is_positive.sum(dim=1)
    if not num_positives.all():
        raise ValueError(f"question {int(num_positives.argmin())} has no positive; expected one or more of each")
    logits = similarity_logits(question_embeddings, passage_embeddings, similarity=similarity) / temperature
    left_out = is_positive if ignore is None else is_positive | ignore
    negatives = logits.masked_fill(left_out, _LEAST).logsumexp(dim=1, keepdim=True)
    losses = (F.softplus(negatives - logits) * is_positive).sum(dim=1) / num_positives
    return losses.mean() if reduction == "mean" else losses


def distillation_kl(
    question_embeddings: Tensor,
    passage_embeddings: Tensor,
    teacher_scores: Tensor,
    *,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    similarity: str = "dot",
    reduction: str = "mean",
) -> Tensor:
    """How far a question's passages are from the order that a teacher gives them: KL(teacher || student).

    Both are softmaxes over those passages that have a teacher's score (RocketQAv2, arXiv:2110.07367, eq. 4).

    Args:
        question_embeddings: (B, D) float.
        passage_embeddings: (P, D) float, same device.
        teacher_scores: (B, P) float, larger is better; NaN where the teacher has none.
        temperature: Divides the logits; no unit, positive.
        teacher_temperature: Divides the teacher's scores; no unit, positive.
        similarity: "dot" or "cosine".
        reduction: "mean" over the questions, or "none".

    Returns:
        Scalar, or (B,), in nats; 0 where fewer than two passages have a score.

    Raises:
        ValueError: As ``similarity_logits``.

    A student to whom both passages look alike, and a teacher who is nearly sure: log 2 less the teacher's entropy.

    >>> distillation_kl(torch.zeros(1, 2), torch.ones(2, 2), torch.tensor([[20.0, 0.0]]))
    tensor(0.6931)
    """
    logits = similarity_logits(question_embeddings, passage_embeddings, similarity=similarity) / temperature
    unknown = teacher_scores.isnan()
    student = logits.masked_fill(unknown, _LEAST).log_softmax(dim=1)
    teacher = (teacher_scores.to(logits.dtype) / teacher_temperature).masked_fill(unknown, _LEAST).log_softmax(dim=1)
    losses = (teacher.exp() * (teacher - student)).masked_fill(unknown, 0).sum(dim=1)
    return losses.mean() if reduction == "mean" else losses


def likely_positives(scores: Tensor, owner: Tensor, positive_index: Tensor, margin: float) -> Tensor:
    """Which of a question's own passages a guide scores so high that they may answer it, too.

    These are to be taken out of its negatives (NV-Retriever, arXiv:2407.15831, TopK-MarginPos; GISTEmbed,
    arXiv:2402.16829, with a margin of 0).

    Args:
        scores: (P,) float, a guide's score of each passage for the question of its row; NaN where there is none.
        owner: (P,) int64, that question.
        positive_index: (B,) int64, the passage that answers each question.
        margin: What a negative must stay below the positive's score.

    Returns:
        (P,) bool; False where a score is not known, and for the positives themselves.

    >>> scores = torch.tensor([0.9, 0.85, 0.2])
    >>> likely_positives(scores, torch.tensor([0, 0, 0]), torch.tensor([0]), margin=0.1)
    tensor([False,  True, False])
    """
    found = scores > scores[positive_index[owner]] - margin
    return found.scatter(0, positive_index, False)


def _precise(embeddings: Tensor) -> Tensor:
    """In float32 at least."""
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()
