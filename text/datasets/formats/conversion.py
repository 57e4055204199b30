"""Compressed files and JSON arrays as plain JSONL, converted once and kept beside the data.

Random access and exact resuming need rows that can be found by byte; neither a compressed file nor
an array has them.
"""

from __future__ import annotations

import os
from pathlib import Path

from text.datasets.formats.compressed_files import Form, form_of, progress_bar, read_chunks
from text.datasets.formats.json_array import elements
from text.datasets.formats.sidecars import sidecar
from text.errors import DataError


def plain_file(path: str) -> str:
    """A file of JSON rows, one a line: the file itself, or what it was converted to.

    Raises:
        DataError: The file is not what its name says (an array is no .jsonl), is not UTF-8, is cut, or has
            elements that are no objects; with its place.
        OSError: The file cannot be read, or its conversion cannot be written.
    """
    form = form_of(path)
    if form == Form(None, is_array=False):
        return path
    if form.is_array and ".jsonl" in os.path.basename(path):
        raise DataError(
            f"{path}:1 (byte 0): file is a JSON array; expected one JSON object a line, as its name says: "
            "name it .json, or convert it with dpr-text select"
        )
    return str(sidecar(path, "jsonl", lambda target: _convert(path, form, target)))


def _convert(path: str, form: Form, target: Path) -> None:
    with progress_bar(path, "Converting") as progress, open(target, "wb") as out:
        chunks = read_chunks(path, form, progress)
        if not form.is_array:
            out.writelines(chunks)
            return
        place = 0
        for offset, element, _ in elements(chunks, path):
            # A newline cannot stand in a JSON string; elsewhere a space is as good. What is between two elements
            # becomes spaces, too, so that each stands at the byte where it stood.
            out.write(b" " * (offset - place - 1) + (b"\n" if place else b" "))
            out.write(element.replace(b"\n", b" ").replace(b"\r", b" "))
            place = offset + len(element)
        out.write(b"\n")
