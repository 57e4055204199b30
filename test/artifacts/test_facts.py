"""Sizes and SHA-256 hashes that identify files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from text.artifacts import (
    FileFacts,
    check_facts,
    check_listed,
    hash_file,
    list_facts,
    read_facts,
    read_json,
    write_json,
)
from text.errors import ArtifactError


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_hash_file_equals_hashlib(tmp_path: Path, size):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "a.bin").write_bytes(content)
    assert hash_file(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_hash_file_by_hand(tmp_path: Path):
    # FIPS 180-2, appendix B.1: the message "abc".
    (tmp_path / "abc").write_bytes(b"abc")
    assert hash_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_facts_survive_a_round_trip(tmp_path: Path):
    (tmp_path / "x").mkdir()
    paths = [tmp_path / "x" / "b.bin", tmp_path / "a.bin"]
    for path in paths:
        path.write_bytes(path.name.encode())
    listed = list_facts(tmp_path, paths)
    assert list(listed) == ["a.bin", "x/b.bin"]
    assert listed["a.bin"] == FileFacts(5, hashlib.sha256(b"a.bin").hexdigest())
    write_json(tmp_path / "manifest.json", listed)
    assert read_json(tmp_path / "manifest.json", dict[str, FileFacts]) == listed
    check_listed(tmp_path, listed)


@pytest.mark.parametrize("content", [b"", b"1234", b"12345x", b"1234x", None])
def test_the_error_names_a_file_that_changed(tmp_path: Path, content):
    path = tmp_path / "a.bin"
    path.write_bytes(b"12345")
    listed = list_facts(tmp_path, [path])
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ArtifactError, match=str(path)):
        check_listed(tmp_path, listed)


def test_only_sizes_are_compared_without_check_hash(tmp_path: Path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"12345")
    facts = read_facts(path)
    path.write_bytes(b"1234x")
    check_facts(path, facts, check_hash=False)
    path.write_bytes(b"1234")
    with pytest.raises(ArtifactError):
        check_facts(path, facts, check_hash=False)


@pytest.mark.parametrize("name", ["../a.bin", "/etc/hostname", "x/../../a.bin"])
def test_a_manifest_entry_outside_its_folder_is_refused(tmp_path: Path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.bin").write_bytes(b"12345")
    with pytest.raises(ArtifactError, match="folder"):
        check_listed(tmp_path / "folder", {name: read_facts(tmp_path / "a.bin")})
