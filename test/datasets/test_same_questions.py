"""Tests of rows with the same question: a positive of one row is never a negative of the others."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from test.helpers import ByteTokenizer, law, write_jsonl
from text.datasets import DPRDataPipe
from text.records import BiEncoderBatch, Example, Passage
from text.training import Objective, PassagePool
from text.transforms import BiEncoderCollator, Tokenize, known_positive_mask, train_tokenizer

QUESTIONS, POSITIVES = 4, 3


def row(question: str, positive: str, *hard: str) -> dict[str, Any]:
    return {
        "question": question,
        "positive_ctxs": [{"text": positive}],
        "hard_negative_ctxs": [{"text": text} for text in hard],
    }


def build_rows_with_one_positive() -> list[dict[str, Any]]:
    """Return rows whose hard negatives are another positive of the question and a true negative."""
    return [
        row(f"question {q}", f"positive {q} {p}", f"positive {q} {(p + 1) % POSITIVES}", f"negative {q} {p}")
        for p in range(POSITIVES)
        for q in range(QUESTIONS)
    ]


def collate(examples: list[Example]) -> BiEncoderBatch:
    tokenize = Tokenize(train_tokenizer(["question positive negative"], 300), 32)
    return BiEncoderCollator(tokenize, tokenize)(examples)


def build_perfect_embeddings(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings with one direction per question and its positives, and another for its negatives."""

    def direction(text: str) -> int:
        kind, number = text.split()[:2]
        return int(number) + QUESTIONS * (kind == "negative")

    passages = [p.text for e in examples for p in (e.positives[0], *e.hard_negatives, *e.other_negatives)]
    return tuple(
        F.one_hot(torch.tensor([direction(text) for text in texts]), 2 * QUESTIONS).float()
        for texts in ([e.question for e in examples], passages)
    )  # pyright: ignore[reportReturnType]


def test_a_perfect_model_has_a_perfect_score(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "valid.jsonl", build_rows_with_one_positive())
    for batch_size in (1, 5, 12):
        pool = PassagePool()
        for examples in DPRDataPipe(path, batch_size, num_hard_negatives=2):
            pool.add(collate(examples), *build_perfect_embeddings(examples))
        assert pool.compute_metrics()["mrr@10"] == pool.compute_metrics()["recall@1"] == 1.0
        assert pool.num_passages == 2 * QUESTIONS * POSITIVES


def test_the_loss_of_a_perfect_model_by_hand(tmp_path: Path) -> None:
    # The batch has 12 rows with 36 passages. The logit of a question's own positive is 1. The other 2 positives of the
    # question, and 3 hard negatives that are also its positives, are masked. The logit of the other 30 passages is 0.
    # The loss is log(e + 30) - 1.
    path = write_jsonl(tmp_path / "train.jsonl", build_rows_with_one_positive())
    [examples] = DPRDataPipe(path, 12, train=True, num_hard_negatives=2)
    questions, passages = build_perfect_embeddings(examples)
    losses = Objective()(collate(examples), questions, passages)
    torch.testing.assert_close(losses, (torch.tensor(1.0).exp() + 30).log().sub(1).expand(12))


def test_questions_that_differ_in_case_and_spaces_are_the_same(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", [row("Who  ate it?", "a"), row("who ate IT? ", "b"), row("who", "c")])
    [examples] = DPRDataPipe(path, 3)
    both = sorted(Passage("", "", text).keys for text in "ab")
    assert [example.same_question_positives for example in examples] == [both, both, None]


def test_questions_that_differ_in_unicode_form_are_the_same_but_not_in_punctuation(tmp_path: Path) -> None:
    rows = [
        row("Wie hei\u00dft das Caf\u00e9", "a"),
        row("wie heisst das cafe\u0301", "b"),
        row("wie hei\u00dft das caf\u00e9?", "c"),
    ]
    [examples] = DPRDataPipe(write_jsonl(tmp_path / "train.jsonl", rows), 3)
    assert [len(example.same_question_positives or ()) for example in examples] == [2, 2, 0]


def test_rows_of_several_files_can_have_the_same_question(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [row("q", name), row(f"only {name}", "d")]) for name in "ab"]
    [examples] = DPRDataPipe(paths, 4)
    assert [len(example.same_question_positives or ()) for example in examples] == [2, 0, 2, 0]


def test_token_cache_gives_the_same_known_positives(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", build_rows_with_one_positive())
    plain, cached = (DPRDataPipe(path, 5, train=True) for _ in range(2))
    cached.cache_tokens(ByteTokenizer())
    for ours, theirs in zip(plain, cached, strict=True):
        assert [e.same_question_positives for e in ours] == [e.same_question_positives for e in theirs]
        assert [[p.keys for p in e.hard_negatives] for e in ours] == [
            [p.keys for p in e.hard_negatives] for e in theirs
        ]


def test_unusable_row_is_ignored(tmp_path: Path) -> None:
    rows = [row("q", "a"), {"question": "q", "positive_ctxs": []}]
    [[example]] = DPRDataPipe(write_jsonl(tmp_path / "train.jsonl", rows), 2, max_skipped=0.5)
    assert example.same_question_positives is None


lists_of_rows = st.lists(
    st.builds(row, st.sampled_from(["q", "Q", "r", "s"]), st.sampled_from("abcd"), st.sampled_from("abcdxyz")),
    min_size=1,
    max_size=8,
)


@law
@given(lists_of_rows)
def test_known_positives_equal_a_join_by_question(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    answers = defaultdict[str, set[str]](set)
    for each in rows:
        answers[each["question"].casefold()].add(each["positive_ctxs"][0]["text"])
    [examples] = DPRDataPipe(write_jsonl(tmp_path / "rows.jsonl", rows), 8)
    batch = collate(examples)
    mask = known_positive_mask(batch.known_positives, batch.passage_keys, batch.positive_index)
    passages = [p.text for e in examples for p in (e.positives[0], *e.hard_negatives)]
    expected = [
        [text in answers[e.question.casefold()] and place != own for place, text in enumerate(passages)]
        for e, own in zip(examples, batch.positive_index.tolist(), strict=True)
    ]
    assert mask.tolist() == expected
