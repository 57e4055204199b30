"""Evaluations in the folder of a training run: they must be of the model that the run has saved."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from text.artifacts import FileFacts, sha256
from text.errors import ArtifactError, UsageError
from text.evaluation.run_source import RunSource, SearchRecord, check_same_collection
from text.retrieval.run_files import read_sources
from text.runs.contents import EVALUATION, LEDGER, read_ledger
from text.runs.figures import Figures, read_figures
from text.runs.manifest import read_manifest

_OTHERS = {
    "plan.json": "embeddings",
    "run.json": "a training run",
    "config.json": "a model",
    "modules.json": "a model",
}
"""Files by which a folder of something else is known."""
_PLACES = ("passage_encoder", "question_encoder", "")
"""Folders of a saved model. A search names the files of the passage encoder without their folder."""


def check_results_folder(folder: str | os.PathLike[str], *, default_of: str | None = None) -> None:
    """Check that a folder can take the results of an evaluation.

    Args:
        folder: Folder for the results.
        default_of: Run that the folder is named after. None if the user has named the folder.

    Raises:
        UsageError: It is the folder of something else, which an evaluation would damage or be taken for a part of. Or
            it is named after the run and holds the evaluation of another run, such as ``nq`` beside ``nq.trec``.
    """
    for name, what in _OTHERS.items():
        if os.path.lexists(Path(folder, name)):
            place = f"{os.fspath(folder)} holds {what} ({name})"
            raise UsageError(f"{place}. Take another --output_dir, such as RUN/evaluation.")
    held = None if default_of is None else _find_evaluated(folder)
    if held is not None and Path(held).name != Path(str(default_of)).name:
        raise UsageError(
            f"{os.fspath(folder)}: holds the evaluation of another run, {held}. Give an --output_dir for {default_of}."
        )


def read_known(inputs: Mapping[str, Mapping[str, str]], folder: str | os.PathLike[str]) -> dict[str, RunSource | None]:
    """Return what is known of the runs that are evaluated, by flag, before any work.

    Args:
        inputs: "path" and "sha256" of the files that are read, by flag: run, fuse_with, other_run, collection.
        folder: Folder for the results.

    Raises:
        ArtifactError: A run is of other questions or another collection. Or the results would go into the folder of a
            training run and are of another model.
    """
    runs = {name: inputs[name]["path"] for name in ("run", "fuse_with", "other_run") if name in inputs}
    sources = dict(zip(runs, read_sources(list(runs.values())), strict=True))
    for name, source in sources.items():
        if source is not None and (searched := inputs.get("collection")) is not None:
            check_same_collection(runs[name], source.searches, searched["path"], searched["sha256"])
    searches = [search for name in ("run", "fuse_with") if (known := sources.get(name)) for search in known.searches]
    run_folder = find_run_folder(folder)
    if run_folder is not None and (other := find_other_search(run_folder, searches)) is not None:
        given = next(name for name in ("run", "fuse_with") if (each := sources.get(name)) and other in each.searches)
        raise ArtifactError(
            f"{runs[given]}: found by {other}, which is not the model of the training run in {run_folder}. "
            "Give an --output_dir that is not in its folder."
        )
    return sources


def describe_model(run: str, source: RunSource | None) -> str:
    """Return a line that says what found a run."""
    return f"{run}: {'model unknown' if source is None else ' + '.join(map(str, source.searches))}"


def find_run_folder(path: str | os.PathLike[str]) -> Path | None:
    """Return the training run's folder that a folder lies in or is. None if there is none."""
    folder = Path(os.path.realpath(path))
    return next((each for each in (folder, *folder.parents) if _is_run_folder(each)), None)


def find_other_search(folder: str | os.PathLike[str], searches: Sequence[SearchRecord]) -> SearchRecord | None:
    """Return a search because of which results do not belong to a training run. None if they belong to it.

    Every dense search must have used the model that the run has saved. A search by BM25 may only be fused with one.
    """
    manifest = read_manifest(folder)
    listed = {} if manifest is None else manifest.files
    dense = [search for search in searches if search.model_files]
    others = (search for search in dense if not _has_files(Path(folder), search.model_files, listed))
    return next(others, None if dense else next(iter(searches), None))


def check_evaluation(folder: str | os.PathLike[str], figures: Figures) -> None:
    """Check that the evaluation in a run's folder is of the run's model. An evaluation of an unknown model passes.

    Raises:
        ArtifactError: It is of another model, or of BM25. Or another model's run is fused with that of the run's model.
    """
    other = find_other_search(folder, figures.list_searches())
    if other is not None:
        raise ArtifactError(
            f"{Path(folder, EVALUATION)}: of another model than {Path(folder, 'model')}, {other}. Evaluate the "
            "run's own model there (evaluate --overwrite), or move the evaluation."
        )


def check_comparable(evaluations: Mapping[str, Figures]) -> None:
    """Check that evaluations can be drawn in one picture: the same judgments on the same collection.

    Args:
        evaluations: By the run's folder.

    Raises:
        ArtifactError: Two of them have other judgments or another collection, or only one is without self matches.
    """
    for (first_folder, first), (folder, figures) in combinations(evaluations.items(), 2):
        ours, theirs = figures.list_collections(), first.list_collections()
        others = ["of other judgments"] if figures.list_judgments() != first.list_judgments() else []
        others += ["of other passages"] if ours and theirs and ours != theirs else []
        option = "drop_self_matches"
        others += [f"with another --{option}"] if figures.options.get(option) != first.options.get(option) else []
        if others:
            raise ArtifactError(
                f"{Path(folder, EVALUATION)}: {others[0]} than {Path(first_folder, EVALUATION)}. Evaluate "
                "both in the same way, or write a report for each run."
            )


def _find_evaluated(folder: str | os.PathLike[str]) -> str | None:
    """Return the run whose evaluation a folder holds. None if the folder holds none, or one that cannot be read."""
    try:
        run = read_figures(Path(folder, "figures.json")).inputs.get("run")
    except (ArtifactError, OSError):
        return None
    return None if run is None else run.path


def _is_run_folder(path: Path) -> bool:
    try:
        return (path / LEDGER).is_file() and read_ledger(path) is not None
    except (ArtifactError, OSError):  # Another program wrote a file of this name, or it may not be read.
        return False


def _has_files(folder: Path, model_files: Mapping[str, str], listed: Mapping[str, FileFacts]) -> bool:
    """Return whether every file of a model is among the files of the saved model."""
    return all(
        any(_find_hash(folder, "/".join(filter(None, ("model", place, name))), listed) == digest for place in _PLACES)
        for name, digest in model_files.items()
    )


def _find_hash(folder: Path, name: str, listed: Mapping[str, FileFacts]) -> str | None:
    """Return the hash that the run's manifest has of a file. A run without a manifest has the file itself."""
    if name in listed:
        return listed[name].sha256
    return sha256(folder / name) if (folder / name).is_file() else None
