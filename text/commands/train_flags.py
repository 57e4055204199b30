"""The flags of ``dpr-text train`` in five groups."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal

from text.bundle import BiEncoderBundle
from text.commands.cli import MAX_SEED, number_field
from text.commands.model_paths import RANDOM_ENCODERS, model_path_field
from text.errors import UsageError
from text.training import Objective, is_rank_zero

_RETRIEVAL_DATA = "num_positives token_cache teacher_passages teacher_questions"
_RETRIEVAL_MODEL = (
    "tokenizer_backend tied similarity temperature freeze_question freeze_passage pooling projection_dim normalize "
    "question_max_length passage_max_length question_prompt passage_prompt lora_rank lora_alpha lora_targets "
    "frozen_passages keep_layers"
)
_RETRIEVAL_OBJECTIVE = "in_batch_negatives symmetric matryoshka_dims embedding_distillation"
"""Flags of each group that need embeddings. A reranker has none."""
_LORA = ("lora_alpha", "lora_targets")
_PASSAGE_SETTINGS = (
    "pooling projection_dim normalize similarity titles passage_prompt passage_max_length tokenizer".split()
)
"""Model settings that decide the embeddings of passages."""
Logger = Literal["csv", "tensorboard", "wandb", "mlflow"]
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
    """Folder with train.jsonl and optionally valid.jsonl (or dev.jsonl) and test.jsonl in the DPR format. The files may
    be JSON arrays (.json), compressed (.gz, .zst), or named as in FAIR's download, such as nq-train.json and
    nq-dev.json. A BEIR or MS MARCO folder, a CSV, TSV or Parquet file, or a folder that datasets has saved is converted
    to rows first."""
    train_files: list[str] | None = None
    """Training files to mix. They replace the training file in data_path."""
    train_rates: list[float] | None = field(default=None, metadata={"above": 0, "below": 1000})
    """Repetitions of each of train_files per epoch, one number per file. The default is 1; FAIR's DPR uses small
    sets 4 times."""
    valid_file: str | None = None
    """Validation file. It replaces the one in data_path; without validation data, the last checkpoint becomes the
    model."""
    valid_share: float | None = number_field(None, above=0, below=1)
    """Fraction of the training questions to hold out for validation, such as 0.05. Use it if there is no validation
    file; rows with the same question stay together."""
    test_file: str | None = None
    """Test file. It replaces the one in data_path; without test data, no test metrics are computed."""
    collection: str | None = None
    """Passage file (psgs_w100.tsv or JSONL) for compact rows, which list passages in positive_ids and
    hard_negative_ids. A BEIR or MS MARCO folder as data_path brings its own."""
    batch_size: int = number_field(5, least=1, most=1 << 20)
    """Questions per batch, in total over all GPUs. The default suits a first try; a larger batch has more in-batch
    negatives, and DPR uses 128 on NQ."""
    one_set_per_batch: bool = False
    """Draw each training batch from a single training file, as FAIR's DPR does. By default, a batch mixes all files."""
    rows_together: int = number_field(1, least=1)
    """Keep this many neighboring rows of a training file together when shuffling. Use it if rows are sorted by article
    (mine --sort_by_title): passages of one article then become each other's in-batch negatives."""
    num_hard_negatives: int = number_field(1, least=0)
    """Hard negatives per training question, resampled every epoch. DPR uses 1."""
    num_other_negatives: int = number_field(0, least=0)
    """Random negatives (negative_ctxs) per training question. Use them if rows have no hard negatives; DPR uses 0."""
    num_positives: int = number_field(1, least=1)
    """Positives per training question. Use more if questions have several right answers: the loss covers all of
    them."""
    sample_positives: bool = False
    """Sample the positive of each training question at random. Use it if the order of the positives has no meaning; by
    default, the first positive is used."""
    eval_hard_negatives: int = number_field(30, least=0)
    """Hard negatives per question in validation and test: the first ones of the row. Lower it if validation is slow;
    DPR uses 30."""
    eval_other_negatives: int = number_field(30, least=0)
    """Random negatives per question in validation and test: the first ones of the row. Lower it if validation is slow;
    DPR uses 30."""
    score_key: str | None = None
    """Field of each training passage that holds the score of a teacher or guide model, such as teacher_score.
    --guide_margin and --distillation need it."""
    teacher_passages: str | None = None
    """Folder of a teacher's passage embeddings (dpr-text encode), which the model learns to reproduce. Each is found by
    its passage id. Needs --embedding_distillation."""
    teacher_questions: str | None = None
    """Folder of a teacher's question embeddings (dpr-text encode --questions), which the model learns to reproduce.
    Each is found by the exact text of its question. Needs --embedding_distillation."""
    allow_no_negatives: bool = False
    """Train even if no question has a negative. The loss is then 0 and the model learns nothing."""
    max_skipped: float = number_field(0.001, least=0)
    """Maximum fraction of unusable rows. A larger fraction is an error."""
    skip_no_positives: bool = False
    """Skip rows without a positive, as FAIR's DPR does, and do not count them towards max_skipped. FAIR's trivia-train
    has 18,372 such rows."""
    token_cache: bool = False
    """Tokenize each text once, and cache the tokens in a file next to the data. Use it if tokenizing limits the speed;
    the batches stay the same."""
    num_workers: int | None = number_field(None, least=0, most=256)
    """Worker processes of each GPU that read and tokenize data; 0 uses the training process. By default, a GPU has up
    to 4, as many as CPUs are free, and a CPU has 0; use more if the GPU waits for data."""


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Encoders, tokenizer and similarity."""

    task: Literal["retrieve", "rerank"] = "retrieve"
    """Model to train: two encoders that retrieve passages (retrieve), or a cross-encoder that reads question and
    passage together and reranks the passages that a retriever found (rerank)."""
    encoder: str = model_path_field("tiny", names=RANDOM_ENCODERS)
    """Encoder to start from: tiny, mini, small, base or large (random weights), a model folder, a model name in the
    Hugging Face cache, or a checkpoint of FAIR's DPR. A folder holds a model of transformers or sentence-transformers,
    or is the model/ of a run."""
    encoder_library: Literal["transformers"] | None = None
    """Library that computes the encoder. By default, RoBERTa and BERT use the faster code of dpr-text, and all other
    models use transformers."""
    tokenizer: str | None = model_path_field(None)
    """tokenizer.json, or a folder that contains tokenizer.json, vocab.json with merges.txt, or vocab.txt. By default,
    the encoder's tokenizer is used, or a byte-level BPE is trained on the training file."""
    tokenizer_backend: Literal["tokenizers", "torchtext"] = "tokenizers"
    """Tokenizer implementation. Both give the same ids; torchtext's GPT2BPETokenizer needs the files of GPT-2 or
    RoBERTa."""
    vocab_size: int = number_field(8192, most=1 << 20)
    """Maximum vocabulary size of a tokenizer that is trained. Only random weights without --tokenizer train one."""
    tied: bool | None = field(default=None, metadata={"bare": "true"})
    """Share one encoder between questions and passages. It halves the memory and suits small data sets. By default,
    follow the starting model: a sentence-transformers model is shared; otherwise two encoders start with the same
    weights."""
    similarity: Literal["dot", "cosine"] | None = None
    """Similarity of two embeddings: dot product or cosine. The default is that of the starting model, or dot (DPR)."""
    temperature: float | None = number_field(None, above=0)
    """Temperature: scores are divided by it before the softmax, so a lower value sharpens them. The default is the
    value of a saved dpr-text model; 0.05 for cosine similarity or unit-length embeddings; otherwise 1 (DPR)."""
    freeze_question: bool = False
    """Freeze the question encoder: its weights are not trained. Use it to adapt passages to existing question
    embeddings."""
    freeze_passage: bool = False
    """Freeze the passage encoder: its weights are not trained. Use it to keep existing passage embeddings."""
    frozen_passages: str | None = None
    """Folder of the passage embeddings that the starting model encoded. Train only a question encoder for them: no
    passage is encoded, and the saved model searches these embeddings. Needs --freeze_passage."""
    keep_layers: list[int] | None = None
    """Transformer layers of the starting model to keep, counted from 0, such as [0, 2, 4]. Use it to train a smaller
    and faster model, with a teacher's embeddings or scores. A frozen encoder keeps all layers."""
    pooling: Literal["first", "mean", "last", "max", "mean_sqrt_len", "weightedmean"] | None = None
    """Pooling of the token states: the first token (DPR), the mean of all tokens, which suits random weights, or the
    last token, which suits decoders. The last four need transformers. The default is that of the starting model, or
    mean for random weights."""
    projection_dim: int | None = number_field(None, least=1, most=1 << 16)
    """Output width of a linear layer with layer norm after pooling. Use it to shorten embeddings, or to train RoBERTa
    with the first token, as dpr-scale does. The default is that of the starting model, or none."""
    normalize: bool | None = field(default=None, metadata={"bare": "true"})
    """Scale embeddings to unit length, which suits cosine similarity. The default is the setting of the starting
    model."""
    dropout: float | None = number_field(None, least=0, below=1)
    """Dropout probability in training. Raise it if a model overfits; the default is that of the starting model, or
    0.1."""
    question_max_length: int | None = number_field(None, least=1)
    """Maximum length of a question in tokens, including special tokens; DPR uses 256. The default is the limit of a
    sentence-transformers or dpr-text model, otherwise 64 or the encoder's limit if that is lower."""
    passage_max_length: int | None = number_field(None, least=1)
    """Maximum length of title and text in tokens, including special tokens, up to the encoder's positions. The default
    is the limit of a sentence-transformers or dpr-text model, otherwise 256 (DPR) or the encoder's limit if that is
    lower."""
    pair_max_length: int | None = number_field(None, least=1)
    """Maximum length of a question with title and text in tokens, including special tokens. It needs --task=rerank; the
    default is the limit of a saved reranker, otherwise 512 or the limit of the encoder if that is lower."""
    question_prompt: str | None = field(default=None, metadata={"empty": True})
    """Text to put before every question. The default is the prompt stored with the starting model, or none."""
    passage_prompt: str | None = field(default=None, metadata={"empty": True})
    """Text to put before every passage. The default is the prompt stored with the starting model, or none."""
    lora_rank: int | None = number_field(None, least=1, most=1 << 12)
    """Rank of low-rank adapters (LoRA), such as 16. Train only adapters and layers after pooling, to save memory on a
    large encoder; the encoder then uses transformers. By default, all weights are trained."""
    lora_alpha: int | None = number_field(None, least=1)
    """Scale of the adapters, which are multiplied by lora_alpha / lora_rank. The default is twice the rank."""
    lora_targets: list[str] | None = None
    """Linear layers that get an adapter, by the last part of their names, such as q_proj v_proj, or all-linear for all
    of them. The default is peft's choice for the architecture, or all linear layers if peft has none."""
    titles: Literal["pair", "join"] | None = None
    """Encode title and text as a pair (DPR), or join them with a space. The default is the setting of a saved dpr-text
    model, join for a sentence-transformers model, and otherwise pair."""

    def __post_init__(self) -> None:
        if self.freeze_question and self.freeze_passage:
            raise UsageError("--freeze_question and --freeze_passage leave nothing to train. Use at most one of them.")
        if self.tied and (self.freeze_question or self.freeze_passage):
            raise UsageError("--tied shares one encoder, so neither side can be frozen alone. Use --tied=false.")
        if self.frozen_passages is not None:
            if not self.freeze_passage:
                raise UsageError("--frozen_passages trains only the question encoder. Add --freeze_passage.")
            if given := [name for name in _PASSAGE_SETTINGS if getattr(self, name) is not None]:
                raise UsageError(
                    f"--{given[0]} cannot be used with --frozen_passages, whose embeddings it would change."
                )
        if self.lora_rank is None and (given := [name for name in _LORA if getattr(self, name) is not None]):
            raise UsageError(f"--{given[0]} needs --lora_rank. Give a rank, such as --lora_rank=16.")
        if self.lora_rank is not None and self.keep_layers is not None:
            raise UsageError("--keep_layers trains a smaller encoder, and cannot be used with --lora_rank.")
        if self.lora_rank is not None and find_spec("peft") is None:
            raise UsageError('--lora_rank: peft is not installed. Install it: pip install "dpr-text[lora]"')
        if self.tokenizer_backend == "torchtext" and find_spec("torchtext") is None:
            raise UsageError(
                "--tokenizer_backend=torchtext: torchtext is not installed. "
                "Install it: pip install --require-hashes -r locks/torchtext.txt"
            )

    @property
    def kept_model(self) -> str | None:
        """Model whose passage encoder is saved unchanged, or None."""
        return self.encoder if self.frozen_passages is not None else None


@dataclass(frozen=True, kw_only=True)
class OptimizationFlags:
    """Schedule, precision and memory."""

    max_epochs: int = number_field(5, least=1)
    """Passes over the training data. DPR uses 40 on NQ."""
    learning_rate: float | None = number_field(None, above=0)
    """Peak learning rate. Lower it if the loss rises or is not finite; the default is 2e-5 (FAIR's DPR) for pretrained
    weights, 1e-4 with --lora_rank, and 1e-3 for random weights."""
    warmup_steps: int = number_field(0, least=0)
    """Optimizer steps of linear warmup to the peak learning rate. About 5 to 10 % of all steps is usual; FAIR's DPR
    uses 1237 on NQ."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after the warmup: linear or cosine decay to 0 at the last step, or constant. Use constant if you
    will train more epochs later."""
    weight_decay: float = number_field(0.0, least=0)
    """Weight decay of AdamW, on all weights except biases and layer norms. Raise it if a model overfits; FAIR's DPR
    uses 0."""
    gradient_clip_val: float = number_field(2.0, least=0)
    """Maximum norm of the gradient; 0 turns clipping off. Lower it if training is unstable; FAIR's DPR uses 2 on NQ."""
    accumulate_batches: int = number_field(1, least=1)
    """Batches per optimizer step (gradient accumulation). It adds no in-batch negatives; for a larger batch, use
    chunk_tokens."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"] = "32-true"
    """Numerical precision, as named by Lightning. Use bf16-mixed on hardware with bfloat16, and 16-mixed on older
    GPUs."""
    tf32: bool | None = field(default=None, metadata={"bare": "true"})
    """Compute float32 matrix products in TF32: faster, with 10 bits of mantissa. By default, a GPU that has TF32
    uses it with --precision=32-true; use false if you need full float32."""
    compile: bool = False
    """Compile the encoder layers with torch.compile. Use it for long runs on a GPU: compiling takes minutes at the
    start and makes each step faster."""
    chunk_tokens: int | None = number_field(None, least=1)
    """Embed each batch in chunks of this many tokens (GradCache). Use it to fit a large batch_size into memory; every
    text is then embedded twice."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass. Use it if memory is short: it takes about a third more time."""


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Output, devices, validation and logs."""

    output_dir: str = "runs/dpr"
    """Output folder for checkpoints, model, metrics and logs."""
    overwrite: bool = False
    """Delete the files of an earlier run in output_dir. Other files are kept."""
    resume: str | None = field(default=None, metadata={"bare": "auto"})
    """Checkpoint or run folder to resume from. Without a value, resume the run in output_dir."""
    seed: int = number_field(12345, least=0, most=MAX_SEED)
    """Random seed for row order, sampling, initial weights and dropout. FAIR's DPR uses 12345."""
    gpus: int = number_field(0, least=0)
    """GPUs per machine; 0 trains on the CPU. For several machines, start the command with torchrun or SLURM."""
    num_nodes: int = number_field(1, least=1)
    """Number of machines."""
    fast_dev_run: bool = False
    """Run one batch of training, validation and test as a quick check. Nothing is saved."""
    log_every_n_steps: int = number_field(10, least=1)
    """Optimizer steps between rows of metrics.csv. Lower it for short runs."""
    validate_every_n_steps: int | None = number_field(None, least=1)
    """Optimizer steps between validations; the last step is always validated. By default, validate after each epoch."""
    validate_first: bool = False
    """Also validate before the first step, to see what fine-tuning gains. This validation saves no checkpoint."""
    monitor: Monitor | None = None
    """Validation metric that selects the best checkpoint. Choose the one that your application needs; the default is
    valid_mrr@10."""
    early_stopping: int | None = number_field(None, least=1)
    """Stop after this many validations without improvement. By default, training does not stop early."""
    logger: list[Logger] | None = None
    """Loggers of the metrics besides metrics.csv, which is always written: tensorboard, wandb (Weights & Biases) and
    mlflow, such as --logger=tensorboard,wandb. Use csv for metrics.csv alone. By default, TensorBoard is used if it is
    installed."""

    def __post_init__(self) -> None:
        for name in self.logger or ():
            if name != "csv" and find_spec(name) is None:
                advice = f'Install it: pip install "dpr-text[{name}]"'
                raise UsageError(f"--logger={name}: {name} is not installed. {advice}")
        if self.fast_dev_run and self.resume is not None:
            raise UsageError("--fast_dev_run starts a new run and cannot be combined with --resume. Remove one flag.")


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """Train a bi-encoder for dense passage retrieval, or a cross-encoder that reranks passages (--task=rerank).

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
        _check_task(self)
        num_rates, num_files = (len(each or [""]) for each in (self.data.train_rates, self.data.train_files))
        if self.data.train_rates is not None and num_rates != num_files:
            counts = f"{num_rates} rates for {num_files} training files"
            raise UsageError(f"--train_rates has {counts}. Give one rate for each of --train_files.")
        uses = {"--guide_margin": self.objective.guide_margin is not None}
        uses["--distillation"] = self.objective.distillation > 0
        given = [flag for flag, is_given in uses.items() if is_given]
        if given and self.data.score_key is None:
            raise UsageError(f"{given[0]} needs passage scores. Name their key in the training rows with --score_key.")
        teachers = [name for name in ("teacher_passages", "teacher_questions") if getattr(self.data, name) is not None]
        if bool(teachers) != (self.objective.embedding_distillation > 0):
            raise UsageError(
                "--embedding_distillation needs --teacher_passages or --teacher_questions, and they need a weight "
                "above 0, such as --embedding_distillation=1."
            )
        if self.data.teacher_passages is not None and self.model.freeze_passage:
            raise UsageError(
                "--teacher_passages cannot be used with --freeze_passage, which does not train the passage encoder."
            )
        if self.data.teacher_questions is not None and self.model.freeze_question:
            raise UsageError(
                "--teacher_questions cannot be used with --freeze_question, which does not train the question encoder."
            )
        if self.data.score_key is not None and not given:
            raise UsageError("--score_key names scores, but nothing uses them. Add --guide_margin or --distillation.")
        if self.model.lora_rank is not None and self.optimization.precision in ("16-true", "bf16-true"):
            raise UsageError(
                f"--lora_rank cannot be used with --precision={self.optimization.precision}, which rounds the weights "
                "below the adapters. Use 16-mixed or bf16-mixed."
            )
        for is_given, flag in (
            (self.data.score_key is not None, "--score_key"),
            (self.data.teacher_questions is not None, "--teacher_questions"),
            (self.model.tokenizer_backend == "torchtext", "--tokenizer_backend=torchtext"),
            (self.model.titles == "join", "--titles=join"),
        ):
            if self.data.token_cache and is_given:
                raise UsageError(f"--token_cache cannot be used with {flag}.")


def _check_task(flags: TrainFlags) -> None:
    """Check that no flag is given that the task does not use.

    Raises:
        UsageError: There is such a flag.
    """
    if flags.model.task == "retrieve":
        if flags.model.pair_max_length is not None:
            raise UsageError(
                "--pair_max_length needs --task=rerank. Use --question_max_length and --passage_max_length."
            )
        return
    groups: tuple[tuple[Any, Any, str], ...] = (
        (flags.data, DataFlags(), _RETRIEVAL_DATA),
        (flags.model, ModelFlags(), _RETRIEVAL_MODEL),
        (flags.objective, Objective(), _RETRIEVAL_OBJECTIVE),
        (flags.optimization, OptimizationFlags(), "chunk_tokens"),
    )
    for given, default, names in groups:
        for name in names.split():
            if getattr(given, name) != getattr(default, name):
                advice = " Use --pair_max_length." if name.endswith("_max_length") else " Omit the flag."
                raise UsageError(f"--{name} cannot be used with --task=rerank, which trains no embeddings.{advice}")
    if flags.model.titles == "pair":
        raise UsageError("--titles=pair cannot be used with --task=rerank: the title stands before the text. Omit it.")


def build_objective(flags: TrainFlags, bundle: BiEncoderBundle) -> Objective:
    """Return the training objective of the flags, with the similarity and temperature of the model.

    Raises:
        ValueError: ``Objective.check_width`` refuses the embedding width.
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
