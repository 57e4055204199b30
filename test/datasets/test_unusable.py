"""Tests of UnusableRows: a mapping that takes 12 bytes per row."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law
from text.datasets.unusable import UnusableBuilder

reasons = st.sampled_from(["blank line", "blank question", "positive_ctxs[3].text: a number. Give a string"])


@law
@given(st.dictionaries(st.integers(0, 10**6), reasons), st.dictionaries(st.integers(10**6 + 1, 10**7), reasons))
def test_mapping_equals_a_dictionary(rows: dict[int, str], others: dict[int, str]) -> None:
    builder = UnusableBuilder()
    for row in sorted(rows):
        builder.add(row, rows[row])
    found = builder.finish()
    assert found == rows and list(found) == sorted(rows)
    assert found.count_reasons() == Counter(rows.values())
    assert found.exclude_reasons(["blank line"]) == {row: why for row, why in rows.items() if why != "blank line"}
    assert found.merge(others) == rows | others and (7 in found) == (7 in rows)
    assert found.rows.nbytes + found.codes.nbytes == 12 * len(rows)


def test_memory_of_reasons_is_bounded() -> None:
    builder = UnusableBuilder()
    for row in range(30_000):
        builder.add(row, f"key{row}: a number. Give a string")
    found = builder.finish()
    assert found[5] == "key5: a number. Give a string" and found[5000] == "key5000: a number"
    assert len(found) == 30_000 and len(found.reasons) < 11_000 and found[29_999] == found[29_998]
