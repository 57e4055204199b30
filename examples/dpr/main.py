"""Selects data, trains two encoders for dense passage retrieval, and tests them.

    python examples/dpr/main.py --max_epochs=10 --data_path=examples/dpr/data/nq3_tiny/data/retriever/
    python examples/dpr/main.py --sel_data --sel_raw_path=nq-dev.json --sel_out_path=train.jsonl --sel_num_items=500

This file only wires: every part comes from ``text``, is built in build.py, once, and from the flags of config.py.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from tokenizers import Tokenizer

from examples.dpr.build import (
    build_data,
    build_model,
    build_pipes,
    build_task,
    build_tokenizer,
    build_trainer,
    check_encoder,
    check_numbers,
    say,
    with_limits,
)
from examples.dpr.cli import UsageError, run
from examples.dpr.config import DPRConfig
from examples.dpr.lengths import measure, sample, write_lengths
from examples.dpr.model_card import write_model_card
from examples.dpr.output import check_output, check_resumed, check_space, lock_output, start_output, write_manifest
from examples.dpr.paths import check_readable, check_writable
from text.artifacts import write_json
from text.datasets import DPRDataPipe, select_rows
from text.models import BiEncoder, RobertaEncoder
from text.training import BiEncoderTask, DPRDataModule, StepFailures, check_hash, expected_size, newest_valid
from text.transforms import save_tokenizer

MEASURED = 1000
"""Questions whose lengths, and those of their passages, the report shows."""


def main(config: DPRConfig) -> None:
    """Selects or trains."""
    if config.sel_data:
        select(config)
    else:
        train(config)


def select(config: DPRConfig) -> None:
    """Writes the first usable rows of a raw file as JSONL; says what was kept and dropped."""
    check_readable(config.sel_raw_path)
    check_writable(config.sel_out_path, [], overwrite=True)  # what it must not replace, select_rows knows
    selection = select_rows(
        config.sel_raw_path,
        config.sel_out_path,
        config.sel_num_items,
        skip_items=config.sel_skip_items,
        overwrite=config.overwrite,
    )
    dropped = ", ".join(f"{count} {reason}" for reason, count in selection.dropped.items()) or "none"
    print(f"{config.sel_out_path}: kept {selection.kept} rows; passed over {selection.skipped}; dropped: {dropped}")
    if selection.kept < config.sel_num_items:
        print(f"{config.sel_raw_path}: only {selection.kept} of the {config.sel_num_items} rows asked for are there")


def train(config: DPRConfig) -> None:
    """Trains, keeps the best checkpoint, tests it, and leaves a model to hand on."""
    rank: int = rank_zero_only.rank  # pyright: ignore[reportFunctionMemberAccess]
    is_writer = rank == 0 and not config.fast_dev_run
    with lock_output(config.output_dir) if is_writer else nullcontext():
        _train(config, is_writer)


def _train(config: DPRConfig, is_writer: bool) -> None:
    """Of several processes, one is the writer."""
    check_encoder(config.encoder)
    checkpoint = _checkpoint_to_resume(config)
    if is_writer:
        check_output(config.output_dir, overwrite=config.overwrite, resumed=checkpoint)
    seed_everything(config.seed, verbose=False)
    pipes = build_pipes(config)
    tokenizer = build_tokenizer(config, pipes["train"], checkpoint)
    model = build_model(config, tokenizer)
    config = with_limits(config, model)
    check_numbers(config, pipes["train"], model)
    data = build_data(config, pipes, tokenizer, model)
    task = build_task(config, model, pipes["train"].names)
    if checkpoint is not None:
        check_resumed(checkpoint, dataclasses.asdict(config), tokenizer)
    if is_writer:
        check_space(config.output_dir, 2 * expected_size(model))
        start_output(config.output_dir, dataclasses.asdict(config), tokenizer, resumed=checkpoint)
        note_lengths(config, pipes["train"], tokenizer, model)
    failures = StepFailures()
    trainer = build_trainer(config, len(pipes["train"]), checkpoint, failures)
    with failures.told():
        figures = fit_and_test(config, trainer, task, data, checkpoint)
    if is_writer:
        hand_on(config, model, tokenizer, pipes, figures)


def _checkpoint_to_resume(config: DPRConfig) -> str | None:
    if config.resume is None:
        return None
    path = Path(config.output_dir if config.resume == "auto" else config.resume)
    if path.is_file():
        check_hash(path)
        return str(path)
    if not path.exists():
        raise UsageError(f"--resume: {path} does not exist; expected a checkpoint, or the folder of a run")
    try:
        found, faults = newest_valid(path / "checkpoints")
    except FileNotFoundError:
        raise UsageError(f"--resume: {path} has no checkpoint; expected the folder of a run") from None
    for fault in faults:
        print(f"warning: {fault}; going on from {found} instead", file=sys.stderr)
    return str(found)


def note_lengths(config: DPRConfig, pipe: DPRDataPipe, tokenizer: Tokenizer, model: BiEncoder) -> None:
    """Writes how long some of the training texts are, for the report."""
    assert isinstance(model.question_encoder, RobertaEncoder)
    assert config.question_max_length is not None and config.passage_max_length is not None
    prompts = model.question_encoder.config.prompts
    limits = (config.question_max_length, config.passage_max_length)
    batches = sample(pipe, MEASURED)
    lengths = measure(tokenizer, batches, limits, (prompts["query"], prompts["document"]), config.titles)
    write_lengths(Path(config.output_dir, "lengths.json"), lengths)


def fit_and_test(
    config: DPRConfig, trainer: Trainer, task: BiEncoderTask, data: DPRDataModule, checkpoint: str | None
) -> Mapping[str, float]:
    """The test figures of the best checkpoint; in a fast_dev_run, of what one step gave."""
    if config.validate_first and checkpoint is None:
        trainer.validate(task, data, verbose=False)
    trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    for name, share in trainer.callback_metrics.items():
        if name.endswith("_truncated"):
            say(f"{name}: {share:.2%}")
    best = trainer.checkpoint_callback  # the first of them
    path = best.best_model_path if isinstance(best, ModelCheckpoint) else None
    [figures] = trainer.test(task, data, ckpt_path=path, weights_only=True, verbose=False)
    if config.fast_dev_run:
        say("fast_dev_run: all ran, nothing was saved")
    return figures


def hand_on(
    config: DPRConfig,
    model: BiEncoder,
    tokenizer: Tokenizer,
    pipes: dict[str, DPRDataPipe],
    figures: Mapping[str, float],
) -> None:
    """Writes what a run leaves besides its checkpoints, and says what came out."""
    save_model(config, model, tokenizer)
    write_model_card(config.output_dir, dataclasses.asdict(config), pipes, figures, is_tied=model.is_tied)
    write_manifest(config.output_dir, pipes, figures)
    from examples.dpr.report import write_report  # not before there is something to draw

    print(f"report: {write_report([config.output_dir])}")
    print(f"model: {Path(config.output_dir, 'model')}")
    print("test: " + "  ".join(f"{name.removeprefix('test_')} {value:.4f}" for name, value in figures.items()))


def save_model(config: DPRConfig, model: BiEncoder, tokenizer: Tokenizer) -> None:
    """What a user hands on: both encoders, the tokenizer, and how they are meant to be used."""
    folder = Path(config.output_dir, "model")
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_length=config.passage_max_length)
    limits = {"question_encoder": config.question_max_length, "passage_encoder": config.passage_max_length}
    for name in ("question_encoder",) if model.is_tied else limits:
        limit = config.passage_max_length if model.is_tied else limits[name]
        save_tokenizer(tokenizer, folder / name, max_length=limit)
    names = ("question_max_length", "passage_max_length", "titles", "similarity", "temperature")
    write_json(folder / "config.json", {name: getattr(config, name) for name in names} | {"tied": model.is_tied})


if __name__ == "__main__":
    sys.exit(run(main, DPRConfig))
