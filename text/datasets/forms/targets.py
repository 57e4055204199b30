"""Conversion of rows in the DPR format to the forms of other tools.

Each function takes a full row and yields records. Fields that the other tool ignores are kept, so that a conversion
there and back gives the same row. sentence-transformers reads every column as a text, so its records hold texts alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from text.datasets.formats.dpr_record import POOLS
from text.datasets.formats.values import FieldError
from text.datasets.forms.fields import SCORE, count_lost_keys, is_number
from text.datasets.forms.records import Record
from text.datasets.forms.rows import join_title

_OWN_FIELDS = {"question_id", "question", "positive_ctxs", "hard_negative_ctxs"}


def convert_to_tevatron(row: Record, counts: Counter[str]) -> Record:
    """Return a row of Tevatron. All other fields are kept, and nothing is counted."""
    record = _start_record(row)
    for field, pool in (("positive_passages", "positive_ctxs"), ("negative_passages", "hard_negative_ctxs")):
        record[field] = [_rename(passage, "passage_id", "docid") for passage in row.get(pool, ())]
    return record | _list_others(row, record)


def convert_to_flagembedding(row: Record, counts: Counter[str]) -> Record:
    """Return a row of FlagEmbedding. Titles are joined to the texts, and also kept in ``pos_titles``.

    Args:
        row: Full row.
        counts: Number of fields of passages that are left out. It is updated.
    """
    record = _start_record(row)
    pools = {"pos": row.get("positive_ctxs", []), "neg": row.get("hard_negative_ctxs", [])}
    scored = [is_number(passage.get(SCORE)) for passages in pools.values() for passage in passages]
    counts["rows whose scores were left out, because not all passages have one"] += any(scored) and not all(scored)
    for field, passages in pools.items():
        count_lost_keys(passages, {"passage_id", "title", "text", SCORE}, counts)
        record[field] = [join_title(passage) for passage in passages]
        if all(scored):
            record[f"{field}_scores"] = [passage[SCORE] for passage in passages]
        for name, key in (("id", "passage_id"), ("titles", "title")):
            if any(key in passage for passage in passages):
                record[f"{field}_{name}"] = [passage.get(key) for passage in passages]
    return record | _list_others(row, record)


class TupleWriter:
    """Conversion of rows to records of sentence-transformers: ``anchor``, ``positive``, ``negative_1`` and so on.

    All records have the same columns, because sentence-transformers passes every column to the model.

    Args:
        num_negatives: Number of columns with negatives. The default is the number of hard negatives of the first row.
        counts: Number of left-out rows, passages and fields, by kind. It is updated.
    """

    def __init__(self, num_negatives: int | None, counts: Counter[str]) -> None:
        self._num_negatives, self._is_fixed = num_negatives, num_negatives is not None
        self._counts = counts

    def convert(self, row: Record) -> Iterator[Record]:
        """Yield a record for each positive of a row.

        Raises:
            FieldError: The row has another number of hard negatives than the first row, and ``num_negatives`` is None.
        """
        negatives = [join_title(passage) for passage in row.get("hard_negative_ctxs", ())]
        if self._num_negatives is None:
            self._num_negatives = len(negatives)
        if len(negatives) != self._num_negatives and not self._is_fixed:
            raise FieldError(
                f"hard_negative_ctxs: {len(negatives)} passages, but {self._num_negatives} in the first row. Choose "
                "the number of columns with --num_negatives"
            )
        if len(negatives) < self._num_negatives:
            self._counts["rows with too few hard negatives, left out"] += 1
            return
        self._count_lost(row)
        self._counts["hard negatives above num_negatives, left out"] += len(negatives) - self._num_negatives
        columns = {f"negative_{i}": text for i, text in enumerate(negatives[: self._num_negatives], start=1)}
        if self._num_negatives == 1:
            columns = {"negative": columns["negative_1"]}
        for passage in row["positive_ctxs"]:
            yield {"anchor": row["question"], "positive": join_title(passage), **columns}

    def _count_lost(self, row: Record) -> None:
        passages = [passage for pool in POOLS[:2] for passage in row.get(pool, ())]
        self._counts["passages whose title was joined to the text"] += sum(bool(each.get("title")) for each in passages)
        count_lost_keys(passages, {"title", "text"}, self._counts)
        for name in row.keys() - {"question", *POOLS[:2]}:
            self._counts[f"rows whose {name} was left out"] += 1


def _start_record(row: Record) -> Record:
    start = {"query_id": row["question_id"]} if "question_id" in row else {}
    return start | {"query": row["question"]}


def _list_others(row: Record, record: Record) -> Record:
    """Return the fields of a row that the record does not hold yet.

    Raises:
        FieldError: A field of the row has the name of a field of the record.
    """
    others = {name: value for name, value in row.items() if name not in _OWN_FIELDS}
    if twice := others.keys() & record.keys():
        raise FieldError(f"{min(twice)}: the output has a field of this name. Rename the field")
    return others


def _rename(passage: Record, old: str, new: str) -> Record:
    """Return a passage with another name of a key.

    Raises:
        FieldError: The passage has a field of the new name already.
    """
    if old in passage and new in passage:
        raise FieldError(f"{new}: the output has a field of this name. Rename the field")
    return {new if name == old else name: value for name, value in passage.items()}
