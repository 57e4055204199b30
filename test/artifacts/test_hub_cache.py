"""Lookup of model names in a Hugging Face cache that the tests create by hand."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from text.artifacts.hub_cache import describe_missing_model, find_model, find_snapshot, get_cache_folder
from text.errors import SettingsWarning, UsageError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache, and change to a working directory without models."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "hub"


def create_snapshot(cache: Path, name: str, commit: str, *files: str, main: bool = True) -> Path:
    """Create the snapshot of a model in a cache, as huggingface_hub does."""
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
def test_a_name_gives_the_last_downloaded_snapshot(cache: Path, name: str) -> None:
    create_snapshot(cache, name, "a1", "modules.json", main=False)
    newest = create_snapshot(cache, name, "b2", "modules.json")
    assert find_model(name, "encoder") == str(newest)


def test_a_name_without_an_organization_is_also_looked_up_under_sentence_transformers(cache: Path) -> None:
    theirs = create_snapshot(cache, "sentence-transformers/all-MiniLM-L6-v2", "c3", "modules.json")
    assert find_model("all-MiniLM-L6-v2", "model") == str(theirs)
    own = create_snapshot(cache, "all-MiniLM-L6-v2", "d4", "modules.json")
    assert find_model("all-MiniLM-L6-v2", "model") == str(own)


def test_existing_paths_and_other_values_of_the_flag_take_precedence(cache: Path) -> None:
    create_snapshot(cache, "tiny", "a1")
    create_snapshot(cache, "bert", "a1")
    Path("bert").mkdir()
    assert find_model("bert", "encoder") == "bert"
    assert find_model("tiny", "encoder", ("tiny", "base")) == "tiny"


@pytest.mark.parametrize("path", ["/models/bert", "./bert", "a/b/c", "dpr.cp", "tokenizer.json", ""])
def test_a_path_that_cannot_be_a_hub_name_is_returned_unchanged(cache: Path, path: str) -> None:
    assert find_model(path, "encoder") == path


def test_the_error_for_an_unknown_name_shows_the_download_command(cache: Path) -> None:
    with pytest.raises(UsageError) as error:
        find_model("bert-base-uncased", "encoder", ("tiny",))
    message = str(error.value)
    theirs = "hf download sentence-transformers/bert-base-uncased --local-dir bert-base-uncased"
    ours = "hf download bert-base-uncased --local-dir bert-base-uncased"
    for part in ("--encoder", str(cache), "tiny", ours, theirs):
        assert part in message


@pytest.mark.parametrize("ref", [None, "", "../other", "missing"])
def test_an_incomplete_cache_has_no_snapshot(cache: Path, ref: str | None) -> None:
    create_snapshot(cache, "bert", "a1", main=False)
    (cache / "models--bert" / "other").mkdir()
    if ref is not None:
        (cache / "models--bert" / "refs" / "main").write_text(ref)
    assert find_snapshot(cache, "bert") is None


def test_a_snapshot_without_modules_json_gives_a_warning(cache: Path) -> None:
    snapshot = create_snapshot(cache, "bge", "a1", "config.json")
    with pytest.warns(SettingsWarning, match=r"modules\.json.*hf download bge"):
        find_model("bge", "encoder")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_model("bge", "tokenizer")  # a tokenizer needs no modules.json
        known_absent = snapshot.parents[1] / ".no_exist" / "a1" / "modules.json"
        known_absent.parent.mkdir(parents=True)
        known_absent.touch()
        find_model("bge", "encoder")
        create_snapshot(
            cache, "org/whole", "b2", "config.json", ".gitattributes"
        )  # only hf download fetches .gitattributes
        find_model("org/whole", "encoder")


def test_a_snapshot_with_weights_is_preferred(cache: Path) -> None:
    part = create_snapshot(cache, "mini", "a1", "config.json", "tokenizer.json")
    whole = create_snapshot(cache, "sentence-transformers/mini", "b2", "modules.json", "model.safetensors")
    assert find_model("mini", "encoder") == str(whole)
    assert find_model("mini", "tokenizer") == str(part)


def test_the_error_for_a_damaged_cache_shows_the_download_command(cache: Path) -> None:
    create_snapshot(cache, "sentence-transformers/mini", "a1", "modules.json", main=False)
    with pytest.raises(UsageError, match=r"models--sentence-transformers--mini .*refs/main.*download sentence-"):
        find_model("mini", "encoder")
    snapshot = create_snapshot(cache, "org/mini", "b2", "modules.json")
    (snapshot / "model.safetensors").symlink_to(cache / "absent")
    with pytest.raises(UsageError, match=rf"^{snapshot}/model.safetensors: .*hf download org/mini$"):
        find_model("org/mini", "encoder")


def test_the_error_for_a_missing_model_shows_its_cached_folder(cache: Path) -> None:
    snapshot = create_snapshot(cache, "sentence-transformers/mini", "a1", "modules.json", "model.safetensors")
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
def test_cache_folder_by_environment(environment: dict[str, str], expected: str) -> None:
    assert get_cache_folder(environment) == Path(expected)


def test_cache_folder_equals_that_of_huggingface_hub() -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    assert str(get_cache_folder(os.environ)) == constants.HF_HUB_CACHE
