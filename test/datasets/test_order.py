"""Tests of EpochOrder: batches that depend on seed and epoch only, and their shares for ranks and workers."""

from __future__ import annotations

import random
from collections import Counter
from itertools import chain, pairwise, zip_longest
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law
from text.datasets.order import EpochOrder

Batches = list[list[int]]


def batches(order: EpochOrder, epoch: int = 0) -> Batches:
    return [items.tolist() for items in order.iter_batches(epoch)]


def list_items(order: EpochOrder, epoch: int = 0) -> list[int]:
    return list(chain.from_iterable(order.iter_batches(epoch)))


def join_shares(order: EpochOrder, epoch: int, first_batch: int, num_ranks: int, num_workers: int) -> Batches:
    """Join the shares of all ranks and workers to batches, as DataLoaders and a gather do."""
    ranks = []
    for rank in range(num_ranks):
        options = {"rank": rank, "num_ranks": num_ranks, "num_workers": num_workers}
        workers = [order.iter_shares(epoch, first_batch, worker=worker, **options) for worker in range(num_workers)]
        in_turn = chain.from_iterable(zip_longest(*workers))
        ranks.append([share for share in in_turn if share is not None])
    assert len({len(shares) for shares in ranks}) == 1  # All ranks have the same number of steps.
    for parts in zip(*ranks, strict=True):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
    return [list(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)]


# Batches


def test_order_without_shuffling_by_hand() -> None:
    order = EpochOrder([3, 2], 2, unusable=[{1}, {}])
    assert batches(order, 0) == batches(order, 5) == [[0, 2], [3, 4]]
    assert [order.locate(item) for item in (0, 2, 3, 4)] == [(0, 0), (0, 2), (1, 0), (1, 1)]
    assert (order.num_rows, order.rows_per_set, order.get_batch_sizes(0)) == (4, [2, 2], [2, 2])


def test_shuffled_order_never_changes() -> None:
    # A checkpoint holds only seed, epoch and row. After a change of the order, a resumed epoch would repeat some rows
    # and lose others.
    assert batches(EpochOrder([9], 4, seed=7, shuffle=True), 2) == [[8, 0, 6, 2], [3, 4, 5, 1], [7]]
    together = EpochOrder([9], 4, seed=7, shuffle=True, rows_together=3)
    assert batches(together, 2) == [[0, 4, 5, 6], [1, 2, 3, 7], [8]]
    sets = EpochOrder([5, 3], 2, rates=[0.6, 2.4], one_set_per_batch=True, seed=7, shuffle=True, unusable=[{2}, {}])
    assert batches(sets, 2) == [[3, 1], [13, 23], [6, 14], [15, 5], [7]]


@law
@given(st.integers(1, 30), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 3))
def test_every_row_occurs_once_per_epoch(
    num_rows: int, batch_size: int, shuffle: bool, drop_last: bool, epoch: int
) -> None:
    order = EpochOrder([num_rows], batch_size, shuffle=shuffle, drop_last=drop_last)
    found = batches(order, epoch)
    whole, rest = num_rows // batch_size, num_rows % batch_size
    sizes = [batch_size] * whole + [rest] * (rest > 0 and not drop_last)
    assert [len(batch) for batch in found] == order.get_batch_sizes(epoch) == sizes
    items = list(chain.from_iterable(found))
    if not shuffle:
        assert items == list(range(len(items)))
    assert len(set(items)) == len(items) == sum(sizes)
    assert set(items) <= set(range(num_rows))


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(batch_size: int = 4, seed: int = 5, **options: Any) -> list[int]:
        return list_items(EpochOrder([11], batch_size, shuffle=True, seed=seed, **options), 2)

    expected = order()
    assert expected != list(range(11))
    for state in range(2):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        assert order() == expected
    assert order(batch_size=3) == expected
    assert order(seed=6) != expected


def test_epochs_differ_and_can_be_repeated() -> None:
    order = EpochOrder([11], 4, shuffle=True)
    orders = [list_items(order, epoch) for epoch in range(5)]
    assert len({tuple(each) for each in orders}) == 5
    assert list_items(order, 3) == orders[3]


def test_rows_are_shuffled_evenly() -> None:
    # In 600 epochs of 4 rows, each row is first 150 times on average (standard deviation 10.6).
    order = EpochOrder([4], 4, shuffle=True)
    first = Counter(list_items(order, epoch)[0] for epoch in range(600))
    assert sorted(first) == list(range(4))
    assert all(110 < times < 190 for times in first.values())


def test_unusable_rows_never_occur() -> None:
    order = EpochOrder([6, 4], 3, unusable=[{0, 5}, {2}], shuffle=True)
    for epoch in range(5):
        assert sorted(list_items(order, epoch)) == [1, 2, 3, 4, 6, 7, 9]


@pytest.mark.parametrize("one_set_per_batch", [False, True])
def test_data_set_without_usable_rows_adds_no_rows(one_set_per_batch: bool) -> None:
    mix = {"rates": [2.5, 1], "one_set_per_batch": one_set_per_batch, "shuffle": True}
    order = EpochOrder([2, 3], 2, unusable=[{0, 1}, {}], **mix)
    assert order.rows_per_set == [0, 3]
    assert sorted(list_items(order)) == [2, 3, 4]


# Start within an epoch


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_epoch_can_start_at_any_batch(shuffle: bool, drop_last: bool) -> None:
    order = EpochOrder([11], 2, shuffle=shuffle, drop_last=drop_last)
    whole = batches(order, 3)
    assert len(whole) == (5 if drop_last else 6)
    for batch in range(len(whole) + 1):
        assert order.count_rows_before(3, batch) == min(2 * batch, 11)
        assert order.find_batch(3, order.count_rows_before(3, batch)) == batch
        assert list(order.iter_shares(3, batch)) == whole[batch:]


@pytest.mark.parametrize("start_row", [1, 5, -1, -4, 12])
def test_start_row_within_a_batch_is_refused(start_row: int) -> None:
    with pytest.raises(ValueError, match=f"start_row is {start_row}"):
        EpochOrder([11], 4).find_batch(0, start_row)


# Shares


def test_shares_by_hand() -> None:
    order = EpochOrder([6], 4)
    assert list(order.iter_shares(0, rank=0, num_ranks=2)) == [[0, 1], [4]]
    assert list(order.iter_shares(0, rank=1, num_ranks=2)) == [[2, 3], [5]]
    assert list(order.iter_shares(0, worker=1, num_workers=2)) == [[4, 5]]  # A worker takes whole batches.


@pytest.mark.parametrize("drop_last", [False, True])
def test_more_ranks_than_rows_of_the_last_batch(drop_last: bool) -> None:
    # 23 rows in batches of 8: the last batch has 7 rows, one fewer than there are ranks.
    found = join_shares(EpochOrder([23], 8, drop_last=drop_last), 0, 0, 8, 2)
    assert [len(batch) for batch in found] == ([8, 8] if drop_last else [8, 8, 7])


@law
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    batch_size=st.integers(1, 12),
    num_ranks=st.integers(1, 9),
    num_workers=st.integers(1, 5),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 3),
    options=st.fixed_dictionaries(
        {"drop_last": st.booleans(), "one_set_per_batch": st.booleans(), "rows_together": st.integers(1, 6)}
    ),
    first_batch=st.integers(0, 40),
)
def test_shares_are_disjoint_and_complete(
    sizes: list[int],
    batch_size: int,
    num_ranks: int,
    num_workers: int,
    seed: int,
    epoch: int,
    options: dict[str, Any],
    first_batch: int,
) -> None:
    order = EpochOrder(sizes, batch_size, shuffle=True, seed=seed, **options)
    whole = batches(order, epoch)
    cut = sizes if options["one_set_per_batch"] else [sum(sizes)]
    kept = sum(size // batch_size * batch_size if options["drop_last"] else size for size in cut)
    assert len(set(chain.from_iterable(whole))) == sum(map(len, whole)) == kept
    first_batch = min(first_batch, len(whole))
    assert join_shares(order, epoch, first_batch, num_ranks, num_workers) == whole[first_batch:]


# Rows together


def test_rows_together_by_hand() -> None:
    order = EpochOrder([12], 12, shuffle=True, rows_together=4)
    orders, starts = set(), set()
    for epoch in range(20):
        rows = list_items(order, epoch)
        assert sorted(rows) == list(range(12))
        first = [row for place, row in enumerate(rows) if place == 0 or row != rows[place - 1] + 1]
        assert len(first) <= 4  # Three or four runs, of which the first and the last may be shorter.
        orders.add(tuple(rows))
        starts.update(first)
    assert len(orders) > 10 and len(starts) == 12


@pytest.mark.parametrize("one_set_per_batch", [False, True])
def test_rows_together_with_a_fractional_rate(one_set_per_batch: bool) -> None:
    mix = {"rates": [0.5], "one_set_per_batch": one_set_per_batch, "rows_together": 8}
    [rows] = batches(EpochOrder([80], 40, shuffle=True, **mix))
    assert len(set(rows)) == 40
    # About 5 runs of 8 rows are drawn, and shuffling cuts each at most once. This gives about 10 parts.
    assert sum(b == a + 1 for a, b in pairwise(rows)) >= 40 - 13


# Several sets


@pytest.mark.parametrize("one_set_per_batch", [False, True])
def test_rates_by_hand(one_set_per_batch: bool) -> None:
    # An epoch has every row of the first set twice, and half of the six rows of the second set.
    order = EpochOrder([5, 6], 4, rates=[2, 0.5], one_set_per_batch=one_set_per_batch, shuffle=True)
    assert (order.rows_per_set, order.num_rows) == ([10, 3], 13)
    chosen = set()
    for epoch in range(20):
        places = [[order.locate(item) for item in batch] for batch in batches(order, epoch)]
        found = Counter(chain.from_iterable(places))
        assert {place: n for place, n in found.items() if place[0] == 0} == {(0, row): 2 for row in range(5)}
        second = [place for place in found if place[0] == 1]
        assert [found[place] for place in second] == [1, 1, 1]
        chosen.add(tuple(sorted(second)))
        if one_set_per_batch:
            assert sorted(map(len, places)) == [2, 3, 4, 4]
            assert all(len({source for source, _ in batch}) == 1 for batch in places)
    assert len(chosen) > 5  # There are 20 ways to choose three of six rows.


def test_a_mixed_batch_holds_several_sets() -> None:
    order = EpochOrder([20, 20], 4, shuffle=True)
    assert {len({order.locate(item)[0] for item in batch}) for batch in batches(order)} == {1, 2}


def test_drop_last_drops_the_short_batch_of_each_set() -> None:
    order = EpochOrder([6, 5], 4, one_set_per_batch=True, drop_last=True, shuffle=True)
    assert order.get_batch_sizes(0) == [len(batch) for batch in batches(order)] == [4, 4]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rows_together": 0}, "rows_together is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"rates": [1]}, r"rates is \[1\.0\]"),
        ({"rates": [1, 0]}, r"rates is \[1\.0, 0\.0\]"),
        ({"rates": [1, float("nan")]}, r"rates is \[1\.0, nan\]"),
        ({"rates": [1, 1000]}, r"rates is \[1\.0, 1000\.0\]"),
        ({"rates": [1, 2], "shuffle": False}, "rates"),
        ({"one_set_per_batch": True, "shuffle": False}, "one_set_per_batch"),
    ],
)
def test_error_names_the_option_out_of_range(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        EpochOrder([2, 2], **{"batch_size": 2, "shuffle": True, **options})
