"""Finding the files of the splits: in a folder of three files, in a download of FAIR's, or by flags."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from text.datasets import STAGES, describe_files, find_in_folder, find_splits
from text.errors import UsageError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst"])
def test_split_is_found_under_each_ending(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, *(f"{stage}{ending}" for stage in STAGES))
    assert find_in_folder(tmp_path) == {stage: str(tmp_path / f"{stage}{ending}") for stage in STAGES}
    os.rename(tmp_path / f"valid{ending}", tmp_path / f"dev{ending}")
    assert find_in_folder(tmp_path)["valid"] == str(tmp_path / f"dev{ending}")


def test_plain_jsonl_comes_first(tmp_path: Path) -> None:
    for name in ("train.json.zst", "train.json", "train.jsonl.gz", "train.jsonl"):
        assert find_in_folder(touch(tmp_path, name)) == {"train": str(tmp_path / name)}


def test_valid_and_dev_in_one_folder_are_refused_unless_they_are_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", "valid.jsonl", "dev.json.gz")
    with pytest.raises(UsageError) as error:
        find_splits(str(tmp_path))
    assert all(name in str(error.value) for name in ("valid.jsonl", "dev.json.gz", "--valid_file"))
    assert find_splits(str(tmp_path), valid_file="mine.jsonl")["valid"] == ["mine.jsonl"]
    (tmp_path / "dev.json.gz").unlink()
    (tmp_path / "dev.jsonl").symlink_to("valid.jsonl")
    assert find_splits(str(tmp_path))["valid"] == [str(tmp_path / "valid.jsonl")]


def test_flags_come_before_the_folder_and_nothing_else_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", "valid.jsonl", "test.jsonl")
    assert find_splits(None, train_files=["a", "b"]) == {"train": ["a", "b"]}
    assert find_splits(None, train_files=["a"], test_file="c") == {"train": ["a"], "test": ["c"]}
    found = find_splits(str(tmp_path), train_files=["a"], valid_file="b")
    assert found == {"train": ["a"], "valid": ["b"], "test": [str(tmp_path / "test.jsonl")]}


def test_link_to_nothing_is_the_file_so_that_reading_it_fails(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl")
    (tmp_path / "valid.jsonl").symlink_to("nothing")
    assert find_splits(str(tmp_path))["valid"] == [str(tmp_path / "valid.jsonl")]


@pytest.mark.parametrize("place", ["", "data/retriever", "downloads/data/retriever"])
def test_download_of_fairs_script(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    touch(folder, "nq-train.json", "nq-dev.json", "LICENSE", "README", "qas/nq-test.csv", "qas/nq-dev.csv")
    expected = {"train": [f"{folder}/nq-train.json"], "valid": [f"{folder}/nq-dev.json"]}
    assert find_splits(str(tmp_path)) == expected
    for given in (folder, f"{folder}/"):
        assert find_splits(str(given)) == expected
    assert find_splits(str(tmp_path), train_files=["a"]) == {**expected, "train": ["a"]}


def test_files_by_the_names_of_their_addresses(tmp_path: Path) -> None:
    touch(tmp_path, "biencoder-webquestions-train.json.gz", "biencoder-webquestions-dev.json.gz")
    assert find_splits(str(tmp_path)) == {
        "train": [str(tmp_path / "biencoder-webquestions-train.json.gz")],
        "valid": [str(tmp_path / "biencoder-webquestions-dev.json.gz")],
    }


def test_several_data_sets_in_a_folder_are_refused_with_the_flags_of_each(tmp_path: Path) -> None:
    touch(tmp_path, "nq-train.json", "nq-dev.json", "nq-adv-hn-train.json", "trivia-train.json", "trivia-dev.json")
    with pytest.raises(UsageError) as error:
        find_splits(str(tmp_path))
    for flags in (
        f"--train_files={tmp_path}/nq-train.json --valid_file={tmp_path}/nq-dev.json",
        f"--train_files={tmp_path}/nq-adv-hn-train.json",
        f"--train_files={tmp_path}/trivia-train.json --valid_file={tmp_path}/trivia-dev.json",
    ):
        assert flags in str(error.value)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ([], ["train.jsonl"]),
        (["trian.jsonl", "valid.jsonl"], ["trian.jsonl"]),
        (["rows.jsonl.gz"], ["rows.jsonl.gz"]),
    ],
)
def test_folder_without_training_data_says_what_was_looked_for_and_what_is_there(
    tmp_path: Path, names: list[str], parts: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        find_splits(str(touch(tmp_path, *names)))
    assert all(part in str(error.value) for part in (str(tmp_path), "--train_files", *parts))


def test_no_data_no_folder_and_a_file_as_folder_are_refused(tmp_path: Path) -> None:
    for path, part in ((None, "--data_path"), (tmp_path / "none", "none"), (tmp_path / "a.jsonl", "--train_files")):
        touch(tmp_path, "a.jsonl")
        with pytest.raises(UsageError, match=part):
            find_splits(None if path is None else str(path))


def test_every_file_is_told_and_a_misspelled_one_too(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", "vaild.jsonl")
    lines = describe_files(find_splits(str(tmp_path)), data_path=str(tmp_path))
    assert lines[0] == f"train data: {tmp_path}/train.jsonl"
    assert all(part in lines[1] for part in ("valid.jsonl", "dev.jsonl", "vaild.jsonl", "--valid_share"))
    assert "test.jsonl" in lines[2] and "vaild.jsonl" in lines[2]
    files = {"train": ["a", "b"], "valid": ["c"], "test": ["d"]}
    assert describe_files(files) == ["train data: a, b", "valid data: c", "test data: d"]
    assert "0.05" in describe_files({"train": ["a"]}, valid_share=0.05)[1]
