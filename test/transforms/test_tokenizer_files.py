"""Tests of training, saving and loading tokenizers, with transformers as oracle for files of other libraries."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizer

from test.helpers import SHARED, assert_one_line
from test.transforms.conftest import PHRASES
from text.errors import ArtifactError, UnsupportedModelError
from text.models import roberta_tiny
from text.transforms import Tokenize, load_tokenizer, save_tokenizer, train_tokenizer
from text.transforms.tokenizer_files import SPECIAL_TOKENS

needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "first", "book", "##s", "was", "Was", "größer", "grosser", "grö", ".", ",", "[", "]", "北", "京"]
TEXTS = ["The first books was GRÖSSER.", "größer [MASK] 北京", "", "the  first, book <s> [SEP]", "unknown ☃"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """Return a folder with a BERT vocabulary."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, *"abcdefgh", ""]), encoding="utf-8")
    return tmp_path


def train_roberta() -> Tokenizer:
    return train_tokenizer(TEXTS, 300)


def assert_same_ids(ours: Tokenizer, theirs: Callable, texts: list[str]) -> None:
    """Check that single texts and pairs have the same ids after truncation and padding."""
    tokenize = Tokenize(ours, 16)
    options = {"truncation": "longest_first", "padding": True, "max_length": 16}
    assert tokenize(texts).input_ids.tolist() == theirs(texts, **options)["input_ids"]
    titles = ["the first " + text for text in texts]
    pairs = theirs(titles, texts, **options)
    batch = tokenize(list(zip(titles, texts, strict=True)))
    assert batch.input_ids.tolist() == pairs["input_ids"]
    assert batch.attention_mask.long().tolist() == pairs["attention_mask"]


# ---- trained tokenizers


def test_special_ids(trained: Tokenizer):
    assert [trained.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert trained.get_vocab_size() <= 400


def test_training_learns_from_the_texts(trained: Tokenizer):
    # " first" occurs often enough to become one token.
    assert len(trained.encode(" first", add_special_tokens=False).ids) == 1


def test_training_is_deterministic(trained: Tokenizer):
    for _ in range(3):
        assert train_tokenizer(iter(PHRASES), 400).to_str() == trained.to_str()


@settings(deadline=None, derandomize=True)
@given(text=st.text(max_size=40).filter(lambda text: not any(token in text for token in SPECIAL_TOKENS)))
def test_decoding_restores_the_text(trained: Tokenizer, text):
    batch = Tokenize(trained, 256)([text])
    assert trained.decode(batch.input_ids[0].tolist(), skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["é", "e\u0301", "مرحبا", "👩‍👩‍👧", "a\x00b", "  two  spaces\r\n", "\ufeff"])
def test_bytes_are_kept(trained: Tokenizer, text):
    assert trained.decode(trained.encode(text).ids, skip_special_tokens=True) == text


def test_vocab_size_must_hold_the_bytes():
    with pytest.raises(ValueError, match=r"vocab_size is 260\b.*\b261\b"):
        train_tokenizer(PHRASES, 260)
    assert train_tokenizer(PHRASES, 261).get_vocab_size() == 261


# ---- tokenizers from files


def test_load_tokenizer_json(trained: Tokenizer, tmp_path: Path):
    trained.save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        assert load_tokenizer(path).to_str() == trained.to_str()


def test_load_vocab_and_merges(trained: Tokenizer, tmp_path: Path):
    trained.model.save(str(tmp_path))  # vocab.json and merges.txt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    # As in transformers, "<mask>" absorbs the space before it only if a file sets this.
    mask = {"content": "<mask>", "lstrip": True}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": mask}))
    texts = [*PHRASES, "a <mask> b", ("title", "text")]
    assert Tokenize(load_tokenizer(tmp_path), 64)(texts).input_ids.equal(Tokenize(trained, 64)(texts).input_ids)


@pytest.mark.parametrize("left", [None, "vocab.json", "merges.txt"])
def test_folder_without_tokenizer_is_refused_with_the_names_of_the_files(trained: Tokenizer, tmp_path: Path, left):
    trained.model.save(str(tmp_path))
    for name in {"vocab.json", "merges.txt"} - {left}:
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json.*vocab\.json.*merges\.txt"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_tokenizer(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("tokenizer.json", b'{"version": "1.0", "mod', id="tokenizer ends early"),
        pytest.param("tokenizer.json", b"[]", id="tokenizer of another form"),
        pytest.param("tokenizer.json", b"\xff\xfe", id="tokenizer not UTF-8"),
        pytest.param("tokenizer.json", b"", id="tokenizer of 0 bytes"),
        pytest.param("vocab.json", b'{"<s>": 0, "<pa', id="vocab ends early"),
        pytest.param("vocab.json", b'["<s>", "<pad>", "</s>", "<unk>", "<mask>"]', id="vocab is a list"),
        pytest.param("vocab.json", b"\xff\xfe", id="vocab not UTF-8"),
        pytest.param("merges.txt", b"#version: 0.2\nlonely\n", id="merge of one"),
        pytest.param("merges.txt", "#version: 0.2\nа б\n".encode(), id="merge of an unknown token"),
    ],
)
def test_damaged_file_is_refused(trained: Tokenizer, tmp_path: Path, name, content):
    trained.model.save(str(tmp_path))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ArtifactError, match=r"^.*$"
    ) as caught:  # The message is one line, because "." does not match a newline.
        load_tokenizer(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_vocabulary_without_special_tokens_is_refused(trained: Tokenizer, tmp_path: Path):
    trained.model.save(str(tmp_path))
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    del vocab["<pad>"], vocab["<mask>"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(UnsupportedModelError, match="<pad>, <mask>"):
        load_tokenizer(tmp_path)


# ---- GPT-2's files


def write_gpt2_files(folder: Path, encoder: dict[str, int]) -> None:
    (folder / "encoder.json").write_text(json.dumps(encoder))
    (folder / "vocab.bpe").write_text("#version: 0.2\na b\nab c\n")


BYTES = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
ENCODER = BYTES | {"ab": 256, "abc": 257, "<|endoftext|>": 258}


def test_gpt2_ids_follow_the_special_tokens(tmp_path: Path):
    write_gpt2_files(tmp_path, ENCODER)
    tokenizer = load_tokenizer(tmp_path)
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert tokenizer.encode("abcb").ids == [0, 5 + 257, 5 + BYTES["b"], 2]


def test_dictionary_of_fairseq_gives_roberta_ids(tmp_path: Path):
    write_gpt2_files(tmp_path, ENCODER)
    words = [257, *range(256), "madeupword0000", 258, 256]
    (tmp_path / "dict.txt").write_text("".join(f"{word} 1\n" for word in words))
    tokenizer = load_tokenizer(tmp_path)
    expected = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "abc": 4, "madeupword0000": 261, "ab": 263, "<mask>": 264}
    assert {token: tokenizer.token_to_id(token) for token in expected} == expected
    assert tokenizer.encode("abcb").ids == [0, 4, 5 + BYTES["b"], 2]


@pytest.mark.parametrize(
    ("words", "fault"),
    [([*range(258)], "258"), ([*range(259), 0], "")],
)
def test_dictionary_of_another_vocabulary_is_refused(tmp_path: Path, words, fault):
    write_gpt2_files(tmp_path, ENCODER)
    (tmp_path / "dict.txt").write_text("".join(f"{word} 1\n" for word in words))
    with pytest.raises(ArtifactError) as caught:
        load_tokenizer(tmp_path)
    assert_one_line(caught.value, tmp_path / "dict.txt", fault)


@needs_shared_data
def test_gpt2_files_with_the_dictionary_equal_roberta_base(tmp_path: Path):
    folder = SHARED / "tokenizers"
    for name in ("gpt2_bpe_encoder.json", "gpt2_bpe_vocab.bpe", "roberta-base/dict.txt"):
        shutil.copy(folder / name, tmp_path)
    expected = load_tokenizer(folder / "roberta-base")
    # fairseq's "<mask>" absorbs the space before it.
    expected.add_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    assert load_tokenizer(tmp_path).to_str() == expected.to_str()


# ---- saving and loading, and BERT's vocabulary


@pytest.mark.parametrize("beside_an_encoder", [False, True])
@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_transformers_loads_a_saved_tokenizer(tmp_path: Path, vocabulary: Path, kind, beside_an_encoder):
    ours = train_roberta() if kind == "roberta" else load_tokenizer(vocabulary)
    folder = tmp_path / "saved"
    if beside_an_encoder:
        options = {"model_type": "bert", "pad_token_id": 0} if kind == "bert" else {}
        roberta_tiny(vocab_size=ours.get_vocab_size(), **options).save_pretrained(folder)
    save_tokenizer(ours, folder, max_length=16)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.model_max_length == 16 and len(theirs) == ours.get_vocab_size()
    assert_same_ids(ours, theirs, TEXTS)
    assert load_tokenizer(folder).to_str() == ours.to_str()


def test_limits_of_a_loaded_tokenizer_are_not_saved(tmp_path: Path):
    ours = train_roberta()
    ours.enable_truncation(3)
    ours.enable_padding(length=128)
    save_tokenizer(ours, tmp_path)
    saved = load_tokenizer(tmp_path)
    assert saved.truncation is None and saved.padding is None
    assert ours.truncation is not None  # The given tokenizer is not changed.


@pytest.mark.parametrize(
    "options", [None, {"do_lower_case": True}, {"do_lower_case": False}, {"tokenize_chinese_chars": False}]
)
def test_vocabulary_equals_transformers(vocabulary: Path, options):
    if options is not None:
        (vocabulary / "tokenizer_config.json").write_text(json.dumps(options))
    theirs = BertTokenizer.from_pretrained(vocabulary)
    assert_same_ids(load_tokenizer(vocabulary), theirs, TEXTS)


@needs_shared_data
def test_vocabulary_of_bert_equals_transformers_on_real_texts(tmp_path: Path):
    shutil.copy(SHARED / "tokenizers" / "bert_base_uncased_vocab.txt", tmp_path / "vocab.txt")
    with open(SHARED / "squad_w100" / "passages.tsv", encoding="utf-8", newline="") as file:
        texts = [row[1] for row in list(csv.reader(file, delimiter="\t"))[1:201]]
    assert_same_ids(load_tokenizer(tmp_path), BertTokenizer.from_pretrained(tmp_path), texts)


@pytest.mark.parametrize(
    ("file", "content", "field"),
    [
        ("vocab.txt", b"\xff", ""),
        ("tokenizer_config.json", "{", ""),
        ("tokenizer_config.json", "[]", ""),
        ("tokenizer_config.json", '{"do_lower_case": "no"}', "do_lower_case"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"a": 1}}', "added_tokens_decoder"),
    ],
)
def test_wrong_vocabulary_is_refused_with_file_and_field(vocabulary: Path, file, content, field):
    (vocabulary / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArtifactError) as caught:
        load_tokenizer(vocabulary)
    assert_one_line(caught.value, vocabulary / file, field)


def test_vocabulary_of_bert_without_special_tokens_is_refused(vocabulary: Path):
    (vocabulary / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    with pytest.raises(UnsupportedModelError) as caught:
        load_tokenizer(vocabulary)
    assert_one_line(caught.value, vocabulary / "vocab.txt", "[CLS], [SEP], [MASK]")


@pytest.mark.parametrize(
    ("file", "content", "setting"),
    [
        ("tokenizer_config.json", '{"add_prefix_space": true}', "add_prefix_space"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"99": {"content": "[Q]"}}}', "[Q]"),
        ("added_tokens.json", '{"[Q]": 99}', "[Q]"),
    ],
)
def test_setting_that_only_transformers_builds_from_a_vocabulary_is_refused(vocabulary: Path, file, content, setting):
    (vocabulary / file).write_text(content)
    with pytest.raises(UnsupportedModelError) as caught:
        load_tokenizer(vocabulary)
    assert_one_line(caught.value, vocabulary, setting)


# ---- damaged files


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def use_template_without_token(tokenizer: dict[str, Any]) -> None:
    """Set a template with an unknown token. The library panics when it encodes a text."""
    pieces = [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = {"Sequence": {"id": "B", "type_id": 1}}
    template = {"type": "TemplateProcessing", "single": pieces, "pair": [*pieces, second], "special_tokens": {}}
    tokenizer["post_processor"] = template


@pytest.mark.parametrize(
    "change",
    [
        use_template_without_token,
        lambda tokenizer: tokenizer["model"]["vocab"].update({"oak": 7}),  # Another token has this id.
        lambda tokenizer: tokenizer["model"].pop("vocab"),
        lambda tokenizer: tokenizer.update(model=[]),
        lambda tokenizer: tokenizer.update(added_tokens=3),
    ],
)
def test_damaged_tokenizer_is_refused_with_its_file(trained: Tokenizer, tmp_path: Path, change):
    save_tokenizer(trained, tmp_path)
    edit_json(tmp_path / "tokenizer.json", change)
    with pytest.raises(ArtifactError) as error:
        load_tokenizer(tmp_path)
    assert_one_line(error.value, tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("tokenizer_config.json", "model_input_names", 3),
        ("tokenizer_config.json", "tokenizer_class", []),
        ("tokenizer_config.json", "do_lower_case", "no"),
        ("tokenizer_config.json", "pad_token", 3),
        ("tokenizer_config.json", "extra_special_tokens", "x"),
        ("tokenizer_config.json", "added_tokens_decoder", []),
        ("tokenizer_config.json", "added_tokens_decoder", {"0": "<s>"}),
        ("special_tokens_map.json", "pad_token", {"content": 3}),
        ("special_tokens_map.json", "additional_special_tokens", [3]),
        ("added_tokens.json", "oak", "7"),
        ("added_tokens.json", "oak", None),
        ("config.json", "model_type", {}),
    ],
)
def test_setting_of_the_wrong_type_is_refused_with_file_and_name(
    trained: Tokenizer, tmp_path: Path, file: str, name: str, value: Any
):
    save_tokenizer(trained, tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", lambda config: config.pop("tokenizer_class"))
    edit_json(tmp_path / file, lambda config: config.update({name: value}))
    with pytest.raises(ArtifactError) as error:
        load_tokenizer(tmp_path)
    assert_one_line(error.value, tmp_path / file, name)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.write_bytes(b"\xff")])
def test_settings_that_are_not_a_file_are_refused(trained: Tokenizer, tmp_path: Path, make):
    save_tokenizer(trained, tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    make(tmp_path / "tokenizer_config.json")
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)


def test_broken_link_to_settings_is_refused(trained: Tokenizer, tmp_path: Path):
    """A partly cleaned Hugging Face cache has such links."""
    save_tokenizer(trained, tmp_path)
    (tmp_path / "special_tokens_map.json").symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="special_tokens_map"):
        load_tokenizer(tmp_path)


def test_huge_padding_length_does_not_exhaust_memory(trained: Tokenizer, tmp_path: Path):
    other = Tokenizer.from_str(trained.to_str())
    other.enable_padding(pad_id=1, pad_token="<pad>", length=10**11)
    other.enable_truncation(max_length=1)
    other.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    texts = ["The first book", "oak"]
    assert Tokenize(load_tokenizer(tmp_path), 16)(texts).input_ids.equal(Tokenize(trained, 16)(texts).input_ids)
