"""Pairs of a question and a passage: tokens and token types as in transformers, and the layout of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import processors

from text.records import Example, Passage
from text.transforms import CrossEncoderCollator, TokenizePairs, question_and_passage, train_tokenizer

QUESTION, POSITIVE, NEGATIVE = "who ate the oak", Passage("1", "Oak", "a beetle ate it"), Passage("2", "", "nobody")
TEXTS = ["who ate the oak", "a beetle ate it", "oak " * 30, "", "nobody"]


def build_tokenizer(*, is_bert: bool = False):
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    if is_bert:
        tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def test_token_types_by_hand() -> None:
    tokenizer = build_tokenizer(is_bert=True)
    tokens = TokenizePairs(tokenizer, 32, has_token_types=True)([("oak", "oak"), ("", "oak")])
    [oak] = tokenizer.encode("oak", add_special_tokens=False).ids
    assert tokens.input_ids.tolist() == [[0, oak, 2, oak, 2], [0, 2, oak, 2, 1]]
    assert tokens.token_types is not None
    assert tokens.token_types.tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 0]]
    assert tokens.empty.tolist() == [False, True]
    assert TokenizePairs(tokenizer, 32)([("oak", "oak")]).token_types is None
    assert TokenizePairs(build_tokenizer(), 32, has_token_types=True)([("oak", "oak")]).token_types is None


@pytest.mark.parametrize("is_bert", [True, False])
@pytest.mark.parametrize("limit", [8, 9, 12, 20, 200])
def test_ids_and_types_equal_the_library_tokenizers(limit: int, is_bert: bool) -> None:
    tokenizer = build_tokenizer(is_bert=is_bert)
    pairs = [(one, other) for one in TEXTS for other in TEXTS]
    tokens = TokenizePairs(tokenizer, limit, has_token_types=True)(pairs)
    tokenizer.enable_truncation(limit, strategy="longest_first")
    for row, encoding in enumerate(tokenizer.encode_batch(pairs)):
        assert tokens.input_ids[row, tokens.attention_mask[row]].tolist() == encoding.ids
        assert bool(tokens.truncated[row]) == bool(encoding.overflowing)
        if is_bert:
            assert tokens.token_types is not None
            assert tokens.token_types[row, tokens.attention_mask[row]].tolist() == encoding.type_ids


def test_the_layout_by_hand() -> None:
    collate = CrossEncoderCollator(TokenizePairs(build_tokenizer(), 64))
    scored = [each._replace(score=score) for each, score in ((POSITIVE, 0.5), (NEGATIVE, 0.25))]
    first = Example(QUESTION, [], [scored[0]], [scored[1]], [Passage("3", "", "an elm")], source=1, row=7)
    second = Example("what is an oak", [], [NEGATIVE], [], [], row=8)
    batch = collate([first, second])
    assert batch.pair_index.tolist() == [[0, 1, 2], [3, -1, -1]]
    assert batch.positive_index.tolist() == [0, 3] and batch.owner.tolist() == [0, 0, 0, 1]
    assert batch.sources.tolist() == [1, 0] and batch.rows.tolist() == [7, 8]
    np.testing.assert_equal(batch.scores.numpy(), np.array([0.5, 0.25, np.nan, np.nan], dtype=np.float32))
    assert batch.passage_keys[0].tolist() == list(POSITIVE.keys)
    assert batch.pairs.input_ids.equal(
        collate.transform(
            [question_and_passage(QUESTION, each) for each in (POSITIVE, NEGATIVE, Passage("3", "", "an elm"))]
            + [question_and_passage("what is an oak", NEGATIVE)]
        ).input_ids
    )


def test_known_positives_are_never_negatives() -> None:
    collate = CrossEncoderCollator(TokenizePairs(build_tokenizer(), 64))
    other = Passage("5", "", "a moth")
    example = Example(QUESTION, [], [POSITIVE, other], [other, NEGATIVE], [Passage("9", "", "an elm")])
    batch = collate([example._replace(same_question_positives=[Passage("9", "", "an elm").keys])])
    assert batch.passage_keys.tolist() == [list(POSITIVE.keys), list(NEGATIVE.keys)]


def test_texts_without_tokens_are_left_out_and_counted() -> None:
    collate = CrossEncoderCollator(TokenizePairs(build_tokenizer(), 64))
    nothing = Passage("4", "", "")
    batch = collate(
        [
            Example(QUESTION, [], [POSITIVE], [nothing, NEGATIVE], []),
            Example("", [], [POSITIVE], [NEGATIVE], []),
            Example(QUESTION, [], [nothing], [NEGATIVE], []),
        ]
    )
    assert batch.pair_index.tolist() == [[0, 1]] and len(batch.pairs.lengths) == 2
    assert batch.counts == {"questions left out, no tokens": 2, "pairs left out, no tokens": 5}
    assert collate.find_empty_questions(["", QUESTION]).tolist() == [True, False]
    assert collate.find_empty_passages([nothing, POSITIVE]).tolist() == [True, False]


def test_a_batch_without_examples_is_empty() -> None:
    batch = CrossEncoderCollator(TokenizePairs(build_tokenizer(), 64))([])
    assert batch.pair_index.shape == (0, 1) and batch.pairs.input_ids.shape == (0, 1)
    assert batch.scores.dtype == torch.float32 and batch.passage_keys.shape == (0, 2)
