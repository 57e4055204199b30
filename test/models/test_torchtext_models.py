"""Conversion of torchtext's RobertaModel in both directions, and its use as an encoder of a BiEncoder."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from test.models.helpers import BERT, SIZES, assert_same_weights, build_encoder, build_texts, randomize
from text.errors import UnsupportedModelError
from text.losses import in_batch_nll
from text.models import BiEncoder, RobertaEncoder, TorchtextEncoder, from_torchtext, to_torchtext
from text.models.keys import TORCHTEXT, to_encoder_keys
from text.records import TokenBatch

pytestmark = [
    pytest.mark.skipif(find_spec("torchtext") is None, reason="torchtext is not installed"),
    # Warnings of the TransformerEncoder that torchtext uses.
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning"),
]
SMALL = {
    "vocab_size": SIZES["vocab_size"],
    "embedding_dim": SIZES["hidden_size"],
    "ffn_dimension": SIZES["intermediate_size"],
    "max_seq_len": SIZES["max_position_embeddings"],
    "num_attention_heads": SIZES["num_attention_heads"],
    "num_encoder_layers": SIZES["num_hidden_layers"],
}
# The default configuration with one layer. All layers with their gradients would take gigabytes.
ONE_LAYER = {"vocab_size": SIZES["vocab_size"], "num_encoder_layers": 1}


def import_torchtext_models() -> Any:
    return importlib.import_module("torchtext.models")


def build_peer(**options: Any) -> nn.Module:
    """Build a model of torchtext with the same random weights in each call."""
    models = import_torchtext_models()
    head = options.pop("head", None)
    torch.manual_seed(0)
    model = models.RobertaBundle.build_model(encoder_conf=models.RobertaEncoderConf(**options), head=head)
    if options:
        randomize(model)
    return model.eval()


def build_token_batch() -> TokenBatch:
    input_ids, mask = build_texts(padding=1)
    return TokenBatch(input_ids, mask, ~mask[:, 0], ~mask[:, 0], mask.sum(dim=1).numpy())


def embed_first_tokens(model: nn.Module, input_ids: Tensor, mask: Tensor) -> Tensor:
    return model(input_ids, mask) if isinstance(model, RobertaEncoder) else TorchtextEncoder(model)(input_ids, mask)


@pytest.mark.parametrize("options", [SMALL, ONE_LAYER], ids=["small", "one layer of the default"])
@pytest.mark.parametrize("mode", ["inference", "gradients"])
def test_outputs_and_gradients_are_equal(options, mode):
    model = build_peer(**options)
    encoder = from_torchtext(model)
    input_ids, mask = build_texts(padding=1)
    with torch.inference_mode(mode == "inference"):
        found, expected = (embed_first_tokens(one, input_ids, mask) for one in (encoder, model))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    if mode == "gradients":
        for output in (found, expected):
            output.square().mean().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for name, gradient in to_encoder_keys(gradients, TORCHTEXT).items():
            torch.testing.assert_close(encoder.get_parameter(name).grad, gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_converting_back_gives_the_same_encoder():
    models = import_torchtext_models()
    encoder = build_encoder(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    settings, weights = to_torchtext(encoder)
    model = models.RobertaBundle.build_model(
        models.RobertaEncoderConf(**settings), checkpoint=weights, strict=True
    ).eval()
    back = from_torchtext(model)
    assert back.config == encoder.config
    assert_same_weights(back, encoder)
    found, expected = (embed_first_tokens(one, *build_texts(padding=1)) for one in (model, encoder))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_head_is_ignored():
    head = import_torchtext_models().RobertaClassificationHead(num_classes=2, input_dim=32)
    encoder = from_torchtext(build_peer(**SMALL, head=head), pooling="mean")
    assert encoder.config.pooling == "mean"
    assert_same_weights(encoder, from_torchtext(build_peer(**SMALL)))


def test_the_default_configuration_is_roberta_base():
    encoder = from_torchtext(build_peer(vocab_size=SIZES["vocab_size"]))
    assert (encoder.config.num_hidden_layers, encoder.config.hidden_size, encoder.max_length) == (12, 768, 512)


def test_a_safetensors_file_loads(tmp_path):
    from safetensors.torch import save_model

    model = build_peer(**SMALL)
    save_model(model, str(tmp_path / "roberta.safetensors"))
    encoder = RobertaEncoder.from_pretrained(tmp_path / "roberta.safetensors", num_attention_heads=4)
    assert_same_weights(encoder, from_torchtext(model))


def test_unsupported_settings_are_rejected_by_field():
    with pytest.raises(UnsupportedModelError, match="normalize_before"):
        from_torchtext(build_peer(**SMALL, normalize_before=True))
    for options, message in (
        (BERT | {"model_type": "bert"}, "BERT"),
        ({"projection_dim": 8}, "projection_dim is 8"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps is 1e-12"),
        ({"attention_probs_dropout_prob": 0.0}, r"attention_probs_dropout_prob is 0\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            to_torchtext(build_encoder(**options))


def test_a_biencoder_trains_with_a_torchtext_model():
    """The loss falls. Saving raises an error, because only a RobertaEncoder can be saved."""
    model = BiEncoder(TorchtextEncoder(build_peer(**SMALL)), RobertaEncoder(build_encoder().config))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        questions, passages = model(build_token_batch(), build_token_batch())
        loss = in_batch_nll(questions, passages, torch.arange(3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(TypeError, match=r"question_encoder.*TorchtextEncoder"):
        model.save_pretrained("unused")


def test_the_mask_decides_what_is_padding():
    """The ids of masked tokens do not matter."""
    input_ids, mask = build_texts(padding=1)
    encoder = TorchtextEncoder(build_peer(**SMALL))
    assert torch.equal(encoder(input_ids.masked_fill(~mask, 7), mask), encoder(input_ids, mask))
