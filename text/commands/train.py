"""``dpr-text train``: train a model on rows in the DPR format. ``examples/dpr/main.py`` uses the same parts."""

from __future__ import annotations

from text.commands.cli import get_flag_values, pick_arguments
from text.commands.train_bi_encoder import BiEncoderTraining
from text.commands.train_flags import TrainFlags
from text.commands.train_reranker import RerankerTraining
from text.datasets import (
    DPRDataPipe,
    check_negatives,
    describe_files,
    describe_splits,
    find_splits,
    leave_out_tokenless,
    open_splits,
)
from text.models import check_encoder_name, choose_learning_rate
from text.reports.run_results import write_run_results
from text.runs.folder import RunFolder
from text.runs.resume import check_resumed, find_tokenizer
from text.training import (
    build_trainer,
    check_checkpoint,
    check_devices,
    check_schedule,
    choose_monitor,
    fit_and_test,
    print_lines,
    seed_everything_quietly,
)
from text.transforms import load_tokenizer


def train(flags: TrainFlags) -> None:
    """Train the model, test the best checkpoint and save its model. Only rank 0 writes to the output folder."""
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
        kind = RerankerTraining if flags.model.task == "rerank" else BiEncoderTraining
        training = kind(flags, pipes["train"], tokenizer)
        print_lines(leave_out_tokenless(pipes, training.collate))
        check_schedule(len(pipes["train"]), **pick_arguments(check_schedule, optimization, run))
        data = training.build_data(pipes)
        rate = choose_learning_rate(**pick_arguments(choose_learning_rate, optimization, flags.model))
        task = training.build_task(rate, pipes["train"].names)
        settings = get_flag_values(flags) | training.model.settings | {"monitor": monitor}
        options = dict(pick_arguments(build_trainer, optimization, run), monitor=monitor, settings=settings)
        trainer = build_trainer(**options, num_batches=len(pipes["train"]), checkpoint=folder.checkpoint)
        check_resumed(folder.checkpoint, settings, training.model.tokenizer)
        check_checkpoint(folder.checkpoint, trainer, task, data)
        folder.start(settings, training.model)
        if folder.is_writer:
            training.write_lengths(folder.path, pipes["train"])
        metrics = fit_and_test(trainer, task, data, checkpoint=folder.checkpoint, validate_first=run.validate_first)
        if folder.is_writer:
            training.save(folder.path, pipes["train"])
            is_tied = training.is_tied
            write_run_results(folder.path, settings=settings, pipes=pipes, test_metrics=metrics, is_tied=is_tied)


def _open_data(flags: TrainFlags, files: dict[str, list[str]]) -> dict[str, DPRDataPipe]:
    pipes = open_splits(files, seed=flags.run.seed, **pick_arguments(open_splits, flags.data))
    print_lines(describe_splits(pipes))
    if not flags.data.allow_no_negatives:
        # A reranker compares a question with the passages of its own row only.
        in_batch_negatives = flags.objective.in_batch_negatives and flags.model.task != "rerank"
        check_negatives(pipes["train"], in_batch_negatives=in_batch_negatives)
    return pipes
