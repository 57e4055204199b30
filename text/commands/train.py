"""``dpr-text train``: train a model on rows in the DPR format. ``examples/dpr/main.py`` uses the same parts."""

from __future__ import annotations

from text.bundle import BiEncoderBundle
from text.commands.cli import get_flag_values, pick_arguments
from text.commands.stored_embeddings import open_stored_embeddings
from text.commands.train_flags import TrainFlags, build_objective
from text.commands.train_reranker import train_reranker
from text.datasets import (
    DPRDataPipe,
    check_negatives,
    describe_files,
    describe_splits,
    find_splits,
    leave_out_tokenless,
    open_splits,
)
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
from text.transforms import Tokenizer, encoder_settings, load_or_train_tokenizer, load_tokenizer


def train(flags: TrainFlags) -> None:
    """Train the model, test the best checkpoint and save its model. Only rank 0 writes to the output folder."""
    (train_reranker if flags.model.task == "rerank" else _train_bi_encoder)(flags)


def _train_bi_encoder(flags: TrainFlags) -> None:
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
        bundle = _build_bundle(flags, pipes["train"], tokenizer)
        print_lines(leave_out_tokenless(pipes, bundle.build_collator(backend=flags.model.tokenizer_backend)))
        check_schedule(len(pipes["train"]), **pick_arguments(check_schedule, optimization, run))
        data = _build_data(flags, pipes, bundle)
        objective = build_objective(flags, bundle)
        rate = choose_learning_rate(**pick_arguments(choose_learning_rate, optimization, flags.model))
        options = dict(pick_arguments(BiEncoderTask, optimization), learning_rate=rate)
        task = BiEncoderTask(bundle.model, objective, **options, set_names=pipes["train"].names)
        settings = get_flag_values(flags) | bundle.settings | {"monitor": monitor}
        options = dict(pick_arguments(build_trainer, optimization, run), monitor=monitor, settings=settings)
        trainer = build_trainer(**options, num_batches=len(pipes["train"]), checkpoint=folder.checkpoint)
        check_resumed(folder.checkpoint, settings, bundle.tokenizer)
        check_checkpoint(folder.checkpoint, trainer, task, data)
        folder.start(settings, bundle)
        if folder.is_writer:
            write_training_lengths(folder.path / "lengths.json", pipes["train"], bundle)
        metrics = fit_and_test(trainer, task, data, checkpoint=folder.checkpoint, validate_first=run.validate_first)
        if folder.is_writer:
            finish_adapters(folder.path / "adapter", bundle, pipes["train"].texts(), flags.model.encoder)
            bundle.save(folder.path / "model", passages_from=flags.model.kept_model)
            is_tied = bundle.model.is_tied
            write_run_results(folder.path, settings=settings, pipes=pipes, test_metrics=metrics, is_tied=is_tied)


def _open_data(flags: TrainFlags, files: dict[str, list[str]]) -> dict[str, DPRDataPipe]:
    pipes = open_splits(files, seed=flags.run.seed, **pick_arguments(open_splits, flags.data))
    print_lines(describe_splits(pipes))
    if not flags.data.allow_no_negatives:
        check_negatives(pipes["train"], in_batch_negatives=flags.objective.in_batch_negatives)
    return pipes


def _build_bundle(flags: TrainFlags, pipe: DPRDataPipe, tokenizer: Tokenizer | None) -> BiEncoderBundle:
    tokenizer = tokenizer or load_or_train_tokenizer(None, pipe.texts, flags.model.vocab_size)
    limits = (flags.model.question_max_length, flags.model.passage_max_length)
    chosen = choose_model_settings(**pick_arguments(choose_model_settings, flags.model))
    options = pick_arguments(build_bi_encoder, flags.model, flags.optimization, chosen)
    options |= encoder_settings(tokenizer) | {"max_length": max(limit or 0 for limit in limits)}
    model = build_bi_encoder(**options, compile_layers=flags.optimization.compile)
    limits = resolve_max_lengths(*limits, model, tokenizer, chosen.default_max_lengths)
    bundle = BiEncoderBundle(model=model, tokenizer=tokenizer, **limits, **pick_arguments(BiEncoderBundle, chosen))
    print_rank_zero(f"from {flags.model.encoder}: {bundle.describe()}")
    return bundle


def _build_data(flags: TrainFlags, pipes: dict[str, DPRDataPipe], bundle: BiEncoderBundle) -> DPRDataModule:
    backend = flags.model.tokenizer_backend
    stored = open_stored_embeddings(flags, pipes, bundle)
    collate, train_collate = (bundle.build_collator(num, backend, stored) for num in (1, flags.data.num_positives))
    for pipe in pipes.values() if flags.data.token_cache else ():
        pipe.cache_tokens(bundle.build_token_cache_transform())
    return DPRDataModule(collate, **pipes, train_collate=train_collate, num_workers=flags.data.num_workers)
