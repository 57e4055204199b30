"""Tests on a GPU: packed texts and 16-bit layers compared with a CPU, and a training run."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from test.commands.training import SMALL, run_train
from test.helpers import random_ids
from text.models import RobertaEncoder, roberta_tiny, to_bfloat16

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this test needs a GPU")


@pytest.fixture
def encoder() -> RobertaEncoder:
    torch.manual_seed(0)
    return roberta_tiny(vocab_size=100, pooling="mean", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def embed_and_differentiate(encoder: RobertaEncoder, device: str, *lengths: int) -> tuple[Tensor, Tensor]:
    """Return the embeddings, and the gradient of 0.5 * sum(embeddings ** 2) for weights of the first layer."""
    encoder = copy.deepcopy(encoder).to(device)
    embeddings = encoder(*(each.to(device) for each in random_ids(*lengths)))
    (0.5 * embeddings.square().sum()).backward()
    gradient = encoder.get_parameter("layers.0.attention.qkv.weight").grad
    assert gradient is not None
    return embeddings.detach().cpu(), gradient.cpu()


@pytest.mark.parametrize("lengths", [(7, 3, 12, 1), (5,), (9, 9)])
def test_embeddings_and_gradients_equal_those_of_a_cpu(encoder: RobertaEncoder, lengths: tuple[int, ...]) -> None:
    # The GPU uses another attention kernel, which sums in another order.
    for found, expected in zip(
        *(embed_and_differentiate(encoder, device, *lengths) for device in ("cuda", "cpu")), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_no_text_gives_no_embedding(encoder: RobertaEncoder) -> None:
    embeddings, gradient = embed_and_differentiate(encoder, "cuda")
    assert embeddings.shape == (0, 128) and not gradient.any()


def test_bfloat16_is_near_float32(encoder: RobertaEncoder) -> None:
    ids, mask = random_ids(7, 3, 12, 1)
    with torch.no_grad():
        half = to_bfloat16(encoder).cuda()(ids.cuda(), mask.cuda()).cpu()
        whole = encoder(ids, mask)
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(half, whole).min() > 0.999


@pytest.mark.filterwarnings("ignore")  # Warnings of Lightning and of the compiler.
@pytest.mark.parametrize("flags", [[], ["--precision=bf16-mixed"], ["--precision=16-mixed"], ["--compile"]])
def test_a_training_run_completes(flags: list[str], tmp_path: Path) -> None:
    assert run_train("--gpus=1", f"--output_dir={tmp_path / 'run'}", "--max_epochs=2", *SMALL, *flags) == 0
