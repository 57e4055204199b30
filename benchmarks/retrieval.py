"""Measure encoding against SentenceTransformer.encode, exact search against FAISS, and the recall of indexes.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.retrieval

The sides take turns in one process, with the same number of threads. The result is the median of the ratios within the
rounds. Encoding uses the passages of squad_w100 and all-MiniLM-L6-v2. This library writes the embeddings to disk, and
sentence-transformers returns an array. Search uses random unit vectors: 64 independent numbers projected to 768
dimensions, plus noise. Questions therefore have close passages, as with real models. Memory is the peak of encoding
random passages in a separate process, in addition to the loaded model. The script writes
benchmarks/results/retrieval-DATE.md.
"""

from __future__ import annotations

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

from benchmarks.encoder import Timing, find_minilm, read_squad, take_turns, time_call
from benchmarks.report import describe_hardware, describe_versions, make_parser, write_result
from benchmarks.training import read_status, reset_peak_memory
from text.datasets import PassageCollection
from text.retrieval import Embedder, EmbeddingShards, Hits, encode_collection, search_exact
from text.retrieval.embedder import EmbeddedBatch
from text.retrieval.faiss_index import FaissIndex

K = 100
_WORDS = "oak elm ash yew fir bay fig pear plum beech maple has green brown tall leaves bark and the of".split()


def main() -> None:
    """Run the benchmark, or measure memory with --peak."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--rows", type=int, default=100_000, help="Number of embeddings to search (default: %(default)s)."
    )
    parser.add_argument(
        "--questions", type=int, default=1000, help="Number of questions of the search (default: %(default)s)."
    )
    parser.add_argument(
        "--passages",
        type=int,
        default=200_000,
        help="Number of passages for the measurement of memory (default: %(default)s).",
    )
    parser.add_argument("--rounds", type=int, default=5, help="Rounds of the search (default: %(default)s).")
    parser.add_argument(
        "--peak", type=int, help="Print the peak memory of encoding this number of passages in MiB and exit."
    )
    arguments = parser.parse_args()
    if arguments.peak:
        print(measure_peak(arguments.peak))
        return
    versions_line = describe_versions("torch", "faiss-cpu", "sentence-transformers")
    lines = [f"# Retrieval\n\n{describe_hardware()}; {torch.get_num_threads()} threads. {versions_line}."]
    with tempfile.TemporaryDirectory() as folder:
        lines += benchmark_encoding(Path(folder), 3)
        lines += benchmark_search(Path(folder), arguments.rows, arguments.questions, arguments.rounds)
    lines += benchmark_memory(arguments.passages)
    write_result("retrieval", "\n".join(lines) + "\n")


# ---- encoding


def benchmark_encoding(folder: Path, rounds: int) -> list[str]:
    """Return the section about encoding."""
    texts = read_squad()
    collection = write_collection(folder / "squad.jsonl", texts)
    embedder = Embedder.from_pretrained(find_minilm(), "passage", max_length=256, titles="join")
    peer = SentenceTransformer(str(find_minilm()), device="cpu")
    peer.max_seq_length = 256
    number = iter(range(1000))
    results = take_turns(
        "encoding",
        {
            "ours, to disk": lambda: encode_to_disk(folder / f"e{next(number)}", collection, embedder),
            "SentenceTransformer.encode": lambda: peer.encode(texts, batch_size=32),
        },
        rounds,
    )
    error = np.abs(results["ours, to disk"][0].result - results["SentenceTransformer.encode"][0].result).max()
    title = f"\n## Encoding {len(texts):,} passages of squad_w100 (maximum difference of the embeddings: {error:.0e})\n"
    return [title, *format_table("passages/s", results, len(texts))]


def encode_to_disk(folder: Path, collection: PassageCollection, embedder: Embedder) -> np.ndarray:
    """Encode a collection to a folder and return the embeddings."""
    encode_collection(embedder, collection, folder, dtype="float32")
    shards = EmbeddingShards(folder)  # Reopened, so that the hashes are checked.
    return next(shards.iter_blocks(len(collection)))[1]


# ---- search


def benchmark_search(folder: Path, num_rows: int, num_questions: int, rounds: int) -> list[str]:
    """Return the section about exact search, followed by the section about indexes."""
    rows, questions = make_embeddings(num_rows, num_questions)
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
        *format_table("questions/s", results, num_questions),
        "",
        *(f"Recall@{K} of {name}: {compute_recall(results[f'ours, {name}'][0].result, exact):.4f}." for name in shards),
    ]
    return lines + benchmark_indexes(folder / "hnsw", shards["float32"], tensor, exact)


def benchmark_indexes(folder: Path, shards: EmbeddingShards, questions: torch.Tensor, exact: list[Hits]) -> list[str]:
    """Return the section about the recall and the speed of HNSW32 and SQ8."""
    built = time_call(lambda: FaissIndex.build(shards, "HNSW32", folder))
    lines = [
        f"\n## HNSW32, built in {built.seconds:.0f} s; four candidates per passage, rescored exactly\n",
        f"| efSearch | recall@{K} | questions/s |\n|---|---|---|",
    ]
    for effort in (64, 128, 256, 512, 1024):
        built.result.set_parameters(f"efSearch={effort}")
        found = time_call(lambda: built.result.search(questions, K))
        lines.append(
            f"| {effort} | {compute_recall(found.result, exact):.4f} | {len(questions) / found.seconds:,.0f} |"
        )
    scanned = FaissIndex.build(shards, "SQ8", folder.with_name("sq8"))
    found = time_call(lambda: scanned.search(questions, K))
    speed = f"{len(questions) / found.seconds:,.0f} questions/s"
    return [*lines, f"\nSQ8 (8 bits per number, rescored exactly): {compute_recall(found.result, exact):.4f}, {speed}."]


def make_embeddings(num_rows: int, num_questions: int, width: int = 768) -> tuple[np.ndarray, np.ndarray]:
    """Return random passage and question embeddings with unit norm."""
    random = np.random.default_rng(0)
    projection = random.standard_normal((64, width), dtype=np.float32)
    made = random.standard_normal((num_rows + num_questions, 64), dtype=np.float32) @ projection
    made += 4 * random.standard_normal(made.shape, dtype=np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made[:num_rows], made[num_rows:]


def compute_recall(found: list[Hits], exact: list[Hits]) -> float:
    """Return the share of the passages of the exact search that were found."""
    pairs = zip(found, exact, strict=True)
    return statistics.mean(len(set(a.passage_ids) & set(b.passage_ids)) / len(b.passage_ids) for a, b in pairs)


# ---- memory


def benchmark_memory(num_passages: int) -> list[str]:
    """Return the section about memory."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.retrieval", "--peak"]
    lines = ["\n## Peak memory of encoding, without the loaded model\n", "| passages | MiB |", "|---|---|"]
    for size in (num_passages // 10, num_passages):
        done = subprocess.run([*command, str(size)], stdout=subprocess.PIPE, text=True, check=True)
        lines.append(f"| {size:,} | {float(done.stdout.split()[-1]):,.0f} |")
    return lines


def measure_peak(num_passages: int) -> float:
    """Return the peak memory of encoding in MiB. Passages have 10 words, and every fiftieth passage has 250 words."""
    with tempfile.TemporaryDirectory() as folder:
        path, random = Path(folder, "made.jsonl"), np.random.default_rng(0)
        write_rows(path, (" ".join(random.choice(_WORDS, 250 if n % 50 == 0 else 10)) for n in range(num_passages)))
        embedder = Embedder.from_pretrained(find_minilm(), "passage", max_length=256)
        embedder(["some text"])
        before = reset_peak_memory()
        encode_to_disk(Path(folder, "e"), PassageCollection(path), embedder)
        return (read_status("VmHWM") - before) / 1024


# ---- helpers


class FixedEmbedder(Embedder):
    """Embedder with precomputed embeddings. The text of a passage is its row number."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = torch.from_numpy(rows)
        self.encoder: Any = SimpleNamespace(embedding_dim=rows.shape[1])
        self.model_hashes, self.settings, self.similarity = {"weights": "given"}, {"similarity": "dot"}, "dot"
        self.max_tokens = 1 << 17

    def choose_max_tokens(self) -> int:
        """Return 0, as on a CPU."""
        return 0

    def tokenize(self, texts: Any) -> Any:
        """Return the row numbers of the passages in place of tokens."""
        rows = torch.tensor([int(passage.text) for passage in texts])
        return SimpleNamespace(input_ids=rows, truncated=torch.zeros(len(rows), dtype=torch.bool))

    def embed_in_batches(self, tokens: Any, start: int = 0, **options: Any) -> Iterator[EmbeddedBatch]:
        """Yield the embeddings of all passages from ``start``."""
        yield EmbeddedBatch(list(range(start, len(tokens.input_ids))), self.rows[tokens.input_ids[start:]])


def write_shards(folder: Path, rows: np.ndarray, dtype: str) -> EmbeddingShards:
    """Write embeddings to disk with ``encode_collection``."""
    folder.mkdir()
    collection = write_collection(folder / "numbers.jsonl", [str(row) for row in range(len(rows))])
    return encode_collection(FixedEmbedder(rows), collection, folder / "embeddings", dtype=dtype, block_rows=1 << 15)


def write_rows(path: Path, texts: Iterator[str]) -> None:
    """Write texts as a JSONL collection."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"_id": str(row), "text": text}) + "\n" for row, text in enumerate(texts))


def write_collection(path: Path, texts: list[str]) -> PassageCollection:
    """Write texts as a JSONL collection and open it."""
    write_rows(path, iter(texts))
    return PassageCollection(path)


def format_table(unit: str, results: dict[str, list[Timing]], count: int) -> list[str]:
    """Return a table with the speed of each side and its time relative to the first side."""
    first, *_ = results.values()
    lines = [f"| side | {unit} | time relative to the first side |", "|---|---|---|"]
    for name, timings in results.items():
        ratio = statistics.median(b.seconds / a.seconds for a, b in zip(first, timings, strict=True))
        lines.append(f"| {name} | {count / statistics.median(t.seconds for t in timings):,.0f} | {ratio:.2f} |")
    return lines


if __name__ == "__main__":
    main()
