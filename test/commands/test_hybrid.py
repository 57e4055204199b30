"""Hybrid search and fusion in ``search``, ``evaluate`` and ``mine``: results, records, prompt, and refused flags."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from test.commands.conftest import NUM_PASSAGES
from test.helpers import snapshot, texts, write_collection, write_jsonl
from text.commands.cli import run_command
from text.commands.encode import EncodeFlags, encode
from text.commands.evaluate import EvaluateFlags, evaluate
from text.commands.mine import MineFlags, mine
from text.commands.search import SearchFlags, search
from text.datasets import PassageCollection, read_questions
from text.evaluation import fuse_runs, max_passage, rank_passages, read_run
from text.evaluation.run_source import FusionRecord, read_run_source
from text.retrieval import HybridSearch, load_retriever
from text.retrieval.bm25 import BM25
from text.retrieval.fusion_choice import choose_run_fusion

Fail = Callable[..., tuple[int, str]]


def hybrid_flags(files: Path, run: Path | None, *, k: int = 100) -> list[str]:
    """Return flags of a hybrid search, with questions unless ``run`` is None."""
    flags = [f"--model={files}/model", f"--embeddings={files}/embeddings", "--bm25"]
    flags += [f"--collection={files}/corpus.jsonl", f"--k={k}"]
    return flags if run is None else [*flags, f"--questions={files}/questions.csv", f"--run={run}"]


@pytest.fixture
def parts(files: Path, tmp_path: Path) -> list[Path]:
    """Return the runs of the dense search and of BM25, which have up to 100 passages per question."""
    flags = hybrid_flags(files, tmp_path / "dense.trec")
    assert run_command(search, SearchFlags, [each for each in flags if not re.match("--(bm25|coll)", each)]) == 0
    flags = hybrid_flags(files, tmp_path / "bm25.trec")
    assert run_command(search, SearchFlags, [each for each in flags if not re.match("--(model|emb)", each)]) == 0
    return [tmp_path / "dense.trec", tmp_path / "bm25.trec"]


def evaluate_fused(files: Path, parts: list[Path], *flags: str) -> None:
    """Evaluate the fusion of both runs, and write fused.trec and the folder e beside them."""
    folder = parts[0].parent
    fused = [f"--run={parts[0]}", f"--fuse_with={parts[1]}", f"--fused_run={folder}/fused.trec", "--overwrite"]
    fused += [f"--qrels={files}/qrels.tsv", f"--output_dir={folder}/e"]
    assert run_command(evaluate, EvaluateFlags, [*fused, *flags]) == 0


@pytest.mark.parametrize(
    "flags",
    [
        [],
        pytest.param(["--fusion=ranks", "--fusion_weight=0.8"], marks=pytest.mark.slow),
        ["--fusion=scores", "--fusion_weight=0.25"],
    ],
)
def test_a_hybrid_search_writes_the_same_run_as_the_fusion_of_both_runs(
    files: Path, tmp_path: Path, parts: list[Path], flags: list[str]
) -> None:
    assert run_command(search, SearchFlags, [*hybrid_flags(files, tmp_path / "hybrid.trec"), *flags]) == 0
    evaluate_fused(files, parts, *flags)
    assert (tmp_path / "hybrid.trec").read_bytes() == (tmp_path / "fused.trec").read_bytes()
    hybrid, fused = (read_run_source(tmp_path / f"{name}.trec") for name in ("hybrid", "fused"))
    assert hybrid is not None and fused is not None and hybrid.fusion is not None
    assert hybrid.searches == fused.searches and hybrid.questions == fused.questions
    assert [each.engine for each in hybrid.searches] == ["exact", "BM25"]
    assert hybrid.fusion.depth == 100 and hybrid.fusion._replace(depth=None) == fused.fusion
    weight = float(flags[1].partition("=")[2]) if flags else 0.5
    assert fused.fusion == FusionRecord("scores" if "--fusion=scores" in flags else "ranks", [weight, 1 - weight])
    figures = json.loads((tmp_path / "e" / "figures.json").read_text())
    method, weights, _ = hybrid.fusion
    assert figures["options"]["fusion"] == {"method": method, "weights": weights, "depth": None}


def test_depth_and_k_cut_the_lists(files: Path, tmp_path: Path, parts: list[Path]) -> None:
    flags = [*hybrid_flags(files, tmp_path / "h", k=4), "--fusion_depth=6"]
    assert run_command(search, SearchFlags, flags) == 0
    runs = [{q: {p: s[p] for p in rank_passages(s)[:6]} for q, s in read_run(each).items()} for each in parts]
    fused = fuse_runs(runs)
    assert read_run(tmp_path / "h") == {q: {p: s[p] for p in rank_passages(s)[:4]} for q, s in fused.items()}


@pytest.mark.slow
def test_an_index_or_milvus_can_be_the_dense_part(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "embeddings", tmp_path / "embeddings")
    runs = []
    for name, module, flags in (
        ("exact", "bm25s", []),
        ("index", "faiss", ["--index=Flat"]),
        ("milvus", "pymilvus", [f"--milvus={tmp_path}/m.db"]),
    ):
        pytest.importorskip(module)
        asked = [*hybrid_flags(files, tmp_path / name, k=10), *flags]
        asked[1] = f"--embeddings={tmp_path}/embeddings"
        (tmp_path / "corpus.jsonl").unlink(missing_ok=True)
        shutil.copy(files / "corpus.jsonl", tmp_path)
        assert run_command(search, SearchFlags, asked) == 0
        runs.append(read_run(tmp_path / name))
    assert runs[0] == runs[1] == runs[2]


def test_positives_and_best_windows_of_a_hybrid_search(files: Path, tmp_path: Path) -> None:
    contents = texts(NUM_PASSAGES)
    write_collection(tmp_path / "windows.jsonl", [f"d{n // 3}#{n % 3}" for n in range(NUM_PASSAGES)], contents)
    flags = [f"--model={files}/model", f"--collection={tmp_path}/windows.jsonl", f"--output_dir={tmp_path}/embeddings"]
    assert run_command(encode, EncodeFlags, flags) == 0
    rows = [{"question": text, "answers": ["x"], "positive_ids": [f"d{n}#0"]} for n, text in enumerate(contents[5:9])]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    flags = [*flags[:2], "--bm25", f"--embeddings={tmp_path}/embeddings", f"--questions={tmp_path}/rows.jsonl"]
    found = []
    for name, more in (("all", ["--k=60"]), ("few", ["--k=2", "--with_positives"]), ("max", ["--k=60"])):
        more += ["--max_passage_hits=5"] if name == "max" else []
        assert run_command(search, SearchFlags, [*flags, f"--run={tmp_path}/{name}", *more]) == 0
        found.append(read_run(tmp_path / name))
    everything, few, best = found
    assert best == max_passage(everything, 5)
    for number, (question, scores) in enumerate(everything.items()):
        kept = {*rank_passages(scores)[:2], f"d{number}#0"}
        assert few[question] == {each: scores[each] for each in kept}
    source = read_run_source(tmp_path / "max")
    assert source is not None and [each.by_windows for each in source.searches] == [True, True]


def test_another_collection_than_the_encoded_one_is_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    write_collection(tmp_path / "corpus.jsonl", [f"p{n}" for n in range(NUM_PASSAGES - 1)], texts(NUM_PASSAGES - 1))
    flags = [each for each in hybrid_flags(files, tmp_path / "r") if not each.startswith("--collection")]
    before = snapshot(tmp_path)
    for more in ([], ["--max_passage_hits=3"]):
        code, line = fail(search, SearchFlags, *flags, f"--collection={tmp_path}/corpus.jsonl", *more)
        assert code == 5 and f"{files}/embeddings: " in line and f"{tmp_path}/corpus.jsonl" in line
    assert snapshot(tmp_path) == before


def test_the_prompt_shows_the_rank_in_both_searches(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("oak elm fig\n\n"))
    assert run_command(search, SearchFlags, [*hybrid_flags(files, None), "--interactive"]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if "title p" in line]
    assert len(heads) == 5
    parts = [load_retriever(files / "model", files / "embeddings"), BM25(PassageCollection(files / "corpus.jsonl"))]
    [found] = HybridSearch(parts).search_with_ranks(["oak elm fig"], 5)
    for head, passage_id, (dense, words) in zip(heads, found.passage_ids, found.ranks, strict=True):
        assert head.endswith(f"[{passage_id}]  dense {dense or '-'}, BM25 {words or '-'}")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--bm25", "--collection=c", "--fusion=ranks"], "--fusion"),
        (["--bm25", "--collection=c", "--fusion_weight=0.5"], "--fusion_weight"),
        (["--model=m", "--embeddings=e", "--fusion_depth=200"], "--fusion_depth"),
        (["--model=m", "--embeddings=e", "--bm25"], "--collection"),
        (["--model=m", "--embeddings=e", "--collection=c"], "--bm25"),
        (["--model=m", "--embeddings=e", "--bm25", "--collection=c", "--fusion_depth=99"], "--fusion_depth is 99"),
        (["--model=m", "--embeddings=e", "--bm25", "--collection=c", "--fusion_weight=1.5"], "--fusion_weight is 1.5"),
        (["--model=m", "--embeddings=e", "--bm25", "--collection=c", "--fusion=sum"], "--fusion"),
    ],
)
def test_search_flags_that_are_refused(flags: list[str], named: str, fail: Fail) -> None:
    code, line = fail(search, SearchFlags, "--questions=q", "--run=r", *flags)
    assert code == 2 and named in line


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--fusion=ranks"], "--fuse_with"),
        (["--fusion_weight=0.5"], "--fuse_with"),
        (["--choose_weight"], "--fuse_with"),
        (["--fuse_with=o", "--choose_weight", "--fusion_weight=0.5"], "--choose_weight"),
        (["--fuse_with=o", "--choose_weight=f1"], '--choose_weight: the metric is "f1"'),
        (["--fuse_with=o", "--choose_weight", "--questions=q", "--collection=c"], "--qrels or --positives"),
    ],
)
def test_evaluate_flags_that_are_refused(flags: list[str], named: str, fail: Fail) -> None:
    code, line = fail(evaluate, EvaluateFlags, "--run=r", *flags)
    assert code == 2 and named in line


def test_the_best_weight_is_chosen_printed_and_used(
    files: Path, tmp_path: Path, parts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = choose_run_fusion(*parts, qrels=files / "qrels.tsv", metric="mrr@10")
    assert len(chosen.candidates) == 42
    capsys.readouterr()
    evaluate_fused(files, parts, "--choose_weight=mrr@10")
    out = capsys.readouterr().out
    assert "mrr@10 (ranks)" in out and "mrr@10 (scores)" in out and out.count(" *") == 1
    assert f"{chosen.value:.4f} *" in out and "optimistic" in out
    figures = json.loads((tmp_path / "e" / "figures.json").read_text())
    assert figures["figures"]["mrr@10"]["mean"] == pytest.approx(chosen.value)
    assert figures["options"]["fusion"]["method"] == chosen.method
    assert figures["options"]["fusion"]["weights"] == [chosen.weight, 1 - chosen.weight]
    assert any("optimistic" in note for note in figures["notes"])
    assert "optimistic" in (tmp_path / "e" / "evaluation.html").read_text()
    evaluate_fused(files, parts, "--choose_weight", "--fusion=scores", "--skip_missing", "--drop_self_matches")
    out = capsys.readouterr().out
    assert "ndcg@10 (scores)" in out and "(ranks)" not in out


def test_positives_of_rows_choose_the_same_weight_as_qrels(files: Path, tmp_path: Path, parts: list[Path]) -> None:
    asked = [question.text for question in read_questions(files / "questions.csv")]
    rows = [{"question": q, "positive_ctxs": [{"passage_id": f"p{n}", "text": "oak"}]} for n, q in enumerate(asked)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    by_qrels = choose_run_fusion(*parts, qrels=files / "qrels.tsv")
    assert choose_run_fusion(*parts, positives=tmp_path / "rows.jsonl") == by_qrels
    with pytest.raises(ValueError, match="exactly one"):
        choose_run_fusion(*parts)


def test_negatives_of_a_hybrid_run_name_their_source(files: Path, tmp_path: Path) -> None:
    contents = texts(4)
    rows = [{"question": text, "answers": ["zebra"], "positive_ids": [f"p{n}"]} for n, text in enumerate(contents)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    flags = [each for each in hybrid_flags(files, tmp_path / "hybrid.trec") if not each.startswith("--questions")]
    assert run_command(search, SearchFlags, [*flags, f"--questions={tmp_path}/rows.jsonl", "--with_positives"]) == 0
    flags = [f"--rows={tmp_path}/rows.jsonl", f"--collection={files}/corpus.jsonl", f"--output={tmp_path}/hard.jsonl"]
    assert run_command(mine, MineFlags, [*flags, f"--runs=[{tmp_path}/hybrid.trec]"]) == 0
    run, mined = read_run(tmp_path / "hybrid.trec"), (tmp_path / "hard.jsonl").read_text().splitlines()
    for number, line in enumerate(mined):
        [negative] = json.loads(line)["hard_negative_ctxs"]
        assert negative["source"] == "hybrid" and negative["score"] == run[str(number)][negative["passage_id"]]


def test_a_hybrid_run_of_another_collection_is_not_mined(files: Path, tmp_path: Path, fail: Fail) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"question": texts(1)[0], "answers": ["x"], "positive_ids": ["p0"]}])
    flags = [each for each in hybrid_flags(files, tmp_path / "hybrid.trec") if not each.startswith("--questions")]
    assert run_command(search, SearchFlags, [*flags, f"--questions={tmp_path}/rows.jsonl"]) == 0
    write_collection(tmp_path / "more.jsonl", [f"p{n}" for n in range(NUM_PASSAGES + 1)], texts(NUM_PASSAGES + 1))
    flags = [f"--rows={tmp_path}/rows.jsonl", f"--collection={tmp_path}/more.jsonl", f"--output={tmp_path}/hard.jsonl"]
    code, line = fail(mine, MineFlags, *flags, f"--runs=[{tmp_path}/hybrid.trec]")
    assert code == 5 and f"{tmp_path}/hybrid.trec: " in line


def test_a_compressed_copy_is_the_encoded_collection(files: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress((files / "corpus.jsonl").read_bytes()))
    flags = [each for each in hybrid_flags(files, tmp_path / "r") if not each.startswith("--collection")]
    assert run_command(search, SearchFlags, [*flags, f"--collection={tmp_path}/corpus.jsonl.gz"]) == 0
