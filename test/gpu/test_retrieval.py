"""Encoding, exact search and the commands on a GPU give the results of a CPU."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from test.gpu.helpers import (
    DEVICE,
    allow_tf32,
    assert_near,
    build_tokens,
    limit_memory,
    measure_product_error,
    needs_bfloat16,
    needs_gpu,
)
from test.helpers import WORDS, save_model, texts, write_collection
from test.retrieval.conftest import write_shards
from text.bundle import BiEncoderBundle
from text.commands.cli import run_command
from text.commands.encode import EncodeFlags, encode
from text.commands.search import SearchFlags, search
from text.commands.serve import ServeFlags, load_searches
from text.evaluation import read_run
from text.models import BiEncoder, roberta_tiny
from text.retrieval import Embedder, MemoryEmbeddings, encode_collection, search_exact
from text.retrieval.device_blocks import MemoryBudget
from text.retrieval.exact import ExactSearch
from text.transforms import train_tokenizer

pytestmark = [needs_gpu, pytest.mark.filterwarnings("ignore:.*truncated")]
NUM_PASSAGES, WIDTH = 70_000, 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model for texts of up to 256 tokens."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts(50), 300)
    encoder = roberta_tiny(vocab_size=tokenizer.get_vocab_size(), pooling="mean", max_position_embeddings=260)
    folder, model = tmp_path_factory.mktemp("long"), BiEncoder(encoder, encoder)
    BiEncoderBundle(model=model, tokenizer=tokenizer, question_max_length=64, passage_max_length=256).save(folder)
    return folder


def write_long_texts(num: int) -> list[str]:
    """Return texts of 1 to 300 words. The longest are truncated."""
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, size=1 + 37 * number % 300)) for number in range(num)]


# Embeddings


def test_embeddings_of_long_texts_equal_those_of_a_cpu(long_model: Path) -> None:
    many = write_long_texts(2500)  # More than one block.
    found, expected = (
        Embedder.from_pretrained(long_model, "passage", device=device, precision="float32").embed_texts(many)
        for device in (DEVICE, "cpu")
    )
    assert found.device.type == "cpu" and found.dtype == torch.float32
    assert_near(found, expected, 1e-5)


@pytest.mark.parametrize("precision", [None, pytest.param("bfloat16", marks=needs_bfloat16), "float16"])
def test_half_precision_embeddings_are_near_those_of_a_cpu(model: Path, precision: str | None) -> None:
    embedder = Embedder.from_pretrained(model, "passage", device=DEVICE, precision=precision)
    expected = Embedder.from_pretrained(model, "passage", device="cpu", precision="float32").embed_texts(texts(300))
    assert embedder.settings["precision"] in ("bfloat16", "float16")
    assert torch.cosine_similarity(embedder.embed_texts(texts(300)), expected).min() > 0.999


def test_no_texts_give_no_embeddings(model: Path) -> None:
    embedder = Embedder.from_pretrained(model, "passage", device=DEVICE)
    assert embedder.embed(build_tokens(device="cpu")).shape == (0, 128)


def test_only_tokens_limit_a_batch(long_model: Path) -> None:
    embedder, calls = Embedder.from_pretrained(long_model, "passage", device=DEVICE), []
    embedder.encoder.register_forward_hook(lambda *_: calls.append(1))
    lengths = [30 + 11 * row % 200 for row in range(2048)]  # 265,000 tokens
    embedder.embed(build_tokens(*lengths, device="cpu", vocab_size=200))
    assert len(calls) <= 4


def test_batches_shrink_when_memory_is_full(long_model: Path) -> None:
    embedder = Embedder.from_pretrained(long_model, "passage", device=DEVICE, precision="float32")
    tokens = build_tokens(*[100] * 4000, device="cpu", vocab_size=200)
    expected, before = embedder.embed(tokens), embedder.max_tokens
    with limit_memory(200 << 20):
        found = embedder.embed(tokens)
    assert embedder.max_tokens < before
    assert_near(found, expected, 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_an_encoding_equals_that_of_a_cpu(long_model: Path, tmp_path: Path, dtype: str) -> None:
    contents = write_long_texts(300)
    collection = write_collection(tmp_path / "corpus.jsonl", [f"p{n}" for n in range(300)], contents)
    there, here = (
        encode_collection(
            Embedder.from_pretrained(long_model, "passage", device=device, precision="float32"),
            collection, tmp_path / device, dtype=dtype, shard_rows=128, block_rows=64,
        )
        for device in (DEVICE, "cpu")
    )  # fmt: skip
    rows = np.arange(300)
    found, expected = (torch.from_numpy(shards.read_rows(rows)) for shards in (there, here))
    assert_near(found, expected, {"float32": 1e-5, "float16": 1e-3, "int8": 1e-2}[dtype])


# Exact search


@pytest.fixture(scope="module")
def passages() -> torch.Tensor:
    rows = torch.randn(NUM_PASSAGES, WIDTH, generator=torch.Generator().manual_seed(0))
    rows[100:140] = rows[100]  # Equal scores are ordered by id.
    return rows


@pytest.fixture(scope="module")
def questions(passages: torch.Tensor) -> torch.Tensor:
    return torch.cat([passages[:30] + 0.1, passages[100:101], passages[-1500:]])


@pytest.mark.parametrize("tf32", [False, True], ids=["full float32", "TF32 allowed"])
def test_exact_search_equals_that_of_a_cpu(passages: torch.Tensor, questions: torch.Tensor, tf32: bool) -> None:
    embeddings = MemoryEmbeddings([f"{row:07d}" for row in range(NUM_PASSAGES)], passages)
    expected = search_exact(embeddings, questions, 20)
    with allow_tf32() if tf32 else nullcontext():
        assert search_exact(embeddings, questions, 20, device=DEVICE) == expected
        # The setting of the process is as before. GPUs before Ampere have no TF32.
        if torch.cuda.get_device_capability() >= (8, 0):
            assert (measure_product_error() > 1e-5) == tf32


@pytest.mark.parametrize("share", [0, 0.5, 2], ids=["streamed", "partly resident", "resident"])
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_shards_on_the_gpu_and_streamed_ones_give_the_results_of_a_cpu(
    tmp_path: Path, dtype: str, size: int, share: float
) -> None:
    rows = torch.randn(3000, WIDTH, generator=torch.Generator().manual_seed(1))
    shards = write_shards(tmp_path, rows.numpy(), dtype=dtype, shard_rows=1024, block_rows=256)
    expected = search_exact(shards, rows[:50], 10)
    kept = int(share * rows.numel() * size)
    gpu_search = ExactSearch(shards, DEVICE, MemoryBudget(kept=kept, questions=1 << 20))
    for _ in range(2):  # The second search finds the blocks on the GPU.
        assert gpu_search.search(rows[:50], 10) == expected


# Commands


def test_encode_search_and_serve_find_what_a_cpu_finds(model: Path, tmp_path: Path) -> None:
    write_collection(tmp_path / "corpus.jsonl", [f"p{n}" for n in range(200)], texts(200))
    (tmp_path / "questions.csv").write_text("".join(f"{text}\t['oak']\n" for text in texts(40)))
    runs = []
    for name, device in (("gpu", DEVICE), ("cpu", "cpu")):
        common = [f"--model={model}", f"--device={device}", "--encoder_precision=float32"]
        output = [f"--collection={tmp_path}/corpus.jsonl", f"--output_dir={tmp_path}/{name}", "--dtype=float32"]
        assert run_command(encode, EncodeFlags, [*common, *output]) == 0
        asked = [f"--embeddings={tmp_path}/{name}", f"--questions={tmp_path}/questions.csv", "--k=5"]
        assert run_command(search, SearchFlags, [*common, *asked, f"--run={tmp_path}/{name}.trec"]) == 0
        runs.append(read_run(tmp_path / f"{name}.trec"))
    scores = [[sorted(found.values()) for found in run.values()] for run in runs]
    assert scores[0] == [pytest.approx(expected, rel=1e-4) for expected in scores[1]]
    flags = ServeFlags(model=str(model), embeddings=f"{tmp_path}/gpu", device=DEVICE, encoder_precision="float32")
    [served] = load_searches(flags)
    found = [sorted(hits.scores) for hits in served.find(texts(40), 5)]
    assert found == [pytest.approx(expected, rel=1e-4) for expected in scores[0]]


@pytest.mark.parametrize("command", ["encode", "search"])
def test_commands_choose_the_gpu_and_half_precision(
    model: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_collection(tmp_path / "corpus.jsonl", [f"p{n}" for n in range(30)], texts(30))
    flags = [f"--model={model}", f"--collection={tmp_path}/corpus.jsonl", f"--output_dir={tmp_path}/embeddings"]
    assert run_command(encode, EncodeFlags, flags) == 0
    if command == "search":
        capsys.readouterr()
        (tmp_path / "questions.csv").write_text("oak\t['oak']\n")
        flags = [f"--model={model}", f"--embeddings={tmp_path}/embeddings", f"--questions={tmp_path}/questions.csv"]
        assert run_command(search, SearchFlags, [*flags, f"--run={tmp_path}/run.trec"]) == 0
    printed = "".join(capsys.readouterr())
    assert "cuda" in printed and ("bfloat16" in printed or "float16" in printed)


def test_batches_on_their_way_do_not_mix(long_model: Path) -> None:
    embedder = Embedder.from_pretrained(long_model, "passage", device=DEVICE, precision="float32")
    embedder.max_tokens = 2048
    many = write_long_texts(600)
    together = embedder.embed_texts(many)
    alone = torch.cat([embedder.embed_texts([text]) for text in many[:40]])
    assert_near(together[:40], alone, 1e-5)
