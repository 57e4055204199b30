"""``dpr-text check``: look at a data set before a long training run."""

from __future__ import annotations

from dataclasses import dataclass

from text.artifacts import check_files
from text.commands.cli import number, pick_arguments
from text.commands.model_paths import model_path
from text.errors import escape_controls


@dataclass(frozen=True, kw_only=True)
class CheckFlags:
    """Check a data set before a long training run, and print one page about it.

    Exit code 3 means that training would fail or learn nothing: rows that cannot be read, or no negatives at all.

    Examples::

        dpr-text check --data_path=data/nq --batch_size=128
        dpr-text check --data_path=data/nq --collection=psgs_w100.tsv --tokenizer=bert-base-uncased
    """

    data_path: str
    """Folder with train.jsonl, valid.jsonl (or dev.jsonl) and test.jsonl, as for train. Only train is needed."""
    collection: str | None = None
    """File of passages that rows refer to by id."""
    tokenizer: str | None = model_path(None)
    """tokenizer.json, or a folder that has one. By default a tokenizer is trained on the sampled texts."""
    batch_size: int = number(5, least=1, most=1 << 20)
    """Questions per training batch. The default is that of dpr-text train."""
    num_hard_negatives: int = number(1, least=0)
    """Hard negatives per question in training."""
    question_max_length: int = number(64, least=1)
    """Maximum tokens of a question, special tokens included."""
    passage_max_length: int = number(256, least=1)
    """Maximum tokens of a title and text together, special tokens included."""
    num_sampled: int = number(2000, least=1)
    """Training questions whose texts and batches are measured. The rows are all checked."""
    max_skipped: float = number(0.001, least=0)
    """Largest share of rows that may be unusable."""
    skip_no_positives: bool = False
    """Leave out rows without a positive, as FAIR's DPR does, and count them apart from max_skipped."""
    picture: str = "runs/check/lengths.png"
    """Picture to write: histograms of text lengths."""


def check(flags: CheckFlags) -> None:
    """Print the page and write the picture."""
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
