"""Small encoders with random weights in every layer, and functions that compare encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from test.helpers import assert_one_line
from text.commands.running import get_exit_code
from text.errors import ArtifactError, UnsupportedModelError
from text.models import RobertaConfig, RobertaEncoder

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "layer_norm_eps": 1e-5,
}
BERT: dict[str, Any] = SIZES | {"pad_token_id": 0, "layer_norm_eps": 1e-12}


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Add noise to every weight. Libraries initialize biases and token types with 0, and norms with 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def build_encoder(**options: Any) -> RobertaEncoder:
    """Build a small encoder with the same random weights in each call."""
    torch.manual_seed(0)
    encoder = RobertaEncoder(RobertaConfig(**(SIZES | options)))
    randomize(encoder)
    return encoder.eval()


def build_texts(padding: int) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask of three texts of different lengths."""
    lengths = torch.tensor([9, 2, 30])
    input_ids = torch.randint(5, SIZES["vocab_size"], (3, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(30) < lengths[:, None]
    return input_ids.masked_fill(~mask, padding), mask


def compute_hidden_states(model: nn.Module, padding: int = 1) -> Tensor:
    """Return the hidden states of the real tokens, from an encoder of this library or of transformers."""
    input_ids, mask = build_texts(padding)
    model.eval()
    with torch.no_grad():
        if isinstance(model, RobertaEncoder):
            return model.compute_hidden_states(input_ids, mask)[mask]
        return model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state[mask]


def embed_texts(model: nn.Module, padding: int = 1) -> Tensor:
    """Return the embeddings of the same three texts."""
    with torch.no_grad():
        return model.eval()(*build_texts(padding))


def assert_refused(folder: Path, file: str, part: str, *, code: int = 5) -> None:
    """Check that a folder does not load, with a one-line error that begins with the file and contains ``part``.

    The exit code is 5 for a damaged folder and 2 for an unsupported model.
    """
    with pytest.raises((ArtifactError, UnsupportedModelError)) as caught:
        RobertaEncoder.from_pretrained(folder)
    assert_one_line(caught.value, folder / file, part)
    assert get_exit_code(caught.value) == code


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    """Check that two modules have the same names, dtypes and values of weights, bit for bit."""
    weights, expected_weights = found.state_dict(), expected.state_dict()
    assert list(weights) == list(expected_weights)
    for name, tensor in weights.items():
        assert tensor.dtype == expected_weights[name].dtype and tensor.equal(expected_weights[name]), name
