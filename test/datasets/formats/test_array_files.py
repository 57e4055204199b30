"""Tests of ArrayFile: it returns the numbers that were written, or raises an error. No damage kills the process."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law
from text.datasets.formats.array_files import ArrayFile, check_ascending, is_in_range, write_arrays
from text.errors import ArtifactError, DataError

DTYPES = [np.uint8, np.int64, np.int32]
integers = st.lists(st.integers(0, 100), max_size=300)


@law
@given(st.tuples(integers, integers, integers))
def test_arrays_are_read_as_they_were_written(tmp_path: Path, arrays: tuple[list[int], ...]) -> None:
    path = tmp_path / "arrays"
    write_arrays(path, [np.array(each, dtype) for each, dtype in zip(arrays, DTYPES, strict=True)])
    columns = ArrayFile(path, DTYPES).columns
    for column, expected in zip(columns, arrays, strict=True):
        assert list(column) == column.read_all().tolist() == expected
        assert [column[place] for place in reversed(range(len(column)))] == expected[::-1]
        assert is_in_range(column, 101) and (not expected or not is_in_range(column, max(expected)))


@law
@given(st.lists(st.integers(-5, 5), max_size=2000), st.integers(-6, 6))
def test_find_returns_the_indices_of_a_number(tmp_path: Path, numbers: list[int], number: int) -> None:
    path = tmp_path / "arrays"
    write_arrays(path, [np.array(sorted(numbers), np.int64)])
    [column] = ArrayFile(path, [np.int64]).columns
    assert list(column.find(number)) == [place for place, each in enumerate(sorted(numbers)) if each == number]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_arrays(tmp_path / "arrays", [np.arange(10_000)])
    return tmp_path / "arrays"


def test_truncated_file_is_an_error(path: Path) -> None:
    [column] = ArrayFile(path, [np.int64]).columns
    os.truncate(path, 1000)
    with pytest.raises(DataError, match=str(path)):
        column[9_000]
    with pytest.raises(DataError, match=str(path)):
        column.slice(0, 9_000)
    assert column[3] == 3


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 1000), Path.unlink, lambda path: os.utime(path)])
def test_unpickling_refuses_a_changed_file(path: Path, damage) -> None:
    pickled = pickle.dumps(ArrayFile(path, [np.int64]).columns[0])
    assert pickle.loads(pickled)[77] == 77  # noqa: S301  this test wrote the pickle
    damage(path)
    with pytest.raises(DataError, match=str(path)):
        pickle.loads(pickled)  # noqa: S301


@pytest.mark.parametrize("lengths", [[-1], [1 << 62], [0], [9_999], [10_001]])
def test_lengths_that_do_not_fit_are_refused(path: Path, lengths: list[int]) -> None:
    content = path.read_bytes()[:-8]
    path.write_bytes(content + np.array(lengths, np.int64).tobytes())
    with pytest.raises(ArtifactError, match=str(path)):
        ArrayFile(path, [np.int64])


def test_offsets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrays"
    for numbers, fits in (([0, 3, 3, 7], True), ([0, 4, 3, 7], False), ([1, 7], False), ([0, 8], False), ([], False)):
        write_arrays(path, [np.array(numbers, np.int64)])
        [column] = ArrayFile(path, [np.int64]).columns
        if fits:
            check_ascending(column, 0, 7, path)
        else:
            with pytest.raises(ArtifactError, match=str(path)):
                check_ascending(column, 0, 7, path)


def test_threads_read_their_own_numbers(path: Path) -> None:
    [column] = ArrayFile(path, [np.int64]).columns
    wrong: list[int] = []

    def read(step: int) -> None:
        wrong.extend(place for place in range(0, 10_000, step) if column[place] != place)

    threads = [threading.Thread(target=read, args=(step,)) for step in (1, 33, 97, 511)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
