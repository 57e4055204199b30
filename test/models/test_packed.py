"""The GPU path of an encoder in simulation: packed texts and CUDA's kernels for them, compared with padded texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from test.cuda_simulation import Call, simulate_gpu
from test.helpers import random_ids
from test.models.helpers import build_encoder
from text.errors import SettingsWarning
from text.models import RobertaEncoder, attention, to_bfloat16, to_float16
from text.models.attention import PaddedTexts, pack_texts
from text.models.chunks import split_by_length
from text.records import TokenBatch
from text.training.grad_cache import embed_in_chunks

LENGTHS = (7, 3, 12, 1, 30)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def calls() -> Iterator[list[Call]]:
    """Simulate a GPU, and yield the calls of its kernels."""
    with simulate_gpu() as calls:
        yield calls


def build_tokens(*lengths: int) -> TokenBatch:
    ids, mask = random_ids(*lengths, vocab_size=300)
    return TokenBatch(ids, mask, ~mask[:, 0], ~mask[:, 0], mask.sum(dim=1).numpy())


def embed_and_differentiate(
    encoder: RobertaEncoder, embed: Callable[[RobertaEncoder], Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return the embeddings, and the gradients of the product of the embeddings with random numbers."""
    encoder = copy.deepcopy(encoder)
    embeddings = embed(encoder)
    target = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1))
    (embeddings * target).sum().backward()
    return embeddings.detach(), [weights.grad for weights in encoder.parameters() if weights.grad is not None]


@pytest.mark.parametrize("has_lengths", [True, False])
@pytest.mark.parametrize(
    "options", [{"pooling": "first"}, {"pooling": "mean"}, {"pooling": "mean", "projection_dim": 8, "normalize": True}]
)
def test_packed_equals_padded(options: dict, has_lengths: bool) -> None:
    encoder, (ids, mask, _, _, lengths, *_) = build_encoder(**options), build_tokens(*LENGTHS)
    expected, gradients = embed_and_differentiate(encoder, lambda each: each(ids, mask))
    with simulate_gpu() as calls:
        arguments = (ids, mask, lengths) if has_lengths else (ids, mask)
        found, packed_gradients = embed_and_differentiate(encoder, lambda each: each(*arguments))
    assert [call.kernel for call in calls] == ["efficient"] * 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for gradient, wanted in zip(packed_gradients, gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=2e-5, atol=2e-5)


def test_hidden_states_of_packed_texts_equal_those_of_padded_ones() -> None:
    encoder, (ids, mask, *_) = build_encoder(), build_tokens(*LENGTHS)
    expected = encoder.compute_hidden_states(ids, mask)
    with simulate_gpu():
        found = encoder.compute_hidden_states(ids, mask)
    torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-6)
    assert not found[~mask].any()


def test_a_mask_with_holes_is_packed_too(calls: list[Call]) -> None:
    encoder, ids = build_encoder(pooling="mean"), torch.tensor([[0, 7, 8, 9, 2]])
    found = encoder(ids, torch.tensor([[True, True, False, True, True]]))
    torch.testing.assert_close(found, encoder(torch.tensor([[0, 7, 9, 2]])), rtol=0, atol=1e-6)
    assert {call.num_tokens for call in calls} == {4}


@pytest.mark.parametrize("has_lengths", [True, False])
def test_packed_layout_by_hand(has_lengths: bool) -> None:
    """The second text has no token and counts as its first column."""
    mask = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    texts = pack_texts(mask, np.array([2, 0, 3]) if has_lengths else None)
    assert (texts.offsets.tolist(), texts.offsets.dtype, texts.max_length) == ([0, 2, 3, 6], torch.int32, 3)
    assert texts.places.tolist() == [0, 1, 3, 6, 7, 8]
    tokens = texts.pack(torch.arange(9.0).view(3, 3, 1))
    assert tokens.flatten().tolist() == [0, 1, 3, 6, 7, 8]
    assert texts.pool_first(tokens).flatten().tolist() == [0, 3, 6]
    assert texts.pool_mean(tokens).flatten().tolist() == [0.5, 3, 7]
    assert texts.unpack(tokens).flatten().tolist() == [0, 1, 0, 3, 0, 0, 6, 7, 8]


def test_no_text_gives_no_embedding_and_gradients_of_zero(calls: list[Call]) -> None:
    # Some ranks get no text from a short batch, and must take part in the sum of gradients.
    for pooling in ("first", "mean"):
        encoder = build_encoder(pooling=pooling)
        embeddings, gradients = embed_and_differentiate(encoder, lambda each: each(*build_tokens()[:2]))
        assert embeddings.shape == (0, 32) and len(gradients) == len(list(encoder.parameters()))
        assert not any(each.any() for each in gradients)
    assert not calls


@pytest.mark.parametrize(("to_half", "dtype"), [(to_bfloat16, torch.bfloat16), (to_float16, torch.float16)])
def test_half_precision_takes_flash_attention(calls: list[Call], to_half: Callable, dtype: torch.dtype) -> None:
    encoder, (ids, mask, *_) = build_encoder(pooling="mean"), build_tokens(*LENGTHS)
    with torch.no_grad():
        half, whole = to_half(encoder)(ids, mask), encoder(ids, mask)
    assert [(call.kernel, call.dtype) for call in calls] == [("flash", dtype)] * 2 + [("efficient", torch.float32)] * 2
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(half, whole).min() > 0.999


def test_kernels_get_views_and_the_same_offsets_in_all_layers(calls: list[Call]) -> None:
    build_encoder()(*build_tokens(*LENGTHS)[:2])
    assert calls[0].offsets is calls[1].offsets
    for call in calls:
        assert call.query.stride() == (3 * 32, 8, 1)  # a view of queries, keys and values, not a copy


class CountDispatches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "detach" not in (name := str(func)):  # the bookkeeping of autograd
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, (3, 3)), (torch.float32, (5, 5))])
def test_the_host_makes_few_calls_for_one_layer(calls: list[Call], dtype: torch.dtype, most: tuple[int, int]) -> None:
    """Compare the calls of a forward and of a backward pass. Nested tensors took 62 and 77."""
    mask = build_tokens(*LENGTHS).attention_mask
    texts, qkv = pack_texts(mask), torch.randn(int(mask.sum()), 3, 4, 8, dtype=dtype, requires_grad=True)
    with CountDispatches() as forward:
        attended = texts.attend(qkv, 0.0)
    gradient = torch.ones_like(attended)
    with CountDispatches() as backward:
        attended.backward(gradient)
    assert len(forward.names) <= most[0], forward.names
    assert len(backward.names) <= most[1], backward.names


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_checkpoints_replay_dropout(calls: list[Call], precision: torch.dtype) -> None:
    """Activations that are computed again equal those that are kept, bit for bit."""
    tokens, encoder = build_tokens(*LENGTHS, 20, 5), build_encoder(pooling="mean").train()

    def embed_chunks_without_checkpoints(encoder: RobertaEncoder) -> Tensor:
        rows, chunks = split_by_length(tokens, 40)
        return torch.cat([encoder(each.input_ids, each.attention_mask) for each in chunks])[np.argsort(rows)]

    def embed_with_checkpoints_of_layers(encoder: RobertaEncoder) -> Tensor:
        encoder.activation_checkpointing = True
        return encoder(*tokens[:2])

    pairs = (
        (lambda each: embed_in_chunks(each, tokens, 40), embed_chunks_without_checkpoints),
        (embed_with_checkpoints_of_layers, lambda each: each(*tokens[:2])),
    )
    for pair in pairs:
        results = []
        for embed in pair:
            torch.manual_seed(3)
            with torch.autocast("cpu", precision, precision != torch.float32, cache_enabled=False):
                results.append(embed_and_differentiate(encoder, embed))
        (found, gradients), (expected, wanted) = results
        assert found.equal(expected) and found.std() > 0
        assert all(one.equal(other) for one, other in zip(gradients, wanted, strict=True))


def test_a_gpu_cuts_chunks_by_tokens_alone() -> None:
    tokens = build_tokens(*range(1, 31))
    on_cpu = split_by_length(tokens, 512)[1]
    with simulate_gpu():
        rows, chunks = split_by_length(tokens, 512)
    assert len(on_cpu) == 5 and len(chunks) == 2
    assert rows == list(range(29, -1, -1)) and chunks[0].input_ids.shape == (17, 30)


@pytest.mark.parametrize(
    ("obstacle", "dtype", "width", "has_flash"),
    [
        ("has other attention kernels", torch.float32, 8, True),
        ("heads are 6 wide", torch.float32, 6, True),
        ("heads are 136 wide", torch.float32, 136, True),
        ("do not take torch.float64", torch.float64, 8, True),
        ("older than Ampere", torch.bfloat16, 8, False),
    ],
)
def test_without_a_kernel_attention_computes_padding_and_says_so_once(
    calls: list[Call], monkeypatch: pytest.MonkeyPatch, obstacle: str, dtype: torch.dtype, width: int, has_flash: bool
) -> None:
    monkeypatch.setattr(attention, "HAS_PACKED_KERNELS", "other" not in obstacle)
    attention._warn_once.cache_clear()
    mask = build_tokens(*LENGTHS).attention_mask
    qkv = torch.randn(*mask.shape, 3, 4, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    texts = pack_texts(mask)._replace(has_flash=has_flash)
    with pytest.warns(SettingsWarning, match=f"attention computes padding.*{obstacle}") as warned:
        found = [texts.attend(texts.pack(qkv), 0.0) for _ in range(2)]
    assert len(warned) == 1 and not calls
    torch.testing.assert_close(found[1], PaddedTexts(mask).attend(qkv, 0.0)[mask])


def test_gpus_before_ampere_take_the_efficient_kernel_for_float16(calls: list[Call]) -> None:
    mask = build_tokens(*LENGTHS).attention_mask
    texts = pack_texts(mask)._replace(has_flash=False)
    texts.attend(torch.randn(int(mask.sum()), 3, 4, 8).half(), 0.0)
    assert [call.kernel for call in calls] == ["efficient"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_need_at_most_two_graphs(calls: list[Call]) -> None:
    """One graph takes batches of all lengths. Batches without texts, the share of some ranks, may have their own."""
    torch._dynamo.reset()
    encoder = build_encoder(pooling="mean", **NO_DROPOUT).train()
    expected = encoder(*build_tokens(*LENGTHS)[:2])
    graphs = []

    def count_graphs(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        graphs.append(module)
        return module.forward

    for layer in encoder.layers:
        layer.compile(dynamic=True, backend=count_graphs)
    for lengths in (LENGTHS, (2, 2), (), (1, 5, 9, 30, 30, 8), (4,), (33, 2)):
        embeddings, _ = embed_and_differentiate(encoder, lambda e, lengths=lengths: e(*build_tokens(*lengths)[:2]))
        if lengths == LENGTHS:
            torch.testing.assert_close(embeddings, expected.detach(), rtol=0, atol=1e-6)
    assert len(graphs) <= 2 * 2, len(graphs)  # two layers
