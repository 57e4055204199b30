"""Model card: the ``README.md`` of a saved model, with its usage, data, settings and test metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import text
from text.artifacts import write_text
from text.datasets import DPRDataPipe, find_same_data, hash_data
from text.templates import render_template

# The card is shared with the model, so it must not show paths or hardware of the machine.
_LEFT_OUT = set(
    "gpus num_nodes fast_dev_run chunk_tokens data_path train_files valid_file test_file collection token_cache "
    "output_dir overwrite resume num_workers log_every_n_steps validate_first".split()
)
_PATH_SETTINGS = ("encoder", "tokenizer", "frozen_passages", "teacher_passages", "teacher_questions")
"""Settings that may be paths. The card shows only the last part of the path."""


def write_model_card(
    path: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any],
    pipes: Mapping[str, DPRDataPipe],
    test_metrics: Mapping[str, float],
    is_tied: bool | None,
) -> None:
    """Write the model card.

    Args:
        path: Path of the card, ``README.md`` in the folder of the model.
        settings: All settings of the run. The card omits paths of data and settings that are None or empty.
        pipes: The data of each split.
        test_metrics: Test metrics by name. Empty without test data.
        is_tied: Whether one encoder embeds both questions and passages. None for a reranker.
    """
    model: dict[str, Any]
    if is_tied is None:
        model = {"pair_max_length": settings["pair_max_length"]}
    else:
        model = {
            "is_tied": is_tied,
            "similarity": "cosine similarity" if settings["similarity"] == "cosine" else "dot product",
            "question_max_length": settings["question_max_length"],
            "passage_max_length": settings["passage_max_length"],
            "example_passage": '("its title", "its text")' if settings["titles"] == "pair" else '"its title its text"',
        }
    page = render_template(
        "reranker_card.md" if is_tied is None else "model_card.md",
        version=text.__version__,
        **model,
        files=[
            (split, Path(file.path).name, f"{num_rows:,}")
            for split, pipe in pipes.items()
            for file, num_rows in zip(pipe.files, pipe.rows_per_set, strict=True)
        ],
        data_notes=_describe_data(pipes),
        has_test="test" in pipes,
        results=[(name.removeprefix("test_"), f"{value:.4f}") for name, value in test_metrics.items()],
        settings=[
            (name, Path(value).name if name in _PATH_SETTINGS else value)
            for name, value in settings.items()
            if name not in _LEFT_OUT and value not in (None, [], "")
        ],
    )
    write_text(path, page)


def _describe_data(pipes: Mapping[str, DPRDataPipe]) -> list[str]:
    """Return notes about the validation and test data that readers of the metrics need."""
    notes = find_same_data(hash_data(pipes))
    if "valid" not in pipes:
        notes.append("There was no validation data. The model is from the last training step.")
    elif pipes["valid"].is_part:
        notes.append("The validation questions are held out from the training files.")
    if "test" not in pipes:
        notes.append("There was no test data.")
    return notes
