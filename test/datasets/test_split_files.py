"""Tests of finding the files of the splits: in a folder, in FAIR's download, or by flags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("prefix", ["", "nq-"])
def test_plain_file_is_preferred_to_compressed_copies(tmp_path: Path, prefix: str) -> None:
    for name in (f"{prefix}train.json{compression}" for compression in (".zst", ".gz", "")):
        assert find_in_folder(touch(tmp_path, name)) == {"train": str(tmp_path / name)}


@pytest.mark.parametrize("prefix", ["", "nq-"])
@pytest.mark.parametrize("stage", ["train", "test"])
def test_two_files_of_a_split_are_refused_unless_one_links_to_the_other(
    tmp_path: Path, prefix: str, stage: str
) -> None:
    names = [f"{prefix}{stage}.jsonl", f"{prefix}{stage}.json.gz"]
    touch(tmp_path, f"{prefix}train.jsonl", *names)
    flag = {"train": "--train_files", "test": "--test_file"}[stage]
    with pytest.raises(UsageError) as error:
        find_splits(str(tmp_path))
    assert all(part in str(error.value) for part in (*names, flag))
    assert find_in_folder(tmp_path, {"train", "valid", "test"} - {stage}) == (
        {} if stage == "train" else {"train": str(tmp_path / f"{prefix}train.jsonl")}
    )
    (tmp_path / names[1]).unlink()
    (tmp_path / names[1]).symlink_to(names[0])
    assert find_in_folder(tmp_path)[stage] == str(tmp_path / names[0])


def test_valid_and_dev_are_refused_unless_one_links_to_the_other(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", "valid.jsonl", "dev.json.gz")
    with pytest.raises(UsageError) as error:
        find_splits(str(tmp_path))
    assert all(name in str(error.value) for name in ("valid.jsonl", "dev.json.gz", "--valid_file"))
    assert find_splits(str(tmp_path), valid_file="mine.jsonl")["valid"] == ["mine.jsonl"]
    (tmp_path / "dev.json.gz").unlink()
    (tmp_path / "dev.jsonl").symlink_to("valid.jsonl")
    assert find_splits(str(tmp_path))["valid"] == [str(tmp_path / "valid.jsonl")]


def test_flags_take_precedence_over_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", "valid.jsonl", "test.jsonl")
    assert find_splits(None, train_files=["a", "b"]) == {"train": ["a", "b"]}
    assert find_splits(None, train_files=["a"], test_file="c") == {"train": ["a"], "test": ["c"]}
    found = find_splits(str(tmp_path), train_files=["a"], valid_file="b")
    assert found == {"train": ["a"], "valid": ["b"], "test": [str(tmp_path / "test.jsonl")]}


def test_broken_link_is_found_so_that_reading_it_fails(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl")
    (tmp_path / "valid.jsonl").symlink_to("nothing")
    assert find_splits(str(tmp_path))["valid"] == [str(tmp_path / "valid.jsonl")]


@pytest.mark.parametrize("place", ["", "data/retriever", "downloads/data/retriever"])
def test_files_of_fairs_download_script_are_found(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    touch(folder, "nq-train.json", "nq-dev.json", "LICENSE", "README", "qas/nq-test.csv", "qas/nq-dev.csv")
    expected = {"train": [f"{folder}/nq-train.json"], "valid": [f"{folder}/nq-dev.json"]}
    assert find_splits(str(tmp_path)) == expected
    for given in (folder, f"{folder}/"):
        assert find_splits(str(given)) == expected
    assert find_splits(str(tmp_path), train_files=["a"]) == {**expected, "train": ["a"]}


def test_files_named_as_in_their_urls_are_found(tmp_path: Path) -> None:
    touch(tmp_path, "biencoder-webquestions-train.json.gz", "biencoder-webquestions-dev.json.gz")
    assert find_splits(str(tmp_path)) == {
        "train": [str(tmp_path / "biencoder-webquestions-train.json.gz")],
        "valid": [str(tmp_path / "biencoder-webquestions-dev.json.gz")],
    }


def test_error_for_several_data_sets_gives_the_flags_of_each(tmp_path: Path) -> None:
    touch(tmp_path, "nq-train.json", "nq-dev.json", "nq-adv-hn-train.json", "trivia-train.json", "trivia-dev.json")
    with pytest.raises(UsageError) as error:
        find_splits(str(tmp_path))
    for flags in (
        f"--train_files={tmp_path}/nq-train.json --valid_file={tmp_path}/nq-dev.json",
        f"--train_files={tmp_path}/nq-adv-hn-train.json",
        f"--train_files={tmp_path}/trivia-train.json --valid_file={tmp_path}/trivia-dev.json",
    ):
        assert flags in str(error.value)


@pytest.mark.parametrize("flags", [{"train_files": ["nq-train.json"]}, {"valid_file": "trivia-dev.json"}], ids=str)
def test_flag_for_one_split_does_not_mix_data_sets(
    tmp_path: Path, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(touch(tmp_path, "nq-train.json", "trivia-dev.json"))
    with pytest.raises(UsageError, match="nq, trivia"):
        find_splits(".", **flags)
    both = {"train_files": ["nq-train.json"], "valid_file": "trivia-dev.json"}
    assert find_splits(".", **both) == {"train": ["nq-train.json"], "valid": ["trivia-dev.json"]}


def test_flag_for_one_split_does_not_add_files_of_a_named_data_set(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", "nq-dev.json")
    expected = {"train": [str(tmp_path / "train.jsonl")]}
    assert find_splits(str(tmp_path)) == find_splits(str(tmp_path), train_files=expected["train"]) == expected
    line = describe_files(expected, data_path=str(tmp_path))[1]
    assert "nq-dev.json" in line and "NAME" not in line


@pytest.mark.parametrize("name", ["dev.jsonl", "test.jsonl"])
def test_error_for_named_and_plain_files_gives_the_flags(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "nq-train.json", name)
    flag = f"--{'valid' if name == 'dev.jsonl' else 'test'}_file={tmp_path / name}"
    with pytest.raises(UsageError) as error:
        find_splits(str(tmp_path))
    assert all(part in str(error.value) for part in (f"--train_files={tmp_path}/nq-train.json", flag))
    files = find_splits(str(tmp_path), train_files=["a"])
    assert list(files) == ["train", "valid" if name == "dev.jsonl" else "test"]


def test_splits_of_one_data_set_can_be_in_two_folders(tmp_path: Path) -> None:
    touch(tmp_path, "nq-train.json", "data/retriever/nq-dev.json")
    train, valid = f"{tmp_path}/nq-train.json", f"{tmp_path}/data/retriever/nq-dev.json"
    assert find_splits(str(tmp_path)) == {"train": [train], "valid": [valid]}
    touch(tmp_path, "downloads/data/retriever/nq-train.json")
    with pytest.raises(UsageError) as error:
        find_splits(str(tmp_path))
    assert all(part in str(error.value) for part in (train, "downloads", "--train_files"))


def test_training_file_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    path = str(touch(tmp_path, "a.jsonl") / "a.jsonl")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    for other in (path, str(tmp_path / "link.jsonl")):
        with pytest.raises(UsageError) as error:
            find_splits(None, train_files=[path, "b.jsonl", other])
        assert other in str(error.value) and "--train_rates" in str(error.value)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ([], ["train.jsonl"]),
        (["trian.jsonl", "valid.jsonl"], ["trian.jsonl"]),
        (["rows.jsonl.gz"], ["rows.jsonl.gz", "NAME-train.jsonl", "data/retriever"]),
    ],
)
def test_error_without_training_data_lists_expected_and_other_names(
    tmp_path: Path, names: list[str], parts: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        find_splits(str(touch(tmp_path, *names)))
    assert all(part in str(error.value) for part in (str(tmp_path), "--train_files", *parts))


def test_missing_data_missing_folder_and_file_as_folder_are_refused(tmp_path: Path) -> None:
    for path, part in ((None, "--data_path"), (tmp_path / "none", "none"), (tmp_path / "a.jsonl", "--train_files")):
        touch(tmp_path, "a.jsonl")
        with pytest.raises(UsageError, match=part):
            find_splits(None if path is None else str(path))


def test_description_lists_every_file_and_misspelled_names(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", "vaild.jsonl")
    lines = describe_files(find_splits(str(tmp_path)), data_path=str(tmp_path))
    assert lines[0] == f"train data: {tmp_path}/train.jsonl"
    assert all(part in lines[1] for part in ("valid.jsonl", "dev.jsonl", "vaild.jsonl", "--valid_share"))
    assert "test.jsonl" in lines[2] and "vaild.jsonl" in lines[2]
    (tmp_path / "train.jsonl").unlink()
    touch(tmp_path, "biencoder-nq-train.json.gz", "biencoder-nq-dev.json.gz", "mine.jsonl")
    for folder in (str(tmp_path), f"{tmp_path}/"):
        files = find_splits(folder, test_file=str(tmp_path / "mine.jsonl"))
        assert not any("vaild" in line for line in describe_files(files, data_path=folder))
        line = describe_files(find_splits(folder), data_path=folder)[-1]
        assert all(name in line for name in ("vaild.jsonl", "mine.jsonl", "NAME-test")) and "biencoder" not in line
    files = {"train": ["a", "b"], "valid": ["c"], "test": ["d"]}
    assert describe_files(files) == ["train data: a, b", "valid data: c", "test data: d"]
    assert "0.05" in describe_files({"train": ["a"]}, valid_share=0.05)[1]
