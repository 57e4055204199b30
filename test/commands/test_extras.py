"""A command whose extras are missing names all of them at once, before any work."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from text.commands import main
from text.commands.extras import name_all_missing
from text.errors import MissingPackageError, explain_missing


@pytest.mark.parametrize(
    ("command", "argv", "packages", "extras"),
    [
        ("loop", [], ["pytorch_lightning", "matplotlib", "bm25s"], "train,report,bm25"),
        ("loop", ["--bm25=false"], ["pytorch_lightning", "matplotlib"], "train,report"),
        ("serve", ["--bm25", "--index=Flat"], ["fastapi", "bm25s", "faiss"], "serve,bm25,faiss"),
        ("train", [], ["pytorch_lightning"], "train"),
    ],
)
def test_all_missing_extras_are_named(
    monkeypatch: pytest.MonkeyPatch, command: str, argv: list[str], packages: list[str], extras: str
) -> None:
    for package in ("pytorch_lightning", "matplotlib", "bm25s", "faiss", "fastapi"):
        monkeypatch.setitem(sys.modules, package, None)  # As if it were not installed.
    first = explain_missing(extras.partition(",")[0])
    with pytest.raises(MissingPackageError) as error, name_all_missing(command, argv), first:
        import_module(packages[0])
    assert str(error.value).startswith(", ".join(packages) + (" are " if len(packages) > 1 else " is "))
    assert str(error.value).endswith(f'pip install "dpr-text[{extras}]"')


def test_a_server_reports_missing_extras_before_it_loads_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package, module in (("bm25s", "bm25"), ("faiss", "faiss_index")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"text.retrieval.{module}", raising=False)
    flags = [f"--model={tmp_path}", "--embeddings=nowhere", "--port=0", "--bm25", "--index=Flat"]
    assert main(["serve", *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "bm25s, faiss are not installed" in line and '"dpr-text[bm25,faiss]"' in line
