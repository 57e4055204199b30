"""Fixtures with a model, a collection, its embeddings, questions and a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from test.helpers import save_model, texts, write_collection
from text.commands.cli import run_command
from text.commands.encode import EncodeFlags, encode
from text.commands.search import SearchFlags, search

NUM_PASSAGES = 30


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with model, corpus.jsonl, embeddings, questions.csv, qrels.tsv and run.trec. Do not change it."""
    folder = tmp_path_factory.mktemp("retrieval")
    save_model(folder / "model", seed=0)
    write_collection(folder / "corpus.jsonl", [f"p{n}" for n in range(NUM_PASSAGES)], texts(NUM_PASSAGES))
    answers = [text.split()[0] for text in texts(5)]
    rows = [f"how tall is {n} {answer}\t{[answer]!r}\n" for n, answer in enumerate(answers)]
    (folder / "questions.csv").write_text("".join(rows))
    (folder / "qrels.tsv").write_text("".join(f"{n}\t0\tp{n}\t1\n" for n in range(5)))
    assert run_command(encode, EncodeFlags, encode_flags(folder, folder / "embeddings")) == 0
    flags = [*search_flags(folder, folder / "run.trec"), f"--questions={folder}/questions.csv"]
    assert run_command(search, SearchFlags, flags) == 0
    return folder


def encode_flags(files: Path, output_dir: Path) -> list[str]:
    """Return flags that encode the collection into four shards."""
    return [
        f"--model={files}/model",
        f"--collection={files}/corpus.jsonl",
        f"--output_dir={output_dir}",
        "--shard_rows=8",
        "--block_rows=2",
    ]


def search_flags(files: Path, run: Path) -> list[str]:
    return [f"--model={files}/model", f"--embeddings={files}/embeddings", f"--run={run}", "--k=10"]


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return a function that runs a failing command and returns its exit code and its last line on stderr."""

    def run(command: Callable[[Any], None], flags_class: type, *flags: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run_command(command, flags_class, flags)
        assert code != 0
        return code, capsys.readouterr().err.splitlines()[-1]

    return run
