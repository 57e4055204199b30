"""The folder of embeddings: which files are removed, and which folders, plans and manifests raise errors."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test.helpers import assert_one_line, save_model, write_collection
from test.retrieval.conftest import FixedEmbedder, write_shards
from text.artifacts import seal, write_json
from text.datasets import PassageCollection
from text.errors import ArtifactError, UsageError
from text.retrieval import (
    Embedder,
    EmbeddingShards,
    check_encoding_folder,
    encode_collection,
    open_index,
    plan_encoding,
    start_encoding,
)
from text.retrieval.plan import read_plan, write_plan

OPTIONS: dict[str, Any] = {"shard_rows": 8, "block_rows": 4}
FOREIGN = ("shard-x", "shard-1.npy", "shard-00003.npy", "shard-00000.npy.bak", "milvus.db", "notes.txt", "index-mine")


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def encode_rows(folder: Path, number: float, **options: Any) -> EmbeddingShards:
    """Encode 20 passages to three shards. All embeddings are the same number."""
    return write_shards(folder, np.full((20, 16), number, dtype=np.float32), **options)


def test_overwrite_removes_only_files_of_the_plan_and_prints_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    before = encode_rows(tmp_path, 1, dtype="int8")
    folder = before.folder
    assert open_index(before, index="Flat") is not None
    (folder / "index-mine").mkdir()
    (folder / "index-mine" / "index.json").write_text("{}")
    for name in FOREIGN[:-1]:
        (folder / name).write_text("mine")
    (folder / "shard-00001.npy.part").write_text("of a process that was killed")
    (folder / "shard-00002.progress").write_text("{}")
    expected = read_files(encode_rows(tmp_path / "one", 2).folder)
    capsys.readouterr()
    encode_rows(tmp_path, 2, overwrite=True)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{folder}: ")]
    assert all(name in line for name in FOREIGN)
    left = read_files(folder)
    assert [left.pop(name) for name in FOREIGN[:-1]] == [b"mine"] * 6
    assert left.pop("index-mine/index.json") == b"{}"
    left["plan.json"] = expected["plan.json"]  # It contains the path of the collection.
    assert left == expected


@pytest.mark.parametrize(
    "name", ["plan.json", "manifest.json", "shard-00001.json", "shard-00002.ids", "shard-00000.npy.part"]
)
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_special_file_in_the_place_of_embeddings_raises_before_any_removal(
    tmp_path: Path, name: str, kind: str
) -> None:
    folder = encode_rows(tmp_path, 1).folder
    (tmp_path / "elsewhere").write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"")
    (folder / name).unlink(missing_ok=True)
    if kind == "link":
        (folder / name).symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        os.mkfifo(folder / name)
    before = read_files(tmp_path)
    for overwrite in (False, True):
        with pytest.raises((UsageError, FileExistsError)) as error:
            encode_rows(tmp_path, 2, overwrite=overwrite)
        assert str(folder) in str(error.value) and name in str(error.value)
    assert read_files(tmp_path) == before


def test_nothing_is_removed_if_the_disk_is_too_small(tmp_path: Path) -> None:
    shards = encode_rows(tmp_path, 1)
    before = read_files(shards.folder)
    huge = shards.plan._replace(num_rows=10**12, collection=shards.plan.collection._replace(num_passages=10**12))
    with pytest.raises(OSError) as error:
        start_encoding(shards.folder, huge, overwrite=True)
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(shards.folder)
    assert read_files(shards.folder) == before
    with pytest.raises(OSError) as error:
        start_encoding(tmp_path / "new", huge)
    assert error.value.errno == errno.ENOSPC and list((tmp_path / "new").iterdir()) == []


def test_a_folder_with_other_files_raises(tmp_path: Path) -> None:
    shards = encode_rows(tmp_path, 1)
    for name in ("corpus.jsonl", "manifest.json", "config.json", "shard-00000.npy"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("{}")
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match=f"^{folder}: holds {name}"):
                start_encoding(folder, shards.plan, overwrite=overwrite)
        assert read_files(folder) == {name: b"{}"}
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=f"^{tmp_path}/file "):
        check_encoding_folder(tmp_path / "file" / "e")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".lock").touch()
    check_encoding_folder(tmp_path / "hidden")
    check_encoding_folder(tmp_path / "new" / "inner")
    assert not (tmp_path / "new").exists()


def test_a_folder_with_a_damaged_plan_is_not_changed(tmp_path: Path) -> None:
    shards = encode_rows(tmp_path, 1)
    path = shards.folder / "plan.json"
    path.write_bytes(path.read_bytes()[:-9])
    before = read_files(shards.folder)
    for overwrite in (False, True):
        with pytest.raises(ArtifactError) as error:
            encode_rows(tmp_path, 2, overwrite=overwrite)
        assert_one_line(error.value, path)
    assert read_files(shards.folder) == before


def test_embeddings_of_another_plan_raise(tmp_path: Path, collection: PassageCollection, model: Path) -> None:
    shards = encode_collection(model, collection, tmp_path / "e", **OPTIONS)
    other = Embedder.from_pretrained(save_model(tmp_path / "other", seed=1), "passage")
    with pytest.raises(
        ArtifactError, match=r"\(model files model.safetensors, question_encoder/model.safetensors differ\)"
    ):
        start_encoding(tmp_path / "e", plan_encoding(collection, other, **OPTIONS))
    embedder = Embedder.from_pretrained(model, "passage", max_length=20)
    with pytest.raises(ArtifactError, match=r"\(settings max_length: 32 -> 20\)"):
        start_encoding(tmp_path / "e", plan_encoding(collection, embedder, **OPTIONS))
    changed = write_collection(tmp_path / "corpus.jsonl", ["p0"], ["another text"])
    with pytest.raises(ArtifactError, match=r"collection sha256: .* -> "):
        start_encoding(tmp_path / "e", plan_encoding(changed, Embedder.from_pretrained(model, "passage"), **OPTIONS))
    start_encoding(tmp_path / "e", shards.plan)  # The same plan raises nothing.


HASH = "0" * 64


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_rows": 0}, "num_rows"),
        ({"num_rows": -(10**30)}, "num_rows"),
        ({"num_rows": 10**15}, "num_rows"),
        ({"embedding_dim": 10**9}, "embedding_dim"),
        ({"shard_rows": 0}, "shard_rows"),
        ({"block_rows": -4}, "block_rows"),
        ({"block_rows": 3}, "block_rows"),
        ({"num_rows": 21}, "num_rows"),
        ({"dtype": "float8"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"settings": {"similarity": "Cosine"}}, "settings.similarity"),
        ({"settings": {}}, "settings.similarity"),
        ({"collection": []}, "collection"),
        ({"model": {"model.safetensors": 1}}, "model"),
        ({"more": 1}, "more"),
        ({"num_rows": True}, "num_rows"),
        ({"sha256": HASH}, "sha256"),
        ({"shard_rows": 16}, "sha256"),
    ],
)
def test_an_invalid_plan_raises_and_names_the_key(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    path = encode_rows(tmp_path, 1).folder / "plan.json"
    changed = json.loads(path.read_text()) | changes
    write_json(path, changed if key == "sha256" else seal(changed))
    with pytest.raises(ArtifactError) as error:
        EmbeddingShards(path.parent)
    assert_one_line(error.value, path, key)


def test_a_plan_of_an_earlier_version_raises(tmp_path: Path) -> None:
    path = encode_rows(tmp_path, 1).folder / "plan.json"
    plan = json.loads(path.read_text())
    del plan["sha256"]
    path.write_text(json.dumps(plan))
    with pytest.raises(ArtifactError) as error:
        EmbeddingShards(path.parent)
    assert_one_line(error.value, path, "sha256", "earlier version")


def test_a_plan_survives_the_round_trip(tmp_path: Path) -> None:
    plan = encode_rows(tmp_path, 1).plan
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    other = plan._replace(collection=plan.collection._replace(path="elsewhere"))
    assert other.key == plan.key != plan._replace(block_rows=8).key


def change_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        write_json(folder / "manifest.json", manifest)

    return damage


def flip_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda folder: flip_bit(folder / "shard-00001.npy"), "shard-00001.npy"),
        (lambda folder: flip_bit(folder / "shard-00002.ids"), "shard-00002.ids"),
        (lambda folder: flip_bit(folder / "shard-00002.cut.npy"), "shard-00002.cut.npy"),
        (lambda folder: flip_bit(folder / "shard-00002.json"), "shard-00002.json"),
        (lambda folder: os.truncate(folder / "shard-00000.npy", 500), "shard-00000.npy"),
        (lambda folder: (folder / "shard-00001.npy").unlink(), "shard-00001.npy"),
        (lambda folder: make_fifo(folder / "shard-00001.npy"), "shard-00001.npy"),
        (lambda folder: make_fifo(folder / "manifest.json"), "manifest.json"),
        (lambda folder: make_fifo(folder / "shard-00001.json"), "shard-00001.json"),
        (lambda folder: make_fifo(folder / "plan.json"), "plan.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json"),
        (change_manifest(lambda manifest: manifest.update(plan="of another")), "manifest.json"),
        (change_manifest(lambda manifest: manifest.update(files={})), "manifest.json"),
        (change_manifest(lambda manifest: manifest["files"].update({"../x": {"bytes": 1, "sha256": HASH}})), "manif"),
        (change_manifest(lambda manifest: manifest["files"].pop("shard-00000.ids")), "manifest.json"),
    ],
)
def test_damage_is_found(tmp_path: Path, damage: Callable[[Path], object], name: str) -> None:
    folder = encode_rows(tmp_path, 1).folder
    damage(folder)
    with pytest.raises(ArtifactError, match=rf"^{folder}/{name}"):
        EmbeddingShards(folder)


def test_embeddings_without_a_manifest_raise(tmp_path: Path) -> None:
    folder = encode_rows(tmp_path, 1).folder
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=rf"^{folder}: no manifest.json"):
        EmbeddingShards(folder)


@pytest.mark.parametrize("name", ["shard-00001.npy", "shard-00001.ids", "shard-00000.cut.npy", "shard-00002.json"])
@pytest.mark.parametrize("is_finished", [False, True])
def test_a_damaged_finished_shard_is_encoded_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, is_finished: bool
) -> None:
    folder = encode_rows(tmp_path, 1).folder
    before = read_files(folder)
    if not is_finished:
        (folder / "manifest.json").unlink()
    flip_bit(folder / name)
    capsys.readouterr()
    encode_rows(tmp_path, 1)
    assert read_files(folder) == before
    [line] = [line for line in capsys.readouterr().err.splitlines() if "again" in line]
    assert line.startswith(f"{folder}/{name.partition('.')[0]}.") and ": " in line


def test_a_shard_of_another_encoding_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, embedder = encode_rows(tmp_path, 1).folder, FixedEmbedder(np.full((20, 16), 2, dtype=np.float32))
    embedder.model_hashes, other = {"weights": "others"}, tmp_path / "other"
    encode_collection(embedder, tmp_path / "corpus.jsonl", other, dtype="float32", **OPTIONS)
    before = read_files(folder)
    (folder / "manifest.json").unlink()
    for path in other.glob("shard-00001*"):
        shutil.copy(path, folder)
    encode_rows(tmp_path, 1)
    assert read_files(folder) == before
    assert f"{folder}/shard-00001.json: " in capsys.readouterr().err


def test_missing_renames_of_a_killed_process_are_completed(tmp_path: Path) -> None:
    folder = encode_rows(tmp_path, 1).folder
    before = read_files(folder)
    (folder / "manifest.json").unlink()
    (folder / "shard-00001.npy").rename(folder / "shard-00001.npy.part")
    (folder / "shard-00002.npy.part").write_text("of a process that was killed")

    class RefusingEmbedder(FixedEmbedder):
        def embed_in_batches(self, tokens: Any, start: int = 0, **options: Any) -> Any:
            raise AssertionError("Nothing is left to encode.")

    encode_collection(
        RefusingEmbedder(np.ones((20, 16), dtype=np.float32)),
        tmp_path / "corpus.jsonl",
        folder,
        dtype="float32",
        **OPTIONS,
    )
    assert read_files(folder) == before
