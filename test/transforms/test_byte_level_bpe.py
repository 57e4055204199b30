"""Tests of build_tiktoken_encoder: the ids equal those of tokenizers, or the tokenizer is rejected."""

from __future__ import annotations

import copy
import json
import pickle
import socket
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from test.helpers import SHARED
from text.transforms import byte_level_bpe, load_tokenizer, train_tokenizer
from text.transforms.byte_level_bpe import _BETWEEN, TiktokenEncoder, build_tiktoken_encoder, encode_batch

ROBERTA_BASE = SHARED / "tokenizers" / "roberta-base"
ROBERTA = pytest.param(
    "roberta-base", marks=pytest.mark.skipif(not ROBERTA_BASE.is_dir(), reason=f"{SHARED} is not here")
)

LEARNED = [
    "It's what they've said: we'll see, I'm sure, you'd say, don't, they're IT'S WE'LL",
    "In 1984 and 2010, 12,345 people (or 50%) — «größer» – 北京, مرحبا, 🦆🦆!\n\n\tdef f(x):\r\n        return x ** 2",
    "aaaaaaaaaaaaaaaa bbbbbbbb    ....... ---- ====  \n\n\n\n",
]
ODD = [
    *[
        "",
        " ",
        "  ",
        "\n",
        "\t\n \r\n",
        " a",
        "a ",
        "  a  b  ",
        " " * 300,
        " " * 300 + "a",
        "a\n" * 300,
        "\u3000\u3000a",
    ],
    *["'s", "'S", "it's it'S IT'S", "''s", "' s", "'ll'lL'LL", "’s", "'sss", "'re're", " 's", "1's", "'d'm't've"],
    *["\x00", "a\x00b", "\x1f\x7f\x80\x85", "\u00a0a\u00a0\u00a0b", "\ufeff", "\ufffd", "\U0010ffff", f"a{_BETWEEN}b"],
    *["e\u0301", "👩‍👩‍👧🦆", "🇩🇪", "½ ² Ⅷ 一二", "１２3٣", "a1b2", "_a_", "a.b,c!?", "ſ İ ŉ", "\u200b\u2028\u2029"],
    *["a" * 499, "a" * 501, "ab" * 5000, "^" * 3000, "1" * 3000, "é" * 3000, "一" * 3000, "\u00a0" * 3000 + "x"],
]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(LEARNED * 4, 600)


@pytest.fixture(params=["trained", ROBERTA])
def tokenizer(request: pytest.FixtureRequest, trained: Tokenizer) -> Tokenizer:
    return trained if request.param == "trained" else load_tokenizer(ROBERTA_BASE)


def build_encoder(tokenizer: Tokenizer) -> TiktokenEncoder:
    encoder = build_tiktoken_encoder(tokenizer)
    assert encoder is not None
    return encoder


def assert_same_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    ours, theirs = build_encoder(tokenizer)(texts), encode_batch(tokenizer, texts)
    assert len(ours) == len(theirs) == len(texts)
    for text, our, their in zip(texts, ours, theirs, strict=True):
        assert our.dtype == np.int32 and our.ndim == 1
        assert our.tolist() == their.tolist(), repr(text[:80])


# ---- equal ids


def test_ids_by_hand():
    # The merges are a+b, then ab+c. The ids come from the vocabulary, not from the order of the merges.
    encoder = build_encoder(build_small_bpe([("a", "b"), ("ab", "c")], {"abc": 300, "ab": 301}))
    ids = [row.tolist() for row in encoder(["abc", "ab abc", ""])]
    assert ids == [[300], [301, get_byte_id(" "), 300], []]


def test_odd_texts(tokenizer: Tokenizer):
    assert_same_ids(tokenizer, [*LEARNED, *ODD])


@settings(deadline=None, derandomize=True, max_examples=300)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=4))
def test_any_texts(trained: Tokenizer, texts: list[str]):
    assert_same_ids(trained, texts)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(text=st.text("ab1'st \n\t.\u00a0é", max_size=80))
def test_texts_of_few_characters(trained: Tokenizer, text: str):
    assert_same_ids(trained, [text])


@settings(deadline=None, derandomize=True, max_examples=50)
@given(corpus=st.lists(st.text("abc", min_size=2, max_size=20), max_size=20), text=st.text("abc", max_size=60))
def test_any_learned_merges(corpus: list[str], text: str):
    assert_same_ids(train_tokenizer(corpus, 280), [text, *corpus])


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
def test_real_passages():
    with open(SHARED / "squad_w100" / "passages.tsv", encoding="utf-8") as file:
        assert_same_ids(load_tokenizer(ROBERTA_BASE), [line for line, _ in zip(file, range(1000), strict=False)])


def build_contexts(code_points: Sequence[int]) -> list[str]:
    characters = [chr(point) for point in code_points if not 0xD800 <= point <= 0xDFFF]
    return [f"a{c}b {c} 1{c}{c} '{c}s{c}" for c in characters]


def test_sample_of_unicode(trained: Tokenizer):
    # The slow test covers all characters.
    assert_same_ids(trained, build_contexts([*range(256), *range(256, 0x110000, 211)]))


@pytest.mark.slow
def test_all_of_unicode(tokenizer: Tokenizer):
    for start in range(0, 0x110000, 0x8000):
        assert_same_ids(tokenizer, build_contexts(range(start, start + 0x8000)))


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "^" * 200_000, " " * 200_000 + "x", pytest.param(" " * 1_000_001 + "x", id="a panic")]
)
def test_very_long_runs_of_a_character(tokenizer: Tokenizer, text: str):
    assert_same_ids(tokenizer, ["before", text, "after"])


def test_real_tokenizers_are_accepted(tokenizer: Tokenizer):
    assert build_tiktoken_encoder(tokenizer) is not None


# ---- added tokens


def test_added_tokens_in_a_text(tokenizer: Tokenizer):
    texts = ["a <mask> b", "plain", "<s>", "a</s>b <s> <pad><unk>", "<mas k>", "<", "x <mask>", "plain too"]
    assert_same_ids(tokenizer, texts)
    assert tokenizer.token_to_id("<mask>") in build_encoder(tokenizer)(texts)[0]


def test_added_tokens_that_look_like_words_or_patterns(trained: Tokenizer):
    tokenizer = Tokenizer.from_str(trained.to_str())
    tokenizer.add_tokens([AddedToken("said", single_word=True), AddedToken(".*", rstrip=True), "北京"])
    assert_same_ids(tokenizer, [*LEARNED, "said saidx", "a.* b", "xyz", "北京京"])
    assert len(build_encoder(tokenizer)(["北京"])[0]) == 1


def test_no_added_tokens():
    tokenizer = build_small_bpe([("a", "b")], {"ab": 300})
    assert not json.loads(tokenizer.to_str())["added_tokens"]
    assert_same_ids(tokenizer, ["abba", "<s>", ""])


# ---- rejected tokenizers


def get_byte_id(byte: str) -> int:
    return [*byte_level_bpe._map_symbols_to_bytes().values()].index(ord(byte))


def build_small_bpe(merges: list[tuple[str, str]], learned: dict[str, int]) -> Tokenizer:
    vocab = {symbol: index for index, symbol in enumerate(byte_level_bpe._map_symbols_to_bytes())} | learned
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def test_symbols_of_bytes_equal_tokenizers():
    symbols = byte_level_bpe._map_symbols_to_bytes()
    assert symbols.keys() == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(symbols.values()) == list(range(256))
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for character in map(chr, range(1, 0x800)):
        [(word, _)] = split.pre_tokenize_str(character)
        assert bytes(symbols[symbol] for symbol in word) == character.encode()


@pytest.mark.parametrize(
    ("merges", "learned"),
    [
        # tiktoken would encode the word "abc" as one token. BPE merges b+c first and ends with a, bc.
        pytest.param([("b", "c"), ("a", "b"), ("ab", "c")], ["bc", "ab", "abc"], id="unreachable token"),
        # tiktoken has one rank for the token "abc", so it would merge a+bc as early as ab+c.
        pytest.param([("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")], ["ab", "abc", "bc"], id="two ways"),
        pytest.param([("a", "本")], ["本", "a本"], id="not a byte"),
    ],
)
def test_merges_that_tiktoken_would_apply_differently_are_rejected(merges: list[tuple[str, str]], learned: list[str]):
    assert build_tiktoken_encoder(build_small_bpe(merges, {token: 300 + n for n, token in enumerate(learned)})) is None


@pytest.mark.parametrize(
    ("part", "change"),
    [
        pytest.param("model", {"dropout": 0.1}, id="dropout"),
        pytest.param("model", {"continuing_subword_prefix": "##"}, id="prefix"),
        pytest.param("model", {"end_of_word_suffix": "</w>"}, id="suffix"),
        pytest.param("model", {"byte_fallback": True}, id="byte fallback"),
        pytest.param("model", {"ignore_merges": True}, id="ignores merges"),
        pytest.param("pre_tokenizer", {"add_prefix_space": True}, id="prefix space"),
        pytest.param("pre_tokenizer", {"use_regex": False}, id="no split"),
        pytest.param("normalizer", {"type": "NFC"}, id="normalizer"),
    ],
)
def test_settings_that_tiktoken_lacks_are_rejected(part: str, change: dict):
    config = json.loads(build_small_bpe([], {}).to_str())
    assert build_tiktoken_encoder(Tokenizer.from_str(json.dumps(config))) is not None
    config[part] = (config[part] or {}) | change
    assert build_tiktoken_encoder(Tokenizer.from_str(json.dumps(config))) is None


def test_settings_without_effect():
    config = json.loads(build_small_bpe([("a", "b")], {"ab": 300}).to_str())
    config["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": "", "unk_token": "a", "fuse_unk": True}
    assert_same_ids(Tokenizer.from_str(json.dumps(config)), ["abba", "é \x00"])


def test_vocabulary_without_a_byte_is_rejected():
    config = json.loads(build_small_bpe([], {}).to_str())
    del config["model"]["vocab"]["a"]
    assert build_tiktoken_encoder(Tokenizer.from_str(json.dumps(config))) is None


@pytest.mark.parametrize("split", [None, pre_tokenizers.Whitespace(), pre_tokenizers.Sequence([])])
def test_other_pre_tokenizers_are_rejected(split):
    tokenizer = build_small_bpe([], {})
    if split is None:
        config = json.loads(tokenizer.to_str()) | {"pre_tokenizer": None}
        tokenizer = Tokenizer.from_str(json.dumps(config))
    else:
        tokenizer.pre_tokenizer = split
    assert build_tiktoken_encoder(tokenizer) is None


def test_other_models_are_rejected():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert build_tiktoken_encoder(tokenizer) is None


# ---- errors, copies and network


def test_lone_surrogate_is_refused(trained: Tokenizer):
    with pytest.raises(UnicodeEncodeError, match=r"\\ud800"):
        build_encoder(trained)(["before", "a\ud800"])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])  # noqa: S301
def test_copies_give_the_same_ids(trained: Tokenizer, duplicate):
    encoder = build_encoder(trained)
    for ours, theirs in zip(duplicate(encoder)(LEARNED), encoder(LEARNED), strict=True):
        assert ours.tolist() == theirs.tolist()


def test_two_encoders_share_their_tables(trained: Tokenizer):
    assert build_encoder(trained)._encoding is build_encoder(Tokenizer.from_str(trained.to_str()))._encoding


def test_network_is_not_used(trained: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    byte_level_bpe._build_tables.cache_clear()
    assert len(build_encoder(trained)(LEARNED)) == len(LEARNED)
