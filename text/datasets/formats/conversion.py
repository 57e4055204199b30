"""Compressed files and JSON arrays as plain JSONL, converted once and kept beside the data.

Random access and exact resuming need rows that can be found by byte; neither a compressed file nor
an array has them.
"""

from __future__ import annotations

import os
from pathlib import Path

from text.datasets.formats.compressed_files import Form, form_of, read_chunks
from text.datasets.formats.json_array import elements
from text.datasets.formats.lines import refuse_long_rows
from text.datasets.formats.places import format_place
from text.datasets.formats.sidecars import sidecar
from text.errors import DataError
from text.progress import show_file_progress

NEWLINE = b"\r"
"""Stands in a converted array for a newline of the array, so that the user's lines can be counted.

A newline cannot stand in a JSON string. Elsewhere any white space is as good.
"""


def plain_file(path: str) -> str:
    """A file of JSON rows, one a line: the file itself, or what it was converted to.

    Raises:
        DataError: The file is not what its name says (an array is no .jsonl), is not UTF-8, is cut, unpacks
            to too much, has a row above 16 MiB, or elements that are no objects; with its place.
        OSError: The file cannot be read, or its conversion cannot be written.
    """
    form = form_of(path)
    if form == Form(None, is_array=False):
        return path
    if form.is_array and ".jsonl" in os.path.basename(path):
        raise DataError(
            f"{format_place(path, 1, 0)}: file is a JSON array; expected one JSON object a line, as its name says: "
            "name it .json, or convert it with dpr-text select"
        )
    kind = "array.jsonl" if form.is_array else "jsonl"
    return str(sidecar(path, kind, lambda target: _convert(path, form, target)))


def _convert(path: str, form: Form, target: Path) -> None:
    with show_file_progress(path, "Converting") as progress, open(target, "wb") as out:
        chunks = read_chunks(path, form, progress)
        if not form.is_array:
            out.writelines(refuse_long_rows(chunks, path))
            return
        end, line = 0, 1
        for element in elements(chunks, path):
            # What is between two elements becomes white space, so that each stands at the byte where it stood.
            newlines = NEWLINE * (element.line - line)
            out.write((b"\n" if end else b" ") + newlines + b" " * (element.byte - end - 1 - len(newlines)))
            out.write(element.content.replace(b"\r", b" ").replace(b"\n", NEWLINE))
            end, line = element.byte + len(element.content), element.line + element.num_newlines
        out.write(b"\n")
