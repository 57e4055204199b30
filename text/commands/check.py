"""``dpr-text check``: check a data set before a long training run."""

from __future__ import annotations

from dataclasses import dataclass

from text.artifacts import check_files
from text.commands.cli import number_field, pick_arguments
from text.commands.model_paths import model_path_field
from text.errors import escape_controls


@dataclass(frozen=True, kw_only=True)
class CheckFlags:
    """Check a data set before a long training run, and print a one-page summary.

    Exit code 3 means that training would fail or learn nothing: too many rows are unusable, or there are no negatives.

    Examples::

        dpr-text check --data_path=data/nq --batch_size=128
        dpr-text check --data_path=data/nq --collection=psgs_w100.tsv --tokenizer=bert-base-uncased
    """

    data_path: str
    """Folder with train.jsonl and optionally valid.jsonl (or dev.jsonl) and test.jsonl, or a BEIR folder or table, as
    for dpr-text train."""
    collection: str | None = None
    """Passage file for rows that list passages by id."""
    tokenizer: str | None = model_path_field(None)
    """Tokenizer of the model that you will train: tokenizer.json, a folder with tokenizer.json, vocab.json or
    vocab.txt, or a model name in the Hugging Face cache. By default, a tokenizer is trained on the sampled texts."""
    batch_size: int = number_field(5, least=1, most=1 << 20)
    """Questions per training batch. Give the value that you will train with."""
    num_hard_negatives: int = number_field(1, least=0)
    """Hard negatives per training question."""
    question_max_length: int = number_field(64, least=1)
    """Maximum length of a question in tokens, including special tokens."""
    passage_max_length: int = number_field(256, least=1)
    """Maximum length of title and text in tokens, including special tokens."""
    num_sampled: int = number_field(2000, least=1)
    """Training questions to sample for text lengths and batches. All rows are checked."""
    max_skipped: float = number_field(0.001, least=0)
    """Maximum fraction of unusable rows."""
    skip_no_positives: bool = False
    """Skip rows without a positive, as FAIR's DPR does, and do not count them towards max_skipped."""
    picture: str = "runs/check/lengths.png"
    """Output file for the histograms of text lengths."""


def check(flags: CheckFlags) -> None:
    """Print the summary of a data set and write the histograms."""
    from text.datasets import check_negatives, describe_files, find_splits, leave_out_tokenless, open_splits
    from text.reports import data_check
    from text.runs.lengths import NO_LIMIT, measure_lengths, sample_batches, warn_truncated
    from text.transforms import BiEncoderCollator, Tokenize, load_tokenizer

    files = find_splits(flags.data_path)
    check_files(
        [*(path for paths in files.values() for path in paths), flags.collection], [flags.picture], overwrite=True
    )
    data_check.check_picture(flags.picture)
    options = pick_arguments(open_splits, flags)
    pipes = open_splits(files, **options, eval_hard_negatives=flags.num_hard_negatives, eval_other_negatives=0)
    contents = {stage: data_check.read_contents(pipe) for stage, pipe in pipes.items()}
    tokenizer = load_tokenizer(flags.tokenizer) if flags.tokenizer else None
    without_tokens = list[str]()
    if tokenizer is not None:
        tokenize = Tokenize(tokenizer, NO_LIMIT)
        without_tokens = leave_out_tokenless(pipes, BiEncoderCollator(tokenize, tokenize))
    batches = sample_batches(pipes["train"], flags.num_sampled)
    tokenizer = tokenizer or data_check.train_sample_tokenizer(batches)
    lengths = measure_lengths(tokenizer, batches, (flags.question_max_length, flags.passage_max_length))
    data_check.draw_histograms(flags.picture, lengths)
    page = [
        *describe_files(files, data_path=flags.data_path),
        "",
        *data_check.format_rows(pipes, contents),
        *data_check.format_overlaps(contents),
        *data_check.format_lengths(lengths),
        *data_check.format_batches(batches, flags.batch_size),
        f"histograms of lengths: {flags.picture}",
        *(f"note: {line}" for line in without_tokens),
        *data_check.find_remarks(pipes, contents),
    ]
    print("\n".join(map(escape_controls, page)))
    warn_truncated(lengths)
    check_negatives(pipes["train"])
