"""The objective of one rank: who is compared with whom, whole and in tiles. Several ranks: test_gradients.py."""

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from torch import Tensor

from text.errors import SettingsWarning
from text.losses import in_batch_nll, multi_positive_nll
from text.records import BiEncoderBatch, TokenBatch
from text.training import Objective, objective

NO_TOKENS = TokenBatch(*(torch.empty(0) for _ in range(4)))
NUM_QUESTIONS, NUM_PASSAGES = 5, 15


def batch() -> BiEncoderBatch:
    """Three passages a question, its positive first; question 0 knows passages 4 and 6, too, question 3 passage 0."""
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


def test_known_positives_are_no_negatives() -> None:
    ignore = torch.zeros(NUM_QUESTIONS, NUM_PASSAGES, dtype=torch.bool)
    ignore[0, 4] = ignore[0, 6] = ignore[3, 0] = True
    expected = in_batch_nll(*embeddings(), batch().positive_index, ignore=ignore, temperature=0.5, reduction="none")
    torch.testing.assert_close(Objective(temperature=0.5)(batch(), *embeddings()), expected)


def test_own_passages_only() -> None:
    questions, passages = embeddings()
    expected = [
        in_batch_nll(questions[[i]], passages[3 * i : 3 * i + 3], torch.tensor([0])) for i in range(NUM_QUESTIONS)
    ]
    found = Objective(in_batch_negatives=False)(batch(), questions, passages)
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("tile", [1, NUM_PASSAGES, 2 * NUM_PASSAGES, 3 * NUM_PASSAGES + 1])
@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_tiles_equal_the_whole(monkeypatch: pytest.MonkeyPatch, in_batch_negatives: bool, tile: int) -> None:
    results = []
    for size in (objective.TILE_SIZE, tile):
        monkeypatch.setattr(objective, "TILE_SIZE", size)
        sides = embeddings()
        losses = Objective(similarity="cosine", in_batch_negatives=in_batch_negatives)(batch(), *sides)
        results.append([losses, *torch.autograd.grad(losses.square().sum(), sides)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_no_question() -> None:
    """As on a rank that has none of a short last batch."""
    empty = batch()._replace(
        positive_index=torch.zeros(0, dtype=torch.int64), known_positives=torch.zeros(0, 1, 2, dtype=torch.int64)
    )
    assert Objective()(empty, torch.zeros(0, 4), torch.zeros(NUM_PASSAGES, 4)).shape == (0,)


# ---- several positives, both directions, fewer dimensions


def test_all_known_positives_count() -> None:
    is_positive = torch.zeros(NUM_QUESTIONS, NUM_PASSAGES, dtype=torch.bool)
    is_positive[torch.arange(NUM_QUESTIONS), batch().positive_index] = True
    is_positive[0, 4] = is_positive[0, 6] = is_positive[3, 0] = True
    expected = multi_positive_nll(*embeddings(), is_positive, reduction="none")
    torch.testing.assert_close(Objective(all_positives=True)(batch(), *embeddings()), expected)


def test_all_positives_of_the_own_row() -> None:
    """Question 0 knows passages of other rows, which are out then."""
    objective = Objective(all_positives=True, in_batch_negatives=False)
    torch.testing.assert_close(
        objective(batch(), *embeddings()), Objective(in_batch_negatives=False)(batch(), *embeddings())
    )


def test_both_directions() -> None:
    questions, passages = embeddings()
    positives, index = passages[batch().positive_index], torch.arange(NUM_QUESTIONS)
    ignore = torch.zeros(NUM_QUESTIONS, NUM_QUESTIONS, dtype=torch.bool)
    ignore[0, 3] = ignore[2, 0] = True  # passage 0 answers question 3, too, and passage 6, of question 2, question 0
    back = in_batch_nll(positives, questions, index, ignore=ignore, reduction="none")
    expected = (Objective()(batch(), questions, passages) + back) / 2
    torch.testing.assert_close(Objective(symmetric=True)(batch(), questions, passages), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_both_directions_equal_sentence_transformers() -> None:
    """Where no question knows another's passage."""
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


def test_first_dimensions() -> None:
    questions, passages = embeddings()
    expected = sum(Objective()(batch(), questions[:, :dims], passages[:, :dims]) for dims in (4, 2, 1)) / 3
    torch.testing.assert_close(Objective(matryoshka_dims=(2, 1))(batch(), questions, passages), expected)
    with pytest.raises(ValueError, match=r"matryoshka_dims are \[8\].*\b4\b"):
        Objective(matryoshka_dims=(8,))(batch(), questions, passages)


def test_both_directions_need_all_passages() -> None:
    with pytest.raises(ValueError, match=r"symmetric.*in_batch_negatives"):
        Objective(symmetric=True, in_batch_negatives=False)


# ---- scores of a guide or teacher


def scored() -> BiEncoderBatch:
    """Positives score 5; passage 1 nearly as much, passage 8 more; those of question 4 have none."""
    scores = torch.tensor([5.0, 4.5, 3.0, 5, 1, 2, 5, 0, 9, 5, 3, 3, torch.nan, torch.nan, torch.nan])
    return batch()._replace(scores=scores)


@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_what_a_guide_takes_for_positives_is_no_negative(in_batch_negatives: bool) -> None:
    ignore = torch.zeros(NUM_QUESTIONS, NUM_PASSAGES, dtype=torch.bool)
    ignore[0, 4] = ignore[0, 6] = ignore[3, 0] = ignore[0, 1] = ignore[2, 8] = True
    if not in_batch_negatives:
        ignore |= batch().owner != torch.arange(NUM_QUESTIONS)[:, None]
    expected = in_batch_nll(*embeddings(), batch().positive_index, ignore=ignore, reduction="none")
    guided = Objective(guide_margin=1.0, in_batch_negatives=in_batch_negatives)
    torch.testing.assert_close(guided(scored(), *embeddings()), expected)


def test_what_a_guide_takes_for_a_positive_is_none_in_other_rows() -> None:
    keys = batch().passage_keys.clone()
    keys[14] = keys[1]  # question 4 has passage 1, too
    made = scored()._replace(passage_keys=keys)
    ignore = torch.zeros(NUM_QUESTIONS, NUM_PASSAGES, dtype=torch.bool)
    ignore[0, 4] = ignore[0, 6] = ignore[3, 0] = ignore[0, 1] = ignore[0, 14] = ignore[2, 8] = True
    expected = in_batch_nll(*embeddings(), made.positive_index, ignore=ignore, reduction="none")
    torch.testing.assert_close(Objective(guide_margin=1.0)(made, *embeddings()), expected)


def test_a_known_positive_stays_one_whatever_a_guide_says() -> None:
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
def test_a_share_of_the_loss_is_the_teachers(monkeypatch: pytest.MonkeyPatch, tile: int, share: float) -> None:
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
    taught = Objective(temperature=0.5, distillation=share, teacher_temperature=2.0)
    torch.testing.assert_close(taught(scored(), questions, passages), torch.stack(expected))


@pytest.mark.parametrize(
    "number",
    [
        {"distillation": 1.5},
        {"temperature": -1.0},
        {"teacher_temperature": 0.0},
        {"matryoshka_dims": (4, 0)},
        {"guide_margin": float("nan")},
    ],
)
def test_number_out_of_range_is_refused_by_name(number: dict) -> None:
    [(name, value)] = number.items()
    with pytest.raises(ValueError, match=rf"^{name} .*{re.escape(str(value).strip('()'))}"):
        Objective(**number)


# A loss that cannot fall


def test_the_floor_of_the_loss_by_hand() -> None:
    # 10 passages, scores between -1 and 1: -log(e / (e + 9 / e)) = log(1 + 9 / e^2).
    assert Objective().find_floor(10) == pytest.approx(math.log(1 + 9 / math.e**2)) == pytest.approx(0.797, abs=1e-3)
    assert Objective(temperature=0.05).find_floor(10) == pytest.approx(9 * math.exp(-40))
    assert Objective().find_floor(1) == 0


def test_the_floor_is_reached_and_not_passed() -> None:
    best = in_batch_nll(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0])
    )
    assert best.item() == pytest.approx(Objective().find_floor(3))
    generator = torch.Generator().manual_seed(0)
    questions, passages = (torch.nn.functional.normalize(torch.randn(n, 4, generator=generator)) for n in (5, 8))
    assert in_batch_nll(questions, passages, torch.arange(5), reduction="none").min() > Objective().find_floor(8)


def test_a_temperature_with_which_nothing_is_learned_is_told() -> None:
    with pytest.warns(SettingsWarning, match=r"0\.80.*2\.30.*--temperature=0\.05"):
        Objective().check_temperature(10, is_unit_length=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Objective().check_temperature(10, is_unit_length=False)
        Objective().check_temperature(1, is_unit_length=True)
        Objective(temperature=0.05).check_temperature(1 << 20, is_unit_length=True)
        Objective(distillation=1.0).check_temperature(10, is_unit_length=True)
