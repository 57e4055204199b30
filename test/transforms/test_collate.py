"""Tests of BiEncoderCollator: order of passages, known positives, and dropped texts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from text.records import BiEncoderBatch, Example, Passage, TokenBatch
from text.transforms import BiEncoderCollator, Tokenize, known_positive_mask, match_known_positives

WORDS = [*"abcdefghij", "1", "2", "Ants", "Bees", "Cats"]


def build_word_level() -> Tokenizer:
    """Build a tokenizer with one token per word and RoBERTa's template. A blank text has no tokens."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*specials, *WORDS])}, unk_token="<unk>"))
    tokenizer.add_special_tokens(specials)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


TOKENIZER = build_word_level()
COLLATE = BiEncoderCollator(Tokenize(TOKENIZER, 6), Tokenize(TOKENIZER, 8))


def passage(text: str, passage_id: str = "", title: str = "") -> Passage:
    return Passage(passage_id, title, text)


def example(
    question: str,
    positives: list[Passage],
    hard_negatives: list[Passage] | None = None,
    other_negatives: list[Passage] | None = None,
) -> Example:
    return Example(question, [], positives, hard_negatives or [], other_negatives or [])


def decode_rows(tokens: TokenBatch) -> list[str]:
    """Return the text of each row, with special tokens and without padding."""
    rows = zip(tokens.input_ids, tokens.attention_mask, strict=True)
    return [TOKENIZER.decode(ids[mask].tolist(), skip_special_tokens=False) for ids, mask in rows]


def get_ignore_mask(batch: BiEncoderBatch) -> torch.Tensor:
    """Return the mask of passages that must not be used as negatives of a question."""
    return known_positive_mask(batch.known_positives, batch.passage_keys, batch.positive_index)


def get_dropped_counts(batch: BiEncoderBatch) -> tuple[int, int]:
    return batch.counts["questions left out, no tokens"], batch.counts["passages left out, no tokens"]


# ---- by hand


def test_scores_by_hand():
    first = example("a", [passage("b")._replace(score=2.0)], [passage("c")._replace(score=-1.5), passage("d")])
    found = COLLATE([first, example("f", [passage("g")])]).scores
    torch.testing.assert_close(found, torch.tensor([2.0, -1.5, torch.nan, torch.nan]), equal_nan=True)


def test_titles_joined_with_texts_by_hand():
    collate = BiEncoderCollator(Tokenize(TOKENIZER, 6), Tokenize(TOKENIZER, 6), titles="join")
    rows = [example("a", [passage("b", title="Ants")], [passage("c"), passage("d 1 2 a", title="Bees")])]
    rows.append(example("e", [passage("b", title="Cats")]))
    batch = collate(rows)
    assert decode_rows(batch.passages) == ["<s> Ants b </s>", "<s> c </s>", "<s> Bees d 1 2 </s>", "<s> Cats b </s>"]
    assert batch.passages.truncated.tolist() == [False, False, True, False]
    assert torch.equal(batch.passage_keys, COLLATE(rows).passage_keys)  # Joining titles does not change the keys.


def test_num_positives_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="num_positives is 0"):
        BiEncoderCollator(Tokenize(TOKENIZER, 6), Tokenize(TOKENIZER, 6), num_positives=0)


def test_layout_of_ragged_examples_by_hand():
    batch = COLLATE(
        [
            example("a", [passage("b", title="Ants")], [passage("c"), passage("d", title="Bees")], [passage("e")]),
            example("f", [passage("g"), passage("never seen")]),
            example("h", [passage("i")], [], [passage("j")]),
        ]
    )
    assert decode_rows(batch.questions) == ["<s> a </s>", "<s> f </s>", "<s> h </s>"]
    assert decode_rows(batch.passages) == [
        *["<s> Ants </s> </s> b </s>", "<s> c </s>", "<s> Bees </s> </s> d </s>", "<s> e </s>"],
        *["<s> g </s>"],
        *["<s> i </s>", "<s> j </s>"],
    ]
    assert batch.positive_index.tolist() == [0, 4, 5]
    assert not get_ignore_mask(batch).any()
    assert get_ignore_mask(batch).shape == (3, 7) and batch.passage_keys.shape == (7, 2)
    assert batch.known_positives.shape == (3, 2, 2)
    assert set(batch.counts.values()) == {0}


def test_passage_of_several_rows_is_one_text_by_hand():
    first = example("a", [passage("b", title="Ants")], [passage("c")])
    batch = COLLATE([first, example("f", [passage("c")], [passage("b", title="Ants"), passage("b")])])
    assert decode_rows(batch.passages) == ["<s> Ants </s> </s> b </s>", "<s> c </s>", "<s> b </s>"]
    assert batch.text_index.tolist() == [0, 1, 1, 0, 2]
    assert batch.positive_index.tolist() == [0, 2] and batch.owner.tolist() == [0, 0, 1, 1, 1]
    assert get_ignore_mask(batch).shape == (2, 5)


def test_known_positives_are_ignored_by_hand():
    batch = COLLATE(
        [
            # Columns 0 and 1. The other known positive "7" is column 4, in another question's row.
            example("a", [passage("b", "5"), passage("c", "7")], [passage("d", "6")]),
            # Columns 2 and 3. Column 2 has the text of question 0's positive, with another id.
            example("e", [passage("b", "8")], [passage("f", "9")]),
            # Columns 4 and 5. Column 4 has the id of question 0's other known positive, with another text.
            example("g", [passage("h", "7")], [passage("i", "5")]),
        ]
    )
    assert batch.positive_index.tolist() == [0, 2, 4]
    assert get_ignore_mask(batch).int().tolist() == [
        [0, 0, 1, 0, 1, 1],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_shared_positive_of_two_questions_is_no_negative():
    batch = COLLATE([example("a", [passage("b", "1")]), example("c", [passage("b", "1")])])
    assert get_ignore_mask(batch).tolist() == [[False, True], [True, False]]


def test_positive_among_its_own_negatives_is_ignored():
    batch = COLLATE([example("a", [passage("b", "1")], [passage("b", "1"), passage("c", "2")])])
    assert get_ignore_mask(batch).tolist() == [[False, True, False]]


def test_passages_without_id_are_known_by_text():
    # If two missing ids were equal, all three passages would be the same.
    batch = COLLATE([example("a", [passage("b")], [passage("c")]), example("d", [passage("b")])])
    assert get_ignore_mask(batch).tolist() == [[False, False, True], [True, False, False]]


def test_text_is_not_an_id():
    # One passage has the text "Ants" and no id. Another passage has the id "Ants" and another text.
    batch = COLLATE([example("a", [passage("Ants")]), example("b", [passage("c", "Ants")])])
    assert not get_ignore_mask(batch).any()


def test_owner_is_the_question_of_the_row():
    batch = COLLATE(
        [
            example("a", [passage("b", "1")], [passage("c", "2"), passage("d", "3")]),
            example(" ", [passage("e", "4")]),
            example("e", [passage("f", "4")], [passage(" ", "5"), passage("g", "6")]),
        ]
    )
    assert batch.owner.tolist() == [0, 0, 0, 1, 1]


def test_single_example():
    batch = COLLATE([example("a", [passage("b")])])
    assert batch.positive_index.tolist() == [0] and get_ignore_mask(batch).tolist() == [[False]]


def test_truncation_is_reported():
    # The limits allow 4 words in a question, 6 in a passage, and 4 in a passage with title.
    batch = COLLATE(
        [
            example("a b c d", [passage("a b c d e f")], [passage("a b c d e f g"), passage("a b c d", title="Ants")]),
            example("a b c d e", [passage("a b c", title="Ants")]),
        ]
    )
    assert batch.questions.truncated.tolist() == [False, True]
    assert batch.passages.truncated.tolist() == [False, True, True, False]
    assert get_dropped_counts(batch) == (0, 0)


def test_no_examples_give_a_batch_without_questions():
    # Some ranks get no examples in a short last batch.
    batch = COLLATE([])
    one = COLLATE([example("a", [passage("b")])])
    for name, field in batch._asdict().items():
        if isinstance(field, torch.Tensor):
            assert (field.dtype, field.ndim, len(field)) == (getattr(one, name).dtype, getattr(one, name).ndim, 0)
    for tokens in (batch.questions, batch.passages):
        assert [field.shape[0] for field in tokens[:5]] == [0, 0, 0, 0, 0]
        assert tokens.input_ids.shape == tokens.attention_mask.shape == (0, 1)
    assert batch.counts == one.counts


def test_sources_belong_to_the_remaining_questions():
    batch = COLLATE([example(q, [passage("b")])._replace(source=n) for n, q in enumerate(["a", " ", "c"], start=1)])
    assert batch.sources.tolist() == [1, 3]


# ---- texts without tokens


def test_empty_negative_is_dropped():
    batch = COLLATE(
        [
            example("a", [passage("b")], [passage(" "), passage("c")]),
            example("d", [passage("e")], [], [passage("", title=" ")]),
            example("f", [passage("g")]),
        ]
    )
    assert decode_rows(batch.passages) == ["<s> b </s>", "<s> c </s>", "<s> e </s>", "<s> g </s>"]
    assert batch.positive_index.tolist() == [0, 2, 3]
    assert get_dropped_counts(batch) == (0, 2)


@pytest.mark.parametrize(
    ("question", "positive"), [pytest.param(" ", "c", id="question"), pytest.param("b", " ", id="positive")]
)
def test_empty_question_or_positive_drops_the_question(question, positive):
    batch = COLLATE(
        [
            example("a", [passage("b")], [passage("c")]),
            example(question, [passage(positive)], [passage("d"), passage("e")]),
            example("f", [passage("g")]),
        ]
    )
    assert decode_rows(batch.questions) == ["<s> a </s>", "<s> f </s>"]
    assert decode_rows(batch.passages) == ["<s> b </s>", "<s> c </s>", "<s> g </s>"]
    assert batch.positive_index.tolist() == [0, 2]
    assert len(batch.known_positives) == 2 and get_ignore_mask(batch).shape == (2, 3)
    assert get_dropped_counts(batch) == (1, 3)


def test_title_without_text_is_enough():
    batch = COLLATE([example("a", [passage(" ", title="Ants")])])
    assert get_dropped_counts(batch) == (0, 0)


def test_batch_in_which_no_question_has_tokens_is_empty():
    batch = COLLATE([example(" ", [passage("a")]), example("b", [passage(" ")], [passage("c")])])
    assert (len(batch.questions.input_ids), len(batch.passages.input_ids)) == (0, 0)
    assert get_dropped_counts(batch) == (2, 3)


def test_empty_texts_are_found_as_in_a_batch():
    assert COLLATE.find_empty_questions(["a", " "]).tolist() == [False, True]
    passages = [passage("a"), passage(" "), passage(" ", title="Ants")]
    assert COLLATE.find_empty_passages(passages).tolist() == [False, True, False]


def test_positives_of_the_same_question_are_not_its_negatives():
    # Both rows have the same question, so the positive of each row is a known positive of the other row.
    positives = [passage("b", "1"), passage("c", "2")]
    keys = [each.keys for each in positives]
    rows = [example("a", [each])._replace(same_question_positives=keys) for each in positives]
    batch = COLLATE([*rows, example("d", [passage("e")], [passage("c")])])
    assert get_ignore_mask(batch).tolist() == [[False, True, False, True], [True, False, False, True], [False] * 4]


def test_one_text_under_two_titles_is_two_passages():
    batch = COLLATE([example("a", [passage("b", title="Ants")], [passage("b", title="Bees"), passage("b")])])
    assert not get_ignore_mask(batch).any()
    assert len(set(batch.passage_keys[:, 1].tolist())) == 3


# ---- laws


def test_padding_of_known_positives_changes_nothing():
    few = example("a", [passage("b", "1")], [passage("c", "2")])
    many = example("d", [passage(letter, letter) for letter in "efgh"])
    alone, together = COLLATE([few]), COLLATE([few, many])
    assert alone.known_positives.shape == (1, 1, 2) and together.known_positives.shape == (2, 4, 2)
    mask = known_positive_mask(together.known_positives[:1], alone.passage_keys, alone.positive_index)
    assert mask.equal(get_ignore_mask(alone))


@settings(deadline=None, derandomize=True)
@given(st.data())
def test_matches_equal_nested_loops(data):
    small = st.integers(-3, 3)
    known = data.draw(st.lists(st.lists(st.tuples(small, small), min_size=2, max_size=2), max_size=4))
    keys = data.draw(st.lists(st.tuples(small, small), max_size=9))
    expected = [
        [any(key[0] == positive[0] or key[1] == positive[1] for positive in positives) for key in keys]
        for positives in known
    ]
    known, keys = (torch.tensor(values, dtype=torch.int64) for values in (known, keys))
    assert match_known_positives(known.reshape(len(known), 2, 2), keys.reshape(len(keys), 2)).tolist() == expected


def test_keys_are_the_same_in_every_process():
    # Ranks exchange the keys. Python's hash() would differ between processes.
    keys = COLLATE([example("a", [passage("b", "1")])]).passage_keys
    assert keys.dtype == torch.int64
    assert keys.tolist() == COLLATE([example("c", [passage("b", "1")])]).passage_keys.tolist()
    # The key hashes the length of the title, the title and the text: printf '0 b' | b2sum -l 64
    assert keys[0, 1].item() == int.from_bytes(bytes.fromhex("7c5e5fed80eb2dad"), "big", signed=True)


passages = st.builds(
    Passage,
    st.sampled_from(["", "", "1", "2", "a", "b"]),
    st.sampled_from(["", "", " ", "Ants", "Bees Cats"]),
    st.sampled_from(["a", "b", "1", "c d", "a b c d e f g", " ", ""]),
    st.none() | st.floats(width=32, allow_nan=False),
)
examples_lists = st.lists(
    st.builds(
        Example,
        st.sampled_from(["a", "b c", "a b c d e", " "]),
        st.just([]),
        st.lists(passages, min_size=1, max_size=3),
        st.lists(passages, max_size=3),
        st.lists(passages, max_size=2),
        st.integers(0, 3),
        st.integers(0, 9),
        st.none(),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(examples=examples_lists)
def test_batch_equals_nested_loops(examples):
    kept = [e for e in examples if e.question.strip() and has_words(e.positives[0])]
    if not kept:
        assert not len(COLLATE(examples).positive_index)
        return
    rows, positive_index = [], []  # rows: (number of the question, passage)
    for number, e in enumerate(kept):
        positive_index.append(len(rows))
        rows += [(number, p) for p in (e.positives[0], *e.hard_negatives, *e.other_negatives) if has_words(p)]
    ignore = [
        [
            row != positive_index[number] and any(is_same(p, positive) for positive in e.positives)
            for row, (_, p) in enumerate(rows)
        ]
        for number, e in enumerate(kept)
    ]
    total = sum(1 + len(e.hard_negatives) + len(e.other_negatives) for e in examples)

    batch = COLLATE(examples)
    assert decode_rows(batch.questions) == decode_rows(COLLATE.question_transform([e.question for e in kept]))
    texts = [(p.title, p.text) for _, p in rows]
    assert decode_all_passages(batch) == decode_rows(COLLATE.passage_transform(texts))
    assert len(batch.passages.input_ids) == len(set(texts))
    assert batch.positive_index.tolist() == positive_index
    assert get_ignore_mask(batch).tolist() == ignore
    assert batch.owner.tolist() == [number for number, _ in rows]
    assert batch.counts == {
        "questions left out, no tokens": len(examples) - len(kept),
        "passages left out, no tokens": total - len(rows),
    }


def decode_all_passages(batch: BiEncoderBatch) -> list[str]:
    """Return the text of each passage, also of passages that share a text."""
    texts = decode_rows(batch.passages)
    return [texts[row] for row in batch.text_index.tolist()]


def has_words(p: Passage) -> bool:
    return bool((p.title + p.text).strip())


def is_same(one: Passage, other: Passage) -> bool:
    return (one.title, one.text) == (other.title, other.text) or (one.passage_id == other.passage_id != "")
