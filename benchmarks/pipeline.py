"""How fast training batches come: this library beside the ways that others have, on the same rows.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.pipeline

Each side runs in a process of its own, in turn with the others, several times; what counts is the
median of the ratio within a round. Writes benchmarks/results/pipeline-DATE.md.

- ours: DPRDataPipe and BiEncoderCollator.
- cached: the same with a token cache.
- bound: only what cannot be left out: parse each row once, tokenize the texts that are used.
- encode_batch: the same with the tokenizer of `tokenizers`, on all cores, in place of ours.
- dpr: FAIR DPR's way: all rows as Python objects, one call of a tokenizer per text, padded to 256.
- arrow: `datasets`, a transform that picks the passages, and the collator of sentence-transformers.
- triplets: the same with the passages picked beforehand, once for all epochs.
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

from benchmarks.report import hardware, versions, warm, write_result

BATCH_SIZE, MAX_LENGTH = 32, 256
SHARED = Path(__file__).parents[2] / "shared" / "data"
TINY_SET = Path(__file__).parents[1] / "examples/dpr/data/nq3_tiny/data/retriever/train.jsonl"
H100_TOKENS = 400e12 / (6 * 85.6e6)
"""Tokens a second that RoBERTa-base (85.6 M weights in its layers, 6 operations each) takes at 400 TFLOP/s."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the JSONL file")
    parser.add_argument("--large", type=int, default=6500, help="size of the file for memory and first batch; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default=str(SHARED / "dpr" / "nq_dev_10.jsonl"), help="real rows, to be repeated")
    parser.add_argument("--tokenizer", default=str(SHARED / "tokenizers" / "roberta-base"))
    parser.add_argument("--side", choices=[*SIDES, "start"])
    parser.add_argument("--file")
    arguments = parser.parse_args()
    if arguments.side:
        side = start if arguments.side == "start" else SIDES[arguments.side]
        print(json.dumps(side(arguments.file, arguments.tokenizer)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = arguments.rows if os.path.exists(arguments.rows) else str(TINY_SET)
        file = make_file(rows, Path(folder, "rows.jsonl"), arguments.megabytes)
        results = [{side: run(side, file, arguments) for side in SIDES} for _ in range(arguments.rounds)]
        starts = {}
        if arguments.large:
            large = make_file(rows, Path(folder, "large.jsonl"), arguments.large)
            starts = {name: run("start", large, arguments) for name in ("first", "second", "third")}
    write_result("pipeline", page(arguments, results, starts))


def make_file(rows: str, path: Path, megabytes: int) -> str:
    """Repeats rows, each time with other questions and passage ids."""
    records = [json.loads(line) for line in Path(rows).read_bytes().splitlines()]
    with open(path, "w", encoding="utf-8") as file:
        for turn in range(1 << 30):
            for record in records:
                file.write(json.dumps(changed(record, turn)) + "\n")
            if file.tell() >= megabytes * 1_000_000:
                return str(path)
    raise AssertionError


def run(side: str, file: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One side in a process of its own; the file is in the page cache."""
    warm(file)
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


def ours(file: str, tokenizer: str, *, is_cached: bool = False) -> dict[str, float]:
    from text.datasets import DPRDataPipe
    from text.transforms import BiEncoderCollator, Tokenize, load_tokenizer

    pipe = DPRDataPipe(file, BATCH_SIZE, train=True)
    tokenize = Tokenize(load_tokenizer(tokenizer), MAX_LENGTH)
    if is_cached:
        pipe.cache_tokens(tokenize)
    batches = pipe.map(BiEncoderCollator(tokenize, tokenize))
    return timed(batches, lambda batch: (len(batch.positive_index), _tokens(batch)))


def cached(file: str, tokenizer: str) -> dict[str, float]:
    return ours(file, tokenizer, is_cached=True)


def bound(file: str, tokenizer: str, *, encode: Callable[[list[str]], Any] | None = None) -> dict[str, float]:
    """Rows are read and their passages found beforehand: only parsing and tokenizing are timed."""
    import simdjson

    from text.transforms import Tokenize, load_tokenizer

    encode, parser = encode or Tokenize(load_tokenizer(tokenizer), MAX_LENGTH).encode, simdjson.Parser()
    with open(file, "rb") as lines:
        rows = [(line, _texts(json.loads(line))) for line in islice(lines, 6400)]

    def batches() -> Iterator[list[Any]]:
        for start in range(0, len(rows), BATCH_SIZE):
            for line, _ in rows[start : start + BATCH_SIZE]:
                parser.parse(line)
            yield encode([text for _, texts in rows[start : start + BATCH_SIZE] for text in texts])

    return timed(batches(), lambda ids: (len(ids) // 5, sum(map(len, ids))))


def encode_batch(file: str, tokenizer: str) -> dict[str, float]:
    from text.transforms import load_tokenizer

    return bound(file, tokenizer, encode=load_tokenizer(tokenizer).encode_batch)


def dpr(file: str, tokenizer: str) -> dict[str, float]:
    import torch

    encoder = _transformers(tokenizer)
    with open(file, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, 6400)]

    def tensor(text: str, title: str | None = None) -> torch.Tensor:
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
                questions.append(tensor(row["question"]))
                for context in (row["positive_ctxs"][0], row["hard_negative_ctxs"][0]):
                    passages.append(tensor(context["text"], context["title"]))
            yield torch.stack(questions), torch.stack(passages)

    def size(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[int, int]:
        return len(batch[0]), sum(int((ids != encoder.pad_token_id).sum()) for ids in batch)

    return timed(batches(), size)


def arrow(file: str, tokenizer: str, *, is_picked_before: bool = False) -> dict[str, float]:
    import datasets  # pyright: ignore[reportMissingImports]
    from sentence_transformers.sentence_transformer import data_collator  # pyright: ignore[reportMissingImports]
    from torch.utils.data import DataLoader

    datasets.disable_progress_bars()
    encoder = _transformers(tokenizer)

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
        return timed(batches, lambda batch: (len(batch[masks[0]]), sum(int(batch[mask].sum()) for mask in masks)))


def triplets(file: str, tokenizer: str) -> dict[str, float]:
    return arrow(file, tokenizer, is_picked_before=True)


def start(file: str, tokenizer: str) -> dict[str, float]:
    """From nothing but the imports to the first batch; then memory over some more."""
    import text.datasets.formats.jsonl as jsonl
    from text.datasets import DPRDataPipe
    from text.transforms import BiEncoderCollator, Tokenize, load_tokenizer

    before, began = _memory(), time.perf_counter()
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
        "megabytes_of_memory": _memory() - before,
    }


SIDES: dict[str, Callable[[str, str], dict[str, float]]] = {
    "ours": ours,
    "cached": cached,
    "bound": bound,
    "encode_batch": encode_batch,
    "dpr": dpr,
    "arrow": arrow,
    "triplets": triplets,
}


def timed(batches: Any, size: Callable[[Any], tuple[int, int]], seconds: float = 8) -> dict[str, float]:
    """Questions and tokens a second, after a few batches to get going."""
    batches = iter(batches)
    for _ in islice(batches, 5):
        pass
    questions = tokens = 0
    began = time.perf_counter()
    for batch in batches:
        more_questions, more_tokens = size(batch)
        questions, tokens = questions + more_questions, tokens + more_tokens
        if time.perf_counter() - began > seconds:
            break
    elapsed = time.perf_counter() - began
    return {"questions_s": questions / elapsed, "tokens_s": tokens / elapsed}


def page(arguments: argparse.Namespace, results: list[dict[str, Any]], starts: dict[str, Any]) -> str:
    lines = [
        "# Training batches a second",
        "",
        hardware(),
        versions("torch", "tokenizers", "tiktoken", "pysimdjson", "transformers", "datasets", "sentence-transformers"),
        "",
        f"`python -m benchmarks.pipeline --megabytes={arguments.megabytes} --large={arguments.large} "
        f"--rounds={arguments.rounds}`: real NQ rows of 110 KB, repeated with other ids; batches of {BATCH_SIZE}, one "
        f"positive and one hard negative each; roberta-base's tokenizer; one process; the file in the page cache.",
        "",
        "| side | questions/s | tokens/s | ours / it, median of rounds |",
        "|---|---|---|---|",
    ]
    for side in SIDES:
        questions, tokens = (statistics.median(r[side][f] for r in results) for f in ("questions_s", "tokens_s"))
        ratio = statistics.median(r["ours"]["questions_s"] / r[side]["questions_s"] for r in results)
        lines.append(f"| {side} | {questions:,.0f} | {tokens:,.0f} | {ratio:.2f} |")
    lines += ["", f"One H100 at 400 TFLOP/s takes {H100_TOKENS:,.0f} tokens/s in training RoBERTa-base."]
    if starts:
        lines += [
            "",
            "| start | GB | rows | index, s | check of rows, s | first batch, s | memory, MB |",
            "|---" * 7 + "|",
        ]
        for name, s in starts.items():
            seconds = (f"{s[f'{what}_seconds']:.2f}" for what in ("index", "check", "first_batch"))
            figures = (name, f"{s['gigabytes']:.1f}", f"{s['rows']:,}", *seconds, f"{s['megabytes_of_memory']:.0f}")
            lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def changed(record: dict[str, Any], turn: int) -> dict[str, Any]:
    pools = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
    changed = {
        pool: [{**context, "passage_id": f"{context['passage_id']}.{turn}"} for context in record[pool]]
        for pool in pools
    }
    return {**record, "question": f"{record['question']} {turn}", **changed}


def _texts(record: dict[str, Any]) -> list[str]:
    positive, negative = record["positive_ctxs"][0], random.choice(record["hard_negative_ctxs"])
    return [record["question"], positive["title"], positive["text"], negative["title"], negative["text"]]


def _tokens(batch: Any) -> int:
    return int(batch.questions.attention_mask.sum() + batch.passages.attention_mask.sum())


def _transformers(tokenizer: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    from text.transforms import load_tokenizer

    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=load_tokenizer(tokenizer), unk_token="<unk>", **names)


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
