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
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from tokenizers import Tokenizer

from examples.dpr.cli import UsageError, run
from examples.dpr.lengths import measure, sample, write_lengths
from examples.dpr.model_card import write_model_card
from examples.dpr.output import check_output, check_resumed, check_space, lock_output, start_output, write_manifest
from examples.dpr.paths import check_readable, check_writable
from examples.dpr.splits import STAGES, find_split
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
from text.training import (
    RECALL_AT,
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
    check_hash,
    expected_size,
    newest_valid,
)
from text.transforms import (
    BiEncoderCollator,
    Tokenize,
    TorchtextTokenize,
    load_tokenizer,
    save_tokenizer,
    torchtext_bpe,
    train_tokenizer,
)

TINY_SET = "examples/dpr/data/nq3_tiny/data/retriever"
SIZES = {
    "tiny": roberta_tiny,
    "mini": roberta_mini,
    "small": roberta_small,
    "base": roberta_base,
    "large": roberta_large,
}


MONITORS = {"valid_loss": "min", "valid_average_rank": "min", "valid_mrr@10": "max"} | {
    f"valid_recall@{k}": "max" for k in RECALL_AT
}
"""Figures by which a checkpoint may be chosen, and which way is better."""
MEASURED = 1000
"""Questions whose lengths, and those of their passages, the report shows."""
say = rank_zero_only(print)


@dataclass(frozen=True, kw_only=True)
class DPRConfig:
    """Trains two encoders for dense passage retrieval, or, with --sel_data, selects data for it."""

    max_epochs: int = 5
    """Passes over the training data."""
    gpus: int = 0
    """GPUs of each machine to train on; 0 is the CPU. torchrun and SLURM start processes as Lightning expects."""
    num_nodes: int = 1
    """Machines to train on."""
    fast_dev_run: bool = False
    """One batch of training, validation and test, to see that all runs; nothing is saved."""
    batch_size: int = 5
    """Questions per step, on all GPUs together; each brings its positive and its negatives."""
    accumulate_batches: int = 1
    """Batches per optimizer step. They add no negatives to one another: for that, take chunk_tokens."""
    data_path: str = TINY_SET
    """Folder with train.jsonl, valid.jsonl and test.jsonl in the DPR format; .json for a JSON array, and .gz or
    .zst after it, do as well."""
    train_files: list[str] | None = None
    """Training files instead of the one in data_path; several are mixed."""
    train_rates: list[float] | None = None
    """How often each of train_files comes in an epoch, by default once; FAIR DPR takes small sets 4 times."""
    one_set_per_batch: bool = False
    """Each training batch is of one of train_files (as FAIR DPR's); otherwise they are mixed."""
    rows_together: int = 1
    """Neighbouring rows of a training file that stay together in the random order: of questions on one article, each
    has the passages of the others as negatives (mine.py --sort_by_title puts them side by side). 1 mixes all."""
    valid_file: str | None = None
    """Validation file instead of the one in data_path."""
    test_file: str | None = None
    """Test file instead of the one in data_path."""
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
    tokenizer_backend: Literal["tokenizers", "torchtext"] = "tokenizers"
    """Who makes ids of texts; torchtext's GPT2BPETokenizer does from the same files (GPT-2's or RoBERTa's), alike."""
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
    """Tokens of a title and text together, special ones included. By default 256 (DPR), or what the encoder takes; more
    than its folder says is possible, up to the positions that it has (a sentence-transformers model often has more)."""
    question_prompt: str | None = None
    """Put before every question; by default what the encoder's folder says, or nothing."""
    passage_prompt: str | None = None
    """Put before every passage; by default what the encoder's folder says, or nothing."""
    titles: Literal["pair", "join"] = "pair"
    """A passage's title and text as a pair (DPR), or joined by a space, as is usual with sentence-transformers."""

    num_hard_negatives: int = 1
    """Hard negatives per question in training, sampled anew each epoch; DPR uses 1."""
    num_other_negatives: int = 0
    """Random passages (negative_ctxs) per question in training; DPR uses 0."""
    num_positives: int = 1
    """Known positives per question in training, all of which the loss is about; DPR uses 1."""
    sample_positives: bool = False
    """Train towards a random known positive instead of the first one."""
    eval_hard_negatives: int = 30
    """First hard negatives per question in validation and test; DPR uses 30."""
    eval_other_negatives: int = 30
    """First random passages per question in validation and test; DPR uses 30."""
    in_batch_negatives: bool = True
    """Other questions' passages are negatives, too; false compares a question with its own only."""
    symmetric: bool = False
    """Positives find their questions among all, too; the loss is the mean of both directions."""
    matryoshka_dims: list[int] | None = None
    """Train the first so many dimensions of embeddings to do alone, too, such as [256, 128, 64]."""
    score_key: str | None = None
    """Key under which every passage of the training data has a score of a guide or teacher, such as score."""
    guide_margin: float | None = None
    """Take negatives out whose score is above that of the positive, less this margin: they may be positives."""
    distillation: float = 0.0
    """Share of the loss, from 0 to 1, that teaches the order of a question's passages by their scores (KL)."""
    teacher_temperature: float = 1.0
    """Divides the scores for that."""
    allow_no_negatives: bool = False
    """Train even where no question has any negative, so that the loss is 0 and nothing is learned."""
    max_skipped: float = 0.001
    """Largest share of rows that may be unusable."""

    learning_rate: float | None = None
    """Peak, after warm-up. By default 2e-5 (FAIR DPR) from a folder's weights, 1e-3 from random ones."""
    warmup_steps: int = 0
    """Optimizer steps until the peak; FAIR DPR uses 1237 on NQ."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the peak, to 0 at the last step, or not at all."""
    weight_decay: float = 0.0
    """AdamW's, on all weights but biases and layer norms; FAIR DPR uses 0."""
    gradient_clip_val: float = 2.0
    """Largest norm of the gradient; FAIR DPR uses 2 on NQ. 0 does not clip."""
    temperature: float = 1.0
    """Divides the logits; FAIR DPR uses 1, cosine similarity needs about 0.05."""
    similarity: Literal["dot", "cosine"] = "dot"
    """How embeddings are compared."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"] = "32-true"
    """Lightning's name of a precision; bf16-mixed is faster where the hardware has bfloat16."""
    compile: bool = False
    """Compile the encoders' layers, once for all lengths: minutes at the start, less time a step."""
    chunk_tokens: int | None = None
    """Embed a batch in chunks of so many tokens, each twice (GradCache): any batch_size in the memory of a chunk."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""

    seed: int = 12345
    """Decides order, sampling, first weights and dropout; FAIR DPR uses 12345."""
    num_workers: int = 0
    """Processes that read and tokenize; with 0 the training process does. Batches are the same for any number."""
    log_every_n_steps: int = 10
    """Optimizer steps between rows of metrics.csv."""
    validate_every_n_steps: int | None = None
    """Optimizer steps between validations; by default, one after each epoch."""
    monitor: str = "valid_mrr@10"
    """Figure of the validation by which the best checkpoint is chosen."""
    early_stopping: int | None = None
    """Validations without a better figure after which training stops; by default it does not."""
    validate_first: bool = False
    """Validate before the first step, too."""

    def __post_init__(self) -> None:
        for name, least in (
            ("max_epochs", 1),
            ("gpus", 0),
            ("num_nodes", 1),
            ("accumulate_batches", 1),
            ("validate_every_n_steps", 1),
            ("early_stopping", 1),
            ("batch_size", 1),
            ("rows_together", 1),
            ("sel_num_items", 1),
            ("sel_skip_items", 0),
            ("num_hard_negatives", 0),
            ("num_other_negatives", 0),
            ("num_positives", 1),
            ("eval_hard_negatives", 0),
            ("eval_other_negatives", 0),
            ("warmup_steps", 0),
            ("weight_decay", 0),
            ("gradient_clip_val", 0),
            ("max_skipped", 0),
            ("question_max_length", 1),
            ("passage_max_length", 1),
            ("seed", 0),
            ("num_workers", 0),
            ("log_every_n_steps", 1),
            ("chunk_tokens", 1),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= least):
                raise UsageError(f"--{name} is {value}; expected {least} or more")
        for name in ("learning_rate", "temperature", "teacher_temperature"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"--{name} is {value}; expected a number above 0")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout is {self.dropout}; expected 0 or more and below 1")
        if not 0 <= self.distillation <= 1:
            raise UsageError(f"--distillation is {self.distillation}; expected a share from 0 to 1")
        if (self.score_key is None) != (self.guide_margin is None and not self.distillation):
            raise UsageError(
                "--score_key says where scores are, --guide_margin and --distillation what for; expected both"
            )
        if self.score_key is not None and self.token_cache:
            raise UsageError("--token_cache keeps no scores; expected no --score_key with it")
        if self.symmetric and not self.in_batch_negatives:
            raise UsageError(
                "--symmetric finds questions among those of the batch; expected no --in_batch_negatives=false"
            )
        if self.freeze_question and self.freeze_passage:
            raise UsageError("--freeze_question and --freeze_passage leave nothing to train; expected at most one")
        if self.tokenizer_backend == "torchtext" and self.token_cache:
            raise UsageError(
                "--token_cache has the ids of tokenizers; expected no --tokenizer_backend=torchtext with it"
            )
        if self.titles == "join" and self.token_cache:
            raise UsageError("--token_cache has titles and texts apart; expected no --titles=join with it")
        if self.tokenizer_backend == "torchtext" and find_spec("torchtext") is None:
            raise UsageError(
                "--tokenizer_backend=torchtext: torchtext is not installed; "
                "expected an environment of constraints-torchtext.txt"
            )
        if self.gpus > torch.cuda.device_count():
            raise UsageError(
                f"--gpus is {self.gpus}; expected at most {torch.cuda.device_count()}, as many as are here"
            )
        if self.num_nodes > 1 and not {"MASTER_ADDR", "SLURM_JOB_ID"} & set(os.environ):
            raise UsageError(f"--num_nodes is {self.num_nodes}; expected a start by torchrun or SLURM on each of them")
        if self.monitor not in MONITORS:
            raise UsageError(f"--monitor is {self.monitor}; expected one of {', '.join(MONITORS)}")


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


def build_pipes(config: DPRConfig) -> dict[str, DPRDataPipe]:
    """The three splits, checked row by row; says what was found in each."""
    asked = {"train": config.train_files, "valid": config.valid_file, "test": config.test_file}
    paths = {stage: _listed(asked[stage]) or [find_split(config.data_path, stage)] for stage in STAGES}
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
            rows_together=config.rows_together,
            sample_positives=config.sample_positives,
            num_hard_negatives=config.num_hard_negatives if stage == "train" else config.eval_hard_negatives,
            num_other_negatives=config.num_other_negatives if stage == "train" else config.eval_other_negatives,
            score_key=config.score_key if stage == "train" else None,
            seed=config.seed,
            max_skipped=config.max_skipped,
        )
        for stage in paths
    }
    for stage, pipe in pipes.items():
        found = ", ".join(f"{count} {reason}" for reason, count in pipe.counts.items())
        say(f"{stage}: {pipe.num_rows} questions, {len(pipe.skipped)} rows skipped{f' ({found})' if found else ''}")
        if len(pipe.files) > 1:
            sets = zip(pipe.names, pipe.rows_per_set, strict=True)
            say(f"{stage}: an epoch takes " + ", ".join(f"{num_rows} of {name}" for name, num_rows in sets))
    compared = config.in_batch_negatives and min(config.batch_size, pipes["train"].num_rows) > 1
    if not (compared or pipes["train"].has_negatives or config.allow_no_negatives):
        raise DataError(
            f"{', '.join(paths['train'])}: no question has a negative, so that the loss is 0 and nothing is learned; "
            "expected hard negatives, or more questions in a batch (or --allow_no_negatives)"
        )
    return pipes


def _listed(paths: str | list[str] | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


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


def check_encoder(name: str) -> None:
    """
    Raises:
        UsageError: It is neither there nor a size.
    """
    if name not in SIZES and not os.path.exists(name):
        raise UsageError(f"--encoder is {name}; expected a folder or file, or one of {', '.join(SIZES)}")


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


def note_lengths(config: DPRConfig, pipe: DPRDataPipe, tokenizer: Tokenizer, model: BiEncoder) -> None:
    """Writes how long some of the training texts are, for the report."""
    assert isinstance(model.question_encoder, RobertaEncoder)
    assert config.question_max_length is not None and config.passage_max_length is not None
    prompts = model.question_encoder.config.prompts
    limits = (config.question_max_length, config.passage_max_length)
    batches = sample(pipe, MEASURED)
    lengths = measure(tokenizer, batches, limits, (prompts["query"], prompts["document"]), config.titles)
    write_lengths(Path(config.output_dir, "lengths.json"), lengths)


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
