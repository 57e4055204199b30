"""Tests of TorchtextTokenize, with a small transform by hand and then with torchtext."""

from __future__ import annotations

import copy
import csv
import importlib
import json
import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import nn

from test.helpers import SHARED
from text.records import Example, Passage
from text.transforms import (
    BiEncoderCollator,
    Tokenize,
    TorchtextTokenize,
    load_tokenizer,
    torchtext_bpe,
    train_tokenizer,
)

# torchtext raises this warning of TorchScript.
pytestmark = pytest.mark.filterwarnings("ignore:The inner type of a container is lost:UserWarning")

ROBERTA_BASE = SHARED / "tokenizers" / "roberta-base"
needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
needs_torchtext = pytest.mark.skipif(find_spec("torchtext") is None, reason="torchtext is not installed")

TEXTS = [
    "Who wrote the first book about dense retrieval?",
    "",
    ("The first book", "It was written before the first computer."),
    ("", "Die Füße der Gänse: «größer» – 北京, مرحبا, 🦆🦆!"),
    ("a title of a dozen words that is longer than its text by far", "don't  we'll\n\n"),
]


class Letters(nn.Module):
    """Transform in which the id of each letter is its code point, so that batches are readable."""

    def forward(self, texts: list[str]) -> list[list[int]]:
        return [[ord(letter) for letter in text] for text in texts]


def get_rows(tokenize: nn.Module, texts: Any) -> list[list[int]]:
    """Return the ids of each text, without padding."""
    batch = tokenize(texts)
    return [ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


def assert_same_batch(one: nn.Module, other: nn.Module, texts: Any) -> None:
    for ours, theirs in zip(one(texts)[:5], other(texts)[:5], strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer([text if isinstance(text, str) else " ".join(text) for text in TEXTS] * 3, 400)


# ---- the adapter with a transform that does not need torchtext


def test_layout_by_hand():
    a, b = ord("a"), ord("b")
    batch = TorchtextTokenize(Letters(), 8)(["ab", ("a", "bb"), ("", "b"), "", ("aaaaa", "bb")])
    assert batch.input_ids.tolist() == [
        [0, a, b, 2, 1, 1, 1, 1],
        [0, a, 2, 2, b, b, 2, 1],
        [0, b, 2, 1, 1, 1, 1, 1],
        [0, 2, 1, 1, 1, 1, 1, 1],
        [0, a, a, 2, 2, b, b, 2],
    ]
    assert batch.attention_mask.sum(1).tolist() == [4, 7, 3, 2, 8]
    assert batch.truncated.tolist() == [False, False, False, False, True]
    assert batch.empty.tolist() == [False, False, False, True, False]


def test_special_tokens_of_bert_and_a_prompt():
    tokenize = TorchtextTokenize(Letters(), 9, "q:", start=[1001], between=[1002], end=[1002], padding_idx=0)
    assert get_rows(tokenize, ["a", ("b", "c")]) == [
        [1001, ord("q"), ord(":"), ord("a"), 1002],
        [1001, ord("q"), ord(":"), ord("b"), 1002, ord("c"), 1002],
    ]


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda ids: [[str(token) for token in row] for row in ids], id="digits"),
        pytest.param(lambda ids: [[0, *row, 2] for row in ids], id="special tokens around"),
        pytest.param(
            lambda ids: torch.nn.utils.rnn.pad_sequence([torch.tensor([0, *row, 2]) for row in ids], True, 1),
            id="padded tensor",
        ),
    ],
)
def test_transform_may_return_any_form_of_ids(form):
    tokenize = TorchtextTokenize(lambda texts: form(Letters()(texts)), 40)
    texts = ["ab", ("a title", "text"), "", ("", "b")]
    assert_same_batch(tokenize, TorchtextTokenize(Letters(), 40), texts)


def test_transform_without_ids_is_refused():
    with pytest.raises(ValueError, match=r"\['!'\].*VocabTransform"):
        TorchtextTokenize(lambda texts: [text.split() for text in texts], 8)


def test_ids_of_special_tokens_are_refused():
    """In GPT-2's vocabulary, the exclamation mark has id 0."""
    with pytest.raises(ValueError, match=r'"#".*\b2\b'):
        TorchtextTokenize(
            lambda texts: [[ord(letter) - ord("!") for letter in text] for text in texts],
            8,
            start=[500],
            padding_idx=501,
        )


def test_limits_and_empty_batches_are_refused():
    with pytest.raises(ValueError, match=r"max_length is 5\b.*\b6\b"):
        TorchtextTokenize(Letters(), 5)
    with pytest.raises(ValueError, match="texts"):
        TorchtextTokenize(Letters(), 6)([])


def test_transform_in_the_collator():
    passages = [Passage("p", "Title", "text"), Passage("n", "", "other")]
    example = Example("who?", ["x"], passages[:1], passages[1:], [], 0)
    tokenize = TorchtextTokenize(Letters(), 40)
    batch = BiEncoderCollator(tokenize, tokenize)([example])
    assert batch.questions.input_ids.tolist() == [[0, *map(ord, "who?"), 2]]
    assert batch.passages.attention_mask.sum(1).tolist() == [5 + 4 + 4, 5 + 2]


def test_copies_for_data_workers_are_equal():
    tokenize = TorchtextTokenize(Letters(), 16)
    for duplicate in (copy.deepcopy(tokenize), pickle.loads(pickle.dumps(tokenize))):  # noqa: S301  our own
        assert_same_batch(duplicate, tokenize, TEXTS)


# ---- torchtext


@pytest.fixture
def transforms() -> Any:
    return pytest.importorskip("torchtext.transforms", exc_type=ImportError)


@needs_torchtext
@pytest.mark.parametrize("max_length", [7, 16, 64])
def test_bpe_of_torchtext_gives_the_same_ids(trained: Tokenizer, max_length):
    assert_same_batch(TorchtextTokenize(torchtext_bpe(trained), max_length), Tokenize(trained, max_length), TEXTS)


@needs_torchtext
def test_sequential_with_special_tokens_and_truncation(trained: Tokenizer, transforms):
    """The pipeline equals ROBERTA_BASE_ENCODER.transform(), whose files are not available."""
    pipeline = transforms.Sequential(
        torchtext_bpe(trained),
        transforms.StrToIntTransform(),
        transforms.Truncate(10),
        transforms.AddToken(0, begin=True),
        transforms.AddToken(2, begin=False),
    )
    texts = ["Who wrote?", ("The first", "It was"), ""]
    assert_same_batch(TorchtextTokenize(pipeline, 64), Tokenize(trained, 64), texts)
    padded = transforms.Sequential(pipeline, transforms.ToTensor(padding_value=1))
    assert_same_batch(TorchtextTokenize(padded, 64), Tokenize(trained, 64), texts)
    cut = TorchtextTokenize(pipeline, 64)(["a b c d e f g h i j k l m n"])
    assert cut.input_ids.shape == (1, 12) and not cut.truncated.any()


@needs_torchtext
def test_transform_with_a_vocabulary(transforms):
    build_vocab: Any = importlib.import_module("torchtext.vocab").build_vocab_from_iterator
    vocabulary = build_vocab([["first", "book"]], specials=["<s>", "<pad>", "</s>", "<unk>"])
    vocabulary.set_default_index(3)
    words = transforms.RegexTokenizer([(r"[^a-z ]", "")])
    tokenize = TorchtextTokenize(transforms.Sequential(words, transforms.VocabTransform(vocabulary)), 12)
    first, book = vocabulary["first"], vocabulary["book"]
    assert get_rows(tokenize, ["first book!", ("book", "old first")]) == [
        [0, first, book, 2],
        [0, book, 2, 2, 3, first, 2],
    ]


@needs_torchtext
def test_tokenize_in_a_sequential_of_torchtext(trained: Tokenizer, transforms):
    pipeline = transforms.Sequential(Tokenize(trained, 16), torch.nn.Identity())
    assert_same_batch(pipeline, Tokenize(trained, 16), TEXTS)


@needs_torchtext
def test_special_token_in_a_text_is_tokenized_as_letters(trained: Tokenizer):
    theirs = TorchtextTokenize(torchtext_bpe(trained), 32)
    assert len(theirs.encode(["</s>"])[0]) > 1 == len(Tokenize(trained, 32).encode(["</s>"])[0])


@needs_torchtext
def test_copies_of_the_bpe_are_equal(trained: Tokenizer):
    tokenize = TorchtextTokenize(torchtext_bpe(trained), 16)
    for duplicate in (copy.deepcopy(tokenize), pickle.loads(pickle.dumps(tokenize))):  # noqa: S301  our own
        assert_same_batch(duplicate, tokenize, TEXTS)


@needs_torchtext
def test_tokenizer_that_is_not_of_gpt2_is_refused(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    with pytest.raises(ValueError, match="WordPiece"):
        torchtext_bpe(load_tokenizer(tmp_path))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*letters, "<s>", "<pad>", "</s>", "<unk>", "<mask>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="<s>, <pad>, </s>"):
        torchtext_bpe(load_tokenizer(tmp_path))


# ---- real texts with the real vocabulary


def read_real_passages() -> Iterator[tuple[str, str]]:
    csv.field_size_limit(1 << 24)
    with open(SHARED / "squad_w100" / "passages.tsv", encoding="utf-8", newline="") as file:
        yield from ((row[2], row[1]) for row in list(csv.reader(file, delimiter="\t"))[1:])
    for path in sorted((SHARED / "fairytaleqa").rglob("corpus.jsonl")):
        with open(path, encoding="utf-8") as file:
            yield from ((row["title"], row["text"]) for row in map(json.loads, file))


@needs_torchtext
@needs_shared_data
@pytest.mark.parametrize("files", ["roberta-base", "gpt2"])
def test_every_real_passage_has_the_ids_of_torchtext(files, transforms):
    """Both libraries read the same files."""
    folder = SHARED / "tokenizers" if files == "gpt2" else ROBERTA_BASE
    names = ("gpt2_bpe_encoder.json", "gpt2_bpe_vocab.bpe") if files == "gpt2" else ("vocab.json", "merges.txt")
    theirs = transforms.GPT2BPETokenizer(*(str(folder / name) for name in names))
    shift = 5 if files == "gpt2" else 0  # GPT-2's files lack RoBERTa's 5 special tokens.
    ours = Tokenize(load_tokenizer(folder), 512)
    passages = list(read_real_passages())
    assert len(passages) > 4000
    for part in (0, 1):
        texts = [passage[part] for passage in passages]
        for found, expected in zip(ours.encode(texts), theirs(texts), strict=True):
            assert found.tolist() == [int(token) + shift for token in expected]
