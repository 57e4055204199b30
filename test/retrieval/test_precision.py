"""Precision of an encoder: the default of a device, and the precision that an encoding keeps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test.helpers import write_collection
from test.retrieval.test_encoding import OPTIONS, read_files
from text.datasets import PassageCollection
from text.errors import ArtifactError
from text.retrieval import Embedder, encode_collection, load_retriever
from text.retrieval.devices import choose_precision, describe_precision, get_default_precision


@pytest.mark.parametrize(
    ("capability", "precision"),
    [(None, "float32"), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_the_device_decides_the_default(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, precision: str
) -> None:
    assert choose_precision(capability) == precision
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: {"cuda:1": capability}[device])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: {"cuda:1": "Card"}[device])
    device = "cpu" if capability is None else "cuda:1"
    assert get_default_precision(device) == precision
    lines = list(describe_precision(precision, device))
    assert len(lines) == (capability is not None)
    assert all(f"{precision} on cuda:1 (Card); --encoder_precision=float32" in line for line in lines)


def test_a_chosen_precision_is_kept_and_float32_is_the_default_of_a_cpu(model: Path) -> None:
    assert Embedder.from_pretrained(model, "passage").settings["precision"] == "float32"
    chosen = Embedder.from_pretrained(model, "passage", precision="bfloat16")
    assert chosen.settings["precision"] == "bfloat16" and chosen.encoder.layer_dtype == torch.bfloat16


def test_the_default_of_the_device_is_used(
    model: Path, collection: PassageCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text.retrieval.devices.choose_precision", lambda capability: "bfloat16")
    shards = encode_collection(model, collection, tmp_path / "e", **OPTIONS)
    retriever = load_retriever(model, tmp_path / "e")
    assert shards.plan.settings.precision == retriever.embedder.settings["precision"] == "bfloat16"
    assert load_retriever(model, tmp_path / "e", precision="float32").embedder.settings["precision"] == "float32"


def encode_in_bfloat16(model: Path, collection: PassageCollection, folder: Path) -> Any:
    return encode_collection(
        Embedder.from_pretrained(model, "passage", precision="bfloat16"), collection, folder, **OPTIONS
    )


def test_an_encoding_that_continues_keeps_its_precision(
    model: Path, collection: PassageCollection, tmp_path: Path
) -> None:
    encode_in_bfloat16(model, collection, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "e")
    for path in [*(tmp_path / "e").glob("shard-00001*"), tmp_path / "e" / "manifest.json"]:
        path.unlink()
    chosen = Embedder.from_pretrained(model, "passage", precision="float32")
    with pytest.raises(ArtifactError, match="precision: bfloat16 -> float32"):
        encode_collection(chosen, collection, tmp_path / "e", **OPTIONS)
    assert encode_collection(model, collection, tmp_path / "e", **OPTIONS).plan.settings.precision == "bfloat16"
    assert read_files(tmp_path / "e") == read_files(tmp_path / "one")
    again = encode_collection(model, collection, tmp_path / "e", **OPTIONS, overwrite=True)
    assert again.plan.settings.precision == "float32"


def test_an_encoding_that_reuses_embeddings_has_their_precision(
    model: Path, collection: PassageCollection, tmp_path: Path
) -> None:
    before = encode_in_bfloat16(model, collection, tmp_path / "before")
    more = write_collection(tmp_path / "more.jsonl", ["p0", "new"], ["oak", "elm"])
    found = encode_collection(model, more, tmp_path / "more", **OPTIONS, reuse=before)
    assert found.plan.settings.precision == "bfloat16"
    expected = Embedder.from_pretrained(model, "passage", precision="bfloat16")([more[1]])
    assert np.array_equal(found.read_rows(np.array([1])), expected.half().float().numpy())
