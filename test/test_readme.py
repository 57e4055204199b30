"""The README's Python runs as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from text.models import roberta_tiny
from text.transforms import train_tokenizer

ROOT = Path(__file__).parents[1]


def test_python_blocks_run(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples/dpr/data/nq3_tiny/data/retriever/train.jsonl", tmp_path)
    folder = tmp_path / "roberta-base"  # of that form, not of that size
    roberta_tiny(vocab_size=300).save_pretrained(folder)
    train_tokenizer(["a few words"], 300).save(str(folder / "tokenizer.json"))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 3
    code = "\n".join([*blocks, "print(next(iter(batches)).ignore.shape)"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "which metal has the highest melting point -> " in done.stdout
    assert done.stdout.endswith("torch.Size([10, 20])\n")
