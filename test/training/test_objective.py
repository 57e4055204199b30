"""The objective on one rank, in one piece and in tiles. test_gradients.py tests several ranks."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from text.errors import SettingsWarning
from text.losses import in_batch_nll, multi_positive_nll, similarity_logits
from text.records import BiEncoderBatch, TokenBatch
from text.training import Objective, objective

NO_TOKENS = TokenBatch(*(torch.empty(0) for _ in range(4)), lengths=np.zeros(0, dtype=np.int64))
NUM_QUESTIONS, NUM_PASSAGES = 5, 15


def batch() -> BiEncoderBatch:
    """Return 5 questions with 3 passages each, positive first.

    Passages 4 and 6 are also known positives of question 0, and passage 0 is also one of question 3.
    """
    keys = torch.arange(NUM_PASSAGES)[:, None].expand(-1, 2)
    positive_index = torch.arange(0, NUM_PASSAGES, 3)
    known = torch.stack([positive_index] * 3, dim=1)
    known[0, 1:] = torch.tensor([4, 6])
    known[3, 1] = 0
    return BiEncoderBatch(
        questions=NO_TOKENS,
        passages=NO_TOKENS,
        text_index=torch.arange(NUM_PASSAGES),
        positive_index=positive_index,
        owner=torch.arange(NUM_QUESTIONS).repeat_interleave(3),
        passage_keys=keys,
        known_positives=known[:, :, None].expand(-1, -1, 2),
        scores=torch.full((NUM_PASSAGES,), torch.nan),
        sources=torch.zeros(NUM_QUESTIONS, dtype=torch.int64),
        rows=torch.arange(NUM_QUESTIONS),
        counts={},
    )


def embeddings() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(size, 4, generator=generator, dtype=torch.float64).requires_grad_()
        for size in (NUM_QUESTIONS, NUM_PASSAGES)
    )  # pyright: ignore[reportReturnType]


def test_known_positives_are_not_negatives() -> None:
    ignore = torch.zeros(NUM_QUESTIONS, NUM_PASSAGES, dtype=torch.bool)
    ignore[0, 4] = ignore[0, 6] = ignore[3, 0] = True
    expected = in_batch_nll(*embeddings(), batch().positive_index, ignore=ignore, temperature=0.5, reduction="none")
    torch.testing.assert_close(Objective(temperature=0.5)(batch(), *embeddings()), expected)


def test_without_in_batch_negatives_only_own_passages_count() -> None:
    questions, passages = embeddings()
    expected = [
        in_batch_nll(questions[[i]], passages[3 * i : 3 * i + 3], torch.tensor([0])) for i in range(NUM_QUESTIONS)
    ]
    found = Objective(in_batch_negatives=False)(batch(), questions, passages)
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("tile", [1, NUM_PASSAGES, 2 * NUM_PASSAGES, 3 * NUM_PASSAGES + 1])
@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_tiles_of_any_size_give_the_same_loss_and_gradients(
    monkeypatch: pytest.MonkeyPatch, in_batch_negatives: bool, tile: int
) -> None:
    results = []
    for size in (objective.TILE_SIZE, tile):
        monkeypatch.setattr(objective, "TILE_SIZE", size)
        sides = embeddings()
        losses = Objective(similarity="cosine", in_batch_negatives=in_batch_negatives)(batch(), *sides)
        results.append([losses, *torch.autograd.grad(losses.square().sum(), sides)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_rank_without_questions_has_no_losses() -> None:
    """Test a rank that has no share of a short last batch."""
    empty = batch()._replace(
        positive_index=torch.zeros(0, dtype=torch.int64), known_positives=torch.zeros(0, 1, 2, dtype=torch.int64)
    )
    assert Objective()(empty, torch.zeros(0, 4), torch.zeros(NUM_PASSAGES, 4)).shape == (0,)


# ---- several positives, both directions, fewer dimensions


def test_all_positives_uses_every_known_positive() -> None:
    is_positive = torch.zeros(NUM_QUESTIONS, NUM_PASSAGES, dtype=torch.bool)
    is_positive[torch.arange(NUM_QUESTIONS), batch().positive_index] = True
    is_positive[0, 4] = is_positive[0, 6] = is_positive[3, 0] = True
    expected = multi_positive_nll(*embeddings(), is_positive, reduction="none")
    torch.testing.assert_close(Objective(all_positives=True)(batch(), *embeddings()), expected)


def test_all_positives_without_in_batch_negatives_uses_the_own_row_only() -> None:
    """Question 0 has known positives in other rows, which are then excluded."""
    objective = Objective(all_positives=True, in_batch_negatives=False)
    torch.testing.assert_close(
        objective(batch(), *embeddings()), Objective(in_batch_negatives=False)(batch(), *embeddings())
    )


def test_symmetric_averages_both_directions() -> None:
    questions, passages = embeddings()
    positives, index = passages[batch().positive_index], torch.arange(NUM_QUESTIONS)
    ignore = torch.zeros(NUM_QUESTIONS, NUM_QUESTIONS, dtype=torch.bool)
    ignore[0, 3] = ignore[2, 0] = True  # passage 0 also answers question 3; passage 6 of question 2 answers question 0
    back = in_batch_nll(positives, questions, index, ignore=ignore, reduction="none")
    expected = (Objective()(batch(), questions, passages) + back) / 2
    torch.testing.assert_close(Objective(symmetric=True)(batch(), questions, passages), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_symmetric_equals_sentence_transformers() -> None:
    """Compare batches in which no question has a known positive in another row."""
    losses = pytest.importorskip("sentence_transformers.losses")
    theirs = losses.MultipleNegativesSymmetricRankingLoss(model=None, scale=20.0)
    questions, passages = embeddings()
    one_each = batch()._replace(known_positives=batch().known_positives[:, :1])
    expected = theirs.compute_loss_from_embeddings([questions, passages[one_each.positive_index]], None)
    one_each = one_each._replace(
        positive_index=torch.arange(NUM_QUESTIONS),
        owner=torch.arange(NUM_QUESTIONS),
        passage_keys=one_each.passage_keys[one_each.positive_index],
    )
    ours = Objective(symmetric=True, similarity="cosine", temperature=0.05)
    found = ours(one_each, questions, passages[batch().positive_index]).mean()
    torch.testing.assert_close(found, expected)


def test_matryoshka_averages_the_losses_of_leading_dimensions() -> None:
    questions, passages = embeddings()
    expected = sum(Objective()(batch(), questions[:, :dims], passages[:, :dims]) for dims in (4, 2, 1)) / 3
    torch.testing.assert_close(Objective(matryoshka_dims=(2, 1))(batch(), questions, passages), expected)
    with pytest.raises(ValueError, match=r"matryoshka_dims are \[8\].*\b4\b"):
        Objective(matryoshka_dims=(8,))(batch(), questions, passages)


def test_symmetric_needs_in_batch_negatives() -> None:
    with pytest.raises(ValueError, match=r"symmetric.*in_batch_negatives"):
        Objective(symmetric=True, in_batch_negatives=False)


# ---- scores of a guide or teacher


def scored() -> BiEncoderBatch:
    """Return the batch with scores: positives 5, passage 1 nearly as high, passage 8 higher, question 4 without."""
    scores = torch.tensor([5.0, 4.5, 3.0, 5, 1, 2, 5, 0, 9, 5, 3, 3, torch.nan, torch.nan, torch.nan])
    return batch()._replace(scores=scores)


@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_guide_margin_removes_likely_positives(in_batch_negatives: bool) -> None:
    ignore = torch.zeros(NUM_QUESTIONS, NUM_PASSAGES, dtype=torch.bool)
    ignore[0, 4] = ignore[0, 6] = ignore[3, 0] = ignore[0, 1] = ignore[2, 8] = True
    if not in_batch_negatives:
        ignore |= batch().owner != torch.arange(NUM_QUESTIONS)[:, None]
    expected = in_batch_nll(*embeddings(), batch().positive_index, ignore=ignore, reduction="none")
    guided = Objective(guide_margin=1.0, in_batch_negatives=in_batch_negatives)
    torch.testing.assert_close(guided(scored(), *embeddings()), expected)


def test_guide_margin_also_removes_copies_in_other_rows() -> None:
    keys = batch().passage_keys.clone()
    keys[14] = keys[1]  # question 4 also has passage 1
    made = scored()._replace(passage_keys=keys)
    ignore = torch.zeros(NUM_QUESTIONS, NUM_PASSAGES, dtype=torch.bool)
    ignore[0, 4] = ignore[0, 6] = ignore[3, 0] = ignore[0, 1] = ignore[0, 14] = ignore[2, 8] = True
    expected = in_batch_nll(*embeddings(), made.positive_index, ignore=ignore, reduction="none")
    torch.testing.assert_close(Objective(guide_margin=1.0)(made, *embeddings()), expected)


def test_guide_margin_never_removes_a_known_positive() -> None:
    made = scored()._replace(known_positives=batch().known_positives.clone())
    made.known_positives[0, 1] = 1  # passage 1 scores above the limit
    is_positive = torch.zeros(NUM_QUESTIONS, NUM_PASSAGES, dtype=torch.bool)
    is_positive[torch.arange(NUM_QUESTIONS), made.positive_index] = True
    is_positive[0, 1] = is_positive[0, 6] = is_positive[3, 0] = True
    ignore = torch.zeros_like(is_positive)
    ignore[2, 8] = True
    expected = multi_positive_nll(*embeddings(), is_positive, ignore=ignore, reduction="none")
    torch.testing.assert_close(Objective(all_positives=True, guide_margin=1.0)(made, *embeddings()), expected)


@pytest.mark.parametrize("tile", [1, 1 << 24])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_distillation_mixes_in_the_divergence_from_the_teacher(
    monkeypatch: pytest.MonkeyPatch, tile: int, share: float
) -> None:
    monkeypatch.setattr(objective, "TILE_SIZE", tile)
    questions, passages = embeddings()
    plain = Objective(temperature=0.5)(batch(), questions, passages)
    expected = []
    for i in range(NUM_QUESTIONS):
        own = slice(3 * i, 3 * i + 3)
        student = (questions[i] @ passages[own].T / 0.5).log_softmax(0)
        teacher = (scored().scores[own].double() / 2.0).softmax(0)
        divergence = (teacher * (teacher.log() - student)).sum()
        expected.append(plain[i] if i == 4 else (1 - share) * plain[i] + share * divergence)
    distilled = Objective(temperature=0.5, distillation=share, teacher_temperature=2.0)
    torch.testing.assert_close(distilled(scored(), questions, passages), torch.stack(expected))


@pytest.mark.parametrize("tile", [1, 1 << 24])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_margin_mse_compares_the_margins_of_own_passages(
    monkeypatch: pytest.MonkeyPatch, tile: int, similarity: str
) -> None:
    """Question 4 has no scores, and question 3 has none for its positive. Both keep their contrastive losses."""
    monkeypatch.setattr(objective, "TILE_SIZE", tile)
    questions, passages = embeddings()
    scores = scored().scores.clone()
    scores[9] = torch.nan
    options = {"temperature": 0.5, "similarity": similarity}
    plain = Objective(**options)(batch(), questions, passages)
    logits = similarity_logits(questions, passages, similarity=similarity)  # not divided by the temperature
    expected = []
    for i in range(NUM_QUESTIONS):
        student, teacher = logits[i, 3 * i : 3 * i + 3], scores[3 * i : 3 * i + 3] / 4.0
        error = ((student[0] - student[1:]) - (teacher[0] - teacher[1:])).square().mean()
        expected.append(plain[i] if i >= 3 else 0.75 * plain[i] + 0.25 * error)
    distilled = Objective(**options, distillation=0.25, distillation_loss="margin_mse", teacher_temperature=4.0)
    found = distilled(batch()._replace(scores=scores), questions, passages)
    torch.testing.assert_close(found, torch.stack(expected))


# ---- embeddings of a teacher


@pytest.mark.parametrize("sides", [("question",), ("passage",), ("question", "passage")])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_embedding_distillation_mixes_in_the_mean_distance_of_the_sides(
    sides: tuple[str, ...], similarity: str
) -> None:
    questions, passages = embeddings()
    generator = torch.Generator().manual_seed(1)
    targets = {
        side: torch.randn(len(own), 4, generator=generator)
        for side, own in zip(("question", "passage"), embeddings(), strict=True)
    }
    ragged = batch()._replace(
        owner=torch.tensor([0, 0, 0, 0, 0, 1, 2, 2, 2, 3, 3, 4, 4, 4, 4]), positive_index=torch.tensor([0, 5, 6, 9, 11])
    )
    made = ragged._replace(**{f"{side}_targets": targets[side] for side in sides})
    plain = Objective(similarity=similarity)(ragged, questions, passages)
    expected = []
    for i in range(NUM_QUESTIONS):
        own = (ragged.owner == i).nonzero().flatten()
        pairs = {
            "question": (questions[[i]], targets["question"][[i]]),
            "passage": (passages[own], targets["passage"][own]),
        }
        means = []
        for student, teacher in (pairs[side] for side in sides):
            scale = torch.nn.functional.normalize if similarity == "cosine" else lambda rows: rows
            means.append((scale(student) - scale(teacher.double())).square().sum(dim=1).mean())
        expected.append(0.7 * plain[i] + 0.3 * sum(means) / len(means))
    found = Objective(similarity=similarity, embedding_distillation=0.3)(made, questions, passages)
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_student_that_equals_the_teacher_has_no_loss() -> None:
    questions, passages = embeddings()
    made = batch()._replace(question_targets=questions.detach(), passage_targets=passages.detach())
    losses = Objective(embedding_distillation=1.0)(made, questions, passages)
    assert losses.shape == (NUM_QUESTIONS,) and not losses.any()


def test_embedding_distillation_needs_the_embeddings_of_a_teacher() -> None:
    with pytest.raises(ValueError, match=r"^embedding_distillation"):
        Objective(embedding_distillation=0.5)(batch(), *embeddings())


@pytest.mark.parametrize(
    "number",
    [
        {"embedding_distillation": -0.5},
        {"distillation_loss": "l1"},
        {"distillation": 1.5},
        {"temperature": -1.0},
        {"teacher_temperature": 0.0},
        {"matryoshka_dims": (4, 0)},
        {"guide_margin": float("nan")},
    ],
)
def test_a_number_out_of_range_is_rejected_by_name(number: dict) -> None:
    [(name, value)] = number.items()
    with pytest.raises(ValueError, match=rf"^{name} .*{re.escape(str(value).strip('()'))}"):
        Objective(**number)


# ---- lowest possible loss


def test_the_floor_of_the_loss_by_hand() -> None:
    # 10 passages, scores between -1 and 1: -log(e / (e + 9 / e)) = log(1 + 9 / e^2).
    assert Objective().find_floor(10) == pytest.approx(math.log(1 + 9 / math.e**2)) == pytest.approx(0.797, abs=1e-3)
    assert Objective(temperature=0.05).find_floor(10) == pytest.approx(9 * math.exp(-40))
    assert Objective().find_floor(1) == 0


def test_the_floor_is_the_lowest_loss_that_occurs() -> None:
    best = in_batch_nll(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0])
    )
    assert best.item() == pytest.approx(Objective().find_floor(3))
    generator = torch.Generator().manual_seed(0)
    questions, passages = (torch.nn.functional.normalize(torch.randn(n, 4, generator=generator)) for n in (5, 8))
    assert in_batch_nll(questions, passages, torch.arange(5), reduction="none").min() > Objective().find_floor(8)


def test_a_temperature_that_is_too_high_raises_a_warning() -> None:
    with pytest.warns(SettingsWarning, match=r"0\.80.*2\.30.*--temperature=0\.05"):
        Objective().check_temperature(10, is_unit_length=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Objective().check_temperature(10, is_unit_length=False)
        Objective().check_temperature(1, is_unit_length=True)
        Objective(temperature=0.05).check_temperature(1 << 20, is_unit_length=True)
        Objective(distillation=1.0).check_temperature(10, is_unit_length=True)
