"""The choice of hard negatives, compared with a brute-force implementation of the filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law
from text.evaluation import has_answer
from text.records import Passage
from text.retrieval import Filters, Source, choose_hard_negatives
from text.retrieval.filters import measure_overlap

TEXTS = [
    "the oak is tall",
    "the OAK  is tall",
    "elm and ash",
    "a fig of the bay",
    "no tree",
    "the oak is tall too",
    "yew",
]
PASSAGES = {f"p{row}": Passage(f"p{row}", "", TEXTS[row % len(TEXTS)]) for row in range(14)}


def get_ids(passages: list) -> list[str]:
    return [negative.passage.passage_id for negative in passages]


def choose_by_brute_force(
    positives: list[Passage],
    answers: list[str],
    sources: list[Source],
    filters: Filters,
    teacher: dict[str, float] | None = None,
) -> list[tuple[str, str]]:
    """Return the passage id and the source of each expected negative."""
    taken: list[tuple[str, str]] = []
    for name, scores, number in sources:
        order = sorted(scores, key=lambda passage_id: (scores[passage_id], passage_id), reverse=True)
        allowed = []
        for passage_id in order:
            rank, score, passage = order.index(passage_id) + 1, scores[passage_id], PASSAGES[passage_id]
            gold = scores.get(positives[0].passage_id)
            by_teacher, highest = 0.0, 0.0
            if teacher is not None:
                by_teacher, highest = teacher[passage_id], teacher[positives[0].passage_id]
            checks = [
                filters.teacher_margin is None or by_teacher <= highest - filters.teacher_margin,
                filters.teacher_relative_margin is None
                or by_teacher <= highest - abs(highest) * filters.teacher_relative_margin,
                passage_id not in [positive.passage_id for positive in positives],
                passage.text.lower().split() not in [positive.text.lower().split() for positive in positives],
                rank >= filters.first_rank and rank <= filters.last_rank,
                filters.min_score is None or score >= filters.min_score,
                filters.max_score is None or score <= filters.max_score,
                filters.margin is None or (gold is not None and score <= gold - filters.margin),
                filters.relative_margin is None
                or (gold is not None and score <= gold - abs(gold) * filters.relative_margin),
                not filters.answers or not has_answer(answers, passage.text),
            ]
            if all(checks):
                allowed.append(passage_id)
        count = 0
        for passage_id in allowed:
            near = [positive.text for positive in positives] + [PASSAGES[other].text for other, _ in taken]
            text = PASSAGES[passage_id].text.lower()
            alike = any(measure_overlap(text, " ".join(other.lower().split())) > filters.max_overlap for other in near)
            if count < number and not alike and passage_id not in [other for other, _ in taken]:
                taken.append((passage_id, name))
                count += 1
    return taken


score_dicts = st.dictionaries(st.sampled_from(sorted(PASSAGES)), st.integers(-3, 6).map(float))
optional_scores = st.one_of(st.none(), st.integers(-2, 5).map(float))
all_filters = st.builds(
    Filters,
    first_rank=st.integers(1, 3),
    last_rank=st.integers(3, 14),
    min_score=optional_scores,
    max_score=optional_scores,
    margin=st.one_of(st.none(), st.sampled_from([0.0, 1.0])),
    relative_margin=st.one_of(st.none(), st.sampled_from([0.0, 0.5])),
    answers=st.booleans(),
    max_overlap=st.sampled_from([0.4, 0.8, 1.0]),
)
source_lists = st.lists(st.tuples(score_dicts, st.integers(0, 4)), min_size=1, max_size=2)


@law
@given(source_lists, st.lists(st.sampled_from(sorted(PASSAGES)), min_size=1, max_size=2), st.booleans(), all_filters)
def test_equals_brute_force(found: list, positive_ids: list[str], with_answer: bool, filters: Filters) -> None:
    positives, answers = [PASSAGES[name] for name in positive_ids], ["ash", "Fig of"] if with_answer else []
    sources = [Source(f"s{place}", *pair) for place, pair in enumerate(found)]
    negatives, rejected = choose_hard_negatives(positives, answers, sources, PASSAGES.__getitem__, filters)
    expected = choose_by_brute_force(positives, answers, sources, filters)
    assert [(negative.passage.passage_id, negative.source) for negative in negatives] == expected
    # No negative answers the question, and every other candidate has a reason.
    texts = [positive.text.lower().split() for positive in positives]
    for negative in negatives:
        assert negative.passage.passage_id not in positive_ids
        assert negative.passage.text.lower().split() not in texts
        assert not (filters.answers and has_answer(answers, negative.passage.text))
        assert negative.score == dict(zip((s.name for s in sources), found, strict=True))[negative.source][0].get(
            negative.passage.passage_id
        )
    for source in sources:
        looked_at = [candidate.rank for candidate in [*negatives, *rejected] if candidate.source == source.name]
        assert sorted(looked_at) == list(range(1, len(looked_at) + 1))
        if len(looked_at) < len(source.scores):
            assert sum(negative.source == source.name for negative in negatives) == source.number


margins = st.one_of(st.none(), st.sampled_from([0.0, 0.5]))


@law
@given(
    source_lists, st.sampled_from(sorted(PASSAGES)), all_filters, margins, margins, st.randoms(use_true_random=False)
)
def test_denoised_negatives_equal_brute_force(
    found: list, positive_id: str, filters: Filters, margin: float | None, relative: float | None, random: Random
) -> None:
    filters = replace(filters, teacher_margin=margin, teacher_relative_margin=relative)
    sources = [Source(f"s{place}", *pair) for place, pair in enumerate(found)]
    teacher = {name: float(random.randint(-2, 4)) for name in PASSAGES}
    calls: list[list[str]] = []

    def score(passages: Sequence[Passage]) -> list[float]:
        calls.append([passage.passage_id for passage in passages])
        return [teacher[passage.passage_id] for passage in passages]

    positives = [PASSAGES[positive_id]]
    negatives, rejected = choose_hard_negatives(positives, ["ash"], sources, PASSAGES.__getitem__, filters, score=score)
    expected = choose_by_brute_force(positives, ["ash"], sources, filters, teacher)
    assert [(negative.passage.passage_id, negative.source) for negative in negatives] == expected
    assert all(negative.teacher_score == teacher[negative.passage.passage_id] for negative in negatives)
    denoised = [each for each in rejected if each.reason == "teacher scores it near the positive"]
    assert all(each.teacher_score == teacher[each.passage_id] for each in denoised)
    # The positive is scored first, no candidate is scored twice, and a call has at most the missing negatives.
    assert calls[0] == [positive_id] and all(
        len(call) <= max(source.number for source in sources) for call in calls[1:]
    )
    asked = [name for call in calls[1:] for name in call]
    assert len(asked) == len(set(asked))


def test_the_teacher_rejects_by_hand() -> None:
    # The teacher scores the positive 4.0. With a margin of 1, it allows negatives up to 3.0.
    sources = [Source("dense", {"p0": 9.0, "p4": 8.0, "p6": 7.0, "p3": 6.0, "p5": 5.0}, 2)]
    teacher, asked = {"p0": 4.0, "p4": 3.5, "p6": 3.0, "p3": 1.0, "p5": 0.0}, []

    def score(passages: Sequence[Passage]) -> list[float]:
        asked.append([passage.passage_id for passage in passages])
        return [teacher[passage.passage_id] for passage in passages]

    negatives, rejected = choose_hard_negatives(
        [PASSAGES["p0"]], [], sources, PASSAGES.__getitem__, Filters(teacher_margin=1.0), score=score
    )
    assert [(each.passage.passage_id, each.teacher_score) for each in negatives] == [("p6", 3.0), ("p3", 1.0)]
    assert [each[0::4] for each in rejected] == [("p0", "a positive"), ("p4", "teacher scores it near the positive")]
    assert [each.teacher_score for each in rejected] == [None, 3.5]
    assert asked == [["p0"], ["p4", "p6"], ["p3"]]  # p5 is never needed.


def test_a_teachers_margin_needs_a_teacher() -> None:
    with pytest.raises(ValueError, match="teacher_margin"):
        choose_hard_negatives([PASSAGES["p0"]], [], [], PASSAGES.__getitem__, Filters(teacher_margin=1.0))


def test_reasons_by_hand() -> None:
    found = {"p0": 9.0, "p3": 8.5, "p1": 8.0, "p2": 7.0, "p5": 6.0, "p7": 5.0, "p4": 4.0, "p6": 3.0, "p9": 2.0}
    sources = [Source("dense", found, 2), Source("words", {"p4": 3.0, "p0": 2.5, "p6": 1.0}, 1)]
    filters = Filters(margin=1.0, max_overlap=0.4)
    negatives, rejected = choose_hard_negatives([PASSAGES["p0"]], ["ash"], sources, PASSAGES.__getitem__, filters)
    assert [(n.passage.passage_id, n.source, n.rank, n.score) for n in negatives] == [
        ("p4", "dense", 7, 4.0),
        ("p6", "dense", 8, 3.0),
    ]
    assert [(candidate.passage_id, candidate.reason) for candidate in rejected] == [
        ("p0", "a positive"),
        ("p3", "within the margin"),  # 8.5 is above 9 - 1
        ("p1", "text of a positive"),
        ("p2", "holds an answer"),
        ("p5", "near a positive"),  # They share two of three trigrams.
        ("p7", "text of a positive"),
        ("p4", "taken already"),
        ("p0", "a positive"),
        ("p6", "taken already"),
    ]
    sources = [Source("dense", {"p4": 1.0, "p11": 1.0}, 2)]
    negatives, rejected = choose_hard_negatives(
        [PASSAGES["p0"]], [], sources, PASSAGES.__getitem__, replace(filters, margin=None)
    )
    assert get_ids(negatives) == ["p4"] and rejected[0][0::4] == ("p11", "near one that is taken")
    negatives, rejected = choose_hard_negatives([PASSAGES["p0"]], [], sources, PASSAGES.__getitem__, filters)
    assert {candidate.reason for candidate in rejected} == {"no score of the positive"}
    negatives, rejected = choose_hard_negatives(
        [], [], [Source("words", {"b": 1.0}, 1)], lambda name: Passage(name, "t", " "), Filters()
    )
    assert (negatives, rejected[0].reason) == ([], "no text")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"first_rank": 5, "last_rank": 2}, "first_rank is 5 and last_rank is 2"),
        ({"first_rank": 0}, "first_rank is 0"),
        ({"max_overlap": 0.0}, "max_overlap is 0.0"),
        ({"margin": -1}, "margin is -1"),
        ({"relative_margin": -0.1}, "relative_margin is -0.1"),
        ({"min_score": float("nan")}, "min_score is nan"),
    ],
)
def test_filters_refuse_numbers_out_of_range(values: dict[str, float], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}"):
        Filters(**values)  # pyright: ignore[reportArgumentType]


def test_unicode_forms_and_scripts_without_spaces() -> None:
    texts = {"p": "le caf\u00e9 est la", "q": "le cafe\u0301 est la", "n": "北京是中国的首都"}
    passages = {name: Passage(name, "", text) for name, text in (texts | {"m": texts["n"] + "。"}).items()}
    ranked = Source("bm25", {"q": 3.0, "n": 2.0, "m": 1.0}, 3)
    _, rejected = choose_hard_negatives([passages["p"]], ["中国"], [ranked], passages.__getitem__, Filters())
    assert [each.reason for each in rejected] == ["text of a positive", "holds an answer", "holds an answer"]
    # With its full stop, the text shares 6 of 7 character trigrams with the positive.
    positive = Passage("x", "", "北京是中国的首都")
    _, rejected = choose_hard_negatives([positive], [], [ranked], passages.__getitem__, Filters(max_overlap=0.5))
    reasons = {each.passage_id: each.reason for each in rejected}
    assert reasons == {"n": "text of a positive", "m": "near a positive"}
