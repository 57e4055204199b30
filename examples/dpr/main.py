"""Train two encoders for dense passage retrieval, or select data for it.

    python examples/dpr/main.py --max_epochs=10 --data_path=examples/dpr/data/nq3_tiny/data/retriever/
    python examples/dpr/main.py --sel_data --sel_raw_path=nq-dev.json --sel_out_path=train.jsonl --sel_num_items=500

``train`` uses the parts of the library in the order in which data flows through them. The command ``dpr-text train``
has the same flags and writes the same files. ``pick_arguments(function, group)`` selects the flags of a group that are
parameters of the function.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from text.bundle import BiEncoderBundle
from text.commands.cli import get_flag_values, pick_arguments, run_command
from text.commands.select import SelectFlags, select
from text.commands.stored_embeddings import open_stored_embeddings
from text.commands.train import train as run_train_command
from text.commands.train_flags import DataFlags, TrainFlags, build_objective
from text.datasets import (
    check_negatives,
    describe_files,
    describe_splits,
    find_splits,
    leave_out_tokenless,
    open_splits,
)
from text.errors import UsageError
from text.models import build_bi_encoder, check_encoder_name, choose_learning_rate
from text.reports.run_results import write_run_results
from text.runs.adapters import finish_adapters
from text.runs.folder import RunFolder
from text.runs.lengths import write_training_lengths
from text.runs.model_settings import choose_model_settings
from text.runs.resume import check_resumed, find_tokenizer
from text.training import (
    BiEncoderTask,
    DPRDataModule,
    build_trainer,
    check_checkpoint,
    check_devices,
    check_schedule,
    choose_monitor,
    fit_and_test,
    print_lines,
    print_rank_zero,
    resolve_max_lengths,
    seed_everything_quietly,
)
from text.transforms import encoder_settings, load_or_train_tokenizer

TINY_SET = "examples/dpr/data/nq3_tiny/data/retriever"


@dataclass(frozen=True, kw_only=True)
class ExampleDataFlags(DataFlags):
    """Files, batches and negatives. By default the tiny data set beside this file is read."""

    def __post_init__(self) -> None:
        if not (self.data_path or self.train_files or self.valid_file or self.test_file):
            object.__setattr__(self, "data_path", TINY_SET)


@dataclass(frozen=True, kw_only=True)
class SelectionFlags:
    """Row selection from a raw file."""

    sel_data: bool = False
    """Select rows from a raw file instead of training."""
    sel_raw_path: str = "../DPR/data/nq3/data/retriever/nq-dev.json"
    """Raw DPR file to select from: a JSON array or JSONL, plain or compressed (.gz, .zst)."""
    sel_out_path: str | None = None
    """JSONL file to write the selected rows to. --sel_data needs it."""
    sel_num_items: int = 10
    """Number of rows to select: the first rows with positives, negatives and hard negatives."""
    sel_skip_items: int = 0
    """Number of usable rows to skip first, so that several selections from one file are disjoint."""
    sel_keep_without_negatives: bool = False
    """Also keep rows without negative_ctxs, such as those of FAIR's trivia files."""

    def __post_init__(self) -> None:
        if self.sel_data and self.sel_out_path is None:
            raise UsageError("--sel_data needs --sel_out_path, the JSONL file for the selected rows.")


@dataclass(frozen=True, kw_only=True)
class ExampleFlags(TrainFlags):
    """Train two encoders for dense passage retrieval, or select data for it (--sel_data).

    Examples::

        python examples/dpr/main.py --max_epochs=10 --data_path=examples/dpr/data/nq3_tiny/data/retriever/
        python examples/dpr/main.py --sel_data --sel_raw_path=nq-dev.json --sel_out_path=train.jsonl --sel_num_items=500
    """

    data: ExampleDataFlags = ExampleDataFlags()
    selection: SelectionFlags = SelectionFlags()


def main(flags: ExampleFlags) -> None:
    """Select rows or train."""
    if flags.selection.sel_data:
        names = {name: value for name, value in vars(flags.selection).items() if name != "sel_data"}
        options = {name.removeprefix("sel_"): value for name, value in names.items()}
        select(SelectFlags(**options, overwrite=flags.run.overwrite))
    else:
        # The steps below train a bi-encoder. The command trains a reranker in the same order.
        run = run_train_command if flags.model.task == "rerank" else train
        run(TrainFlags(**pick_arguments(TrainFlags, flags)))


def train(flags: TrainFlags) -> None:
    """Train two encoders, test the best checkpoint and save its model."""
    run, optimization = flags.run, flags.optimization
    check_encoder_name(flags.model.encoder)
    check_devices(run.gpus, run.num_nodes)
    files = find_splits(**pick_arguments(find_splits, flags.data))
    monitor = choose_monitor("valid" in files, **pick_arguments(choose_monitor, flags.data, run))
    with RunFolder.open(**pick_arguments(RunFolder.open, run)) as folder:
        seed_everything_quietly(run.seed)

        # Data: check rows in the DPR format once, and cut them into batches of Examples.
        print_lines(describe_files(files, **pick_arguments(describe_files, flags.data)))
        pipes = open_splits(files, seed=run.seed, **pick_arguments(open_splits, flags.data))
        print_lines(describe_splits(pipes))
        if not flags.data.allow_no_negatives:
            check_negatives(pipes["train"], in_batch_negatives=flags.objective.in_batch_negatives)
        check_schedule(len(pipes["train"]), **pick_arguments(check_schedule, optimization, run))

        # Tokenizer: load the encoder's tokenizer, or train one on the training file.
        path = find_tokenizer(flags.model.tokenizer, folder.checkpoint, flags.model.encoder)
        tokenizer = load_or_train_tokenizer(path, pipes["train"].texts, flags.model.vocab_size)

        # Encoders: build one for questions and one for passages. A saved model also brings its settings.
        limits = (flags.model.question_max_length, flags.model.passage_max_length)
        chosen = choose_model_settings(**pick_arguments(choose_model_settings, flags.model))
        options = pick_arguments(build_bi_encoder, flags.model, optimization, chosen)
        options |= encoder_settings(tokenizer) | {"max_length": max(limit or 0 for limit in limits)}
        model = build_bi_encoder(**options, compile_layers=optimization.compile)
        options = pick_arguments(BiEncoderBundle, chosen)
        options |= resolve_max_lengths(*limits, model, tokenizer, chosen.default_max_lengths)
        bundle = BiEncoderBundle(model=model, tokenizer=tokenizer, **options)
        print_rank_zero(f"from {flags.model.encoder}: {bundle.describe()}")

        # Batches: turn texts into token ids. The collator records which passage answers which question.
        print_lines(leave_out_tokenless(pipes, bundle.build_collator(backend=flags.model.tokenizer_backend)))
        backend, stored = flags.model.tokenizer_backend, open_stored_embeddings(flags, pipes, bundle)
        collate, train_collate = (bundle.build_collator(n, backend, stored) for n in (1, flags.data.num_positives))
        for pipe in pipes.values() if flags.data.token_cache else ():
            pipe.cache_tokens(bundle.build_token_cache_transform())
        data = DPRDataModule(collate, **pipes, train_collate=train_collate, num_workers=flags.data.num_workers)

        # Objective: compare each question's positive with the other passages of the batch.
        rate = choose_learning_rate(**pick_arguments(choose_learning_rate, optimization, flags.model))
        options = dict(pick_arguments(BiEncoderTask, optimization), learning_rate=rate)
        task = BiEncoderTask(model, build_objective(flags, bundle), **options, set_names=pipes["train"].names)

        # Trainer: train with Lightning, keep the best checkpoint, and test it. A stopped run resumes exactly.
        settings = get_flag_values(flags) | bundle.settings | {"monitor": monitor}
        options = dict(pick_arguments(build_trainer, optimization, run), monitor=monitor, settings=settings)
        trainer = build_trainer(**options, num_batches=len(pipes["train"]), checkpoint=folder.checkpoint)
        check_resumed(folder.checkpoint, settings, tokenizer)
        check_checkpoint(folder.checkpoint, trainer, task, data)
        folder.start(settings, bundle)
        if folder.is_writer:
            write_training_lengths(folder.path / "lengths.json", pipes["train"], bundle)
        metrics = fit_and_test(trainer, task, data, checkpoint=folder.checkpoint, validate_first=run.validate_first)

        # Saved model: save encoders, tokenizer and settings, with a model card, a manifest and a report.
        if folder.is_writer:
            finish_adapters(folder.path / "adapter", bundle, pipes["train"].texts(), flags.model.encoder)
            bundle.save(folder.path / "model", passages_from=flags.model.kept_model)
            write_run_results(folder.path, settings=settings, pipes=pipes, test_metrics=metrics, is_tied=model.is_tied)


if __name__ == "__main__":
    sys.exit(run_command(main, ExampleFlags, sys.argv[1:]))
