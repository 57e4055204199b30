"""Encoding beside SentenceTransformer.encode, exact search beside faiss.IndexFlatIP, and what approximation costs.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.retrieval

Sides take turns in one process, on the same threads; what counts is the median of the ratio within a round.
Encoding is of the passages of squad_w100 with all-MiniLM-L6-v2, from text to numbers: ours to a folder on disk, the
peer's to an array. Search is in made embeddings: 64 independent numbers and noise, turned into 768 dimensions, each as
long as 1; such that questions have near passages, as those of real models do. Memory is the peak of encoding made
passages above the loaded model, in a process of its own. Writes benchmarks/results/retrieval-DATE.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.encoder import Timed, find_minilm, read_squad, take_turns, time_call
from benchmarks.report import describe_hardware, describe_versions, write_result
from benchmarks.training import read_status, reset_peak_memory
from text.datasets import PassageCollection
from text.retrieval import Embedder, EmbeddingShards, Hits, encode_collection, search_exact
from text.retrieval.faiss_index import FaissIndex

K = 100
_WORDS = "oak elm ash yew fir bay fig pear plum beech maple has green brown tall leaves bark and the of".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--passages", type=int, default=200_000, help="of which memory is measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", type=int, help="print the peak of encoding as many made passages, in MiB")
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak(arguments.peak))
        return
    versions_line = describe_versions("torch", "faiss-cpu", "sentence-transformers")
    lines = [f"# Retrieval\n\n{describe_hardware()}; {torch.get_num_threads()} threads. {versions_line}."]
    with tempfile.TemporaryDirectory() as folder:
        lines += encoding(Path(folder), 3)
        lines += searching(Path(folder), arguments.rows, arguments.questions, arguments.rounds)
    lines += memory(arguments.passages)
    write_result("retrieval", "\n".join(lines) + "\n")


# ---- encoding


def encoding(folder: Path, rounds: int) -> list[str]:
    texts = read_squad()
    collection = write_collection(folder / "squad.jsonl", texts)
    embedder = Embedder.from_pretrained(find_minilm(), "passage", max_length=256, titles="join")
    peer = SentenceTransformer(str(find_minilm()), device="cpu")
    peer.max_seq_length = 256
    number = iter(range(1000))
    results = take_turns(
        "encoding",
        {
            "ours, to disk": lambda: written(folder / f"e{next(number)}", collection, embedder),
            "SentenceTransformer.encode": lambda: peer.encode(texts, batch_size=32),
        },
        rounds,
    )
    error = np.abs(results["ours, to disk"][0].result - results["SentenceTransformer.encode"][0].result).max()
    title = f"\n## Encoding {len(texts):,} passages of squad_w100 (largest difference of a number: {error:.0e})\n"
    return [title, *table("passages/s", results, len(texts))]


def written(folder: Path, collection: PassageCollection, embedder: Embedder) -> np.ndarray:
    encode_collection(embedder, collection, folder, dtype="float32")
    return next(EmbeddingShards(folder).iter_blocks(len(collection)))[
        1
    ]  # Opened again, so that the hashes are checked.


# ---- search


def searching(folder: Path, num_rows: int, num_questions: int, rounds: int) -> list[str]:
    rows, questions = embeddings(num_rows, num_questions)
    tensor = torch.from_numpy(questions)
    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)  # pyright: ignore[reportCallIssue]
    shards = {name: write_shards(folder / name, rows, name) for name in ("float32", "float16", "int8")}
    sides: dict[str, Callable[[], Any]] = {
        "ours, float32": lambda: search_exact(shards["float32"], tensor, K),
        "faiss.IndexFlatIP": lambda: flat.search(questions, K),  # pyright: ignore[reportCallIssue]
        "ours, float16": lambda: search_exact(shards["float16"], tensor, K),
        "ours, int8": lambda: search_exact(shards["int8"], tensor, K),
    }
    results = take_turns("search", sides, rounds)
    exact = results["ours, float32"][0].result
    lines = [
        f"\n## Exact search: {num_questions:,} questions, {num_rows:,} rows of {rows.shape[1]}, {K} passages each\n",
        *table("questions/s", results, num_questions),
        "",
        *(f"Recall@{K} of {name}: {recall(results[f'ours, {name}'][0].result, exact):.4f}." for name in shards),
    ]
    return lines + approximate(folder / "hnsw", shards["float32"], tensor, exact)


def approximate(folder: Path, shards: EmbeddingShards, questions: torch.Tensor, exact: list[Hits]) -> list[str]:
    built = time_call(lambda: FaissIndex.build(shards, "HNSW32", folder))
    lines = [
        f"\n## HNSW32, built in {built.seconds:.0f} s; four candidates for each passage, scored again exactly\n",
        f"| efSearch | recall@{K} | questions/s |\n|---|---|---|",
    ]
    for effort in (64, 128, 256, 512, 1024):
        built.result.set_parameters(f"efSearch={effort}")
        found = time_call(lambda: built.result.search(questions, K))
        lines.append(f"| {effort} | {recall(found.result, exact):.4f} | {len(questions) / found.seconds:,.0f} |")
    scanned = FaissIndex.build(shards, "SQ8", folder.with_name("sq8"))
    found = time_call(lambda: scanned.search(questions, K))
    speed = f"{len(questions) / found.seconds:,.0f} questions/s"
    return [*lines, f"\nSQ8 (all rows in 8 bits, scored again exactly): {recall(found.result, exact):.4f}, {speed}."]


def embeddings(num_rows: int, num_questions: int, width: int = 768) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    turn = random.standard_normal((64, width), dtype=np.float32)
    made = random.standard_normal((num_rows + num_questions, 64), dtype=np.float32) @ turn
    made += 4 * random.standard_normal(made.shape, dtype=np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made[:num_rows], made[num_rows:]


def recall(found: list[Hits], exact: list[Hits]) -> float:
    """Share of the passages of the exact search that were found."""
    pairs = zip(found, exact, strict=True)
    return statistics.mean(len(set(a.passage_ids) & set(b.passage_ids)) / len(b.passage_ids) for a, b in pairs)


# ---- memory


def memory(num_passages: int) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.retrieval", "--peak"]
    lines = ["\n## Peak of encoding, above the loaded model\n", "| passages | MiB |", "|---|---|"]
    for size in (num_passages // 10, num_passages):
        done = subprocess.run([*command, str(size)], stdout=subprocess.PIPE, text=True, check=True)
        lines.append(f"| {size:,} | {float(done.stdout.split()[-1]):,.0f} |")
    return lines


def peak(num_passages: int) -> float:
    """Of made passages: mostly of 10 words, each fiftieth of 250."""
    with tempfile.TemporaryDirectory() as folder:
        path, random = Path(folder, "made.jsonl"), np.random.default_rng(0)
        write_rows(path, (" ".join(random.choice(_WORDS, 250 if n % 50 == 0 else 10)) for n in range(num_passages)))
        embedder = Embedder.from_pretrained(find_minilm(), "passage", max_length=256)
        embedder(["some text"])
        before = reset_peak_memory()
        written(Path(folder, "e"), PassageCollection(path), embedder)
        return (read_status("VmHWM") - before) / 1024


# ---- what the parts share


class GivenEmbeddings(Embedder):
    """Gives each passage, whose text is the number of its row, the embedding of that row."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = torch.from_numpy(rows)
        self.encoder: Any = SimpleNamespace(embedding_dim=rows.shape[1])
        self.model_hashes, self.settings, self.similarity = {"weights": "given"}, {"similarity": "dot"}, "dot"

    def tokenize(self, texts: Any) -> Any:
        rows = torch.tensor([int(passage.text) for passage in texts])
        return SimpleNamespace(input_ids=rows, truncated=torch.zeros(len(rows), dtype=torch.bool))

    def embed_in_pieces(self, tokens: Any, start: int = 0) -> Iterator[tuple[list[int], torch.Tensor]]:
        yield list(range(start, len(tokens.input_ids))), self.rows[tokens.input_ids[start:]]


def write_shards(folder: Path, rows: np.ndarray, dtype: str) -> EmbeddingShards:
    """Write given embeddings to disk."""
    folder.mkdir()
    collection = write_collection(folder / "numbers.jsonl", [str(row) for row in range(len(rows))])
    return encode_collection(GivenEmbeddings(rows), collection, folder / "embeddings", dtype=dtype, block_rows=1 << 15)


def write_rows(path: Path, texts: Iterator[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"_id": str(row), "text": text}) + "\n" for row, text in enumerate(texts))


def write_collection(path: Path, texts: list[str]) -> PassageCollection:
    write_rows(path, iter(texts))
    return PassageCollection(path)


def table(unit: str, results: dict[str, list[Timed]], count: int) -> list[str]:
    """Speed of each side, and how many times the first one's time it takes."""
    first, *_ = results.values()
    lines = [f"| side | {unit} | times the time of the first |", "|---|---|---|"]
    for name, timings in results.items():
        ratio = statistics.median(b.seconds / a.seconds for a, b in zip(first, timings, strict=True))
        lines.append(f"| {name} | {count / statistics.median(t.seconds for t in timings):,.0f} | {ratio:.2f} |")
    return lines


if __name__ == "__main__":
    main()
