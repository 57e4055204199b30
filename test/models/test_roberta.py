"""RobertaEncoder: comparison with the RoBERTa of transformers, and laws of its embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import RobertaConfig as PeerConfig
from transformers import RobertaModel as PeerModel

from test.helpers import random_ids
from text.models import (
    RobertaConfig,
    RobertaEncoder,
    roberta_base,
    roberta_large,
    roberta_mini,
    roberta_small,
    roberta_tiny,
)
from text.models.keys import BERT, merge_token_types, to_encoder_keys

SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 66,
    "layer_norm_eps": 1e-5,
}
PAD = 1


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Give every weight a random value, so that a missing bias, norm or token type shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if "norm.weight" in name.lower() else noise)


def build_encoder(**options) -> RobertaEncoder:
    encoder = RobertaEncoder(RobertaConfig(**(SIZES | options)))
    randomize(encoder)
    return encoder.eval()


def build_peer_pair(attention: str = "sdpa") -> tuple[RobertaEncoder, PeerModel]:
    """Build an encoder of this library and one of transformers with the same weights."""
    peer = PeerModel(PeerConfig(**SIZES, type_vocab_size=1, pad_token_id=PAD), add_pooling_layer=False).eval()
    peer.set_attn_implementation(attention)
    randomize(peer)
    encoder = RobertaEncoder(RobertaConfig(**SIZES)).eval()
    encoder.load_state_dict(merge_token_types(to_encoder_keys(peer.state_dict(), BERT)))
    return encoder, peer


def build_texts(*lengths: int, **options: Any) -> tuple[Tensor, Tensor]:
    return random_ids(*lengths, vocab_size=SIZES["vocab_size"], **options)


# ---- transformers as the oracle


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("lengths", [(2,), (9, 9), (64, 3, 17, 2, 40)])
def test_outputs_equal_transformers(attention, lengths):
    encoder, peer = build_peer_pair(attention)
    input_ids, mask = build_texts(*lengths)
    with torch.no_grad():
        expected = peer(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(encoder.compute_hidden_states(input_ids, mask)[mask], expected[mask])
        torch.testing.assert_close(encoder(input_ids, mask), expected[:, 0])


def test_gradients_equal_transformers():
    """Compare the gradients of every weight, for a loss over all real tokens."""
    encoder, peer = build_peer_pair()
    input_ids, mask = build_texts(64, 3, 17)
    target = torch.randn(int(mask.sum()), SIZES["hidden_size"], generator=torch.Generator().manual_seed(1))
    # The factor 100 brings gradients to the order of 1, so that the default tolerance is meaningful.
    (100 * nn.functional.mse_loss(encoder.compute_hidden_states(input_ids, mask)[mask], target)).backward()
    hidden = peer(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
    (100 * nn.functional.mse_loss(hidden[mask], target)).backward()
    gradients = {name: parameter.grad for name, parameter in peer.named_parameters() if parameter.grad is not None}
    del gradients["embeddings.token_type_embeddings.weight"]  # The positions of this library include it.
    expected = to_encoder_keys(gradients, BERT)
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        torch.testing.assert_close(parameter.grad, expected[name])


def test_number_of_parameters_equals_transformers():
    config = PeerConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        encoder, peer = roberta_base(), PeerModel(config, add_pooling_layer=False)
    layer = 4 * (768 * 768 + 768) + (768 * 3072 + 3072) + (3072 * 768 + 768) + 2 * 2 * 768
    assert count_parameters(encoder) == (50265 + 514 + 2) * 768 + 12 * layer
    # This library adds the token type to the positions.
    assert count_parameters(peer) == count_parameters(encoder) + 768


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- independence of padding, order and batch


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("width", [12, 13, 64])
def test_embedding_does_not_depend_on_padding(pooling, width):
    encoder = build_encoder(pooling=pooling)
    narrow, wide = build_texts(12), build_texts(12, width=width)
    with torch.no_grad():
        torch.testing.assert_close(encoder(*wide), encoder(*narrow))


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_embedding_does_not_depend_on_neighbours(pooling):
    encoder = build_encoder(pooling=pooling)
    input_ids, mask = build_texts(5, 40, 2, 12)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        together = encoder(input_ids, mask)
        torch.testing.assert_close(encoder(input_ids[order], mask[order]), together[order])
        for row, length in enumerate(mask.sum(dim=1)):
            alone = encoder(input_ids[row : row + 1, :length], mask[row : row + 1, :length])
            torch.testing.assert_close(alone, together[row : row + 1])


def test_embedding_depends_on_every_token_and_on_their_order():
    encoder = build_encoder()
    input_ids, mask = build_texts(6)
    variants = [input_ids]
    for place in range(6):
        other = input_ids.clone()
        other[0, place] = 199
        variants.append(other)
    variants.append(input_ids[:, [0, 2, 1, 3, 4, 5]])
    with torch.no_grad():
        embeddings = encoder(torch.cat(variants), mask.repeat(len(variants), 1))
    distances = torch.cdist(embeddings, embeddings)
    assert (distances + torch.eye(len(variants)) > 1e-3).all()


def test_the_default_mask_excludes_padding():
    encoder = build_encoder(pooling="mean")
    input_ids, mask = build_texts(5, 9)
    with torch.no_grad():
        assert encoder(input_ids).equal(encoder(input_ids, mask))


def test_ids_under_the_padding_do_not_matter():
    encoder = build_encoder(pooling="mean")
    input_ids, mask = build_texts(5, 9)
    with torch.no_grad():
        torch.testing.assert_close(encoder(input_ids.masked_fill(~mask, 77), mask), encoder(input_ids, mask))


LENGTHS = [3 + 17 * row % 61 for row in range(150)]
"""Unsorted lengths of enough texts for several chunks."""


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_embeddings_do_not_depend_on_batch_or_order(pooling):
    encoder = build_encoder(pooling=pooling, normalize=True)
    input_ids, mask = build_texts(*LENGTHS)
    order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = encoder(input_ids, mask)
        shuffled = encoder(input_ids[order], mask[order])
        by_seven = torch.cat([encoder(*part) for part in zip(input_ids.split(7), mask.split(7), strict=True)])
    assert (shuffled - together[order]).abs().max() < 1e-6
    assert (by_seven - together).abs().max() < 1e-6


@pytest.mark.parametrize("projection_dim", [None, 8])
def test_no_text_gives_no_embedding(projection_dim):
    encoder = build_encoder(projection_dim=projection_dim)
    assert encoder(torch.empty(0, 5, dtype=torch.int64)).shape == (0, encoder.embedding_dim)


# ---- options


def test_activation_checkpointing_changes_no_gradient():
    """The recomputed activations have the same dropout."""
    encoder = build_encoder().train()
    input_ids, mask = build_texts(5, 40, 2, 12)
    found = []
    for encoder.activation_checkpointing in (False, True):
        encoder.zero_grad()
        torch.manual_seed(0)
        encoder(input_ids, mask).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None])
    for kept, computed_again in zip(*found, strict=True):
        assert computed_again.equal(kept)


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.4", reason="this PyTorch compiles each layer and length again")
@pytest.mark.filterwarnings("ignore")  # Warnings of the compiler do not concern this library.
def test_compiled_layers_equal_plain_ones_and_compile_a_few_times_only():
    """The number of compilations must not grow with the number of layers or lengths."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    encoder = build_encoder()
    batches = [build_texts(*LENGTHS[start : start + 10], seed=start) for start in range(0, 100, 10)]
    with torch.no_grad():
        expected = [encoder(*batch) for batch in batches]
    for layer in encoder.layers:
        layer.compile(dynamic=True)
    with torch.no_grad():
        for batch, embeddings in zip(batches, expected, strict=True):
            torch.testing.assert_close(encoder(*batch), embeddings)
    # The layers compile with or without a mask, and for one text or several.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4
    encoder.train()
    for batch in batches:
        encoder(*batch).sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8
    assert not torch._dynamo.utils.counters["graph_break"]


def test_mean_pooling_equals_plain_python():
    encoder = build_encoder(pooling="mean")
    input_ids, mask = build_texts(4, 2, 7)
    with torch.no_grad():
        embeddings, hidden = encoder(input_ids, mask), encoder.compute_hidden_states(input_ids, mask)
    for row, embedding in enumerate(embeddings.tolist()):
        real = [vector for vector, is_real in zip(hidden[row].tolist(), mask[row].tolist(), strict=True) if is_real]
        expected = [sum(values) / len(real) for values in zip(*real, strict=True)]
        torch.testing.assert_close(torch.tensor(embedding), torch.tensor(expected))


def test_normalize_keeps_the_direction_and_sets_the_length():
    input_ids, mask = build_texts(4, 9)
    with torch.no_grad():
        plain, normalized = build_encoder()(input_ids, mask), build_encoder(normalize=True)(input_ids, mask)
    for before, after in zip(plain.tolist(), normalized.tolist(), strict=True):
        assert math.hypot(*after) == pytest.approx(1)
        length = math.hypot(*before)
        torch.testing.assert_close(torch.tensor(after), torch.tensor([value / length for value in before]))


def test_projection_is_a_linear_layer_and_a_layer_norm_after_pooling():
    encoder = build_encoder(pooling="mean", projection_dim=8)
    assert encoder.embedding_dim == 8
    input_ids, mask = build_texts(4, 9)
    pooled = build_encoder(pooling="mean")
    pooled.load_state_dict({name: encoder.state_dict()[name] for name in pooled.state_dict()})
    weights = encoder.state_dict()
    with torch.no_grad():
        projected = pooled(input_ids, mask) @ weights["projection.weight"].T + weights["projection.bias"]
        spread = projected.var(dim=1, keepdim=True, unbiased=False).add(1e-5).sqrt()
        expected = (projected - projected.mean(dim=1, keepdim=True)) / spread
        expected = expected * weights["projection_norm.weight"] + weights["projection_norm.bias"]
        torch.testing.assert_close(encoder(input_ids, mask), expected)


def test_layer_norm_eps_changes_embeddings():
    input_ids, mask = build_texts(4)
    with torch.no_grad():
        assert (
            build_encoder()(input_ids, mask) - build_encoder(layer_norm_eps=0.1)(input_ids, mask)
        ).abs().max() > 1e-3


def test_positions_start_after_the_padding_token():
    """With a lower padding id, a text may be longer."""
    encoder = build_encoder(pad_token_id=0)
    assert (encoder.max_length, build_encoder().max_length) == (65, 64)
    with torch.no_grad():
        embedding = encoder(torch.tensor([[7, 8, 9, 0, 0]]))
        torch.testing.assert_close(embedding, encoder(torch.tensor([[7, 8, 9]])))


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_applies_in_training_only(name):
    none: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = build_encoder(**(none | {name: 0.5}))
    input_ids, mask = build_texts(9)
    with torch.no_grad():
        still = encoder(input_ids, mask)
        assert still.equal(encoder(input_ids, mask))
        torch.testing.assert_close(build_encoder(**none).train()(input_ids, mask), still)
        encoder.train()
        assert not encoder(input_ids, mask).allclose(encoder(input_ids, mask))


def test_a_text_longer_than_the_limit_is_an_error():
    encoder = build_encoder()
    assert encoder.max_length == 64
    with torch.no_grad():
        assert encoder(*build_texts(64)).isfinite().all()
    with pytest.raises(ValueError, match=r"\b65 tokens\b.*\b64\b"):
        encoder(*build_texts(65))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 65}, "hidden_size is 65.*num_attention_heads"),
        ({"pooling": "max"}, 'pooling is "max".* first, mean'),
    ],
)
def test_an_invalid_configuration_is_rejected_by_field(options, message):
    with pytest.raises(ValueError, match=message):
        RobertaConfig(**(SIZES | options))


@pytest.mark.parametrize(
    ("function", "layers", "width", "heads"),
    [
        (roberta_tiny, 2, 128, 2),
        (roberta_mini, 4, 256, 4),
        (roberta_small, 4, 512, 8),
        (roberta_base, 12, 768, 12),
        (roberta_large, 24, 1024, 16),
    ],
)
def test_named_sizes(function: Callable[..., RobertaEncoder], layers, width, heads):
    with torch.device("meta"):
        config = function().config
        assert function(intermediate_size=7, vocab_size=100).config.intermediate_size == 7
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (layers, width, heads)
    assert config.intermediate_size == 4 * width
    assert (config.vocab_size, config.max_position_embeddings, config.pad_token_id) == (50265, 514, 1)


def test_initial_weights_are_those_of_bert():
    torch.manual_seed(0)
    encoder = roberta_tiny(vocab_size=1000, projection_dim=64)
    for name, weight in encoder.named_parameters():
        if "norm" in name:
            assert (weight == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (weight == 0).all(), name
        else:
            # With 8,192 values or more, the standard deviation is almost certainly within 5 %.
            assert weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert abs(weight.mean().item()) < 0.001, name
    assert not encoder.embeddings.word.weight[PAD].any()


def test_a_classifier_can_use_the_encoder():
    torch.manual_seed(0)
    none: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    classifier = nn.Sequential(RobertaEncoder(RobertaConfig(**SIZES, **none)), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1e-3)
    input_ids, labels = build_texts(5, 9, 7)[0], torch.tensor([0, 1, 2])
    before = nn.functional.cross_entropy(classifier(input_ids), labels)
    before.backward()
    optimizer.step()
    assert nn.functional.cross_entropy(classifier(input_ids), labels) < before
