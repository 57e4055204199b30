"""A queue that answers the questions of concurrent callers in batches.

A model needs little more time for a batch of questions than for one question. While a thread answers one batch, new
questions wait and become the next batch. No question waits for a batch to fill up. Questions and answers can have any
type.
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
    """Error of a queue that has no room for another question. The caller can retry later."""


class Batcher(Generic[Question, Answer]):
    """A queue of questions and one thread that answers them. Use it in an ``async with`` block.

    Args:
        answer: Function that returns the answers to a batch of questions, in the same order. If it raises an error for
            several questions, it is called again for each question alone, so a caller sees only its own error.
        max_batch: Maximum number of questions in a batch.
        queue_size: Maximum number of questions that wait for the next batches.
    """

    def __init__(
        self, answer: Callable[[Sequence[Question]], Sequence[Answer]], *, max_batch: int, queue_size: int
    ) -> None:
        self._answer = answer
        self._max_batch = max_batch
        self._queue_size = queue_size
        self._waiting: dict[asyncio.Future[Answer], Question] = {}
        """Waiting questions, oldest first."""
        self._has_questions = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")

    def __len__(self) -> int:
        """Return the number of waiting questions."""
        return len(self._waiting)

    async def ask(self, question: Question) -> Answer:
        """Return the answer to a question. Cancelling the caller removes a question that still waits.

        Raises:
            QueueFull: ``queue_size`` questions wait already.
            Exception: The error that ``answer`` raised for this question.
        """
        if len(self._waiting) >= self._queue_size:
            raise QueueFull(f"{len(self._waiting)} questions are waiting. Ask again later.")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[future] = question
        self._has_questions.set()
        try:
            return await future
        finally:
            self._waiting.pop(future, None)

    async def __aenter__(self) -> Batcher[Question, Answer]:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *error: Any) -> None:
        """Wait for the current batch and cancel all waiting questions."""
        self._worker.cancel()
        await asyncio.wait([self._worker])
        for future in self._waiting:
            future.cancel()
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._has_questions.wait()
            futures = list(islice(self._waiting, self._max_batch))
            questions = [self._waiting.pop(future) for future in futures]
            if not self._waiting:
                self._has_questions.clear()
            try:
                answers = await loop.run_in_executor(self._thread, self._answer_each, questions)
                for future, answer in zip(futures, answers, strict=True):
                    if future.done():  # The caller was cancelled.
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
            except Exception as error:  # For example no memory for a thread. The worker must go on.
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
            finally:
                # If the worker was cancelled, this ends the futures without an answer. It changes no other future.
                for future in futures:
                    future.cancel()

    def _answer_each(self, questions: list[Question]) -> Sequence[Answer | Exception]:
        """Return an answer or an error for each question."""
        if not questions:
            return []
        try:
            return self._answer(questions)
        except Exception as error:
            return [error] if len(questions) == 1 else [self._answer_each([question])[0] for question in questions]
