"""Quantized encoders: Int8Linear by hand and within its rounding error, and whole encoders against the original."""

from __future__ import annotations

import copy

import pytest
import torch

from test.models.test_roberta import build_encoder, build_texts
from text.models import quantize_int8, to_bfloat16
from text.models.linear import Linear
from text.models.quantize import Int8Linear


def test_int8_linear_by_hand():
    """The weights, up to 127, and the inputs, from 0 to 254, are integers that 8 bits represent exactly."""
    linear = Linear(2, 1)
    linear.weight.data, linear.bias.data = torch.tensor([[127.0, -3.0]]), torch.tensor([5.0])
    inputs = torch.tensor([[254.0, 0.0], [1.0, 2.0]], dtype=torch.bfloat16)
    # 254 * 127 + 5 = 32263. bfloat16 keeps 8 bits: 32256.
    assert Int8Linear(linear)(inputs).tolist() == [[32256.0], [126.0]]


@pytest.mark.parametrize("shape", [(9, 64), (3, 5, 64)])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("mean", [-20, 0, 20])
def test_the_error_is_within_rounding(shape, gelu, mean):
    torch.manual_seed(0)
    linear = Linear(64, 48, gelu=gelu)
    inputs = (torch.randn(shape) + mean).bfloat16()
    with torch.no_grad():
        exact = linear(inputs.float())
        found = Int8Linear(linear)(inputs).float()
    # Inputs and weights are rounded by at most half of their step. The slope of GELU is below 1.2.
    span = inputs.float().amax().clamp(min=0) - inputs.float().amin().clamp(max=0)
    steps = span / 254 * linear.weight.abs().sum(1) + inputs.abs().amax() * linear.weight.abs().amax(1) / 127 * 64
    assert ((found - exact).abs() <= 1.2 * steps / 2 + 0.01 * exact.abs() + 0.01).all()
    # Rounding errors mostly cancel out, so the total error is much smaller than this bound.
    assert torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0) > 0.999


def test_equal_inputs_give_the_bias():
    """The range of equal inputs is 0, and must not cause a division by 0."""
    linear = Linear(4, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            Int8Linear(linear)(torch.zeros(2, 4, dtype=torch.bfloat16)), linear.bias.bfloat16().expand(2, 3)
        )


def test_an_empty_input_gives_an_empty_output():
    assert Int8Linear(Linear(4, 3))(torch.zeros(0, 4, dtype=torch.bfloat16)).shape == (0, 3)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize(("reduce", "least"), [(to_bfloat16, 0.9999), (quantize_int8, 0.99)])
def test_a_quantized_encoder_gives_similar_embeddings(reduce, least, pooling):
    exact = build_encoder(pooling=pooling, projection_dim=8)
    before = {name: weight.clone() for name, weight in exact.state_dict().items()}
    reduced = reduce(exact)
    input_ids, mask = build_texts(5, 40, 2, 12)
    with torch.no_grad():
        embeddings, expected = reduced(input_ids, mask), exact(input_ids, mask)
        assert reduced.compute_hidden_states(input_ids, mask).dtype == torch.bfloat16
    assert (embeddings.dtype, expected.dtype) == (torch.float32, torch.float32)
    assert torch.cosine_similarity(embeddings, expected).min() > least
    assert not embeddings.equal(expected)
    assert all(weight.equal(before[name]) for name, weight in exact.state_dict().items())


def test_norms_in_float32_lose_less_than_bfloat16_throughout():
    exact = build_encoder(pooling="mean", num_hidden_layers=4)
    input_ids, mask = build_texts(*range(2, 40))
    with torch.no_grad():
        expected = exact(input_ids, mask)
        mixed, rounded = to_bfloat16(exact)(input_ids, mask), copy.deepcopy(exact).bfloat16()(input_ids, mask)
    mixed_loss, rounded_loss = (1 - torch.cosine_similarity(one.float(), expected) for one in (mixed, rounded))
    assert mixed_loss.mean() < 0.9 * rounded_loss.mean()


def test_an_8_bit_encoder_cannot_be_saved(tmp_path):
    with pytest.raises(RuntimeError, match="8-bit"):
        quantize_int8(build_encoder()).save_pretrained(tmp_path)
