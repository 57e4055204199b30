"""Batcher: batches, a full queue, callers that are cancelled, and errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from text.serving import Batcher, QueueFull


class Doubler:
    """Doubles numbers after its gate opens, and keeps its batches. A negative number is an error."""

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


def run_while_blocked(
    scene: Callable[[Batcher[int, int], Doubler, asyncio.Task[int]], Awaitable[None]], **sizes: int
) -> Doubler:
    """Run a scene while a first question, 0, blocks the worker."""
    worker = Doubler()

    async def run() -> None:
        async with Batcher(worker, **{"max_batch": 4, "queue_size": 8} | sizes) as batcher:
            first = asyncio.create_task(batcher.ask(0))
            await asyncio.to_thread(worker.has_begun.acquire)
            try:
                await scene(batcher, worker, first)
            finally:
                worker.gate.set()

    asyncio.run(run())
    return worker


async def enqueue(batcher: Batcher[int, int], numbers: Sequence[int]) -> list[asyncio.Task[int]]:
    """Return tasks whose questions wait."""
    tasks = [asyncio.create_task(batcher.ask(number)) for number in numbers]
    await asyncio.sleep(0)  # each task runs until its question is in the queue
    return tasks


def test_waiting_questions_are_the_next_batch() -> None:
    async def scene(batcher: Batcher[int, int], worker: Doubler, first: asyncio.Task[int]) -> None:
        tasks = await enqueue(batcher, range(1, 7))
        assert len(batcher) == 6
        worker.gate.set()
        assert await asyncio.gather(first, *tasks) == [0, 2, 4, 6, 8, 10, 12]
        assert len(batcher) == 0

    assert run_while_blocked(scene).batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_full_queue_refuses_and_then_takes_questions_again() -> None:
    async def scene(batcher: Batcher[int, int], worker: Doubler, first: asyncio.Task[int]) -> None:
        tasks = await enqueue(batcher, [1, 2])
        with pytest.raises(QueueFull, match=r"\b2\b"):
            await batcher.ask(3)
        worker.gate.set()
        assert await asyncio.gather(first, *tasks) == [0, 2, 4]
        assert await batcher.ask(3) == 6

    run_while_blocked(scene, queue_size=2)


def test_a_cancelled_caller_removes_its_waiting_question() -> None:
    async def scene(batcher: Batcher[int, int], worker: Doubler, first: asyncio.Task[int]) -> None:
        tasks = await enqueue(batcher, [1, 2, 3])
        for task in (first, tasks[1]):  # the worker has the first, the other waits
            task.cancel()
        await asyncio.wait([first, tasks[1]])
        assert len(batcher) == 2
        worker.gate.set()
        assert await asyncio.gather(tasks[0], tasks[2]) == [2, 6]

    assert run_while_blocked(scene).batches == [[0], [1, 3]]


def test_the_batcher_goes_on_after_all_waiting_callers_are_cancelled() -> None:
    async def scene(batcher: Batcher[int, int], worker: Doubler, first: asyncio.Task[int]) -> None:
        [task] = await enqueue(batcher, [1])
        task.cancel()
        worker.gate.set()
        assert await first == 0
        assert await batcher.ask(5) == 10

    assert run_while_blocked(scene).batches == [[0], [5]]


def test_an_error_reaches_only_its_own_question() -> None:
    async def scene(batcher: Batcher[int, int], worker: Doubler, first: asyncio.Task[int]) -> None:
        tasks = await enqueue(batcher, [1, -2, 3])
        worker.gate.set()
        one, error, three = await asyncio.gather(*tasks, return_exceptions=True)
        assert (one, three) == (2, 6)
        assert isinstance(error, ValueError) and str(error) == "-2 is negative"
        assert await batcher.ask(4) == 8

    assert run_while_blocked(scene).batches == [[0], [1, -2, 3], [1], [-2], [3], [4]]


def test_closing_cancels_waiting_callers() -> None:
    left: list[asyncio.Task[int]] = []

    async def scene(batcher: Batcher[int, int], worker: Doubler, first: asyncio.Task[int]) -> None:
        left.extend([first, *await enqueue(batcher, [1, 2])])

    assert run_while_blocked(scene).batches == [[0]]
    assert all(task.cancelled() for task in left)


def test_the_worker_outlives_answers_that_do_not_fit_the_questions() -> None:
    answers = iter([[], [7]])

    async def run() -> int:
        async with Batcher(lambda numbers: next(answers), max_batch=4, queue_size=8) as batcher:
            with pytest.raises(ValueError, match="zip"):
                await batcher.ask(1)
            return await batcher.ask(2)

    assert asyncio.run(run()) == 7
