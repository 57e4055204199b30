"""Encoders and batches on a GPU, and what a GPU can count: kernels, waits of the host, memory."""

from __future__ import annotations

import copy
import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from test.helpers import random_ids
from text.models import RobertaConfig, RobertaEncoder, embed_tokens
from text.records import TokenBatch

DEVICE = "cuda"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this test needs a GPU")
needs_two_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason=f"this test needs two GPUs, and this machine has {torch.cuda.device_count()}"
)
needs_bfloat16 = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason="this GPU has no bfloat16"
)
LENGTHS = (7, 3, 120, 1, 64, 65, 31, 256, 12, 12)
"""Lengths around the block sizes of the kernels."""


def build_encoder(dropout: float = 0.0, **options: Any) -> RobertaEncoder:
    """Return an encoder on the CPU with the same random weights in each call, and heads as wide as RoBERTa's."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 1000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = {**sizes, "intermediate_size": 1024, "pooling": "mean", "max_position_embeddings": 260, **rates, **options}
    return RobertaEncoder(RobertaConfig(**config))


def build_tokens(*lengths: int, device: str = DEVICE, vocab_size: int = 1000, seed: int = 0) -> TokenBatch:
    ids, mask = random_ids(*lengths, vocab_size=vocab_size, seed=seed)
    nothing = torch.zeros(len(ids), dtype=torch.bool)
    tensors = (each.to(device) for each in (ids, mask, nothing, nothing))
    return TokenBatch(*tensors, lengths=np.array(lengths, dtype=np.int64))


def draw_like(embeddings: Tensor) -> Tensor:
    """Return random numbers of the same shape and device, always the same ones."""
    return torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(2)).to(embeddings.device)


def run_backward(encoder: nn.Module, embeddings: Tensor) -> Tensor:
    """Differentiate the weighted sum of embeddings, and return all gradients as one float64 vector on the CPU."""
    encoder.zero_grad()
    (embeddings.float() * draw_like(embeddings)).sum().backward()
    gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
    return torch.cat([gradient.flatten().double().cpu() for gradient in gradients])


def embed_and_differentiate(
    encoder: RobertaEncoder,
    *lengths: int,
    device: str = DEVICE,
    autocast: torch.dtype | None = None,
    embed: Callable[[RobertaEncoder, TokenBatch], Tensor] = embed_tokens,
) -> tuple[Tensor, Tensor]:
    """Return the embeddings and all gradients of a copy of the encoder, both on the CPU."""
    encoder = copy.deepcopy(encoder).to(device)
    with torch.autocast(device, autocast, enabled=autocast is not None, cache_enabled=False):
        embeddings = embed(encoder, build_tokens(*lengths, device=device))
    return embeddings.detach().float().cpu(), run_backward(encoder, embeddings)


def assert_near(found: Tensor, expected: Tensor, limit: float) -> None:
    """Check the norm of the difference, relative to the norm of the expected values."""
    difference = (found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)
    assert found.shape == expected.shape and difference <= limit, f"relative difference {difference:.1e}"


# What happens on the GPU


class KernelCounter(TorchDispatchMode):
    """Counter of the operators that are called in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def record_waits() -> Iterator[list[str]]:
    """Yield a list that gets the place of each wait of the host for the GPU inside the block."""
    found: list[str] = []

    def record(message: Warning | str, category: Any, filename: str, line: int, *_: Any) -> None:
        if "synchroniz" in str(message):
            found.append(f"{filename}:{line}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = record
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def measure_peak(function: Callable[[], object]) -> int:
    """Return the bytes of GPU memory that a call needs at most, besides those in use before it."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def limit_memory(num_bytes: int) -> Iterator[None]:
    """Let this process use only this much GPU memory in addition to what it holds."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + num_bytes) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def allow_tf32() -> Iterator[None]:
    """Let PyTorch round the inputs of float32 products to 10 bits, as a user may."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def measure_product_error() -> float:
    """Return the relative error of a float32 product on the GPU: about 1e-4 with TF32, and 1e-7 without."""
    left, right = (torch.randn(512, 512, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found, expected = (left.to(DEVICE) @ right.to(DEVICE)).cpu().double(), left.double() @ right.double()
    return float((found - expected).norm() / expected.norm())
