"""Items made ahead: the same ones, no more than asked for, errors where they belong, no thread left."""

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
    """0, 1, ..., and then an error."""

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


def wait_until(is_so: Any) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def num_threads() -> Callable[[], int]:
    """Threads that make items for this test: those of a training that another test broke off live until collected."""
    others = set(threading.enumerate())
    return lambda: sum(thread.name == "prefetch" for thread in set(threading.enumerate()) - others)


@pytest.mark.parametrize("buffer_size", [1, 3, 100])
def test_the_same_items_in_each_pass(buffer_size: int, num_threads: Callable[[], int]) -> None:
    ahead: Any = prefetch(Numbers(7), buffer_size)
    assert len(ahead) == 7
    assert [list(ahead), list(ahead)] == [list(range(7))] * 2
    assert num_threads() == 0


def test_no_more_is_made_than_there_is_room_for() -> None:
    numbers = Numbers(100)
    items = iter(prefetch(numbers, 3))
    for taken in range(1, 5):
        next(items)
        wait_until(lambda taken=taken: len(numbers.made) == taken + 3)
    time.sleep(0.05)  # nothing more comes
    assert len(numbers.made) == 7


def test_a_pass_that_is_given_up_leaves_no_thread(num_threads: Callable[[], int]) -> None:
    items: Any = iter(prefetch(Numbers(100), 3))
    assert next(items) == 0
    assert num_threads() == 1
    items.close()
    assert num_threads() == 0


def test_a_pass_may_be_collected_by_the_thread_that_makes_its_items() -> None:
    """As that of a training that was broken off: whichever thread allocates next collects it."""
    given_up, collected = threading.Event(), threading.Event()

    class Collects(Numbers):
        def __iter__(self) -> Iterator[int]:
            yield 0
            given_up.wait()
            gc.collect()
            collected.set()
            yield 1

    items: Any = iter(prefetch(Collects(2), 1))
    assert next(items) == 0
    cycle = [items]
    cycle.append(cycle)
    del items, cycle
    with pytest.MonkeyPatch.context() as patched:
        raised: list[Any] = []
        patched.setattr(sys, "unraisablehook", raised.append)
        given_up.set()
        assert collected.wait(30)
    assert raised == []


@pytest.mark.parametrize("error", [ValueError("row 3"), KeyboardInterrupt()])
def test_an_error_comes_after_the_items_before_it(error: BaseException, num_threads: Callable[[], int]) -> None:
    taken = []
    with pytest.raises(type(error)) as raised:
        taken.extend(prefetch(Numbers(3, error), 2))
    assert raised.value is error
    assert num_threads() == 0


def test_pass_that_cannot_begin_raises_its_error() -> None:
    class Broken(IterDataPipe):
        def __iter__(self) -> Iterator[int]:
            raise OSError("no file")

    with pytest.raises(OSError, match="no file"):
        list(prefetch(Broken(), 2))
    with pytest.raises(ValueError, match="buffer_size"):
        prefetch(Numbers(3), 0)


def test_items_of_a_pass_that_fails_are_not_lost() -> None:
    items = iter(prefetch(Numbers(3, ValueError("row 3")), 2))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="row 3"):
        next(items)
