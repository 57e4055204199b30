"""Tests of DPRDataPipe: the rows of each batch, for any number of workers and ranks."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _sharding_worker_init_fn
from torch.utils.data.datapipes.iter.sharding import SHARDING_PRIORITIES

from test.helpers import (
    ByteTokenizer,
    context,
    drop_fields,
    law,
    list_questions,
    parse_place,
    record,
    records,
    shared_file,
    write_jsonl,
)
from test.ranks import process_group
from text.datasets import DPRDataPipe, prefetch
from text.datasets.skipping import SkippedRow
from text.errors import DataError
from text.records import Example


def list_names(n: int) -> list[str]:
    """Return the questions of ``records(n)``."""
    return [f"q{i}" for i in range(n)]


def list_all_questions(batches: Iterable[list[Example]]) -> list[str]:
    return list(chain.from_iterable(list_questions(batches)))


def read_epoch(pipe: DPRDataPipe, number: int, start_row: int = 0) -> list[list[Example]]:
    pipe.set_epoch(number, start_row)
    return list(pipe)


def build_loader(pipe: Any, num_workers: int, **options: Any) -> DataLoader:
    return DataLoader(pipe, batch_size=None, num_workers=num_workers, **options)


def get_error_message(path: Path | Sequence[Path], batch_size: int = 2, **options: Any) -> str:
    """Return the message of the error that a pipe raises."""
    with pytest.raises(DataError, match=r"^.*$") as caught:  # The message is one line.
        DPRDataPipe(path, batch_size, **options)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@pytest.fixture
def eleven_rows(path: Path) -> Path:
    """Write eleven rows with five hard and four other negatives each."""
    return write_jsonl(path, records(11, hard=5, other=4))


# Batches of one process


def test_evaluation_by_hand(path: Path) -> None:
    write_jsonl(path, records(5))
    pipe = DPRDataPipe(path, 2)
    assert list_questions(pipe) == [["q0", "q1"], ["q2", "q3"], ["q4"]]
    assert (len(pipe), pipe.num_rows, pipe.skipped) == (3, 5, [])
    example = next(iter(pipe))[1]
    assert (example.question, example.answers) == ("q1", ["an answer"])
    assert [passage.passage_id for passage in example.positives] == ["q1+0"]
    assert [passage.passage_id for passage in example.hard_negatives] == ["q1-0"]
    assert example.other_negatives == []


def test_evaluation_keeps_the_order_of_the_file(eleven_rows: Path) -> None:
    for number in (0, 1):
        assert list_all_questions(read_epoch(DPRDataPipe(eleven_rows, 4, seed=number), number)) == list_names(11)


def test_training_order_depends_on_the_usable_rows_only(eleven_rows: Path, tmp_path: Path) -> None:
    expected = list_all_questions(read_epoch(DPRDataPipe(eleven_rows, 4, train=True, seed=5), 2))
    sampled = DPRDataPipe(eleven_rows, 4, train=True, seed=5, num_hard_negatives=3, sample_positives=True)
    assert list_all_questions(read_epoch(sampled, 2)) == expected != list_names(11)
    other = write_jsonl(tmp_path / "other.jsonl", records(11, hard=1, other=0))
    other.write_text("\n" + other.read_text())
    found = list_all_questions(read_epoch(DPRDataPipe(other, 4, train=True, seed=5), 2))
    assert sorted(found) == sorted(expected)


def test_iterating_again_gives_the_same_epoch(eleven_rows: Path) -> None:
    pipe = DPRDataPipe(eleven_rows, 4, train=True)
    orders = [list_all_questions(read_epoch(pipe, number)) for number in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    assert list_all_questions(read_epoch(pipe, 3)) == orders[3]
    assert list_all_questions(pipe) == orders[3]  # without set_epoch


@pytest.mark.parametrize("drop_last, length", [(False, 3), (True, 2)])
def test_length_by_hand(path: Path, drop_last: bool, length: int) -> None:
    write_jsonl(path, records(10))
    pipe = DPRDataPipe(path, 4, drop_last=drop_last)
    assert (len(pipe), len(list(pipe))) == (length, length)
    pipe.set_epoch(0, start_row=4)
    assert len(pipe) == length  # The length is that of the whole epoch.
    write_jsonl(path, records(8))
    assert len(DPRDataPipe(path, 4, drop_last=drop_last)) == 2


# Start within an epoch


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_start_row_gives_the_rest_of_the_epoch(eleven_rows: Path, train: bool, drop_last: bool) -> None:
    pipe = DPRDataPipe(eleven_rows, 2, train=train, drop_last=drop_last, sample_positives=True)
    whole = read_epoch(pipe, 3)
    assert len(whole) == (5 if drop_last else 6)
    for k in range(len(whole) + 1):
        assert pipe.count_rows_before(3, k) == min(2 * k, 11)
        assert read_epoch(pipe, 3, start_row=pipe.count_rows_before(3, k)) == whole[k:]
    assert read_epoch(pipe, 3) == whole


def test_start_row_with_two_workers(eleven_rows: Path) -> None:
    pipe = DPRDataPipe(eleven_rows, 2, train=True)
    whole = read_epoch(pipe, 1)
    for k in range(len(whole) + 1):
        pipe.set_epoch(1, start_row=pipe.count_rows_before(1, k))
        assert list(build_loader(pipe, 2)) == whole[k:]


@pytest.mark.parametrize("start_row", [1, 5, -1, -4, 12])
def test_start_row_within_a_batch_is_refused(eleven_rows: Path, start_row: int) -> None:
    pipe = DPRDataPipe(eleven_rows, 4)
    with pytest.raises(ValueError, match=f"start_row is {start_row}\\b.* epoch 0"):
        pipe.set_epoch(0, start_row)
    assert list_all_questions(pipe) == list_names(11)  # The pipe is unchanged.


# Workers


# torch warns about more workers than cores. This test does not need speed.
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
@pytest.mark.parametrize("train", [True, False])
def test_same_batches_for_any_number_of_workers(eleven_rows: Path, train: bool, num_workers: int) -> None:
    pipe = DPRDataPipe(eleven_rows, 2, train=train, num_hard_negatives=2, sample_positives=True)
    for number in (0, 1):
        expected = read_epoch(pipe, number)
        assert list(build_loader(pipe, num_workers)) == expected
    assert list(pipe) == expected  # The loader does not change the pipe.


def test_error_in_a_worker_keeps_its_message(eleven_rows: Path) -> None:
    pipe = DPRDataPipe(eleven_rows, 4)
    os.truncate(eleven_rows, pipe.files[0].rows.get_offset(9) + 5)
    with pytest.raises(DataError) as caught:
        list(pipe)
    sentence = str(caught.value)
    assert parse_place(sentence, eleven_rows) == (1, 0, "")
    with pytest.raises(DataError) as caught:
        list(build_loader(pipe, 1))
    assert sentence in str(caught.value).splitlines()[-1]


# Ranks


def interleave(shares: list[list[Any]]) -> list[Any]:
    """Take one item of each share in turn, as a DataLoader takes batches from its workers."""
    return [share[i] for i in range(max(map(len, shares))) for share in shares if i < len(share)]


def join_ranks(shares: list[list[list[Example]]]) -> list[list[Example]]:
    """Join the shares of all ranks to whole batches."""
    return [list(chain.from_iterable(parts)) for parts in zip(*shares, strict=True)]


def test_shares_by_hand(path: Path) -> None:
    write_jsonl(path, records(6))
    pipe = DPRDataPipe(path, 4)
    pipe.apply_sharding(2, 0)
    assert list_questions(pipe) == [["q0", "q1"], ["q4"]]
    pipe.apply_sharding(2, 1)
    assert list_questions(pipe) == [["q2", "q3"], ["q5"]]
    pipe.apply_sharding(1, 0)
    pipe.apply_sharding(2, 1, SHARDING_PRIORITIES.MULTIPROCESSING)
    assert list_questions(pipe) == [["q4", "q5"]]  # A worker takes whole batches.


@settings(law, max_examples=10)
@given(st.integers(1, 20), st.integers(1, 7), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3]))
def test_ranks_and_workers_make_the_batches_of_one_process(
    path: Path, num_rows: int, batch_size: int, num_ranks: int, num_workers: int
) -> None:
    write_jsonl(path, records(num_rows))
    pipe = DPRDataPipe(path, batch_size, train=True)
    expected = read_epoch(pipe, 1)
    shares = []
    for rank in range(num_ranks):
        pipe.apply_sharding(num_ranks, rank, SHARDING_PRIORITIES.DISTRIBUTED)
        batches = []
        for worker in range(num_workers):
            pipe.apply_sharding(num_workers, worker, SHARDING_PRIORITIES.MULTIPROCESSING)
            batches.append(list(pipe))
        shares.append(interleave(batches))
    assert join_ranks(shares) == expected
    # All ranks have the same number of steps, and their shares of a batch differ by at most one row.
    for parts in zip(*shares, strict=True):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("group", [SHARDING_PRIORITIES.DEFAULT, SHARDING_PRIORITIES.DISTRIBUTED])
def test_ranks_without_workers(eleven_rows: Path, num_ranks: int, group: SHARDING_PRIORITIES) -> None:
    pipe = DPRDataPipe(eleven_rows, 4, train=True)
    expected = read_epoch(pipe, 2)
    shares = []
    for rank in range(num_ranks):
        pipe.apply_sharding(num_ranks, rank, group)
        shares.append(list(pipe))
    assert join_ranks(shares) == expected


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_and_workers_as_torch_numbers_them(eleven_rows: Path, num_ranks: int) -> None:
    # The workers of a DataLoader call this torch function with the rank of their process group.
    pipe = DPRDataPipe(eleven_rows, 4, train=True)
    expected = read_epoch(pipe, 2)
    shares = []
    for rank in range(num_ranks):
        as_rank = partial(_sharding_worker_init_fn, None, num_ranks, rank)
        shares.append(list(build_loader(pipe, 2, worker_init_fn=as_rank)))
    assert join_ranks(shares) == expected


def _write_share(rank: int, num_ranks: int, pipe: DPRDataPipe, folder: Path) -> None:
    with process_group(rank, num_ranks, folder):
        for num_workers in (0, 2):
            share = list_questions(build_loader(pipe, num_workers))
            (folder / f"{num_workers}-{rank}.json").write_text(json.dumps(share))


def test_ranks_of_a_process_group(eleven_rows: Path, tmp_path: Path) -> None:
    pipe = DPRDataPipe(eleven_rows, 4, train=True)
    pipe.set_epoch(2)
    # The processes are forked, as data workers are, because importing torch again would take seconds.
    start_processes(_write_share, args=(2, pipe, tmp_path), nprocs=2, start_method="fork")
    for num_workers in (0, 2):
        shares = [json.loads((tmp_path / f"{num_workers}-{rank}.json").read_text()) for rank in range(2)]
        assert join_ranks(shares) == list_questions(pipe)


# Several files


def clear_places(batches: list[list[Example]]) -> list[list[Example]]:
    return [[example._replace(source=0, row=0) for example in batch] for batch in batches]


@pytest.mark.parametrize("train", [True, False])
def test_several_files_give_the_batches_of_one_file(tmp_path: Path, train: bool) -> None:
    lines = [json.dumps(row).encode() for row in records(8)]
    contents = [b"\n".join(lines[:3]) + b"\n\n", lines[3] + b"\n", b"\n".join(lines[4:])]
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes(b"".join(contents))
    pipes = [DPRDataPipe(given, 3, train=train) for given in (paths, [whole], whole, str(whole))]
    for pipe in pipes[1:]:
        assert clear_places(read_epoch(pipe, 1)) == clear_places(read_epoch(pipes[0], 1))
        assert list(pipe.texts()) == list(pipes[0].texts())
        assert pipe.counts == pipes[0].counts == {"blank lines, left out": 1}


def test_files_come_in_the_order_given(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [record(name)]) for name in "abc"]
    assert list_all_questions(DPRDataPipe([paths[2], paths[0], paths[1]], 2)) == ["c", "a", "b"]


# Choice of passages


def list_ids(passages: Iterable[Any]) -> list[str]:
    return [passage.passage_id for passage in passages]


@pytest.mark.parametrize("num_hard, num_other", [(0, 0), (1, 0), (3, 2), (5, 4), (9, 9)])
def test_evaluation_takes_the_first_negatives(eleven_rows: Path, num_hard: int, num_other: int) -> None:
    pipe = DPRDataPipe(
        eleven_rows, 4, num_hard_negatives=num_hard, num_other_negatives=num_other, sample_positives=True
    )
    for example in read_epoch(pipe, 1)[2]:
        q = example.question
        assert list_ids(example.hard_negatives) == [f"{q}-{i}" for i in range(5)][:num_hard]
        assert list_ids(example.other_negatives) == [f"{q}~{i}" for i in range(4)][:num_other]


@pytest.mark.parametrize("num_hard, num_other", [(0, 0), (1, 0), (3, 2), (5, 4), (9, 9)])
def test_training_samples_negatives_without_repetition(eleven_rows: Path, num_hard: int, num_other: int) -> None:
    pipe = DPRDataPipe(eleven_rows, 4, train=True, num_hard_negatives=num_hard, num_other_negatives=num_other)
    for batch in read_epoch(pipe, 1):
        for example in batch:
            q = example.question
            for passages, pool, n in (
                (example.hard_negatives, {f"{q}-{i}" for i in range(5)}, num_hard),
                (example.other_negatives, {f"{q}~{i}" for i in range(4)}, num_other),
            ):
                assert len(passages) == len(set(list_ids(passages))) == min(n, len(pool))
                assert set(list_ids(passages)) <= pool


def test_training_samples_negatives_anew_each_epoch(eleven_rows: Path) -> None:
    # In 300 epochs, each of the 5 hard negatives is drawn 120 times on average (standard deviation 8.5), and each of
    # the 4 other negatives 75 times (7.5).
    pipe = DPRDataPipe(eleven_rows, 11, train=True, num_hard_negatives=2, num_other_negatives=1)
    hard, other = Counter(), Counter()
    for number in range(300):
        example = next(example for example in read_epoch(pipe, number)[0] if example.question == "q3")
        hard.update(list_ids(example.hard_negatives))
        other.update(list_ids(example.other_negatives))
    assert set(hard) == {f"q3-{i}" for i in range(5)}
    assert all(85 < times < 155 for times in hard.values())
    assert set(other) == {f"q3~{i}" for i in range(4)}
    assert all(45 < times < 105 for times in other.values())


def test_rows_sample_independently_of_one_another(eleven_rows: Path) -> None:
    (batch,) = read_epoch(DPRDataPipe(eleven_rows, 11, train=True), 0)
    places = {example.hard_negatives[0].passage_id.split("-")[1] for example in batch}
    assert len(places) > 1


def test_sample_depends_on_seed(eleven_rows: Path) -> None:
    first, again, other = (
        {example.question: example for batch in DPRDataPipe(eleven_rows, 4, train=True, seed=seed) for example in batch}
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_training_keeps_the_gold_positive_first(path: Path) -> None:
    write_jsonl(path, records(3, positives=4))
    pipe = DPRDataPipe(path, 3, train=True)
    for number in range(5):
        for example in read_epoch(pipe, number)[0]:
            assert list_ids(example.positives) == [f"{example.question}+{i}" for i in range(4)]


def test_sample_positives_moves_a_random_positive_to_the_front(path: Path) -> None:
    # In 400 epochs, each of the 4 positives is first 100 times on average (standard deviation 8.7).
    write_jsonl(path, [record("q", positives=4)])
    pipe = DPRDataPipe(path, 1, train=True, sample_positives=True)
    first = Counter()
    for number in range(400):
        ((example,),) = read_epoch(pipe, number)
        chosen, *rest = list_ids(example.positives)
        first[chosen] += 1
        assert rest == [f"q+{i}" for i in range(4) if f"q+{i}" != chosen]
    assert set(first) == {f"q+{i}" for i in range(4)}
    assert all(65 < times < 135 for times in first.values())


def test_sample_positives_has_no_effect_in_evaluation(path: Path) -> None:
    write_jsonl(path, records(3, positives=4))
    pipe = DPRDataPipe(path, 3, sample_positives=True)
    for number in range(5):
        for example in read_epoch(pipe, number)[0]:
            assert example.positives[0].passage_id == f"{example.question}+0"


def test_texts_yields_all_texts_of_usable_rows(path: Path) -> None:
    rows = [record("a", positives=2, hard=1, other=0), record(""), record("b", hard=0, other=1)]
    write_jsonl(path, rows)
    pipe = DPRDataPipe(path, 1, train=True, num_hard_negatives=0, max_skipped=0.5)
    passages = [["a", "a+0", "a+1", "a-0"], ["b", "b+0", "b~0"]]
    expected = [
        text for q, *ids in passages for text in (q, *(f"{part} of {i}" for i in ids for part in ("title", "text")))
    ]
    assert list(pipe.texts()) == expected


# Errors, and rows and passages that are skipped and counted


def test_error_has_path_line_byte_and_field(path: Path) -> None:
    write_jsonl(path, [record("a"), record(question=True)])
    byte = path.read_bytes().index(b"\n") + 1
    assert parse_place(get_error_message(path), path) == (2, byte, "question")


def test_error_in_a_second_file_has_its_path(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / "a.jsonl", records(3)), tmp_path / "b.jsonl"]
    paths[1].write_text('\n{"query": "q"}\n')
    message = get_error_message(paths)
    assert parse_place(message, paths[1]) == (2, 1, "question")
    assert "query" in message


def test_syntax_error_has_its_byte(path: Path) -> None:
    path.write_bytes(b"\n{'question': 'q'}\n")
    assert parse_place(get_error_message(path), path) == (2, 2, "")


def test_blank_question_in_evaluation_is_refused(path: Path) -> None:
    write_jsonl(path, [record("a"), record(" ")])
    byte = path.read_bytes().index(b"\n") + 1
    assert parse_place(get_error_message(path, max_skipped=1), path) == (2, byte, "question")


def test_blank_question_in_training_is_skipped(path: Path) -> None:
    write_jsonl(path, [record("a"), record(" "), record("b")])
    byte = path.read_bytes().index(b"\n") + 1
    pipe = DPRDataPipe(path, 2, train=True, max_skipped=0.4)
    assert sorted(list_all_questions(pipe)) == ["a", "b"]
    assert pipe.skipped == [SkippedRow(str(path), 2, byte, "blank question")]


@pytest.mark.parametrize("train", [True, False])
def test_row_without_positive_is_skipped(path: Path, train: bool) -> None:
    write_jsonl(path, [record("a", positives=0), record("b"), drop_fields(record("c"), "positive_ctxs")])
    third = [i for i, byte in enumerate(path.read_bytes()) if byte == ord("\n")][1] + 1
    pipe = DPRDataPipe(path, 2, train=train, max_skipped=0.9)
    ((example,),) = pipe
    assert (example.question, list_ids(example.positives)) == ("b", ["b+0"])
    assert pipe.skipped == [
        SkippedRow(str(path), 1, 0, "no positive_ctxs"),
        SkippedRow(str(path), 3, third, "no positive_ctxs"),
    ]
    assert (pipe.num_rows, len(pipe)) == (1, 1)


def test_skipped_rows_of_several_files(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [record(name), record(positives=0)]) for name in "ab"]
    pipe = DPRDataPipe(paths, 2, max_skipped=0.5)
    assert [(row.path, row.line) for row in pipe.skipped] == [(str(paths[0]), 2), (str(paths[1]), 2)]
    assert list_questions(pipe) == [["a", "b"]]


def test_rows_with_fewer_negatives_than_asked_for_are_counted(path: Path) -> None:
    write_jsonl(path, [record("a", hard=3, other=2), record("b", hard=2, other=1), record("c", hard=0, other=0)])
    pipe = DPRDataPipe(path, 3, num_hard_negatives=3, num_other_negatives=1)
    assert [(len(row.hard_negatives), len(row.other_negatives)) for row in next(iter(pipe))] == [(3, 1), (2, 1), (0, 0)]
    assert pipe.counts == {
        "rows with fewer hard_negative_ctxs than asked for": 2,
        "rows with fewer negative_ctxs than asked for": 1,
    }


def test_missing_pools_and_skipped_passages_are_counted(path: Path) -> None:
    rows = [
        drop_fields(record("a"), "negative_ctxs"),
        record("b", hard_negative_ctxs=None),
        record("c", hard_negative_ctxs=[context("x"), {"text": ""}, context("c+0")]),
    ]
    pipe = DPRDataPipe(write_jsonl(path, rows), 3)
    assert pipe.counts == {
        "rows without negative_ctxs": 1,
        "rows without hard_negative_ctxs": 1,
        "rows with fewer hard_negative_ctxs than asked for": 1,
        "hard_negative_ctxs without text, left out": 1,
        "hard_negative_ctxs that are positives, left out": 1,
    }
    for number in range(3):
        assert list_ids(read_epoch(pipe, number)[0][2].hard_negatives) == ["x"]
    assert sum(pipe.counts.values()) == 5  # Passages are counted once, not in each epoch.


def test_blank_lines_are_counted(path: Path) -> None:
    path.write_text("\n" + json.dumps(record("a")) + "\n \n\r\n" + json.dumps(record("b")))
    pipe = DPRDataPipe(path, 2, max_skipped=0)  # Blank lines do not count as rows.
    assert list_questions(pipe) == [["a", "b"]]
    assert (pipe.counts, pipe.skipped) == ({"blank lines, left out": 3}, [])


# Sizes and limits


def test_empty_file_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    assert parse_place(get_error_message(path), path) == (1, 0, "")


def test_file_of_blank_lines_is_refused(path: Path) -> None:
    path.write_bytes(b"\n \n")
    assert get_error_message(path).startswith(f"{path}: ")


@pytest.mark.parametrize("max_skipped", [0.001, 1])
def test_file_without_usable_rows_is_refused_with_the_reasons(path: Path, max_skipped: float) -> None:
    write_jsonl(path, [record(""), record(positives=0), record(positives=0)])
    message = get_error_message(path, train=True, max_skipped=max_skipped)
    assert parse_place(message, path) == (1, 0, "")
    assert "3 of 3 rows" in message and "1 blank question, 2 no positive_ctxs" in message


def test_has_negatives_depends_on_the_pools_in_use(path: Path) -> None:
    write_jsonl(path, [record("a", hard=0, other=1)])
    assert not DPRDataPipe(path, 5).has_negatives
    assert not DPRDataPipe(path, 5, num_hard_negatives=7).has_negatives
    assert DPRDataPipe(path, 5, num_other_negatives=1).has_negatives
    write_jsonl(path, [record("a", hard=0), record("b", hard=1)])
    assert DPRDataPipe(path, 5).has_negatives
    assert not DPRDataPipe(path, 5, num_hard_negatives=0).has_negatives


def test_more_ranks_than_rows_take_one_step_each(path: Path) -> None:
    write_jsonl(path, records(2))
    pipe = DPRDataPipe(path, 4)
    shares = []
    for rank in range(3):
        pipe.apply_sharding(3, rank)
        shares.append(list_questions(pipe))
    assert sorted(shares) == [[[]], [["q0"]], [["q1"]]]  # Each rank takes one step.


def test_drop_last_that_leaves_no_batch_is_refused(path: Path) -> None:
    write_jsonl(path, records(3))
    assert re.match(rf"{path}: 3 rows .*\b4\b.*drop_last", get_error_message(path, batch_size=4, drop_last=True))
    assert len(DPRDataPipe(path, 3, drop_last=True)) == 1


@pytest.mark.parametrize("n", [1, 2, 10])
@pytest.mark.parametrize("end", ["\n", "", "\n\n"])
def test_number_of_rows_is_exact(path: Path, n: int, end: str) -> None:
    path.write_text("\n".join(map(json.dumps, records(n))) + end)
    pipe = DPRDataPipe(path, 1)
    assert (pipe.num_rows, len(pipe), len(list(pipe))) == (n, n, n)


# One row in 1000 is the default limit of 0.001. A limit of 0.29 allows 29 rows in 100, although 0.29 * 100 < 29 in
# floating point.
@pytest.mark.parametrize(
    "num_bad, num_rows, options",
    [(1, 1000, {}), (1, 10, {"max_skipped": 0.1}), (0, 5, {"max_skipped": 0}), (29, 100, {"max_skipped": 0.29})],
)
def test_max_skipped_at_the_boundary(path: Path, num_bad: int, num_rows: int, options: dict[str, Any]) -> None:
    bad = [record(positives=0)] * num_bad
    pipe = DPRDataPipe(write_jsonl(path, [*bad, *records(num_rows - num_bad)]), 4, **options)
    assert (len(pipe.skipped), pipe.num_rows) == (num_bad, num_rows - num_bad)
    if num_bad:
        write_jsonl(path, [*bad, *records(num_rows - num_bad - 1)])
        message = get_error_message(path, **options)
        assert f"{num_bad} of {num_rows - 1} rows" in message and f"{num_bad} no positive_ctxs" in message
        assert f"{options.get('max_skipped', 0.001):.3%}" in message and "max_skipped" in message


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"rates": [1, 2]},
        {"num_hard_negatives": -1},
        {"num_other_negatives": -1},
        {"seed": -1},
        {"max_skipped": -0.1},
        {"max_skipped": 1.1},
        {"max_skipped": float("nan")},
    ],
)
def test_count_or_share_out_of_range_is_refused_by_name(tmp_path: Path, options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    for path in (
        write_jsonl(tmp_path / "rows.jsonl", records(2)),
        tmp_path / "missing.jsonl",
    ):  # Options are checked before files.
        with pytest.raises(ValueError, match=rf"^{name} is " + ("" if name == "rates" else f"{value}\\b")):
            DPRDataPipe(path, **{"batch_size": 2, "train": True, **options})


def test_empty_list_of_paths_is_refused() -> None:
    with pytest.raises(ValueError, match="paths"):
        DPRDataPipe([], 2)


# A file that changes after it was checked


@pytest.mark.parametrize("cached", [False, True])
def test_file_that_changes_between_epochs_is_refused(path: Path, cached: bool) -> None:
    write_jsonl(path, records(4))
    pipe = DPRDataPipe(path, 2)
    if cached:
        pipe.cache_tokens(ByteTokenizer())
    assert len(list(pipe)) == 2
    os.utime(path, ns=(1, 1))  # Only the time changes, not the size.
    for changed in (pipe, pipe.texts()):
        with pytest.raises(DataError, match=r"rows\.jsonl:1 \(byte 0\): "):
            list(changed)


def test_row_that_became_unusable_is_refused_though_size_and_time_are_the_same(path: Path) -> None:
    write_jsonl(path, records(4))
    pipe, status = DPRDataPipe(path, 2), path.stat()
    path.write_text(path.read_text().replace('"question": "q2"', '"question": "  "'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"rows\.jsonl:3 \(byte \d+\) blank question"):
        list(pipe)


def test_file_that_shrinks_while_it_is_read_is_refused(path: Path) -> None:
    write_jsonl(path, records(4))
    pipe = DPRDataPipe(path, 2)
    batches = iter(pipe)
    assert list_questions([next(batches)]) == [["q0", "q1"]]
    os.truncate(path, pipe.files[0].rows.get_offset(2))
    with pytest.raises(DataError, match=r"rows\.jsonl:3 \(byte \d+\): "):
        next(batches)


# With torch's and torchdata's pipes


def count_questions(batch: list[Example]) -> int:
    return len(batch)


def sort_by_question(examples: list[Example]) -> list[Example]:
    return sorted(examples)


def test_map_keeps_length_and_position(eleven_rows: Path) -> None:
    pipe = DPRDataPipe(eleven_rows, 4, train=True)
    sizes: Any = pipe.map(count_questions)
    assert (len(sizes), list(sizes)) == (3, [4, 4, 3])
    pipe.set_epoch(1, start_row=4)
    assert list(build_loader(sizes, 2)) == [4, 3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_prefetch_gives_the_same_batches(eleven_rows: Path, num_workers: int) -> None:
    pipe = DPRDataPipe(eleven_rows, 4, train=True)
    ahead = prefetch(pipe, 2)
    for number in (0, 1):
        expected = read_epoch(pipe, number)
        assert list(build_loader(ahead, num_workers)) == expected


def test_torchdata_methods(eleven_rows: Path) -> None:
    pytest.importorskip("torchdata")
    pipe: Any = DPRDataPipe(eleven_rows, 4, train=True)
    assert list(pipe.prefetch(2)) == list(pipe)
    single = pipe.unbatch()
    assert [example.question for example in single] == list_all_questions(pipe)
    buckets = list(single.bucketbatch(batch_size=3, batch_num=2, sort_key=sort_by_question, use_in_batch_shuffle=False))
    assert all(len(bucket) <= 3 for bucket in buckets)
    assert sorted(list_all_questions(buckets)) == sorted(list_names(11))
    for bucket in list_questions(buckets):
        assert all(a < b for a, b in pairwise(bucket))


# Files from other projects


@pytest.mark.parametrize("name, num_rows", [("nq_dev_10", 10), ("squad1_dev_10", 10)])
@pytest.mark.parametrize("train", [True, False])
def test_real_data(name: str, num_rows: int, train: bool) -> None:
    path = shared_file(f"dpr/{name}.jsonl")
    with path.open(encoding="utf-8") as file:
        rows = {row["question"]: row for row in map(json.loads, file)}
    pipe = DPRDataPipe(path, 4, train=train, num_hard_negatives=2)
    assert (pipe.num_rows, pipe.skipped, pipe.has_negatives) == (num_rows, [], True)
    examples = [example for batch in pipe for example in batch]
    assert len(examples) == num_rows
    assert {example.question for example in examples} == set(rows)
    for example in examples:
        row = rows[example.question]
        assert [(positive.title, positive.text) for positive in example.positives] == [
            (positive["title"], positive["text"]) for positive in row["positive_ctxs"]
        ]
        assert all(example.positives[0].passage_id for example in examples)
        assert len(example.hard_negatives) == 2


def test_real_rows_with_an_id_of_two_texts_are_refused() -> None:
    path = shared_file("dpr/dpr_scale_9.jsonl")
    with pytest.raises(DataError, match=r'passage id "2" is also the id of ') as caught:
        DPRDataPipe(path, 4)
    assert parse_place(caught.value, path)[::2] == (2, "positive_ctxs[0]")
