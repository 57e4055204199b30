"""Send blocks of embeddings to the device of a search. The blocks that fit stay there for the next search.

Blocks travel in the dtype in which they are stored, and become float32 on the device. The result is the same number as
on the CPU.

Dimensions: P passages of a block; D width of an embedding.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from text.models.transfers import send_to
from text.retrieval.memory import Embeddings, StoredBlock

_SHARE_KEPT = 0.7
"""Share of the free memory of a GPU for embeddings that stay there."""
_SHARE_PASS = 0.1
"""Share of the free memory of a GPU for the questions of a pass and their candidates. The rest is for the products."""
_CPU_PASS = 1 << 28
"""Bytes for the questions of a pass and their candidates on a CPU."""


class MemoryBudget(NamedTuple):
    """The memory that a search may use on its device, in bytes."""

    kept: int
    """For embeddings that stay on the device. 0 on a CPU, where embeddings are memory-mapped."""
    questions: int
    """For the questions of a pass and their candidates."""
    spare: int = 0
    """Memory of the GPU that stays free when a block is kept. Other searches may have filled the rest."""


class DeviceBlocks:
    """The blocks of embeddings as float32 on a device.

    The first blocks stay on the device in their own dtype, as far as the memory allows. The others are read and sent in
    each pass. Several threads may iterate at the same time.

    Args:
        embeddings: Embeddings of the collection.
        device: The device.
        num_rows: Maximum rows of a block.
        memory: Memory for the blocks that stay on the device.
    """

    def __init__(self, embeddings: Embeddings, device: torch.device, num_rows: int, memory: MemoryBudget) -> None:
        self.embeddings, self.device = embeddings, device
        self._num_rows, self._bytes_left, self._spare = num_rows, memory.kept, memory.spare
        self._kept: list[_DeviceBlock] = []
        """Blocks that stay on the device. They are the first rows of the collection."""
        self._num_kept, self._lock = 0, threading.Lock()
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row of each block and its (P, D) float32 embeddings on the device.

        Raises:
            ArtifactError: The embeddings were modified since they were opened. This is also an error if their blocks
                are on the device already: the candidates of a search are read from disk again.
        """
        self.embeddings.check_unchanged()
        with self._lock:
            kept, num_kept = list(self._kept), self._num_kept
        for block in kept:
            yield block.first, block.upcast()
        stored = self.embeddings.iter_stored_blocks(self._num_rows, num_kept)
        for block in self._send(stored) if self._copies is None else self._send_ahead(stored, self._copies):
            self._keep(block)
            yield block.first, block.upcast()

    def _send(self, blocks: Iterator[StoredBlock]) -> Iterator[_DeviceBlock]:
        for block in blocks:
            numbers = send_to(torch.from_numpy(block.numbers), self.device)
            scales = None if block.scales is None else send_to(torch.from_numpy(block.scales), self.device)
            yield _DeviceBlock(block.first, numbers, scales)

    def _send_ahead(self, blocks: Iterator[StoredBlock], copies: torch.cuda.Stream) -> Iterator[_DeviceBlock]:
        """Send blocks to a GPU in a stream of copies.

        While the GPU works on one block, the host reads the next one, and the GPU copies it. The host is never more
        than two blocks ahead, because each block on its way needs pinned memory and memory of the GPU.
        """
        work = torch.cuda.current_stream(self.device)
        done = deque[Any]()  # Events at the end of the work on each block.
        sent = self._send(blocks)
        while True:
            with torch.cuda.stream(copies):
                block = next(sent, None)
            if block is None:
                return
            work.wait_stream(copies)
            for tensor in block.tensors:
                tensor.record_stream(work)  # The memory is free for another block only after the work on this one.
            yield block
            done.append(work.record_event())
            if len(done) == 2:
                done.popleft().synchronize()

    def _keep(self, block: _DeviceBlock) -> None:
        """Keep a block on the device if all blocks before it are kept and it fits."""
        num_bytes = sum(tensor.nbytes for tensor in block.tensors)
        with self._lock:  # Another thread may have kept the same block.
            if block.first == self._num_kept and self._fits(num_bytes):
                self._kept.append(block)
                self._num_kept += len(block.numbers)
                self._bytes_left -= num_bytes

    def _fits(self, num_bytes: int) -> bool:
        is_free = not self._spare or _get_free_bytes(self.device) >= self._spare
        return num_bytes <= self._bytes_left and is_free


class _DeviceBlock(NamedTuple):
    first: int
    numbers: Tensor
    """(P, D) float32, float16 or int8."""
    scales: Tensor | None
    """(P,) float32 factors of int8 embeddings."""

    @property
    def tensors(self) -> list[Tensor]:
        return [self.numbers] if self.scales is None else [self.numbers, self.scales]

    def upcast(self) -> Tensor:
        """Return the (P, D) float32 embeddings."""
        numbers = self.numbers.float()
        return numbers if self.scales is None else numbers.mul_(self.scales[:, None])


def measure_memory(device: torch.device) -> MemoryBudget:
    """Return the memory that a search may use on a device. On a GPU it is a share of the memory that is free now."""
    if device.type != "cuda":
        return MemoryBudget(0, _CPU_PASS)
    free = _get_free_bytes(device)
    kept = int(_SHARE_KEPT * free)
    return MemoryBudget(kept, int(_SHARE_PASS * free), free - kept)


def _get_free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(torch.cuda.current_device() if device.index is None else device.index)[0]
