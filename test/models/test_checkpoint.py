"""Saved encoders: saving and loading, comparison with other libraries, and errors for damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from test.helpers import assert_one_line
from test.models.helpers import (
    BERT,
    SIZES,
    assert_refused,
    assert_same_weights,
    build_encoder,
    build_texts,
    compute_hidden_states,
    embed_texts,
    randomize,
)
from text.errors import ArtifactError, UnsupportedModelError
from text.models import BiEncoder, RobertaConfig, RobertaEncoder, files
from text.models.keys import BERT as BERT_KEYS
from text.models.keys import TORCHTEXT, merge_token_types, to_encoder_keys, to_external_keys

FILES = ["1_Pooling", "config.json", "config_sentence_transformers.json", "model.safetensors", "modules.json"]
FILES += ["sentence_bert_config.json"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build_encoder().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


# ---- save and load


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, []),
        ({"model_type": "xlm-roberta", "max_seq_length": 7, "prompts": {"query": "q: "}}, []),
        ({"projection_dim": 8, "projection_norm": False}, ["2_Dense"]),
        ({"projection_dim": 8, "normalize": True}, ["2_Dense", "3_LayerNorm", "4_Normalize"]),
        ({"pooling": "mean", "pad_token_id": 0, "layer_norm_eps": 1e-12}, []),
        ({"model_type": "bert", "pad_token_id": 0, "hidden_dropout_prob": 0.0}, []),
    ],
)
def test_save_and_load_give_the_same_encoder(tmp_path: Path, options, more):
    encoder = build_encoder(**options)
    encoder.save_pretrained(tmp_path / "new" / "folder")
    again = RobertaEncoder.from_pretrained(tmp_path / "new" / "folder")
    assert again.config == encoder.config
    assert_same_weights(again, encoder)
    if encoder.max_length >= 30:
        assert embed_texts(again).equal(embed_texts(encoder))
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted([*FILES, *more])


def test_an_encoder_can_be_saved_over_the_file_it_came_from(saved: Path):
    """The loaded weights may be memory-mapped from the file that is replaced."""
    encoder = RobertaEncoder.from_pretrained(saved)
    randomize(encoder, seed=1)
    encoder.save_pretrained(saved)
    assert_same_weights(RobertaEncoder.from_pretrained(saved), encoder)


def test_modules_that_an_earlier_encoder_left_are_ignored(tmp_path: Path):
    build_encoder(projection_dim=8, normalize=True, max_seq_length=7, prompts={"query": "q: "}).save_pretrained(
        tmp_path
    )
    encoder = build_encoder(pooling="mean")
    randomize(encoder, seed=1)
    encoder.save_pretrained(tmp_path)
    assert (tmp_path / "2_Dense").is_dir()
    again = RobertaEncoder.from_pretrained(tmp_path)
    assert again.config == encoder.config
    assert_same_weights(again, encoder)


def test_overrides_replace_saved_settings(saved: Path):
    encoder = RobertaEncoder.from_pretrained(saved, hidden_dropout_prob=0.0, pooling="mean", normalize=True)
    assert (encoder.config.hidden_dropout_prob, encoder.config.pooling, encoder.config.normalize) == (0.0, "mean", True)
    assert encoder.embeddings.dropout.p == 0.0
    assert_same_weights(encoder, build_encoder())


def test_an_override_adds_a_projection_to_weights_without_one(saved: Path, tmp_path: Path):
    torch.manual_seed(1)
    projected = RobertaEncoder.from_pretrained(saved, projection_dim=8)
    assert compute_hidden_states(projected).equal(compute_hidden_states(build_encoder()))
    assert embed_texts(projected).shape == (3, 8)
    projected.save_pretrained(tmp_path / "projected")
    assert_same_weights(RobertaEncoder.from_pretrained(tmp_path / "projected"), projected)
    overrides: list[dict[str, Any]] = [{"projection_dim": 9}, {"projection_dim": None}, {"projection_norm": False}]
    for override in overrides:
        with pytest.raises(ArtifactError, match=r"key projection"):
            RobertaEncoder.from_pretrained(tmp_path / "projected", **override)


def test_the_smaller_limit_applies(tmp_path: Path):
    assert (build_encoder().max_length, build_encoder(max_seq_length=7).max_length) == (38, 7)
    assert build_encoder(max_seq_length=100).max_length == 38
    with pytest.raises(ValueError, match=r"\b30 tokens\b.*\b7\b"):
        embed_texts(build_encoder(max_seq_length=7))


# ---- Hugging Face

MODELS = {
    "roberta": ("RobertaModel", "RobertaConfig", SIZES | {"type_vocab_size": 1}),
    "distilroberta": ("RobertaModel", "RobertaConfig", SIZES | {"type_vocab_size": 1, "num_hidden_layers": 1}),
    "roberta with a head": ("RobertaForMaskedLM", "RobertaConfig", SIZES | {"type_vocab_size": 1}),
    "xlm-roberta": ("XLMRobertaModel", "XLMRobertaConfig", SIZES | {"type_vocab_size": 1}),
    "bert": ("BertModel", "BertConfig", BERT),
    "bert with a head": ("BertForMaskedLM", "BertConfig", BERT),
    "question": ("DPRQuestionEncoder", "DPRConfig", BERT),
    "passage": ("DPRContextEncoder", "DPRConfig", BERT),
    "projected question": ("DPRQuestionEncoder", "DPRConfig", BERT | {"projection_dim": 8}),
    "projected passage": ("DPRContextEncoder", "DPRConfig", BERT | {"projection_dim": 8}),
}


def build_peer(name: str, seed: int = 0) -> Any:
    model, config, options = MODELS[name]
    torch.manual_seed(0)
    peer = getattr(transformers, model)(getattr(transformers, config)(**options))
    randomize(peer, seed)
    return peer.eval()


def unwrap_transformer(peer: Any) -> nn.Module:
    """Return the transformer inside a model of transformers."""
    for attribute in ("question_encoder", "ctx_encoder", "bert_model", "bert", "roberta"):
        peer = getattr(peer, attribute, peer)
    return peer


def embed_with_peer(peer: Any, padding: int) -> Tensor:
    """Return the hidden states of the first tokens, or the output of a DPR encoder."""
    input_ids, mask = build_texts(padding)
    with torch.no_grad():
        if type(peer).__name__.startswith("DPR"):
            return peer(input_ids=input_ids, attention_mask=mask.long()).pooler_output
        return unwrap_transformer(peer)(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state[:, 0]


@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers_load(tmp_path: Path, name):
    peer = build_peer(name)
    peer.save_pretrained(tmp_path)
    padding = peer.config.pad_token_id
    encoder = RobertaEncoder.from_pretrained(tmp_path)
    torch.testing.assert_close(
        compute_hidden_states(encoder, padding), compute_hidden_states(unwrap_transformer(peer), padding)
    )
    torch.testing.assert_close(embed_texts(encoder, padding), embed_with_peer(peer, padding))
    assert encoder.config.layer_norm_eps == peer.config.layer_norm_eps
    assert encoder.max_length == (40 if padding == 0 else 38)


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "bert"])
def test_transformers_loads_saved_encoders(tmp_path: Path, name):
    """Save in transformers, here, in transformers, and load here again."""
    peer = build_peer(name)
    peer.save_pretrained(tmp_path / "peer")
    encoder = RobertaEncoder.from_pretrained(tmp_path / "peer", projection_dim=8, normalize=True)
    encoder.save_pretrained(tmp_path / "encoder")
    again, report = AutoModel.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert type(again) is type(peer) and not any(report.values())
    padding = peer.config.pad_token_id
    torch.testing.assert_close(compute_hidden_states(again, padding), compute_hidden_states(peer, padding))
    again.save_pretrained(tmp_path / "again")
    once_more = RobertaEncoder.from_pretrained(tmp_path / "again")
    assert compute_hidden_states(once_more, padding).equal(compute_hidden_states(encoder, padding))


def test_both_token_types_of_a_saved_bert_are_equal(tmp_path: Path):
    """Some tokenizers give type 1 to the second text of a pair. It must not change the embedding."""
    build_encoder(model_type="bert", pad_token_id=0).save_pretrained(tmp_path)
    peer = AutoModel.from_pretrained(tmp_path)
    input_ids, mask = build_texts(0)
    with torch.no_grad():
        both = [peer(input_ids, mask.long(), types)[0][mask] for types in (input_ids * 0, (input_ids > 99).long())]
    assert both[0].equal(both[1])


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta"])
def test_missing_sizes_have_the_defaults_of_transformers(tmp_path: Path, name):
    """Old files omit settings that equal the default of their class."""
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    peer = AutoModel.from_config(transformers.AutoConfig.for_model(name, **config))
    randomize(peer)
    peer.save_pretrained(tmp_path)
    padding, vocab_size = peer.config.pad_token_id, peer.config.vocab_size
    given = {"model_type": name, **config} | ({} if name == "bert" else {"vocab_size": vocab_size})
    (tmp_path / "config.json").write_text(json.dumps(given))
    encoder = RobertaEncoder.from_pretrained(tmp_path)
    torch.testing.assert_close(compute_hidden_states(encoder, padding), compute_hidden_states(peer, padding))


def test_old_key_names_and_pytorch_files_load(tmp_path: Path):
    """The keys of bert-base-uncased end in gamma and beta. Facebook's DPR encoders are pytorch_model.bin files."""
    peer = build_peer("bert with a head")
    peer.save_pretrained(tmp_path)
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for key, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    torch.save(old | {"bert.embeddings.position_ids": torch.arange(40)[None]}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    encoder = RobertaEncoder.from_pretrained(tmp_path)
    torch.testing.assert_close(compute_hidden_states(encoder, 0), compute_hidden_states(peer.bert, 0))


def test_settings_without_effect_are_ignored(saved: Path):
    edit_json(saved / "config.json", classifier_dropout=None, use_cache=True, transformers_version="4.0.0")
    assert RobertaEncoder.from_pretrained(saved).config == build_encoder().config


# ---- torchtext


def build_torchtext_state_dict(peer: nn.Module) -> dict[str, Tensor]:
    """Convert weights of transformers to the keys of torchtext 0.18's RobertaModel, independently of the library."""
    weights, result = peer.state_dict(), {}
    for kind in ("weight", "bias"):
        result[f"encoder.transformer.embedding_layer_norm.{kind}"] = weights[f"embeddings.LayerNorm.{kind}"]
        for layer in range(2):
            old, new = f"encoder.layer.{layer}.", f"encoder.transformer.layers.layers.{layer}."
            parts = [weights[f"{old}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            result[f"{new}self_attn.in_proj_{kind}"] = torch.cat(parts)
            result[f"{new}self_attn.out_proj.{kind}"] = weights[f"{old}attention.output.dense.{kind}"]
            result[f"{new}linear1.{kind}"] = weights[f"{old}intermediate.dense.{kind}"]
            result[f"{new}linear2.{kind}"] = weights[f"{old}output.dense.{kind}"]
            result[f"{new}norm1.{kind}"] = weights[f"{old}attention.output.LayerNorm.{kind}"]
            result[f"{new}norm2.{kind}"] = weights[f"{old}output.LayerNorm.{kind}"]
    position = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"]
    result["encoder.transformer.positional_embedding.embedding.weight"] = position
    result["encoder.transformer.token_embedding.weight"] = weights["embeddings.word_embeddings.weight"]
    return result | {"head.dense.weight": torch.zeros(3, 3), "head.out_proj.bias": torch.zeros(3)}


def test_a_torchtext_file_loads(tmp_path: Path):
    peer = build_peer("roberta")
    torch.save(build_torchtext_state_dict(peer), tmp_path / "roberta.pt")
    encoder = RobertaEncoder.from_pretrained(tmp_path / "roberta.pt", num_attention_heads=4)
    assert encoder.config == RobertaConfig(**SIZES)
    torch.testing.assert_close(compute_hidden_states(encoder), compute_hidden_states(peer))


def test_heads_are_64_wide_by_default(tmp_path: Path):
    wide = build_encoder(hidden_size=128)
    torch.save(to_external_keys(wide.state_dict(), TORCHTEXT), tmp_path / "wide.pt")
    assert RobertaEncoder.from_pretrained(tmp_path / "wide.pt").config.num_attention_heads == 2
    assert RobertaEncoder.from_pretrained(tmp_path / "wide.pt", num_attention_heads=8).config.num_attention_heads == 8
    torch.save(to_external_keys(build_encoder().state_dict(), TORCHTEXT), tmp_path / "narrow.pt")
    with pytest.raises(UnsupportedModelError, match=r"narrow\.pt: .*\b32\b.*num_attention_heads"):
        RobertaEncoder.from_pretrained(tmp_path / "narrow.pt")


# ---- damaged files

QUERY, KEY = (f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key"))
WORD, TOKEN_TYPE = "embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def set_shape(key: str, *shape: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights.update({key: torch.zeros(shape)})


def move_rows_from_key_to_query(weights: dict[str, Tensor]) -> None:
    """Move rows between two weights, so that their sum still has the right shape."""
    weights |= {QUERY: torch.cat([weights[QUERY], weights[KEY][:8]]), KEY: weights[KEY][8:].contiguous()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights.pop(KEY), f"key {KEY} "),
        (lambda weights: weights.pop("embeddings.LayerNorm.bias"), "key embeddings.LayerNorm.bias "),
        (lambda weights: weights.pop(TOKEN_TYPE), f"key {TOKEN_TYPE} "),
        (set_shape("encoder.layer.2.output.dense.bias", 32), "key encoder.layer.2.output.dense.bias "),
        (set_shape("extra", 1), "key extra "),
        (set_shape("projection.weight", 8, 32), "key projection.weight "),
        (set_shape(WORD, 301, 32), f"key {WORD} is float32 [301, 32]"),
        (lambda weights: weights.update({WORD: weights[WORD].to(torch.int8)}), f"key {WORD} is int8 [300, 32]"),
        (set_shape("embeddings.LayerNorm.bias", 1), "key embeddings.LayerNorm.bias is float32 [1]"),
        (set_shape("embeddings.LayerNorm.bias"), "key embeddings.LayerNorm.bias "),
        (set_shape(QUERY, 32, 31), QUERY),
        (move_rows_from_key_to_query, QUERY),
        (set_shape(TOKEN_TYPE, 0, 32), TOKEN_TYPE),
        (set_shape(TOKEN_TYPE, 1, 1), TOKEN_TYPE),
        (set_shape(TOKEN_TYPE, 2, 32), TOKEN_TYPE),
    ],
)
def test_weights_that_do_not_fit_are_rejected_by_key(saved: Path, damage, message):
    weights = load_file(saved / "model.safetensors")
    damage(weights)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert_refused(saved, "model.safetensors", message)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_weights_are_rejected(saved: Path, share):
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[: int(share * len(content))])
    assert_refused(saved, "model.safetensors", "")


def test_a_pickle_named_safetensors_is_rejected(saved: Path):
    torch.save(build_encoder().state_dict(), saved / "model.safetensors")
    assert_refused(saved, "model.safetensors", "")


def test_an_old_torch_reads_safetensors_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The torch.load of an old PyTorch could run code from the file."""
    monkeypatch.setattr(files, "SAFE_TORCH", "99")
    weights = to_external_keys(build_encoder().state_dict(), TORCHTEXT)
    torch.save(weights, tmp_path / "roberta.pt")
    with pytest.raises(UnsupportedModelError, match=r"roberta\.pt: torch 2\..*\.safetensors"):
        RobertaEncoder.from_pretrained(tmp_path / "roberta.pt", num_attention_heads=4)
    save_file(weights, tmp_path / "roberta.safetensors")
    encoder = RobertaEncoder.from_pretrained(tmp_path / "roberta.safetensors", num_attention_heads=4)
    assert_same_weights(encoder, build_encoder())


class Settings:
    """A class that is not a plain value, such as a config of OmegaConf."""


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", ""),
        (b"PK\x03\x04", ""),
        (b"no weights", ""),
        ([torch.zeros(1)], "list"),
        ({"epoch": 3}, "epoch"),
        ({"extra": torch.zeros(1)}, "key extra "),
        ({}, "key encoder.transformer.token_embedding.weight "),
        (
            {"encoder.transformer.token_embedding.weight": torch.zeros(1)},
            "key encoder.transformer.token_embedding.weight ",
        ),
        ({"args": Settings()}, ""),
    ],
)
def test_a_file_without_an_encoder_is_rejected(tmp_path: Path, content, part):
    path = tmp_path / "file.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ArtifactError) as caught:
        RobertaEncoder.from_pretrained(path)
    assert_one_line(caught.value, path, part)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b'{"model_type": "rober', ""),
        (b"", ""),
        (b"\xff\xfe", ""),
        (b"[]", "[]"),
        (b"null", "null"),
        (b"{}", "model_type"),
        (b'{"model_type": "bert", "vocab_size": "x"}', 'vocab_size is "x"'),
        (b'{"model_type": "bert", "vocab_size": true}', "vocab_size is true"),
        (b'{"model_type": "bert", "type_vocab_size": 0}', "type_vocab_size is 0"),
        (b'{"model_type": "bert", "hidden_size": 12.5}', "hidden_size is 12.5"),
        (b'{"model_type": "bert", "hidden_size": 31}', "hidden_size is 31"),
        (b'{"model_type": "bert", "pad_token_id": 30522}', "pad_token_id is 30522"),
        (b'{"model_type": "bert", "num_hidden_layers": 1000000000}', "weights"),
        (b'{"model_type": "bert", "num_hidden_layers": 1000000000000}', "num_hidden_layers is 1000000000000"),
        (b'{"model_type": "bert", "vocab_size": 2000000000}', "weights"),
        (b'{"model_type": "bert", "hidden_size": 0}', "hidden_size is 0"),
        (b'{"model_type": "bert", "hidden_size": null}', "hidden_size is null"),
        (b'{"model_type": "bert", "hidden_size": -768}', "hidden_size is -768"),
        (b'{"model_type": "bert", "type_vocab_size": 2.0}', "type_vocab_size is 2.0"),
        (b'{"model_type": "bert", "hidden_dropout_prob": 7}', "hidden_dropout_prob is 7"),
        (b'{"model_type": "bert", "pad_token_id": -1}', "pad_token_id is -1"),
        (b'{"model_type": "bert", "bos_token_id": "x"}', 'bos_token_id is "x"'),
        (b'{"model_type": "roberta", "max_position_embeddings": 1}', "max_position_embeddings is 1"),
        (b'{"model_type": "bert", "layer_norm_eps": -1}', "layer_norm_eps is -1"),
        (b'{"model_type": "bert", "layer_norm_eps": 0}', "layer_norm_eps is 0"),
        (b'{"model_type": "bert", "layer_norm_eps": 1e999}', "layer_norm_eps is Infinity"),
        (b'{"model_type": "bert", "layer_norm_eps": NaN}', ""),
        (b'{"model_type": "bert", "model_type": "bert"}', "model_type"),
        (b"[" * 9999, ""),
    ],
)
def test_an_invalid_configuration_is_rejected_by_field(saved: Path, content, field):
    (saved / "config.json").write_bytes(content)
    assert_refused(saved, "config.json", field)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"model_type": "mpnet"}, 'model_type is "mpnet"'),
        ({"model_type": "modernbert"}, 'model_type is "modernbert"'),
        ({"model_type": "roberta", "hidden_act": "relu"}, 'hidden_act is "relu"'),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"model_type": "bert", "is_decoder": True}, "is_decoder"),
        ({"model_type": "bert", "add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_an_unsupported_configuration_is_rejected_with_code_2(saved: Path, content, field):
    (saved / "config.json").write_text(json.dumps(content))
    assert_refused(saved, "config.json", field, code=2)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "1_Pooling/config.json"])
def test_a_missing_file_is_named(saved: Path, file):
    (saved / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        RobertaEncoder.from_pretrained(saved)


# ---- FAIR's DPR


def build_dpr_checkpoint(projected: bool) -> dict[str, Any]:
    """Build a checkpoint as ``train_dense_encoder.py`` saves it: two BERTs, with or without projections."""
    model: dict[str, Tensor] = {}
    for seed, side in enumerate(("question_model", "ctx_model")):
        model |= {f"{side}.{key}": tensor for key, tensor in build_peer("bert", seed).state_dict().items()}
        model[f"{side}.embeddings.position_ids"] = torch.arange(40)[None]
        if projected:
            model |= {f"{side}.encode_proj.weight": torch.randn(8, 32), f"{side}.encode_proj.bias": torch.randn(8)}
    return {"model_dict": model, "optimizer_dict": {"state": {}}, "offset": 0, "epoch": 3, "encoder_params": {}}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_a_checkpoint_of_dpr_loads(tmp_path: Path, projected, alone):
    checkpoint = build_dpr_checkpoint(projected)
    weights = checkpoint["model_dict"]
    torch.save(weights if alone else checkpoint, tmp_path / "dpr_biencoder.cp")
    model = BiEncoder.from_pretrained(tmp_path / "dpr_biencoder.cp", num_attention_heads=4)
    assert not model.is_tied
    for seed, side in enumerate(("question", "passage")):
        expected = embed_with_peer(build_peer("bert", seed), 0)
        if projected:
            layer = {"question": "question_model", "passage": "ctx_model"}[side] + ".encode_proj."
            expected = nn.functional.linear(expected, weights[layer + "weight"], weights[layer + "bias"])
        torch.testing.assert_close(embed_texts(getattr(model, f"{side}_encoder"), 0), expected)


def test_a_checkpoint_of_dpr_loads_from_safetensors(tmp_path: Path):
    weights = build_dpr_checkpoint(True)["model_dict"]
    save_file(weights, tmp_path / "dpr.safetensors")
    torch.save(weights, tmp_path / "dpr.cp")
    both = [BiEncoder.from_pretrained(tmp_path / name, num_attention_heads=4) for name in ("dpr.cp", "dpr.safetensors")]
    assert_same_weights(*both)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"encoder_params": Settings()}, '"model_dict"'),
        ({"model_dict": 3}, "model_dict"),
        ({"model_dict": {"question_model.model.encoder.layer_norm.weight": torch.zeros(1)}}, "layer_norm.weight "),
        ({"model_dict": {}}, "key embeddings.word_embeddings.weight "),
    ],
)
def test_a_damaged_checkpoint_of_dpr_is_rejected_by_key(tmp_path: Path, change, part):
    torch.save(build_dpr_checkpoint(False) | change, tmp_path / "dpr.cp")
    with pytest.raises(ArtifactError) as caught:
        BiEncoder.from_pretrained(tmp_path / "dpr.cp", num_attention_heads=4)
    assert_one_line(caught.value, tmp_path / "dpr.cp", part)


def test_a_checkpoint_of_another_library_is_not_supported(tmp_path: Path):
    torch.save({"generator.weight": torch.zeros(1)}, tmp_path / "other.cp")
    with pytest.raises(UnsupportedModelError) as caught:
        BiEncoder.from_pretrained(tmp_path / "other.cp")
    assert_one_line(caught.value, tmp_path / "other.cp", "generator.weight")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_checkpoint_of_dpr_is_rejected(tmp_path: Path, share, zipped):
    """Published checkpoints have the format from before torch 1.6, which is not a zip file."""
    path = tmp_path / "dpr.cp"
    torch.save(build_dpr_checkpoint(False), path, _use_new_zipfile_serialization=zipped)
    BiEncoder.from_pretrained(path, num_attention_heads=4)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ArtifactError, match=r"dpr\.cp: "):
        BiEncoder.from_pretrained(path, num_attention_heads=4)


def test_a_weight_that_is_missing_on_one_side_is_named(tmp_path: Path):
    checkpoint = build_dpr_checkpoint(False)
    del checkpoint["model_dict"]["ctx_model.encoder.layer.1.output.dense.bias"]
    torch.save(checkpoint, tmp_path / "dpr.cp")
    with pytest.raises(ArtifactError, match=r"dpr\.cp: key encoder\.layer\.1\.output\.dense\.bias "):
        BiEncoder.from_pretrained(tmp_path / "dpr.cp", num_attention_heads=4)


def test_token_types_are_added_to_positions_in_float32():
    """A sum in bfloat16 would lose half of the digits."""
    weights = {key: tensor.to(torch.bfloat16) for key, tensor in build_peer("bert").state_dict().items()}
    position = merge_token_types(to_encoder_keys(weights, BERT_KEYS))["embeddings.position.weight"]
    parts = [weights[f"embeddings.{part}_embeddings.weight"].float() for part in ("position", "token_type")]
    torch.testing.assert_close(position, parts[0] + parts[1][:1], rtol=0, atol=0)
