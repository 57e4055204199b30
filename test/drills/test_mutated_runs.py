"""Damaged files of training runs and loops are refused by report, resume and loop, or have no effect.

A manifest or ledger lists files with their hashes, so any change of a listed file must be refused. A file of a run
that is still training is not listed yet. It must be read, or be refused with a typed error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from test.drills.mutations import make_generators, mutate_bytes, mutate_json
from test.reports.helpers import add_files_to_manifest, build_figures, write_sample_run
from text.artifacts import parse_yaml
from text.bundle import BiEncoderBundle
from text.commands.cli import get_exit_code
from text.models import BiEncoder, roberta_tiny
from text.reports.run_report import render_run_report
from text.runs.contents import EVALUATION, write_ledger
from text.runs.folder import RunFolder, find_earlier_run
from text.runs.history import read_runs
from text.runs.manifest import write_manifest
from text.runs.resume import check_resumed
from text.runs.stages import Stage, is_complete, run_stage, write_done
from text.runs.tracked import TrackedFile
from text.transforms import train_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),  # matplotlib warns about a value of 1e308
]

NAMES = [
    *("config.yaml", "manifest.json", "run.json", "metrics.csv", "speed.csv", "lengths.json"),
    *("worst_questions.jsonl", EVALUATION),
]
LISTED = {"config.yaml", "metrics.csv", "speed.csv", "lengths.json", "worst_questions.jsonl", "run.json"}


def write_run(folder: Path) -> Path:
    write_sample_run(folder)
    row = {"mean": 0.5, "low": 0.4, "high": 0.6, "other": 0.3, "p": 0.25}
    write_ledger(folder, {})
    (folder / "evaluation").mkdir()
    content = build_figures({"recall@1": row, "recall@10": row, "map": row}, runs=["run.trec", "other.trec"])
    (folder / EVALUATION).write_text(json.dumps(content))
    add_files_to_manifest(folder)
    return folder


def mutate(path: Path, random: Random) -> bytes:
    """Return the content of a file with changed bytes or a changed value."""
    content = path.read_bytes()
    if path.suffix == ".json" and random.random() < 0.6:
        return json.dumps(mutate_json(json.loads(content), random)).encode()
    if path.suffix == ".jsonl" and random.random() < 0.6:
        return json.dumps(mutate_json(json.loads(content.splitlines()[0]), random)).encode() + b"\n"
    if path.suffix == ".yaml" and random.random() < 0.6:
        return json.dumps(mutate_json(parse_yaml(content, path), random)).encode()
    if path.suffix == ".csv" and random.random() < 0.6:
        cells = re.split(rb"([,\n])", content)
        cells[random.randrange(len(cells))] = random.choice(
            [b"", b"x", b"nan", b"-inf", b"1e308", b"-5", b"1e400", b","]
        )
        return b"".join(cells)
    return mutate_bytes(content, random)


def attempt(work: Callable[[], Any], codes: Sequence[int], path: Path) -> Any:
    """Return the result of a call, or None if it raises an error with one of these exit codes."""
    try:
        return work()
    except Exception as error:
        assert get_exit_code(error) in codes, f"{type(error).__name__}: {error}"
        assert str(path.parent) in str(error) and "\n" not in str(error), str(error)
        return None


def test_report_refuses_damaged_files_or_stays_the_same(tmp_path: Path) -> None:
    """In a finished run, any change of a listed file is refused, or the report stays the same."""
    folder = write_run(tmp_path / "run")
    before, seen = render_run_report(read_runs([folder])), {"refused": 0, "read": 0}
    for number, random in enumerate(make_generators(251, 300)):
        path = folder / random.choice(NAMES)
        content = path.read_bytes()
        path.write_bytes(mutate(path, random))
        page = attempt(lambda: render_run_report(read_runs([folder])), [5], path)
        if page is not None and path.name in LISTED - {"run.json"}:
            assert page == before, (number, path.name)
        seen["refused" if page is None else "read"] += 1
        path.write_bytes(content)
    assert render_run_report(read_runs([folder])) == before and seen["refused"] > 150


def test_a_report_on_damaged_files_of_a_run_that_still_trains(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "manifest.json").unlink()
    for random in make_generators(252, 300):
        path = folder / random.choice([name for name in NAMES if name != "manifest.json"])
        content = path.read_bytes()
        path.write_bytes(mutate(path, random))
        attempt(lambda: render_run_report(read_runs([folder])), [5], path)
        path.write_bytes(content)


@pytest.fixture
def resumable(tmp_path: Path) -> tuple[Path, Callable[[], None]]:
    """Return the folder of a run and a check of its settings and tokenizer. Checkpoints have their own drill."""
    tokenizer, folder = train_tokenizer(["a b c"], 300), tmp_path / "run"
    encoder = roberta_tiny(vocab_size=300)
    bundle = BiEncoderBundle(
        model=BiEncoder(encoder, encoder), tokenizer=tokenizer, question_max_length=8, passage_max_length=8
    )
    settings = {"encoder": "tiny", "max_epochs": 3, "learning_rate": 1e-3, "tied": False, "train_rates": None}
    with RunFolder.open(str(folder)) as run:
        run.start(settings, bundle)
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    return folder, lambda: check_resumed(checkpoint, settings, tokenizer)


@pytest.mark.parametrize("is_finished", [True, False])
def test_resume_refuses_changed_settings_and_tokenizers(
    resumable: tuple[Path, Callable[[], None]], is_finished: bool
) -> None:
    """Every real change is refused, because the settings and the tokenizer have hashes."""
    folder, check = resumable
    names = ["config.yaml", "tokenizer.json", "run.json"]
    if is_finished:
        write_manifest(folder, {}, {})
        names.append("manifest.json")
    check()
    for random in make_generators(253 + is_finished, 250):
        path = folder / random.choice(names)
        content = path.read_bytes()
        path.write_bytes(mutate(path, random))
        refused = attempt(lambda: [check()], [5], path) is None
        assert refused or path.name in ("run.json", "manifest.json"), path.name
        attempt(lambda: find_earlier_run(folder), [2], path)
        path.write_bytes(content)
    check()


def test_loop_refuses_damaged_stages(tmp_path: Path) -> None:
    """A stage with a damaged done.json or result is refused. It is neither run again nor accepted."""
    folder = tmp_path / "mine-0123456789abcdef"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps({"question": f"q{n}"}) + "\n" for n in range(10)))
    stage = Stage("mine", [], folder, TrackedFile(folder / "rows.jsonl", "x"), {})
    result = write_done(stage, ["dpr-text", "mine"], 1.5)
    assert run_stage(stage, "mine") == result
    for number, random in enumerate(make_generators(255, 300)):
        path = folder / random.choice(["done.json", "rows.jsonl"])
        content = path.read_bytes()
        path.write_bytes(mutate(path, random))
        found = attempt(lambda: run_stage(stage, "mine"), [5], path)
        assert found is None or (_is_same_document(content, path) and found.key == result.key), number
        attempt(lambda: is_complete(stage), [5], path)
        path.write_bytes(content)


def _is_same_document(content: bytes, path: Path) -> bool:
    try:
        return path.name == "done.json" and json.loads(path.read_bytes()) == json.loads(content)
    except ValueError:
        return False
