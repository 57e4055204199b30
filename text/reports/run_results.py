"""Write the results of a finished training run: model card, manifest and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text.datasets import DPRDataPipe
from text.reports.run_report import write_run_report
from text.runs.manifest import write_manifest
from text.runs.model_card import write_model_card


def write_run_results(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    pipes: Mapping[str, DPRDataPipe],
    test_metrics: Mapping[str, float],
    is_tied: bool,
) -> None:
    """Write the model card, ``manifest.json`` and ``report.html``, and print the test metrics.

    Args:
        folder: The run's folder, with the saved model in ``model/``.
        settings: All settings of the run.
        pipes: The data of each stage.
        test_metrics: By name.
        is_tied: One encoder embeds questions and passages.
    """
    card = folder / "model" / "README.md"
    write_model_card(card, settings=settings, pipes=pipes, test_metrics=test_metrics, is_tied=is_tied)
    write_manifest(folder, pipes, test_metrics)
    print(f"report: {write_run_report([str(folder)])}")
    print(f"model: {folder / 'model'}")
    print("test: " + "  ".join(f"{name.removeprefix('test_')} {value:.4f}" for name, value in test_metrics.items()))
