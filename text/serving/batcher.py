"""Answer the questions of many callers in batches.

A model needs little more time for a few questions than for one. While a thread answers one batch, new questions wait
and become the next batch. No question waits for a batch to fill up. The callers decide the types of questions and
answers.
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
    """The queue has no place for another question. The caller can ask again later."""


class Batcher(Generic[Question, Answer]):
    """A queue of questions and one thread that answers them. It is open inside its ``async with`` block.

    Args:
        answer: Returns the answers to some questions, in their order. If it raises an error for several questions, it
            is called again for each of them alone. A caller therefore sees only the error of its own question.
        max_batch: Maximum number of questions that are answered together.
        queue_size: Maximum number of questions that wait for the next batches.
    """

    def __init__(
        self, answer: Callable[[Sequence[Question]], Sequence[Answer]], *, max_batch: int, queue_size: int
    ) -> None:
        self._answer = answer
        self._max_batch = max_batch
        self._queue_size = queue_size
        self._waiting: dict[asyncio.Future[Answer], Question] = {}
        """Questions in the order in which they were asked."""
        self._has_questions = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")

    def __len__(self) -> int:
        """Return the number of questions that wait."""
        return len(self._waiting)

    async def ask(self, question: Question) -> Answer:
        """Return the answer to a question. If the caller is cancelled while the question waits, it is removed.

        Raises:
            QueueFull: The maximum number of questions waits already.
            Exception: The error that the question caused.
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
        """Wait until the current batch ends, and cancel the questions that still wait."""
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
                    if future.done():  # its caller was cancelled
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
            except Exception as error:  # such as no memory for a thread: the worker must live
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
            finally:
                # This does nothing to a future that has its answer, and ends the others if the worker is cancelled.
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
