"""Read and write files safely: writes are atomic, never replace an input, and are verified when they are read.

``writing`` holds the atomic writer that all commands use. ``json_files`` and ``yaml_files`` read files of this library
or of a user, and ``typed`` checks their values. ``facts`` computes the size and SHA-256 that identify a file; file
names are never trusted. ``sealed`` files contain their own hash. ``checks`` validates a command's paths before it runs.
"""

from text.artifacts.checks import check_files, check_output_folder, check_readable, check_writable
from text.artifacts.facts import (
    FileFacts,
    check_facts,
    check_listed,
    describe_file,
    hash_file,
    hash_json,
    list_facts,
    read_facts,
)
from text.artifacts.json_files import parse_json, read_json, read_json_lines
from text.artifacts.sealed import read_sealed, read_sealed_beside, seal, write_sealed
from text.artifacts.typed import check_type
from text.artifacts.writing import (
    atomic_write,
    is_disk_full,
    remove_leftovers,
    wait_for_lock,
    write_json,
    write_lines,
    write_text,
    write_together,
)
from text.artifacts.yaml_files import dump_yaml, locate_key, parse_yaml, read_yaml, write_yaml

__all__ = [
    "FileFacts",
    "atomic_write",
    "check_facts",
    "check_files",
    "check_listed",
    "check_output_folder",
    "check_readable",
    "check_type",
    "check_writable",
    "describe_file",
    "dump_yaml",
    "hash_file",
    "hash_json",
    "is_disk_full",
    "list_facts",
    "locate_key",
    "parse_json",
    "parse_yaml",
    "read_facts",
    "read_json",
    "read_json_lines",
    "read_sealed",
    "read_sealed_beside",
    "read_yaml",
    "remove_leftovers",
    "seal",
    "wait_for_lock",
    "write_json",
    "write_lines",
    "write_sealed",
    "write_text",
    "write_together",
    "write_yaml",
]
