"""Small encoders, and weights in which nothing can be left out unseen."""

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
from text.models.attention import HAS_PACKED

needs_packed = pytest.mark.skipif(not HAS_PACKED, reason="this PyTorch has no jagged tensors to pack texts in")

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
    """Adds something to every weight: libraries start biases and token types at 0 and norms at 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def encoder(**options: Any) -> RobertaEncoder:
    """The same one each time."""
    torch.manual_seed(0)
    ours = RobertaEncoder(RobertaConfig(**(SIZES | options)))
    randomize(ours)
    return ours.eval()


def texts(padding: int) -> tuple[Tensor, Tensor]:
    """Ids and mask of three texts of unlike length."""
    lengths = torch.tensor([9, 2, 30])
    input_ids = torch.randint(5, SIZES["vocab_size"], (3, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(30) < lengths[:, None]
    return input_ids.masked_fill(~mask, padding), mask


def hidden_states(model: nn.Module, padding: int = 1) -> Tensor:
    """Of the real tokens, by either library."""
    input_ids, mask = texts(padding)
    model.eval()
    with torch.no_grad():
        if isinstance(model, RobertaEncoder):
            return model.compute_hidden_states(input_ids, mask)[mask]
        return model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state[mask]


def embeddings(model: nn.Module, padding: int = 1) -> Tensor:
    """By ours."""
    with torch.no_grad():
        return model.eval()(*texts(padding))


def assert_refused(folder: Path, file: str, part: str, *, code: int = 5) -> None:
    """A folder is no encoder, in one line that begins with the file and names a key, field or value.

    The exit code is 5 for a damaged folder, and 2 for one that is not supported.
    """
    with pytest.raises((ArtifactError, UnsupportedModelError)) as caught:
        RobertaEncoder.from_pretrained(folder)
    assert_one_line(caught.value, folder / file, part)
    assert get_exit_code(caught.value) == code


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    """To the bit, dtypes and names included."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and tensor.equal(theirs[name]), name
