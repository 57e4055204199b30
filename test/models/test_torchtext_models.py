"""torchtext's RobertaModel as ours, back, and as an encoder of a BiEncoder: torchtext as the oracle."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from test.models.helpers import BERT, SIZES, assert_same_weights, encoder, randomize, texts
from text.errors import UnsupportedModelError
from text.losses import in_batch_nll
from text.models import BiEncoder, RobertaEncoder, TorchtextEncoder, from_torchtext, to_torchtext
from text.models.keys import TORCHTEXT, to_encoder_keys
from text.records import TokenBatch

pytestmark = [
    pytest.mark.skipif(find_spec("torchtext") is None, reason="torchtext is not installed"),
    # Of the TransformerEncoder that torchtext builds on.
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
# The default configuration but for its size: with its gradients, the whole of it takes gigabytes.
ONE_LAYER = {"vocab_size": SIZES["vocab_size"], "num_encoder_layers": 1}


def torchtext_models() -> Any:
    return importlib.import_module("torchtext.models")


def theirs(**options: Any) -> nn.Module:
    """The same one each time."""
    models = torchtext_models()
    head = options.pop("head", None)
    torch.manual_seed(0)
    model = models.RobertaBundle.build_model(encoder_conf=models.RobertaEncoderConf(**options), head=head)
    if options:
        randomize(model)
    return model.eval()


def token_batch() -> TokenBatch:
    input_ids, mask = texts(padding=1)
    return TokenBatch(input_ids, mask, ~mask[:, 0], ~mask[:, 0])


def first_tokens(model: nn.Module, input_ids: Tensor, mask: Tensor) -> Tensor:
    return model(input_ids, mask) if isinstance(model, RobertaEncoder) else TorchtextEncoder(model)(input_ids, mask)


@pytest.mark.parametrize("options", [SMALL, ONE_LAYER], ids=["small", "one layer of the default"])
@pytest.mark.parametrize("mode", ["inference", "gradients"])
def test_outputs_and_gradients_are_equal(options, mode):
    model = theirs(**options)
    ours = from_torchtext(model)
    input_ids, mask = texts(padding=1)
    with torch.inference_mode(mode == "inference"):
        found, expected = (first_tokens(one, input_ids, mask) for one in (ours, model))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    if mode == "gradients":
        for output in (found, expected):
            output.square().mean().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for name, gradient in to_encoder_keys(gradients, TORCHTEXT).items():
            torch.testing.assert_close(ours.get_parameter(name).grad, gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_there_and_back():
    models = torchtext_models()
    ours = encoder(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    settings, weights = to_torchtext(ours)
    model = models.RobertaBundle.build_model(
        models.RobertaEncoderConf(**settings), checkpoint=weights, strict=True
    ).eval()
    back = from_torchtext(model)
    assert back.config == ours.config
    assert_same_weights(back, ours)
    found, expected = (first_tokens(one, *texts(padding=1)) for one in (model, ours))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_head_is_left_out():
    head = torchtext_models().RobertaClassificationHead(num_classes=2, input_dim=32)
    ours = from_torchtext(theirs(**SMALL, head=head), pooling="mean")
    assert ours.config.pooling == "mean"
    assert_same_weights(ours, from_torchtext(theirs(**SMALL)))


def test_the_default_configuration_is_roberta_base():
    ours = from_torchtext(theirs(vocab_size=SIZES["vocab_size"]))
    assert (ours.config.num_hidden_layers, ours.config.hidden_size, ours.max_length) == (12, 768, 512)


def test_weights_in_a_file_of_safetensors(tmp_path):
    from safetensors.torch import save_model

    model = theirs(**SMALL)
    save_model(model, str(tmp_path / "roberta.safetensors"))
    ours = RobertaEncoder.from_pretrained(tmp_path / "roberta.safetensors", num_attention_heads=4)
    assert_same_weights(ours, from_torchtext(model))


def test_what_torchtext_cannot_express_is_refused_by_field():
    with pytest.raises(UnsupportedModelError, match="normalize_before"):
        from_torchtext(theirs(**SMALL, normalize_before=True))
    for options, message in (
        (BERT | {"model_type": "bert"}, "BERT"),
        ({"projection_dim": 8}, "projection_dim is 8"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps is 1e-12"),
        ({"attention_probs_dropout_prob": 0.0}, r"attention_probs_dropout_prob is 0\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            to_torchtext(encoder(**options))


def test_as_a_tower_of_a_biencoder():
    """The loss falls, the other tower learns too, and what cannot be saved says so."""
    model = BiEncoder(TorchtextEncoder(theirs(**SMALL)), RobertaEncoder(encoder().config))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        questions, passages = model(token_batch(), token_batch())
        loss = in_batch_nll(questions, passages, torch.arange(3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(TypeError, match=r"question_encoder.*TorchtextEncoder"):
        model.save_pretrained("unused")


def test_padding_is_what_the_mask_says():
    """Whatever the ids there are."""
    input_ids, mask = texts(padding=1)
    tower = TorchtextEncoder(theirs(**SMALL))
    assert torch.equal(tower(input_ids.masked_fill(~mask, 7), mask), tower(input_ids, mask))
