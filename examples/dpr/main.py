"""Train two encoders for dense passage retrieval, or select data for it.

    python examples/dpr/main.py --max_epochs=10 --data_path=examples/dpr/data/nq3_tiny/data/retriever/
    python examples/dpr/main.py --sel_data --sel_raw_path=nq-dev.json --sel_out_path=train.jsonl --sel_num_items=500

``train`` shows the parts of the library in the order in which data flows through them. The command ``dpr-text train``
has the same flags and leaves the same files. ``pick_arguments`` passes the flags that a function takes by name.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace

from text.bundle import BiEncoderBundle
from text.commands.cli import flag_values, pick_arguments, run_command
from text.commands.select import SelectFlags, select
from text.commands.train_flags import DataFlags, TrainFlags
from text.datasets import check_negatives, describe_split, find_splits, leave_out_tokenless, open_splits
from text.models import build_bi_encoder, check_encoder_name, choose_learning_rate
from text.reports.run_results import write_run_results
from text.runs.folder import RunFolder
from text.runs.lengths import write_training_lengths
from text.runs.resume import check_resumed, find_tokenizer
from text.training import (
    BiEncoderTask,
    DPRDataModule,
    build_trainer,
    check_checkpoint,
    check_devices,
    check_schedule,
    fit_and_test,
    print_rank_zero,
    resolve_max_lengths,
    seed_everything_quietly,
)
from text.transforms import encoder_settings, load_or_train_tokenizer

TINY_SET = "examples/dpr/data/nq3_tiny/data/retriever"


@dataclass(frozen=True, kw_only=True)
class ExampleDataFlags(DataFlags):
    """Files, batches and negatives. The default is the tiny data set beside this file."""

    data_path: str | None = TINY_SET
    """Folder with train, valid and test: .jsonl in the DPR format, or .json with one array; plain or compressed (.gz,
    .zst)."""


@dataclass(frozen=True, kw_only=True)
class SelectionFlags:
    """Selection of rows from a raw file."""

    sel_data: bool = False
    """Select rows from a raw file instead of training."""
    sel_raw_path: str = "../DPR/data/nq3/data/retriever/nq-dev.json"
    """Raw DPR file to select from: a JSON array or JSONL, plain or compressed (.gz, .zst)."""
    sel_out_path: str = f"{TINY_SET}/train.jsonl"
    """JSONL file to write the selected rows to."""
    sel_num_items: int = 10
    """Rows to select: the first ones that have positives, negatives and hard negatives."""
    sel_skip_items: int = 0
    """Usable rows to skip first. It keeps several selections from one file disjoint."""
    sel_keep_without_negatives: bool = False
    """Also keep rows without negative_ctxs, such as those of FAIR's trivia files."""


@dataclass(frozen=True, kw_only=True)
class ExampleFlags(TrainFlags):
    """Train two encoders for dense passage retrieval, or select data for it (--sel_data)."""

    data: ExampleDataFlags = ExampleDataFlags()
    selection: SelectionFlags = SelectionFlags()


def main(flags: ExampleFlags) -> None:
    """Select rows or train."""
    if flags.selection.sel_data:
        names = {name: value for name, value in vars(flags.selection).items() if name != "sel_data"}
        options = {name.removeprefix("sel_"): value for name, value in names.items()}
        select(SelectFlags(**options, overwrite=flags.run.overwrite))
    else:
        train(TrainFlags(**{field.name: getattr(flags, field.name) for field in fields(TrainFlags)}))


def train(flags: TrainFlags) -> None:
    """Train two encoders, test the best checkpoint and save its model."""
    run, optimization = flags.run, flags.optimization
    check_encoder_name(flags.model.encoder)
    check_devices(run.gpus, run.num_nodes)
    with RunFolder.open(**pick_arguments(RunFolder.open, run)) as folder:
        seed_everything_quietly(run.seed)

        # Data: rows in the DPR format are checked once and cut into batches of Examples.
        files = find_splits(**pick_arguments(find_splits, flags.data))
        pipes = open_splits(files, seed=run.seed, **pick_arguments(open_splits, flags.data))
        print_rank_zero("\n".join(describe_split(stage, pipe) for stage, pipe in pipes.items()))
        if not flags.data.allow_no_negatives:
            check_negatives(pipes["train"], in_batch_negatives=flags.objective.in_batch_negatives)
        check_schedule(len(pipes["train"]), **pick_arguments(check_schedule, optimization, run))

        # Tokenizer: the one of the encoder, or one that is trained on the training file.
        path = find_tokenizer(flags.model.tokenizer, folder.checkpoint, flags.model.encoder)
        tokenizer = load_or_train_tokenizer(path, pipes["train"].texts, flags.model.vocab_size)

        # Encoders: one for questions and one for passages, from random or saved weights.
        limits = (flags.model.question_max_length, flags.model.passage_max_length)
        options = pick_arguments(build_bi_encoder, flags.model, optimization)
        options |= encoder_settings(tokenizer) | {"max_length": max(limit or 0 for limit in limits)}
        model = build_bi_encoder(**options, compile_layers=optimization.compile)

        bundle = BiEncoderBundle(
            model=model,
            tokenizer=tokenizer,
            **resolve_max_lengths(*limits, model),
            titles=flags.model.titles,
            similarity=flags.objective.similarity,
            temperature=flags.objective.temperature,
        )

        # Batches: texts become token ids. The collator knows which passage answers which question.
        collate = bundle.build_collator(backend=flags.model.tokenizer_backend)
        for line in leave_out_tokenless(pipes, collate):
            print_rank_zero(line)
        train_collate = bundle.build_collator(flags.data.num_positives, flags.model.tokenizer_backend)
        for pipe in pipes.values() if flags.data.token_cache else ():
            pipe.cache_tokens(bundle.token_cache_transform())
        data = DPRDataModule(collate, **pipes, train_collate=train_collate, num_workers=flags.data.num_workers)

        # Objective: each question's positive against the other passages of the batch.
        objective = replace(flags.objective, all_positives=flags.data.num_positives > 1)
        objective.check_width(bundle.encoder("question").embedding_dim)
        options = pick_arguments(BiEncoderTask, optimization)
        options["learning_rate"] = choose_learning_rate(optimization.learning_rate, flags.model.encoder)
        task = BiEncoderTask(model, objective, **options, set_names=pipes["train"].names)

        # Trainer: Lightning trains, keeps the best checkpoint and tests it. A stopped run resumes exactly.
        settings = flag_values(flags) | bundle.limits
        options = pick_arguments(build_trainer, optimization, run)
        trainer = build_trainer(**options, num_batches=len(pipes["train"]), checkpoint=folder.checkpoint)
        check_resumed(folder.checkpoint, settings, tokenizer)
        check_checkpoint(folder.checkpoint, trainer, task, data)
        folder.start(settings, bundle)
        if folder.is_writer:
            write_training_lengths(folder.path / "lengths.json", pipes["train"], bundle)
        metrics = fit_and_test(trainer, task, data, checkpoint=folder.checkpoint, validate_first=run.validate_first)

        # Saved model: encoders, tokenizer and settings, with a model card, a manifest and a report beside them.
        if folder.is_writer:
            bundle.save(folder.path / "model")
            write_run_results(folder.path, settings=settings, pipes=pipes, test_metrics=metrics, is_tied=model.is_tied)


if __name__ == "__main__":
    sys.exit(run_command(main, ExampleFlags, sys.argv[1:]))
