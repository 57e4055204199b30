"""Results of a finished training run: model card, manifest and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text.datasets import DPRDataPipe
from text.errors import MissingPackageError
from text.runs.manifest import write_manifest
from text.runs.model_card import write_model_card
from text.runs.negatives import write_negatives


def write_run_results(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    pipes: Mapping[str, DPRDataPipe],
    test_metrics: Mapping[str, float],
    is_tied: bool | None,
) -> None:
    """Write the model card, ``manifest.json`` and ``report.html``, and print the test metrics.

    If matplotlib is missing, no ``report.html`` is written, and a line names the package to install.

    Args:
        folder: The run's folder, with the saved model in ``model/``.
        settings: All settings of the run.
        pipes: The data of each split.
        test_metrics: Test metrics by name.
        is_tied: Whether one encoder embeds both questions and passages. None for a reranker.
    """
    card = folder / "model" / "README.md"
    write_model_card(card, settings=settings, pipes=pipes, test_metrics=test_metrics, is_tied=is_tied)
    write_negatives(folder, [file.path for file in pipes["train"].files])
    write_manifest(folder, pipes, test_metrics)
    print(f"report: {_write_report(folder)}")
    print(f"model: {folder / 'model'}")
    if test_metrics:
        print("test: " + "  ".join(f"{name.removeprefix('test_')} {value:.4f}" for name, value in test_metrics.items()))


def _write_report(folder: Path) -> str:
    """Write ``report.html`` and return its path, or the reason why it was not written."""
    try:
        from text.reports.run_report import write_run_report
    except MissingPackageError as error:  # Training must also work without matplotlib.
        return f"not written. {error}"
    return str(write_run_report([str(folder)]))
