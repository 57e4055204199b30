"""``dpr-text train --task=rerank``: train a cross-encoder on rows in the DPR format."""

from __future__ import annotations

import os

from text.commands.cli import get_flag_values, pick_arguments
from text.commands.train_flags import TrainFlags
from text.datasets import (
    DPRDataPipe,
    check_negatives,
    describe_files,
    describe_splits,
    find_splits,
    leave_out_tokenless,
    open_splits,
)
from text.models import SIZES, build_cross_encoder, check_encoder_name, choose_learning_rate
from text.reports.run_results import write_run_results
from text.reranker import Reranker, choose_max_length
from text.runs.folder import RunFolder
from text.runs.resume import check_resumed, find_tokenizer
from text.training import (
    CrossEncoderTask,
    DPRDataModule,
    RerankObjective,
    build_trainer,
    check_checkpoint,
    check_devices,
    check_schedule,
    choose_monitor,
    fit_and_test,
    print_lines,
    print_rank_zero,
    seed_everything_quietly,
)
from text.transforms import (
    CrossEncoderCollator,
    Tokenizer,
    encoder_settings,
    load_or_train_tokenizer,
    load_tokenizer,
    read_has_token_types,
)


def train_reranker(flags: TrainFlags) -> None:
    """Train the cross-encoder, test the best checkpoint and save it. Only rank 0 writes to the output folder."""
    optimization, run = flags.optimization, flags.run
    check_encoder_name(flags.model.encoder)
    check_devices(run.gpus, run.num_nodes)
    files = find_splits(**pick_arguments(find_splits, flags.data))
    monitor = choose_monitor("valid" in files, **pick_arguments(choose_monitor, flags.data, run))
    with RunFolder.open(**pick_arguments(RunFolder.open, run)) as folder:
        seed_everything_quietly(run.seed)
        print_lines(describe_files(files, **pick_arguments(describe_files, flags.data)))
        path = find_tokenizer(flags.model.tokenizer, folder.checkpoint, flags.model.encoder)
        tokenizer = None if path is None else load_tokenizer(path)  # report its errors before reading all rows
        pipes = _open_data(flags, files)
        reranker = _build_reranker(flags, pipes["train"], tokenizer)
        collate = CrossEncoderCollator(reranker.transform)
        print_lines(leave_out_tokenless(pipes, collate))
        check_schedule(len(pipes["train"]), **pick_arguments(check_schedule, optimization, run))
        data = DPRDataModule(collate, **pipes, train_collate=None, num_workers=flags.data.num_workers)
        objective = RerankObjective(**pick_arguments(RerankObjective, flags.objective))
        rate = choose_learning_rate(**pick_arguments(choose_learning_rate, optimization, flags.model))
        options = dict(pick_arguments(CrossEncoderTask, optimization), learning_rate=rate)
        task = CrossEncoderTask(reranker.model, objective, **options, set_names=pipes["train"].names)
        settings = get_flag_values(flags) | reranker.settings | {"monitor": monitor}
        options = dict(pick_arguments(build_trainer, optimization, run), monitor=monitor, settings=settings)
        trainer = build_trainer(**options, num_batches=len(pipes["train"]), checkpoint=folder.checkpoint)
        check_resumed(folder.checkpoint, settings, reranker.tokenizer)
        check_checkpoint(folder.checkpoint, trainer, task, data)
        folder.start(settings, reranker)
        metrics = fit_and_test(trainer, task, data, checkpoint=folder.checkpoint, validate_first=run.validate_first)
        if folder.is_writer:
            reranker.save(folder.path / "model")
            write_run_results(folder.path, settings=settings, pipes=pipes, test_metrics=metrics, is_tied=None)


def _open_data(flags: TrainFlags, files: dict[str, list[str]]) -> dict[str, DPRDataPipe]:
    pipes = open_splits(files, seed=flags.run.seed, **pick_arguments(open_splits, flags.data))
    print_lines(describe_splits(pipes))
    if not flags.data.allow_no_negatives:
        check_negatives(pipes["train"], in_batch_negatives=False)
    return pipes


def _build_reranker(flags: TrainFlags, pipe: DPRDataPipe, tokenizer: Tokenizer | None) -> Reranker:
    """Return the model that training starts from, with its tokenizer and settings."""
    tokenizer = tokenizer or load_or_train_tokenizer(None, pipe.texts, flags.model.vocab_size)
    encoder = flags.model.encoder
    options = pick_arguments(build_cross_encoder, flags.model, flags.optimization) | encoder_settings(tokenizer)
    model = build_cross_encoder(**options, compile_layers=flags.optimization.compile)
    source = flags.model.tokenizer or (encoder if os.path.isdir(encoder) else None)
    has_types = model.num_token_types > 1 if model.is_new_head or source is None else read_has_token_types(source)
    limit = choose_max_length(flags.model.pair_max_length, encoder, model, tokenizer)
    reranker = Reranker(model=model, tokenizer=tokenizer, max_length=limit, has_token_types=has_types)
    print_rank_zero(f"from {encoder}: {reranker.describe()}")
    if model.is_new_head and encoder not in SIZES:
        print_rank_zero(f"{encoder} has no classification head. A new head starts from random weights.")
    return reranker
