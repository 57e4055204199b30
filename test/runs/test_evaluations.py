"""Evaluations of several runs that are drawn in one picture."""

from __future__ import annotations

import pytest

from text.errors import ArtifactError
from text.evaluation.run_source import SearchRecord
from text.runs.evaluations import check_comparable
from text.runs.figures import Figures, InputFile


def make_figures(collection: str | None = None, **judgments: str) -> Figures:
    """Return the figures of a run. Judgments are hashes by flag."""
    inputs = {flag: InputFile(f"{flag}.tsv", digest) for flag, digest in judgments.items()}
    searches = [] if collection is None else [SearchRecord("BM25", "corpus.tsv", collection, "", {})]
    return Figures(["run.trec"], 9, 0, 0, {}, [], inputs, {}, searches={"run": searches})


def test_each_two_evaluations_have_the_same_judgments_and_passages() -> None:
    known = make_figures("ab", qrels="1")
    unknown = make_figures(None, qrels="1")
    check_comparable({"a": known, "b": unknown, "c": known})
    for others, what in (
        ({"b": make_figures("ab", qrels="2")}, "judgments"),
        ({"b": make_figures("ab", positives="1")}, "judgments"),
        ({"b": make_figures("xy", qrels="1")}, "passages"),
    ):
        with pytest.raises(ArtifactError, match=rf"b/evaluation/figures\.json: of other {what} than a/"):
            check_comparable({"a": known, **others})
    with pytest.raises(ArtifactError, match="with another --drop_self_matches than a/"):
        check_comparable({"a": known, "b": known._replace(options={"drop_self_matches": True})})
    with pytest.raises(ArtifactError, match=r"c/evaluation/figures\.json: of other passages than b/"):
        check_comparable({"a": unknown, "b": known, "c": make_figures("xy", qrels="1")})
