"""Batcher: together equals alone, whoever is cancelled, full or in error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from examples.dpr.batching import Batcher, QueueFull


class Worker:
    """Doubles numbers, and keeps what it was asked; waits at a gate; cannot do negative numbers."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.has_begun = threading.Semaphore(0)
        self.gate = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.has_begun.release()
        self.gate.wait()
        if min(numbers) < 0:
            raise ValueError(f"{min(numbers)} is negative")
        return [2 * number for number in numbers]


def with_first_under_way(
    then: Callable[[Batcher[int, int], Worker, asyncio.Task[int]], Awaitable[None]], **sizes: int
) -> Worker:
    """Runs what a test does while the worker is blocked by a first question, 0."""
    worker = Worker()

    async def scene() -> None:
        async with Batcher(worker, **{"max_batch": 4, "queue_size": 8} | sizes) as batcher:
            first = asyncio.create_task(batcher.ask(0))
            await asyncio.to_thread(worker.has_begun.acquire)
            try:
                await then(batcher, worker, first)
            finally:
                worker.gate.set()

    asyncio.run(scene())
    return worker


async def asked(batcher: Batcher[int, int], numbers: Sequence[int]) -> list[asyncio.Task[int]]:
    """Questions that wait."""
    tasks = [asyncio.create_task(batcher.ask(number)) for number in numbers]
    await asyncio.sleep(0)  # each comes as far as its place in the queue
    return tasks


def test_what_waits_is_the_next_batch() -> None:
    async def then(batcher: Batcher[int, int], worker: Worker, first: asyncio.Task[int]) -> None:
        tasks = await asked(batcher, range(1, 7))
        assert len(batcher) == 6
        worker.gate.set()
        assert await asyncio.gather(first, *tasks) == [0, 2, 4, 6, 8, 10, 12]
        assert len(batcher) == 0

    assert with_first_under_way(then).batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_full_queue_refuses_and_goes_on() -> None:
    async def then(batcher: Batcher[int, int], worker: Worker, first: asyncio.Task[int]) -> None:
        tasks = await asked(batcher, [1, 2])
        with pytest.raises(QueueFull, match="2 questions wait; expected fewer, later"):
            await batcher.ask(3)
        worker.gate.set()
        assert await asyncio.gather(first, *tasks) == [0, 2, 4]
        assert await batcher.ask(3) == 6

    with_first_under_way(then, queue_size=2)


def test_who_is_cancelled_leaves_nothing() -> None:
    async def then(batcher: Batcher[int, int], worker: Worker, first: asyncio.Task[int]) -> None:
        tasks = await asked(batcher, [1, 2, 3])
        for task in (first, tasks[1]):  # one under way, one that waits
            task.cancel()
        await asyncio.wait([first, tasks[1]])
        assert len(batcher) == 2
        worker.gate.set()
        assert await asyncio.gather(tasks[0], tasks[2]) == [2, 6]

    assert with_first_under_way(then).batches == [[0], [1, 3]]


def test_all_that_waited_may_be_gone() -> None:
    async def then(batcher: Batcher[int, int], worker: Worker, first: asyncio.Task[int]) -> None:
        [task] = await asked(batcher, [1])
        task.cancel()
        worker.gate.set()
        assert await first == 0
        assert await batcher.ask(5) == 10

    assert with_first_under_way(then).batches == [[0], [5]]


def test_an_error_reaches_its_question_alone() -> None:
    async def then(batcher: Batcher[int, int], worker: Worker, first: asyncio.Task[int]) -> None:
        tasks = await asked(batcher, [1, -2, 3])
        worker.gate.set()
        one, error, three = await asyncio.gather(*tasks, return_exceptions=True)
        assert (one, three) == (2, 6)
        assert isinstance(error, ValueError) and str(error) == "-2 is negative"
        assert await batcher.ask(4) == 8

    assert with_first_under_way(then).batches == [[0], [1, -2, 3], [1], [-2], [3], [4]]


def test_the_end_cancels_who_waits() -> None:
    left: list[asyncio.Task[int]] = []

    async def then(batcher: Batcher[int, int], worker: Worker, first: asyncio.Task[int]) -> None:
        left.extend([first, *await asked(batcher, [1, 2])])

    assert with_first_under_way(then).batches == [[0]]
    assert all(task.cancelled() for task in left)
