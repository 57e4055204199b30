"""The two import rules of the library: imports run downwards, and a heavy dependency has one door."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LEVELS = {
    "records": 0,
    "errors": 0,
    "artifacts": 0,
    "datasets": 1,
    "transforms": 1,
    "models": 1,
    "losses": 1,
    "evaluation": 1,
    "training": 2,
    "retrieval": 2,
}
DOORS = {
    "torchdata": "datasets",
    "orjson": "datasets",
    "simdjson": "datasets",
    "zstandard": "datasets",
    "tokenizers": "transforms",
    "tiktoken": "transforms",
    "torchtext": "transforms",
    "safetensors": "models",
    "regex": "evaluation",
    "pytorch_lightning": "training",
    "faiss": "retrieval",
    "bm25s": "retrieval",
    "pymilvus": "retrieval",
}


def imported(file: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(root: Path) -> list[str]:
    found = []
    for file in sorted((root / "text").rglob("*.py")):
        name = file.relative_to(root)
        part = name.parts[1].removesuffix(".py")
        for target in imported(file):
            package, _, rest = target.partition(".")
            if package == "examples":
                found.append(f"{name} imports {target}: the library does not know its examples")
            if package == "text":
                other = rest.partition(".")[0]
                if part != other and not LEVELS[other] < LEVELS.get(part, 0):
                    found.append(f"{name} imports {target}: not downwards")
            if DOORS.get(package, part) != part:
                found.append(f"{name} imports {target}: its door is text/{DOORS[package]}")
    return found


def test_rules_hold() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("text/losses.py", "from text.training import BiEncoderTask", "not downwards"),
        ("text/models/roberta.py", "from text.transforms.tokenize import Tokenize", "not downwards"),
        ("text/records.py", "import text.losses", "not downwards"),
        ("text/__init__.py", "from text.datasets import DPRDataPipe", "not downwards"),
        ("text/datasets/dpr.py", "from examples.dpr.main import train", "does not know its examples"),
        ("text/datasets/dpr.py", "def f():\n    import pytorch_lightning as pl", "its door is text/training"),
        ("text/training/task.py", "import safetensors.torch", "its door is text/models"),
    ],
)
def test_an_injected_violation_is_found(tmp_path: Path, file: str, line: str, message: str) -> None:
    shutil.copytree(ROOT / "text", tmp_path / "text")
    with open(tmp_path / file, "a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    [found] = violations(tmp_path)
    assert found.startswith(file)
    assert message in found


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import text, text.records, text.errors, text.artifacts", ["torch"]),
        ("from text.datasets import DPRDataPipe", ["pytorch_lightning", "faiss", "tokenizers", "safetensors"]),
        ("from text.models import RobertaEncoder", ["pytorch_lightning", "faiss", "torchdata", "tokenizers"]),
        ("from text.transforms import Tokenize", ["pytorch_lightning", "faiss", "torchdata", "safetensors"]),
    ],
)
def test_an_import_takes_no_more_than_it_needs(statement: str, absent: list[str]) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {absent} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
