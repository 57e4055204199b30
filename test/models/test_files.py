"""Weights files: unsafe files are rejected before memory is allocated, and errors have one line."""

from __future__ import annotations

import errno
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from test.models.helpers import assert_refused, build_encoder
from text.errors import ArtifactError
from text.models import RobertaEncoder
from text.models.files import save_weights

WORD = "embeddings.word_embeddings.weight"


class Settings:
    """A class that is not a plain value, such as a config of OmegaConf."""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build_encoder().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def build_pickle_writer(content: bytes) -> Callable[[Path], object]:
    """Return a function that writes a file of ``torch.save`` with a given pickle."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")

    return write


def write_deflated(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]" * 10**7 + b".")


def write_overlapping(path: Path) -> None:
    """Write an archive whose directory lists each entry twice."""
    torch.save({"a": torch.zeros(10**6)}, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start, entries = archive.start_dir, archive.infolist()
    directory = content[start : content.index(b"PK\x06\x06", start)]
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2 * len(entries), 2 * len(entries), 2 * len(directory), start, 0)
    path.write_bytes(content[:start] + directory + directory + end)


OLD = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {}))
"""First bytes of a file that PyTorch before 1.6 wrote."""


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (write_deflated, "compressed"),
        (write_overlapping, "bytes"),
        (build_pickle_writer(b"\x80\x02" + b"]" * 10**7 + b"."), "1048576"),
        (lambda path: path.write_bytes(OLD + b"\x80\x02" + b"]" * 10**7 + b"."), "1048576"),
        (build_pickle_writer(b"\x80\x02cbuiltins\nbytearray\nJ\0\xca\x9a;\x85R."), "builtins bytearray"),
        (build_pickle_writer(b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R."), "posix system"),
        (lambda path: torch.save({"a": torch.zeros(1).expand(10**10)}, path), "40000000000"),
        (lambda path: path.write_bytes(b"a.txt" + bytes(507) + b"ustar"), ""),
    ],
    ids=["deflated", "overlapping", "long pickle", "old and long", "bytearray", "code", "expanded", "tar"],
)
def test_weights_that_would_fill_the_memory_are_rejected(saved: Path, make, part: str):
    (saved / "model.safetensors").unlink()
    make(saved / "pytorch_model.bin")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_refused(saved, "pytorch_model.bin", part)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("length", [1 << 23, 1 << 33, (1 << 64) - 1])
def test_a_header_that_is_too_long_is_rejected(saved: Path, length: int):
    (saved / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{" + b" " * (1 << 24))
    assert_refused(saved, "model.safetensors", str(length))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", [{"a": Settings}, [1], b"x"])
def test_errors_do_not_suggest_loading_without_safeguards(saved: Path, content: Any, zipped: bool):
    (saved / "model.safetensors").unlink()
    torch.save(content, saved / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ArtifactError) as error:
        RobertaEncoder.from_pretrained(saved)
    assert "weights_only" not in str(error.value) and "safe_globals" not in str(error.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_infinite_or_nan_weight_is_rejected_by_key(saved: Path, number: float, dtype: torch.dtype):
    weights = {name: tensor.to(dtype) for name, tensor in load_file(saved / "model.safetensors").items()}
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    RobertaEncoder.from_pretrained(saved)
    weights[WORD][7, 3] = number
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert_refused(saved, "model.safetensors", WORD)


def test_large_finite_weights_are_loaded(saved: Path):
    weights = load_file(saved / "model.safetensors")
    weights[WORD][:] = 3e38
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert RobertaEncoder.from_pretrained(saved).embeddings.word.weight.isfinite().all()


def test_a_full_disk_is_named_with_the_file(tmp_path: Path):
    """Simulate the full disk with a limit on the size of files."""
    path, limits = tmp_path / "model.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as error:
            save_weights(path, {"a": torch.zeros(9_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(path))
    assert not list(tmp_path.iterdir())
