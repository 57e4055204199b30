"""Tokenizers on disk: what we save as transformers reads it, and BERT's vocabulary as transformers makes of it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertTokenizer

from text.errors import ArtifactError
from text.models import roberta_tiny
from text.transforms import Tokenize, load_tokenizer, save_tokenizer, train_tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "first", "book", "##s", "was", "Was", "größer", "grosser", "grö", ".", ",", "[", "]", "北", "京"]
TEXTS = ["The first books was GRÖSSER.", "größer [MASK] 北京", "", "the  first, book <s> [SEP]", "unknown ☃"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """A folder with a vocabulary of BERT's kind."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, *"abcdefgh", ""]), encoding="utf-8")
    return tmp_path


def roberta() -> Tokenizer:
    return train_tokenizer(TEXTS, 300)


def assert_same_ids(ours: Tokenizer, theirs: Callable, texts: list[str]) -> None:
    """Of single texts and of pairs, cut and padded."""
    tokenize = Tokenize(ours, 16)
    options = {"truncation": "longest_first", "padding": True, "max_length": 16}
    assert tokenize(texts).input_ids.tolist() == theirs(texts, **options)["input_ids"]
    titles = ["the first " + text for text in texts]
    pairs = theirs(titles, texts, **options)
    batch = tokenize(list(zip(titles, texts, strict=True)))
    assert batch.input_ids.tolist() == pairs["input_ids"]
    assert batch.attention_mask.long().tolist() == pairs["attention_mask"]


@pytest.mark.parametrize("beside_an_encoder", [False, True])
@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_transformers_loads_what_we_save(tmp_path: Path, vocabulary: Path, kind, beside_an_encoder):
    ours = roberta() if kind == "roberta" else load_tokenizer(vocabulary)
    folder = tmp_path / "saved"
    if beside_an_encoder:
        options = {"model_type": "bert", "pad_token_id": 0} if kind == "bert" else {}
        roberta_tiny(vocab_size=ours.get_vocab_size(), **options).save_pretrained(folder)
    save_tokenizer(ours, folder, max_length=16)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.model_max_length == 16 and len(theirs) == ours.get_vocab_size()
    assert_same_ids(ours, theirs, TEXTS)
    assert load_tokenizer(folder).to_str() == ours.to_str()


def test_limits_of_a_loaded_tokenizer_are_not_handed_on(tmp_path: Path):
    ours = roberta()
    ours.enable_truncation(3)
    ours.enable_padding(length=128)
    save_tokenizer(ours, tmp_path)
    saved = load_tokenizer(tmp_path)
    assert saved.truncation is None and saved.padding is None
    assert ours.truncation is not None  # the given one stays as it is


@pytest.mark.parametrize(
    "options", [None, {"do_lower_case": True}, {"do_lower_case": False}, {"tokenize_chinese_chars": False}]
)
def test_a_vocabulary_equals_transformers(vocabulary: Path, options):
    if options is not None:
        (vocabulary / "tokenizer_config.json").write_text(json.dumps(options))
    theirs = BertTokenizer.from_pretrained(vocabulary)
    assert_same_ids(load_tokenizer(vocabulary), theirs, TEXTS)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
def test_the_vocabulary_of_bert_equals_transformers_on_real_texts(tmp_path: Path):
    shutil.copy(SHARED / "tokenizers" / "bert_base_uncased_vocab.txt", tmp_path / "vocab.txt")
    with open(SHARED / "squad_w100" / "passages.tsv", encoding="utf-8", newline="") as file:
        texts = [row[1] for row in list(csv.reader(file, delimiter="\t"))[1:201]]
    assert_same_ids(load_tokenizer(tmp_path), BertTokenizer.from_pretrained(tmp_path), texts)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.txt", "[PAD]\n[UNK]\nthe\n", "vocab.txt: lacks [CLS], [SEP], [MASK]"),
        ("vocab.txt", b"\xff", "vocab.txt: not a vocabulary"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: not JSON"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: a list"),
        ("tokenizer_config.json", '{"do_lower_case": "no"}', 'do_lower_case is "no"'),
    ],
)
def test_a_vocabulary_that_is_wrong(vocabulary: Path, file, content, message):
    (vocabulary / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArtifactError) as caught:
        load_tokenizer(vocabulary)
    assert message in str(caught.value) and "\n" not in str(caught.value)
