"""Read and write files: a result appears whole or not at all, takes the place of no input, and is checked when used.

``writing`` is the one writer of all commands. ``json_files`` and ``yaml_files`` read what this library or a user wrote,
checked by ``typed``. ``facts`` are the size and the SHA-256 by which a file is trusted, never its name; ``sealed``
files hold their own hash. ``checks`` look at the paths of a command before any work.
"""

from text.artifacts.checks import check_files, check_output_folder, check_readable, check_writable
from text.artifacts.facts import (
    FileFacts,
    check_facts,
    check_listed,
    describe_file,
    hash_json,
    list_facts,
    read_facts,
    sha256,
)
from text.artifacts.json_files import parse_json, read_json, read_json_lines
from text.artifacts.sealed import read_sealed, seal
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
    "read_yaml",
    "remove_leftovers",
    "seal",
    "sha256",
    "wait_for_lock",
    "write_json",
    "write_lines",
    "write_text",
    "write_together",
    "write_yaml",
]
