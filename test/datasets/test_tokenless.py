"""Tests of texts without tokens: they are found before the first batch, and skipped for any batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from test.helpers import ByteTokenizer, parse_place, record, write_jsonl
from text.datasets import DPRDataPipe, PassageCollection, leave_out_tokenless
from text.datasets.tokenless import find_tokenless
from text.errors import DataError
from text.transforms import BiEncoderCollator, Tokenize

ZERO_WIDTH = "\u200b\u200e"
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "oak", "?"]


def build_collator(unknown: str | None = "<unk>", prompt: str = "") -> BiEncoderCollator:
    """Build a collator that cleans up characters as BERT does. Without an unknown token, unknown letters vanish."""
    if unknown is None:
        model: Any = models.BPE({word: i for i, word in enumerate([*WORDS, "k", "o", "b"])}, [])
    else:
        model = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=unknown)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(WORDS[:4])
    tokenizer.normalizer = normalizers.BertNormalizer()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))  # pyright: ignore[reportAttributeAccessIssue]
    tokenize = Tokenize(tokenizer, 16, prompt)
    return BiEncoderCollator(tokenize, tokenize)


def build_contexts(*texts: str, title: str = "") -> list[dict[str, str]]:
    return [{"title": title, "text": text} for text in texts]


ROWS = [
    record("a oak", positive_ctxs=build_contexts("oak")),
    record(ZERO_WIDTH, positive_ctxs=build_contexts("oak a")),
    record("a", positive_ctxs=build_contexts(ZERO_WIDTH, "\u00ad")),
    record("???", positive_ctxs=build_contexts("!")),  # These have tokens, but no letter or digit.
    record("oak ?", positive_ctxs=build_contexts(ZERO_WIDTH, "oak")),
    record("oak a", positive_ctxs=build_contexts(ZERO_WIDTH, title="Oak")),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", ROWS)


def test_tokenless_rows_by_hand(path: Path) -> None:
    pipe = DPRDataPipe(path, 2, max_skipped=0.5)
    found = find_tokenless(pipe.files[0], build_collator())
    assert found.unusable == {1: "question: no tokens", 2: "no positive with tokens"}
    assert len(found.positives) == 1
    assert +found.counts == {"positives without tokens, left out": 1}
    assert found.rows == [4]


def test_negatives_are_counted_with_the_places_of_their_rows(tmp_path: Path) -> None:
    rows = [
        record(
            "oak",
            hard_negative_ctxs=build_contexts(ZERO_WIDTH, "a", "?"),
            negative_ctxs=build_contexts("\u00ad", ZERO_WIDTH),
        ),
        record("oak a", hard_negative_ctxs=build_contexts(ZERO_WIDTH, title="oak")),
        record("a", hard_negative_ctxs=build_contexts("oak", ZERO_WIDTH)),
        record("? a"),
    ]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    pipe = DPRDataPipe(path, 4, train=True, num_hard_negatives=2, num_other_negatives=2)
    [line] = leave_out_tokenless({"train": pipe}, build_collator())
    assert pipe.counts["negatives without tokens, left out"] == 4
    assert line.startswith("train: 4 negatives without tokens") and not pipe.skipped
    assert [f"{path}:{number} (byte " in line for number in (1, 2, 3, 4)] == [True, False, True, False]


def test_passage_with_a_title_and_an_invisible_text_is_counted(path: Path) -> None:
    counts = DPRDataPipe(path, 2, max_skipped=0.5).counts
    assert counts["passages with a title and an invisible text"] == 1


def test_negatives_of_compact_rows_are_counted_too(tmp_path: Path) -> None:
    texts = {"1": "oak", "2": ZERO_WIDTH, "3": "a"}
    collection = write_jsonl(tmp_path / "passages.jsonl", [{"_id": name, "text": text} for name, text in texts.items()])
    path = write_jsonl(
        tmp_path / "rows.jsonl", [{"question": "a", "positive_ids": ["1"], "hard_negative_ids": ["2", "3"]}]
    )
    pipe = DPRDataPipe(path, 1, passages=PassageCollection(collection))
    [line] = leave_out_tokenless({"valid": pipe}, build_collator())
    assert line.startswith("valid: 1 negatives without tokens") and f"{path}:1 (byte 0)" in line


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 6])
def test_same_rows_are_skipped_for_any_batch_size(path: Path, train: bool, batch_size: int) -> None:
    pipe = DPRDataPipe(path, batch_size, train=train, max_skipped=0.5)
    collate = build_collator()
    pipe.leave_out_tokenless(collate)
    batches = list(pipe)
    assert sorted(example.row for batch in batches for example in batch) == [0, 3, 4, 5]
    assert all(not any(count for name, count in collate(b).counts.items() if "questions" in name) for b in batches)
    assert (pipe.num_rows, len(pipe)) == (4, -(-4 // batch_size))
    assert pipe.counts["positives without tokens, left out"] == 1
    assert [(row.line, row.field) for row in pipe.skipped] == [(2, "question"), (3, "")]
    [positives] = [example.positives for batch in batches for example in batch if example.row == 4]
    assert [positive.text for positive in positives] == ["oak"]


def test_tokenless_rows_count_as_unusable(path: Path) -> None:
    pipe = DPRDataPipe(path, 2, max_skipped=0.3)
    with pytest.raises(DataError) as caught:
        pipe.leave_out_tokenless(build_collator())
    assert parse_place(caught.value, path)[::2] == (2, "question")


def test_prompt_does_not_count_as_tokens_of_a_text(path: Path) -> None:
    pipe = DPRDataPipe(path, 2, max_skipped=0.5)
    pipe.leave_out_tokenless(build_collator(prompt="a "))
    assert pipe.num_rows == 4


def test_all_rows_are_tokenized_if_the_tokenizer_drops_letters(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [record("oak"), record("\u0436"), record("k", positives=0)])
    pipe = DPRDataPipe(path, 2, max_skipped=0.7)
    pipe.leave_out_tokenless(build_collator(unknown=None))
    assert [row.line for row in pipe.skipped] == [2, 3]


def test_few_texts_are_tokenized_if_the_tokenizer_keeps_letters(path: Path) -> None:
    class CountingCollator(BiEncoderCollator):
        seen = 0

        def find_empty_questions(self, questions: Any) -> Any:
            self.seen += len(questions)
            return super().find_empty_questions(questions)

    tokenize = build_collator().question_transform
    collate = CountingCollator(tokenize, tokenize)
    pipe = DPRDataPipe(write_jsonl(path, [record(f"oak {i}") for i in range(50)]), 2)
    pipe.leave_out_tokenless(collate)
    assert collate.seen < 10  # Only the letters of the test for unknown tokens.


def test_lines_list_the_rows_of_each_stage(path: Path, tmp_path: Path) -> None:
    clean = write_jsonl(tmp_path / "clean.jsonl", ROWS[:1])
    pipes = {"train": DPRDataPipe(path, 2, train=True, max_skipped=0.5), "valid": DPRDataPipe(clean, 2)}
    [line] = leave_out_tokenless(pipes, build_collator())
    assert line.startswith("train: ") and all(f"{path}:{number} (byte " in line for number in (2, 3, 5))


def test_same_rows_are_skipped_with_a_token_cache(path: Path) -> None:
    plain, cached = (DPRDataPipe(path, 2, train=True, max_skipped=0.5) for _ in range(2))
    cached.cache_tokens(ByteTokenizer())
    for pipe in (plain, cached):
        pipe.leave_out_tokenless(build_collator())
    keys = [[[[p.keys for p in e.positives] for e in batch] for batch in pipe] for pipe in (plain, cached)]
    assert keys[0] == keys[1]
