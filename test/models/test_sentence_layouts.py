"""Models of sentence-transformers with any pooling and any layers after it, around a model of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from test.helpers import assert_one_line
from test.models.helpers import randomize
from test.models.peers import PEER_WARNINGS, is_old, modules, sentence_transformers
from test.models.towers import TEXTS, save_tower
from text.bundle import BiEncoderBundle
from text.errors import ArtifactError, UnsupportedModelError
from text.models import BiEncoder, TransformersEncoder, embed_tokens, load_encoder
from text.models.sentence_files import list_module_files
from text.retrieval import Embedder
from text.transforms import Tokenize, load_tokenizer, save_tokenizer

pytestmark = PEER_WARNINGS


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tower("DistilBERT", tmp_path_factory.mktemp("towers") / "plain")


def save_peer(plain: Path, folder: Path, *layers: nn.Module, **options: Any) -> Path:
    """Save a model of sentence-transformers with random weights, and return its folder."""
    for layer in layers:
        randomize(layer)
    listed = [modules.Transformer(str(plain)), *layers]
    sentence_transformers.SentenceTransformer(modules=listed, device="cpu", **options).save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


def pool(mode: str, width: int = 32, **options: Any) -> nn.Module:
    """Build the Pooling module of one or several modes, in all releases."""
    if not is_old:
        return modules.Pooling(width, mode.split("+") if "+" in mode else mode, **options)
    old = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    names = [f"pooling_mode_{old.get(each, each)}" for each in mode.split("+")]
    return modules.Pooling(width, **{"pooling_mode_mean_tokens": False, **dict.fromkeys(names, True)}, **options)


LAYOUTS: dict[str, Callable[[], list[nn.Module]]] = {
    **{
        mode: lambda mode=mode: [pool(mode)]
        for mode in ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "max+mean")
    },
    "mean+cls": lambda: [pool("mean+cls")],
    "LaBSE": lambda: [pool("cls"), modules.Dense(32, 32, activation_function=nn.Tanh()), modules.Normalize()],
    "EmbeddingGemma": lambda: [
        pool("mean"),
        modules.Dense(32, 48, bias=False, activation_function=nn.Identity()),
        modules.Dense(48, 32, bias=False, activation_function=nn.Identity()),
        modules.Normalize(),
    ],
    "norms": lambda: [pool("max+mean", 32), modules.LayerNorm(64), modules.Normalize(), modules.LayerNorm(64)],
    "GELU": lambda: [pool("mean"), modules.Dense(32, 8, activation_function=nn.GELU())],
    "ReLU": lambda: [pool("mean"), modules.Dense(32, 8, activation_function=nn.ReLU()), modules.Normalize()],
}


@pytest.mark.parametrize(
    "name", [name if name == "LaBSE" else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS]
)
def test_both_libraries_load_the_layouts_of_the_other(plain: Path, tmp_path: Path, name: str) -> None:
    if is_old and name == "mean+cls":
        pytest.skip("this release joins poolings in its own order")
    folder = save_peer(plain, tmp_path / "peer", *LAYOUTS[name]())
    expected = embed_with_peer(folder)
    encoder, tokenizer = load_encoder(folder).eval(), load_tokenizer(folder)
    assert isinstance(encoder, TransformersEncoder)
    torch.testing.assert_close(embed(encoder, tokenizer), expected, rtol=1e-5, atol=1e-5)
    encoder.save_pretrained(tmp_path / "own")
    save_tokenizer(tokenizer, tmp_path / "own", max_length=encoder.max_length)
    torch.testing.assert_close(embed_with_peer(tmp_path / "own"), expected, rtol=1e-5, atol=1e-5)
    again = load_encoder(tmp_path / "own").eval()
    assert all(torch.equal(each, again.state_dict()[key]) for key, each in encoder.state_dict().items())
    numbered = {path.parent.name for path in (tmp_path / "own").glob("*/*")}
    assert {path.parent.name for path in list_module_files(tmp_path / "own")} == {*numbered, "own"}


def embed(encoder: TransformersEncoder, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        return embed_tokens(encoder, Tokenize(tokenizer, encoder.max_length)(TEXTS))


def embed_with_peer(folder: Path, **options: Any) -> torch.Tensor:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return torch.from_numpy(model.encode(TEXTS, **options))


@pytest.mark.slow
@pytest.mark.skipif(is_old, reason="this release counts the tokens of a prompt without its last space")
@pytest.mark.parametrize("mode", ["mean", "cls", "weightedmean"])
def test_a_prompt_is_left_out_of_pooling_as_in_sentence_transformers(plain: Path, tmp_path: Path, mode: str) -> None:
    folder = save_peer(
        plain, tmp_path / "peer", pool(mode, include_prompt=False), prompts={"query": "who: ", "document": ""}
    )
    bundle = BiEncoderBundle.load(folder)
    bundle.save(tmp_path / "own")
    expected = embed_with_peer(folder, prompt_name="query")
    for each in (folder, tmp_path / "own"):
        found = Embedder.from_pretrained(each, "question")(TEXTS)
        torch.testing.assert_close(found, nn.functional.normalize(expected, dim=-1), rtol=1e-5, atol=1e-5)
        documents = Embedder.from_pretrained(each, "passage")(TEXTS)
        torch.testing.assert_close(
            documents, nn.functional.normalize(embed_with_peer(folder), dim=-1), rtol=1e-5, atol=1e-5
        )


@pytest.mark.slow
def test_a_bi_encoder_of_two_towers_opens_in_sentence_transformers(plain: Path, tmp_path: Path) -> None:
    question, passage = load_encoder(plain).eval(), load_encoder(plain, pooling="max", normalize=True).eval()
    randomize(question)
    tokenizer = load_tokenizer(plain)
    BiEncoderBundle(
        model=BiEncoder(question, passage), tokenizer=tokenizer, question_max_length=20, passage_max_length=40
    ).save(tmp_path)
    model = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    loaded = BiEncoderBundle.load(tmp_path)
    for side, encode in (("question", model.encode_query), ("passage", model.encode_document)):
        with torch.no_grad():
            found = embed_tokens(loaded.encoder(side).eval(), loaded.transform(side)(TEXTS))
        torch.testing.assert_close(found, torch.from_numpy(encode(TEXTS)), rtol=1e-5, atol=1e-5)
    assert loaded.describe().startswith("DistilBert through transformers with first pooling, DistilBert through")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "content", "part", "code"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "median", 2),
        ("1_Pooling/config.json", {"pooling_mode": []}, "pooling", 5),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Softmax"}, "Softmax", 2),
        ("2_Dense/config.json", {"activation_function": "mine.Tanh"}, "mine.Tanh", 2),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual", 2),
        ("2_Dense/config.json", {"in_features": 31}, "in_features", 5),
        ("3_Normalize/config.json", {"module_input_name": "token_embeddings"}, "module_input_name", 2),
        ("modules.json", [{"path": "", "type": "sentence_transformers.models.CLIPModel"}], "CLIPModel", 2),
    ],
)
def test_other_layouts_are_refused_by_name(
    plain: Path, tmp_path: Path, file: str, content: Any, part: str, code: int
) -> None:
    folder = save_peer(plain, tmp_path / "peer", *LAYOUTS["LaBSE"]())
    write_json(folder / file, content)
    with pytest.raises(UnsupportedModelError if code == 2 else ArtifactError) as caught:
        load_encoder(folder)
    assert_one_line(caught.value, folder / file, part)


def test_a_layer_of_another_width_is_refused(plain: Path, tmp_path: Path) -> None:
    folder = save_peer(plain, tmp_path / "peer", *LAYOUTS["LaBSE"]())
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": ["max", "mean"]})
    with pytest.raises(ArtifactError) as caught:
        load_encoder(folder)
    assert_one_line(caught.value, folder / "modules.json", "Dense takes 32 features, but gets 64")
