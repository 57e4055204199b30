"""Encoders that start from some layers of another encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from text.errors import UsageError
from text.models import RobertaConfig, RobertaEncoder, load_encoder
from text.models.initial_encoders import build_bi_encoder
from text.models.layer_choice import keep_layers

IDS = torch.tensor([[0, 7, 9, 11, 2], [0, 8, 2, 1, 1]])


def build_encoder() -> RobertaEncoder:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 48}
    return RobertaEncoder(RobertaConfig(vocab_size=100, max_position_embeddings=40, pooling="mean", **sizes)).eval()


def test_a_student_computes_with_the_kept_layers_only() -> None:
    encoder, student = build_encoder(), build_encoder()
    keep_layers(student, [0, 2, 5])
    for number in (1, 3, 4):  # Skip the other layers of the teacher.
        encoder.layers[number] = torch.nn.Identity()
    weights = [layer.state_dict() for layer in encoder.layers if not isinstance(layer, torch.nn.Identity)]
    for layer, expected in zip(student.layers, weights, strict=True):
        torch.testing.assert_close(layer.state_dict(), expected)
    torch.testing.assert_close(student.embeddings.state_dict(), encoder.embeddings.state_dict())


def test_all_layers_give_the_same_encoder() -> None:
    encoder, student = build_encoder(), build_encoder()
    keep_layers(student, range(6))
    assert torch.equal(student(IDS), encoder(IDS)) and student.config == encoder.config


@pytest.mark.parametrize("library", [None, "transformers"])
def test_a_saved_student_loads_in_transformers(tmp_path: Path, library: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    build_encoder().save_pretrained(tmp_path / "teacher")
    options = {"vocab_size": 100, "tied": True, "dropout": 0.0, "encoder_library": library}
    model: Any = build_bi_encoder(str(tmp_path / "teacher"), keep_layers=[0, 2, 4], **options).eval()
    model.question_encoder.save_pretrained(tmp_path / "student")
    assert json.loads((tmp_path / "student/config.json").read_text())["num_hidden_layers"] == 3
    theirs, info = transformers.AutoModel.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert len(theirs.encoder.layer) == 3 and not info["unexpected_keys"]
    mask = IDS != 1
    hidden = theirs.eval()(IDS, attention_mask=mask.long())[0]
    expected = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(model.question_encoder(IDS, mask), expected)
    torch.testing.assert_close(load_encoder(tmp_path / "student").eval()(IDS, mask), expected)


def test_a_frozen_encoder_keeps_all_layers(tmp_path: Path) -> None:
    build_encoder().save_pretrained(tmp_path)
    model: Any = build_bi_encoder(str(tmp_path), vocab_size=100, keep_layers=[1], freeze_passage=True)
    assert [len(each.layers) for each in (model.question_encoder, model.passage_encoder)] == [1, 6]


@pytest.mark.parametrize("layers", [[], [6], [-1, 2], [2, 2], [3, 1]])
def test_layers_that_do_not_exist_or_are_not_in_order_are_refused(layers: list[int]) -> None:
    with pytest.raises(UsageError, match=r"--keep_layers.*layers 0 to 5"):
        keep_layers(build_encoder(), layers)
