"""Tests of DPRDataPipe: same examples for any number of ranks and workers from any batch on; fingerprint of the data.

test_order.py tests the order itself.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data.datapipes.iter.sharding import SHARDING_PRIORITIES

from test.helpers import ByteTokenizer, record, records, write_jsonl
from text.datasets import DPRDataPipe, PassageCollection
from text.records import Example

Batches = list[list[Example]]


def read_epoch(pipe: DPRDataPipe, number: int, first_batch: int = 0) -> Batches:
    """Return the batches of an epoch from a batch on, which is found by its row, as in a checkpoint."""
    pipe.set_epoch(number, pipe.count_rows_before(number, first_batch))
    return list(pipe)


def read_all_shares(pipe: DPRDataPipe, world: int, workers: int, number: int, first_batch: int) -> Batches:
    """Join the shares of all ranks and workers to batches, as DataLoaders and a gather do."""
    ranks = []
    for rank in range(world):
        shares = []
        for worker in range(max(1, workers)):
            instance = copy.copy(pipe)
            instance.apply_sharding(world, rank, SHARDING_PRIORITIES.DISTRIBUTED)
            instance.apply_sharding(max(1, workers), worker, SHARDING_PRIORITIES.MULTIPROCESSING)
            shares.append(read_epoch(instance, number, first_batch))
        in_turn = chain.from_iterable(zip_longest(*shares))
        ranks.append([batch for batch in in_turn if batch is not None])
    assert len({len(batches) for batches in ranks}) == 1  # All ranks have the same number of steps.
    return [list(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", records(23, hard=3))


def build_pipe(kind: str, path: Path, batch_size: int = 5, **options: Any) -> DPRDataPipe:
    if kind == "sets":
        other = write_jsonl(path.with_name("other.jsonl"), records(9, hard=2))
        sets = {"rates": [0.7, 2.5], "one_set_per_batch": True}
        return DPRDataPipe([path, other], batch_size, train=True, sample_positives=True, seed=7, **sets, **options)
    if kind == "together":
        options["rows_together"] = 4
    pipe = DPRDataPipe(path, batch_size, train=True, sample_positives=True, seed=7, **options)
    if kind == "tokens":
        pipe.cache_tokens(ByteTokenizer())
    return pipe


def convert_arrays(batches: Batches) -> list[Any]:
    """Convert arrays to lists, so that batches can be compared."""
    return json.loads(json.dumps(batches, default=lambda array: array.tolist()))


@pytest.mark.parametrize("kind", ["rows", "sets", "tokens", "together"])
@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_same_examples_for_all_ranks_and_workers_from_every_step(
    path: Path, kind: str, world: int, workers: int
) -> None:
    pipe = build_pipe(kind, path)
    for number in range(3):
        whole = convert_arrays(read_epoch(pipe, number))
        assert sum(map(len, whole)) == pipe.num_rows
        for step in range(len(whole) + 1):
            assert convert_arrays(read_all_shares(pipe, world, workers, number, step)) == whole[step:]


@pytest.mark.parametrize("drop_last", [False, True])
def test_uneven_rows_give_all_ranks_equal_steps(path: Path, drop_last: bool) -> None:
    # 23 rows in batches of 8: the last batch has 7 rows, one fewer than there are ranks.
    pipe = build_pipe("rows", path, 8, drop_last=drop_last)
    batches = read_all_shares(pipe, 8, 2, 0, 0)
    assert [len(batch) for batch in batches] == ([8, 8] if drop_last else [8, 8, 7])
    assert pipe.counts["questions left out of each epoch by drop_last"] == (7 if drop_last else 0)


# Several sets


def build_pipe_of_two_sets(tmp_path: Path, sizes: tuple[int, int], **options: Any) -> DPRDataPipe:
    names = ["a", "b"]
    paths = [
        write_jsonl(tmp_path / f"{name}.jsonl", [record(f"{name}{i}", hard=5) for i in range(size)])
        for name, size in zip(names, sizes, strict=True)
    ]
    return DPRDataPipe(paths, 4, train=True, **options)


def test_copies_of_a_row_sample_negatives_independently(tmp_path: Path) -> None:
    pipe = build_pipe_of_two_sets(tmp_path, (8, 1), rates=[3, 1], num_hard_negatives=2)
    samples = Counter((e.question, tuple(p.passage_id for p in e.hard_negatives)) for batch in pipe for e in batch)
    assert max(samples.values()) < 3


def test_data_sets_in_files_of_the_same_name_get_different_names(tmp_path: Path) -> None:
    paths = []
    for name in ("nq", "squad"):
        (tmp_path / name).mkdir()
        paths.append(write_jsonl(tmp_path / name / "train.jsonl", records(2)))
    assert DPRDataPipe(paths, 2).names == ["nq/train.jsonl", "squad/train.jsonl"]
    (tmp_path / "other" / "nq").mkdir(parents=True)
    paths.append(write_jsonl(tmp_path / "other" / "nq" / "train.jsonl", records(2)))
    assert DPRDataPipe(paths, 2).names == [str(path) for path in paths]


def test_drop_last_drops_the_short_batch_of_each_set(tmp_path: Path) -> None:
    pipe = build_pipe_of_two_sets(tmp_path, (6, 5), one_set_per_batch=True, drop_last=True)
    assert [len(batch) for batch in pipe] == [4, 4]
    assert pipe.counts == {"questions left out of each epoch by drop_last": 3}


@pytest.mark.parametrize("one_set_per_batch", [False, True])
def test_examples_hold_the_number_of_their_data_set(tmp_path: Path, one_set_per_batch: bool) -> None:
    pipe = build_pipe_of_two_sets(tmp_path, (5, 6), rates=[2, 0.5], one_set_per_batch=one_set_per_batch)
    assert (pipe.rows_per_set, pipe.num_rows, pipe.names) == ([10, 3], 13, ["a", "b"])
    examples = [example for batch in pipe for example in batch]
    assert len(examples) == 13
    assert all(example.question == f"{'ab'[example.source]}{example.row}" for example in examples)


# Fingerprint


def test_fingerprint_depends_on_content_and_mix(path: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere" / "rows.jsonl"
    copied.parent.mkdir()
    copied.write_bytes(path.read_bytes())
    expected = DPRDataPipe(path, 4, train=True).fingerprint
    assert DPRDataPipe(copied, 8, train=True, seed=3).fingerprint == expected
    mixes: list[dict[str, Any]] = [
        {"rates": [2]},
        {"rows_together": 4},
        {"one_set_per_batch": True},
        {"drop_last": True},
    ]
    for mix in mixes:
        assert DPRDataPipe(path, 4, train=True, **mix).fingerprint != expected
    assert DPRDataPipe([path, path], 4, train=True).fingerprint != expected
    copied.write_bytes(path.read_bytes().replace(b"q17", b"q71"))
    assert DPRDataPipe(copied, 4, train=True).fingerprint != expected


def test_fingerprint_depends_on_the_passages(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "positive_ids": ["p"], "hard_negative_ids": []}])
    found = []
    for text in ("an oak", "an elm", "an oak"):
        write_jsonl(tmp_path / "passages.jsonl", [{"_id": "p", "text": text}])
        found.append(DPRDataPipe(rows, 1, passages=PassageCollection(tmp_path / "passages.jsonl")).fingerprint)
    assert found[0] == found[2] != found[1]
