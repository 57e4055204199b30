"""The README's Python runs as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from text.models import roberta_tiny
from text.transforms import save_tokenizer, train_tokenizer

ROOT = Path(__file__).parents[1]


def run_blocks(folder: Path, part: str, end: str) -> str:
    """What the Python of a part of the README prints, and then an end of ours."""
    shutil.copy(ROOT / "examples/dpr/data/nq3_tiny/data/retriever/train.jsonl", folder)
    roberta = folder / "roberta-base"  # of that form, not of that size
    roberta_tiny(vocab_size=300).save_pretrained(roberta)
    tokenizer = train_tokenizer(["a few words"], 300)
    tokenizer.save(str(roberta / "tokenizer.json"))
    tokenizer.model.save(str(roberta))
    blocks = re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = "\n".join([*blocks, end])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_commands(folder: Path, part: str) -> str:
    """What the commands of a part of the README print, on a small collection and a small model."""
    for name in ("examples", "text"):
        (folder / name).symlink_to(ROOT / name)
    model, data = folder / "all-MiniLM-L6-v2", folder / "squad_w100"
    data.mkdir()
    roberta_tiny(vocab_size=300, pooling="mean").save_pretrained(model)
    save_tokenizer(train_tokenizer(["who ate the oak", "a beetle did"], 300), model, max_length=64)
    (data / "passages.tsv").write_text(
        "id\ttext\ttitle\n1\ta beetle did\toaks\n2\tnobody ate\tashes\n3\tit grew\telms\n"
    )
    (data / "test.qa.csv").write_text("who ate the oak\t['beetle']\n")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    [commands] = re.findall(r"```bash\n(.*?)```", part, flags=re.DOTALL)
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


README = (ROOT / "README.md").read_text(encoding="utf-8")
MAIN, TORCHTEXT = README.split("## With torchtext")
RETRIEVAL = MAIN.partition("## From a model to answers")[2]


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    assert MAIN.count("```python") == 4
    assert "accuracy@1 " in run_commands(tmp_path, RETRIEVAL)
    printed = run_blocks(tmp_path, MAIN, "print(next(iter(batches)).passage_keys.shape)")
    assert "which metal has the highest melting point -> " in printed
    assert re.search(r"^[123] -?\d+\.\d+$", printed, flags=re.MULTILINE)
    assert printed.endswith("torch.Size([20, 2])\n")


@pytest.mark.skipif(find_spec("torchtext") is None, reason="torchtext is not installed")
def test_the_python_with_torchtext_runs(tmp_path: Path) -> None:
    assert TORCHTEXT.count("```python") == 1
    assert run_blocks(tmp_path, TORCHTEXT, "print(sum(w.numel() for w in weights.values()))") == "124054272\n"
