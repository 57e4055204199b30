"""A data set of any form: its splits, the rows of each split, and the collection of compact rows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from text.datasets.collection import PassageCollection
from text.datasets.forms.beir import name_stages
from text.datasets.forms.folders import JudgedFolder, find_judged_folder
from text.datasets.forms.judged_rows import MIN_RELEVANCE, read_folder_rows
from text.datasets.forms.reading import Reading, read_rows
from text.datasets.forms.sources import find_split_files, open_records
from text.datasets.forms.writing import Source
from text.errors import UsageError
from text.progress import show_file_progress

FOLDER_FORMS = ("beir", "msmarco")
"""Forms of whole folders."""


def read_file(path: str, reading: Reading, counts: Counter[str], *, is_part: bool = False) -> Iterator[Source]:
    """Yield the rows of a file as one source, and show the progress.

    Args:
        path: The file.
        reading: Form, columns and threshold of the rows.
        counts: Number of rows read, left out and changed, by reason. It is updated while the rows are read.
        is_part: The file is one of several files of a split, and may have no rows.

    Raises:
        UsageError, DataError: As for ``open_records`` and ``read_rows``.
    """
    with show_file_progress(path, "Converting") as progress:
        records = open_records(path, counts, progress)
        yield Source(read_rows(records, reading, counts, may_be_empty=is_part), records.describe_place)


class DataSet:
    """Splits of a file or folder of any form.

    Args:
        path: A file, or a folder with a file for each split, in BEIR's or MS MARCO's layout, or saved by ``datasets``.
        reading: Form, columns and threshold of the rows.
        collection: Passages of compact rows. A folder in BEIR's or MS MARCO's layout has its own.
        skip_missing: Count judged questions and passages that are missing, and leave them out.

    Raises:
        UsageError: A file cannot be read, the splits are not clear, or an option has no effect.
        DataError: The collection cannot be parsed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        reading: Reading,
        *,
        collection: str | None = None,
        skip_missing: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        self._reading, self._skip_missing = reading, skip_missing
        self.folder = self._find_folder(collection)
        self._splits = name_stages(self.folder) if self.folder else find_split_files(path)
        file = self.folder.collection if self.folder else collection
        self.collection = PassageCollection(file) if file else None
        """Passages of compact rows."""

    @property
    def splits(self) -> list[str]:
        """Names of the splits: train, valid and test where possible."""
        return list(self._splits)

    def read(self, split: str, counts: Counter[str]) -> Iterator[Source]:
        """Yield the sources of a split, one after the other.

        Args:
            split: Name of the split.
            counts: Number of rows read, left out and changed, by reason. It is updated while the rows are read.

        Raises:
            UsageError, DataError: As for ``read_rows`` and ``read_folder_rows``.
        """
        files = self._splits[split]
        if isinstance(files, str):
            assert self.folder is not None and self.collection is not None
            minimum = self._reading.min_relevance
            options = {
                "min_relevance": MIN_RELEVANCE if minimum is None else minimum,
                "skip_missing": self._skip_missing,
            }
            qrels = self.folder.qrels[files]
            yield Source(
                read_folder_rows(self.folder, files, self.collection, counts, **options), lambda _: f"{qrels}:1"
            )
            return
        for path in files:
            yield from read_file(path, self._reading, counts, is_part=len(files) > 1)

    def _find_folder(self, collection: str | None) -> JudgedFolder | None:
        form = self._reading.form
        folder = find_judged_folder(self.path) if form is None or form in FOLDER_FORMS else None
        if form in FOLDER_FORMS and (folder is None or folder.form != form):
            raise UsageError(
                f"{self.path} does not have the layout of {form}. docs/reference/formats.md lists its files."
            )
        unused = [
            name
            for name, is_given in (
                ("collection", folder is not None and collection is not None),
                ("columns", folder is not None and bool(self._reading.columns)),
                ("skip_missing", folder is None and self._skip_missing),
            )
            if is_given
        ]
        if unused:
            kind = "a folder with judgments" if folder else "rows that are not in a folder with judgments"
            raise UsageError(f"--{unused[0]} has no effect on {kind}. Leave it out.")
        return folder
