"""Conversion of compressed files and JSON arrays to plain JSONL. The result is kept beside the data.

Random access and exact resuming need the byte offset of each row. Compressed files and JSON arrays do not provide it.
"""

from __future__ import annotations

import os
from pathlib import Path

from text.datasets.formats.compressed_files import Form, detect_form, read_chunks
from text.datasets.formats.json_array import read_elements
from text.datasets.formats.lines import check_row_lengths
from text.datasets.formats.places import format_place
from text.datasets.formats.sidecars import load_or_make_sidecar
from text.errors import DataError
from text.progress import show_file_progress

NEWLINE = b"\r"
"""Replacement for each newline of a converted array, so that line numbers of the original file can be computed.

JSON strings cannot contain a raw newline. Outside strings, all white space is equivalent.
"""


def prepare_plain_file(path: str) -> str:
    """Return the path of a plain JSONL file: the given file, or its converted copy.

    Raises:
        DataError: The name contradicts the content (a JSON array is named .jsonl). Or the file is not UTF-8, is
            truncated, or decompresses to too many bytes. Or a row is above 16 MiB, or an element is not an object.
        OSError: The file cannot be read, or the converted copy cannot be written.
    """
    form = detect_form(path)
    if form == Form(None, is_array=False):
        return path
    if form.is_array and ".jsonl" in os.path.basename(path):
        raise DataError(
            f"{format_place(path, 1, 0)}: file is a JSON array, but its name says JSONL. Rename it to .json, or "
            "convert it with dpr-text select."
        )
    kind = "array.jsonl" if form.is_array else "jsonl"
    return str(load_or_make_sidecar(path, kind, lambda target: _convert(path, form, target)))


def _convert(path: str, form: Form, target: Path) -> None:
    with show_file_progress(path, "Converting") as progress, open(target, "wb") as out:
        chunks = read_chunks(path, form, progress)
        if not form.is_array:
            out.writelines(check_row_lengths(chunks, path))
            return
        end, line = 0, 1
        for element in read_elements(chunks, path):
            # White space replaces the bytes between two elements, so that each element keeps its byte offset.
            newlines = NEWLINE * (element.line - line)
            out.write((b"\n" if end else b" ") + newlines + b" " * (element.byte - end - 1 - len(newlines)))
            out.write(element.content.replace(b"\r", b" ").replace(b"\n", NEWLINE))
            end, line = element.byte + len(element.content), element.line + element.num_newlines
        out.write(b"\n")
