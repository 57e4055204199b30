"""Conversion of keys: both directions of every table, and errors for keys that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from test.models.helpers import build_encoder
from text.models.keys import BERT, DENSE, DPR, LAYER_NORM, TORCHTEXT, add_token_types, to_encoder_keys, to_external_keys

QUERY, KEY, VALUE = (f"encoder.layer.1.attention.self.{part}.weight" for part in ("query", "key", "value"))


def build_weights() -> dict[str, Tensor]:
    return add_token_types(build_encoder(projection_dim=8).state_dict(), 2)


def build_external() -> dict[str, Tensor]:
    return to_external_keys(build_weights(), BERT)


@pytest.mark.parametrize("table", [BERT, DPR, TORCHTEXT, DENSE, LAYER_NORM])
def test_converting_back_gives_the_same_weights(table):
    again = to_encoder_keys(to_external_keys(build_weights(), table), table)
    parts = {
        key: value
        for key, value in build_weights().items()
        if any(key.startswith(stem.split("N")[0]) for stem in table)
    }
    assert again.keys() == parts.keys() and again
    assert all(tensor.equal(parts[name]) for name, tensor in again.items())


def test_the_tables_cover_all_weights_of_an_encoder():
    """The table of BERT has no projection, and the table of torchtext has no token types."""
    saved = {
        **to_encoder_keys(build_external(), BERT),
        **to_encoder_keys(to_external_keys(build_weights(), DENSE), DENSE),
    }
    assert (
        saved.keys() | to_encoder_keys(to_external_keys(build_weights(), LAYER_NORM), LAYER_NORM).keys()
        == build_weights().keys()
    )


def test_queries_keys_and_values_by_hand():
    """Three layers of one number each become one layer with the rows in the order query, key, value."""
    weights = {f"encoder.layer.11.attention.self.{part}.bias": torch.tensor([number]) for part, number in PARTS}
    [(name, tensor)] = to_encoder_keys(weights, BERT).items()
    assert name == "layers.11.attention.qkv.bias" and tensor.tolist() == [1.0, 2.0, 3.0]
    packed = {"encoder.transformer.layers.layers.11.self_attn.in_proj_bias": tensor}
    assert to_encoder_keys(packed, TORCHTEXT)[name] is not None
    assert to_external_keys({name: tensor}, TORCHTEXT).keys() == packed.keys()
    assert to_external_keys({name: tensor}, BERT) == weights


PARTS = (("value", 3.0), ("query", 1.0), ("key", 2.0))


@pytest.mark.parametrize(
    "prefix",
    ["roberta.", "bert.", "question_encoder.bert_model.", "ctx_encoder.bert_model.", "question_model.", "ctx_model."],
)
def test_a_prefix_is_removed(prefix):
    assert (
        to_encoder_keys({prefix + key: tensor for key, tensor in build_external().items()}, BERT).keys()
        == to_encoder_keys(build_external(), BERT).keys()
    )


def test_heads_and_buffers_are_dropped():
    heads = ("pooler.dense.bias", "lm_head.bias", "cls.predictions.bias", "bert.pooler.dense.weight", "classifier.bias")
    more = dict.fromkeys((*heads, "roberta.embeddings.position_ids", "head.out_proj.bias"), torch.zeros(1))
    assert to_encoder_keys(build_external() | more, BERT).keys() == to_encoder_keys(build_external(), BERT).keys()


def test_old_names_are_replaced():
    old = {
        key.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v
        for key, v in build_external().items()
    }
    assert sum(key.endswith(("gamma", "beta")) for key in old) == 10
    for name, tensor in to_encoder_keys(old, BERT).items():
        assert tensor.equal(build_weights()[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": torch.zeros(1)}, "key extra "),
        ({"roberta.encoder.layer.0.extra.bias": torch.zeros(1)}, "key roberta.encoder.layer.0.extra.bias "),
        ({"model.encoder.sentence_encoder.embed_tokens.weight": torch.zeros(1)}, "embed_tokens.weight "),
        ({f"roberta.{KEY}": torch.zeros(1)}, f"key roberta.{KEY} "),
        ({"embeddings.LayerNorm.gamma": torch.zeros(1)}, "key embeddings.LayerNorm.gamma "),
        ({VALUE: torch.zeros(32, 31)}, rf"key {VALUE} .*\(32, 31\).*{QUERY} .*\(32, 32\)"),
        ({QUERY: torch.zeros(())}, f"key {QUERY} "),
        ({KEY: None}, f"key {KEY} "),
        ({QUERY: None}, f"key {QUERY} "),
    ],
)
def test_keys_that_do_not_fit_are_rejected_by_name(change, message):
    weights = {key: tensor for key, tensor in (build_external() | change).items() if tensor is not None}
    with pytest.raises(KeyError, match=message):
        to_encoder_keys(weights, BERT)
