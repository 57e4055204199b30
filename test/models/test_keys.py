"""Keys of other formats: every table there and back, and every key accounted for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from test.models.helpers import encoder
from text.models.keys import BERT, DENSE, DPR, LAYER_NORM, TORCHTEXT, add_token_types, to_encoder_keys, to_external_keys

QUERY, KEY, VALUE = (f"encoder.layer.1.attention.self.{part}.weight" for part in ("query", "key", "value"))


def ours() -> dict[str, Tensor]:
    return add_token_types(encoder(projection_dim=8).state_dict(), 2)


def theirs() -> dict[str, Tensor]:
    return to_external_keys(ours(), BERT)


@pytest.mark.parametrize("table", [BERT, DPR, TORCHTEXT, DENSE, LAYER_NORM])
def test_there_and_back_is_the_identity(table):
    again = to_encoder_keys(to_external_keys(ours(), table), table)
    parts = {key: value for key, value in ours().items() if any(key.startswith(stem.split("N")[0]) for stem in table)}
    assert again.keys() == parts.keys() and again
    assert all(tensor.equal(parts[name]) for name, tensor in again.items())


def test_all_of_an_encoder_is_in_a_table():
    """But BERT's has no projection, and torchtext's no token types."""
    saved = {**to_encoder_keys(theirs(), BERT), **to_encoder_keys(to_external_keys(ours(), DENSE), DENSE)}
    assert saved.keys() | to_encoder_keys(to_external_keys(ours(), LAYER_NORM), LAYER_NORM).keys() == ours().keys()


def test_queries_keys_and_values_by_hand():
    """Theirs are three layers of one number each; ours is one, with their rows in this order."""
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
def test_a_prefix_is_left_out(prefix):
    assert (
        to_encoder_keys({prefix + key: tensor for key, tensor in theirs().items()}, BERT).keys()
        == to_encoder_keys(theirs(), BERT).keys()
    )


def test_what_an_encoder_does_not_have_is_dropped():
    heads = ("pooler.dense.bias", "lm_head.bias", "cls.predictions.bias", "bert.pooler.dense.weight", "classifier.bias")
    more = dict.fromkeys((*heads, "roberta.embeddings.position_ids", "head.out_proj.bias"), torch.zeros(1))
    assert to_encoder_keys(theirs() | more, BERT).keys() == to_encoder_keys(theirs(), BERT).keys()


def test_old_names():
    old = {key.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for key, v in theirs().items()}
    assert sum(key.endswith(("gamma", "beta")) for key in old) == 10
    for name, tensor in to_encoder_keys(old, BERT).items():
        assert tensor.equal(ours()[name])


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
def test_keys_that_do_not_fit_are_refused_by_name(change, message):
    weights = {key: tensor for key, tensor in (theirs() | change).items() if tensor is not None}
    with pytest.raises(KeyError, match=message):
        to_encoder_keys(weights, BERT)
