"""Measure training batches per second of this library and of other data pipelines, on the same rows.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.pipeline

Each side runs in a separate process, and the sides take turns. The result is the median of the ratios within the
rounds. The script writes benchmarks/results/pipeline-DATE.md.

- ours: DPRDataPipe and BiEncoderCollator.
- cached: like ours, with a token cache.
- bound: only the necessary work: parse each row once and tokenize the used texts.
- encode_batch: like bound, with `encode_batch` of the library `tokenizers`, on all cores.
- dpr: FAIR DPR's pipeline: all rows as Python objects, one tokenizer call per text, padding to 256 tokens.
- arrow: `datasets`, with a transform that picks the passages, and the collator of sentence-transformers.
- triplets: like arrow, but the passages are picked once for all epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.report import describe_hardware, describe_versions, fill_page_cache, make_parser, write_result

BATCH_SIZE, MAX_LENGTH = 32, 256
SHARED = Path(__file__).parents[2] / "shared" / "data"
TINY_SET = Path(__file__).parents[1] / "examples/dpr/data/nq3_tiny/data/retriever/train.jsonl"
H100_TOKENS = 400e12 / (6 * 85.6e6)
"""Tokens per second of RoBERTa-base training at 400 TFLOP/s: 85.6 M weights in its layers, 6 operations each."""


def main() -> None:
    """Run the benchmark, or measure one side with --side."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument(
        "--megabytes", type=int, default=1000, help="Size of the JSONL file for speed, in MB (default: %(default)s)."
    )
    parser.add_argument(
        "--large",
        type=int,
        default=6500,
        help="Size of the JSONL file for start-up time and memory, in MB. 0 skips this part (default: %(default)s).",
    )
    parser.add_argument(
        "--rows",
        default=str(SHARED / "dpr" / "nq_dev_10.jsonl"),
        help="JSONL file of rows that the script repeats (default: %(default)s).",
    )
    parser.add_argument(
        "--tokenizer",
        default=str(SHARED / "tokenizers" / "roberta-base"),
        help="Folder of the tokenizer (default: %(default)s).",
    )
    parser.add_argument("--side", choices=[*SIDES, "start"], help="Measure only this side, on --file.")
    parser.add_argument("--file", help="JSONL file to measure --side on.")
    arguments = parser.parse_args()
    if arguments.side:
        side = measure_start if arguments.side == "start" else SIDES[arguments.side]
        print(json.dumps(side(arguments.file, arguments.tokenizer)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = arguments.rows if os.path.exists(arguments.rows) else str(TINY_SET)
        file = make_file(rows, Path(folder, "rows.jsonl"), arguments.megabytes)
        results = [{side: run_side(side, file, arguments) for side in SIDES} for _ in range(arguments.rounds)]
        starts = {}
        if arguments.large:
            large = make_file(rows, Path(folder, "large.jsonl"), arguments.large)
            starts = {name: run_side("start", large, arguments) for name in ("first", "second", "third")}
    write_result("pipeline", format_page(arguments, results, starts))


def make_file(rows: str, path: Path, megabytes: int) -> str:
    """Write a JSONL file of repeated rows. Each copy has its own question and passage ids."""
    records = [json.loads(line) for line in Path(rows).read_bytes().splitlines()]
    with open(path, "w", encoding="utf-8") as file:
        for turn in range(1 << 30):
            for record in records:
                file.write(json.dumps(change_ids(record, turn)) + "\n")
            if file.tell() >= megabytes * 1_000_000:
                return str(path)
    raise AssertionError


def run_side(side: str, file: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one side in a separate process, with the file in the page cache."""
    fill_page_cache(file)
    command = [
        sys.executable,
        "-m",
        "benchmarks.pipeline",
        "--side",
        side,
        "--file",
        file,
        "--tokenizer",
        arguments.tokenizer,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(side, figures, flush=True)
    return figures


def measure_ours(file: str, tokenizer: str, *, is_cached: bool = False) -> dict[str, float]:
    """Measure DPRDataPipe and BiEncoderCollator."""
    from text.datasets import DPRDataPipe
    from text.transforms import BiEncoderCollator, Tokenize, load_tokenizer

    pipe = DPRDataPipe(file, BATCH_SIZE, train=True)
    tokenize = Tokenize(load_tokenizer(tokenizer), MAX_LENGTH)
    if is_cached:
        pipe.cache_tokens(tokenize)
    batches = pipe.map(BiEncoderCollator(tokenize, tokenize))
    return measure_speed(batches, lambda batch: (len(batch.positive_index), _count_tokens(batch)))


def measure_cached(file: str, tokenizer: str) -> dict[str, float]:
    """Measure DPRDataPipe with a token cache."""
    return measure_ours(file, tokenizer, is_cached=True)


def measure_bound(file: str, tokenizer: str, *, encode: Callable[[list[str]], Any] | None = None) -> dict[str, float]:
    """Measure parsing and tokenizing alone. Rows are read and passages picked beforehand."""
    import simdjson

    from text.transforms import Tokenize, load_tokenizer

    encode, parser = encode or Tokenize(load_tokenizer(tokenizer), MAX_LENGTH).encode, simdjson.Parser()
    with open(file, "rb") as lines:
        rows = [(line, _pick_texts(json.loads(line))) for line in islice(lines, 6400)]

    def batches() -> Iterator[list[Any]]:
        for start in range(0, len(rows), BATCH_SIZE):
            for line, _ in rows[start : start + BATCH_SIZE]:
                parser.parse(line)
            yield encode([text for _, texts in rows[start : start + BATCH_SIZE] for text in texts])

    return measure_speed(batches(), lambda ids: (len(ids) // 5, sum(map(len, ids))))


def measure_encode_batch(file: str, tokenizer: str) -> dict[str, float]:
    """Measure parsing and ``encode_batch`` of the library ``tokenizers``."""
    from text.transforms import load_tokenizer

    return measure_bound(file, tokenizer, encode=load_tokenizer(tokenizer).encode_batch)


def measure_dpr(file: str, tokenizer: str) -> dict[str, float]:
    """Measure the pipeline of FAIR DPR."""
    import torch

    encoder = _load_transformers_tokenizer(tokenizer)
    with open(file, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, 6400)]

    def to_tensor(text: str, title: str | None = None) -> torch.Tensor:
        pair = (title, text.strip()) if title else (text.strip(), None)
        ids = encoder.encode(
            pair[0], text_pair=pair[1], add_special_tokens=True, max_length=MAX_LENGTH, truncation=True
        )
        return torch.tensor(ids + [encoder.pad_token_id] * (MAX_LENGTH - len(ids)))

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        random.shuffle(rows)
        for start in range(0, len(rows), BATCH_SIZE):
            questions, passages = [], []
            for row in rows[start : start + BATCH_SIZE]:
                random.shuffle(row["hard_negative_ctxs"])
                questions.append(to_tensor(row["question"]))
                for context in (row["positive_ctxs"][0], row["hard_negative_ctxs"][0]):
                    passages.append(to_tensor(context["text"], context["title"]))
            yield torch.stack(questions), torch.stack(passages)

    def count_size(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[int, int]:
        return len(batch[0]), sum(int((ids != encoder.pad_token_id).sum()) for ids in batch)

    return measure_speed(batches(), count_size)


def measure_arrow(file: str, tokenizer: str, *, is_picked_before: bool = False) -> dict[str, float]:
    """Measure ``datasets`` with the collator of sentence-transformers."""
    import datasets  # pyright: ignore[reportMissingImports]
    from sentence_transformers.sentence_transformer import data_collator  # pyright: ignore[reportMissingImports]
    from torch.utils.data import DataLoader

    datasets.disable_progress_bars()
    encoder = _load_transformers_tokenizer(tokenizer)

    def pick(rows: dict[str, list[Any]]) -> dict[str, list[str]]:
        negatives = [random.choice(contexts) for contexts in rows["hard_negative_ctxs"]]
        return {
            "anchor": rows["question"],
            "positive": [f"{contexts[0]['title']} {contexts[0]['text']}" for contexts in rows["positive_ctxs"]],
            "negative": [f"{context['title']} {context['text']}" for context in negatives],
        }

    def tokenize(texts: list[str], **_: Any) -> dict[str, Any]:
        return encoder(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")

    with tempfile.TemporaryDirectory() as cache:
        rows: Any = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
        if is_picked_before:
            rows = rows.map(pick, batched=True, remove_columns=rows.column_names)
        else:
            rows.set_transform(pick)
        collate = data_collator.SentenceTransformerDataCollator(preprocess_fn=tokenize)
        batches = DataLoader(rows, BATCH_SIZE, shuffle=True, collate_fn=collate)
        masks = ("anchor_attention_mask", "positive_attention_mask", "negative_attention_mask")
        return measure_speed(
            batches, lambda batch: (len(batch[masks[0]]), sum(int(batch[mask].sum()) for mask in masks))
        )


def measure_triplets(file: str, tokenizer: str) -> dict[str, float]:
    """Measure ``datasets`` with passages picked beforehand."""
    return measure_arrow(file, tokenizer, is_picked_before=True)


def measure_start(file: str, tokenizer: str) -> dict[str, float]:
    """Measure the time from the imports to the first batch, and the peak memory of 300 more batches."""
    import text.datasets.formats.jsonl as jsonl
    from text.datasets import DPRDataPipe
    from text.transforms import BiEncoderCollator, Tokenize, load_tokenizer

    before, began = _read_peak_memory(), time.perf_counter()
    index = jsonl.JsonlFile(file)
    indexed = time.perf_counter()
    pipe = DPRDataPipe(file, BATCH_SIZE, train=True)
    checked = time.perf_counter()
    tokenize = Tokenize(load_tokenizer(tokenizer), MAX_LENGTH)
    batches = iter(pipe.map(BiEncoderCollator(tokenize, tokenize)))
    next(batches)
    first = time.perf_counter()
    for _ in islice(batches, 300):
        pass
    return {
        "gigabytes": os.path.getsize(file) / 1e9,
        "rows": len(index),
        "index_seconds": indexed - began,
        "check_seconds": checked - indexed,
        "first_batch_seconds": first - began,
        "megabytes_of_memory": _read_peak_memory() - before,
    }


SIDES: dict[str, Callable[[str, str], dict[str, float]]] = {
    "ours": measure_ours,
    "cached": measure_cached,
    "bound": measure_bound,
    "encode_batch": measure_encode_batch,
    "dpr": measure_dpr,
    "arrow": measure_arrow,
    "triplets": measure_triplets,
}


def measure_speed(batches: Any, count_size: Callable[[Any], tuple[int, int]], seconds: float = 8) -> dict[str, float]:
    """Return questions and tokens per second, after a few warm-up batches.

    Args:
        batches: Iterable of batches.
        count_size: Function that returns the number of questions and of tokens of a batch.
        seconds: Time to measure.
    """
    batches = iter(batches)
    for _ in islice(batches, 5):
        pass
    questions = tokens = 0
    began = time.perf_counter()
    for batch in batches:
        more_questions, more_tokens = count_size(batch)
        questions, tokens = questions + more_questions, tokens + more_tokens
        if time.perf_counter() - began > seconds:
            break
    elapsed = time.perf_counter() - began
    return {"questions_s": questions / elapsed, "tokens_s": tokens / elapsed}


def format_page(arguments: argparse.Namespace, results: list[dict[str, Any]], starts: dict[str, Any]) -> str:
    """Return the page of results."""
    lines = [
        "# Training batches a second",
        "",
        describe_hardware(),
        describe_versions(
            "torch", "tokenizers", "tiktoken", "pysimdjson", "transformers", "datasets", "sentence-transformers"
        ),
        "",
        f"`python -m benchmarks.pipeline --megabytes={arguments.megabytes} --large={arguments.large} "
        f"--rounds={arguments.rounds}`: real NQ rows of 110 KB, repeated with different ids; batches of {BATCH_SIZE}, "
        f"each with one positive and one hard negative; roberta-base tokenizer; one process; file in the page cache.",
        "",
        "| side | questions/s | tokens/s | speed of ours / side, median of rounds |",
        "|---|---|---|---|",
    ]
    for side in SIDES:
        questions, tokens = (statistics.median(r[side][f] for r in results) for f in ("questions_s", "tokens_s"))
        ratio = statistics.median(r["ours"]["questions_s"] / r[side]["questions_s"] for r in results)
        lines.append(f"| {side} | {questions:,.0f} | {tokens:,.0f} | {ratio:.2f} |")
    lines += ["", f"One H100 at 400 TFLOP/s trains RoBERTa-base on {H100_TOKENS:,.0f} tokens/s."]
    if starts:
        lines += [
            "",
            "| start | GB | rows | index, s | row check, s | first batch, s | memory, MB |",
            "|---" * 7 + "|",
        ]
        for name, s in starts.items():
            seconds = (f"{s[f'{step}_seconds']:.2f}" for step in ("index", "check", "first_batch"))
            figures = (name, f"{s['gigabytes']:.1f}", f"{s['rows']:,}", *seconds, f"{s['megabytes_of_memory']:.0f}")
            lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def change_ids(record: dict[str, Any], turn: int) -> dict[str, Any]:
    """Return a copy of a row with the number of the copy in its question and passage ids."""
    pools = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
    changed_pools = {
        pool: [{**context, "passage_id": f"{context['passage_id']}.{turn}"} for context in record[pool]]
        for pool in pools
    }
    return {**record, "question": f"{record['question']} {turn}", **changed_pools}


def _pick_texts(record: dict[str, Any]) -> list[str]:
    positive, negative = record["positive_ctxs"][0], random.choice(record["hard_negative_ctxs"])
    return [record["question"], positive["title"], positive["text"], negative["title"], negative["text"]]


def _count_tokens(batch: Any) -> int:
    return int(batch.questions.attention_mask.sum() + batch.passages.attention_mask.sum())


def _load_transformers_tokenizer(tokenizer: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    from text.transforms import load_tokenizer

    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=load_tokenizer(tokenizer), unk_token="<unk>", **names)


def _read_peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
