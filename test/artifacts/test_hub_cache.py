"""Names of models, found in a cache of Hugging Face that is laid out by hand."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from text.artifacts.hub_cache import cache_folder, describe_missing_model, find_model, find_snapshot
from text.errors import SettingsWarning, UsageError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a working directory without any model."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "hub"


def put(cache: Path, name: str, commit: str, *files: str, main: bool = True) -> Path:
    """Put a snapshot of a model into a cache, as huggingface_hub does."""
    model = cache / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in files:
        (snapshot / file).touch()
    (model / "refs").mkdir(exist_ok=True)
    if main:
        (model / "refs" / "main").write_text(commit)
    return snapshot


@pytest.mark.parametrize("name", ["bert-base-uncased", "org/model-v1.5"])
def test_a_name_is_the_snapshot_that_was_downloaded_last(cache: Path, name: str) -> None:
    put(cache, name, "a1", "modules.json", main=False)
    newest = put(cache, name, "b2", "modules.json")
    assert find_model(name, "encoder") == str(newest)


def test_a_name_without_an_organization_is_also_one_of_sentence_transformers(cache: Path) -> None:
    theirs = put(cache, "sentence-transformers/all-MiniLM-L6-v2", "c3", "modules.json")
    assert find_model("all-MiniLM-L6-v2", "model") == str(theirs)
    own = put(cache, "all-MiniLM-L6-v2", "d4", "modules.json")
    assert find_model("all-MiniLM-L6-v2", "model") == str(own)


def test_a_path_that_exists_and_another_value_of_the_flag_go_before_the_cache(cache: Path) -> None:
    put(cache, "tiny", "a1")
    put(cache, "bert", "a1")
    Path("bert").mkdir()
    assert find_model("bert", "encoder") == "bert"
    assert find_model("tiny", "encoder", ("tiny", "base")) == "tiny"


@pytest.mark.parametrize("path", ["/models/bert", "./bert", "a/b/c", "dpr.cp", "tokenizer.json", ""])
def test_what_is_no_name_of_the_hub_is_left_to_the_command(cache: Path, path: str) -> None:
    assert find_model(path, "encoder") == path


def test_a_name_that_is_nowhere_is_refused_with_the_command_that_downloads_it(cache: Path) -> None:
    with pytest.raises(UsageError) as error:
        find_model("bert-base-uncased", "encoder", ("tiny",))
    message = str(error.value)
    theirs = "hf download sentence-transformers/bert-base-uncased --local-dir bert-base-uncased"
    ours = "hf download bert-base-uncased --local-dir bert-base-uncased"
    for part in ("--encoder", str(cache), "tiny", ours, theirs):
        assert part in message


@pytest.mark.parametrize("ref", [None, "", "../other", "missing"])
def test_a_cache_that_is_incomplete_has_no_snapshot(cache: Path, ref: str | None) -> None:
    put(cache, "bert", "a1", main=False)
    (cache / "models--bert" / "other").mkdir()
    if ref is not None:
        (cache / "models--bert" / "refs" / "main").write_text(ref)
    assert find_snapshot(cache, "bert") is None


def test_a_snapshot_that_transformers_alone_downloaded_is_told(cache: Path) -> None:
    snapshot = put(cache, "bge", "a1", "config.json")
    with pytest.warns(SettingsWarning, match=r"modules\.json.*hf download bge"):
        find_model("bge", "encoder")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_model("bge", "tokenizer")  # modules are no part of a tokenizer
        known_absent = snapshot.parents[1] / ".no_exist" / "a1" / "modules.json"
        known_absent.parent.mkdir(parents=True)
        known_absent.touch()
        find_model("bge", "encoder")
        put(cache, "org/whole", "b2", "config.json", ".gitattributes")  # hf download gets this file, transformers not
        find_model("org/whole", "encoder")


def test_a_snapshot_without_weights_does_not_hide_another(cache: Path) -> None:
    part = put(cache, "mini", "a1", "config.json", "tokenizer.json")
    whole = put(cache, "sentence-transformers/mini", "b2", "modules.json", "model.safetensors")
    assert find_model("mini", "encoder") == str(whole)
    assert find_model("mini", "tokenizer") == str(part)


def test_a_damaged_cache_is_told_with_the_command_that_mends_it(cache: Path) -> None:
    put(cache, "sentence-transformers/mini", "a1", "modules.json", main=False)
    with pytest.raises(UsageError, match=r"models--sentence-transformers--mini .*refs/main.*download sentence-"):
        find_model("mini", "encoder")
    snapshot = put(cache, "org/mini", "b2", "modules.json")
    (snapshot / "model.safetensors").symlink_to(cache / "absent")
    with pytest.raises(UsageError, match=rf"^{snapshot}/model.safetensors: .*hf download org/mini$"):
        find_model("org/mini", "encoder")


def test_a_missing_model_of_a_function_is_told_where_the_cache_has_it(cache: Path) -> None:
    snapshot = put(cache, "sentence-transformers/mini", "a1", "modules.json", "model.safetensors")
    assert describe_missing_model("mini").startswith("mini: ") and str(snapshot) in describe_missing_model("mini")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
    ],
)
def test_the_folder_of_the_cache(environment: dict[str, str], expected: str) -> None:
    assert cache_folder(environment) == Path(expected)


def test_the_folder_of_the_cache_is_that_of_huggingface_hub() -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    assert str(cache_folder(os.environ)) == constants.HF_HUB_CACHE
