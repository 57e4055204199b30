"""``dpr-text search``: exact, with an index, with BM25, at a prompt, and refused flags and files."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from test.commands.conftest import NUM_PASSAGES, search_flags
from test.helpers import save_model, snapshot, texts
from text.commands.cli import run_command
from text.commands.encode import EncodeFlags, encode
from text.commands.search import SearchFlags, search
from text.evaluation import read_run
from text.retrieval import Retriever

Fail = Callable[..., tuple[int, str]]


def test_a_run_has_every_question(files: Path) -> None:
    found = read_run(files / "run.trec")
    assert list(found) == list("01234")
    assert all(len(scores) == 10 for scores in found.values())


def test_a_precision_that_the_device_decides_is_told(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("text.retrieval.devices.choose_precision", lambda capability: "bfloat16")
    for name, flags in (("default", []), ("chosen", ["--encoder_precision=float32"])):
        asked = [*search_flags(files, tmp_path / name), f"--questions={files}/questions.csv", *flags]
        assert run_command(search, SearchFlags, asked) == 0
        assert ("precision: bfloat16 on cpu" in capsys.readouterr().out) == (name == "default")
    assert (tmp_path / "chosen").read_bytes() == (files / "run.trec").read_bytes()
    assert (tmp_path / "default").read_bytes() != (files / "run.trec").read_bytes()


@pytest.mark.parametrize("flags", [["--index=Flat"], ["--index=HNSW8,Flat", "--index_parameters=efSearch=64"]])
def test_an_index_is_built_then_opened_and_refused_if_damaged(
    files: Path, tmp_path: Path, flags: list[str], fail: Fail
) -> None:
    shutil.copytree(files / "embeddings", tmp_path / "embeddings")
    asked = [*search_flags(files, tmp_path / "r"), f"--questions={files}/questions.csv", "--overwrite", *flags]
    asked[1] = f"--embeddings={tmp_path}/embeddings"
    [folder] = [tmp_path / "embeddings" / f"index-{flags[0][8:].replace(',', '-')}"]
    built = []
    for _ in range(2):
        assert run_command(search, SearchFlags, asked) == 0
        assert (tmp_path / "r").read_bytes() == (files / "run.trec").read_bytes()
        built.append((folder / "index.faiss").stat().st_mtime_ns)
    assert built[0] == built[1]
    (folder / "index.faiss").write_bytes(b"")
    code, line = fail(search, SearchFlags, *asked)
    assert code == 5 and f"{folder}/index.faiss: " in line


def test_milvus_finds_the_same_passages(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("pymilvus")
    flags = [f"--questions={files}/questions.csv", f"--milvus={tmp_path}/milvus.db"]
    assert run_command(search, SearchFlags, [*search_flags(files, tmp_path / "r"), *flags]) == 0
    found, exact = read_run(tmp_path / "r"), read_run(files / "run.trec")
    assert {name: list(scores) for name, scores in found.items()} == {name: list(s) for name, s in exact.items()}


def test_bm25_finds_passages_with_the_rare_word_of_the_question(files: Path, tmp_path: Path) -> None:
    flags = [f"--run={tmp_path}/r", f"--questions={files}/questions.csv", "--bm25"]
    assert run_command(search, SearchFlags, [*flags, f"--collection={files}/corpus.jsonl"]) == 0
    found, words = read_run(tmp_path / "r"), [text.split()[0] for text in texts(5)]
    contents = dict(zip((f"p{n}" for n in range(NUM_PASSAGES)), texts(NUM_PASSAGES), strict=True))
    for number, word in enumerate(words):
        if word not in ("and", "the", "of"):
            assert word in contents[next(iter(found[str(number)]))].split()


def test_the_prompt_answers_until_the_input_ends(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("how tall is the oak\n\n"))
    flags = [flag for flag in search_flags(files, Path("r")) if not flag.startswith("--run=")]
    assert run_command(search, SearchFlags, [*flags, "--interactive"]) == 0
    out = capsys.readouterr().out
    assert out.count("title p") == 5 and "question: " in out


def test_the_prompt_ends_when_nobody_reads_the_answers(files: Path) -> None:
    flags = [flag for flag in search_flags(files, Path("r")) if not flag.startswith("--run=")]
    command = [sys.executable, "-m", "text", "search", *flags, "--interactive"]
    questions = subprocess.Popen(["yes", "how tall is the oak"], stdout=subprocess.PIPE)
    pipes: Any = {"stdin": questions.stdout, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with questions, subprocess.Popen(command, **pipes) as process:
        assert process.stdout and process.stderr and questions.stdout
        questions.stdout.close()
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
        questions.kill()


def test_the_prompt_refuses_a_collection_that_has_changed(files: Path, fail: Fail) -> None:
    corpus = files / "corpus.jsonl"
    before = corpus.read_bytes()
    corpus.write_bytes(before.replace(b"title p3", b"title p4"))
    flags = [flag for flag in search_flags(files, Path("r")) if not flag.startswith("--run=")]
    code, line = fail(search, SearchFlags, *flags, "--interactive")
    corpus.write_bytes(before)
    assert code == 5 and f"{corpus}: " in line


def test_embeddings_of_another_model_are_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    save_model(tmp_path / "other", seed=1)
    flags = [f"--model={tmp_path}/other", *search_flags(files, tmp_path / "r")[1:]]
    code, line = fail(search, SearchFlags, *flags, f"--questions={files}/questions.csv")
    assert code == 5 and f"{files}/embeddings: " in line and "model.safetensors" in line
    mixed = Path(shutil.copytree(files / "model", tmp_path / "mixed"))
    for name in ("config.json", "question_encoder/model.safetensors"):  # The list of files matches the other weights.
        shutil.copy(tmp_path / "other" / name, mixed / name)
    flags = [f"--model={mixed}", *search_flags(files, tmp_path / "r")[1:]]
    code, line = fail(search, SearchFlags, *flags, f"--questions={files}/questions.csv")
    assert code == 5 and f"{files}/embeddings: " in line and " question_encoder/model.safetensors" in line


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], ["--questions", "--interactive"]),
        (["--model=m", "--embeddings=e", "--questions=q", "--interactive"], ["--questions", "--interactive"]),
        (["--model=m", "--embeddings=e", "--questions=q"], ["--run"]),
        (["--model=m", "--embeddings=e", "--interactive", "--run=r"], ["--run"]),
        (["--model=m", "--questions=q", "--run=r"], ["--model", "--embeddings"]),
        (["--questions=q", "--run=r"], ["--model", "--embeddings"]),
        (["--bm25", "--collection=c", "--model=m", "--questions=q", "--run=r"], ["--model"]),
        (["--bm25", "--questions=q", "--run=r"], ["--collection"]),
        (["--bm25", "--collection=c", "--interactive"], ["--bm25"]),
        (["--model=m", "--embeddings=e", "--questions=q", "--run=r", "--bm25_k1=1"], ["--bm25_k1", "--bm25"]),
        (["--bm25", "--collection=c", "--questions=q", "--run=r", "--bm25_k1=-1"], ["--bm25_k1"]),
        (["--model=m", "--embeddings=e", "--interactive", "--qrels=q"], ["--qrels", "--questions"]),
        (["--bm25", "--collection=c", "--questions=q", "--run=r", "--index=Flat"], ["--bm25", "--index"]),
        (
            ["--model=m", "--embeddings=e", "--questions=q", "--run=r", "--milvus=m.db", "--index=Flat"],
            ["--milvus", "--index"],
        ),
        (
            ["--model=m", "--embeddings=e", "--questions=q", "--run=r", "--index_parameters=nprobe=2"],
            ["--index_parameters", "--index"],
        ),
        (
            ["--bm25", "--collection=c", "--questions=q", "--run=r", "--k=5", "--max_passage_hits=6"],
            ["--max_passage_hits is 6", "--k", "5"],
        ),
    ],
)
def test_flags_that_are_refused(flags: list[str], named: list[str], fail: Fail) -> None:
    code, line = fail(search, SearchFlags, *flags)
    assert code == 2 and all(name in line for name in named)


def test_an_id_with_a_space_comes_back_from_the_run(files: Path, tmp_path: Path) -> None:
    (tmp_path / "spaced.jsonl").write_text('{"_id": "q 0", "text": "oak"}\n')
    flags = [*search_flags(files, tmp_path / "r"), f"--questions={tmp_path}/spaced.jsonl"]
    assert run_command(search, SearchFlags, flags) == 0
    assert list(read_run(tmp_path / "r")) == ["q 0"]


def test_rows_without_ids_of_positives_are_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    flags = [*search_flags(files, tmp_path / "r"), f"--questions={files}/questions.csv", "--with_positives"]
    code, line = fail(search, SearchFlags, *flags)
    assert code == 3 and f"{files}/questions.csv: " in line


def write_questions(path: Path) -> Path:
    """Write questions of two splits as in BEIR. The second question exceeds the limit of 16 tokens."""
    rows = [("train1", "how tall is the oak"), ("test1", "oak " * 20), ("test2", "who ate the elm")]
    path.write_text("".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in rows))
    return path


def test_the_questions_of_one_split_are_searched(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fail: Fail
) -> None:
    path, qrels = write_questions(tmp_path / "queries.jsonl"), tmp_path / "test.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\ntest1\tp1\t1\ntest2\tp2\t1\ngone\tp3\t1\n")
    flags = [*search_flags(files, tmp_path / "r"), f"--questions={path}", f"--qrels={qrels}"]
    assert run_command(search, SearchFlags, flags) == 0
    assert list(read_run(tmp_path / "r")) == ["test1", "test2"]
    out = capsys.readouterr().out
    assert (
        f"2 of 3 questions have judgments in {qrels}, 1 skipped" in out and f"1 questions in {qrels} are not in" in out
    )
    assert "1 of 2 questions (50.0 %) are longer than 16 tokens" in out
    qrels.write_text("other\t0\tp1\t1\n")
    code, line = fail(search, SearchFlags, *flags, "--overwrite")
    assert code == 3 and f"{qrels}: " in line and str(path) in line


def test_questions_with_short_lists_are_counted(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    shutil.copytree(files / "embeddings", tmp_path / "embeddings")
    flags = [f"--model={files}/model", f"--embeddings={tmp_path}/embeddings", f"--questions={files}/questions.csv"]
    flags += [f"--run={tmp_path}/r", "--overwrite"]
    assert run_command(search, SearchFlags, [*flags, "--k=1000"]) == 0  # more than the number of passages
    assert "fewer than" not in capsys.readouterr().out
    assert run_command(search, SearchFlags, [*flags, f"--k={NUM_PASSAGES}", "--index=IVF4,Flat"]) == 0
    assert all(len(found) < NUM_PASSAGES for found in read_run(tmp_path / "r").values())
    assert f"5 of 5 questions have fewer than {NUM_PASSAGES} passages" in capsys.readouterr().out


def test_a_fault_in_the_questions_is_reported_before_anything_is_loaded(tmp_path: Path, fail: Fail) -> None:
    path = write_questions(tmp_path / "queries.jsonl")
    path.write_text(path.read_text() + '{"_id": "test2", "text": "again"}\n')
    (tmp_path / "empty").mkdir()
    folders = [f"--model={tmp_path}/empty", f"--embeddings={tmp_path}/empty"]
    flags = [*folders, f"--questions={path}", f"--run={tmp_path}/r"]
    code, line = fail(search, SearchFlags, *flags)
    assert code == 3 and f"{path}:4 " in line


def test_passages_that_are_not_windows_are_reported_before_the_search(
    files: Path, tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text.retrieval.search_questions", lambda *_, **__: pytest.fail("searched"))
    questions = [f"--questions={files}/questions.csv", f"--run={tmp_path}/r", "--max_passage_hits=3"]
    dense = [f"--model={files}/model", f"--embeddings={files}/embeddings"]
    for flags, source in ((dense, "embeddings"), (["--bm25", f"--collection={files}/corpus.jsonl"], "corpus.jsonl")):
        code, line = fail(search, SearchFlags, *questions, *flags)
        assert code == 3 and f"{files}/{source}: " in line


def test_bm25_reports_passages_without_text(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"_id": "1", "title": "oak", "text": ""}, {"_id": "2", "title": "elm", "text": None}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = [f"--questions={files}/questions.csv", "--bm25", f"--collection={tmp_path}/c.jsonl", f"--run={tmp_path}/r"]
    assert run_command(search, SearchFlags, flags) == 0
    assert f"2 passages without text in {tmp_path}/c.jsonl\n" in capsys.readouterr().out


def test_settings_of_bm25_change_scores(files: Path, tmp_path: Path, fail: Fail) -> None:
    flags = [f"--questions={files}/questions.csv", "--bm25", f"--collection={files}/corpus.jsonl"]
    runs = []
    for name, more in (("a", []), ("b", ["--bm25_k1=0.9", "--bm25_b=0.4"]), ("c", ["--bm25_b=0"])):
        assert run_command(search, SearchFlags, [*flags, f"--run={tmp_path}/{name}", *more]) == 0
        runs.append((tmp_path / name).read_bytes())
    assert runs[0] == runs[1] != runs[2]
    code, line = fail(search, SearchFlags, *flags, f"--run={tmp_path}/d", "--bm25_b=2")
    assert code == 2 and "b is 2" in line


@pytest.mark.parametrize(
    "flags",
    [["--index=HNSW0"], ["--index=Nonsense"], ["--index=IVF4,Flat", "--index_parameters=nprobe=0"]],
)
def test_an_invalid_index_is_one_error_line(files: Path, tmp_path: Path, fail: Fail, flags: list[str]) -> None:
    pytest.importorskip("faiss")
    asked = [*search_flags(files, tmp_path / "r"), f"--questions={files}/questions.csv", *flags]
    code, line = fail(search, SearchFlags, *asked)
    assert code == 2 and flags[-1].rpartition("index")[2].partition("=")[2] in line


def test_a_k_below_1_is_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    flags = [*search_flags(files, tmp_path / "r")[:3], "--k=0", f"--questions={files}/questions.csv"]
    code, line = fail(search, SearchFlags, *flags)
    assert code == 2 and "k is 0" in line


@pytest.mark.parametrize("device", ["cuda:7", "cup"])
def test_a_missing_device_is_refused(files: Path, tmp_path: Path, device: str, fail: Fail) -> None:
    flags = [*search_flags(files, tmp_path / "r"), f"--questions={files}/questions.csv", f"--device={device}"]
    code, line = fail(search, SearchFlags, *flags)
    assert code == 2 and f'device is "{device}"' in line


def test_a_missing_library_names_the_extra(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Fail
) -> None:
    asked = [*search_flags(files, tmp_path / "r"), f"--questions={files}/questions.csv"]
    words = [f"--run={tmp_path}/r", asked[-1], "--bm25", f"--collection={files}/corpus.jsonl"]
    for library, module, extra, flags in (
        ("faiss", "faiss_index", "faiss", [*asked, "--index=Flat"]),
        ("pymilvus", "milvus", "milvus", [*asked, f"--milvus={tmp_path}/m.db"]),
        ("bm25s", "bm25", "bm25", words),
    ):
        monkeypatch.setitem(sys.modules, library, None)  # As if it were not installed.
        monkeypatch.delitem(sys.modules, f"text.retrieval.{module}", raising=False)
        code, line = fail(search, SearchFlags, *flags)
        assert code == 2 and f"dpr-text[{extra}]" in line


def test_no_input_and_no_earlier_run_is_replaced(files: Path, tmp_path: Path, fail: Fail) -> None:
    for name in ("questions.csv", "corpus.jsonl"):
        shutil.copy(files / name, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    words = ["--bm25", f"--questions={tmp_path}/questions.csv", f"--collection={tmp_path}/corpus.jsonl"]
    for name, more in (
        ("questions.csv", ["--overwrite"]),
        ("corpus.jsonl", ["--overwrite"]),
        ("corpus.jsonl", []),
        ("r.gz", []),
        ("", []),
    ):
        code, line = fail(search, SearchFlags, *words, f"--run={tmp_path}/{name}", *more)
        assert code == 2 and f"{tmp_path}/{name}".rstrip("/") in line
    (tmp_path / "earlier.trec").write_text("")
    code, line = fail(search, SearchFlags, *words, f"--run={tmp_path}/earlier.trec")
    assert code == 2 and f"{tmp_path}/earlier.trec" in line
    (tmp_path / "earlier.trec").unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_model_and_the_embeddings_that_are_read_are_not_replaced(files: Path, tmp_path: Path, fail: Fail) -> None:
    for name in ("model", "embeddings"):
        shutil.copytree(files / name, tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "embeddings")
    before = snapshot(tmp_path)
    flags = [f"--model={tmp_path}/model", f"--embeddings={tmp_path}/embeddings", "--overwrite"]
    flags += [f"--questions={files}/questions.csv"]
    for name in ("embeddings/plan.json", "embeddings/shard-00000.npy", "embeddings/new.trec", "link/new/r.trec"):
        code, line = fail(search, SearchFlags, *flags, f"--run={tmp_path}/{name}")
        assert code == 2 and f"{tmp_path}/{name} " in line and f"{tmp_path}/embeddings" in line
    code, line = fail(search, SearchFlags, *flags, f"--run={tmp_path}/model/config.json")
    assert code == 2 and f"{tmp_path}/model/config.json " in line
    assert snapshot(tmp_path) == before


def test_a_run_is_written_through_a_link_but_not_over_a_device(files: Path, tmp_path: Path, fail: Fail) -> None:
    flags = [
        f"--model={files}/model",
        f"--embeddings={files}/embeddings",
        f"--questions={files}/questions.csv",
        "--k=10",
    ]
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/null"):
        code, line = fail(search, SearchFlags, *flags, f"--run={path}", "--overwrite")
        assert code == 2 and f"{path} is a " in line
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    (tmp_path / "earlier.trec").write_text("of an earlier one")
    (tmp_path / "link").symlink_to(tmp_path / "earlier.trec")
    code, line = fail(search, SearchFlags, *flags, f"--run={tmp_path}/link")
    assert code == 2 and f"{tmp_path}/link" in line
    assert run_command(search, SearchFlags, [*flags, f"--run={tmp_path}/link", "--overwrite"]) == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "earlier.trec").read_bytes() == (files / "run.trec").read_bytes()


def test_a_run_that_another_process_wrote_in_the_meantime_is_kept(
    files: Path, tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, search_found = tmp_path / "run.trec", Retriever.search

    def search_slowly(self: Retriever, *arguments: Any, **options: Any) -> Any:
        path.write_text("of another")
        return search_found(self, *arguments, **options)

    monkeypatch.setattr(Retriever, "search", search_slowly)
    flags = [*search_flags(files, path), f"--questions={files}/questions.csv"]
    code, line = fail(search, SearchFlags, *flags)
    assert code == 2 and str(path) in line and path.read_text() == "of another"


def test_the_files_of_fair_are_read_under_their_own_names(files: Path, tmp_path: Path) -> None:
    """FAIR's script writes downloads/data/retriever/qas/nq-test.csv and data/wikipedia_split/psgs_w100.tsv."""
    questions = tmp_path / "data/retriever/qas/nq-test.csv"
    collection = tmp_path / "data/wikipedia_split/psgs_w100.tsv"
    for path, content in (
        (questions, "who ate the oak\t['a beetle', \"the beetle's\"]\nwho ate the fig\t['a wasp']\n"),
        (collection, 'id\ttext\ttitle\n1\t"the beetle ""ate"" the oak"\tOak\n2\ta wasp ate the fig\tFig\n'),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(content)
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content.encode()))
    runs = []
    for number, ending in enumerate(("", ".gz")):
        embeddings, run = tmp_path / f"embeddings{number}", tmp_path / f"{number}.trec"
        flags = [f"--model={files}/model", f"--collection={collection}{ending}", f"--output_dir={embeddings}"]
        assert run_command(encode, EncodeFlags, flags) == 0
        flags = [f"--model={files}/model", f"--embeddings={embeddings}", f"--questions={questions}{ending}"]
        assert run_command(search, SearchFlags, [*flags, f"--run={run}"]) == 0
        runs.append(read_run(run))
    assert runs[0] == runs[1] and {name: len(found) for name, found in runs[0].items()} == {"0": 2, "1": 2}
