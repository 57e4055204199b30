"""Adapters of low rank, with peft as oracle."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForTextEncoding

from test.models.towers import FAMILIES, TEXTS, has_family, save_tower
from text.errors import ArtifactError, UsageError
from text.models import BiEncoder, RobertaEncoder, TransformersEncoder, build_bi_encoder, roberta_tiny
from text.models.biencoder import embed_tokens
from text.models.lora import add_adapters, describe_adapters, merge_adapters
from text.records import TokenBatch
from text.transforms import Tokenize, encoder_settings, load_tokenizer

peft = pytest.importorskip("peft")
# peft reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
each_family = pytest.mark.parametrize(
    "family", [name if name == "DistilBERT" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)


def tokenize(folder: Path) -> TokenBatch:
    return Tokenize(load_tokenizer(folder), 64)([text or "-" for text in TEXTS])


def load(folder: Path, **options: Any) -> TransformersEncoder:
    return TransformersEncoder.from_pretrained(folder, **options).eval()


def train_adapters(encoder: TransformersEncoder, size: float = 0.2) -> None:
    """Give the adapters other weights, as training would."""
    torch.manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_().mul_(size)


@torch.no_grad()
def embed(encoder: TransformersEncoder, tokens: TokenBatch) -> Tensor:
    return embed_tokens(encoder, tokens)


def copy_weights(encoder: TransformersEncoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


@each_family
def test_adapters_and_merged_weights_equal_peft(tmp_path: Path, family: str):
    if not has_family(family):
        pytest.skip("the installed transformers lacks this family")
    folder = save_tower(family, tmp_path / "base")
    encoder, tokens = load(folder), tokenize(folder)
    before, weights = embed(encoder, tokens), copy_weights(encoder)
    add_adapters(encoder, 4)
    torch.testing.assert_close(embed(encoder, tokens), before)  # New adapters change nothing.
    train_adapters(encoder)
    expected = embed(encoder, tokens)
    assert (expected - before).abs().max() > 1e-3

    adapters = merge_adapters(encoder, tokens, str(folder), "question")
    assert adapters is not None
    adapters.save(tmp_path / "adapter")
    torch.testing.assert_close(embed(encoder, tokens), expected, rtol=1e-5, atol=1e-5)
    merged = copy_weights(encoder)
    changed = {name for name, tensor in weights.items() if not torch.equal(tensor, merged[name])}
    assert merged.keys() == weights.keys()
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert changed == {f"model.{name}.weight" for name in saved["target_modules"]}
    assert saved["base_model_name_or_path"] == str(folder) and (saved["r"], saved["lora_alpha"]) == (4, 8)

    kind = AutoModelForTextEncoding if family == "T5" else AutoModel
    theirs = peft.PeftModel.from_pretrained(kind.from_pretrained(folder).eval(), str(tmp_path / "adapter"))
    mask = tokens.attention_mask.long()
    with torch.no_grad():
        states = theirs(input_ids=tokens.input_ids, attention_mask=mask).last_hidden_state
        found = encoder.head(states, tokens.attention_mask, 0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_merged_weight_by_hand(tmp_path: Path):
    """W + alpha / rank * B A."""
    encoder = load(save_tower("Qwen3", tmp_path / "base"))
    add_adapters(encoder, 2, alpha=6, targets=["q_proj"])
    train_adapters(encoder)
    layer = encoder.model.layers[1].self_attn.q_proj
    matrices = [layer.lora_B["default"].weight, layer.lora_A["default"].weight]
    expected = layer.get_base_layer().weight + 3.0 * matrices[0] @ matrices[1]
    merge_adapters(encoder, tokenize(tmp_path / "base"), "base", "question")
    torch.testing.assert_close(encoder.model.layers[1].self_attn.q_proj.weight, expected)


def test_only_adapters_and_the_layers_after_pooling_are_trained(tmp_path: Path):
    folder = save_tower("DistilBERT", tmp_path)
    encoder = load(folder, projection_dim=8)
    total = sum(parameter.numel() for parameter in encoder.parameters())
    add_adapters(encoder, 3, targets=["q_lin", "v_lin"])
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained if "lora_" not in name} == {"head"}
    # Each of two layers has two adapters of 3 * (32 + 32) weights. The head has 32 * 8 weights and 3 * 8 others.
    adapters, head = 2 * 2 * 3 * 64, 32 * 8 + 3 * 8
    facts = f"rank 3 and alpha 6 on q_lin, v_lin ({adapters + head:,} of {total + adapters:,} weights are trained)"
    assert facts in describe_adapters(encoder)

    before = copy_weights(encoder)
    optimizer = torch.optim.SGD([each for each in encoder.parameters() if each.requires_grad], lr=1.0)
    embed_tokens(encoder.train(), tokenize(folder)).square().sum().backward()
    optimizer.step()
    changed = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and changed <= trained and any("lora_B" in name for name in changed)


def test_adapters_that_were_not_trained_are_an_error_and_nothing_is_written(tmp_path: Path):
    folder = save_tower("DistilBERT", tmp_path / "base")
    encoder = load(folder)
    add_adapters(encoder, 4)
    with pytest.raises(ArtifactError, match="did not change the adapters"):
        merge_adapters(encoder, tokenize(folder), str(folder), "question")


def test_a_merged_model_with_other_embeddings_is_an_error(tmp_path: Path):
    """Adapters that cancel large weights leave only the rounding errors of the merged sum."""
    folder = save_tower("DistilBERT", tmp_path / "base")
    encoder = load(folder)
    add_adapters(encoder, 32, alpha=32, targets=["v_lin"])
    for layer in (encoder.model.transformer.layer[number].attention.v_lin for number in (0, 1)):
        small = layer.get_base_layer().weight.data.clone()
        layer.get_base_layer().weight.data.normal_(std=1e5)
        layer.lora_A["default"].weight.data.copy_(torch.eye(32))
        layer.lora_B["default"].weight.data.copy_(small - layer.get_base_layer().weight.data)
    with pytest.raises(ArtifactError, match="merged model and of the adapters differ"):
        merge_adapters(encoder, tokenize(folder), str(folder), "question")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_adapters_that_are_not_finite_are_an_error(tmp_path: Path, value: float):
    folder = save_tower("DistilBERT", tmp_path / "base")
    encoder = load(folder)
    add_adapters(encoder, 4)
    train_adapters(encoder, value)
    with pytest.raises(ArtifactError, match="NaN or infinite"):
        merge_adapters(encoder, tokenize(folder), str(folder), "question")


def test_an_encoder_without_adapters_is_left_alone(tmp_path: Path):
    for encoder in (roberta_tiny(vocab_size=300), load(save_tower("DistilBERT", tmp_path / "base"))):
        before = copy.deepcopy(encoder.state_dict())
        tokens = tokenize(tmp_path / "base") if (tmp_path / "base").exists() else None
        assert merge_adapters(encoder, tokens, "", "question") is None  # type: ignore[arg-type]
        assert describe_adapters(encoder) == ""
        assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


# ---- targets


def list_adapted(encoder: TransformersEncoder) -> set[str]:
    return {name.partition(".lora_A")[0] for name, _ in encoder.named_parameters() if "lora_A" in name}


@pytest.mark.parametrize(
    ("family", "targets", "parts"),
    [
        ("BERT", None, {"query", "value"}),  # the choice of peft
        ("Qwen3", None, {"q_proj", "v_proj"}),
        ("DistilBERT", None, {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"}),  # peft chooses nothing
        ("Qwen3", ["o_proj", "self_attn.k_proj"], {"o_proj", "k_proj"}),
        ("BERT", ["all-linear"], {"query", "key", "value", "dense"}),
    ],
)
def test_layers_are_chosen_by_the_end_of_their_names(tmp_path: Path, family: str, targets: Any, parts: set[str]):
    encoder = load(save_tower(family, tmp_path))
    add_adapters(encoder, 2, targets=targets)
    assert {name.rpartition(".")[2] for name in list_adapted(encoder)} == parts


@pytest.mark.parametrize("targets", [["q_proj", "oak"], ["proj"], ["word_embeddings"], ["all-linear", "query"], [""]])
def test_a_name_without_a_linear_layer_is_refused(tmp_path: Path, targets: list[str]):
    encoder = load(save_tower("BERT", tmp_path))
    before = [(name, parameter.requires_grad) for name, parameter in encoder.named_parameters()]
    with pytest.raises(UsageError, match=r"--lora_targets.*query, value"):
        add_adapters(encoder, 2, targets=targets)
    assert [(name, parameter.requires_grad) for name, parameter in encoder.named_parameters()] == before


def build(folder: Path, **options: Any) -> BiEncoder:
    return build_bi_encoder(str(folder), lora_rank=2, **encoder_settings(load_tokenizer(folder)), **options)


def test_each_side_has_its_own_adapters_and_a_frozen_side_has_none(tmp_path: Path):
    folder = save_tower("BERT", tmp_path)
    model = build(folder)  # without adapters, it would be a RobertaEncoder
    question, passage = model.question_encoder, model.passage_encoder
    assert isinstance(question, TransformersEncoder) and isinstance(passage, TransformersEncoder)
    assert list_adapted(question) == list_adapted(passage) != set()
    name = next(name for name in question.state_dict() if "lora_A" in name)
    assert not torch.equal(question.state_dict()[name], passage.state_dict()[name])

    tied = build(folder, tied=True)
    assert tied.is_tied and len(list_adapted(tied.question_encoder)) == 4  # type: ignore[arg-type]
    frozen = build(folder, freeze_passage=True)
    assert not any(parameter.requires_grad for parameter in frozen.passage_encoder.parameters())
    assert describe_adapters(frozen.passage_encoder) == ""  # type: ignore[arg-type]


def test_random_weights_and_encoders_of_this_library_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="--lora_rank needs a saved model"):
        build_bi_encoder("tiny", lora_rank=2, vocab_size=300)
    encoder = RobertaEncoder.from_pretrained(save_tower("BERT", tmp_path))
    with pytest.raises(UsageError, match="--lora_rank"):
        add_adapters(encoder, 2)
