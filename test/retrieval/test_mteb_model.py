"""A saved model run by mteb itself has the metrics of our own search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from test.helpers import save_model, texts
from text.evaluation import evaluate_run, mean_metrics
from text.records import Passage
from text.retrieval import Retriever

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # mteb takes long to import, and warns


def build_task(corpus: list[Passage], questions: dict[str, str], qrels: dict[str, dict[str, int]]) -> Any:
    """Return a retrieval task of mteb with local data."""
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class LocalTask(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="LocalTask",
            description="a local task",
            type="Retrieval",
            main_score="ndcg_at_10",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            dataset={"path": "local/task", "revision": "1"},
        )

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            documents = [{"id": each.passage_id, "title": each.title, "text": each.text} for each in corpus]
            queries = [{"id": question_id, "text": text} for question_id, text in questions.items()]
            split = {
                "corpus": Dataset.from_list(documents),
                "queries": Dataset.from_list(queries),
                "relevant_docs": qrels,
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": split}}, True  # pyright: ignore

    return LocalTask()


@pytest.mark.parametrize(("titles", "similarity"), [("pair", "dot"), ("join", "cosine")])
def test_mteb_gives_the_metrics_of_our_own_search(tmp_path: Path, titles: str, similarity: str) -> None:
    mteb = pytest.importorskip("mteb")
    from text.retrieval.mteb_model import MTEBModel

    model = save_model(tmp_path / "model", 0, titles=titles, similarity=similarity)
    contents = texts(60)
    corpus = [Passage(f"p{n}", "" if n % 5 == 0 else f"title {n}", "" if n == 7 else contents[n]) for n in range(40)]
    questions = {f"q{n}": text for n, text in enumerate(contents[40:])}
    qrels = {f"q{n}": {f"p{2 * n}": 1, f"p{(3 * n) % 40}": 2} for n in range(20)}

    hits = Retriever.from_texts(model, corpus).search(list(questions.values()), k=40)
    run = {q: dict(zip(each.passage_ids, each.scores, strict=True)) for q, each in zip(questions, hits, strict=True)}
    ours = mean_metrics(evaluate_run(qrels, run, cut_offs=[1, 10]))

    result = mteb.evaluate(MTEBModel(model), build_task(corpus, questions, qrels), cache=None, co2_tracker=False)
    [scores] = result.task_results[0].scores["test"]
    for name in ("ndcg", "recall", "precision"):
        for k in (1, 10):
            assert scores[f"{name}_at_{k}"] == pytest.approx(ours[f"{name}@{k}"], abs=1e-5), name
    assert scores["main_score"] == pytest.approx(ours["ndcg@10"], abs=1e-5) and 0.05 < ours["ndcg@10"] < 1


def test_each_state_of_a_model_has_its_own_name_in_the_results_of_mteb(tmp_path: Path) -> None:
    pytest.importorskip("mteb")
    from text.retrieval.mteb_model import MTEBModel

    one, same, other = (
        MTEBModel(save_model(tmp_path / f"{name}/model", seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    revisions = [each.mteb_model_meta.revision for each in (one, same, other)]
    assert revisions[0] == revisions[1] != revisions[2]
    assert one.mteb_model_meta.name == "dpr-text/a-model"
