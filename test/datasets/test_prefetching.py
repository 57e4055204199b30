"""Tests of prefetch: same items, bounded buffer, errors in their place, and no thread left behind."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.utils.data import IterDataPipe

from text.datasets import prefetch


class Numbers(IterDataPipe):
    """Pipe of the numbers 0, 1, ..., and then an error."""

    def __init__(self, end: int, error: BaseException | None = None) -> None:
        self.end, self.error = end, error
        self.made: list[int] = []

    def __len__(self) -> int:
        return self.end

    def __iter__(self) -> Iterator[int]:
        for number in range(self.end):
            self.made.append(number)
            yield number
        if self.error is not None:
            raise self.error


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def num_threads() -> Callable[[], int]:
    """Return a function that counts the prefetching threads of this test. Threads of earlier tests may still live."""
    others = set(threading.enumerate())
    return lambda: sum(thread.name == "prefetch" for thread in set(threading.enumerate()) - others)


@pytest.mark.parametrize("buffer_size", [1, 3, 100])
def test_each_pass_yields_the_same_items(buffer_size: int, num_threads: Callable[[], int]) -> None:
    ahead: Any = prefetch(Numbers(7), buffer_size)
    assert len(ahead) == 7
    assert [list(ahead), list(ahead)] == [list(range(7))] * 2
    assert num_threads() == 0


def test_number_of_items_made_ahead_is_bounded() -> None:
    numbers = Numbers(100)
    items = iter(prefetch(numbers, 3))
    for taken in range(1, 5):
        next(items)
        wait_until(lambda taken=taken: len(numbers.made) == taken + 3)
    time.sleep(0.05)  # No more items are made.
    assert len(numbers.made) == 7


def test_closed_iterator_leaves_no_thread(num_threads: Callable[[], int]) -> None:
    items: Any = iter(prefetch(Numbers(100), 3))
    assert next(items) == 0
    assert num_threads() == 1
    items.close()
    assert num_threads() == 0


def test_iterator_can_be_collected_by_its_own_thread() -> None:
    """The garbage collector runs in any thread that allocates, for example after an interrupted training."""
    is_abandoned, collected = threading.Event(), threading.Event()

    class CollectingNumbers(Numbers):
        def __iter__(self) -> Iterator[int]:
            yield 0
            is_abandoned.wait()
            gc.collect()
            collected.set()
            yield 1

    items: Any = iter(prefetch(CollectingNumbers(2), 1))
    assert next(items) == 0
    cycle = [items]
    cycle.append(cycle)
    del items, cycle
    with pytest.MonkeyPatch.context() as patched:
        raised: list[Any] = []
        patched.setattr(sys, "unraisablehook", raised.append)
        is_abandoned.set()
        assert collected.wait(30)
    assert raised == []


@pytest.mark.parametrize("error", [ValueError("row 3"), KeyboardInterrupt()])
def test_error_is_raised_after_the_items_before_it(error: BaseException, num_threads: Callable[[], int]) -> None:
    taken = []
    with pytest.raises(type(error)) as raised:
        taken.extend(prefetch(Numbers(3, error), 2))
    assert raised.value is error
    assert num_threads() == 0


def test_error_at_the_start_is_raised() -> None:
    class Broken(IterDataPipe):
        def __iter__(self) -> Iterator[int]:
            raise OSError("no file")

    with pytest.raises(OSError, match="no file"):
        list(prefetch(Broken(), 2))
    with pytest.raises(ValueError, match="buffer_size"):
        prefetch(Numbers(3), 0)


def test_items_before_an_error_are_not_lost() -> None:
    items = iter(prefetch(Numbers(3, ValueError("row 3")), 2))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="row 3"):
        next(items)
