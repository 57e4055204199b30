"""Prefetching: a thread makes batches ahead of time, and sleeps while the buffer is full.

torchdata's Prefetcher polls its buffer ten thousand times a second instead. Where a training step uses all cores, the
polling took a quarter of the step's time.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from torch.utils.data import IterDataPipe

T = TypeVar("T")


def prefetch(pipe: IterDataPipe, buffer_size: int) -> IterDataPipe:
    """Return a pipe that yields the same items and prepares up to ``buffer_size`` of them in a thread.

    Raises:
        ValueError: ``buffer_size`` is below 1.
    """
    if buffer_size < 1:
        raise ValueError(f"buffer_size is {buffer_size}; expected 1 or more")
    return _PrefetchedPipe(pipe, buffer_size)


class _PrefetchedPipe(IterDataPipe):
    """A pipe whose items a thread prepares."""

    def __init__(self, pipe: IterDataPipe, buffer_size: int) -> None:
        self.pipe = pipe
        self.buffer_size = buffer_size

    def __len__(self) -> int:
        return len(self.pipe)  # pyright: ignore[reportArgumentType]: A pipe without a length raises its own error.

    def __iter__(self) -> Iterator[Any]:
        yield from iterate_ahead(self.pipe, self.buffer_size)


def iterate_ahead(items: Iterable[T], buffer_size: int) -> Generator[T, None, None]:
    """Yield the same items, and prepare up to ``buffer_size`` of them in a thread.

    Close this iterator (``contextlib.closing``) to stop the thread, which then also closes a generator of items.
    """
    free_slots, is_closed = threading.Semaphore(buffer_size), threading.Event()
    results = SimpleQueue[_Result]()

    def produce() -> None:
        try:
            iterator = iter(items)
            while free_slots.acquire() and not is_closed.is_set():
                results.put(_Result(next(iterator)))
        except BaseException as error:
            results.put(_Result(error=error))

    thread = threading.Thread(target=produce, daemon=True, name="prefetch")
    thread.start()
    try:
        while (result := results.get()).error is None:
            free_slots.release()
            yield result.item
        if not isinstance(result.error, StopIteration):
            raise result.error
    finally:
        is_closed.set()
        free_slots.release()
        # The garbage collector may close an unfinished iterator, and may run in the prefetching thread itself.
        if thread is not threading.current_thread():
            thread.join()


class _Result(NamedTuple):
    """An item, or the error that ended the iteration."""

    item: Any = None
    error: BaseException | None = None
