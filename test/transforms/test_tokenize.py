"""Tests of Tokenize: ids by hand, against transformers and tokenizers, and with prompts."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from torch.utils.data import DataLoader

from test.helpers import SHARED
from test.transforms.conftest import PHRASES
from text.transforms import Tokenize, load_tokenizer, train_tokenizer
from text.transforms.layout import Text

ROBERTA_BASE = SHARED / "tokenizers" / "roberta-base"
needs_shared_data = pytest.mark.skipif(not ROBERTA_BASE.is_dir(), reason=f"{SHARED} is not here")


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """Return a tokenizer with one token per letter, so that lengths are easy to count."""
    return train_tokenizer([], 261)


@pytest.fixture(scope="module")
def word_piece() -> Tokenizer:
    """Build a WordPiece tokenizer whose normalizer removes control characters."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "duck": 4, "##s": 5}))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def get_rows(tokenize: Callable, texts: Sequence[Text | tuple[Text, Text]]) -> list[list[int]]:
    """Return the ids of each text, without padding."""
    batch = tokenize(texts)
    return [ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


# ---- transformers as the oracle, on real texts


@needs_shared_data
def test_hello_world_by_hand():
    # The ids that RoBERTa's authors publish (fairseq, examples/roberta/README.md).
    batch = Tokenize(load_tokenizer(ROBERTA_BASE), 64)(["Hello world!", "Hello"])
    assert batch.input_ids.tolist() == [[0, 31414, 232, 328, 2], [0, 31414, 2, 1, 1]]
    assert batch.attention_mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]


@needs_shared_data
@pytest.mark.parametrize("max_length", [64, 256])
def test_pairs_equal_transformers(max_length):
    passages = read_rows("passages.tsv")[1:1001]
    titles, texts = [title for _, _, title in passages], [text for _, text, _ in passages]
    expected = load_peer()(titles, texts, truncation="longest_first", max_length=max_length, padding=True)
    batch = Tokenize(load_tokenizer(ROBERTA_BASE), max_length)(list(zip(titles, texts, strict=True)))
    assert batch.input_ids.tolist() == expected["input_ids"]
    assert batch.attention_mask.long().tolist() == expected["attention_mask"]
    untruncated = load_peer()(titles, texts)["input_ids"]
    assert batch.truncated.tolist() == [len(ids) > max_length for ids in untruncated]
    assert not batch.empty.any()


@needs_shared_data
@pytest.mark.parametrize("max_length", [10, 64])
def test_questions_equal_transformers(max_length):
    questions = [question for question, _ in read_rows("test.qa.csv")[:1000]]
    questions += ["a</s>b <s> <pad><unk>", "", " ", "\n\n\tʼtis  🦆\u0301"]
    expected = load_peer()(questions, truncation=True, max_length=max_length, padding=True)
    batch = Tokenize(load_tokenizer(ROBERTA_BASE), max_length)(questions)
    assert batch.input_ids.tolist() == expected["input_ids"]
    assert batch.attention_mask.long().tolist() == expected["attention_mask"]


def read_rows(name: str) -> list[list[str]]:
    with open(SHARED / "squad_w100" / name, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def load_peer() -> Callable:
    from transformers import RobertaTokenizerFast  # The import takes seconds.

    return RobertaTokenizerFast.from_pretrained(str(ROBERTA_BASE))


# ---- truncation, padding and post-processor of tokenizers as the oracle


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    """Build a WordPiece tokenizer with BERT's post-processor, and words and letters in its vocabulary."""
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *"abcdefghijklmnop", *(f"##{letter}" for letter in "abcdefghijklmnop")]
    return build_bert({word: index for index, word in enumerate([*words, "the", "first", "book", "##s", "."])})


@pytest.fixture(scope="module")
def template(bert: Tokenizer) -> Tokenizer:
    """Build a tokenizer whose pair template has more special tokens in the middle than at its ends."""
    tokenizer = Tokenizer.from_str(bert.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="[CLS] $A [SEP] [CLS] [CLS] $B:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


@pytest.fixture(scope="module")
def bare(letters: Tokenizer) -> Tokenizer:
    """Build a tokenizer like GPT-2's, without special tokens around texts."""
    config = json.loads(letters.to_str()) | {"post_processor": None}
    return Tokenizer.from_str(json.dumps(config))


def build_bert(vocab: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[PAD]", "[UNK]"])
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return tokenizer


def assert_equals_tokenizers(tokenizer: Tokenizer, texts: Sequence[str | tuple[str, str]], max_length: int) -> None:
    """Check that strings and ids give the same batch as tokenizers. A title without tokens is removed first."""
    peer, ours = Tokenizer.from_str(tokenizer.to_str()), Tokenize(tokenizer, max_length)
    has_title = {text[0]: bool(tokenizer.encode(text[0], add_special_tokens=False).ids) for text in texts if text}
    peer.enable_truncation(max_length, strategy="longest_first")
    peer.enable_padding(pad_id=ours.padding_idx)
    encodings = peer.encode_batch([text if isinstance(text, str) or has_title[text[0]] else text[1] for text in texts])
    as_ids = [ours.encode([text])[0] if isinstance(text, str) else tuple(ours.encode(text)) for text in texts]
    for batch in (ours(texts), ours(as_ids)):
        assert batch.input_ids.tolist() == [encoding.ids for encoding in encodings]
        assert batch.attention_mask.long().tolist() == [encoding.attention_mask for encoding in encodings]
        assert batch.truncated.tolist() == [bool(encoding.overflowing) for encoding in encodings]
        assert batch.empty.tolist() == [not any(mask_real_tokens(encoding)) for encoding in encodings]


def mask_real_tokens(encoding: Encoding) -> list[bool]:
    pairs = zip(encoding.attention_mask, encoding.special_tokens_mask, strict=True)
    return [bool(attended and not special) for attended, special in pairs]


KINDS = ["trained", "letters", "bert", "template", "bare"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_length", [6, 7, 8, 9, 16, 512])
def test_texts_and_pairs_equal_tokenizers(request: pytest.FixtureRequest, kind: str, max_length: int):
    texts = [*PHRASES[:3], "The first books.", "a", "[SEP] <s> a</s> <mask>", "\x07", ""]
    pairs = [(title, text) for title in texts for text in texts]
    max_length = max_length if kind != "template" else max(max_length, 8)
    assert_equals_tokenizers(request.getfixturevalue(kind), [*texts, *pairs], max_length)
    assert_equals_tokenizers(request.getfixturevalue(kind), [pairs[1]], max_length)


@pytest.mark.parametrize("kind", ["letters", "bert", "template", "bare"])
def test_every_small_truncation_equals_tokenizers(request: pytest.FixtureRequest, kind: str):
    pairs = [(" ".join("a" * m), " ".join("b" * n)) for m in range(9) for n in range(9)]
    for max_length in range(8, 15):
        assert_equals_tokenizers(request.getfixturevalue(kind), [*pairs, *(text for _, text in pairs)], max_length)


@settings(deadline=None, derandomize=True)
@given(
    texts=st.lists(st.tuples(st.text("ab .\x07", max_size=9), st.text("ab .\x07", max_size=9)), min_size=1, max_size=4)
)
def test_any_pairs_equal_tokenizers(bert: Tokenizer, texts: list[tuple[str, str]]):
    assert_equals_tokenizers(bert, texts, 8)


@needs_shared_data
@pytest.mark.parametrize("max_length", [6, 7, 20, 256])
@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_real_passages_equal_tokenizers(kind: str, max_length: int):
    words = (SHARED / "tokenizers" / "bert_base_uncased_vocab.txt").read_text(encoding="utf-8").splitlines()
    vocab = {word: index for index, word in enumerate(words)}
    passages = [(title, text) for _, text, title in read_rows("passages.tsv")[1:301]]
    questions = [question for question, _ in read_rows("test.qa.csv")[:300]]
    assert_equals_tokenizers(
        build_bert(vocab) if kind == "bert" else load_tokenizer(ROBERTA_BASE), [*passages, *questions], max_length
    )


@pytest.mark.parametrize(
    ("single", "pair", "samples"),
    [
        pytest.param("$A [SEP] $A", "$A $B", ['text "a"'], id="twice"),
        pytest.param("[SEP]", "$A $B", ['text "a"'], id="not at all"),
        pytest.param("$A", "$B [SEP] $A", ['title "a"', 'text "b b"'], id="text before title"),
        pytest.param("$A", "$B $A", ['title "a"', 'text "b b"'], id="nothing between, text before title"),
        pytest.param("$A", "$A $B $A", ['title "a"', 'text "b b"'], id="title again"),
    ],
)
def test_template_without_each_text_in_order_is_refused(bert: Tokenizer, single, pair, samples):
    tokenizer = Tokenizer.from_str(bert.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[("[SEP]", 2)])
    with pytest.raises(
        ValueError, match=r"^.*$"
    ) as caught:  # The message is one line, because "." does not match a newline.
        Tokenize(tokenizer, 16)
    assert all(sample in str(caught.value) for sample in samples)


# ---- texts as ids


def test_encode_by_hand(letters: Tokenizer):
    a, b, c = (letters.token_to_id(letter) for letter in "abc")
    ids = Tokenize(letters, 6).encode(["abc" * 3, "", "b<s>"])
    assert [row.tolist() for row in ids] == [[a, b, c] * 3, [], [b, 0]], "whole, without special tokens around"
    assert all(row.dtype == np.int32 for row in ids)
    assert Tokenize(letters, 6).encode([]) == []


@pytest.mark.parametrize("kind", ["letters", "bert"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint64])
def test_ids_and_strings_in_one_call(request: pytest.FixtureRequest, kind: str, dtype):
    tokenize = Tokenize(request.getfixturevalue(kind), 10)
    title, text, nothing = (ids.astype(dtype) for ids in tokenize.encode(["abc", "bcd" * 4, ""]))
    texts = [title, (title, text), ("abc", text), (title, "bcd" * 4), (nothing, text), ("", text), nothing]
    strings = ["abc", *[("abc", "bcd" * 4)] * 3, *["bcd" * 4] * 2, ""]
    for ours, theirs in zip(tokenize(texts)[:5], tokenize(strings)[:5], strict=True):
        assert ours.tolist() == theirs.tolist() and ours.dtype == theirs.dtype


def test_ids_of_a_memory_map(letters: Tokenizer, tmp_path: Path):
    tokenize = Tokenize(letters, 16)
    np.concatenate(tokenize.encode(["abc", "de"])).astype(np.uint16).tofile(tmp_path / "ids")
    ids = np.memmap(tmp_path / "ids", dtype=np.uint16, mode="r")
    assert get_rows(tokenize, [ids[:3], (ids[:3], ids[3:])]) == get_rows(tokenize, ["abc", ("abc", "de")])


def test_strings_of_one_call_are_encoded_together(letters: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    tokenize, calls = Tokenize(letters, 16), []
    encode = tokenize.encode
    monkeypatch.setattr(tokenize, "encode", lambda texts: calls.append(texts) or encode(texts))
    tokenize(["a", ("b", "c"), (np.array([9]), "d"), np.array([9])])
    assert calls == [["a", "b", "c", "d"]]


def test_fractions_are_refused_as_ids(letters: Tokenizer):
    with pytest.raises(TypeError, match="float64"):
        Tokenize(letters, 16)([np.array([7.5])])


def test_fingerprint(letters: Tokenizer, trained: Tokenizer):
    other = Tokenizer.from_str(letters.to_str())
    other.enable_padding(direction="left", pad_id=3, pad_token="<unk>", length=30)
    other.enable_truncation(7, strategy="only_second", direction="left")
    fingerprint = Tokenize(letters, 8).fingerprint
    assert fingerprint == hashlib.sha256(letters.to_str().encode()).hexdigest()
    assert Tokenize(letters, 16).fingerprint == Tokenize(other, 8).fingerprint == fingerprint
    assert Tokenize(trained, 8).fingerprint != fingerprint


# ---- batches


def test_layout_by_hand(letters: Tokenizer):
    # The rows are <s> a b </s> and <s> a b </s></s> c </s>. The ids of letters follow the 5 special tokens.
    a, b, c = (letters.token_to_id(letter) for letter in "abc")
    batch = Tokenize(letters, 16)(["ab", ("ab", "c"), ("", "c")])
    assert batch.input_ids.tolist() == [
        [0, a, b, 2, 1, 1, 1],
        [0, a, b, 2, 2, c, 2],
        [0, c, 2, 1, 1, 1, 1],  # A pair without title is encoded as its text.
    ]
    assert batch.attention_mask.sum(dim=1).tolist() == [4, 7, 3]
    assert batch.truncated.tolist() == [False, False, False]
    assert batch.input_ids.dtype == torch.int64
    assert batch.attention_mask.dtype == batch.truncated.dtype == batch.empty.dtype == torch.bool


@pytest.mark.parametrize(
    ("title", "text", "kept"),
    [
        pytest.param("abcd", "efgh", "abcd efgh", id="just fits"),
        pytest.param("abcd", "efghi", "abcd efgh", id="one off the text"),
        pytest.param("abcde", "fghi", "abcd fghi", id="one off the title"),
        pytest.param("a", "bcdefghijk", "a bcdefgh", id="short title"),
        pytest.param("abcdefghij", "k", "abcdefg k", id="short text"),
        pytest.param("abcdefg", "hijklmnop", "abcd hijk", id="both down to one length"),
    ],
)
def test_longest_first_by_hand(letters: Tokenizer, title, text, kept):
    # 12 tokens, of which 4 are special, leave room for 8 letters.
    batch = Tokenize(letters, 12)([(title, text)])
    words = letters.decode(batch.input_ids[0].tolist(), skip_special_tokens=False)
    assert words == "<s>{}</s></s>{}</s>".format(*kept.split())
    assert batch.truncated.tolist() == [len(title + text) > 8]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.text("ab", max_size=12), min_size=1, max_size=5), st.integers(6, 12))
def test_long_texts_are_truncated_and_flagged(letters: Tokenizer, texts, max_length):
    batch = Tokenize(letters, max_length)(texts)
    lengths = [len(text) + 2 for text in texts]
    assert batch.attention_mask.sum(dim=1).tolist() == [min(length, max_length) for length in lengths]
    assert batch.truncated.tolist() == [length > max_length for length in lengths]
    assert batch.empty.tolist() == [text == "" for text in texts]
    assert batch.input_ids.shape[1] == min(max(lengths), max_length), "padded beyond the longest"
    assert (batch.input_ids == 1).equal(~batch.attention_mask), "padding is where the mask says, on the right"
    assert (batch.attention_mask.int().diff(dim=1) <= 0).all()


def test_text_does_not_depend_on_its_neighbours(trained: Tokenizer):
    tokenize = Tokenize(trained, 16)
    texts = ["Who?", ("Book", PHRASES[1]), PHRASES[2], ("", "first"), ("Die Gänse", "!")]
    assert get_rows(tokenize, texts) == [row for text in texts for row in get_rows(tokenize, [text])]


def test_two_limits_share_one_tokenizer(letters: Tokenizer):
    short, long = Tokenize(letters, 6), Tokenize(letters, 10)
    assert [len(get_rows(tokenize, ["a" * 20])[0]) for tokenize in (short, long, short)] == [6, 10, 6]
    assert len(letters.encode("a" * 20).ids) == 22, "the caller's tokenizer was changed"


def test_settings_of_the_callers_tokenizer_do_not_matter(letters: Tokenizer):
    other = Tokenizer.from_str(letters.to_str())
    other.enable_padding(direction="left", pad_id=3, pad_token="<unk>", length=30)
    other.enable_truncation(7, strategy="only_second", direction="left")
    texts = ["abc", ("a" * 10, "b" * 20)]
    assert get_rows(Tokenize(other, 12), texts) == get_rows(Tokenize(letters, 12), texts)


def test_mask_takes_the_space_before_it(letters: Tokenizer):
    # fairseq's fill_mask also strips the space before the mask.
    space, a = letters.token_to_id("Ġ"), letters.token_to_id("a")
    assert get_rows(Tokenize(letters, 16), ["a <mask> a"]) == [[0, a, 4, space, a, 2]]


def test_texts_without_a_token_are_marked_empty(word_piece: Tokenizer):
    batch = Tokenize(word_piece, 8)(
        ["\x07", "ducks", " \u200b\n", ("\x07", "duck"), ("duck", "\x07"), ("\x07", "\x07")]
    )
    assert batch.empty.tolist() == [True, False, True, False, False, True]
    none, ducks, duck = [1, 2, 3, 3], [1, 4, 5, 2], [1, 4, 2, 3]
    # A pair whose title has no tokens becomes a single text. A pair whose text has no tokens remains a pair.
    assert batch.input_ids.tolist() == [none, ducks, none, duck, [1, 4, 2, 2], none]


def test_control_character_is_a_token_of_a_byte_level_tokenizer(letters: Tokenizer):
    assert Tokenize(letters, 8)(["\x07", " ", ""]).empty.tolist() == [False, False, True]


class Lower(nn.Module):
    def forward(self, texts: list[str]) -> list[str]:
        return [text.lower() for text in texts]


def test_composes_in_a_sequential(letters: Tokenizer):
    tokenize = Tokenize(letters, 8)
    transform = nn.Sequential(Lower(), tokenize)
    assert get_rows(transform, ["ABC", "É"]) == get_rows(tokenize, ["abc", "é"])
    assert "max_length=8" in repr(transform)


@pytest.mark.parametrize("kind", ["trained", "bert"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda tokenize: pickle.loads(pickle.dumps(tokenize))])  # noqa: S301
def test_copies_for_data_workers_are_equal(request: pytest.FixtureRequest, kind: str, duplicate):
    tokenize = Tokenize(request.getfixturevalue(kind), 8)
    twin = duplicate(tokenize)
    assert twin.fingerprint == tokenize.fingerprint
    for ours, theirs in zip(twin([*PHRASES, ("a", "b")])[:5], tokenize([*PHRASES, ("a", "b")])[:5], strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_workers(trained: Tokenizer, start: str):
    tokenize = Tokenize(trained, 8)
    texts = [*PHRASES[:2], ("a", "<mask> b")]
    expected = tokenize(texts)
    batches: Any = [texts] * 2
    loader = DataLoader(batches, batch_size=None, num_workers=1, collate_fn=tokenize, multiprocessing_context=start)
    for batch in loader:
        assert all(ours.tolist() == theirs.tolist() for ours, theirs in zip(batch[:5], expected[:5], strict=True))


def test_empty_list_of_texts_is_refused(letters: Tokenizer):
    with pytest.raises(ValueError, match="texts"):
        Tokenize(letters, 16)([])


def test_max_length_must_hold_a_title_and_a_text(letters: Tokenizer):
    with pytest.raises(ValueError, match=r"max_length is 5\b.*\b6\b"):
        Tokenize(letters, 5)
    assert get_rows(Tokenize(letters, 6), [("a" * 9, "b" * 9)]) == get_rows(Tokenize(letters, 6), [("a", "b")])


def test_tokenizer_without_padding_token_is_refused():
    with pytest.raises(ValueError, match=r"<pad>.*\[PAD\]"):
        Tokenize(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), 8)


# ---- prompts


def build_small_bert(tmp_path: Path) -> Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", ":", ".", "1", "a", "b", "##b"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return load_tokenizer(tmp_path)


def test_prompt_equals_a_prefix_of_the_text(tmp_path):
    tokenizer = build_small_bert(tmp_path)
    plain, prompted = Tokenize(tokenizer, 9), Tokenize(tokenizer, 9, "query: ")
    texts = ["ab a", "", ("a", "b"), ("", "ab")]
    expected = plain(["query: ab a", "query:", ("query: a", "b"), "query: ab"])
    assert prompted(texts).input_ids.equal(expected.input_ids)
    assert prompted(texts).empty.tolist() == [False, True, False, False]


def test_prompt_is_never_truncated(tmp_path):
    batch = Tokenize(build_small_bert(tmp_path), 7, "query: ")(["a b a b a b"])
    assert batch.input_ids.tolist() == [[2, 5, 6, 9, 10, 9, 3]]
    assert batch.truncated.tolist() == [True]


PROMPTS = ("query: ", "Query:\n", "query:", "q", " ", "query: oak")
PROMPTED = ["oak", " oak", "2 oaks", "北京 oak", "", " ", "\n", "'s oak", "́oak", "Ärger", "o" * 80, ": :"]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", ["byte level", "word piece"])
def test_prompt_and_text_are_one_string(tmp_path, prompt: str, kind: str):
    tokenizer = train_tokenizer(["query: oak", "Query:\n2 oaks", "oak"] * 3, 300)
    tokenizer = tokenizer if kind == "byte level" else build_small_bert(tmp_path)
    batch = Tokenize(tokenizer, 24, prompt)(PROMPTED)
    whole = Tokenize(tokenizer, 24)([prompt + text for text in PROMPTED])
    assert batch.input_ids.equal(whole.input_ids)
    assert batch.truncated.equal(whole.truncated)
    alone = Tokenize(tokenizer, 24)(PROMPTED)
    assert batch.empty.equal(alone.empty), "whether a text has tokens does not depend on the prompt"


def test_prompt_precedes_the_title_or_an_untitled_text():
    tokenizer = train_tokenizer(["query: oak", "oak elm"] * 3, 300)
    batch = Tokenize(tokenizer, 32, "query: ")([("oak", "elm"), ("", "elm"), ("", "")])
    whole = Tokenize(tokenizer, 32)([("query: oak", "elm"), "query: elm", "query: "])
    assert batch.input_ids.equal(whole.input_ids)
    assert batch.empty.tolist() == [False, False, True]


def test_two_unknown_words_in_one_token_are_not_empty(tmp_path):
    """The prompt is [UNK], and so is the word that prompt and text form together."""
    tokenizer = build_small_bert(tmp_path)
    batch = Tokenize(tokenizer, 9, "xyz")(["w", ""])
    assert batch.input_ids.equal(Tokenize(tokenizer, 9)(["xyzw", "xyz"]).input_ids)
    assert batch.empty.tolist() == [False, True]


def test_ids_follow_a_prompt_only_if_no_token_joins_them(tmp_path):
    apart, joined = build_small_bert(tmp_path), train_tokenizer(["query: a b"] * 3, 300)
    assert Tokenize(apart, 20, "query: ").takes_ids and Tokenize(joined, 20).takes_ids
    prompted = Tokenize(apart, 20, "query: ")
    assert prompted(prompted.encode(["ab a"])).input_ids.equal(prompted(["ab a"]).input_ids)
    prompted = Tokenize(joined, 20, "query: ")
    assert not prompted.takes_ids
    with pytest.raises(ValueError, match="query: "):
        prompted(prompted.encode(["a"]))


def test_max_length_must_hold_the_prompt(tmp_path):
    with pytest.raises(ValueError, match=r"max_length is 6\b.*\b7\b"):
        Tokenize(build_small_bert(tmp_path), 6, "query: ")
