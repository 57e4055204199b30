"""Checks of evaluations in a run's folder: they must evaluate the model that the run saved."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from text.artifacts import FileFacts, hash_file
from text.errors import ArtifactError, UsageError
from text.evaluation.run_source import RunSource, SearchRecord, check_same_collection
from text.retrieval.run_files import read_run_sources
from text.runs.contents import EVALUATION, LEDGER, read_ledger
from text.runs.figures import Figures, read_figures
from text.runs.manifest import read_manifest

_OTHER_FOLDERS = {
    "plan.json": "embeddings",
    "run.json": "a training run",
    "config.json": "a model",
    "modules.json": "a model",
}
"""File names that show what another kind of folder contains."""
_MODEL_FOLDERS = ("passage_encoder", "question_encoder", "")
"""Folders of a saved model. A search records the files of the passage encoder without their folder."""


def check_results_folder(folder: str | os.PathLike[str], *, named_after: str | None = None) -> None:
    """Check that the results of an evaluation can be written to a folder.

    Args:
        folder: Folder for the results.
        named_after: Run from which the default name of the folder was derived. None if the user named the folder.

    Raises:
        UsageError: The folder holds embeddings, a training run or a model. Or it has a default name and holds the
            evaluation of another run, for example of ``nq`` when ``nq.trec`` is evaluated.
    """
    for name, content in _OTHER_FOLDERS.items():
        if os.path.lexists(Path(folder, name)):
            problem = f"{os.fspath(folder)} holds {content} ({name})"
            raise UsageError(f"{problem}. Choose another --output_dir, such as RUN/evaluation.")
    evaluated = None if named_after is None else _find_evaluated_run(folder)
    if evaluated is not None and Path(evaluated).name != Path(str(named_after)).name:
        raise UsageError(
            f"{os.fspath(folder)} holds the evaluation of another run, {evaluated}. "
            f"Pass an --output_dir for {named_after}."
        )


def read_evaluation_sources(
    inputs: Mapping[str, Mapping[str, str]], folder: str | os.PathLike[str]
) -> dict[str, RunSource | None]:
    """Return the recorded sources of the runs to evaluate, by flag. None marks a run without a record.

    Args:
        inputs: "path" and "sha256" of the input files, by flag: run, fuse_with, other_run, collection.
        folder: Folder for the results.

    Raises:
        ArtifactError: A run was made from other questions or another collection. Or the results would go into the
            folder of a training run that saved another model.
    """
    runs = {name: inputs[name]["path"] for name in ("run", "fuse_with", "other_run") if name in inputs}
    sources = dict(zip(runs, read_run_sources(list(runs.values())), strict=True))
    for name, source in sources.items():
        if source is not None and (searched := inputs.get("collection")) is not None:
            check_same_collection(runs[name], source.searches, searched["path"], searched["sha256"])
    searches = [search for name in ("run", "fuse_with") if (known := sources.get(name)) for search in known.searches]
    run_folder = find_run_folder(folder)
    reranked = [name for name in ("run", "fuse_with") if (known := sources.get(name)) and known.reranking is not None]
    if run_folder is not None and reranked:
        raise ArtifactError(
            f"{runs[reranked[0]]}: was reranked, so it does not show the model of the training run in {run_folder} "
            "alone. Choose an --output_dir outside that folder."
        )
    if run_folder is not None and (other := find_other_search(run_folder, searches)) is not None:
        flag = next(name for name in ("run", "fuse_with") if (each := sources.get(name)) and other in each.searches)
        raise ArtifactError(
            f"{runs[flag]}: made by {other}, not by the model of the training run in {run_folder}. "
            "Choose an --output_dir outside that folder."
        )
    return sources


def describe_model(run: str, source: RunSource | None) -> str:
    """Return a line that names the models that produced a run."""
    if source is None:
        return f"{run}: model unknown"
    reranking = "" if source.reranking is None else f", {source.reranking}"
    return f"{run}: {' + '.join(map(str, source.searches))}{reranking}"


def find_run_folder(path: str | os.PathLike[str]) -> Path | None:
    """Return the training run's folder that equals or contains a folder, or None."""
    folder = Path(os.path.realpath(path))
    return next((each for each in (folder, *folder.parents) if _is_run_folder(each)), None)


def find_other_search(folder: str | os.PathLike[str], searches: Sequence[SearchRecord]) -> SearchRecord | None:
    """Return a search that did not use the model of a training run, or None.

    Every dense search must have used the model that the run saved. BM25 alone does not count as the run's model, but a
    BM25 search may be fused with a dense one.
    """
    manifest = read_manifest(folder)
    listed = {} if manifest is None else manifest.files
    dense = [search for search in searches if search.model_files]
    others = (search for search in dense if not _has_files(Path(folder), search.model_files, listed))
    return next(others, None if dense else next(iter(searches), None))


def check_evaluation(folder: str | os.PathLike[str], figures: Figures) -> None:
    """Check that the evaluation in a run's folder evaluates the run's model. An unknown model is accepted.

    Raises:
        ArtifactError: The evaluation is of another model or of BM25, or another dense model was fused into it.
    """
    other = find_other_search(folder, figures.list_searches())
    if other is not None:
        raise ArtifactError(
            f"{Path(folder, EVALUATION)}: the evaluated model, {other}, is not {Path(folder, 'model')}. Evaluate the "
            "model of this run (evaluate --overwrite), or move the evaluation."
        )


def check_comparable(evaluations: Mapping[str, Figures]) -> None:
    """Check that evaluations can share a plot: they need the same judgments and the same collection.

    Args:
        evaluations: Evaluations by the folder of their run.

    Raises:
        ArtifactError: Two evaluations differ in judgments, collection or ``--drop_self_matches``.
    """
    for (first_folder, first), (folder, second) in combinations(evaluations.items(), 2):
        first_collections, second_collections = first.list_collections(), second.list_collections()
        differences = ["other judgments"] if second.list_judgments() != first.list_judgments() else []
        if first_collections and second_collections and first_collections != second_collections:
            differences.append("other passages")
        option = "drop_self_matches"
        differences += [f"another --{option}"] if second.options.get(option) != first.options.get(option) else []
        if differences:
            raise ArtifactError(
                f"{Path(folder, EVALUATION)}: {differences[0]} than {Path(first_folder, EVALUATION)}. Evaluate "
                "both runs in the same way, or write a report for each run."
            )


def _find_evaluated_run(folder: str | os.PathLike[str]) -> str | None:
    """Return the run whose evaluation a folder holds. None if there is no readable evaluation."""
    try:
        run = read_figures(Path(folder, "figures.json")).inputs.get("run")
    except (ArtifactError, OSError):
        return None
    return None if run is None else run.path


def _is_run_folder(path: Path) -> bool:
    try:
        return (path / LEDGER).is_file() and read_ledger(path) is not None
    except (ArtifactError, OSError):  # Another program wrote a file of this name, or the file is not readable.
        return False


def _has_files(folder: Path, model_files: Mapping[str, str], listed: Mapping[str, FileFacts]) -> bool:
    """Return whether the saved model in a run's folder has every file of a model."""
    return all(
        any(
            _find_hash(folder, "/".join(filter(None, ("model", place, name))), listed) == digest
            for place in _MODEL_FOLDERS
        )
        for name, digest in model_files.items()
    )


def _find_hash(folder: Path, name: str, listed: Mapping[str, FileFacts]) -> str | None:
    """Return a hash from the run's manifest, or compute it if the manifest does not list the file."""
    if name in listed:
        return listed[name].sha256
    return hash_file(folder / name) if (folder / name).is_file() else None
