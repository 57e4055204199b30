"""DPRDataPipe: which rows come, in which batches, in any number of workers and ranks."""

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


def names(n: int) -> list[str]:
    """The questions of ``records(n)``."""
    return [f"q{i}" for i in range(n)]


def flat(batches: Iterable[list[Example]]) -> list[str]:
    return list(chain.from_iterable(list_questions(batches)))


def epoch(pipe: DPRDataPipe, number: int, start_row: int = 0) -> list[list[Example]]:
    pipe.set_epoch(number, start_row)
    return list(pipe)


def loader(pipe: Any, num_workers: int, **options: Any) -> DataLoader:
    return DataLoader(pipe, batch_size=None, num_workers=num_workers, **options)


def refusal(path: Path | Sequence[Path], batch_size: int = 2, **options: Any) -> str:
    with pytest.raises(DataError, match=r"^.*$") as caught:  # one line: "." is no newline
        DPRDataPipe(path, batch_size, **options)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@pytest.fixture
def eleven(path: Path) -> Path:
    """Eleven rows with five hard and four other negatives each."""
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


def test_evaluation_keeps_the_order_of_the_file(eleven: Path) -> None:
    for number in (0, 1):
        assert flat(epoch(DPRDataPipe(eleven, 4, seed=number), number)) == names(11)


def test_order_of_training_is_of_usable_rows(eleven: Path, tmp_path: Path) -> None:
    """It depends neither on the sampling of passages nor on other passages."""
    expected = flat(epoch(DPRDataPipe(eleven, 4, train=True, seed=5), 2))
    sampled = DPRDataPipe(eleven, 4, train=True, seed=5, num_hard_negatives=3, sample_positives=True)
    assert flat(epoch(sampled, 2)) == expected != names(11)
    other = write_jsonl(tmp_path / "other.jsonl", records(11, hard=1, other=0))
    other.write_text("\n" + other.read_text())
    found = flat(epoch(DPRDataPipe(other, 4, train=True, seed=5), 2))
    assert sorted(found) == sorted(expected)


def test_iterating_again_gives_the_same_epoch(eleven: Path) -> None:
    pipe = DPRDataPipe(eleven, 4, train=True)
    orders = [flat(epoch(pipe, number)) for number in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    assert flat(epoch(pipe, 3)) == orders[3]
    assert flat(pipe) == orders[3]  # without set_epoch


@pytest.mark.parametrize("drop_last, length", [(False, 3), (True, 2)])
def test_length_by_hand(path: Path, drop_last: bool, length: int) -> None:
    write_jsonl(path, records(10))
    pipe = DPRDataPipe(path, 4, drop_last=drop_last)
    assert (len(pipe), len(list(pipe))) == (length, length)
    pipe.set_epoch(0, start_row=4)
    assert len(pipe) == length  # of the whole epoch
    write_jsonl(path, records(8))
    assert len(DPRDataPipe(path, 4, drop_last=drop_last)) == 2


# Where an epoch begins


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_start_row_gives_the_rest_of_the_epoch(eleven: Path, train: bool, drop_last: bool) -> None:
    pipe = DPRDataPipe(eleven, 2, train=train, drop_last=drop_last, sample_positives=True)
    whole = epoch(pipe, 3)
    assert len(whole) == (5 if drop_last else 6)
    for k in range(len(whole) + 1):
        assert pipe.count_rows_before(3, k) == min(2 * k, 11)
        assert epoch(pipe, 3, start_row=pipe.count_rows_before(3, k)) == whole[k:]
    assert epoch(pipe, 3) == whole


def test_start_row_with_two_workers(eleven: Path) -> None:
    pipe = DPRDataPipe(eleven, 2, train=True)
    whole = epoch(pipe, 1)
    for k in range(len(whole) + 1):
        pipe.set_epoch(1, start_row=pipe.count_rows_before(1, k))
        assert list(loader(pipe, 2)) == whole[k:]


@pytest.mark.parametrize("start_row", [1, 5, -1, -4, 12])
def test_start_row_that_would_cut_other_batches(eleven: Path, start_row: int) -> None:
    pipe = DPRDataPipe(eleven, 4)
    with pytest.raises(ValueError, match=f"start_row is {start_row}\\b.* epoch 0"):
        pipe.set_epoch(0, start_row)
    assert flat(pipe) == names(11)  # as before


# Workers


# torch suggests no more workers than there are cores; here it is not about speed.
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
@pytest.mark.parametrize("train", [True, False])
def test_same_batches_for_any_number_of_workers(eleven: Path, train: bool, num_workers: int) -> None:
    pipe = DPRDataPipe(eleven, 2, train=train, num_hard_negatives=2, sample_positives=True)
    for number in (0, 1):
        expected = epoch(pipe, number)
        assert list(loader(pipe, num_workers)) == expected
    assert list(pipe) == expected  # the loader leaves the pipe as it was


def test_error_in_a_worker_keeps_its_sentence(eleven: Path) -> None:
    pipe = DPRDataPipe(eleven, 4)
    os.truncate(eleven, pipe.files[0].rows.get_offset(9) + 5)
    with pytest.raises(DataError) as caught:
        list(pipe)
    sentence = str(caught.value)
    assert parse_place(sentence, eleven) == (1, 0, "")
    with pytest.raises(DataError) as caught:
        list(loader(pipe, 1))
    assert sentence in str(caught.value).splitlines()[-1]


# Ranks


def interleaved(shares: list[list[Any]]) -> list[Any]:
    """One item of each share in turn, as a DataLoader takes batches from its workers."""
    return [share[i] for i in range(max(map(len, shares))) for share in shares if i < len(share)]


def joined(shares: list[list[list[Example]]]) -> list[list[Example]]:
    """The ranks' shares of each batch, put together."""
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
    assert list_questions(pipe) == [["q4", "q5"]]  # a worker takes whole batches


@settings(law, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 7), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3]))
def test_ranks_and_workers_make_the_batches_of_one_process(
    path: Path, num_rows: int, batch_size: int, num_ranks: int, num_workers: int
) -> None:
    write_jsonl(path, records(num_rows))
    pipe = DPRDataPipe(path, batch_size, train=True)
    expected = epoch(pipe, 1)
    shares = []
    for rank in range(num_ranks):
        pipe.apply_sharding(num_ranks, rank, SHARDING_PRIORITIES.DISTRIBUTED)
        batches = []
        for worker in range(num_workers):
            pipe.apply_sharding(num_workers, worker, SHARDING_PRIORITIES.MULTIPROCESSING)
            batches.append(list(pipe))
        shares.append(interleaved(batches))
    assert joined(shares) == expected
    # By construction no rank has more steps, nor as much as two rows more in a step.
    for parts in zip(*shares, strict=True):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("group", [SHARDING_PRIORITIES.DEFAULT, SHARDING_PRIORITIES.DISTRIBUTED])
def test_ranks_without_workers(eleven: Path, num_ranks: int, group: SHARDING_PRIORITIES) -> None:
    pipe = DPRDataPipe(eleven, 4, train=True)
    expected = epoch(pipe, 2)
    shares = []
    for rank in range(num_ranks):
        pipe.apply_sharding(num_ranks, rank, group)
        shares.append(list(pipe))
    assert joined(shares) == expected


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_and_workers_by_torchs_formula(eleven: Path, num_ranks: int) -> None:
    # A loader's workers call this function of torch, with the rank of their process group.
    pipe = DPRDataPipe(eleven, 4, train=True)
    expected = epoch(pipe, 2)
    shares = []
    for rank in range(num_ranks):
        as_rank = partial(_sharding_worker_init_fn, None, num_ranks, rank)
        shares.append(list(loader(pipe, 2, worker_init_fn=as_rank)))
    assert joined(shares) == expected


def _write_share(rank: int, num_ranks: int, pipe: DPRDataPipe, folder: Path) -> None:
    with process_group(rank, num_ranks, folder):
        for num_workers in (0, 2):
            share = list_questions(loader(pipe, num_workers))
            (folder / f"{num_workers}-{rank}.json").write_text(json.dumps(share))


def test_ranks_of_a_process_group(eleven: Path, tmp_path: Path) -> None:
    pipe = DPRDataPipe(eleven, 4, train=True)
    pipe.set_epoch(2)
    # Forked, as a loader's workers are: to import torch anew would take seconds.
    start_processes(_write_share, args=(2, pipe, tmp_path), nprocs=2, start_method="fork")
    for num_workers in (0, 2):
        shares = [json.loads((tmp_path / f"{num_workers}-{rank}.json").read_text()) for rank in range(2)]
        assert joined(shares) == list_questions(pipe)


# Several files


def without_place(batches: list[list[Example]]) -> list[list[Example]]:
    return [[example._replace(source=0, row=0) for example in batch] for batch in batches]


@pytest.mark.parametrize("train", [True, False])
def test_several_files_are_as_one(tmp_path: Path, train: bool) -> None:
    lines = [json.dumps(row).encode() for row in records(8)]
    contents = [b"\n".join(lines[:3]) + b"\n\n", lines[3] + b"\n", b"\n".join(lines[4:])]
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes(b"".join(contents))
    pipes = [DPRDataPipe(given, 3, train=train) for given in (paths, [whole], whole, str(whole))]
    for pipe in pipes[1:]:
        assert without_place(epoch(pipe, 1)) == without_place(epoch(pipes[0], 1))
        assert list(pipe.texts()) == list(pipes[0].texts())
        assert pipe.counts == pipes[0].counts == {"blank lines, left out": 1}


def test_files_come_in_the_order_given(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [record(name)]) for name in "abc"]
    assert flat(DPRDataPipe([paths[2], paths[0], paths[1]], 2)) == ["c", "a", "b"]


# Passages of a step


def ids(passages: Iterable[Any]) -> list[str]:
    return [passage.passage_id for passage in passages]


@pytest.mark.parametrize("num_hard, num_other", [(0, 0), (1, 0), (3, 2), (5, 4), (9, 9)])
def test_evaluation_takes_the_first_negatives(eleven: Path, num_hard: int, num_other: int) -> None:
    pipe = DPRDataPipe(eleven, 4, num_hard_negatives=num_hard, num_other_negatives=num_other, sample_positives=True)
    for example in epoch(pipe, 1)[2]:
        q = example.question
        assert ids(example.hard_negatives) == [f"{q}-{i}" for i in range(5)][:num_hard]
        assert ids(example.other_negatives) == [f"{q}~{i}" for i in range(4)][:num_other]


@pytest.mark.parametrize("num_hard, num_other", [(0, 0), (1, 0), (3, 2), (5, 4), (9, 9)])
def test_training_samples_negatives_without_repetition(eleven: Path, num_hard: int, num_other: int) -> None:
    pipe = DPRDataPipe(eleven, 4, train=True, num_hard_negatives=num_hard, num_other_negatives=num_other)
    for batch in epoch(pipe, 1):
        for example in batch:
            q = example.question
            for passages, pool, n in (
                (example.hard_negatives, {f"{q}-{i}" for i in range(5)}, num_hard),
                (example.other_negatives, {f"{q}~{i}" for i in range(4)}, num_other),
            ):
                assert len(passages) == len(set(ids(passages))) == min(n, len(pool))
                assert set(ids(passages)) <= pool


def test_training_samples_negatives_anew_each_epoch(eleven: Path) -> None:
    # 300 epochs, 2 of 5 and 1 of 4: each hard negative comes 120 times on average (standard
    # deviation 8.5), each other one 75 times (7.5).
    pipe = DPRDataPipe(eleven, 11, train=True, num_hard_negatives=2, num_other_negatives=1)
    hard, other = Counter(), Counter()
    for number in range(300):
        example = next(example for example in epoch(pipe, number)[0] if example.question == "q3")
        hard.update(ids(example.hard_negatives))
        other.update(ids(example.other_negatives))
    assert set(hard) == {f"q3-{i}" for i in range(5)}
    assert all(85 < times < 155 for times in hard.values())
    assert set(other) == {f"q3~{i}" for i in range(4)}
    assert all(45 < times < 105 for times in other.values())


def test_rows_sample_independently_of_one_another(eleven: Path) -> None:
    (batch,) = epoch(DPRDataPipe(eleven, 11, train=True), 0)
    places = {example.hard_negatives[0].passage_id.split("-")[1] for example in batch}
    assert len(places) > 1


def test_sample_depends_on_seed(eleven: Path) -> None:
    first, again, other = (
        {example.question: example for batch in DPRDataPipe(eleven, 4, train=True, seed=seed) for example in batch}
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_training_keeps_the_gold_positive_first(path: Path) -> None:
    write_jsonl(path, records(3, positives=4))
    pipe = DPRDataPipe(path, 3, train=True)
    for number in range(5):
        for example in epoch(pipe, number)[0]:
            assert ids(example.positives) == [f"{example.question}+{i}" for i in range(4)]


def test_sample_positives(path: Path) -> None:
    # 400 epochs: each of 4 positives is first 100 times on average, standard deviation 8.7.
    write_jsonl(path, [record("q", positives=4)])
    pipe = DPRDataPipe(path, 1, train=True, sample_positives=True)
    first = Counter()
    for number in range(400):
        ((example,),) = epoch(pipe, number)
        chosen, *rest = ids(example.positives)
        first[chosen] += 1
        assert rest == [f"q+{i}" for i in range(4) if f"q+{i}" != chosen]
    assert set(first) == {f"q+{i}" for i in range(4)}
    assert all(65 < times < 135 for times in first.values())


def test_sample_positives_is_for_training(path: Path) -> None:
    write_jsonl(path, records(3, positives=4))
    pipe = DPRDataPipe(path, 3, sample_positives=True)
    for number in range(5):
        for example in epoch(pipe, number)[0]:
            assert example.positives[0].passage_id == f"{example.question}+0"


def test_texts_are_all_texts(path: Path) -> None:
    rows = [record("a", positives=2, hard=1, other=0), record(""), record("b", hard=0, other=1)]
    write_jsonl(path, rows)
    pipe = DPRDataPipe(path, 1, train=True, num_hard_negatives=0, max_skipped=0.5)
    passages = [["a", "a+0", "a+1", "a-0"], ["b", "b+0", "b~0"]]
    expected = [
        text for q, *ids in passages for text in (q, *(f"{part} of {i}" for i in ids for part in ("title", "text")))
    ]
    assert list(pipe.texts()) == expected


# The schema: what is an error, and what is left out and counted


def test_error_has_path_line_byte_and_field(path: Path) -> None:
    write_jsonl(path, [record("a"), record(question=True)])
    byte = path.read_bytes().index(b"\n") + 1
    assert parse_place(refusal(path), path) == (2, byte, "question")


def test_error_in_a_second_file_has_its_path(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / "a.jsonl", records(3)), tmp_path / "b.jsonl"]
    paths[1].write_text('\n{"query": "q"}\n')
    message = refusal(paths)
    assert parse_place(message, paths[1]) == (2, 1, "question")
    assert "query" in message


def test_error_of_syntax_has_its_byte(path: Path) -> None:
    path.write_bytes(b"\n{'question': 'q'}\n")
    assert parse_place(refusal(path), path) == (2, 2, "")


def test_blank_question_in_evaluation_is_refused(path: Path) -> None:
    write_jsonl(path, [record("a"), record(" ")])
    byte = path.read_bytes().index(b"\n") + 1
    assert parse_place(refusal(path, max_skipped=1), path) == (2, byte, "question")


def test_blank_question_in_training_is_skipped(path: Path) -> None:
    write_jsonl(path, [record("a"), record(" "), record("b")])
    byte = path.read_bytes().index(b"\n") + 1
    pipe = DPRDataPipe(path, 2, train=True, max_skipped=0.4)
    assert sorted(flat(pipe)) == ["a", "b"]
    assert pipe.skipped == [SkippedRow(str(path), 2, byte, "blank question")]


@pytest.mark.parametrize("train", [True, False])
def test_row_without_positive_is_skipped(path: Path, train: bool) -> None:
    write_jsonl(path, [record("a", positives=0), record("b"), drop_fields(record("c"), "positive_ctxs")])
    third = [i for i, byte in enumerate(path.read_bytes()) if byte == ord("\n")][1] + 1
    pipe = DPRDataPipe(path, 2, train=train, max_skipped=0.9)
    ((example,),) = pipe
    assert (example.question, ids(example.positives)) == ("b", ["b+0"])
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


def test_missing_pools_and_left_out_passages_are_counted(path: Path) -> None:
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
        assert ids(epoch(pipe, number)[0][2].hard_negatives) == ["x"]
    assert sum(pipe.counts.values()) == 5  # counted once, not each epoch


def test_blank_lines_are_counted(path: Path) -> None:
    path.write_text("\n" + json.dumps(record("a")) + "\n \n\r\n" + json.dumps(record("b")))
    pipe = DPRDataPipe(path, 2, max_skipped=0)  # they are not rows
    assert list_questions(pipe) == [["a", "b"]]
    assert (pipe.counts, pipe.skipped) == ({"blank lines, left out": 3}, [])


# Scale and shape


def test_empty_file_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    assert parse_place(refusal(path), path) == (1, 0, "")


def test_file_of_blank_lines_is_refused(path: Path) -> None:
    path.write_bytes(b"\n \n")
    assert refusal(path).startswith(f"{path}: ")


@pytest.mark.parametrize("max_skipped", [0.001, 1])
def test_file_without_usable_rows_is_refused_with_the_reasons(path: Path, max_skipped: float) -> None:
    write_jsonl(path, [record(""), record(positives=0), record(positives=0)])
    message = refusal(path, train=True, max_skipped=max_skipped)
    assert parse_place(message, path) == (1, 0, "")
    assert "3 of 3 rows" in message and "1 blank question, 2 no positive_ctxs" in message


def test_has_negatives_is_of_the_pools_that_are_used(path: Path) -> None:
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
    assert sorted(shares) == [[[]], [["q0"]], [["q1"]]]  # one step each


def test_drop_last_that_leaves_no_batch_is_refused(path: Path) -> None:
    write_jsonl(path, records(3))
    assert re.match(rf"{path}: 3 rows .*\b4\b.*drop_last", refusal(path, batch_size=4, drop_last=True))
    assert len(DPRDataPipe(path, 3, drop_last=True)) == 1


@pytest.mark.parametrize("n", [1, 2, 10])
@pytest.mark.parametrize("end", ["\n", "", "\n\n"])
def test_number_of_rows_is_exact(path: Path, n: int, end: str) -> None:
    path.write_text("\n".join(map(json.dumps, records(n))) + end)
    pipe = DPRDataPipe(path, 1)
    assert (pipe.num_rows, len(pipe), len(list(pipe))) == (n, n, n)


# One row of 1000 is 0.001, the default; 29 of 100 is 0.29, though 0.29 * 100 < 29 in floats.
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
        message = refusal(path, **options)
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
    for path in (write_jsonl(tmp_path / "rows.jsonl", records(2)), tmp_path / "missing.jsonl"):  # before it is read
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
    os.utime(path, ns=(1, 1))  # the size is the same
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


def num_questions(batch: list[Example]) -> int:
    return len(batch)


def by_question(examples: list[Example]) -> list[Example]:
    return sorted(examples)


def test_map_keeps_length_and_position(eleven: Path) -> None:
    pipe = DPRDataPipe(eleven, 4, train=True)
    sizes: Any = pipe.map(num_questions)
    assert (len(sizes), list(sizes)) == (3, [4, 4, 3])
    pipe.set_epoch(1, start_row=4)
    assert list(loader(sizes, 2)) == [4, 3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_prefetch_gives_the_same_batches(eleven: Path, num_workers: int) -> None:
    pipe = DPRDataPipe(eleven, 4, train=True)
    ahead = prefetch(pipe, 2)
    for number in (0, 1):
        expected = epoch(pipe, number)
        assert list(loader(ahead, num_workers)) == expected


def test_torchdatas_own_methods(eleven: Path) -> None:
    pytest.importorskip("torchdata")
    pipe: Any = DPRDataPipe(eleven, 4, train=True)
    assert list(pipe.prefetch(2)) == list(pipe)
    single = pipe.unbatch()
    assert [example.question for example in single] == flat(pipe)
    buckets = list(single.bucketbatch(batch_size=3, batch_num=2, sort_key=by_question, use_in_batch_shuffle=False))
    assert all(len(bucket) <= 3 for bucket in buckets)
    assert sorted(flat(buckets)) == sorted(names(11))
    for bucket in list_questions(buckets):
        assert all(a < b for a, b in pairwise(bucket))


# Files that others made


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


def test_real_rows_whose_ids_stand_with_two_texts_are_refused() -> None:
    path = shared_file("dpr/dpr_scale_9.jsonl")
    with pytest.raises(DataError, match=r'passage id "2" is also the id of ') as caught:
        DPRDataPipe(path, 4)
    assert parse_place(caught.value, path)[::2] == (2, "positive_ctxs[0]")
