"""Types of the public API: a type checker accepts correct code and finds mistakes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from text.models import RobertaConfig
from text.models.roberta_config import RobertaOptions

ROOT = Path(__file__).parents[1]
RIGHT = """
from text.datasets import DPRDataPipe
from text.models import BiEncoder, RobertaEncoder
from text.models import roberta_base, roberta_large, roberta_mini, roberta_small, roberta_tiny
from text.records import BiEncoderBatch
from text.transforms import BiEncoderCollator

def train(pipe: DPRDataPipe, collate: BiEncoderCollator) -> list[BiEncoderBatch]:
    return [batch for batch in pipe.map(collate)]

def build_encoders() -> list[RobertaEncoder]:
    return [build(pooling="mean", vocab_size=300) for build in (roberta_tiny, roberta_small)]
"""
WRONG = {
    'roberta_small(poolin="mean")': "poolin",
    'roberta_tiny(poolin="mean")': "poolin",
    'roberta_mini(poolin="mean")': "poolin",
    'roberta_base(poolin="mean")': "poolin",
    'roberta_large(poolin="mean")': "poolin",
    'RobertaEncoder.from_pretrained("folder", normalise=True)': "normalise",
    'BiEncoder.from_pretrained("folder", normalise=True)': "normalise",
    'roberta_small(vocab_size="300")': "vocab_size",
    "def f(pipe: DPRDataPipe, collate: BiEncoderCollator) -> list[str]: return [*pipe.map(collate)]": "BiEncoderBatch",
}


def test_the_options_are_the_fields_of_the_configuration() -> None:
    assert get_type_hints(RobertaOptions) == get_type_hints(RobertaConfig)


@pytest.mark.slow
def test_a_type_checker_infers_batches_and_finds_misspelled_options(tmp_path: Path) -> None:
    program = shutil.which("pyright", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("pyright is not installed")
    script = tmp_path / "script.py"
    script.write_text(RIGHT + "\n".join(WRONG) + "\n", encoding="utf-8")
    command = [program, "--outputjson", "--pythonpath", sys.executable, str(script)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = json.loads(run.stdout)["generalDiagnostics"]
    found = {error["range"]["start"]["line"]: error["message"] for error in errors if error["severity"] == "error"}
    first = RIGHT.count("\n")
    assert sorted(found) == [first + row for row in range(len(WRONG))]
    assert all(part in found[first + row] for row, part in enumerate(WRONG.values()))
