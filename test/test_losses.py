"""Training objectives: examples by hand, comparison with plain Python and PyTorch, and extreme values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from text.losses import (
    SIMILARITIES,
    distillation_kl,
    embedding_distance,
    in_batch_nll,
    likely_positives,
    margin_mse,
    multi_positive_nll,
    similarity_logits,
)


def test_in_batch_nll_by_hand():
    # Logits are the identity, so each question costs -log(e / (e + 1)) = log(1 + 1/e).
    loss = in_batch_nll(torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
    torch.testing.assert_close(loss, torch.tensor(math.log1p(math.exp(-1))))


def test_loss_of_each_question_by_hand():
    # The logits of the first question are (1, 0). The logits of the second are (0, 0).
    questions, passages, positive_index = (
        torch.tensor([[1.0], [0.0]]),
        torch.tensor([[1.0], [0.0]]),
        torch.tensor([0, 1]),
    )
    losses = in_batch_nll(questions, passages, positive_index, reduction="none")
    torch.testing.assert_close(losses, torch.tensor([math.log1p(math.exp(-1)), math.log(2)]))
    torch.testing.assert_close(in_batch_nll(questions, passages, positive_index), losses.mean())


def test_temperature_by_hand():
    # The logits are the identity divided by 0.5, so the diagonal is 2.
    loss = in_batch_nll(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), temperature=0.5)
    torch.testing.assert_close(loss, torch.tensor(math.log1p(math.exp(-2))))


def test_cosine_by_hand():
    # (6, 8) has the direction of (3, 4), and (-4, 3) is orthogonal to it: logits 1 and 0.
    passages = torch.tensor([[6.0, 8.0], [-4.0, 3.0]])
    logits = similarity_logits(torch.tensor([[3.0, 4.0]]), passages, similarity="cosine")
    torch.testing.assert_close(logits, torch.tensor([[1.0, 0.0]]))


def test_equal_logits_cost_the_log_of_the_number_of_passages():
    loss = in_batch_nll(torch.ones(3, 4), torch.ones(7, 4), torch.tensor([0, 2, 6]))
    torch.testing.assert_close(loss, torch.tensor(math.log(7)))


def test_ignore_by_hand():
    # All logits are equal. The first question compares 4 passages and the second 2: log 4 and log 2.
    ignore = torch.tensor([[False, False, False, False], [True, True, False, False]])
    loss = in_batch_nll(torch.ones(2, 3), torch.ones(4, 3), torch.tensor([0, 2]), ignore=ignore)
    torch.testing.assert_close(loss, torch.tensor((math.log(4) + math.log(2)) / 2))


def test_ignore_never_removes_the_positive():
    everything = torch.ones(2, 2, dtype=torch.bool)
    loss = in_batch_nll(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), ignore=everything)
    torch.testing.assert_close(loss, torch.tensor(0.0))
    assert everything.all(), "the mask of the caller has changed"


@settings(deadline=None, derandomize=True)
@given(
    group_sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    ignored_share=st.sampled_from([0.0, 0.3, 1.0]),
    temperature=st.sampled_from([0.05, 1.0, 3.0]),
    similarity=st.sampled_from(SIMILARITIES),
    seed=st.integers(0, 2**32),
)
def test_equals_nested_loops(group_sizes, ignored_share, temperature, similarity, seed):
    """The loss equals plain Python for any number of passages and any place of the positive."""
    generator = torch.Generator().manual_seed(seed)
    questions = torch.randn(len(group_sizes), 5, generator=generator, dtype=torch.float64)
    passages = torch.randn(sum(group_sizes), 5, generator=generator, dtype=torch.float64)
    ignore = torch.rand(len(group_sizes), sum(group_sizes), generator=generator) < ignored_share
    positive_index = torch.randint(sum(group_sizes), (len(group_sizes),), generator=generator)
    loss = in_batch_nll(
        questions, passages, positive_index, ignore=ignore, temperature=temperature, similarity=similarity
    )
    expected = compute_nll_in_plain_python(questions, passages, positive_index, ignore, temperature, similarity)
    torch.testing.assert_close(loss.item(), expected)


def compute_nll_in_plain_python(
    questions: Tensor, passages: Tensor, positive_index: Tensor, ignore: Tensor, temperature: float, similarity: str
) -> float:
    costs = []
    for question, positive, ignored in zip(questions.tolist(), positive_index.tolist(), ignore.tolist(), strict=True):
        logits = {}
        for row, passage in enumerate(passages.tolist()):
            if row == positive or not ignored[row]:
                dot = sum(a * b for a, b in zip(question, passage, strict=True))
                lengths = math.hypot(*question) * math.hypot(*passage) if similarity == "cosine" else 1
                logits[row] = dot / lengths / temperature
        highest = max(logits.values())
        total = sum(math.exp(logit - highest) for logit in logits.values())
        costs.append(highest + math.log(total) - logits[positive])
    return sum(costs) / len(costs)


@pytest.mark.parametrize(("positive", "expected"), [(0, 0.0), (1, 20_000.0)])
def test_scores_of_ten_thousand_are_finite(positive, expected):
    # The logits are 10,000 and -10,000. Only their difference matters.
    question = torch.tensor([[100.0]], requires_grad=True)
    passages = torch.tensor([[100.0], [-100.0]], requires_grad=True)
    ignore = torch.zeros(1, 2, dtype=torch.bool)
    loss = in_batch_nll(question, passages, torch.tensor([positive]), ignore=ignore)
    loss.backward()
    torch.testing.assert_close(loss.item(), expected)
    assert question.grad is not None and question.grad.isfinite().all()
    assert passages.grad is not None and passages.grad.isfinite().all()


def test_an_ignored_passage_gets_no_gradient():
    passages = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ignore = torch.tensor([[False, False, True]])
    in_batch_nll(torch.ones(1, 4), passages, torch.tensor([0]), ignore=ignore).backward()
    assert passages.grad is not None
    assert (passages.grad != 0).any(dim=1).tolist() == [True, True, False]


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_logits_are_precise_in_mixed_precision(similarity):
    generator = torch.Generator().manual_seed(0)
    sides = [15 * torch.nn.functional.normalize(torch.randn(n, 64, generator=generator), dim=-1) for n in (3, 5)]
    expected = similarity_logits(*sides, similarity=similarity)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = similarity_logits(*sides, similarity=similarity)
    assert torch.equal(found, expected)
    halves = [side.bfloat16() for side in sides]
    assert torch.equal(
        similarity_logits(*halves, similarity=similarity),
        similarity_logits(*(half.float() for half in halves), similarity=similarity),
    )


def test_cosine_of_a_zero_vector_is_finite():
    question = torch.zeros(1, 3, requires_grad=True)
    loss = in_batch_nll(question, torch.eye(3), torch.tensor([1]), similarity="cosine")
    loss.backward()
    torch.testing.assert_close(loss.item(), math.log(3))
    assert question.grad is not None and question.grad.isfinite().all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_gradient_equals_finite_differences(similarity):
    generator = torch.Generator().manual_seed(0)
    questions = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    passages = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    ignore = torch.rand(3, 7, generator=generator) < 0.3
    positive_index = torch.tensor([0, 3, 5])
    assert torch.autograd.gradcheck(
        lambda q, p: in_batch_nll(q, p, positive_index, ignore=ignore, temperature=0.5, similarity=similarity),
        (questions, passages),
    )


@pytest.mark.parametrize(
    ("questions", "passages"),
    [
        pytest.param((2, 3), (2, 4), id="two widths"),
        pytest.param((3,), (2, 3), id="one question without its dimension"),
        pytest.param((2, 3), (3,), id="one passage without its dimension"),
        pytest.param((2, 3), (2, 2, 3), id="passages grouped by question"),
    ],
)
def test_shapes_that_do_not_fit_are_rejected(questions, passages):
    with pytest.raises(ValueError, match=r"question_embeddings.*passage_embeddings"):
        in_batch_nll(torch.ones(questions), torch.ones(passages), torch.tensor([0, 1]))


def test_an_unknown_similarity_is_rejected():
    with pytest.raises(ValueError, match='similarity is "euclid"'):
        in_batch_nll(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), similarity="euclid")


# ---- several positives


def build_random_embeddings(num_questions: int = 3, num_passages: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(num_questions, 4, generator=generator, dtype=torch.float64, requires_grad=True),
        torch.randn(num_passages, 4, generator=generator, dtype=torch.float64, requires_grad=True),
    )


def test_two_positives_by_hand():
    # The logits are 1, 0 and 2. The passage in the middle is the only negative of both positives.
    loss = multi_positive_nll(
        torch.tensor([[1.0]]), torch.tensor([[1.0], [0.0], [2.0]]), torch.tensor([[True, False, True]])
    )
    torch.testing.assert_close(loss.item(), (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_several_positives_equal_the_mean_of_one_each(similarity):
    """The loss equals the mean of in_batch_nll over the positives, with the other positives ignored."""
    questions, passages = build_random_embeddings()
    is_positive = torch.tensor([[1, 0, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0]]).bool()
    ignore = torch.tensor([[0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0], [0] * 7]).bool()
    options = {"temperature": 0.5, "similarity": similarity}
    found = multi_positive_nll(questions, passages, is_positive, ignore=ignore, reduction="none", **options)
    for row, loss in enumerate(found):
        left_out = ignore[[row]] | is_positive[[row]]  # The positive itself is never ignored.
        each = [
            in_batch_nll(questions[[row]], passages, torch.tensor([column]), ignore=left_out, **options)
            for column in is_positive[row].nonzero().flatten().tolist()
        ]
        torch.testing.assert_close(loss, torch.stack(each).mean())
    assert torch.autograd.gradcheck(
        lambda q, p: multi_positive_nll(q, p, is_positive, ignore=ignore, **options), (questions, passages)
    )


def test_without_negatives_the_loss_is_zero():
    questions, passages = build_random_embeddings(2, 3)
    loss = multi_positive_nll(questions, passages, torch.ones(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert questions.grad is not None and not questions.grad.any()


def test_the_loss_of_a_question_without_a_positive_is_nan():
    is_positive = torch.tensor([[True, False], [False, False]])
    losses = multi_positive_nll(torch.eye(2), torch.eye(2), is_positive, reduction="none")
    assert losses.isnan().tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_several_positives_and_large_scores_are_finite(dtype):
    question = torch.tensor([[100.0]], dtype=dtype, requires_grad=True)
    passages = torch.tensor([[100.0], [-100.0], [-100.0]], dtype=dtype)
    loss = multi_positive_nll(question, passages, torch.tensor([[True, False, True]]))
    loss.backward()
    # The first positive scores 20,000 above the negative. The second scores the same as the negative.
    torch.testing.assert_close(loss.item(), math.log(2) / 2, rtol=1e-3, atol=0)
    assert question.grad is not None and question.grad.isfinite().all()


# ---- distillation and likely positives


def test_distillation_by_hand():
    # The teacher gives 3/4 and 1/4, the student 1/2 each. The teacher has no score for the third passage.
    scores = torch.tensor([[math.log(3), 0.0, math.nan]])
    loss = distillation_kl(torch.ones(1, 2), torch.ones(3, 2), scores)
    torch.testing.assert_close(loss.item(), 0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    # The teacher is undecided, and the student prefers the first passage by 3 to 1.
    loss = distillation_kl(torch.ones(1, 1), torch.tensor([[math.log(3.0)], [0.0]]), torch.zeros(1, 2))
    torch.testing.assert_close(loss.item(), 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_distillation_equals_torch_on_the_passages_with_a_score(similarity):
    questions, passages = build_random_embeddings()
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores[0, :3] = scores[2, 5] = torch.nan
    options = {"temperature": 0.5, "teacher_temperature": 2.0, "similarity": similarity}
    found = distillation_kl(questions, passages, scores, reduction="none", **options)
    logits = similarity_logits(questions, passages, similarity=similarity) / 0.5
    for row, loss in enumerate(found):
        known = ~scores[row].isnan()
        student, teacher = logits[row][known].log_softmax(0), (scores[row][known] / 2).log_softmax(0)
        expected = torch.nn.functional.kl_div(student, teacher, reduction="sum", log_target=True)
        torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(distillation_kl(questions, passages, scores, **options), found.mean())
    assert torch.autograd.gradcheck(lambda q, p: distillation_kl(q, p, scores, **options), (questions, passages))


@pytest.mark.parametrize("known", [0, 1])
def test_with_fewer_than_two_scores_the_loss_is_zero(known):
    questions, passages = build_random_embeddings(1, 3)
    scores = torch.full((1, 3), math.nan)
    scores[0, :known] = 5.0
    loss = distillation_kl(questions, passages, scores)
    loss.backward()
    assert loss.item() == 0
    assert questions.grad is not None and not questions.grad.any()


def test_margin_mse_by_hand():
    # Scores of the student: 3, 1, 2 (margins 2, 1). Scores of the teacher: 9, 7, unknown (margin 2).
    questions, passages = torch.ones(1, 1), torch.tensor([[3.0], [1.0], [2.0]])
    assert margin_mse(questions, passages, torch.tensor([0]), torch.tensor([[9.0, 7.0, math.nan]])).item() == 0
    # The teacher's margins are 2 / 4 and 6 / 4.
    scores = torch.tensor([[9.0, 7.0, 3.0]])
    loss = margin_mse(questions, passages, torch.tensor([0]), scores, teacher_temperature=4.0)
    torch.testing.assert_close(loss.item(), ((2 - 0.5) ** 2 + (1 - 1.5) ** 2) / 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_margin_mse_equals_sentence_transformers():
    theirs = pytest.importorskip("sentence_transformers.losses").MarginMSELoss(model=None)
    questions, passages = build_random_embeddings(4, 3)
    labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = theirs.compute_loss_from_embeddings([questions, *(each.expand(4, -1) for each in passages)], labels)
    found = margin_mse(questions, passages, torch.zeros(4, dtype=torch.int64), labels)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_margin_mse_equals_nested_loops(similarity):
    questions, passages = build_random_embeddings()
    positive_index = torch.tensor([0, 4, 6])
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores[0, 1:3] = scores[1, 5] = scores[2, 6] = torch.nan  # question 2 has no score for its positive
    options = {"teacher_temperature": 2.0, "similarity": similarity}
    found = margin_mse(questions, passages, positive_index, scores, reduction="none", **options)
    logits = similarity_logits(questions, passages, similarity=similarity)
    for row, own in enumerate(positive_index.tolist()):
        squares = [
            (logits[row, own] - logits[row, n] - (scores[row, own] - scores[row, n]) / 2) ** 2
            for n in range(7)
            if n != own and not (scores[row, own] - scores[row, n]).isnan()
        ]
        assert len(squares) == (4, 5, 0)[row]
        torch.testing.assert_close(found[row], sum(squares, logits.new_zeros(())) / max(1, len(squares)))
    torch.testing.assert_close(margin_mse(questions, passages, positive_index, scores, **options), found.mean())
    assert torch.autograd.gradcheck(
        lambda q, p: margin_mse(q, p, positive_index, scores, **options), (questions, passages)
    )


def test_margin_mse_without_scores_has_no_gradient():
    questions, passages = build_random_embeddings(1, 3)
    margin_mse(questions, passages, torch.tensor([0]), torch.full((1, 3), math.nan)).backward()
    assert questions.grad is not None and not questions.grad.any()


def test_embedding_distance_by_hand():
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 4.0], [2.0, 0.0]])
    torch.testing.assert_close(embedding_distance(student, teacher), torch.tensor([9.0, 1.0]))
    # The cosine of the first pair is 4/5, so the distance of the directions is 2 - 8/5. The second pair is parallel.
    torch.testing.assert_close(embedding_distance(student, teacher, similarity="cosine"), torch.tensor([0.4, 0.0]))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_embedding_distance_is_d_times_the_mean_squared_error(similarity):
    student, teacher = build_random_embeddings(5, 5)
    found = embedding_distance(student, teacher, similarity=similarity)
    if similarity == "cosine":
        cosines = torch.nn.functional.cosine_similarity(student, teacher)
        torch.testing.assert_close(found, 2 - 2 * cosines)
    else:
        expected = student.shape[1] * torch.nn.functional.mse_loss(student, teacher)
        torch.testing.assert_close(found.mean(), expected)
    assert not embedding_distance(student, student, similarity=similarity).any()
    assert torch.autograd.gradcheck(lambda s: embedding_distance(s, teacher, similarity=similarity), (student,))


def test_embedding_distance_refuses_other_shapes_and_similarities():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        embedding_distance(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="angular"):
        embedding_distance(torch.ones(2, 3), torch.ones(2, 3), similarity="angular")


def test_likely_positives_by_hand():
    # The positives of the two questions score 5 and 2, so the limits are 4 and 1.
    scores = torch.tensor([5.0, 4.5, 4.0, math.nan, 2.0, 9.0])
    owner = torch.tensor([0, 0, 0, 0, 1, 1])
    found = likely_positives(scores, owner, torch.tensor([0, 4]), margin=1.0)
    assert found.int().tolist() == [0, 1, 0, 0, 0, 1]


def test_a_positive_without_a_score_excludes_no_passage():
    scores = torch.tensor([math.nan, 9.0])
    assert not likely_positives(scores, torch.tensor([0, 0]), torch.tensor([0]), margin=0.0).any()
