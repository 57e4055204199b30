"""Evaluations in the folder of a training run: they must be of the model that the run has saved."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from text.artifacts import FileFacts, sha256
from text.errors import ArtifactError, UsageError
from text.evaluation.run_source import RunSource, SearchRecord, check_same_collection
from text.retrieval.run_files import read_sources
from text.runs.contents import EVALUATION, LEDGER, read_ledger
from text.runs.figures import Figures
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


def check_results_folder(folder: str | os.PathLike[str]) -> None:
    """Check that a folder can take the results of an evaluation.

    Raises:
        UsageError: It is that of something else, which a file of an evaluation would damage or be taken for a part of.
    """
    for name, what in _OTHERS.items():
        if os.path.lexists(Path(folder, name)):
            place = f"{os.fspath(folder)} holds {what} ({name})"
            raise UsageError(f"{place}. Take another --output_dir, such as RUN/evaluation.")


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
    if run_folder is not None and searches and not is_of_run(run_folder, searches):
        raise ArtifactError(
            f"{runs['run']}: found by {searches[0]}, which is not the model of the training run in {run_folder}. "
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


def is_of_run(folder: str | os.PathLike[str], searches: Sequence[SearchRecord]) -> bool:
    """Return whether one of the searches used the model that a training run has saved."""
    manifest = read_manifest(folder)
    listed = {} if manifest is None else manifest.files
    return any(search.model_files and _has_files(Path(folder), search.model_files, listed) for search in searches)


def check_evaluation(folder: str | os.PathLike[str], figures: Figures) -> None:
    """Check that the evaluation in a run's folder is of the run's model. An evaluation of an unknown model passes.

    Raises:
        ArtifactError: It is of another model, or of BM25.
    """
    searches = figures.list_searches()
    if searches and not is_of_run(folder, searches):
        raise ArtifactError(
            f"{Path(folder, EVALUATION)}: of another model than {Path(folder, 'model')}, {searches[0]}. Evaluate the "
            "run's own model there (evaluate --overwrite), or move the evaluation."
        )


def check_comparable(evaluations: Mapping[str, Figures]) -> None:
    """Check that evaluations can be drawn in one picture: the same questions on the same collection.

    Args:
        evaluations: By the run's folder.

    Raises:
        ArtifactError: Two of them have other judgments or another collection.
    """
    known = list(evaluations.items())
    for folder, figures in known[1:]:
        first_folder, first = known[0]
        ours, theirs = figures.list_collections(), first.list_collections()
        judged, first_judged = figures.list_judgments(), first.list_judgments()
        others = ["questions" for name in judged.keys() & first_judged.keys() if judged[name] != first_judged[name]]
        others += ["passages"] if ours and theirs and ours != theirs else []
        if others:
            raise ArtifactError(
                f"{Path(folder, EVALUATION)}: of other {others[0]} than {Path(first_folder, EVALUATION)}. Evaluate "
                "both on the same data, or write a report for each run."
            )


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
