"""Outputs and gradients of Linear, compared with ``torch.nn.Linear``."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from text.models import linear
from text.models.linear import Linear


@pytest.fixture(autouse=True, params=[False, True], ids=["torch", "onednn"])
def trains_with_onednn(request, monkeypatch):
    """Run each test with both libraries, regardless of which is faster on this CPU."""
    monkeypatch.setattr(linear, "_TRAINS_WITH_ONEDNN", request.param)


def build_linear_pair(gelu: bool = False) -> tuple[Linear, nn.Sequential]:
    """Build a layer of this library and one of PyTorch with the same weights."""
    torch.manual_seed(0)
    layer = Linear(24, 40, gelu=gelu)
    peer = nn.Linear(24, 40)
    peer.load_state_dict(layer.state_dict())
    return layer, nn.Sequential(peer, nn.GELU() if gelu else nn.Identity())


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(24,), (7, 24), (3, 5, 24), (0, 24), (2, 0, 24)])
def test_outputs_equal_those_of_torch(shape, gelu):
    layer, peer = build_linear_pair(gelu)
    inputs = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(layer(inputs), peer(inputs))
    torch.testing.assert_close(layer(inputs), peer(inputs))


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24)])
def test_gradients_equal_those_of_torch(shape, gelu):
    layer, peer = build_linear_pair(gelu)
    inputs, target = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 40)
    (gradient,) = torch.autograd.grad(100 * F.mse_loss(layer(inputs), target), inputs)
    (expected,) = torch.autograd.grad(100 * F.mse_loss(peer(inputs), target), inputs)
    torch.testing.assert_close(gradient, expected)
    (100 * F.mse_loss(layer(inputs), target)).backward()
    (100 * F.mse_loss(peer(inputs), target)).backward()
    for parameter, like in zip(layer.parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, like.grad)


@pytest.mark.filterwarnings("ignore:Input #0 requires gradient and is not a double:UserWarning")
def test_gradients_equal_finite_differences():
    """The kernels of oneDNN support float32 only. A step of 1e-2 is exact because the layer is linear."""
    layer, _ = build_linear_pair()
    inputs = torch.randn(5, 24, requires_grad=True)
    assert torch.autograd.gradcheck(layer, inputs, eps=1e-2, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_parameters_get_no_gradient(frozen):
    layer, _ = build_linear_pair()
    getattr(layer, frozen).requires_grad_(False)
    layer(torch.randn(3, 24)).sum().backward()
    assert {name for name, parameter in layer.named_parameters() if parameter.grad is None} == {frozen}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("gelu", [False, True])
def test_other_dtypes_equal_torch(dtype, gelu):
    layer, peer = build_linear_pair(gelu)
    inputs = torch.randn(7, 24, dtype=dtype)
    expected = peer.to(dtype)(inputs)
    torch.testing.assert_close(layer.to(dtype)(inputs), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(inputs), expected)


def test_autocast_equals_torch():
    layer, peer = build_linear_pair(gelu=True)
    inputs = torch.randn(7, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16
        torch.testing.assert_close(layer(inputs), peer(inputs))
