"""``dpr-text convert``: convert data of other tools to rows in the DPR format, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from text.commands.cli import number_field, pick_arguments
from text.errors import escape_controls


@dataclass(frozen=True, kw_only=True)
class ConvertFlags:
    """Convert training data of other tools to rows in the DPR format, and back.

    The form of the rows is recognized by their keys. JSON lines, JSON arrays, CSV, TSV, Parquet and folders that
    ``datasets`` has saved are read. Rows that training cannot use are left out, and the output says how many and why.

    Examples::

        dpr-text convert --data_path=beir/nq --output_dir=data/nq
        dpr-text convert --data_path=pairs.csv --columns='{question: q, positive: answer}' --output_dir=data/faq
        dpr-text convert --data_path=data/nq --to=flagembedding --collection=data/nq/passages.jsonl --output_dir=bge
    """

    data_path: str
    """File of rows, or a folder. A folder has a file for each split, such as train.parquet, or the layout of BEIR or
    MS MARCO, or was saved by datasets."""
    output_dir: str
    """Output folder for train.jsonl, valid.jsonl, test.jsonl and, with compact rows, passages.jsonl."""
    form: (
        Literal["beir", "msmarco", "dpr", "dpr-output", "tevatron", "flagembedding", "sentence-transformers"] | None
    ) = None
    """Form of the data. By default, it is recognized by the keys of the first row. dpr-output is the output of DPR's
    retriever."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Name of the column for each role: question, positive, negative, score, question_id, answers, positive_id and
    positive_title. negative may be a list of columns."""
    min_relevance: float | None = None
    """Smallest relevance, label or score of a positive. The default for judgments is 1. Without this flag, labels must
    be 0 or 1."""
    collection: str | None = None
    """Passage file for rows that list passages by id."""
    skip_missing: bool = False
    """Leave out judged questions and passages that the folder lacks, and count them. By default, they are an error."""
    to: Literal["dpr", "tevatron", "flagembedding", "sentence-transformers"] = "dpr"
    """Form of the output."""
    compact: bool | None = None
    """Write each distinct passage once, to passages.jsonl, and rows with passage ids. false writes full rows. By
    default, a folder in the layout of BEIR or MS MARCO gives compact rows, and other rows stay as they are."""
    num_negatives: int | None = number_field(None, least=0)
    """Number of columns of negatives with --to=sentence-transformers. Rows with fewer hard negatives are left out. By
    default, all rows must have the same number of hard negatives."""
    overwrite: bool = False
    """Replace earlier results."""


def convert(flags: ConvertFlags) -> None:
    """Write the converted files and print what was read, written and left out."""
    from text.datasets.forms.converting import Output, convert_data
    from text.datasets.forms.data_set import DataSet
    from text.datasets.forms.reading import Reading

    reading = Reading(**pick_arguments(Reading, flags))
    data = DataSet(flags.data_path, reading, collection=flags.collection, skip_missing=flags.skip_missing)
    output = Output(**pick_arguments(Output, flags))
    for file in convert_data(data, flags.output_dir, output, overwrite=flags.overwrite):
        kind = "passages" if file.path.endswith("passages.jsonl") else "rows"
        found = "".join(f"; {count} {reason}" for reason, count in file.counts.items())
        print(escape_controls(f"{file.path}: {file.num_rows} {kind}{found}"))
