"""``--rerank`` of ``dpr-text search`` and ``dpr-text serve``, with dense, BM25 and hybrid searches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from test.commands.conftest import search_flags
from test.commands.test_run_sources import write_run_folder
from test.helpers import save_model
from text.commands.cli import parse_flags, run_command
from text.commands.evaluate import EvaluateFlags, evaluate
from text.commands.search import SearchFlags, search
from text.commands.serve import ServeFlags, load_searches
from text.datasets import PassageCollection, read_questions
from text.evaluation import rank_passages, read_run
from text.evaluation.run_source import read_run_source
from text.retrieval.teachers import load_teacher
from text.runs.evaluations import describe_model
from text.serving import SearchRequest, search_all

Fail = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("reranker"), seed=1)


@pytest.mark.parametrize("kind", ["dense", "bm25", "hybrid"])
def test_the_first_passages_are_sorted_by_the_reranker(files: Path, reranker: Path, tmp_path: Path, kind: str) -> None:
    flags = search_flags(files, tmp_path / "first.trec")
    flags += [f"--questions={files}/questions.csv", "--k=8"]
    flags = [flag for flag in flags if not flag.startswith("--k=10")]
    collection = f"--collection={files}/corpus.jsonl"
    if kind == "bm25":
        flags = [flag for flag in flags if not flag.startswith(("--model", "--embeddings"))]
    if kind != "dense":
        flags += ["--bm25", collection]
    assert run_command(search, SearchFlags, flags) == 0
    flags = [flag for flag in flags if not flag.startswith("--run")]
    more = [collection] if kind == "dense" else []
    reranked = [*flags, *more, f"--run={tmp_path}/reranked.trec", f"--rerank={reranker}", "--rerank_k=4"]
    assert run_command(search, SearchFlags, reranked) == 0
    first, second = read_run(tmp_path / "first.trec"), read_run(tmp_path / "reranked.trec")
    passages, teacher = PassageCollection(f"{files}/corpus.jsonl"), load_teacher(reranker)
    for question in read_questions(f"{files}/questions.csv"):
        before = rank_passages(first[question.question_id])
        head = before[:4]
        scores = teacher.score([question.text] * len(head), [passages.find(name) for name in head])
        by_name = {name: float(score) for name, score in zip(head, scores, strict=True)}
        found = second[question.question_id]
        assert rank_passages(found) == rank_passages(by_name) + before[4:]
        assert [found[name] for name in by_name] == pytest.approx(list(by_name.values()), abs=1e-5)
    source = read_run_source(tmp_path / "reranked.trec")
    assert source is not None and source.reranking is not None and source.reranking.k == 4
    assert source.reranking.teacher.is_same(teacher.record)
    assert describe_model("run", source).endswith(f"first 4 reranked by {reranker}")
    assert not list(tmp_path.glob("*.partial"))


def test_a_fused_run_records_that_a_part_was_reranked(files: Path, reranker: Path, tmp_path: Path, fail: Fail) -> None:
    questions, collection = f"--questions={files}/questions.csv", f"--collection={files}/corpus.jsonl"
    reranked = [*search_flags(files, tmp_path / "reranked.trec"), questions, collection, f"--rerank={reranker}"]
    words = ["--bm25", collection, questions, f"--run={tmp_path}/bm25.trec"]
    for flags in (reranked, words):
        assert run_command(search, SearchFlags, flags) == 0
    judged = f"--qrels={files}/qrels.tsv"
    fused = [f"--run={tmp_path}/bm25.trec", f"--fuse_with={tmp_path}/reranked.trec", f"--fused_run={tmp_path}/f.trec"]
    assert run_command(evaluate, EvaluateFlags, [*fused, judged]) == 0
    part, source = read_run_source(tmp_path / "reranked.trec"), read_run_source(tmp_path / "f.trec")
    assert part is not None and source is not None and source.reranking == part.reranking is not None
    trained = write_run_folder(tmp_path / "trained", files / "model")
    code, line = fail(evaluate, EvaluateFlags, f"--run={tmp_path}/f.trec", judged, f"--output_dir={trained}/evaluation")
    assert code == 5 and f"{tmp_path}/f.trec: was reranked" in line


def test_flags_that_are_refused(files: Path, reranker: Path, tmp_path: Path, fail: Fail) -> None:
    flags = [*search_flags(files, tmp_path / "r.trec"), f"--questions={files}/questions.csv"]
    code, line = fail(search, SearchFlags, *flags, f"--rerank={reranker}")
    assert code == 2 and "--collection" in line and "--rerank" in line
    code, line = fail(search, SearchFlags, *flags, "--rerank_k=3")
    assert code == 2 and "--rerank_k needs --rerank" in line
    (tmp_path / "other.jsonl").write_text('{"_id": "p0", "text": "oak"}\n')
    code, line = fail(search, SearchFlags, *flags, f"--rerank={reranker}", f"--collection={tmp_path}/other.jsonl")
    assert code == 5 and f"{files}/embeddings: " in line
    code, line = fail(search, SearchFlags, *flags, f"--rerank={tmp_path}/none", f"--collection={files}/corpus.jsonl")
    assert code == 2 and f"{tmp_path}/none" in line
    assert not list(tmp_path.glob("r.trec*"))


def test_the_page_shows_the_rank_before_reranking(files: Path, reranker: Path) -> None:
    flags = [f"--model={files}/model", f"--embeddings={files}/embeddings", f"--rerank={reranker}", "--rerank_k=6"]
    first, second = load_searches(parse_flags(ServeFlags, [*flags, "--k=5"]))
    assert (first.name, second.name) == ("model, reranked", "model")
    [[reranked, plain]] = search_all([first, second], [SearchRequest("how tall is 1", 8)])
    before = [each.passage_id for each in plain.passages]
    after = [each.passage_id for each in reranked.passages]
    assert sorted(after[:6]) == sorted(before[:6]) and after[6:] == before[6:] and after != before
    assert [each.ranks for each in reranked.passages] == [{"model": before.index(name) + 1} for name in after]
    [[shorter, _], _] = search_all([first, second], [SearchRequest("how tall is 1", 3), SearchRequest("elm", 8)])
    assert [each.passage_id for each in shorter.passages] == after[:3]
    json.dumps([each.ranks for each in shorter.passages])
