"""``dpr-text encode``: one or several processes, resuming, updated collections, and refused folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from test.commands.conftest import NUM_PASSAGES, encode_flags
from test.helpers import save_model
from test.pages import ROOT
from text.commands.cli import run_command
from text.commands.encode import EncodeFlags, encode
from text.commands.update import UpdateFlags, update
from text.errors import UsageError
from text.retrieval import Embedder, EmbeddingShards, open_collection
from text.retrieval.plan import read_plan, write_plan

Fail = Callable[..., tuple[int, str]]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
# dpr-text with slow encoding and a progress file after every piece of work.
SLOW_COMMAND = """
import sys, time
from text.commands import main
from text.retrieval import Embedder
from text.retrieval.shard_writer import ShardWriter

embed_rows, start = Embedder._embed_rows, ShardWriter.__init__
Embedder._embed_rows = lambda self, *piece: (time.sleep(0.05), embed_rows(self, *piece))[1]
ShardWriter.__init__ = lambda self, *arguments: start(self, *arguments[:-1], 0)
sys.exit(main())
"""


def test_prints_the_size_and_the_mean_cosine(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(encode, EncodeFlags, encode_flags(files, tmp_path / "e")) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path}/e: 30 passages, 128 dimensions, float16"
    assert last.startswith("mean cosine similarity of two passages: ")


def test_truncated_and_empty_passages_are_counted(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("oak " * 40, "a"), ("elm", "b"), ("yew " * 40, "c"), ("", "d")]
    lines = [json.dumps({"_id": name, "title": name, "text": text}) for text, name in rows]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    flags = encode_flags(files, tmp_path / "e")
    for more in ([], [], ["--block_rows=4"]):  # A second call encodes nothing but prints the same counts.
        assert run_command(encode, EncodeFlags, [*flags[:1], f"--collection={tmp_path}/c.jsonl", flags[2], *more]) == 0
        out = capsys.readouterr().out
        assert "2 of 4 passages (50.0 %) are longer than 32 tokens" in out
        assert f"1 passages without text in {tmp_path}/c.jsonl" in out


@pytest.mark.slow
def test_a_signal_stops_it_and_the_same_command_continues(files: Path, tmp_path: Path) -> None:
    flags = encode_flags(files, tmp_path / "e")

    command = [sys.executable, "-c", SLOW_COMMAND, "encode", *flags]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        while not list((tmp_path / "e").glob("*.progress")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert "SIGTERM" in process.communicate()[1].splitlines()[-1]
    assert process.returncode == 143
    assert not (tmp_path / "e" / "manifest.json").exists()
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert run_command(encode, EncodeFlags, flags) == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    for path in (files / "embeddings").glob("*.npy"):
        assert (tmp_path / "e" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("device", ["meta", "nonsense", "cuda:99"])
def test_an_unusable_device_is_refused(files: Path, tmp_path: Path, device: str, fail: Fail) -> None:
    code, line = fail(encode, EncodeFlags, *encode_flags(files, tmp_path / "e"), f"--device={device}")
    assert code == 2 and f'device is "{device}"' in line


@pytest.mark.parametrize("flag", ["block_rows", "shard_rows"])
def test_more_rows_than_a_plan_can_have_are_refused_before_a_plan_is_written(
    files: Path, tmp_path: Path, flag: str, fail: Fail
) -> None:
    flags = [each for each in encode_flags(files, tmp_path / "e") if flag not in each]
    code, line = fail(encode, EncodeFlags, *flags, f"--{flag}={2**63 - 1}")
    assert code == 2 and f"--{flag} is " in line and not (tmp_path / "e").exists()


def test_passages_that_have_not_changed_are_reused(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "changes.jsonl").write_text('{"_id": "p3", "text": "yew"}\n{"_id": "q", "text": "bay"}\n')
    (tmp_path / "ids.txt").write_text("p1\np2\n")
    flags = [f"--collection={files}/corpus.jsonl", f"--upsert={tmp_path}/changes.jsonl"]
    flags += [f"--delete={tmp_path}/ids.txt", f"--output={tmp_path}/new.jsonl"]
    assert run_command(update, UpdateFlags, flags) == 0
    embed_rows, embedded = Embedder._embed_rows, []
    monkeypatch.setattr(
        Embedder,
        "_embed_rows",
        lambda self, tokens, rows, length: (embedded.append(len(rows)), embed_rows(self, tokens, rows, length))[1],
    )
    flags = [f"--model={files}/model", f"--collection={tmp_path}/new.jsonl", f"--reuse={files}/embeddings"]
    assert run_command(encode, EncodeFlags, [*flags, f"--output_dir={tmp_path}/e"]) == 0
    assert len(EmbeddingShards(tmp_path / "e")) == 29 and sum(embedded) == 2


def test_embeddings_of_another_model_are_kept_unless_overwritten(
    files: Path, tmp_path: Path, fail: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = encode_flags(files, tmp_path / "e")
    assert run_command(encode, EncodeFlags, flags) == 0
    for name in ("shard-x", "milvus.db", "notes.txt"):
        (tmp_path / "e" / name).write_text("mine")
    before = {path: path.read_bytes() for path in (tmp_path / "e").glob("*.*")}
    save_model(tmp_path / "other", seed=1)
    flags[0] = f"--model={tmp_path}/other"
    code, line = fail(encode, EncodeFlags, *flags)
    assert code == 5 and f"{tmp_path}/e: " in line and "model.safetensors" in line
    assert {path: path.read_bytes() for path in (tmp_path / "e").glob("*.*")} == before
    assert run_command(encode, EncodeFlags, [*flags, "--overwrite"]) == 0
    assert f"{tmp_path}/e: kept milvus.db, notes.txt, shard-x," in capsys.readouterr().err
    assert (tmp_path / "e" / "shard-00000.npy").read_bytes() != before[tmp_path / "e" / "shard-00000.npy"]
    assert [(tmp_path / "e" / name).read_text() for name in ("shard-x", "milvus.db", "notes.txt")] == ["mine"] * 3


def test_flags_that_are_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    code, line = fail(encode, EncodeFlags)
    assert code == 2 and all(name in line for name in ("model", "output_dir"))
    (tmp_path / "link").symlink_to(files / "embeddings")
    before = {path: path.read_bytes() for path in (files / "embeddings").iterdir()}
    flags = encode_flags(files, files / "embeddings")
    code, line = fail(encode, EncodeFlags, *flags, f"--reuse={tmp_path}/link", "--overwrite")
    assert code == 2 and f"{files}/embeddings" in line and f"{tmp_path}/link" in line
    assert {path: path.read_bytes() for path in (files / "embeddings").iterdir()} == before
    flags = encode_flags(files, tmp_path / "e")
    for length in (0, 5000):
        code, line = fail(encode, EncodeFlags, *flags, f"--passage_max_length={length}")
        assert code == 2 and f"max_length is {length}" in line
    code, line = fail(encode, EncodeFlags, *flags[:3], "--shard_rows=10", "--block_rows=4")
    assert code == 2 and "shard_rows is 10" in line and "block_rows, 4" in line
    code, line = fail(encode, EncodeFlags, flags[0], f"--collection={tmp_path}/none.jsonl", *flags[2:])
    assert code == 2 and f"{tmp_path}/none.jsonl: " in line


def test_a_folder_with_other_content_is_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    for folder, more in ((tmp_path, []), (tmp_path, ["--overwrite"]), (files / "model", [])):
        code, line = fail(encode, EncodeFlags, *encode_flags(files, folder)[:3], *more)
        assert code == 2 and str(folder) in line and not (folder / ".lock").exists()
    assert (tmp_path / "manifest.json").read_text() == "{}"
    code, line = fail(encode, EncodeFlags, *encode_flags(files, files / "model" / "new")[:3])
    assert code == 2 and f"{files}/model" in line and not (files / "model" / "new").exists()
    code, line = fail(
        encode, EncodeFlags, *encode_flags(files, files / "embeddings" / "new"), f"--reuse={files}/embeddings"
    )
    assert code == 2 and f"{files}/embeddings" in line and not (files / "embeddings" / "new").exists()


def test_a_lock_that_is_not_a_file_is_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    os.mkfifo(tmp_path / ".dpr-text.lock")
    code, line = fail(encode, EncodeFlags, *encode_flags(files, tmp_path))
    assert code == 2 and f"{tmp_path}/.dpr-text.lock " in line
    assert [path.name for path in tmp_path.iterdir()] == [".dpr-text.lock"]


def test_a_truncated_partial_shard_is_repaired(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = encode_flags(files, tmp_path / "e")
    with subprocess.Popen([sys.executable, "-c", SLOW_COMMAND, "encode", *flags], env=ENVIRONMENT) as process:
        while not list((tmp_path / "e").glob("*.progress")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    [part] = (tmp_path / "e").glob("*[0-9].npy.part")
    os.truncate(part, 200)
    capsys.readouterr()
    assert run_command(encode, EncodeFlags, flags) == 0
    assert f"{part}: " in capsys.readouterr().err
    for path in (files / "embeddings").glob("shard-*"):
        assert (tmp_path / "e" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(files: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "text"]
    subprocess.run([*command, "encode", *encode_flags(files, tmp_path / "e")], check=True, env=ENVIRONMENT)
    for path in (files / "embeddings").glob("shard-*"):
        assert (tmp_path / "e" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (tmp_path / "e" / "manifest.json").read_bytes() == (files / "embeddings" / "manifest.json").read_bytes()


def test_the_collection_is_found_from_any_folder_and_after_a_move(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    for name in ("data", "runs"):
        (here / name).mkdir(parents=True)
    shutil.copy(files / "corpus.jsonl", here / "data")
    monkeypatch.chdir(here)
    flags = [f"--model={files}/model", "--collection=data/corpus.jsonl", "--output_dir=runs/e"]
    assert run_command(encode, EncodeFlags, flags) == 0
    monkeypatch.chdir(tmp_path)
    here.rename(tmp_path / "there")
    collection = open_collection(EmbeddingShards("there/runs/e"))
    assert collection.path == "there/data/corpus.jsonl" and len(collection) == NUM_PASSAGES
    monkeypatch.chdir(tmp_path / "there" / "runs")
    assert open_collection(EmbeddingShards("e")).path == f"{tmp_path}/there/data/corpus.jsonl"


def test_embeddings_of_an_earlier_version_find_their_collection(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(files / "embeddings", tmp_path / "runs" / "e")
    shutil.copy(files / "corpus.jsonl", tmp_path)
    plan = read_plan(tmp_path / "runs" / "e")
    write_plan(tmp_path / "runs" / "e", plan._replace(collection=plan.collection._replace(path="corpus.jsonl")))
    monkeypatch.chdir(tmp_path)
    assert open_collection(EmbeddingShards("runs/e")).path == "corpus.jsonl"


def test_numbers_of_gpus_that_are_refused(
    files: Path, tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = encode_flags(files, tmp_path / "e")
    code, line = fail(encode, EncodeFlags, *flags, "--gpus=99")
    assert code == 2 and "--gpus is 99" in line
    code, line = fail(encode, EncodeFlags, *flags, "--gpus=2", "--device=cuda:1")
    assert code == 2 and "--device is cuda:1" in line and "--gpus is 2" in line
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, line = fail(encode, EncodeFlags, *flags, "--gpus=2", "--device=cpu")
    assert code == 2 and "--gpus" in line and "torchrun" in line
    assert not (tmp_path / "e").exists()


def test_no_more_processes_than_shards_are_started(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr("text.commands.encode.run_ranks", lambda arguments, num_ranks: started.append(num_ranks))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # torch 2.3 asks device_count
    for gpus in (3, 8):  # There are four shards.
        assert run_command(encode, EncodeFlags, [*encode_flags(files, tmp_path / "e"), f"--gpus={gpus}"]) == 0
    assert started == [3, 4]
    flags = [f"--model={files}/model", f"--collection={files}/corpus.jsonl", f"--output_dir={tmp_path}/e", "--gpus=8"]
    assert run_command(encode, EncodeFlags, flags) == 0  # One shard needs no other process.
    assert started == [3, 4] and len(EmbeddingShards(tmp_path / "e")) == NUM_PASSAGES


def test_processes_wait_long_for_each_other(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Fail
) -> None:
    def refuse(backend: str, timeout: timedelta) -> None:
        raise UsageError(f"{backend} {timeout.days}")

    monkeypatch.setattr("torch.distributed.init_process_group", refuse)
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, line = fail(encode, EncodeFlags, *encode_flags(files, tmp_path / "e"))
    assert code == 2 and line.endswith("gloo 365")


def test_the_precision_is_told_and_kept(
    files: Path, tmp_path: Path, fail: Fail, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = encode_flags(files, tmp_path / "e")
    monkeypatch.setattr("text.retrieval.devices.choose_precision", lambda capability: "bfloat16")
    assert run_command(encode, EncodeFlags, flags) == 0
    monkeypatch.undo()
    assert run_command(encode, EncodeFlags, flags) == 0  # The default of this device is float32.
    assert run_command(encode, EncodeFlags, [*flags, "--encoder_precision=bfloat16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = "precision: bfloat16 on cpu; --encoder_precision=float32 computes in float32"
    assert lines.count(told) == 2 and read_plan(tmp_path / "e").settings.precision == "bfloat16"
    code, line = fail(encode, EncodeFlags, *flags, "--encoder_precision=float32")
    assert code == 5 and "precision: bfloat16 -> float32" in line
    code, line = fail(encode, EncodeFlags, *flags, "--encoder_precision=float16")
    assert code == 2 and "float16" in line and "cpu" in line


@pytest.mark.slow
def test_several_processes_write_the_same_files(files: Path, tmp_path: Path) -> None:
    flags = [*encode_flags(files, tmp_path / "e"), "--device=cpu", "--gpus=2"]
    assert run_command(encode, EncodeFlags, flags) == 0
    assert run_command(encode, EncodeFlags, [*encode_flags(files, tmp_path / "two"), "--device=cpu"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "e").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()
    }


@pytest.mark.slow
def test_a_failing_process_stops_the_others(files: Path, tmp_path: Path) -> None:
    flags = [*encode_flags(files, tmp_path / "e")[:2], f"--output_dir={tmp_path}/e", "--device=cpu", "--gpus=2"]
    with pytest.raises(SystemExit) as ended:  # Only the started processes check these numbers.
        run_command(encode, EncodeFlags, [*flags, "--shard_rows=7", "--block_rows=2"])
    assert ended.value.code == 2
