"""Bi-encoders: tied or untied, frozen or trained, saved and loaded."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from text.errors import ArtifactError
from text.models import BiEncoder, RobertaConfig, RobertaEncoder
from text.records import TokenBatch

# The dropout is high, so that unwanted dropout shows.
CONFIG = RobertaConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
    hidden_dropout_prob=0.5,
)


def build_encoder(seed: int) -> RobertaEncoder:
    torch.manual_seed(seed)
    return RobertaEncoder(CONFIG)


def build_untied(**options) -> BiEncoder:
    return BiEncoder(build_encoder(0), build_encoder(1), **options)


def build_tied(**options) -> BiEncoder:
    both = build_encoder(0)
    return BiEncoder(both, both, **options)


def build_batch(*rows: list[int]) -> TokenBatch:
    input_ids = torch.tensor(rows)
    nothing = torch.zeros(len(rows), dtype=torch.bool)
    return TokenBatch(input_ids, input_ids != 1, nothing, nothing, (input_ids != 1).sum(dim=1).numpy())


QUESTIONS = build_batch([0, 5, 6, 2], [0, 7, 2, 1])
PASSAGES = build_batch([0, 5, 6, 2, 2, 8, 2], [0, 9, 2, 1, 1, 1, 1], [0, 10, 11, 2, 1, 1, 1])


def embed(model: nn.Module) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model(QUESTIONS, PASSAGES)


def test_each_side_uses_its_own_encoder():
    model = build_untied().eval()
    questions, passages = embed(model)
    assert questions.shape == (2, 16) and passages.shape == (3, 16)
    with torch.no_grad():
        assert questions.equal(build_encoder(0).eval()(*QUESTIONS[:2]))
        assert passages.equal(build_encoder(1).eval()(*PASSAGES[:2]))


def test_tied_encoders_are_one_object_and_sum_their_gradients():
    model = build_tied()
    assert model.is_tied and not build_untied().is_tied
    assert len(list(model.parameters())) == len(list(build_encoder(0).parameters()))
    torch.cat(model.eval()(QUESTIONS, QUESTIONS)).square().sum().backward()
    alone = build_encoder(0).eval()
    (2 * alone(*QUESTIONS[:2]).square().sum()).backward()
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("build", [build_tied, build_untied])
def test_loading_a_state_dict_gives_the_same_model(build):
    model, other = build(), build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert {name.split(".")[0] for name in model.state_dict()} == {"question_encoder", "passage_encoder"}
    other.load_state_dict(model.state_dict())
    assert other.is_tied == model.is_tied
    for one, two in zip(embed(model.eval()), embed(other.eval()), strict=True):
        assert one.equal(two)


# ---- frozen


@pytest.mark.parametrize("frozen", ["question", "passage"])
@pytest.mark.parametrize("call_train", [False, True], ids=["as built", "after train()"])
def test_a_frozen_encoder_has_neither_gradient_nor_dropout(frozen, call_train):
    model = build_untied(**{f"freeze_{frozen}": True})
    if call_train:
        assert model.eval().train() is model
    still, trained = (0, 1) if frozen == "question" else (1, 0)
    encoders = [model.question_encoder, model.passage_encoder]
    torch.cat(model(QUESTIONS, PASSAGES)).square().sum().backward()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in encoders[still].parameters())
    assert any(parameter.grad is not None for parameter in encoders[trained].parameters())
    once, twice = embed(model), embed(model)
    assert once[still].equal(twice[still]) and not once[trained].equal(twice[trained])
    assert not any(module.training for module in encoders[still].modules())
    assert all(module.training for module in encoders[trained].modules())


def test_train_after_eval_leaves_frozen_encoders_in_evaluation_mode():
    model = build_untied(freeze_passage=True)
    model.eval()
    assert not any(module.training for module in model.modules())
    model.train()
    assert model.training and model.question_encoder.training and not model.passage_encoder.training


def test_a_copy_is_frozen_too():
    twin = copy.deepcopy(build_untied(freeze_question=True)).train()
    assert not twin.question_encoder.training and twin.passage_encoder.training


def test_tied_encoders_can_be_frozen_together():
    model = build_tied(freeze_question=True, freeze_passage=True).train()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.question_encoder.training


@pytest.mark.parametrize("side", ["freeze_question", "freeze_passage"])
def test_one_side_of_tied_encoders_cannot_be_frozen(side):
    with pytest.raises(ValueError, match="one object"):
        build_tied(**{side: True})


# ---- on disk


@pytest.mark.parametrize(
    ("build", "more"),
    [(build_tied, ["question_encoder"]), (build_untied, ["passage_encoder", "question_encoder", "router_config.json"])],
)
def test_save_and_load_give_the_same_model(tmp_path: Path, build, more):
    model = build()
    model.save_pretrained(tmp_path)
    files = ["config_sentence_transformers.json", "modules.json", *more]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    again = BiEncoder.from_pretrained(tmp_path)
    assert again.is_tied == model.is_tied
    for one, two in zip(embed(model.eval()), embed(again.eval()), strict=True):
        assert one.equal(two)


def test_overrides_reach_both_sides(tmp_path: Path):
    build_untied().save_pretrained(tmp_path)
    model = BiEncoder.from_pretrained(tmp_path, normalize=True)
    for embeddings in embed(model):
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(embeddings)))


def test_a_tied_model_is_not_saved_over_an_untied_one(tmp_path: Path):
    """The old passage encoder must not come back with the new question encoder."""
    build_untied().save_pretrained(tmp_path)
    with pytest.raises(FileExistsError, match="passage_encoder"):
        build_tied().save_pretrained(tmp_path)
    assert not BiEncoder.from_pretrained(tmp_path).is_tied


@pytest.mark.parametrize("missing", ["question_encoder/config.json", "passage_encoder/model.safetensors"])
def test_missing_file_is_named(tmp_path: Path, missing):
    build_untied().save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        BiEncoder.from_pretrained(tmp_path)


def test_damaged_side_is_named(tmp_path: Path):
    build_untied().save_pretrained(tmp_path)
    (tmp_path / "passage_encoder" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"passage_encoder/model\.safetensors: "):
        BiEncoder.from_pretrained(tmp_path)


def test_encoders_of_another_kind_are_not_saved(tmp_path: Path):
    with pytest.raises(TypeError, match=r"passage_encoder.*Identity"):
        BiEncoder(build_encoder(0), nn.Identity()).save_pretrained(tmp_path)
