"""Tests of Batcher: batches, a full queue, cancelled callers, errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from text.serving import Batcher, QueueFull


class Doubler:
    """Function that doubles numbers after its gate opens and records batches. Negative numbers raise an error."""

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
    """Run a scene while the first question (0) blocks the worker. Return the worker."""
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
    """Ask questions and return their tasks. All questions wait in the queue."""
    tasks = [asyncio.create_task(batcher.ask(number)) for number in numbers]
    await asyncio.sleep(0)  # Each task runs until its question is in the queue.
    return tasks


def test_waiting_questions_form_the_next_batch() -> None:
    async def scene(batcher: Batcher[int, int], worker: Doubler, first: asyncio.Task[int]) -> None:
        tasks = await enqueue(batcher, range(1, 7))
        assert len(batcher) == 6
        worker.gate.set()
        assert await asyncio.gather(first, *tasks) == [0, 2, 4, 6, 8, 10, 12]
        assert len(batcher) == 0

    assert run_while_blocked(scene).batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_full_queue_refuses_questions_until_it_has_room() -> None:
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
        for task in (first, tasks[1]):  # The worker has the first question. The second waits.
            task.cancel()
        await asyncio.wait([first, tasks[1]])
        assert len(batcher) == 2
        worker.gate.set()
        assert await asyncio.gather(tasks[0], tasks[2]) == [2, 6]

    assert run_while_blocked(scene).batches == [[0], [1, 3]]


def test_the_batcher_works_after_all_waiting_callers_were_cancelled() -> None:
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
    unfinished: list[asyncio.Task[int]] = []

    async def scene(batcher: Batcher[int, int], worker: Doubler, first: asyncio.Task[int]) -> None:
        unfinished.extend([first, *await enqueue(batcher, [1, 2])])

    assert run_while_blocked(scene).batches == [[0]]
    assert all(task.cancelled() for task in unfinished)


def test_the_worker_survives_a_wrong_number_of_answers() -> None:
    answers = iter([[], [7]])

    async def run() -> int:
        async with Batcher(lambda numbers: next(answers), max_batch=4, queue_size=8) as batcher:
            with pytest.raises(ValueError, match="zip"):
                await batcher.ask(1)
            return await batcher.ask(2)

    assert asyncio.run(run()) == 7
