"""Loaders: how many workers they start, and how batches reach a GPU."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from test.training.conftest import Run
from text.training import data_module
from text.training.data_module import choose_num_workers


@pytest.mark.parametrize(
    ("num_gpus", "num_cpus", "expected"),
    [(0, 64, 0), (1, 64, 4), (1, 4, 3), (1, 2, 1), (1, 1, 1), (8, 32, 3), (8, 8, 1), (8, 208, 4)],
)
def test_a_gpu_has_as_many_workers_as_cpus_are_free(
    monkeypatch: pytest.MonkeyPatch, num_gpus: int, num_cpus: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(num_cpus)), raising=False)
    assert choose_num_workers(num_gpus) == expected


@pytest.mark.parametrize(
    ("device", "given", "expected"),
    [("cpu", None, (0, False)), ("cpu", 2, (2, False)), ("cuda:0", None, (3, True)), ("cuda:0", 0, (0, True))],
)
def test_a_gpu_gets_pinned_batches_from_workers(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, given: Any, expected: tuple[int, bool]
) -> None:
    built = []
    monkeypatch.setattr(data_module, "DataLoader", lambda batches, **options: built.append(options) or [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    data: Any = Run(rows, tmp_path).data
    data.num_workers = given
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), num_devices=1)
    assert list(data.val_dataloader()) == list(data.test_dataloader()) == []
    assert [(options["num_workers"], options["pin_memory"]) for options in built] == [expected] * 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_lengths_stay_on_the_host(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    run = Run(rows, tmp_path, num_workers=num_workers)
    loader: Any = run.data.val_dataloader()
    batch = run.task.transfer_batch_to_device(next(iter(loader)), torch.device("meta"), 0)
    for tokens in (batch.questions, batch.passages):
        assert isinstance(tokens.lengths, np.ndarray) and tokens.input_ids.device.type == "meta"
    assert batch.questions.lengths.min() > 2
