"""Checks of evaluations that share a plot."""

from __future__ import annotations

import pytest

from text.errors import ArtifactError
from text.evaluation.run_source import SearchRecord
from text.runs.evaluations import check_comparable
from text.runs.figures import Figures, InputFile


def make_figures(collection: str | None = None, **judgments: str) -> Figures:
    """Return the figures of an evaluation. ``judgments`` has hashes by flag."""
    inputs = {flag: InputFile(f"{flag}.tsv", digest) for flag, digest in judgments.items()}
    searches = [] if collection is None else [SearchRecord("BM25", "corpus.tsv", collection, "", {})]
    return Figures(["run.trec"], 9, 0, 0, {}, [], inputs, {}, searches={"run": searches})


def test_all_pairs_of_evaluations_must_have_the_same_judgments_and_passages() -> None:
    known = make_figures("ab", qrels="1")
    unknown = make_figures(None, qrels="1")
    check_comparable({"a": known, "b": unknown, "c": known})
    for others, difference in (
        ({"b": make_figures("ab", qrels="2")}, "judgments"),
        ({"b": make_figures("ab", positives="1")}, "judgments"),
        ({"b": make_figures("xy", qrels="1")}, "passages"),
    ):
        with pytest.raises(ArtifactError, match=rf"b/evaluation/figures\.json: other {difference} than a/"):
            check_comparable({"a": known, **others})
    with pytest.raises(ArtifactError, match="another --drop_self_matches than a/"):
        check_comparable({"a": known, "b": known._replace(options={"drop_self_matches": True})})
    with pytest.raises(ArtifactError, match=r"c/evaluation/figures\.json: other passages than b/"):
        check_comparable({"a": unknown, "b": known, "c": make_figures("xy", qrels="1")})
