"""Wilson's interval by hand and by its definition, and the counts of evidence."""

from __future__ import annotations

import math

import pytest

from text.evaluation.negative_audit import ANSWERS, NEGATIVES, EvidenceCounts, wilson_interval

Z2 = 1.959963984540054**2


def test_wilsons_interval_by_hand() -> None:
    # 5 of 10: the center is 1/2, and half the width is z sqrt(1/40 + z²/400) / (1 + z²/10) = 0.2634.
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)
    assert wilson_interval(0, 10) == pytest.approx((0, Z2 / (10 + Z2)), abs=1e-12)
    assert wilson_interval(10, 10) == pytest.approx((10 / (10 + Z2), 1), abs=1e-12)
    assert wilson_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(("found", "checked"), [(1, 7), (3, 100), (999, 1000), (40, 90)])
def test_at_both_ends_the_score_test_reaches_its_critical_value(found: int, checked: int) -> None:
    for end in wilson_interval(found, checked):
        distance = (found / checked - end) ** 2 / (end * (1 - end) / checked)
        assert math.isclose(distance, Z2, rel_tol=1e-9)


def test_counts_of_evidence() -> None:
    counts = EvidenceCounts()
    counts.add(ANSWERS, NEGATIVES, [True, False])
    counts.add(ANSWERS, NEGATIVES, [False, False])
    found = {(each.kind, each.among): each for each in counts.estimate()}
    assert len(found) == 6 and found[ANSWERS, NEGATIVES][2:4] == (1, 4)
    assert str(found[ANSWERS, NEGATIVES]) == "1 of 4 = 25.0% (4.6% to 69.9%)  contains an answer"
    assert sum(each.checked for each in found.values()) == 4
    assert all(str(each).startswith("not checked") for each in found.values() if not each.checked)
