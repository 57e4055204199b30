"""Finding the file of a split."""

from __future__ import annotations

from pathlib import Path

import pytest

from text.datasets import STAGES, find_split


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst"])
def test_split_is_found_under_each_ending(tmp_path: Path, ending: str) -> None:
    for stage in STAGES:
        (tmp_path / f"{stage}{ending}").touch()
        assert find_split(tmp_path, stage) == str(tmp_path / f"{stage}{ending}")


def test_plain_jsonl_comes_first_and_stands_for_a_missing_split(tmp_path: Path) -> None:
    assert find_split(tmp_path, "train") == str(tmp_path / "train.jsonl")
    (tmp_path / "train.json").touch()
    assert find_split(tmp_path, "train") == str(tmp_path / "train.json")
    (tmp_path / "train.jsonl.gz").touch()
    assert find_split(tmp_path, "train") == str(tmp_path / "train.jsonl.gz")
    (tmp_path / "train.jsonl").touch()
    assert find_split(tmp_path, "train") == str(tmp_path / "train.jsonl")
