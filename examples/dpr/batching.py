"""Questions of many callers, answered together.

A model takes little longer for a few questions than for one. While one thread answers, those that come wait, and are
the next batch: nobody waits for a batch to fill up. What a question is, and an answer, is left to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class QueueFull(Exception):
    """As many questions wait as may; expected to be asked again later."""


class Batcher(Generic[Question, Answer]):
    """One thread that answers what waits. Open as long as its ``async with`` is.

    Args:
        answer: Answers some questions, in their order. What it raises for several it is asked again one by one, so
            that a question meets no error but its own.
        max_batch: Questions answered together.
        queue_size: Questions that may wait besides.
    """

    def __init__(
        self, answer: Callable[[Sequence[Question]], Sequence[Answer]], *, max_batch: int, queue_size: int
    ) -> None:
        self._answer = answer
        self._max_batch = max_batch
        self._queue_size = queue_size
        self._waiting: dict[asyncio.Future[Answer], Question] = {}
        """In the order in which they came."""
        self._has_come = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")

    def __len__(self) -> int:
        """Questions that wait."""
        return len(self._waiting)

    async def ask(self, question: Question) -> Answer:
        """An answer. A caller that is cancelled takes its question with it, if that still waits.

        Raises:
            QueueFull: Too many questions wait.
            Exception: What answering this question raised.
        """
        if len(self._waiting) >= self._queue_size:
            raise QueueFull(f"{len(self._waiting)} questions wait; expected fewer, later")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[future] = question
        self._has_come.set()
        try:
            return await future
        finally:
            self._waiting.pop(future, None)

    async def __aenter__(self) -> Batcher[Question, Answer]:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *error: Any) -> None:
        """Ends after the batch under way; who still waits is cancelled."""
        self._worker.cancel()
        await asyncio.wait([self._worker])
        for future in self._waiting:
            future.cancel()
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._has_come.wait()
            futures = list(islice(self._waiting, self._max_batch))
            questions = [self._waiting.pop(future) for future in futures]
            if not self._waiting:
                self._has_come.clear()
            try:
                answers = await loop.run_in_executor(self._thread, self._each, questions)
                for future, answer in zip(futures, answers, strict=True):
                    if future.done():  # cancelled
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
            finally:
                for future in futures:  # of a worker that ends; those that have their answer stay as they are
                    future.cancel()

    def _each(self, questions: list[Question]) -> Sequence[Answer | Exception]:
        """An answer, or an error, for each question."""
        if not questions:
            return []
        try:
            return self._answer(questions)
        except Exception as error:
            return [error] if len(questions) == 1 else [self._each([question])[0] for question in questions]
