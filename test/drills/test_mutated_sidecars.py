"""Damaged sidecars give the result of new sidecars or are reported as damaged data."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from test.drills.mutations import make_generators, mutate_bytes, mutate_json
from test.helpers import ByteTokenizer, records, write_jsonl
from text.commands.cli import get_exit_code
from text.datasets import DPRDataPipe, PassageCollection
from text.errors import DataError

pytestmark = pytest.mark.slow


def read_epoch(path: Path) -> list[Any]:
    """Return the batches of a file with their tokens, and the findings of the check."""
    pipe = DPRDataPipe(path, 2, train=True, num_other_negatives=1, max_skipped=0.9)
    texts = [(example.question, example.positives, example.hard_negatives) for batch in pipe for example in batch]
    pipe.cache_tokens(ByteTokenizer())
    tokens = [
        [np.asarray(text).tolist() for text in (example.question, *(each.text for each in example.positives))]
        for batch in pipe
        for example in batch
    ]
    return [texts, tokens, pipe.counts, [row.line for row in pipe.skipped], pipe.fingerprint]


def read_passages(path: Path) -> list[Any]:
    collection = PassageCollection(path)
    return [list(collection), collection.find("p3"), collection.sha256, collection.counts]


def make_rows(folder: Path) -> Path:
    path = folder / "rows.jsonl.gz"
    plain = write_jsonl(folder / "plain.jsonl", [*records(5), {"question": "none"}])
    path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    plain.unlink()
    return path


def make_collection(folder: Path) -> Path:
    return write_jsonl(folder / "c.jsonl", [{"_id": f"p{7 * n % 11}", "text": f"oak {n}"} for n in range(11)])


@pytest.fixture(autouse=True)
def index_small_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in ("formats.jsonl", "dpr_file", "collection"):
        monkeypatch.setattr(f"text.datasets.{module}.INDEXED_BYTES", 0)


def list_sidecars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob(".dpr-text/*") if path.is_file())


def damage_bytes(path: Path, random: Random) -> None:
    """Change the bytes of a file, sometimes keeping its size or modification time."""
    status = path.stat()
    changed = mutate_bytes(path.read_bytes(), random)
    if random.random() < 0.5:
        changed = changed[: status.st_size].ljust(status.st_size, b"\0")
    path.write_bytes(changed)
    if random.random() < 0.5:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def damage_names(path: Path, random: Random) -> None:
    """Remove a file, or replace it by another file, a link or a folder."""
    others = [each for each in path.parent.iterdir() if each.is_file()]
    content = random.choice(others).read_bytes()
    path.unlink()
    kind = random.randrange(4)
    if kind == 0:
        path.write_bytes(content)
    elif kind == 1:
        path.symlink_to(random.choice(["/dev/zero", "/etc/passwd", "nothing"]))
    elif kind == 2:
        path.mkdir()


def damage_note(path: Path, random: Random) -> None:
    if path.name.endswith(".facts.json"):
        path.write_text(json.dumps(mutate_json(json.loads(path.read_bytes()), random)))
    else:
        damage_bytes(path, random)


@pytest.mark.parametrize(("make", "read"), [(make_rows, read_epoch), (make_collection, read_passages)])
@pytest.mark.parametrize("damage", [damage_bytes, damage_names, damage_note])
def test_damaged_sidecars_give_the_undisturbed_result(
    tmp_path: Path, make: Callable[[Path], Path], read: Callable[[Path], Any], damage: Callable[[Path, Random], None]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = make(folder)
    expected = read(path)
    shutil.copytree(folder, tmp_path / "whole")
    for random in make_generators(1, 170):
        damage(random.choice(list_sidecars(folder)), random)
        assert read(path) == expected
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "whole", folder)


@pytest.mark.parametrize(("make", "read"), [(make_rows, read_epoch), (make_collection, read_passages)])
def test_damage_with_a_valid_hash_gives_a_typed_error(
    tmp_path: Path, make: Callable[[Path], Path], read: Callable[[Path], Any]
) -> None:
    """Damage with a valid hash gives only data errors. Who can write such a hash could change the data as well."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = make(folder)
    read(path)
    shutil.copytree(folder, tmp_path / "whole")
    for random in make_generators(2, 250):
        target = random.choice([each for each in list_sidecars(folder) if not each.name.endswith(".facts.json")])
        damage_bytes(target, random)
        note = Path(f"{target}.facts.json")
        facts = {"bytes": target.stat().st_size, "sha256": hashlib.sha256(target.read_bytes()).hexdigest()}
        note.write_text(json.dumps({"name": target.name, "facts": facts}))
        try:
            read(path)
        except (DataError, KeyError) as error:  # A KeyError means that the requested id does not exist.
            assert isinstance(error, KeyError) or get_exit_code(error) == 3
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "whole", folder)
