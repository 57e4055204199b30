"""Tests of long texts, which are tokenized in pieces. The ids equal those of the whole text."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from text.transforms import Tokenize, long_texts, train_tokenizer
from text.transforms.byte_level_bpe import encode_batch


def build_word_piece() -> Tokenizer:
    vocabulary = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *"abé.'1", *(f"##{letter}" for letter in "abé1"), "ab", "##ba"]
    tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


TOKENIZERS = {
    "byte_level_bpe": train_tokenizer(["ab ab aba bab it's 11 ab. ab"] * 9, 280),
    "word_piece": build_word_piece(),
}
TEXTS = st.text(alphabet=st.sampled_from("ab  \t\n\u00a0\u2028é\u0301.'s1_我Σ<s>[]"), max_size=200)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS | st.lists(st.sampled_from(["ab", "a", "[SEP]", "<s>", "ab's", "\n", "é"])).map(" ".join))
@settings(max_examples=200, deadline=None)
def test_pieces_give_the_ids_of_the_whole_text(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "_PIECE", 3)
        [found] = Tokenize(tokenizer, 16).encode([text])
    assert found.tolist() == encode_batch(tokenizer, [text])[0].tolist()


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("prompt", ["", pytest.param("ab ", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "text", ["a" * 3_000_000, "ab ba. " * 40_000, "'" * 50_000 + "ab ab"], ids=["word", "words", "-"]
)
def test_rows_of_long_texts(name: str, prompt: str, text: str) -> None:
    tokenize = pickle.loads(pickle.dumps(Tokenize(TOKENIZERS[name], 64, prompt)))  # noqa: S301
    whole = encode_batch(TOKENIZERS[name], [prompt + text])[0]
    batch = tokenize([text, "ab", ("ab", text)])
    start, end = batch.input_ids[1, 0].item(), batch.input_ids[1, batch.attention_mask[1].sum() - 1].item()
    length = int(batch.attention_mask[0].sum())
    assert batch.input_ids[0, :length].tolist() == [start, *whole[: 64 - 2], end]
    assert batch.truncated.tolist() == [len(whole) > 64 - 2, False, len(whole) > 64 - 2]


@pytest.mark.slow
def test_no_call_of_the_tokenizer_gets_a_long_text() -> None:
    for name, text in (("byte_level_bpe", "a" * 3_000_000), ("word_piece", "ab " * 1_000_000)):
        seen: list[int] = []

        def encode(texts: Sequence[str], name: str = name, seen: list[int] = seen) -> list[np.ndarray]:
            seen.append(sum(map(len, texts)))
            return encode_batch(TOKENIZERS[name], texts)

        [ids] = long_texts.cut_long_texts(encode, TOKENIZERS[name])([text])
        assert max(seen) <= 1 << 20 and sum(seen) == len(text)
        assert np.array_equal(ids[:10_000], encode_batch(TOKENIZERS[name], [text])[0][:10_000])


def test_tokenizers_without_a_split_at_spaces_get_whole_texts() -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("▁a", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        return encode_batch(tokenizer, texts)

    assert long_texts.cut_long_texts(encode, tokenizer) is encode
    with_spaces = build_word_piece()
    with_spaces.add_tokens(["a b"])
    assert long_texts.cut_long_texts(encode, with_spaces) is encode
