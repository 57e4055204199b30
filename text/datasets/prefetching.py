"""Batches made ahead of time in a thread, which sleeps while there are enough.

torchdata's Prefetcher asks ten thousand times a second whether there is room; where a step takes all cores, that was a
quarter of the step's time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple

from torch.utils.data import IterDataPipe


def prefetch(pipe: IterDataPipe, buffer_size: int) -> IterDataPipe:
    """The same items; up to ``buffer_size`` of them are made before they are asked for.

    Raises:
        ValueError: ``buffer_size`` is below 1.
    """
    if buffer_size < 1:
        raise ValueError(f"buffer_size is {buffer_size}; expected 1 or more")
    return _Prefetched(pipe, buffer_size)


class _Prefetched(IterDataPipe):
    def __init__(self, pipe: IterDataPipe, buffer_size: int) -> None:
        self.pipe = pipe
        self.buffer_size = buffer_size

    def __len__(self) -> int:
        return len(self.pipe)  # pyright: ignore[reportArgumentType]: a pipe without a length says so itself

    def __iter__(self) -> Iterator[Any]:
        room, made, is_over = threading.Semaphore(self.buffer_size), SimpleQueue[_Made](), threading.Event()

        def make() -> None:
            try:
                items = iter(self.pipe)
                while room.acquire() and not is_over.is_set():
                    made.put(_Made(next(items)))
            except BaseException as error:
                made.put(_Made(error=error))

        thread = threading.Thread(target=make, daemon=True, name="prefetch")
        thread.start()
        try:
            while (next_one := made.get()).error is None:
                room.release()
                yield next_one.item
            if not isinstance(next_one.error, StopIteration):
                raise next_one.error
        finally:
            is_over.set()
            room.release()
            if thread is not threading.current_thread():  # which may be the one that collects a pass given up
                thread.join()


class _Made(NamedTuple):
    item: Any = None
    error: BaseException | None = None
