"""The flags of ``dpr-text train``, in five groups."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Literal

from text.bundle import BiEncoderBundle
from text.commands.cli import MAX_SEED, number
from text.commands.model_paths import RANDOM_ENCODERS, model_path
from text.errors import UsageError
from text.training import Objective, is_rank_zero

Monitor = Literal[
    "valid_mrr@10",
    "valid_loss",
    "valid_average_rank",
    "valid_recall@1",
    "valid_recall@5",
    "valid_recall@20",
    "valid_recall@100",
]


@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Files, batches and negatives."""

    data_path: str | None = None
    """Folder with train.jsonl, valid.jsonl (or dev.jsonl) and test.jsonl in the DPR format; or .json with one array;
    plain or compressed (.gz, .zst). Only train is needed. A download folder of FAIR's DPR with one data set, such as
    nq-train.json and nq-dev.json, is read too."""
    train_files: list[str] | None = None
    """Training files instead of the one in data_path. Several files are mixed."""
    train_rates: list[float] | None = field(default=None, metadata={"above": 0, "below": 1000})
    """How often each of train_files comes in an epoch. The default is once; FAIR's DPR takes small sets 4 times."""
    valid_file: str | None = None
    """Validation file instead of the one in data_path. Without validation data, the last checkpoint is the model."""
    valid_share: float | None = number(None, above=0, below=1)
    """Share of the training questions to hold out for validation, such as 0.05, if there is no validation file. Rows
    with the same question stay together."""
    test_file: str | None = None
    """Test file instead of the one in data_path. Without test data there are no test metrics."""
    collection: str | None = None
    """File of the passages that compact rows name by positive_ids and hard_negative_ids: psgs_w100.tsv or JSONL."""
    batch_size: int = number(5, least=1, most=1 << 20)
    """Questions in a batch, on all GPUs together. Each brings its positive and its negatives."""
    one_set_per_batch: bool = False
    """Take each training batch from one of train_files, as FAIR's DPR does. By default the files are mixed."""
    rows_together: int = number(1, least=1)
    """Keep this many neighboring rows of a training file together when rows are shuffled. In a file that is sorted by
    article (mine --sort_by_title), the passages of one article then become each other's negatives."""
    num_hard_negatives: int = number(1, least=0)
    """Hard negatives of a question in training, sampled anew each epoch. DPR uses 1."""
    num_other_negatives: int = number(0, least=0)
    """Random passages (negative_ctxs) of a question in training. DPR uses 0."""
    num_positives: int = number(1, least=1)
    """Known positives of a question in training. The loss is about all of them. DPR uses 1."""
    sample_positives: bool = False
    """Train towards a random known positive instead of the first one."""
    eval_hard_negatives: int = number(30, least=0)
    """Hard negatives of a question in validation and test, the first ones of the row. DPR uses 30."""
    eval_other_negatives: int = number(30, least=0)
    """Random passages of a question in validation and test, the first ones of the row. DPR uses 30."""
    score_key: str | None = None
    """Key of the score that a teacher or guide gave every passage of the training data, such as score."""
    allow_no_negatives: bool = False
    """Train even if no question has a negative. The loss is then 0 and nothing is learned."""
    max_skipped: float = number(0.001, least=0)
    """Maximum share of rows that may be unusable."""
    skip_no_positives: bool = False
    """Leave out rows without a positive, as FAIR's DPR does, and count them apart from max_skipped. FAIR's trivia-train
    has 18,372 of them."""
    token_cache: bool = False
    """Tokenize each text once, into a file beside the data. The batches stay the same."""
    num_workers: int = number(0, least=0, most=256)
    """Processes that read and tokenize. With 0 the training process does. Batches are the same for any number."""


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Encoders, tokenizer and similarity."""

    encoder: str = model_path("tiny", names=RANDOM_ENCODERS)
    """Where training starts: tiny, mini, small, base or large for random weights; a folder with a RoBERTa, XLM-RoBERTa,
    BERT or DPR model of transformers, or with a model of sentence-transformers; the name of such a model in the cache
    of Hugging Face; the model/ of a run; or a checkpoint of FAIR's DPR."""
    tokenizer: str | None = model_path(None)
    """tokenizer.json, or a folder with it, with vocab.json and merges.txt, or with vocab.txt. The default is the
    encoder's tokenizer, or a byte-level BPE that is trained on the training file."""
    tokenizer_backend: Literal["tokenizers", "torchtext"] = "tokenizers"
    """Library that tokenizes. torchtext's GPT2BPETokenizer gives the same ids from the files of GPT-2 or RoBERTa."""
    vocab_size: int = number(8192, most=1 << 20)
    """Maximum entries of a tokenizer that is trained."""
    tied: bool | None = field(default=None, metadata={"bare": "true"})
    """Use one encoder for questions and passages. The default is what the model in the folder does: one encoder for a
    model of sentence-transformers, otherwise two encoders that start with the same weights."""
    similarity: Literal["dot", "cosine"] | None = None
    """How embeddings are compared: dot product or cosine similarity. The default is the model's own, or dot (DPR)."""
    temperature: float | None = number(None, above=0)
    """Divides the logits. The default is the one that a saved model of dpr-text was trained with; 0.05 for cosine
    similarity or embeddings of length 1; otherwise 1 (DPR)."""
    freeze_question: bool = False
    """Do not train the question encoder."""
    freeze_passage: bool = False
    """Do not train the passage encoder."""
    pooling: Literal["first", "mean"] | None = None
    """How token states become one embedding: the first token (DPR) or the mean. The default is the model's own pooling,
    and mean for random weights."""
    projection_dim: int | None = number(None, least=1, most=1 << 16)
    """Width of a linear layer and layer norm after pooling (dpr-scale). The default is the model's own, or none."""
    normalize: bool | None = field(default=None, metadata={"bare": "true"})
    """Scale embeddings to length 1. The default is what the model does."""
    dropout: float | None = number(None, least=0, below=1)
    """Share of activations that training drops. The default is the model's own, or 0.1."""
    question_max_length: int | None = number(None, least=1)
    """Maximum tokens of a question, special tokens included. The default is the limit of a model of
    sentence-transformers or dpr-text; otherwise 64, or the encoder's limit if lower. DPR uses 256."""
    passage_max_length: int | None = number(None, least=1)
    """Maximum tokens of a title and text together, special tokens included. The default is the limit of a model of
    sentence-transformers or dpr-text; otherwise 256 (DPR), or the encoder's limit if lower. A limit above the one in
    the model's folder may go up to the model's positions."""
    question_prompt: str | None = field(default=None, metadata={"empty": True})
    """Text before every question. The default is the prompt in the model's folder, or none."""
    passage_prompt: str | None = field(default=None, metadata={"empty": True})
    """Text before every passage. The default is the prompt in the model's folder, or none."""
    titles: Literal["pair", "join"] | None = None
    """Encode a passage's title and text as a pair (DPR), or join them by a space. The default is join for a model of
    sentence-transformers, what a saved model of dpr-text was trained with, and otherwise pair."""

    def __post_init__(self) -> None:
        if self.freeze_question and self.freeze_passage:
            raise UsageError("--freeze_question and --freeze_passage leave nothing to train. Give at most one.")
        if self.tied and (self.freeze_question or self.freeze_passage):
            raise UsageError(
                "--tied is one encoder, and no half of it can be frozen. Give --tied=false, or freeze none."
            )
        if self.tokenizer_backend == "torchtext" and find_spec("torchtext") is None:
            lane = "an environment of locks/torchtext.txt"
            raise UsageError(f"--tokenizer_backend=torchtext: torchtext is not installed. Use {lane}.")


@dataclass(frozen=True, kw_only=True)
class OptimizationFlags:
    """Schedule, precision and memory."""

    max_epochs: int = number(5, least=1)
    """Passes over the training data."""
    learning_rate: float | None = number(None, above=0)
    """Peak learning rate. The default is 2e-5 (FAIR's DPR) for saved weights and 1e-3 for random weights."""
    warmup_steps: int = number(0, least=0)
    """Optimizer steps until the peak. FAIR's DPR uses 1237 on NQ."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the peak: to 0 at the last step, or not at all."""
    weight_decay: float = number(0.0, least=0)
    """AdamW's weight decay, on all weights but biases and layer norms. FAIR's DPR uses 0."""
    gradient_clip_val: float = number(2.0, least=0)
    """Maximum norm of the gradient. FAIR's DPR uses 2 on NQ. 0 does not clip."""
    accumulate_batches: int = number(1, least=1)
    """Batches in an optimizer step. They add no negatives to one another; chunk_tokens does."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"] = "32-true"
    """Lightning's name of a precision. bf16-mixed is faster if the hardware has bfloat16."""
    compile: bool = False
    """Compile the encoders' layers, once for all lengths. It takes minutes at the start and saves time in each step."""
    chunk_tokens: int | None = number(None, least=1)
    """Embed a batch in chunks of this many tokens, each twice (GradCache). Any batch_size then fits into the memory of
    one chunk."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass. It saves memory and takes a third more time."""


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Output, devices, validation and logs."""

    output_dir: str = "runs/dpr"
    """Folder of the run: checkpoints, model, metrics, logs."""
    overwrite: bool = False
    """Remove the files of an earlier run in output_dir. Other files there stay."""
    resume: str | None = field(default=None, metadata={"bare": "auto"})
    """Checkpoint, or folder of a run, to resume from. Alone, it resumes the run in output_dir."""
    seed: int = number(12345, least=0, most=MAX_SEED)
    """Decides the order of rows, sampling, first weights and dropout. FAIR's DPR uses 12345."""
    gpus: int = number(0, least=0)
    """GPUs of each machine to train on. 0 trains on the CPU. Start the command by torchrun or SLURM for several
    machines."""
    num_nodes: int = number(1, least=1)
    """Machines to train on."""
    fast_dev_run: bool = False
    """Run one batch of training, validation and test to see that everything works. Nothing is saved."""
    log_every_n_steps: int = number(10, least=1)
    """Optimizer steps between rows of metrics.csv."""
    validate_every_n_steps: int | None = number(None, least=1)
    """Optimizer steps between validations. The last step of the run is validated too. By default each epoch ends with a
    validation."""
    validate_first: bool = False
    """Validate before the first step too. No checkpoint is saved then, unlike in other validations."""
    monitor: Monitor | None = None
    """Validation metric that chooses the best checkpoint. The default is valid_mrr@10."""
    early_stopping: int | None = number(None, least=1)
    """Validations without a better metric after which training stops. By default it does not stop."""

    def __post_init__(self) -> None:
        if self.fast_dev_run and self.resume is not None:
            raise UsageError("--fast_dev_run tries a new run, it cannot --resume one. Give one of the two flags.")


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """Train a question encoder and a passage encoder for dense passage retrieval.

    Examples::

        dpr-text train --data_path=data/nq --output_dir=runs/nq
        dpr-text train --train_files nq.jsonl trivia.jsonl --valid_file=dev.jsonl --encoder=bert-base-uncased --gpus=1
        dpr-text train --data_path=data/nq --output_dir=runs/nq --resume
    """

    data: DataFlags = DataFlags()
    model: ModelFlags = ModelFlags()
    objective: Objective = field(default_factory=Objective)
    optimization: OptimizationFlags = OptimizationFlags()
    run: RunFlags = RunFlags()

    def __post_init__(self) -> None:
        num_rates, num_files = (len(each or [""]) for each in (self.data.train_rates, self.data.train_files))
        if self.data.train_rates is not None and num_rates != num_files:
            numbers = f"{num_rates} numbers for {num_files} training files"
            raise UsageError(f"--train_rates has {numbers}. Give one number for each of --train_files.")
        uses = {"--guide_margin": self.objective.guide_margin is not None}
        uses["--distillation"] = self.objective.distillation > 0
        given = [flag for flag, is_given in uses.items() if is_given]
        if given and self.data.score_key is None:
            raise UsageError(f"{given[0]} needs the scores of passages. Give their key in the rows by --score_key.")
        if self.data.score_key is not None and not given:
            raise UsageError("--score_key names scores that nothing uses. Give --guide_margin or --distillation too.")
        for is_given, flag in (
            (self.data.score_key is not None, "--score_key"),
            (self.model.tokenizer_backend == "torchtext", "--tokenizer_backend=torchtext"),
            (self.model.titles == "join", "--titles=join"),
        ):
            if self.data.token_cache and is_given:
                raise UsageError(f"--token_cache cannot be used with {flag}.")


def build_objective(flags: TrainFlags, bundle: BiEncoderBundle) -> Objective:
    """Return the objective that the flags ask for, with the similarity and temperature of the model.

    Raises:
        ValueError: As ``Objective.check_width``.
    """
    objective = replace(
        flags.objective,
        all_positives=flags.data.num_positives > 1,
        similarity=bundle.similarity,
        temperature=bundle.temperature,
    )
    objective.check_width(bundle.encoder("question").embedding_dim)
    num_own = flags.data.num_positives + flags.data.num_hard_negatives + flags.data.num_other_negatives
    num_passages = num_own * (flags.data.batch_size if objective.in_batch_negatives else 1)
    if is_rank_zero():
        objective.check_temperature(num_passages, is_unit_length=bundle.has_unit_length)
    return objective
