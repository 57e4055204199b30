"""Model card: data, results and settings. Every value stays inside its table cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from test.helpers import records, write_jsonl
from text.commands.cli import get_flag_fields
from text.commands.train_flags import TrainFlags
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
    "valid_file": "/home/secret/valid.jsonl",
    "test_file": "/home/secret/test.jsonl",
    "encoder": "/home/secret/models/minilm",
    "tokenizer": "/home/secret/tokenizer.json",
}


def write_card(folder: Path, *, is_tied: bool = False, file_name: str = "train.jsonl", **settings: Any) -> list[str]:
    """Write a model card and return its lines."""
    write_jsonl(folder / file_name, records(3))
    write_jsonl(folder / "test.jsonl", records(2))
    pipes = {"train": DPRDataPipe(str(folder / file_name), 2), "test": DPRDataPipe(str(folder / "test.jsonl"), 2)}
    path = folder / "model" / "README.md"
    test_metrics = {"test_mrr@10": 0.625}
    write_model_card(path, settings={**SETTINGS, **settings}, pipes=pipes, test_metrics=test_metrics, is_tied=is_tied)
    return path.read_text(encoding="utf-8").splitlines()


def test_a_card_has_data_results_and_settings(tmp_path: Path) -> None:
    lines = write_card(tmp_path)
    assert lines[0] == "---" and lines.index("---", 1) < 6  # front matter
    for line in (
        "| train | train.jsonl | 3 |",
        "| mrr@10 | 0.6250 |",
        "| question_max_length | 64 |",
        "| max_epochs | 10 |",
        "| encoder | minilm |",
        "| tokenizer | tokenizer.json |",
    ):
        assert line in lines
    assert not any("secret" in line or "dropout" in line or "resume" in line for line in lines)


TEXTS = {"score_key", "question_prompt", "passage_prompt", "lora_targets"}
"""Flags with a string that is not a path."""


def test_a_card_shows_no_path_of_a_flag(tmp_path: Path) -> None:
    free = {name: field.type for name, field in get_flag_fields(TrainFlags).items() if "str" in str(field.type)}
    assert {"encoder", "tokenizer", "train_files", "test_file", "output_dir", "resume"} <= free.keys()
    for name in free.keys() - TEXTS:
        value: Any = ["/home/secret/file"] if "list" in str(free[name]) else "/home/secret/file"
        assert not any("secret" in line for line in write_card(tmp_path, **{name: value})), name


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"is_tied": False, "titles": "pair"}, ["passage_encoder", '[("its title", "its text")]', "dot product"]),
        ({"is_tied": True, "titles": "join"}, ["question_encoder", '["its title its text"]', "dot product"]),
        ({"similarity": "cosine"}, ["passage_encoder", "cosine similarity"]),
    ],
)
def test_a_card_shows_how_to_use_this_model(tmp_path: Path, settings: dict[str, Any], expected: list[str]) -> None:
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
    assert "a &#124; b" in line and "&#60;script&#62;" in line and "# e" in line
    assert "| train | a&#124;&#60;b&#62;.jsonl | 3 |" in hostile


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("[a](javascript:b)", "&#91;a&#93;(javascript:b)"),
        ("![a](https://x)", "!&#91;a&#93;(https&#58;//x)"),
        ("www.evil.example a@b.example", "www&#46;evil.example a&#64;b.example"),
        ("`a` *b* _c_ d_e", "&#96;a&#96; &#42;b&#42; &#95;c&#95; d_e"),
        ("\\| &lt; ~~a~~", "&#92;&#124; &#38;lt; &#126;&#126;a&#126;&#126;"),
        ("\x1b[2J", "&#92;x1b&#91;2J"),
    ],
)
def test_markup_in_a_value_is_plain_text(tmp_path: Path, value: str, shown: str) -> None:
    assert f"| question_prompt | {shown} |" in write_card(tmp_path, question_prompt=value)
