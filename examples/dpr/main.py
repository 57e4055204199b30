"""Selects data, trains two encoders for dense passage retrieval, and tests them.

    python examples/dpr/main.py --max_epochs=10 --data_path=examples/dpr/data/nq3_tiny/data/retriever/
    python examples/dpr/main.py --sel_data --sel_raw_path=nq-dev.json --sel_out_path=train.jsonl --sel_num_items=500

This file only wires: every part comes from ``text`` and is built once, from the flags below.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import sys
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from tokenizers import Tokenizer

from examples.dpr.cli import UsageError, run
from examples.dpr.model_card import write_model_card
from examples.dpr.output import check_output, start_output, write_manifest
from examples.dpr.splits import STAGES, check_readable, find_split
from text.artifacts import write_json
from text.datasets import DPRDataPipe, PassageCollection, select_rows
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
from text.training import AtomicCheckpointIO, BiEncoderTask, DPRDataModule, MetricsCSV, RandomState, Throughput
from text.transforms import BiEncoderCollator, Tokenize, load_tokenizer, save_tokenizer, train_tokenizer

TINY_SET = "examples/dpr/data/nq3_tiny/data/retriever"
SIZES = {
    "tiny": roberta_tiny,
    "mini": roberta_mini,
    "small": roberta_small,
    "base": roberta_base,
    "large": roberta_large,
}


@dataclass(frozen=True, kw_only=True)
class DPRConfig:
    """Trains two encoders for dense passage retrieval, or, with --sel_data, selects data for it."""

    max_epochs: int = 5
    """Passes over the training data."""
    gpus: int = 0
    """GPUs to train on, 0 or 1; 0 is the CPU."""
    fast_dev_run: bool = False
    """One batch of training, validation and test, to see that all runs; nothing is saved."""
    batch_size: int = 5
    """Questions per step; each brings its positive and its negatives."""
    data_path: str = TINY_SET
    """Folder with train.jsonl, valid.jsonl and test.jsonl in the DPR format; .json for a JSON array, and .gz or
    .zst after it, do as well."""
    train_files: list[str] | None = None
    """Training files instead of the one in data_path; several are mixed."""
    train_rates: list[float] | None = None
    """How often each of train_files comes in an epoch, by default once; FAIR DPR takes small sets 4 times."""
    one_set_per_batch: bool = False
    """Each training batch is of one of train_files (as FAIR DPR's); otherwise they are mixed."""
    passages: str | None = None
    """Collection (psgs_w100.tsv, or JSONL) that rows with positive_ids and hard_negative_ids name passages of."""
    token_cache: bool = False
    """Tokenize each text once, into a file beside the data; the batches are the same."""
    sel_data: bool = False
    """Select rows from a raw file instead of training."""
    sel_raw_path: str = "../DPR/data/nq3/data/retriever/nq-dev.json"
    """Raw DPR file to select from: JSON array or JSONL, plain or compressed (.gz, .zst)."""
    sel_out_path: str = f"{TINY_SET}/train.jsonl"
    """JSONL file to write the selection to."""
    sel_num_items: int = 10
    """Rows to select: the first ones that have positives, negatives and hard negatives."""
    sel_skip_items: int = 0
    """Rows to pass over first, counted like those of sel_num_items; keeps splits of one file disjoint."""

    output_dir: str = "runs/dpr"
    """Folder of the run: checkpoints, model, metrics, logs."""
    overwrite: bool = False
    """Replace what an earlier run, or selection, left at the output."""
    resume: str | None = field(default=None, metadata={"bare": "auto"})
    """Checkpoint, or folder of a run, to go on from; alone, the run in output_dir."""

    encoder: str = "tiny"
    """tiny, mini, small, base or large with random weights; or a folder with a RoBERTa, XLM-RoBERTa, BERT or DPR model
    (Hugging Face's form), one of sentence-transformers, or the model/ of a run; or a checkpoint of FAIR's DPR."""
    tokenizer: str | None = None
    """tokenizer.json, or a folder with one, or with vocab.json and merges.txt, or with vocab.txt. By default the one
    in the encoder's folder; without that, a byte-level BPE is trained on the training file."""
    vocab_size: int = 8192
    """Most entries of a tokenizer that is trained."""
    tied: bool = False
    """One encoder for questions and passages; otherwise two, with the same weights at the start."""
    freeze_question: bool = False
    """Do not train the question encoder."""
    freeze_passage: bool = False
    """Do not train the passage encoder."""
    pooling: Literal["first", "mean"] | None = None
    """What stands for a text: its first token (DPR) or the mean of its tokens. By default the model's
    own; mean for random weights, whose first token learns slowly to look at the others."""
    projection_dim: int | None = None
    """Width of a linear layer and layer norm after pooling (dpr-scale); by default none, or the model's own."""
    normalize: bool | None = field(default=None, metadata={"bare": "true"})
    """Scale embeddings to length 1; by default no, or as the model does."""
    dropout: float | None = None
    """Share of activations dropped in training; by default 0.1, or the model's own."""
    question_max_length: int | None = None
    """Tokens of a question, special ones included; DPR uses 256. By default 64, or what the encoder takes."""
    passage_max_length: int | None = None
    """Tokens of a title and text together, special ones included. By default 256 (DPR), or what the encoder takes."""
    question_prompt: str | None = None
    """Put before every question; by default what the encoder's folder says, or nothing."""
    passage_prompt: str | None = None
    """Put before every passage; by default what the encoder's folder says, or nothing."""

    num_hard_negatives: int = 1
    """Hard negatives per question in training, sampled anew each epoch; DPR uses 1."""
    num_other_negatives: int = 0
    """Random passages (negative_ctxs) per question in training; DPR uses 0."""
    sample_positives: bool = False
    """Train towards a random known positive instead of the first one."""
    eval_hard_negatives: int = 30
    """First hard negatives per question in validation and test; DPR uses 30."""
    eval_other_negatives: int = 30
    """First random passages per question in validation and test; DPR uses 30."""
    in_batch_negatives: bool = True
    """Other questions' passages are negatives, too; false compares a question with its own only."""
    allow_no_negatives: bool = False
    """Train even where no question has any negative, so that the loss is 0 and nothing is learned."""
    max_skipped: float = 0.001
    """Largest share of rows that may be unusable."""

    learning_rate: float | None = None
    """Peak, after warm-up. By default 2e-5 (FAIR DPR) from a folder's weights, 1e-3 from random ones."""
    warmup_steps: int = 0
    """Optimizer steps until the peak; FAIR DPR uses 1237 on NQ."""
    weight_decay: float = 0.0
    """AdamW's, on all weights but biases and layer norms; FAIR DPR uses 0."""
    gradient_clip_val: float = 2.0
    """Largest norm of the gradient; FAIR DPR uses 2 on NQ. 0 does not clip."""
    temperature: float = 1.0
    """Divides the logits; FAIR DPR uses 1, cosine similarity needs about 0.05."""
    similarity: Literal["dot", "cosine"] = "dot"
    """How embeddings are compared."""
    precision: str = "32-true"
    """Lightning's name of a precision; bf16-mixed is faster where the hardware has bfloat16."""
    compile: bool = False
    """Compile the encoders' layers, once for all lengths: minutes at the start, less time a step."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""

    seed: int = 12345
    """Decides order, sampling, first weights and dropout; FAIR DPR uses 12345."""
    num_workers: int = 0
    """Processes that read and tokenize; with 0 the training process does. Batches are the same for any number."""
    log_every_n_steps: int = 10
    """Optimizer steps between rows of metrics.csv."""
    validate_first: bool = False
    """Validate before the first step, too."""

    def __post_init__(self) -> None:
        for name, least in (
            ("max_epochs", 1),
            ("batch_size", 1),
            ("sel_num_items", 1),
            ("sel_skip_items", 0),
            ("num_hard_negatives", 0),
            ("num_other_negatives", 0),
            ("eval_hard_negatives", 0),
            ("eval_other_negatives", 0),
            ("warmup_steps", 0),
            ("weight_decay", 0),
            ("gradient_clip_val", 0),
            ("max_skipped", 0),
            ("seed", 0),
            ("num_workers", 0),
            ("log_every_n_steps", 1),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise UsageError(f"--{name} is {value}; expected {least} or more")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"--{name} is {value}; expected a number above 0")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout is {self.dropout}; expected 0 or more and below 1")
        if self.freeze_question and self.freeze_passage:
            raise UsageError("--freeze_question and --freeze_passage leave nothing to train; expected at most one")
        if self.gpus not in (0, 1):
            raise UsageError(f"--gpus is {self.gpus}; expected 0 or 1, training on several is not there yet")


def main(config: DPRConfig) -> None:
    """Selects or trains."""
    if config.sel_data:
        select(config)
    else:
        train(config)


def select(config: DPRConfig) -> None:
    """Writes the first usable rows of a raw file as JSONL; says what was kept and dropped."""
    check_readable(config.sel_raw_path)
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
    checkpoint = _checkpoint_to_resume(config)
    if not config.fast_dev_run:
        check_output(config.output_dir, overwrite=config.overwrite, resumed=checkpoint)
    seed_everything(config.seed, verbose=False)
    pipes = build_pipes(config)
    tokenizer = build_tokenizer(config, pipes["train"], checkpoint)
    model = build_model(config, tokenizer)
    config = with_limits(config, model)
    data = build_data(config, pipes, tokenizer, model)
    task = build_task(config, model, pipes["train"].names)
    if not config.fast_dev_run:
        start_output(config.output_dir, dataclasses.asdict(config), tokenizer, resumed=checkpoint)
    trainer = build_trainer(config, len(pipes["train"]), checkpoint)
    if config.validate_first and checkpoint is None:
        trainer.validate(task, data, verbose=False)
    trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    for name, share in trainer.callback_metrics.items():
        if name.endswith("_truncated"):
            print(f"{name}: {share:.2%}")
    if config.fast_dev_run:
        trainer.test(task, data, verbose=False)
        print("fast_dev_run: all ran, nothing was saved")
        return
    [figures] = trainer.test(task, data, ckpt_path="best", weights_only=True, verbose=False)
    save_model(config, model, tokenizer)
    write_model_card(config.output_dir, dataclasses.asdict(config), pipes, figures, is_tied=model.is_tied)
    write_manifest(config.output_dir, pipes, figures)
    print(f"model: {Path(config.output_dir, 'model')}")
    print("test: " + "  ".join(f"{name.removeprefix('test_')} {value:.4f}" for name, value in figures.items()))


def build_pipes(config: DPRConfig) -> dict[str, DPRDataPipe]:
    """The three splits, checked row by row; says what was found in each."""
    paths = {stage: [find_split(config.data_path, stage)] for stage in STAGES}
    paths["train"] = config.train_files or paths["train"]
    for path in (*chain.from_iterable(paths.values()), *([config.passages] if config.passages else [])):
        check_readable(path)
    passages = PassageCollection(config.passages) if config.passages else None
    pipes = {
        stage: DPRDataPipe(
            paths[stage],
            config.batch_size,
            train=stage == "train",
            passages=passages,
            rates=config.train_rates if stage == "train" else None,
            one_set_per_batch=config.one_set_per_batch and stage == "train",
            sample_positives=config.sample_positives,
            num_hard_negatives=config.num_hard_negatives if stage == "train" else config.eval_hard_negatives,
            num_other_negatives=config.num_other_negatives if stage == "train" else config.eval_other_negatives,
            seed=config.seed,
            max_skipped=config.max_skipped,
        )
        for stage in paths
    }
    for stage, pipe in pipes.items():
        found = ", ".join(f"{count} {reason}" for reason, count in pipe.counts.items())
        print(f"{stage}: {pipe.num_rows} questions, {len(pipe.skipped)} rows skipped{f' ({found})' if found else ''}")
        if len(pipe.files) > 1:
            sets = zip(pipe.names, pipe.rows_per_set, strict=True)
            print(f"{stage}: an epoch takes " + ", ".join(f"{num_rows} of {name}" for name, num_rows in sets))
    compared = config.in_batch_negatives and min(config.batch_size, pipes["train"].num_rows) > 1
    if not (compared or pipes["train"].has_negatives or config.allow_no_negatives):
        raise DataError(
            f"{', '.join(paths['train'])}: no question has a negative, so that the loss is 0 and nothing is learned; "
            "expected hard negatives, or more questions in a batch (or --allow_no_negatives)"
        )
    return pipes


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


def build_model(config: DPRConfig, tokenizer: Tokenizer) -> BiEncoder:
    """Two encoders from random or saved weights, fit for the tokenizer and the limits."""
    asked = {
        "pooling": config.pooling,
        "projection_dim": config.projection_dim,
        "normalize": config.normalize,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
    }
    options = {name: value for name, value in asked.items() if value is not None}
    passage_encoder = None
    if config.encoder in SIZES:
        options = {"pooling": "mean", **options}
        question_encoder = SIZES[config.encoder](vocab_size=tokenizer.get_vocab_size(), **options)
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
    num_entries, num_known = tokenizer.get_vocab_size(), question_encoder.config.vocab_size
    if num_entries > num_known:
        raise UsageError(
            f"the tokenizer has {num_entries} entries, the encoder {num_known}; "
            "expected the tokenizer that the encoder was trained with"
        )
    prompts = _prompts(config, question_encoder, passage_encoder)
    for encoder in (question_encoder, passage_encoder):
        encoder.config = dataclasses.replace(encoder.config, prompts=prompts)
        encoder.activation_checkpointing = config.activation_checkpointing
        for layer in encoder.layers if config.compile else ():
            layer.compile(dynamic=True)
    return BiEncoder(
        question_encoder,
        passage_encoder,
        freeze_question=config.freeze_question,
        freeze_passage=config.freeze_passage,
    )


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
    tokenize_passage = Tokenize(tokenizer, config.passage_max_length, prompts["document"])
    collate = BiEncoderCollator(
        Tokenize(tokenizer, config.question_max_length, prompts["query"]),
        tokenize_passage,
        in_batch_negatives=config.in_batch_negatives,
    )
    if config.token_cache:
        for pipe in pipes.values():
            pipe.cache_tokens(tokenize_passage)
    return DPRDataModule(collate, **pipes, num_workers=config.num_workers)


def build_task(config: DPRConfig, model: BiEncoder, set_names: list[str]) -> BiEncoderTask:
    """The objective and its optimization."""
    return BiEncoderTask(
        model,
        learning_rate=config.learning_rate or (1e-3 if config.encoder in SIZES else 2e-5),
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        temperature=config.temperature,
        similarity=config.similarity,
        set_names=set_names,
    )


def build_trainer(config: DPRConfig, num_batches: int, checkpoint: str | None) -> Trainer:
    """A Trainer that logs to the run's folder and keeps the best and the last checkpoint."""
    callbacks, loggers = [RandomState(), Throughput(), TQDMProgressBar()], []
    if not config.fast_dev_run:
        callbacks.append(
            ModelCheckpoint(
                Path(config.output_dir, "checkpoints"),
                filename="best",
                monitor="valid_mrr@10",
                mode="max",
                save_last=True,
                enable_version_counter=False,
            )
        )
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
        devices=config.gpus or 1,
        fast_dev_run=config.fast_dev_run,
        precision=config.precision,  # pyright: ignore[reportArgumentType]
        gradient_clip_val=config.gradient_clip_val,
        log_every_n_steps=min(config.log_every_n_steps, num_batches),
        default_root_dir=config.output_dir,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
        enable_checkpointing=not config.fast_dev_run,
        enable_model_summary=False,
    )


def save_model(config: DPRConfig, model: BiEncoder, tokenizer: Tokenizer) -> None:
    """What a user hands on: both encoders, the tokenizer, and how they are meant to be used."""
    folder = Path(config.output_dir, "model")
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_length=config.passage_max_length)
    limits = {"question_encoder": config.question_max_length, "passage_encoder": config.passage_max_length}
    for name in ("question_encoder",) if model.is_tied else limits:
        limit = config.passage_max_length if model.is_tied else limits[name]
        save_tokenizer(tokenizer, folder / name, max_length=limit)
    names = ("question_max_length", "passage_max_length", "similarity", "temperature")
    write_json(folder / "config.json", {name: getattr(config, name) for name in names} | {"tied": model.is_tied})


def _checkpoint_to_resume(config: DPRConfig) -> str | None:
    if config.resume is None:
        return None
    path = Path(config.output_dir if config.resume == "auto" else config.resume)
    path = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"--resume: {path} does not exist; expected a checkpoint, or the folder of a run")
    return str(path)


def _prompts(config: DPRConfig, question_encoder: RobertaEncoder, passage_encoder: RobertaEncoder) -> dict[str, str]:
    """By kind of text, under sentence-transformers' names: those asked for, else those of the weights."""
    ours = question_encoder.config.prompts
    theirs = {"passage": "", **passage_encoder.config.prompts}
    query, document = ours.get("query", ""), theirs.get("document", theirs["passage"])
    return {
        "query": query if config.question_prompt is None else config.question_prompt,
        "document": document if config.passage_prompt is None else config.passage_prompt,
    }


if __name__ == "__main__":
    sys.exit(run(main, DPRConfig))
