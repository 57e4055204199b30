"""The card of a saved model: data, results and settings, each in a cell of its own whatever it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from test.helpers import records, write_jsonl
from text.datasets import DPRDataPipe
from text.runs.model_card import write_model_card

SETTINGS: dict[str, Any] = {
    "similarity": "dot",
    "titles": "pair",
    "question_max_length": 64,
    "passage_max_length": 256,
    "max_epochs": 10,
    "resume": None,
    "dropout": None,
    "collection": "secret/passages.tsv",
    "output_dir": "secret/run",
    "train_files": ["secret/train.jsonl"],
}


def write_card(folder: Path, *, is_tied: bool = False, file_name: str = "train.jsonl", **settings: Any) -> list[str]:
    """Return the lines of a card."""
    write_jsonl(folder / file_name, records(3))
    pipes = {"train": DPRDataPipe(str(folder / file_name), 2)}
    path = folder / "model" / "README.md"
    test_metrics = {"test_mrr@10": 0.625}
    write_model_card(path, settings={**SETTINGS, **settings}, pipes=pipes, test_metrics=test_metrics, is_tied=is_tied)
    return path.read_text(encoding="utf-8").splitlines()


def test_card_has_data_results_and_settings(tmp_path: Path) -> None:
    lines = write_card(tmp_path)
    assert lines[0] == "---" and lines.index("---", 1) < 6  # front matter
    for line in (
        "| train | train.jsonl | 3 |",
        "| mrr@10 | 0.6250 |",
        "| question_max_length | 64 |",
        "| max_epochs | 10 |",
    ):
        assert line in lines
    assert not any("secret" in line or "dropout" in line or "resume" in line for line in lines)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"is_tied": False, "titles": "pair"}, ["passage_encoder", '[("its title", "its text")]', "dot product"]),
        ({"is_tied": True, "titles": "join"}, ["question_encoder", '["its title its text"]', "dot product"]),
        ({"similarity": "cosine"}, ["passage_encoder", "cosine similarity"]),
    ],
)
def test_card_shows_the_use_of_this_model(tmp_path: Path, settings: dict[str, Any], expected: list[str]) -> None:
    page = "\n".join(write_card(tmp_path, **settings))
    for part in expected:
        assert part in page
    assert 'BiEncoderBundle.load("model")' in page
    assert ("passage_encoder" in page) == ("passage_encoder" in expected)


def test_hostile_values_stay_in_their_cell(tmp_path: Path) -> None:
    plain = write_card(tmp_path, question_prompt="x")
    hostile = write_card(
        tmp_path, question_prompt="a | b\n| c | d |\r\n<script>alert(1)</script>\u2028# e", file_name="a|<b>.jsonl"
    )
    assert len(hostile) == len(plain)
    [line] = [line for line in hostile if line.startswith("| question_prompt")]
    assert line.count("|") == 3
    assert "a &#124; b" in line and "&lt;script&gt;" in line and "# e" in line
    assert "| train | a&#124;&lt;b&gt;.jsonl | 3 |" in hostile
