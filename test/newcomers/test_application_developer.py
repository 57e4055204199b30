"""A developer installs the wheel next to their own code, which may have a package called ``text``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from test.newcomers.conftest import run_program
from test.pages import ROOT, TINY

pytestmark = pytest.mark.slow
SOURCES = ("pyproject.toml", "LICENSE", "dpr_text.py", "text", "docs/package.md", "examples/dpr/data")

APPLICATION = """
from text.datasets import DPRDataPipe
from text.losses import in_batch_nll
from text.models import roberta_tiny
from text.transforms import BiEncoderCollator, Tokenize, encoder_settings, train_tokenizer

pipe = DPRDataPipe("train.jsonl", batch_size=5, train=True, num_hard_negatives=1)
tokenizer = train_tokenizer(pipe.texts(), vocab_size=300)
encoder = roberta_tiny(**encoder_settings(tokenizer), pooling="mean")
batch = next(iter(pipe.map(BiEncoderCollator(Tokenize(tokenizer, 32), Tokenize(tokenizer, 64)))))
questions = encoder(batch.questions.input_ids, batch.questions.attention_mask)
passages = encoder(batch.passages.input_ids, batch.passages.attention_mask)[batch.text_index]
loss = in_batch_nll(questions, passages, batch.positive_index)
print(len(pipe), 0 < float(loss.mean()) < 10)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with pip from a copy of the checkout, and return its path."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        target = folder / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        ignore = shutil.ignore_patterns("__pycache__", ".dpr-text")
        is_folder = (ROOT / name).is_dir()
        shutil.copytree(ROOT / name, target, ignore=ignore, symlinks=True) if is_folder else shutil.copy(
            ROOT / name, target
        )
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, f"--wheel-dir={folder}", str(folder / "checkout")], check=True)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in an environment that shares our dependencies, and return its folder of programs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", scheme="venv", vars=scheme))
    # The path comes after the own packages, and links of an editable install are not followed.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", f"--python={folder}/bin/python", "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    return folder / "bin"


def test_the_page_of_the_wheel_reads_well_without_the_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_string(archive.read(name).decode())
        expected = {"text/py.typed", "text/recipes/nq3_tiny/train.jsonl", "text/templates/style.css", "dpr_text.py"}
        assert expected <= set(archive.namelist())
    assert str(metadata.get_payload()).strip() == (ROOT / "docs/package.md").read_text(encoding="utf-8").strip()
    assert metadata["Keywords"]
    extras = set(metadata.get_all("Provides-Extra", []))
    assert {"train", "report", "cli", "all"} <= extras
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in base if re.match("pytorch-lightning|tensorboard|matplotlib|jinja2|fastapi", line)]


def test_an_application_imports_the_library(programs: Path, tmp_path: Path) -> None:
    shutil.copy(TINY / "train.jsonl", tmp_path)
    (tmp_path / "application.py").write_text(APPLICATION, encoding="utf-8")
    python = str(programs / "python")
    assert run_program([python, "-W", "ignore", "application.py"], tmp_path).split("\n")[0] == "2 True"
    where = run_program([python, "-c", "import text; print(text.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(programs.parent)
    assert re.fullmatch(r"dpr-text \d+\.\d+\.\d+\n", run_program([str(programs / "dpr-text"), "--version"], tmp_path))


def test_a_project_with_its_own_package_called_text_can_use_the_command(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/__init__.py").write_text("raise RuntimeError('the package of the project')\n", encoding="utf-8")
    shutil.copy(TINY / "train.jsonl", tmp_path)
    for environment in ({}, {"PYTHONPATH": "."}, {"PYTHONPATH": os.fspath(tmp_path)}):
        command = [str(programs / "dpr-text"), "select", "--raw_path=train.jsonl", "--out_path=selected.jsonl"]
        run_program([*command, "--num_items=2", "--overwrite"], tmp_path, environment=environment)
        rows = (tmp_path / "selected.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(rows) == 2 and "question" in json.loads(rows[0])
