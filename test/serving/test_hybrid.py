"""Hybrid search on the page and in the JSON interface, against the fusion of separate searches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from test.serving.helpers import get, make_site, run_server
from text.commands.cli import parse_flags
from text.commands.serve import ServeFlags, load_searches
from text.datasets import PassageCollection
from text.evaluation.run_source import FusionRecord
from text.retrieval import Hits, HybridSearch, load_retriever
from text.retrieval.bm25 import BM25
from text.serving import FoundPassage, Search, SearchRequest, SearchResult, fuse_searches, search_all
from text.serving.pages import SearchPage, render_search_page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"))


def load_site(site: Path, *flags: str) -> list[Search]:
    given = [f"--model={site}/model", f"--embeddings={site}/embeddings", "--device=cpu", "--bm25", *flags]
    return load_searches(parse_flags(ServeFlags, given))


@pytest.mark.parametrize("flags", [("--fusion",), ("--fusion=scores", "--fusion_weight=0.7", "--fusion_depth=150")])
def test_a_page_shows_the_fusion_first_with_both_ranks(site: Path, flags: tuple[str, ...]) -> None:
    parts = [load_retriever(site / "model", site / "embeddings"), BM25(PassageCollection(site / "corpus.jsonl"))]
    hybrid = HybridSearch(parts) if len(flags) == 1 else HybridSearch(parts, method="scores", weights=[7, 3])
    with run_server(load_site(site, *flags), k=5) as port:
        for k in (3, 33):
            reply = get(port, "/search", q="oak 'ash' elm", k=k).json["searches"]
            assert [each["name"] for each in reply] == ["hybrid", "model", "BM25"]
            [found] = hybrid.search_with_ranks(["oak 'ash' elm"], k)
            shown = [(each["passage_id"], each["ranks"]) for each in reply[0]["passages"]]
            assert shown == [
                (name, {"model": dense, "BM25": words})
                for name, (dense, words) in zip(found.passage_ids, found.ranks, strict=True)
            ]
            assert [each["score"] for each in reply[0]["passages"]] == pytest.approx(found.scores, rel=1e-12)
            for part, own in zip(parts, reply[1:], strict=True):
                [hits] = part.search(["oak 'ash' elm"], k)
                assert [each["passage_id"] for each in own["passages"]] == hits.passage_ids
                assert all(each["ranks"] == {} for each in own["passages"])
        html = get(port, "/", q="oak elm").text
        ranks = re.findall("<bdi>model</bdi> (\\d+|\u2013), <bdi>BM25</bdi> (\\d+|\u2013)</p>", html)
        assert "<h2>hybrid</h2>" in html and len(ranks) == 5
        assert get(port, "/docs").status == get(port, "/openapi.json").status == 200


@pytest.mark.parametrize("names", [("hybrid", "BM25"), ("BM25", "hybrid")])
def test_a_models_name_is_not_that_of_another_search(site: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).symlink_to(site / "model")
    model, other = (tmp_path / name for name in names)
    given = [f"--model={model}", f"--embeddings={site}/embeddings", "--device=cpu", "--bm25", "--fusion"]
    given += [f"--other_model={other}", f"--other_embeddings={site}/embeddings"]
    searches = load_searches(parse_flags(ServeFlags, given))
    own = [f"{name} (model)" for name in names]
    assert [search.name for search in searches] == ["hybrid", *own, "BM25"]
    assert [part.name for part in searches[0].parts] == [own[0], "BM25"]


def find_counted(name: str, asked: list[tuple[str, list[str], int]]) -> Any:
    """Return a search function that finds name0, name1, ... and notes its calls."""

    def find(questions: Sequence[str], k: int) -> list[Hits]:
        asked.append((name, list(questions), k))
        return [Hits([f"p{rank}" for rank in range(k)], [-float(rank) for rank in range(k)]) for _ in questions]

    return find


def test_parts_are_searched_once_for_all_columns_and_requests(site: Path) -> None:
    asked: list[tuple[str, list[str], int]] = []
    collection = PassageCollection(site / "corpus.jsonl")
    parts = [Search(name, find_counted(name, asked), collection, False) for name in ("dense", "words")]
    other = Search("other", find_counted("other", asked), collection)
    hybrid = fuse_searches(parts, FusionRecord("ranks", [0.5, 0.5], 20))
    batch = [SearchRequest("a", 2), SearchRequest("b", 3)]
    found = search_all([hybrid, parts[0], other, parts[1]], batch)
    assert asked == [("dense", ["a", "b"], 20), ("words", ["a", "b"], 20), ("other", ["a", "b"], 3)]
    for request, results in zip(batch, found, strict=True):
        assert [each.name for each in results] == ["hybrid", "dense", "other", "words"]
        for result in results:
            assert [each.passage_id for each in result.passages] == [f"p{rank}" for rank in range(request.k)]
        assert [each.ranks for each in results[0].passages] == [
            {"dense": rank, "words": rank} for rank in range(1, request.k + 1)
        ]
    alone = hybrid.find(["a"], 2)
    assert [each.passage_id for each in found[0][0].passages] == alone[0].passage_ids
    assert [[each.name for each in results] for results in search_all([hybrid], batch)] == [["hybrid"]] * 2


@pytest.mark.parametrize("name", ["BM25", "hybrid"])
def test_a_model_with_the_name_of_another_search_is_renamed(site: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(site / "model")
    flags = [f"--model={tmp_path}/{name}", f"--embeddings={site}/embeddings", "--device=cpu", "--bm25", "--fusion"]
    searches = load_searches(parse_flags(ServeFlags, flags))
    assert [each.name for each in searches] == ["hybrid", f"{name} (model)", "BM25"]


def test_ranks_are_shown_only_for_fused_passages() -> None:
    page = SearchPage(k="10", max_k=100, max_characters=1000, collections="2 passages")
    passage = {"passage_id": "p1", "score": 1.0, "title": "Oaks", "text": "an oak", "answer_spans": []}
    for ranks, shown in (({}, False), ({"<b>": 3, "BM25": None}, True)):
        found = SearchResult(name="some", seconds=1.2, passages=[FoundPassage(**passage, ranks=ranks)])
        html = render_search_page(page, results=[found])
        assert ("<bdi>&lt;b&gt;</bdi> 3, <bdi>BM25</bdi> \u2013</p>" in html) == shown
        assert ("BM25" in html) == shown
