"""The flags of main.py, and which of them cannot be meant."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

import torch

from examples.dpr.cli import UsageError, check_at_least
from examples.dpr.splits import TINY_SET
from text.training import RECALL_AT

MONITORS = {"valid_loss": "min", "valid_average_rank": "min", "valid_mrr@10": "max"} | {
    f"valid_recall@{k}": "max" for k in RECALL_AT
}
"""Figures by which a checkpoint may be chosen, and which way is better."""
_ABOVE_0 = ("learning_rate", "temperature", "teacher_temperature")
_AT_LEAST_1 = (
    "max_epochs",
    "num_nodes",
    "batch_size",
    "accumulate_batches",
    "rows_together",
    "sel_num_items",
    "question_max_length",
    "passage_max_length",
    "num_positives",
    "chunk_tokens",
    "log_every_n_steps",
    "validate_every_n_steps",
    "early_stopping",
)
_AT_LEAST_0 = (
    "gpus",
    "sel_skip_items",
    "num_hard_negatives",
    "num_other_negatives",
    "eval_hard_negatives",
    "eval_other_negatives",
    "max_skipped",
    "warmup_steps",
    "weight_decay",
    "gradient_clip_val",
    "seed",
    "num_workers",
)


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
    """Optimizer steps between validations, each counted as --accumulate_batches batches; by default, one after each
    epoch."""
    monitor: str = "valid_mrr@10"
    """Figure of the validation by which the best checkpoint is chosen."""
    early_stopping: int | None = None
    """Validations without a better figure after which training stops; by default it does not."""
    validate_first: bool = False
    """Validate before the first step, too."""

    def __post_init__(self) -> None:
        _check_ranges(self)
        _check_together(self)
        _check_machine(self)


def _check_ranges(config: DPRConfig) -> None:
    """Each number by itself."""
    check_at_least(config, 0, *_AT_LEAST_0)
    check_at_least(config, 1, *_AT_LEAST_1)
    for name in _ABOVE_0:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"--{name} is {value}; expected a number above 0")
    if config.dropout is not None and not 0 <= config.dropout < 1:
        raise UsageError(f"--dropout is {config.dropout}; expected 0 or more and below 1")
    if not 0 <= config.distillation <= 1:
        raise UsageError(f"--distillation is {config.distillation}; expected a share from 0 to 1")
    if config.monitor not in MONITORS:
        raise UsageError(f"--monitor is {config.monitor}; expected one of {', '.join(MONITORS)}")


def _check_together(config: DPRConfig) -> None:
    """Flags that contradict each other."""
    uses_scores = config.guide_margin is not None or config.distillation > 0
    if (config.score_key is not None) != uses_scores:
        raise UsageError("--score_key says where scores are, --guide_margin and --distillation what for; expected both")
    if config.symmetric and not config.in_batch_negatives:
        raise UsageError("--symmetric finds questions among those of the batch; expected no --in_batch_negatives=false")
    if config.freeze_question and config.freeze_passage:
        raise UsageError("--freeze_question and --freeze_passage leave nothing to train; expected at most one")
    if config.token_cache and config.score_key is not None:
        raise UsageError("--token_cache keeps no scores; expected no --score_key with it")
    if config.token_cache and config.tokenizer_backend == "torchtext":
        raise UsageError("--token_cache has the ids of tokenizers; expected no --tokenizer_backend=torchtext with it")
    if config.token_cache and config.titles == "join":
        raise UsageError("--token_cache has titles and texts apart; expected no --titles=join with it")


def _check_machine(config: DPRConfig) -> None:
    """What has to be here."""
    if config.tokenizer_backend == "torchtext" and find_spec("torchtext") is None:
        raise UsageError(
            "--tokenizer_backend=torchtext: torchtext is not installed; "
            "expected an environment of constraints-torchtext.txt"
        )
    num_gpus = torch.cuda.device_count()
    if config.gpus > num_gpus:
        raise UsageError(f"--gpus is {config.gpus}; expected at most {num_gpus}, as many as are here")
    if config.num_nodes > 1 and not {"MASTER_ADDR", "SLURM_JOB_ID"} & set(os.environ):
        raise UsageError(f"--num_nodes is {config.num_nodes}; expected a start by torchrun or SLURM on each of them")
