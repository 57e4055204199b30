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
    """File of rows, or a folder: with a file for each split such as train.parquet, in BEIR's or MS MARCO's layout, or
    saved by datasets."""
    output_dir: str
    """Output folder for train.jsonl, valid.jsonl, test.jsonl and, with compact rows, passages.jsonl."""
    form: (
        Literal["beir", "msmarco", "dpr", "dpr-output", "tevatron", "flagembedding", "sentence-transformers"] | None
    ) = None
    """Form of the data. By default, the keys of the first row tell it. dpr-output is what DPR's retriever writes."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Names of columns by role: question, positive, negative, score, question_id, answers, positive_id and
    positive_title. negative may be a list of columns."""
    min_relevance: float | None = None
    """Relevance, label or score from which on a passage is a positive. Judgments need 1 by default, and labels must be
    0 or 1."""
    collection: str | None = None
    """Passage file for rows that list passages by id."""
    skip_missing: bool = False
    """Leave out judged questions and passages that are missing in a folder, and count them. By default they are an
    error."""
    to: Literal["dpr", "tevatron", "flagembedding", "sentence-transformers"] = "dpr"
    """Form of the output."""
    compact: bool | None = None
    """Write each distinct passage once, to passages.jsonl, and rows with ids. false writes full rows. By default, a
    folder in BEIR's or MS MARCO's layout gives compact rows, and other rows stay as they are."""
    num_negatives: int | None = number_field(None, least=0)
    """Columns of negatives with --to=sentence-transformers. Rows with fewer hard negatives are left out. By default,
    all rows must have as many as the first one."""
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
