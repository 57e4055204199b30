"""Cross-encoders: a folder of transformers or sentence-transformers has the same scores in all three libraries."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from test.helpers import assert_one_line
from test.models.helpers import BERT, build_encoder, randomize
from test.models.peers import PEER_WARNINGS, sentence_transformers
from test.models.towers import FAMILIES, VOCAB_SIZE, has_family, save_tower
from text.commands.running import get_exit_code
from text.errors import ArtifactError, UnsupportedModelError
from text.models import RobertaCrossEncoder, TransformersCrossEncoder, load_cross_encoder
from text.models.cross_encoder import ClassificationHead
from text.records import Passage
from text.reranker import Reranker
from text.transforms import save_tokenizer, train_tokenizer

pytestmark = PEER_WARNINGS

QUESTIONS = [
    "who wrote the oak?",
    "oak",
    "what is a tree, and who wrote about it for so many years " * 12,
    "an elm",
    "a",
]
PASSAGES = [
    Passage("1", "Oak", "An oak is a tree."),
    Passage("2", "", "an elm"),
    Passage("3", "Elm", "oak and elm and a few words about trees " * 9),
    Passage("4", "", "the long answer about oaks, and who wrote about them: " * 20),
    Passage("5", "Ash", "b"),
]
TEXTS = [f"{passage.title} {passage.text}" if passage.title else passage.text for passage in PASSAGES]
FAST = ("BERT", "DistilBERT")
SLOW = ("RoBERTa", "XLM-R", "MPNet", "ALBERT", "DeBERTa-v2", "ELECTRA", "ModernBERT", "NomicBERT", "GTE", "Qwen3")
TYPED = ("BERT", "ALBERT", "DeBERTa-v2", "ELECTRA")
"""Families whose tokenizers give token types."""


def train_pair_tokenizer(family: str) -> Any:
    from tokenizers import processors

    tokenizer = train_tokenizer([*QUESTIONS, *TEXTS], VOCAB_SIZE - 30)
    if family in TYPED:
        tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def save_peer(family: str, folder: Path, *, num_labels: int = 1, **settings: Any) -> Any:
    """Save a classifier of transformers with random weights and a tokenizer, and return the classifier."""
    name, sizes = FAMILIES[family]
    architecture = getattr(transformers, name)(**(sizes | settings), num_labels=num_labels)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(architecture)
    randomize(model)
    model.eval().save_pretrained(folder)
    save_tokenizer(train_pair_tokenizer(family), folder, max_length=120, has_token_types=family in TYPED)
    return model


def score_by_transformers(folder: Path) -> np.ndarray:
    """Return the logits of AutoModelForSequenceClassification, one pair at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        pairs = [
            tokenizer(*pair, truncation=True, max_length=120, return_tensors="pt")
            for pair in zip(QUESTIONS, TEXTS, strict=True)
        ]
        return np.array([model(**pair).logits.item() for pair in pairs], dtype=np.float32)


def score_by_sentence_transformers(folder: Path) -> np.ndarray:
    peer = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    return peer.predict(list(zip(QUESTIONS, TEXTS, strict=True)), activation_fn=nn.Identity())


@pytest.mark.parametrize("family", [*FAST, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_scores_equal_both_libraries_there_and_back(family: str, tmp_path: Path) -> None:
    if not has_family(family):
        pytest.skip("this transformers does not have the family")
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    save_peer(family, theirs)
    reranker = Reranker.load(theirs)
    kind = RobertaCrossEncoder if family in ("BERT", "RoBERTa", "XLM-R") else TransformersCrossEncoder
    assert isinstance(reranker.model, kind)
    assert reranker.max_length == 120 and not reranker.model.is_new_head
    expected = score_by_transformers(theirs)
    assert np.ptp(expected) > 1e-3
    scores = reranker.score(QUESTIONS, PASSAGES)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(score_by_sentence_transformers(theirs), expected, atol=1e-5)
    reranker.save(ours)
    np.testing.assert_allclose(score_by_transformers(ours), expected, atol=1e-5)
    np.testing.assert_allclose(score_by_sentence_transformers(ours), expected, atol=1e-5)
    assert np.array_equal(Reranker.load(ours).score(QUESTIONS, PASSAGES), scores)


def test_the_head_by_hand() -> None:
    # The first layer swaps the two states. After tanh, the second layer returns 2 tanh(1) + 3 tanh(0.5) + 1.
    head = ClassificationHead(2, 0.0, drops_input=True)
    head.load_state_dict(
        {
            "dense.weight": torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
            "dense.bias": torch.zeros(2),
            "output.weight": torch.tensor([[2.0, 3.0]]),
            "output.bias": torch.ones(1),
        }
    )
    expected = 2 * math.tanh(1) + 3 * math.tanh(0.5) + 1
    torch.testing.assert_close(head(torch.tensor([[0.5, 1.0]])), torch.tensor([expected]))


@pytest.mark.parametrize("family", FAST)
def test_a_score_does_not_depend_on_padding_and_neighbours(family: str, tmp_path: Path) -> None:
    save_peer(family, tmp_path)
    reranker = Reranker.load(tmp_path)
    scores = reranker.score(QUESTIONS, PASSAGES)
    alone = [reranker.score([q], [p])[0] for q, p in zip(QUESTIONS, PASSAGES, strict=True)]
    order = [3, 0, 4, 2, 1] * 3
    shuffled = reranker.score([QUESTIONS[i] for i in order], [PASSAGES[i] for i in order])
    np.testing.assert_allclose(alone, scores, atol=1e-6)
    np.testing.assert_allclose(shuffled, scores[order], atol=1e-6)
    assert reranker.score([], []).shape == (0,)


@pytest.mark.parametrize("family", ["BERT", "RoBERTa"])
def test_gradients_equal_transformers(family: str, tmp_path: Path) -> None:
    save_peer(family, tmp_path)
    reranker = Reranker.load(tmp_path)
    tokens = reranker.transform(list(zip(QUESTIONS, TEXTS, strict=True)))
    peer = TransformersCrossEncoder.from_pretrained(tmp_path).eval()
    assert isinstance(reranker.model, RobertaCrossEncoder)
    for model in (reranker.model, peer):
        model(tokens).square().sum().backward()
    base = getattr(peer.model, peer.model.base_model_prefix)
    layer: Any = reranker.model.encoder.layers[0]
    table = reranker.model.encoder.embeddings.token_type
    assert table is not None
    pairs = [
        (table.weight, base.embeddings.token_type_embeddings.weight),
        (reranker.model.encoder.embeddings.word.weight, base.embeddings.word_embeddings.weight),
        (layer.attention.output.weight, base.encoder.layer[0].attention.output.dense.weight),
        (reranker.model.head.dense.bias, (base.pooler if family == "BERT" else peer.model.classifier).dense.bias),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_a_folder_of_sentence_transformers_keeps_its_activation(tmp_path: Path) -> None:
    save_peer("BERT", tmp_path / "plain")
    for name, kind in (("identity", nn.Identity()), ("sigmoid", nn.Sigmoid())):
        peer = sentence_transformers.CrossEncoder(str(tmp_path / "plain"), device="cpu", activation_fn=kind)
        peer.save_pretrained(str(tmp_path / name))
        reranker = Reranker.load(tmp_path / name)
        assert reranker.model.activation == name
        expected = score_by_sentence_transformers(tmp_path / name)
        np.testing.assert_allclose(reranker.score(QUESTIONS, PASSAGES), expected, atol=1e-5)
        reranker.save(tmp_path / f"again {name}")
        again = sentence_transformers.CrossEncoder(str(tmp_path / f"again {name}"), device="cpu")
        assert type(again.activation_fn) is type(kind)
    assert Reranker.load(tmp_path / "plain").model.activation == "sigmoid"  # the default of sentence-transformers


def test_an_encoder_without_a_head_gets_a_new_head(tmp_path: Path) -> None:
    for family in ("BERT", "RoBERTa", "DistilBERT"):
        folder = tmp_path / family
        save_tower(family, folder)
        with pytest.raises(UnsupportedModelError) as caught:
            load_cross_encoder(folder)
        assert_one_line(caught.value, folder, "dpr-text train --task=rerank")
        models = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            models.append(load_cross_encoder(folder, allow_new_head=True))
        first, same, other = (torch.cat([each.flatten() for each in model.parameters()]) for model in models)
        assert all(model.is_new_head for model in models) and first.equal(same) and not first.equal(other)
    model = load_cross_encoder(tmp_path / "BERT", allow_new_head=True)
    assert isinstance(model, RobertaCrossEncoder)
    peer = transformers.AutoModel.from_pretrained(tmp_path / "BERT")
    assert model.head.dense.weight.equal(peer.pooler.dense.weight)  # as AutoModelForSequenceClassification does


def test_the_pooler_of_zeros_of_a_saved_encoder_is_replaced(tmp_path: Path) -> None:
    build_encoder(**BERT, model_type="bert").save_pretrained(tmp_path)
    model = load_cross_encoder(tmp_path, allow_new_head=True)
    assert isinstance(model, RobertaCrossEncoder) and model.head.dense.weight.any()


@pytest.mark.parametrize(
    ("changes", "file", "part", "code"),
    [
        ({"num_labels": 3, "id2label": {"0": "a", "1": "b", "2": "c"}}, "config.json", "3 labels", 2),
        ({"id2label": None}, "config.json", "2 labels", 2),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.ReLU"}}, "", "activation_fn", 2),
        ({"sbert_ce_default_activation_function": "mine.Activation"}, "", "activation_fn", 2),
        ({"classifier_dropout": 2.0}, "config.json", "classifier_dropout", 5),
        ({"hidden_act": "relu", "architectures": []}, "", "classification head", 2),
        ({"type_vocab_size": 1}, "model.safetensors", "token_type", 5),
    ],
)
def test_a_folder_that_gives_no_scores_is_refused(
    changes: dict[str, Any], file: str, part: str, code: int, tmp_path: Path
) -> None:
    save_peer("BERT", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises((ArtifactError, UnsupportedModelError)) as caught:
        Reranker.load(tmp_path)
    assert_one_line(caught.value, tmp_path / file, part)
    assert get_exit_code(caught.value) == code


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_peer("RoBERTa", tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    for key, value in (
        ("classifier.dense.bias", None),
        ("classifier.out_proj.weight", torch.zeros(2, 32)),
        ("classifier.out_proj.bias", torch.tensor([torch.nan])),
    ):
        changed = {name: tensor for name, tensor in weights.items() if name != key}
        save_file(changed if value is None else changed | {key: value}, path, metadata={"format": "pt"})
        with pytest.raises(ArtifactError) as caught:
            Reranker.load(tmp_path)
        assert_one_line(caught.value, path, "head")


def test_dropout_replaces_all_rates(tmp_path: Path) -> None:
    for family in ("RoBERTa", "DistilBERT"):
        save_peer(family, tmp_path / family)
        model = load_cross_encoder(tmp_path / family, dropout=0.0).train()
        pair = Reranker.load(tmp_path / family).transform([("who wrote", "an oak")])
        assert model(pair).equal(model(pair))
        model = load_cross_encoder(tmp_path / family).train()
        assert not model(pair).equal(model(pair))


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_precision_gives_close_scores(precision: str, tmp_path: Path) -> None:
    save_peer("RoBERTa", tmp_path)
    scores = Reranker.load(tmp_path).score(QUESTIONS, PASSAGES)
    half = Reranker.load(tmp_path, precision=precision).score(QUESTIONS, PASSAGES)
    np.testing.assert_allclose(half, scores, atol=0.05 * float(np.ptp(scores)) + 0.02)
    assert not np.array_equal(half, scores)
