"""TransformersEncoder: the embeddings of transformers and sentence-transformers, gradients and saving, by family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from test.cuda_simulation import simulate_gpu
from test.models.towers import FAMILIES, FAST, TEXTS, compute_peer_states, has_family, save_tower
from text.errors import UsageError
from text.models import TransformersEncoder, embed_tokens, to_bfloat16
from text.records import TokenBatch
from text.training.grad_cache import embed_in_chunks
from text.transforms import Tokenize, load_tokenizer, save_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
LENGTHS = torch.tensor([9, 2, 30, 29, 17, 1])
MASK = torch.arange(30) < LENGTHS[:, None]
IDS = torch.randint(5, 260, MASK.shape, generator=torch.Generator().manual_seed(0)).masked_fill(~MASK, 1)
BATCH = TokenBatch(IDS, MASK, ~MASK[:, 0], ~MASK[:, 0], LENGTHS.numpy())

DECODERS = ("Qwen3", "Llama", "Mistral", "Gemma")
WITHOUT_CHECKPOINTING = ("MPNet", "ALBERT")
"""Families for which transformers has no activation checkpointing."""


def list_families(fast: tuple[str, ...]) -> pytest.MarkDecorator:
    """Return a mark with all families. The default suite tests only the fast ones."""
    params = []
    for name in FAMILIES:
        absent = pytest.mark.skipif(not has_family(name), reason=f"this transformers has no {name}")
        params.append(pytest.param(name, marks=[absent] if name in fast else [absent, pytest.mark.slow]))
    return pytest.mark.parametrize("family", params)


families = list_families(FAST)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that returns the folder of a family. Do not change it."""
    root, made = tmp_path_factory.mktemp("towers"), {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = save_tower(family, root / family)
        return made[family]

    return get


def load(folder: Path, **options: Any) -> TransformersEncoder:
    return TransformersEncoder.from_pretrained(folder, **options).eval()


def pool_mean(hidden: Tensor) -> Tensor:
    """Return the mean of the real tokens in the plainest way."""
    return torch.stack([states[:length].mean(dim=0) for states, length in zip(hidden, LENGTHS, strict=True)])


@families
def test_embeddings_equal_those_of_transformers(towers: Callable[[str], Path], family: str) -> None:
    """Also with a text alone, and with padding on the left."""
    folder = towers(family)
    expected = pool_mean(compute_peer_states(folder, IDS, MASK))
    encoder = load(folder, pooling="mean")
    with torch.no_grad():
        close(encoder(IDS, MASK), expected)
        close(encoder(IDS, MASK, lengths=LENGTHS.numpy()), expected)
        close(encoder(IDS.flip(1).gather(1, _shift()), MASK.flip(1)), expected)
        for row, length in enumerate(LENGTHS):
            close(encoder(IDS[row : row + 1, :length], MASK[row : row + 1, :length]), expected[row : row + 1])


def _shift() -> Tensor:
    """Return the columns that move the flipped ids back into reading order, with the padding on the left."""
    columns = torch.arange(30)
    return torch.stack([torch.cat([columns[: 30 - n], columns[30 - n :].flip(0)]) for n in LENGTHS])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@families
def test_a_saved_folder_loads_the_same_in_all_libraries(
    towers: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = load(towers(family), projection_dim=8, normalize=True)
    tokenizer = load_tokenizer(towers(family))
    encoder.save_pretrained(tmp_path, max_length=20)
    save_tokenizer(tokenizer, tmp_path, max_length=20)
    again = load(tmp_path)
    assert again.state_dict().keys() == encoder.state_dict().keys()
    assert all(torch.equal(each, again.state_dict()[name]) for name, each in encoder.state_dict().items())
    assert (again.max_length, again.is_normalized, again.embedding_dim) == (20, True, 8)
    with torch.no_grad():
        found = embed_tokens(again, Tokenize(tokenizer, 20)(TEXTS))
    model = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    close(found, torch.from_numpy(model.encode(TEXTS)))
    peer = compute_peer_states(tmp_path, IDS, MASK)
    close(peer[MASK], compute_peer_states(towers(family), IDS, MASK)[MASK])


@list_families(FAST[:1])
def test_gradients_of_chunks_equal_those_of_a_whole_batch(towers: Callable[[str], Path], family: str) -> None:
    """Chunks of similar lengths, GradCache, activation checkpointing and the plain model give the same gradients."""

    def embed_whole(each: TransformersEncoder) -> Tensor:
        hidden = each.model(input_ids=IDS, attention_mask=MASK.long())[0]
        return each.head(hidden, MASK)

    def embed_checkpointed(each: TransformersEncoder) -> Tensor:
        each.set_activation_checkpointing(True)
        return embed_tokens(each.train(), BATCH)  # All dropout rates are 0.

    encoder = load(towers(family), pooling="mean", projection_dim=8, dropout=0.0)
    expected = differentiate(encoder, embed_whole)
    ways = [lambda each: embed_tokens(each, BATCH), lambda each: embed_in_chunks(each, BATCH, 40), embed_checkpointed]
    if torch.__version__ < "2.5" and family in DECODERS:
        del ways[1]  # transformers builds the masks of decoders with torch.func, which this PyTorch cannot checkpoint.
    if family in WITHOUT_CHECKPOINTING:
        with pytest.raises(UsageError, match="--activation_checkpointing"):
            differentiate(encoder, ways.pop())
    for embed in ways:
        found = differentiate(encoder, embed)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            largest = float(expected[name].abs().max())  # Chunks add up in another order.
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5 * (1 + largest), msg=name)


def differentiate(encoder: TransformersEncoder, embed: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    """Return the gradient of each trained weight of the product of the embeddings with random numbers."""
    encoder = copy.deepcopy(encoder)
    embeddings = embed(encoder)
    (embeddings * torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}


@list_families(FAST[:1])
def test_every_trained_weight_gets_a_gradient(towers: Callable[[str], Path], family: str) -> None:
    """Ranks wait for the gradient of each weight that is trained, also on a rank without texts."""
    encoder = load(towers(family), projection_dim=8)
    trained = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert differentiate(encoder, lambda each: each(IDS, MASK)).keys() == trained
    nothing = BATCH._replace(input_ids=IDS[:0], attention_mask=MASK[:0], lengths=np.zeros(0, dtype=np.int64))
    gradients = differentiate(encoder, lambda each: embed_tokens(each, nothing))
    assert gradients.keys() == trained and not any(each.any() for each in gradients.values())


def test_a_gpu_embeds_a_batch_at_once_with_the_same_embeddings(towers: Callable[[str], Path]) -> None:
    encoder = load(towers("DistilBERT"))
    with torch.no_grad():
        expected = encoder(IDS, MASK)
        with simulate_gpu():
            close(encoder(IDS, MASK, lengths=LENGTHS.numpy()), expected)


def test_a_text_without_tokens_counts_as_its_first_column(towers: Callable[[str], Path]) -> None:
    encoder, mask = load(towers("DistilBERT")), torch.zeros(1, 3, dtype=torch.bool)
    with torch.no_grad():
        close(encoder(IDS[:1, :3], mask), encoder(IDS[:1, :1], ~mask[:, :1]))
        with simulate_gpu():
            close(encoder(IDS[:1, :3], mask), encoder(IDS[:1, :1], ~mask[:, :1]))


def test_a_text_beyond_the_limit_is_refused(towers: Callable[[str], Path]) -> None:
    encoder = load(towers("DistilBERT"), max_seq_length=29)
    with pytest.raises(ValueError, match="30 tokens, but the encoder takes 29"):
        encoder(IDS, MASK)
    with pytest.raises(ValueError, match="text 0 has length 8"):
        load(towers("DistilBERT"))(IDS, MASK, lengths=np.maximum(LENGTHS.numpy() - 1, 1))


@pytest.mark.parametrize("family", ["DistilBERT", pytest.param("Qwen3", marks=pytest.mark.slow)])
def test_a_bfloat16_copy_keeps_the_head_and_the_buffers_in_float32(towers: Callable[[str], Path], family: str) -> None:
    encoder = load(towers(family), projection_dim=8)
    half = to_bfloat16(encoder)
    with torch.no_grad():
        found, expected = half(IDS, MASK), encoder(IDS, MASK)
    assert found.dtype == torch.float32 and torch.cosine_similarity(found, expected).min() > 0.99
    dtypes = {name: value.dtype for name, value in half.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if name.startswith("model.")} == {torch.bfloat16}
    assert {dtype for name, dtype in dtypes.items() if name.startswith("head.")} == {torch.float32}
    assert all(buffer.dtype != torch.bfloat16 for buffer in half.buffers())
    assert next(encoder.parameters()).dtype == torch.float32


def test_dropout_sets_all_rates_of_the_family(towers: Callable[[str], Path]) -> None:
    encoder = load(towers("ModernBERT"), dropout=0.25)
    config = encoder.model.config
    assert config.embedding_dropout == config.mlp_dropout == config.attention_dropout == 0.25
    encoder.train()
    assert not torch.equal(encoder(IDS, MASK), encoder(IDS, MASK))
