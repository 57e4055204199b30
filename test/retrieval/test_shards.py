"""Embeddings on disk: changes during use raise errors, and so do files with other content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test.helpers import assert_one_line
from test.retrieval.conftest import write_shards
from text.errors import ArtifactError
from text.retrieval import EmbeddingShards, open_collection, search_exact
from text.retrieval.mapped_files import MappedFile, map_array, read_array

ROWS = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
USES: list[Callable[[EmbeddingShards], object]] = [
    lambda shards: search_exact(shards, torch.ones(1, 64), 3),
    lambda shards: list(shards.iter_blocks(4)),
    lambda shards: shards.read_rows(np.array([0, 9, 19])),
    lambda shards: shards.check_unchanged(),
]
ID_USES: list[Callable[[EmbeddingShards], object]] = [
    lambda shards: search_exact(shards, torch.ones(1, 64), 20),
    lambda shards: list(shards.iter_passage_ids()),
    lambda shards: shards.get_passage_id(9),
    lambda shards: shards.get_passage_ids(np.array([9])),
    lambda shards: shards.check_unchanged(),
]


def overwrite(path: Path) -> None:
    """Change the last byte of a file, and keep its size."""
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(path, ns=(0, 0))  # Two writes may get the same modification time.


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize(
    "change", [lambda path: os.truncate(path, 1), lambda path: os.truncate(path, 10**5), overwrite]
)
def test_embeddings_that_change_during_use_raise(tmp_path: Path, dtype: str, change: Callable[[Path], object]) -> None:
    shards = write_shards(tmp_path, ROWS, dtype=dtype)
    path = shards.folder / "shard-00001.npy"
    change(path)
    for use in USES:
        with pytest.raises(ArtifactError) as error:
            use(shards)
        assert_one_line(error.value, path)


def test_ids_that_change_during_use_raise(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, ROWS)
    path = shards.folder / "shard-00001.ids"
    os.truncate(path, 0)
    for use in ID_USES:
        with pytest.raises(ArtifactError) as error:
            use(shards)
        assert_one_line(error.value, path)


def test_removed_or_renamed_embeddings_stay_usable(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, ROWS)
    expected = search_exact(shards, torch.ones(2, 64), 5)
    (shards.folder / "shard-00000.npy").rename(tmp_path / "elsewhere")
    shutil.rmtree(shards.folder)
    assert search_exact(shards, torch.ones(2, 64), 5) == expected
    shards.check_unchanged()


def test_a_changed_collection_raises(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, ROWS)
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(path.read_bytes() + b'{"_id": "more", "text": "oak"}\n')
    with pytest.raises(ArtifactError) as error:
        open_collection(shards)
    assert_one_line(error.value, path)


def make_writer(values: np.ndarray, version: tuple[int, int] = (1, 0)) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.lib.format.write_array(file, values, version)

    return write


EIGHT = np.zeros((8, 4), dtype=np.float32)


@pytest.mark.parametrize(
    "write",
    [
        make_writer(EIGHT.astype(np.float16)),
        make_writer(EIGHT.astype(">f4")),
        make_writer(EIGHT[:, :3]),
        make_writer(EIGHT[0]),
        make_writer(np.asfortranarray(EIGHT)),
        make_writer(EIGHT, (2, 0)),
        make_writer(np.array([["x"] * 4] * 8, dtype=object)),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x93NUMPY"),
        lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16),
        lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff" + b"[" * 65535),
        lambda path: path.write_bytes(b"PK\x03\x04"),
        lambda path: (make_writer(EIGHT)(path), os.truncate(path, 200)),
        lambda path: (make_writer(EIGHT)(path), os.truncate(path, 300)),
    ],
)
def test_invalid_arrays_raise(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "a.npy"
    make_writer(EIGHT)(path)
    assert np.array_equal(read_array(path, "float32", (8, 4)), EIGHT)
    write(path)
    readers: tuple[Any, ...] = (read_array, lambda path, *form: map_array(MappedFile(path), *form))
    for read in readers:
        with pytest.raises(ArtifactError) as error:
            read(path, "float32", (8, 4))
        assert_one_line(error.value, path)


def test_error_of_a_modified_file_names_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    make_writer(EIGHT)(path)
    file = MappedFile(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ArtifactError, match="modification time") as caught:
        file.check()
    assert_one_line(caught.value, path)
    os.truncate(path, 200)
    with pytest.raises(ArtifactError, match="200"):
        file.check()


def test_without_hashes_sizes_are_compared(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, ROWS).folder
    overwrite(folder / "shard-00001.npy")
    assert len(EmbeddingShards(folder, check_hashes=False)) == 20
    (folder / "shard-00001.ids").write_bytes(b"\xc3" * len((folder / "shard-00001.ids").read_bytes()))
    with pytest.raises(ArtifactError) as error:
        EmbeddingShards(folder, check_hashes=False)
    assert_one_line(error.value, folder / "shard-00001.ids")
