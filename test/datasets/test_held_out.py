"""Tests of holding out questions for validation: each question is on one side, and no row is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from test.helpers import law, record, records, write_jsonl
from text.datasets import DPRDataPipe, check_negatives, describe_split, find_same_data, hash_data, open_splits
from text.datasets.formats import jsonl
from text.datasets.held_out import draw_held_out
from text.errors import UsageError
from text.records import hash_question
from text.transforms import BiEncoderCollator, Tokenize, train_tokenizer

MASK = (1 << 64) - 1


def splitmix(state: int, seed: int) -> int:
    """Return the SplitMix64 hash of a state that is advanced by the seed."""
    value = (state + (seed + 1) * 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def draw_in_plain_python(rows: list[tuple[str, str]], share: float, seed: int) -> set[int]:
    """Return the numbers of the held-out rows. A row is a question and its id, which may be empty."""
    groups: list[set[int]] = []
    for number, (question, question_id) in enumerate(rows):
        joined = {number}
        for group in list(groups):
            others = [rows[each] for each in group]
            is_same = any(
                hash_question(question) == hash_question(other) or (question_id and question_id == other_id)
                for other, other_id in others
            )
            if is_same:
                groups.remove(group)
                joined |= group
        groups.append(joined)
    groups.sort(key=lambda group: splitmix(min(hash_question(rows[each][0]) for each in group) & MASK, seed))
    return {number for group in groups[: round(share * len(groups))] for number in group}


def to_records(rows: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return rows with different passages, so that the positive identifies the row."""
    return [
        {"question": question, "qid": question_id, "positive_ctxs": [{"text": f"passage {number}"}]}
        for number, (question, question_id) in enumerate(rows)
    ]


def read_numbers(pipe: DPRDataPipe) -> set[int]:
    return {int(example.positives[0].text.split()[1]) for batch in pipe for example in batch}


row_values = st.tuples(st.sampled_from([f"q{n}" for n in range(9)]), st.sampled_from(["", "", "1", "2", "3"]))


@law
@given(st.lists(row_values, min_size=1, max_size=14), st.floats(0.01, 0.99), st.integers(0, 3), st.integers(0, 13))
def test_held_out_rows_equal_those_of_plain_python(
    tmp_path: Path, rows: list[tuple[str, str]], share: float, seed: int, cut: int
) -> None:
    expected = draw_in_plain_python(rows, share, seed)
    content = to_records(rows)
    parts = [
        part for part in (content[:cut], content[cut:]) if part
    ]  # The choice is the same for one file and for two.
    paths = [write_jsonl(tmp_path / f"{number}.jsonl", part) for number, part in enumerate(parts)]
    pipe = DPRDataPipe(paths, 3, train=True, seed=seed)
    if not 0 < len(expected) < len(rows):
        with pytest.raises(UsageError, match="valid_share"):
            pipe.split(share)
        return
    train, valid = pipe.split(share)
    assert read_numbers(valid) == expected
    assert read_numbers(train) == set(range(len(rows))) - expected
    assert (train.num_rows, valid.num_rows) == (len(rows) - len(expected), len(expected))


def test_rows_with_the_same_question_or_id_stay_together(tmp_path: Path) -> None:
    # Rows 0 and 1 have the same question, rows 1 and 2 the same id, and rows 2 and 3 the same question. The others are
    # separate groups.
    rows = [("Who ate it?", ""), ("who ate  it?", "7"), ("who did", "7"), ("WHO DID", "8"), ("what", "9"), ("why", "")]
    pipe = DPRDataPipe(write_jsonl(tmp_path / "rows.jsonl", to_records(rows)), 2, train=True)
    for share, num_groups in ((0.34, 1), (0.66, 2)):
        _, valid = pipe.split(share)
        held_out = read_numbers(valid)
        assert held_out & {0, 1, 2, 3} in (set(), {0, 1, 2, 3})
        assert len(held_out - {0, 1, 2, 3}) + bool(held_out & {0}) == num_groups


def test_choice_depends_on_the_seed_and_not_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = records(40)
    orders = {"forth": rows, "back": rows[::-1]}
    pipes = {name: write_jsonl(tmp_path / f"{name}.jsonl", each) for name, each in orders.items()}

    def held_out(name: str, seed: int) -> set[str]:
        _, valid = DPRDataPipe(pipes[name], 4, train=True, seed=seed).split(0.25)
        return {example.question for batch in valid for example in batch}

    assert held_out("forth", 1) == held_out("back", 1) != held_out("forth", 2)
    assert len(held_out("forth", 1)) == 10


def test_training_samples_negatives_and_validation_takes_the_first(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", records(20, hard=6))
    pipe = DPRDataPipe(path, 4, train=True, sample_positives=True, rates=[2], drop_last=True)
    train, valid = pipe.split(0.3, num_hard_negatives=5, num_other_negatives=0)
    assert (train.num_rows, train.num_hard_negatives, train.train) == (28, 1, True)
    examples = [example for batch in valid for example in batch]
    assert [example.row for example in examples] == sorted(example.row for example in examples)
    assert len(examples) == 6  # The short last batch is kept, and each row occurs once.
    for example in examples:
        assert [passage.passage_id for passage in example.hard_negatives] == [
            f"{example.question}-{i}" for i in range(5)
        ]
    train.set_epoch(1)
    whole = [example.question for batch in train for example in batch]
    assert [
        example.question for batch in DataLoader(train, batch_size=None, num_workers=2) for example in batch
    ] == whole
    train.set_epoch(1, start_row=8)
    assert [example.question for batch in train for example in batch] == whole[8:]


def test_fingerprint_depends_on_the_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", records(20))
    pipe, again = (DPRDataPipe(path, 4, train=True) for _ in range(2))
    prints = [pipe.fingerprint, *(part.fingerprint for share in (0.2, 0.3) for part in pipe.split(share))]
    assert len(set(prints)) == 5
    assert [part.fingerprint for part in again.split(0.2)] == prints[1:3]


def test_split_of_a_file_with_a_sidecar_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = to_records([(f"q{n}", f"{n // 3}") for n in range(30)])
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    expected = read_numbers(DPRDataPipe(path, 4, train=True).split(0.4)[1])
    for name in ("text.datasets.dpr_file.INDEXED_BYTES", f"{jsonl.__name__}.INDEXED_BYTES"):
        monkeypatch.setattr(name, 1)
    for _ in range(2):  # The second pass loads the sidecar.
        assert read_numbers(DPRDataPipe(path, 4, train=True).split(0.4)[1]) == expected
    assert all(len({n // 3 * 3 + i for i in range(3)} & expected) in (0, 3) for n in range(30))


def test_unusable_rows_and_texts_without_tokens_belong_to_one_side(tmp_path: Path) -> None:
    rows = [*records(9), record("q9", positives=0), record("", positives=1), record("\u200b")]
    path = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    pipes = open_splits({"train": [path]}, batch_size=4, valid_share=0.5, max_skipped=0.5, seed=2)
    assert {stage: len(pipe.skipped) for stage, pipe in pipes.items()} == {"train": 2, "valid": 0}
    assert list(pipes) == ["train", "valid"]
    tokenize = Tokenize(train_tokenizer(pipes["train"].texts(), 300), 32)
    for pipe in pipes.values():
        pipe.leave_out_tokenless(BiEncoderCollator(tokenize, tokenize))
    assert sum(pipe.num_rows for pipe in pipes.values()) + sum(len(pipe.skipped) for pipe in pipes.values()) == 12
    check_negatives(pipes["train"])
    assert "in all rows of the file" not in describe_split("valid", pipes["valid"])


def test_training_and_validation_share_no_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", to_records([(f"q{n}", "") for n in range(10)]))
    train, valid = DPRDataPipe(path, 4, train=True).split(0.3)
    texts = [{text for text in pipe.texts() if text} for pipe in (train, valid)]
    assert not texts[0] & texts[1] and len(texts[0] | texts[1]) == 20


def test_token_cache_gives_the_same_batches(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", records(12))
    tokenize = Tokenize(train_tokenizer(DPRDataPipe(path, 4).texts(), 300), 32)
    collate = BiEncoderCollator(tokenize, tokenize)
    for pipe in DPRDataPipe(path, 4, train=True).split(0.3, num_hard_negatives=1, num_other_negatives=0):
        plain = [collate(batch) for batch in pipe]
        pipe.cache_tokens(tokenize)
        cached = [collate(batch) for batch in pipe]
        assert [batch.questions.input_ids.tolist() for batch in cached] == [
            batch.questions.input_ids.tolist() for batch in plain
        ]
        assert [batch.passages.input_ids.tolist() for batch in cached] == [
            batch.passages.input_ids.tolist() for batch in plain
        ]


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), 0.01, 0.99])
def test_share_that_leaves_a_side_empty_is_refused(tmp_path: Path, share: float) -> None:
    pipe = DPRDataPipe(write_jsonl(tmp_path / "rows.jsonl", records(10)), 4, train=True)
    with pytest.raises(UsageError, match=rf"{share}"):
        draw_held_out([file.index for file in pipe.files], share, 0)


def test_share_beside_a_validation_file_is_refused(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "rows.jsonl", records(10)))
    other = str(write_jsonl(tmp_path / "valid.jsonl", records(4)))
    with pytest.raises(UsageError, match=other):
        open_splits({"train": [path], "valid": [other]}, batch_size=4, valid_share=0.5)


def test_note_names_splits_with_the_same_rows(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", records(6))
    other = write_jsonl(tmp_path / "other.jsonl", records(5))
    (tmp_path / "copy.jsonl").write_bytes(one.read_bytes())

    def list_notes(**paths: Path) -> list[str]:
        return find_same_data(hash_data({name: DPRDataPipe(path, 2) for name, path in paths.items()}))

    assert list_notes(train=one, valid=other) == list_notes(train=one) == []
    assert len(list_notes(train=other, valid=one, test=tmp_path / "copy.jsonl")) == 1
    assert len(list_notes(train=one, valid=one, test=one)) == 3
    train, valid = DPRDataPipe(one, 2, train=True).split(0.5)
    assert find_same_data(hash_data({"train": train, "valid": valid})) == []
    assert len(find_same_data(hash_data({"train": train, "valid": valid, "test": DPRDataPipe(one, 2)}))) == 1
