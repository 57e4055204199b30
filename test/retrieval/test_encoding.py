"""Encoding: the files on disk hold the encoder's output, also after interruptions and with several ranks."""

from __future__ import annotations

import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import multiprocessing

from test.helpers import save_model, texts, write_collection
from test.ranks import process_group
from test.retrieval.conftest import NUM_PASSAGES, FixedEmbedder, run_forked, write_shards
from text.datasets import PassageCollection
from text.errors import ArtifactError, DataError
from text.models import RobertaEncoder
from text.records import Passage, TokenBatch
from text.retrieval import (
    Embedder,
    EmbeddingShards,
    Retriever,
    encode_collection,
    encode_shards,
    finish_encoding,
    mean_cosine,
    plan_encoding,
    start_encoding,
)
from text.retrieval.embedder import EmbeddedBatch
from text.retrieval.shard_writer import quantize_embeddings
from text.transforms import Tokenize, load_tokenizer

OPTIONS: dict[str, Any] = {"shard_rows": 8, "block_rows": 4}  # 23 passages give three shards and six blocks.


def encode(folder: Path, collection: PassageCollection, model: Path, **options: Any) -> EmbeddingShards:
    return encode_collection(model, collection, folder, **OPTIONS | options)


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_embeddings_equal_those_of_the_encoder_one_by_one(
    tmp_path: Path, collection: PassageCollection, model: Path
) -> None:
    shards = encode(tmp_path / "e", collection, model, dtype="float32")
    encoder = RobertaEncoder.from_pretrained(model / "passage_encoder").eval()
    tokenize = Tokenize(load_tokenizer(model / "passage_encoder"), 32)
    with torch.no_grad():
        expected = [encoder(*tokenize([(passage.title, passage.text)])[:2])[0] for passage in collection]
    found = shards.read_rows(np.arange(NUM_PASSAGES))
    torch.testing.assert_close(torch.from_numpy(found), torch.stack(expected), rtol=0, atol=2e-6)
    assert list(shards.iter_passage_ids()) == [passage.passage_id for passage in collection]
    assert [shards.get_passage_id(row) for row in (0, 8, 22)] == ["p0", "p8", "p22"]
    assert np.array_equal(np.concatenate([block for _, block in shards.iter_blocks(5)]), found)
    assert [first for first, _ in shards.iter_blocks(5)] == [0, 5, 8, 13, 16, 21]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_float16_and_int8_are_close_to_float32(
    tmp_path: Path, collection: PassageCollection, model: Path, dtype: str
) -> None:
    expected = encode(tmp_path / "float32", collection, model, dtype="float32").read_rows(np.arange(NUM_PASSAGES))
    found = encode(tmp_path / dtype, collection, model, dtype=dtype).read_rows(np.arange(NUM_PASSAGES))
    bound = np.abs(expected).max(axis=1, keepdims=True) / (254 if dtype == "int8" else 2048)
    assert (np.abs(found - expected) <= bound * 1.001).all()


def test_titles_are_encoded_as_in_training(tmp_path: Path, model: Path) -> None:
    passage, joined = Passage("1", "oak", "a beetle ate"), Passage("1", "", "oak a beetle ate")
    pair = Embedder.from_pretrained(model, "passage")
    trained = Embedder.from_pretrained(save_model(tmp_path, seed=0, titles="join"), "passage")
    asked = Embedder.from_pretrained(model, "passage", titles="join")
    assert (pair.settings["titles"], trained.settings["titles"]) == ("pair", "join")
    assert torch.equal(trained([passage]), pair([joined])) and torch.equal(asked([passage]), pair([joined]))
    assert not torch.equal(pair([passage]), pair([joined]))


def test_hashes_cover_pickled_weights(tmp_path: Path, model: Path) -> None:
    found = []
    for name in ("a", "b"):
        shutil.copytree(model / "passage_encoder", tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        (tmp_path / name / "model.safetensors").unlink()
        torch.save(
            {key: value + (name == "b") for key, value in weights.items()}, tmp_path / name / "pytorch_model.bin"
        )
        found.append(Embedder.from_pretrained(tmp_path / name, "passage").model_hashes)
    assert found[0] != found[1]


def test_embedder_without_a_folder(tmp_path: Path, collection: PassageCollection, model: Path) -> None:
    folder = model / "passage_encoder"
    encoder, tokenize = RobertaEncoder.from_pretrained(folder), Tokenize(load_tokenizer(folder), 32)
    embedder = Embedder(encoder, tokenize)
    shards = encode_collection(embedder, collection, tmp_path / "e")
    [found] = Retriever(shards, embedder).search([texts(9)[8]], 3)
    assert len(found.passage_ids) == 3


@pytest.mark.parametrize(
    ("side", "options", "message"),
    [
        ("query", {}, 'side is "query"'),
        ("question", {"precision": "float8"}, 'precision is "float8"'),
        ("question", {"precision": "int8", "device": "cuda:0"}, 'precision "int8" .*"cuda:0"'),
        ("question", {"precision": "float16"}, 'precision "float16" .*"cpu"'),
        ("question", {"device": "cuda:99"}, 'device is "cuda:99"'),
    ],
)
def test_invalid_arguments_of_an_embedder_raise(model: Path, side: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Embedder.from_pretrained(model, side, **options)  # pyright: ignore[reportArgumentType]


def test_int8_by_hand() -> None:
    numbers, scales = quantize_embeddings(np.array([[1.27, -0.5, 0.004], [0, 0, 0]], dtype=np.float32))
    assert numbers.tolist() == [[127, -50, 0], [0, 0, 0]]
    assert scales[0] == pytest.approx(0.01)


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_several_ranks_write_the_same_bytes(
    tmp_path: Path, collection: PassageCollection, model: Path, num_ranks: int
) -> None:
    encode(tmp_path / "one", collection, model)
    embedder = Embedder.from_pretrained(model, "passage")
    plan = plan_encoding(collection, embedder, **OPTIONS)
    start_encoding(tmp_path / "many", plan)
    for rank in range(num_ranks):
        encode_shards(tmp_path / "many", plan, collection, embedder, rank=rank, num_ranks=num_ranks)
    finish_encoding(tmp_path / "many", plan)
    assert read_files(tmp_path / "many") == read_files(tmp_path / "one")


def encode_on_rank(rank: int, num_ranks: int, folder: Path, model: Path) -> None:
    torch.set_num_threads(1)
    with process_group(rank, num_ranks, folder):
        shards = encode_collection(model, folder / "corpus.jsonl", folder / "many", **OPTIONS)
        assert len(shards) == NUM_PASSAGES


def test_one_call_on_every_rank_writes_the_same_bytes(
    tmp_path: Path, collection: PassageCollection, model: Path
) -> None:
    encode(tmp_path / "one", collection, model)
    multiprocessing.spawn(encode_on_rank, (2, tmp_path, model), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    assert read_files(tmp_path / "many") == read_files(tmp_path / "one")


class Interrupted(Exception):
    pass


class BreakingEmbedder(Embedder):
    """An embedder that raises ``Interrupted`` at the batch number ``left``."""

    left = 0
    calls = 0

    def embed_in_batches(self, tokens: Any, start: int = 0, **options: Any) -> Iterator[EmbeddedBatch]:
        for piece in super().embed_in_batches(tokens, start, **options):
            self.left -= 1
            if self.left == 0:
                raise Interrupted
            self.calls += 1
            yield piece


def count_batches(model: Path, collection: PassageCollection, folder: Path, **options: Any) -> int:
    """Return the number of batches in an uninterrupted encoding."""
    embedder = BreakingEmbedder.from_pretrained(model, "passage")
    encode_collection(embedder, collection, folder, **OPTIONS | options)
    assert isinstance(embedder, BreakingEmbedder)
    return embedder.calls


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"dtype": "int8"}, {"block_rows": 8}])
def test_interruption_after_every_batch_gives_the_same_files(
    tmp_path: Path, collection: PassageCollection, model: Path, options: dict[str, Any]
) -> None:
    num_batches = count_batches(model, collection, tmp_path / "one", **options)
    embedder = BreakingEmbedder.from_pretrained(model, "passage")
    assert isinstance(embedder, BreakingEmbedder)
    plan = plan_encoding(collection, embedder, **OPTIONS | options)
    assert num_batches > plan.num_rows / plan.block_rows  # Each block has several batches.
    for embedder.left in [2] * num_batches:
        start_encoding(tmp_path / "many", plan)
        try:
            encode_shards(tmp_path / "many", plan, collection, embedder, save_seconds=0)
        except Interrupted:
            with pytest.raises(ArtifactError, match=r"many: no manifest.json"):
                EmbeddingShards(tmp_path / "many")
    finish_encoding(tmp_path / "many", plan)
    assert embedder.calls == num_batches  # No batch was encoded twice.
    assert read_files(tmp_path / "many") == read_files(tmp_path / "one")


def test_a_resumed_encoding_keeps_its_block_size(tmp_path: Path, collection: PassageCollection, model: Path) -> None:
    encode(tmp_path / "one", collection, model)
    embedder = BreakingEmbedder.from_pretrained(model, "passage")
    assert isinstance(embedder, BreakingEmbedder)
    embedder.left = 4
    with pytest.raises(Interrupted):
        encode_collection(embedder, collection, tmp_path / "e", **OPTIONS)
    shards = encode_collection(embedder, collection, tmp_path / "e", shard_rows=8, block_rows=8)
    assert shards.plan.block_rows == 4
    assert read_files(tmp_path / "e") == read_files(tmp_path / "one")


def test_truncated_texts_are_counted_after_an_interruption(tmp_path: Path, model: Path) -> None:
    # The limit is 32 tokens. A word has at least one token. The title and the special tokens add at least 7.
    contents = [" ".join(["oak"] * (40 if row % 3 == 0 else 1)) for row in range(10)]
    passages = write_collection(tmp_path / "c.jsonl", [str(row) for row in range(10)], contents)
    embedder = BreakingEmbedder.from_pretrained(model, "passage")
    assert isinstance(embedder, BreakingEmbedder)
    embedder.left = 6
    plan = plan_encoding(passages, embedder, **OPTIONS)
    start_encoding(tmp_path / "e", plan)
    with pytest.raises(Interrupted):
        encode_shards(tmp_path / "e", plan, passages, embedder, save_seconds=0)
    shards = encode_collection(model, passages, tmp_path / "e", **OPTIONS)
    assert shards.get_truncation_marks(np.arange(10)).tolist() == [1, 0, 0] * 3 + [1]
    assert shards.count_truncated() == 4
    # Reused embeddings keep the truncation marks of the earlier encoding.
    more = write_collection(tmp_path / "more.jsonl", ["new", *map(str, range(9, -1, -1))], ["oak", *contents[::-1]])
    shards = encode_collection(model, more, tmp_path / "more", **OPTIONS, reuse=shards)
    assert shards.get_truncation_marks(np.arange(11)).tolist() == [0] + [1, 0, 0] * 3 + [1]


def test_ids_with_line_breaks_and_spaces_survive_the_round_trip(tmp_path: Path) -> None:
    ids = ["a\nb", "\n", "c d", "\u2028", "e\r", "\n\nü"]
    shards = write_shards(tmp_path, np.ones((6, 3), dtype=np.float32), ids=ids)
    assert list(shards.iter_passage_ids()) == ids
    assert shards.get_passage_ids(np.array([3, 0, 5])) == [ids[3], ids[0], ids[5]]


@pytest.mark.slow
def test_kills_at_random_moments_give_the_same_files(
    tmp_path: Path, collection: PassageCollection, model: Path
) -> None:
    encode(tmp_path / "one", collection, model)
    embedder, random = Embedder.from_pretrained(model, "passage"), Random(0)
    plan = plan_encoding(collection, embedder, **OPTIONS)
    folder, killed = tmp_path / "many", 0
    embed_rows = embedder._embed_rows

    def embed_slowly(tokens: TokenBatch, rows: list[int], length: int) -> torch.Tensor:
        time.sleep(0.004)
        return embed_rows(tokens, rows, length)

    def work() -> None:
        start_encoding(folder, plan)
        embedder._embed_rows = embed_slowly
        encode_shards(folder, plan, collection, embedder, save_seconds=0)
        finish_encoding(folder, plan)

    while killed < 20:
        code = run_forked(work, random.uniform(0, 0.06))
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        if code == 0 or killed == 20:
            assert run_forked(work) == 0
            assert read_files(folder) == read_files(tmp_path / "one")
            shutil.rmtree(folder)


def test_a_full_disk_leaves_only_the_plan(tmp_path: Path, collection: PassageCollection, model: Path) -> None:
    embedder = Embedder.from_pretrained(model, "passage")
    plan = plan_encoding(collection, embedder, shard_rows=24, block_rows=4)

    def encode_without_space() -> None:
        start_encoding(tmp_path / "e", plan)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        encode_shards(tmp_path / "e", plan, collection, embedder)

    assert run_forked(encode_without_space) == 4
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == ["plan.json"]


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (np.inf, "int8"), (1e5, "float16")])
def test_an_embedding_that_is_not_finite_raises(tmp_path: Path, value: float, dtype: str) -> None:
    embeddings = np.ones((10, 3), dtype=np.float32)
    embeddings[9, 1] = value
    with pytest.raises(ArtifactError, match=rf"^passage p9: .* {dtype}"):
        write_shards(tmp_path, embeddings, dtype=dtype)


def test_an_overflow_of_an_encoder_in_float16_is_told(tmp_path: Path) -> None:
    passages = write_collection(tmp_path / "corpus.jsonl", ["a"], ["0"])
    embedder = FixedEmbedder(np.full((1, 3), np.inf, dtype=np.float32))
    embedder.settings["precision"] = "float16"
    with pytest.raises(ArtifactError, match=r"^passage a: .* precision float32"):
        encode_collection(embedder, passages, tmp_path / "e", **OPTIONS)


def test_a_duplicate_id_raises(tmp_path: Path, model: Path) -> None:
    passages = write_collection(tmp_path / "corpus.jsonl", ["a", "b", "a"], ["oak", "elm", "oak"])
    with pytest.raises(DataError, match=r"corpus.jsonl: passages 0 and 2.* id a\b"):
        plan_encoding(passages, Embedder.from_pretrained(model, "passage"))


def test_the_mean_cosine_shows_a_collapse(tmp_path: Path) -> None:
    assert mean_cosine(write_shards(tmp_path / "a", np.ones((9, 3), dtype=np.float32))) == pytest.approx(1)
    assert mean_cosine(write_shards(tmp_path / "b", np.zeros((9, 3), dtype=np.float32))) == 1
    assert mean_cosine(write_shards(tmp_path / "c", np.eye(9, dtype=np.float32))) == pytest.approx(0)
    # 7 of 9 embeddings are orthogonal, and 2 are zero. So 1 of 36 pairs is equal.
    embeddings = np.eye(9, dtype=np.float32) * (np.arange(9) < 7)[:, None]
    assert mean_cosine(write_shards(tmp_path / "d", embeddings)) == pytest.approx(1 / 36)


def test_an_empty_collection_raises(tmp_path: Path) -> None:
    (tmp_path / "none.tsv").write_text("id\ttext\ttitle\n")
    with pytest.raises(DataError, match=f"^{tmp_path}/none.tsv: "):
        plan_encoding(PassageCollection(tmp_path / "none.tsv"), FixedEmbedder(np.ones((1, 3), dtype=np.float32)))


def test_invalid_arguments_raise(tmp_path: Path, collection: PassageCollection) -> None:
    embedder = FixedEmbedder(np.ones((1, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="dtype is float8"):
        plan_encoding(collection, embedder, dtype="float8")
    with pytest.raises(ValueError, match=r"shard_rows is 10.* block_rows, 4"):
        plan_encoding(collection, embedder, shard_rows=10, block_rows=4)


def test_cosine_similarity_normalizes_embeddings(tmp_path: Path, collection: PassageCollection) -> None:
    shards = encode(tmp_path / "e", collection, save_model(tmp_path / "m", 0, similarity="cosine"), dtype="float32")
    np.testing.assert_allclose(np.linalg.norm(shards.read_rows(np.arange(NUM_PASSAGES)), axis=1), 1, rtol=1e-6)


# ---- reuse of earlier embeddings


class CountingEmbedder(FixedEmbedder):
    """An embedder that records the rows that it encodes."""

    def __init__(self, embeddings: np.ndarray) -> None:
        super().__init__(embeddings)
        self.rows: list[int] = []

    def embed_in_batches(self, tokens: Any, start: int = 0, **options: Any) -> Iterator[EmbeddedBatch]:
        self.rows += tokens.input_ids.tolist()
        return super().embed_in_batches(tokens, start)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_only_changed_passages_are_encoded_again(tmp_path: Path, dtype: str) -> None:
    embeddings = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    before = write_shards(tmp_path / "before", embeddings[:40], dtype=dtype, shard_rows=16, block_rows=4)
    # p0 to p4 and p39 are removed, p7 has another text, "new" is added, and all other passages have moved.
    ids = ["new", *(f"p{row}" for row in range(38, 4, -1))]
    texts = ["40", *("41" if row == 7 else str(row) for row in range(38, 4, -1))]
    now = write_collection(tmp_path / "now.jsonl", ids, texts)
    embedder = CountingEmbedder(embeddings)
    found = encode_collection(embedder, now, tmp_path / "now", dtype=dtype, **OPTIONS, reuse=before.folder)
    assert found.plan.key != plan_encoding(now, embedder, dtype=dtype, **OPTIONS).key
    assert sorted(embedder.rows) == [40, 41]
    alone = write_shards(tmp_path / "alone", embeddings[[int(text) for text in texts]], dtype=dtype)
    assert list(found.iter_passage_ids()) == ids
    assert np.array_equal(found.read_rows(np.arange(35)), alone.read_rows(np.arange(35)))


def test_new_embeddings_cannot_replace_the_reused_embeddings(tmp_path: Path) -> None:
    before = write_shards(tmp_path, np.eye(9, dtype=np.float32))
    files = read_files(before.folder)
    (tmp_path / "link").symlink_to(before.folder)
    passages = PassageCollection(tmp_path / "corpus.jsonl")
    with pytest.raises(ValueError, match=rf"^reuse is {before.folder}"):
        encode_collection(FixedEmbedder(np.eye(9)), passages, tmp_path / "link", reuse=before, overwrite=True)
    assert read_files(before.folder) == files


def test_reuse_of_embeddings_of_another_model_raises(
    tmp_path: Path, collection: PassageCollection, model: Path
) -> None:
    before = write_shards(tmp_path / "before", np.ones((4, 16), dtype=np.float32))
    embedder = Embedder.from_pretrained(model, "passage")
    with pytest.raises(ArtifactError, match=r"before/embeddings: cannot be reused \(model files "):
        plan_encoding(collection, embedder, reuse=before)
