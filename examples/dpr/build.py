"""The parts of a training run, each built once from the flags of main.py."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import sys
from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from tokenizers import Tokenizer

from examples.dpr.cli import UsageError
from examples.dpr.config import MONITORS, DPRConfig
from examples.dpr.paths import check_readable
from examples.dpr.splits import STAGES, find_split
from text.datasets import DPRDataPipe, PassageCollection
from text.errors import DataError
from text.models import (
    BiEncoder,
    RobertaEncoder,
    roberta_base,
    roberta_large,
    roberta_mini,
    roberta_small,
    roberta_tiny,
)
from text.training import (
    AccumulatedGradients,
    AtomicCheckpointIO,
    BiEncoderTask,
    DPRDataModule,
    MetricsCSV,
    Objective,
    ProgressBar,
    RandomState,
    SaveOnSignal,
    StepFailures,
    Throughput,
    WorstQuestions,
    best_and_last,
)
from text.transforms import (
    BiEncoderCollator,
    Tokenize,
    TorchtextTokenize,
    load_tokenizer,
    torchtext_bpe,
    train_tokenizer,
)

SIZES = {
    "tiny": roberta_tiny,
    "mini": roberta_mini,
    "small": roberta_small,
    "base": roberta_base,
    "large": roberta_large,
}
say = rank_zero_only(print)


def build_pipes(config: DPRConfig) -> dict[str, DPRDataPipe]:
    """The three splits, checked row by row; says what was found in each."""
    asked = {"train": config.train_files, "valid": config.valid_file, "test": config.test_file}
    paths = {stage: _listed(asked[stage]) or [find_split(config.data_path, stage)] for stage in STAGES}
    for path in (*chain.from_iterable(paths.values()), *([config.passages] if config.passages else [])):
        check_readable(path)
    passages = PassageCollection(config.passages) if config.passages else None
    pipes = _pipes(config, paths, passages)
    for stage, pipe in pipes.items():
        _tell(stage, pipe)
    compared = config.in_batch_negatives and min(config.batch_size, pipes["train"].num_rows) > 1
    if not (compared or pipes["train"].has_negatives or config.allow_no_negatives):
        raise DataError(
            f"{', '.join(paths['train'])}: no question has a negative, so that the loss is 0 and nothing is learned; "
            "expected hard negatives, or more questions in a batch (or --allow_no_negatives)"
        )
    return pipes


def _listed(paths: str | list[str] | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


def _pipes(
    config: DPRConfig, paths: Mapping[str, list[str]], passages: PassageCollection | None
) -> dict[str, DPRDataPipe]:
    pipe = partial(
        DPRDataPipe,
        batch_size=config.batch_size,
        passages=passages,
        seed=config.seed,
        max_skipped=config.max_skipped,
    )
    train = pipe(
        paths["train"],
        train=True,
        rates=config.train_rates,
        one_set_per_batch=config.one_set_per_batch,
        rows_together=config.rows_together,
        sample_positives=config.sample_positives,
        num_hard_negatives=config.num_hard_negatives,
        num_other_negatives=config.num_other_negatives,
        score_key=config.score_key,
    )
    others = {
        stage: pipe(
            paths[stage],
            num_hard_negatives=config.eval_hard_negatives,
            num_other_negatives=config.eval_other_negatives,
        )
        for stage in STAGES
        if stage != "train"
    }
    return {"train": train, **others}


def _tell(stage: str, pipe: DPRDataPipe) -> None:
    found = ", ".join(f"{count} {reason}" for reason, count in pipe.counts.items())
    say(f"{stage}: {pipe.num_rows} questions, {len(pipe.skipped)} rows skipped{f' ({found})' if found else ''}")
    if len(pipe.files) > 1:
        sets = zip(pipe.names, pipe.rows_per_set, strict=True)
        say(f"{stage}: an epoch takes " + ", ".join(f"{num_rows} of {name}" for name, num_rows in sets))


def build_tokenizer(config: DPRConfig, train_pipe: DPRDataPipe, checkpoint: str | None) -> Tokenizer:
    """The one asked for, else the resumed run's or the encoder's, else one trained on the training file."""
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)
    if checkpoint is not None:
        return load_tokenizer(Path(checkpoint).resolve().parents[1] / "tokenizer.json")
    if os.path.isfile(config.encoder):
        raise UsageError(f"--encoder is {config.encoder}, a file without a tokenizer; expected --tokenizer as well")
    if config.encoder not in SIZES:
        return load_tokenizer(config.encoder)
    return train_tokenizer(train_pipe.texts(), config.vocab_size, show_progress=sys.stderr.isatty())


def check_encoder(name: str) -> None:
    """
    Raises:
        UsageError: It is neither there nor a size, or is the folder of a run, which holds the model's.
    """
    if os.path.isdir(os.path.join(name, "model", "question_encoder")):
        raise UsageError(f"--encoder is {name}, the folder of a run; expected {os.path.join(name, 'model')}")
    if name not in SIZES and not os.path.exists(name):
        raise UsageError(f"--encoder is {name}; expected a folder or file, or one of {', '.join(SIZES)}")


def build_model(config: DPRConfig, tokenizer: Tokenizer) -> BiEncoder:
    """Two encoders from random or saved weights, fit for the tokenizer and the limits."""
    num_entries = tokenizer.get_vocab_size()
    question_encoder, passage_encoder = _encoders(config, num_entries)
    num_known = question_encoder.config.vocab_size
    if num_entries > num_known:
        raise UsageError(
            f"the tokenizer has {num_entries} entries, the encoder {num_known}; "
            "expected the tokenizer that the encoder was trained with"
        )
    prompts = _prompts(config, question_encoder, passage_encoder)
    longest = max(config.question_max_length or 0, config.passage_max_length or 0)
    for encoder in (question_encoder, passage_encoder):
        limit = encoder.config.max_seq_length
        limit = None if limit is None or longest > limit else limit
        encoder.config = dataclasses.replace(encoder.config, prompts=prompts, max_seq_length=limit)
        encoder.activation_checkpointing = config.activation_checkpointing
        for layer in encoder.layers if config.compile else ():
            layer.compile(dynamic=True)
    return BiEncoder(
        question_encoder,
        passage_encoder,
        freeze_question=config.freeze_question,
        freeze_passage=config.freeze_passage,
    )


def _encoders(config: DPRConfig, vocab_size: int) -> tuple[RobertaEncoder, RobertaEncoder]:
    """Of questions and of passages: one, if they are tied."""
    asked = {
        "pooling": config.pooling,
        "projection_dim": config.projection_dim,
        "normalize": config.normalize,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
    }
    options: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    passage_encoder = None
    if config.encoder in SIZES:
        question_encoder = SIZES[config.encoder](vocab_size=vocab_size, **{"pooling": "mean", **options})
    elif os.path.isfile(config.encoder) or os.path.isdir(os.path.join(config.encoder, "question_encoder")):
        saved = BiEncoder.from_pretrained(config.encoder, **options)
        question_encoder, passage_encoder = saved.question_encoder, saved.passage_encoder
    else:
        question_encoder = RobertaEncoder.from_pretrained(config.encoder, **options)
    if config.tied:
        passage_encoder = question_encoder
    elif passage_encoder is None:
        passage_encoder = copy.deepcopy(question_encoder)
    assert isinstance(question_encoder, RobertaEncoder) and isinstance(passage_encoder, RobertaEncoder)
    return question_encoder, passage_encoder


def _prompts(config: DPRConfig, question_encoder: RobertaEncoder, passage_encoder: RobertaEncoder) -> dict[str, str]:
    """By kind of text, under sentence-transformers' names: those asked for, else those of the weights."""
    ours = question_encoder.config.prompts
    theirs = {"passage": "", **passage_encoder.config.prompts}
    query, document = ours.get("query", ""), theirs.get("document", theirs["passage"])
    return {
        "query": query if config.question_prompt is None else config.question_prompt,
        "document": document if config.passage_prompt is None else config.passage_prompt,
    }


def check_numbers(config: DPRConfig, pipe: DPRDataPipe, model: BiEncoder) -> None:
    """Compares those flags with the data and the model that only these tell about.

    Raises:
        UsageError: No validation would come, and so no checkpoint; or embeddings have fewer dimensions.
    """
    num_steps = config.max_epochs * math.ceil(len(pipe) / config.accumulate_batches)
    if config.validate_every_n_steps is not None and config.validate_every_n_steps > num_steps:
        raise UsageError(
            f"--validate_every_n_steps is {config.validate_every_n_steps}; expected at most {num_steps}, all of the run"
        )
    if config.warmup_steps > num_steps:
        say(f"note: --warmup_steps is {config.warmup_steps}, the run has {num_steps}: its learning rate stays small")
    assert isinstance(model.question_encoder, RobertaEncoder)
    width = model.question_encoder.embedding_dim
    if config.matryoshka_dims and not 1 <= min(config.matryoshka_dims) <= max(config.matryoshka_dims) <= width:
        raise UsageError(f"--matryoshka_dims are {config.matryoshka_dims}; expected 1 to {width}, as embeddings have")


def with_limits(config: DPRConfig, model: BiEncoder) -> DPRConfig:
    """The same with limits that the encoders can take."""
    assert isinstance(model.question_encoder, RobertaEncoder)
    most, limits = model.question_encoder.max_length, {}
    for name, default in (("question_max_length", 64), ("passage_max_length", 256)):
        limits[name] = getattr(config, name) or min(default, most)
        if limits[name] > most:
            raise UsageError(f"--{name} is {limits[name]}; the encoder takes at most {most}")
    return dataclasses.replace(config, **limits)


def build_data(
    config: DPRConfig, pipes: dict[str, DPRDataPipe], tokenizer: Tokenizer, model: BiEncoder
) -> DPRDataModule:
    """The splits, tokenized within the limits."""
    assert isinstance(model.question_encoder, RobertaEncoder)
    assert config.question_max_length is not None and config.passage_max_length is not None
    prompts = model.question_encoder.config.prompts
    limits = ((config.question_max_length, prompts["query"]), (config.passage_max_length, prompts["document"]))
    if config.tokenizer_backend == "torchtext":
        transform = torchtext_bpe(tokenizer)
        tokenize_question, tokenize_passage = (TorchtextTokenize(transform, *limit) for limit in limits)
    else:
        tokenize_question, tokenize_passage = (Tokenize(tokenizer, *limit) for limit in limits)
        for pipe in pipes.values() if config.token_cache else ():
            pipe.cache_tokens(tokenize_passage)
    collate, train_collate = (
        BiEncoderCollator(tokenize_question, tokenize_passage, num_positives, titles=config.titles)
        for num_positives in (1, config.num_positives)
    )
    return DPRDataModule(collate, **pipes, train_collate=train_collate, num_workers=config.num_workers)


def build_task(config: DPRConfig, model: BiEncoder, set_names: list[str]) -> BiEncoderTask:
    """The objective and its optimization."""
    return BiEncoderTask(
        model,
        Objective(
            temperature=config.temperature,
            similarity=config.similarity,
            in_batch_negatives=config.in_batch_negatives,
            all_positives=config.num_positives > 1,
            symmetric=config.symmetric,
            matryoshka_dims=config.matryoshka_dims or (),
            guide_margin=config.guide_margin,
            distillation=config.distillation,
            teacher_temperature=config.teacher_temperature,
        ),
        learning_rate=config.learning_rate or (1e-3 if config.encoder in SIZES else 2e-5),
        warmup_steps=config.warmup_steps,
        schedule=config.schedule,
        weight_decay=config.weight_decay,
        chunk_tokens=config.chunk_tokens,
        set_names=set_names,
    )


def build_trainer(config: DPRConfig, num_batches: int, checkpoint: str | None, failures: StepFailures) -> Trainer:
    """A Trainer that logs to the run's folder and keeps the best and the last checkpoint."""
    callbacks = [AccumulatedGradients(), RandomState(), Throughput(), ProgressBar(), failures]
    loggers = []
    if config.early_stopping is not None:
        callbacks.append(EarlyStopping(config.monitor, patience=config.early_stopping, mode=MONITORS[config.monitor]))
    if not config.fast_dev_run:
        folder = Path(config.output_dir, "checkpoints")
        callbacks.append(WorstQuestions(Path(config.output_dir, "worst_questions.jsonl")))
        callbacks.append(SaveOnSignal(folder / "last.ckpt"))
        callbacks.extend(best_and_last(folder, config.monitor, MONITORS[config.monitor]))
        keep_steps = 0
        if checkpoint is not None:
            keep_steps = AtomicCheckpointIO().load_checkpoint(checkpoint)["global_step"]
        loggers = [
            MetricsCSV(config.output_dir, keep_steps=keep_steps),
            TensorBoardLogger(config.output_dir, name="tensorboard", version=""),
        ]
    return Trainer(
        max_epochs=config.max_epochs,
        accelerator="gpu" if config.gpus else "cpu",
        devices=config.gpus or int(os.environ.get("LOCAL_WORLD_SIZE", 1)),  # torchrun's
        num_nodes=config.num_nodes,
        fast_dev_run=config.fast_dev_run,
        precision=config.precision,
        gradient_clip_val=config.gradient_clip_val,
        accumulate_grad_batches=config.accumulate_batches,
        **_validations(config),
        log_every_n_steps=min(config.log_every_n_steps, num_batches),
        default_root_dir=config.output_dir,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
        enable_checkpointing=not config.fast_dev_run,
        enable_model_summary=False,
    )


def _validations(config: DPRConfig) -> dict[str, Any]:
    """When to validate, in Lightning's words: it counts batches."""
    if config.validate_every_n_steps is None:
        return {}
    num_batches = config.validate_every_n_steps * config.accumulate_batches
    return {"val_check_interval": num_batches, "check_val_every_n_epoch": None}
