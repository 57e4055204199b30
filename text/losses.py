"""Training objectives over one batch of question and passage embeddings.

The functions are pure: they use no model and no other process, so a value can be checked with a pencil. ``ignore``
excludes passages from the negatives of a question. Questions are independent, so a large batch can be processed in
parts (``text/training/objective.py``). For the passage-to-question direction (CLIP, arXiv:2103.00020), call
``in_batch_nll`` with the two sides exchanged.

Dimensions: B questions; P passages, all positives and hard negatives of the batch; D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SIMILARITIES = ("dot", "cosine")
"""Supported similarities of two embeddings."""
_LEAST = torch.finfo(torch.float32).min / 2
"""Logit of an excluded passage. With -inf, gradients would be NaN if all passages were excluded."""


def similarity_logits(question_embeddings: Tensor, passage_embeddings: Tensor, *, similarity: str = "dot") -> Tensor:
    """Return the similarity of each question to each passage.

    Args:
        question_embeddings: (B, D) float.
        passage_embeddings: (P, D) float, on the same device.
        similarity: "dot" (arXiv:2004.04906, eq. 1) or "cosine".

    Returns:
        (B, P) float32, or float64 for float64 embeddings. Mixed precision does not apply. "cosine" gives -1 to 1.

    Raises:
        ValueError: The embeddings are not (B, D) and (P, D) with the same D, or ``similarity`` is unknown.

    >>> similarity_logits(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0], [8.0, -6.0]]))
    tensor([[25.,  0.]])
    >>> similarity_logits(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), similarity="cosine")
    tensor([[0.8000]])
    """
    if question_embeddings.ndim != 2 or question_embeddings.shape[1:] != passage_embeddings.shape[1:]:
        raise ValueError(
            f"question_embeddings are {tuple(question_embeddings.shape)} and passage_embeddings "
            f"{tuple(passage_embeddings.shape)}. They must be (B, D) and (P, D) with the same D."
        )
    if similarity not in SIMILARITIES:
        raise ValueError(f'similarity is "{similarity}". Supported are {" and ".join(SIMILARITIES)}.')
    # Dot products of trained encoders are often between 128 and 256, where bfloat16 represents integers only.
    with torch.autocast(question_embeddings.device.type, enabled=False):
        questions, passages = _to_full_precision(question_embeddings), _to_full_precision(passage_embeddings)
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
    """Return the negative log-likelihood of each question's positive passage.

    The passages of the other questions are in-batch negatives (arXiv:2004.04906, eq. 2).

    Args:
        question_embeddings: (B, D) float.
        passage_embeddings: (P, D) float, on the same device.
        positive_index: (B,) int64. Row of ``passage_embeddings`` that answers each question.
        ignore: (B, P) bool. True removes a passage from that question's softmax, such as another known positive. The
            question's own positive is never removed.
        temperature: Divides the logits. Positive, without unit. DPR uses 1.
        similarity: "dot" or "cosine".
        reduction: "mean" over the questions, or "none".

    Returns:
        Scalar for "mean" or (B,) for "none", in nats. log(P) if all logits are equal and ``ignore`` is None.

    Raises:
        ValueError: The shapes do not match, or ``similarity`` is unknown. See ``similarity_logits``.

    In the example the logits are the identity, so each question costs -log(e / (e + 1)) = log(1 + 1 / e):

    >>> in_batch_nll(torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
    tensor(0.3133)
    >>> in_batch_nll(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), ignore=torch.ones(2, 2, dtype=torch.bool))
    tensor(0.)
    """
    logits = similarity_logits(question_embeddings, passage_embeddings, similarity=similarity) / temperature
    if ignore is not None:
        # ``ignore`` may include the question's own positive, without which the loss would be infinite.
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
    """Return the mean negative log-likelihood of each question's positives. Each is compared with the negatives only.

    This is the L_out of SupCon (arXiv:2004.11362, eq. 2) without the other positives in the denominator, so positives
    do not compete. If each question has one positive, the loss equals ``in_batch_nll``.

    Args:
        question_embeddings: (B, D) float.
        passage_embeddings: (P, D) float, on the same device.
        is_positive: (B, P) bool. True if the passage answers the question. The loss of a question without positives is
            NaN.
        ignore: (B, P) bool. True removes a passage from the negatives of that question. Positives are never removed.
        temperature: Divides the logits. Positive, without unit.
        similarity: "dot" or "cosine".
        reduction: "mean" over the questions, or "none".

    Returns:
        Scalar for "mean" or (B,) for "none", in nats.

    Raises:
        ValueError: The shapes do not match, or ``similarity`` is unknown. See ``similarity_logits``.

    In the example all logits are 0, so each of the two positives costs log 2 against its one negative:

    >>> multi_positive_nll(torch.zeros(1, 2), torch.ones(3, 2), torch.tensor([[True, True, False]]))
    tensor(0.6931)
    """
    num_positives = is_positive.sum(dim=1)
    logits = similarity_logits(question_embeddings, passage_embeddings, similarity=similarity) / temperature
    excluded = is_positive if ignore is None else is_positive | ignore
    negatives = logits.masked_fill(excluded, _LEAST).logsumexp(dim=1, keepdim=True)
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
    """Return the distillation loss KL(teacher || student).

    Teacher and student are softmaxes over the passages with a teacher score (RocketQAv2, arXiv:2110.07367, eq. 4).

    Args:
        question_embeddings: (B, D) float.
        passage_embeddings: (P, D) float, on the same device.
        teacher_scores: (B, P) float. Larger is better. NaN if the teacher has no score for the passage.
        temperature: Divides the logits of the student. Positive, without unit.
        teacher_temperature: Divides the teacher scores. Positive, without unit.
        similarity: "dot" or "cosine".
        reduction: "mean" over the questions, or "none".

    Returns:
        Scalar for "mean" or (B,) for "none", in nats. 0 for a question with fewer than two teacher scores.

    Raises:
        ValueError: The shapes do not match, or ``similarity`` is unknown. See ``similarity_logits``.

    In the example the student scores both passages equally and the teacher is almost certain. The loss is log 2 minus
    the entropy of the teacher, which is almost 0:

    >>> distillation_kl(torch.zeros(1, 2), torch.ones(2, 2), torch.tensor([[20.0, 0.0]]))
    tensor(0.6931)
    """
    logits = similarity_logits(question_embeddings, passage_embeddings, similarity=similarity) / temperature
    losses = kl_of_logits(logits, teacher_scores, teacher_temperature=teacher_temperature)
    return losses.mean() if reduction == "mean" else losses


def kl_of_logits(logits: Tensor, teacher_scores: Tensor, *, teacher_temperature: float = 1.0) -> Tensor:
    """Return the distillation loss of logits, such as the scores of a cross-encoder. See ``distillation_kl``.

    Args:
        logits: (B, P) float. The logit of a passage without a teacher score has no effect.
        teacher_scores: (B, P) float. NaN if the teacher has no score for the passage.
        teacher_temperature: Divides the teacher scores. Positive, without unit.

    Returns:
        (B,) float, in nats. 0 for a question with fewer than two teacher scores.

    >>> kl_of_logits(torch.zeros(1, 3), torch.tensor([[20.0, 0.0, torch.nan]]))
    tensor([0.6931])
    """
    unknown = teacher_scores.isnan()
    student = logits.masked_fill(unknown, _LEAST).log_softmax(dim=1)
    teacher = (teacher_scores.to(logits.dtype) / teacher_temperature).masked_fill(unknown, _LEAST).log_softmax(dim=1)
    return (teacher.exp() * (teacher - student)).masked_fill(unknown, 0).sum(dim=1)


def margin_mse(
    question_embeddings: Tensor,
    passage_embeddings: Tensor,
    positive_index: Tensor,
    teacher_scores: Tensor,
    *,
    teacher_temperature: float = 1.0,
    similarity: str = "dot",
    reduction: str = "mean",
) -> Tensor:
    """Return the squared error of the student's margins (Margin-MSE, arXiv:2010.02666, eq. 5).

    A margin is the score of the question's positive minus the score of another passage. As in the paper, the student's
    score is the similarity itself: it is not divided by the temperature of the other losses. So the student learns the
    scale of the teacher's margins. The margins of "cosine" lie between -2 and 2, so divide the scores of a teacher with
    larger margins by a ``teacher_temperature``.

    Args:
        question_embeddings: (B, D) float.
        passage_embeddings: (P, D) float, on the same device.
        positive_index: (B,) int64. Row of ``passage_embeddings`` that answers each question.
        teacher_scores: (B, P) float. Larger is better. NaN if the teacher has no score for the passage.
        teacher_temperature: Divides the teacher scores. Positive, without unit.
        similarity: "dot" or "cosine".
        reduction: "mean" over the questions, or "none".

    Returns:
        Scalar for "mean" or (B,) for "none", in squared units of the score. It is the mean over the passages with a
        teacher score, except the positive. 0 if there is no such passage, or the positive has no teacher score.

    Raises:
        ValueError: The shapes do not match, or ``similarity`` is unknown. See ``similarity_logits``.

    In the example the student's margin is 1 and the teacher's margin is 3:

    >>> margin_mse(torch.eye(1, 2), torch.eye(2), torch.tensor([0]), torch.tensor([[5.0, 2.0]]))
    tensor(4.)
    """
    scores = similarity_logits(question_embeddings, passage_embeddings, similarity=similarity)
    losses = margin_mse_of_logits(scores, positive_index, teacher_scores, teacher_temperature=teacher_temperature)
    return losses.mean() if reduction == "mean" else losses


def margin_mse_of_logits(
    scores: Tensor, positive_index: Tensor, teacher_scores: Tensor, *, teacher_temperature: float = 1.0
) -> Tensor:
    """Return the squared error of the margins of scores, such as a cross-encoder's logits. See ``margin_mse``.

    Args:
        scores: (B, P) float. The score of a passage without a teacher score has no effect.
        positive_index: (B,) int64. Column that answers each question.
        teacher_scores: (B, P) float. NaN if the teacher has no score for the passage.
        teacher_temperature: Divides the teacher scores. Positive, without unit.

    Returns:
        (B,) float, in squared units of the score.

    >>> margin_mse_of_logits(torch.tensor([[2.0, 1.0]]), torch.tensor([0]), torch.tensor([[5.0, 2.0]]))
    tensor([4.])
    """
    errors = scores - teacher_scores.to(scores.dtype) / teacher_temperature
    own, unknown = positive_index[:, None], teacher_scores.isnan()
    unknown = unknown.scatter(1, own, True) | unknown.gather(1, own)
    squares = (errors.gather(1, own) - errors).masked_fill(unknown, 0).square()
    return squares.sum(dim=1) / (~unknown).sum(dim=1).clamp(min=1)


def embedding_distance(embeddings: Tensor, teacher_embeddings: Tensor, *, similarity: str = "dot") -> Tensor:
    """Return the squared Euclidean distance of each embedding to the teacher's embedding of the same text.

    This is the loss of multilingual distillation (arXiv:2004.09813, eq. 1) and of LEAF (arXiv:2509.12539). A distance
    of 0 gives the teacher's scores, because it keeps directions and lengths. It is summed over the dimensions, not
    averaged, so that its size does not depend on D: unit-length embeddings are at a distance of 2 - 2 cos, from 0 to 4.

    Args:
        embeddings: (N, D) float.
        teacher_embeddings: (N, D) float, on the same device.
        similarity: "dot" or "cosine". With "cosine", both are first scaled to length 1: only directions count.

    Returns:
        (N,) float32, or float64 for float64 embeddings.

    Raises:
        ValueError: The shapes differ, or ``similarity`` is unknown.

    >>> embedding_distance(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([25.])
    >>> embedding_distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 9.0]]), similarity="cosine")
    tensor([2.])
    """
    if embeddings.shape != teacher_embeddings.shape:
        shapes = f"{tuple(embeddings.shape)} and {tuple(teacher_embeddings.shape)}"
        raise ValueError(f"the shapes of student and teacher embeddings differ: {shapes}. Both must be (N, D).")
    if similarity not in SIMILARITIES:
        raise ValueError(f'similarity is "{similarity}". Supported are {" and ".join(SIMILARITIES)}.')
    with torch.autocast(embeddings.device.type, enabled=False):
        student, teacher = _to_full_precision(embeddings), _to_full_precision(teacher_embeddings)
        if similarity == "cosine":
            student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
        return (student - teacher).square().sum(dim=-1)


def likely_positives(scores: Tensor, owner: Tensor, positive_index: Tensor, margin: float) -> Tensor:
    """Return a mask of the passages that a guide model scores above the positive's score minus a margin.

    Such passages may answer the question, so they are removed from its negatives. The rule is TopK-MarginPos of
    NV-Retriever (arXiv:2407.15831). With a margin of 0 it is the rule of GISTEmbed (arXiv:2402.16829).

    Args:
        scores: (P,) float. Guide's score of each passage for the question that owns it. NaN if there is none.
        owner: (P,) int64. Question that owns each passage.
        positive_index: (B,) int64. Positive passage of each question.
        margin: Minimum distance between the scores of a negative and the positive.

    Returns:
        (P,) bool. True for a likely positive. False for the positives themselves and for passages without a score.

    >>> scores = torch.tensor([0.9, 0.85, 0.2])
    >>> likely_positives(scores, torch.tensor([0, 0, 0]), torch.tensor([0]), margin=0.1)
    tensor([False,  True, False])
    """
    is_likely = scores > scores[positive_index[owner]] - margin
    return is_likely.scatter(0, positive_index, False)


def _to_full_precision(embeddings: Tensor) -> Tensor:
    """Return embeddings in float32, or in float64 if they are float64."""
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()
