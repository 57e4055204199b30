"""Weights on disk: there and back, to transformers and back, and every way a file can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import RobertaConfig as PeerConfig
from transformers import RobertaForMaskedLM, RobertaModel

from text.errors import ArtifactError
from text.models import RobertaConfig, RobertaEncoder

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 22,
    "layer_norm_eps": 1e-5,
}
INPUT_IDS = torch.tensor([[0, 7, 8, 9, 2], [0, 11, 2, 1, 1]])
MASK = INPUT_IDS != 1


def randomize(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def encoder(**options) -> RobertaEncoder:
    """The same one each time."""
    torch.manual_seed(0)
    ours = RobertaEncoder(RobertaConfig(**(SIZES | options)))
    randomize(ours)
    return ours.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    encoder().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def hidden_states(model: nn.Module) -> Tensor:
    """Of the real tokens, by either library."""
    model.eval()
    with torch.no_grad():
        if isinstance(model, RobertaEncoder):
            return model.hidden_states(INPUT_IDS, MASK)[MASK]
        return model(input_ids=INPUT_IDS, attention_mask=MASK.long()).last_hidden_state[MASK]


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    """To the bit, dtypes and names included."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and tensor.equal(theirs[name]), name


# ---- there and back


@pytest.mark.parametrize(
    "options",
    [{}, {"projection_dim": 8, "normalize": True}, {"pooling": "mean", "pad_token_id": 0, "layer_norm_eps": 1e-12}],
)
def test_save_and_load_give_the_same_encoder(tmp_path: Path, options):
    ours = encoder(**options)
    ours.save_pretrained(tmp_path / "new" / "folder")
    again = RobertaEncoder.from_pretrained(tmp_path / "new" / "folder").eval()
    assert again.config == ours.config
    assert_same_weights(again, ours)
    with torch.no_grad():
        assert again(INPUT_IDS).equal(ours(INPUT_IDS))
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]


def test_saving_again_replaces_what_is_mapped(saved: Path):
    """Fault E21: loading, changing and saving to the same place."""
    ours = RobertaEncoder.from_pretrained(saved)
    randomize(ours, seed=1)
    ours.save_pretrained(saved)
    assert_same_weights(RobertaEncoder.from_pretrained(saved), ours)


def test_overrides(saved: Path):
    ours = RobertaEncoder.from_pretrained(saved, hidden_dropout_prob=0.0, pooling="mean", normalize=True)
    assert (ours.config.hidden_dropout_prob, ours.config.pooling, ours.config.normalize) == (0.0, "mean", True)
    assert ours.embeddings.dropout.p == 0.0
    assert_same_weights(ours, encoder())


def test_an_override_adds_a_projection_to_weights_without_one(saved: Path, tmp_path: Path):
    torch.manual_seed(1)
    projected = RobertaEncoder.from_pretrained(saved, projection_dim=8).eval()
    torch.testing.assert_close(hidden_states(projected), hidden_states(encoder()))
    assert projected(INPUT_IDS).shape == (2, 8)
    projected.save_pretrained(tmp_path / "projected")
    assert_same_weights(RobertaEncoder.from_pretrained(tmp_path / "projected"), projected)
    for projection_dim in (9, None):  # there is one of 8
        with pytest.raises(ArtifactError, match="projection"):
            RobertaEncoder.from_pretrained(tmp_path / "projected", projection_dim=projection_dim)


def test_transformers_loads_what_we_save(saved: Path):
    theirs = RobertaModel.from_pretrained(saved, add_pooling_layer=False)
    torch.testing.assert_close(hidden_states(theirs), hidden_states(encoder()))


def test_transformers_loads_what_we_save_with_a_projection(tmp_path: Path):
    ours = encoder(projection_dim=8)
    ours.save_pretrained(tmp_path)
    theirs = RobertaModel.from_pretrained(tmp_path, add_pooling_layer=False)
    torch.testing.assert_close(hidden_states(theirs), hidden_states(ours))


@pytest.mark.parametrize("with_pooler", [True, False])
def test_we_load_what_transformers_saves(tmp_path: Path, with_pooler):
    theirs = RobertaModel(PeerConfig(**SIZES, type_vocab_size=1), add_pooling_layer=with_pooler)
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    ours = RobertaEncoder.from_pretrained(tmp_path)
    assert ours.config == RobertaConfig(**SIZES)
    torch.testing.assert_close(hidden_states(ours), hidden_states(theirs))


def test_we_load_a_masked_language_model(tmp_path: Path):
    """Its keys start with "roberta.", and it has a head; so does roberta-base as published."""
    theirs = RobertaForMaskedLM(PeerConfig(**SIZES, type_vocab_size=1))
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    keys = list(load_file(tmp_path / "model.safetensors"))
    assert any(key.startswith("roberta.") for key in keys) and any(key.startswith("lm_head.") for key in keys)
    torch.testing.assert_close(hidden_states(RobertaEncoder.from_pretrained(tmp_path)), hidden_states(theirs.roberta))


def test_ours_to_theirs_to_ours_is_the_identity(saved: Path, tmp_path: Path):
    RobertaModel.from_pretrained(saved, add_pooling_layer=False).save_pretrained(tmp_path / "theirs")
    again = RobertaEncoder.from_pretrained(tmp_path / "theirs")
    assert again.config == encoder().config
    assert_same_weights(again, encoder())


# ---- files that are wrong

QUERY, KEY = (f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key"))
TOKEN_TYPE = "embeddings.token_type_embeddings.weight"


def set_shape(key: str, *shape: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights.update({key: torch.zeros(shape)})


def move_rows_from_key_to_query(weights: dict[str, Tensor]) -> None:
    """So that the two together still have the right number of rows."""
    weights |= {QUERY: torch.cat([weights[QUERY], weights[KEY][:8]]), KEY: weights[KEY][8:].contiguous()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights.pop(KEY), f"key {KEY} is missing"),
        (lambda weights: weights.pop("embeddings.LayerNorm.bias"), "key embeddings.LayerNorm.bias is missing"),
        (set_shape("encoder.layer.2.output.dense.bias", 32), "key encoder.layer.2.output.dense.bias is unknown"),
        (set_shape("extra", 1), "key extra is unknown"),
        (set_shape("embeddings.word_embeddings.weight", 61, 32), "size mismatch for embeddings.word.weight"),
        (set_shape("embeddings.LayerNorm.bias", 1), "size mismatch for embeddings.norm.bias"),
        (set_shape("embeddings.LayerNorm.bias"), "zero-dimensional"),
        (set_shape(QUERY, 32, 31), QUERY),
        (move_rows_from_key_to_query, QUERY),
        (set_shape(TOKEN_TYPE, 0, 32), TOKEN_TYPE),
        (set_shape(TOKEN_TYPE, 1, 1), TOKEN_TYPE),
        (set_shape(TOKEN_TYPE, 2, 32), TOKEN_TYPE),
    ],
)
def test_weights_that_do_not_fit(saved: Path, damage, message):
    weights = load_file(saved / "model.safetensors")
    damage(weights)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert_one_line(saved, "model.safetensors", message)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_weights_that_end_early(saved: Path, share):
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[: int(share * len(content))])
    assert_one_line(saved, "model.safetensors", "expected the weights of this encoder")


def test_a_pickle_is_not_opened(saved: Path):
    torch.save(encoder().state_dict(), saved / "model.safetensors")
    assert_one_line(saved, "model.safetensors", "expected the weights of this encoder")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"model_type": "rober', "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "expected an encoder's configuration"),
        (b"null", "expected an encoder's configuration"),
        (b"{}", 'model_type is "None"; expected "roberta"'),
        (b'{"model_type": "bert"}', 'model_type is "bert"; expected "roberta"'),
        (b'{"model_type": "roberta", "hidden_act": "relu"}', 'hidden_act is "relu"; expected "gelu"'),
        (b'{"model_type": "roberta", "type_vocab_size": 2}', 'type_vocab_size is "2"; expected "1"'),
    ],
)
def test_configurations_that_are_none(saved: Path, content, message):
    (saved / "config.json").write_bytes(content)
    assert_one_line(saved, "config.json", message)


def assert_one_line(folder: Path, file: str, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        RobertaEncoder.from_pretrained(folder)
    found = str(caught.value)
    assert found.startswith(f"{folder / file}: ") and message in found and "\n" not in found


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_that_is_missing(saved: Path, file):
    (saved / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        RobertaEncoder.from_pretrained(saved)


def test_settings_of_transformers_that_we_do_not_have_are_passed_over(saved: Path):
    content = json.loads((saved / "config.json").read_text())
    content |= {"classifier_dropout": None, "use_cache": True, "transformers_version": "4.0.0"}
    (saved / "config.json").write_text(json.dumps(content))
    assert RobertaEncoder.from_pretrained(saved).config == encoder().config
