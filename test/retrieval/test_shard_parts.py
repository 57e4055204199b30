"""Unfinished shards: rows that match their hash are kept, and all other rows are encoded again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test.retrieval.conftest import FixedEmbedder, write_shards
from text.datasets import PassageCollection
from text.errors import UsageError
from text.retrieval import encode_collection, encode_shards, plan_encoding, start_encoding
from text.retrieval.embedder import EmbeddedBatch
from text.retrieval.part_files import PartFile
from text.retrieval.shard_parts import ShardParts

NUM_ROWS = 22
OPTIONS: dict[str, Any] = {"shard_rows": 24, "block_rows": 4}  # One shard of six blocks; the last block has two rows.
ROWS = np.random.default_rng(0).normal(size=(NUM_ROWS, 5)).astype(np.float32)


class Killed(Exception):
    pass


class StoppingEmbedder(FixedEmbedder):
    """An embedder that encodes one text at a time, last text first, and stops after ``left`` texts."""

    def __init__(self, left: int = 1000) -> None:
        super().__init__(ROWS)
        self.left, self.encoded = left, list[int]()

    def embed_in_batches(self, tokens: Any, start: int = 0, **options: Any) -> Iterator[EmbeddedBatch]:
        for place in list(range(len(tokens.input_ids)))[::-1][start:]:
            if not self.left:
                raise Killed
            self.left -= 1
            self.encoded.append(int(tokens.input_ids[place]))
            yield EmbeddedBatch([place], self.embeddings[tokens.input_ids[place : place + 1]].float())


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "plan.json"}


@pytest.fixture(scope="module", params=["float16", "int8"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the embeddings of an uninterrupted encoding."""
    folder = tmp_path_factory.mktemp("finished")
    write_shards(folder, ROWS, dtype=request.param, **OPTIONS)
    return folder / "embeddings"


@pytest.fixture
def interrupted(finished: Path, tmp_path: Path) -> Path:
    """Interrupt an encoding after 14 of 22 texts: three blocks and half of the fourth block."""
    dtype = json.loads((finished / "plan.json").read_text())["dtype"]
    collection, embedder = finished.parent / "corpus.jsonl", StoppingEmbedder(14)
    plan = plan_encoding(PassageCollection(collection), embedder, dtype=dtype, **OPTIONS)
    folder = tmp_path / "begun"
    start_encoding(folder, plan)
    with pytest.raises(Killed):
        encode_shards(folder, plan, PassageCollection(collection), embedder, save_seconds=0)
    return folder


def resume(finished: Path, folder: Path) -> list[int]:
    """Resume the encoding, and return the rows that it encodes, in order."""
    embedder, dtype = StoppingEmbedder(), json.loads((finished / "plan.json").read_text())["dtype"]
    encode_collection(embedder, finished.parent / "corpus.jsonl", folder, dtype=dtype, **OPTIONS)
    assert read_files(folder) == read_files(finished)
    return embedder.encoded


def change_note(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    note = json.loads((folder / "shard-00000.progress").read_text())
    change(note)
    (folder / "shard-00000.progress").write_text(json.dumps(note))


def overwrite_row(folder: Path, suffix: str, row: int) -> None:
    """Change the last byte of a row."""
    path = folder / f"shard-00000{suffix}.part"
    values = bytearray(path.read_bytes())
    row_bytes = (len(values) - 128) // NUM_ROWS
    values[128 + (row + 1) * row_bytes - 1] ^= 1
    path.write_bytes(values)


def test_rows_that_match_their_hash_are_not_encoded_again(
    finished: Path, interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert resume(finished, interrupted) == [13, 12, 19, 18, 17, 16, 21, 20]
    assert "again" not in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".npy", ".cut.npy"])
def test_a_damaged_block_is_encoded_again_with_a_message(
    finished: Path, interrupted: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overwrite_row(interrupted, suffix, 5)
    capsys.readouterr()
    assert resume(finished, interrupted) == [7, 6, 5, 4, 13, 12, 19, 18, 17, 16, 21, 20]
    [line] = [line for line in capsys.readouterr().err.splitlines() if "again" in line]
    assert line.startswith(f"{interrupted}/shard-00000.npy.part: rows 4-7 ") and "shard-00000.progress" in line


def test_a_damaged_row_of_the_partial_block_is_encoded_again_with_a_message(
    finished: Path, interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overwrite_row(interrupted, ".npy", 15)  # Rows 15 and 14 of the fourth block are encoded.
    capsys.readouterr()
    assert resume(finished, interrupted)[:4] == [15, 14, 13, 12]
    [line] = [line for line in capsys.readouterr().err.splitlines() if "again" in line]
    assert line.startswith(f"{interrupted}/shard-00000.npy.part: 2 rows of 12-15 ")


def test_rows_written_after_the_last_save_are_ignored(
    finished: Path, interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in (12, 13, 16, 20, 21):
        overwrite_row(interrupted, ".npy", row)
    capsys.readouterr()
    assert resume(finished, interrupted) == [13, 12, 19, 18, 17, 16, 21, 20]
    assert "again" not in capsys.readouterr().err


ROW_BYTES = {"float16": 10, "int8": 5}


@pytest.mark.parametrize("num_rows", [0, 6, 20])
def test_a_truncated_file_keeps_its_complete_blocks(finished: Path, interrupted: Path, num_rows: int) -> None:
    dtype = json.loads((finished / "plan.json").read_text())["dtype"]
    os.truncate(interrupted / "shard-00000.npy.part", 128 + num_rows * ROW_BYTES[dtype])
    expected = {0: 22, 6: 18, 20: 8}  # Number of rows to encode again.
    assert len(resume(finished, interrupted)) == expected[num_rows]


def damage_header(folder: Path) -> None:
    with open(folder / "shard-00000.npy.part", "r+b") as file:
        file.write(b"x" * 128)


def lengthen(folder: Path) -> None:
    with open(folder / "shard-00000.cut.npy.part", "ab") as file:
        file.write(b"x" * 1000)


@pytest.mark.parametrize("damage", [damage_header, lengthen])
def test_headers_and_sizes_are_restored(finished: Path, interrupted: Path, damage: Callable[[Path], object]) -> None:
    damage(interrupted)
    assert len(resume(finished, interrupted)) == 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "shard-00000.npy.part").unlink(),
        lambda folder: (folder / "shard-00000.cut.npy.part").write_bytes(b""),
        lambda folder: (folder / "shard-00000.progress").write_text("{"),
        lambda folder: (folder / "shard-00000.progress").write_text('{"rows": 30}'),
        lambda folder: (folder / "shard-00000.progress").unlink(),
        lambda folder: change_note(folder, lambda note: note.update(blocks=["0" * 64] * 6, begun=None)),
        lambda folder: change_note(folder, lambda note: note["blocks"].append(note["blocks"][0])),
        lambda folder: change_note(folder, lambda note: note["blocks"].pop()),
    ],
)
def test_everything_is_encoded_again_if_nothing_matches(
    finished: Path, interrupted: Path, damage: Callable[[Path], object]
) -> None:
    damage(interrupted)
    assert sorted(resume(finished, interrupted)) == list(range(NUM_ROWS))


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note["blocks"].reverse(),
        lambda note: note["blocks"].__setitem__(4, note["blocks"][0]),
        lambda note: note["begun"]["rows"].reverse(),
        lambda note: note["begun"]["rows"].append(1),
        lambda note: note["begun"]["rows"].append(10**30),
        lambda note: note["begun"]["rows"].append(-1),
        lambda note: note["begun"].update(block=4),
        lambda note: note["begun"].update(block=10**30),
        lambda note: note["begun"].update(block=-3),
        lambda note: note.update(begun=None),
    ],
)
def test_a_changed_progress_file_is_not_trusted(
    finished: Path, interrupted: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    change_note(interrupted, change)
    assert len(resume(finished, interrupted)) >= 8


def test_parts_of_another_encoding_are_not_used(finished: Path, interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path / "other")
    plan = json.loads((interrupted / "plan.json").read_text())
    embedder, collection = StoppingEmbedder(), finished.parent / "corpus.jsonl"
    embedder.model_hashes = {"weights": "others"}
    other = tmp_path / "mixed"
    start_encoding(other, plan_encoding(PassageCollection(collection), embedder, dtype=plan["dtype"], **OPTIONS))
    for path in interrupted.glob("shard-*"):
        shutil.copy(path, other)
    encode_collection(embedder, collection, other, dtype=plan["dtype"], **OPTIONS)
    assert len(embedder.encoded) == NUM_ROWS


def test_a_file_that_is_truncated_during_encoding_is_repaired(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class TruncatingEmbedder(StoppingEmbedder):
        def embed_in_batches(self, tokens: Any, start: int = 0, **options: Any) -> Iterator[EmbeddedBatch]:
            if 13 in tokens.input_ids:
                os.truncate(tmp_path / "e" / "shard-00000.npy.part", 130)
            return super().embed_in_batches(tokens, start)

    embedder, dtype = TruncatingEmbedder(), json.loads((finished / "plan.json").read_text())["dtype"]
    encode_collection(embedder, finished.parent / "corpus.jsonl", tmp_path / "e", dtype=dtype, **OPTIONS)
    assert read_files(tmp_path / "e") == read_files(finished)
    assert len(embedder.encoded) > NUM_ROWS and "again" in capsys.readouterr().err


def test_a_disk_that_returns_other_bytes_raises(finished: Path, tmp_path: Path, monkeypatch: Any) -> None:
    write = PartFile.write
    monkeypatch.setattr(PartFile, "write", lambda self, first, numbers: write(self, first, numbers * 0 + 1))
    dtype = json.loads((finished / "plan.json").read_text())["dtype"]
    with pytest.raises(OSError) as error:
        encode_collection(StoppingEmbedder(), finished.parent / "corpus.jsonl", tmp_path / "e", dtype=dtype, **OPTIONS)
    assert error.value.errno == errno.EIO and error.value.filename == f"{tmp_path}/e/shard-00000.npy.part"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/null", path)])
def test_a_special_file_in_the_place_of_a_part_raises(
    finished: Path, interrupted: Path, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = interrupted / "shard-00000.npy.part"
    path.unlink()
    make(path)
    with pytest.raises(UsageError) as error:
        resume(finished, interrupted)
    assert str(path) in str(error.value)


def test_part_file_has_the_bytes_of_numpy_save(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float16).reshape(4, 3)
    file = PartFile(tmp_path / "a.npy", "float16", (4, 3))
    file.write(2, rows[2:])
    assert np.array_equal(file.read(range(1, 4)), np.concatenate([np.zeros((1, 3)), rows[2:]]))
    file.write(0, rows[:2])
    file.close()
    np.save(tmp_path / "b.npy", rows)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_hashes_of_equal_blocks_differ(tmp_path: Path) -> None:
    plan = write_shards(tmp_path, np.ones((8, 2), dtype=np.float32), shard_rows=8, block_rows=4).plan
    with ShardParts(tmp_path, plan, 0) as parts:
        values, _ = parts.resume(0)
        for block in (0, 1):
            parts.write(block, values)
        parts.save()
    note = json.loads((tmp_path / "shard-00000.progress").read_text())
    assert len(set(note["blocks"])) == 2 and note["begun"] is None
