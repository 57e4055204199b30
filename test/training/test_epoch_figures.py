"""Metrics of an epoch: by hand, after a resume, and in half precision."""

from __future__ import annotations

import torch

from text.training.epoch_figures import EpochFigures


def test_means_are_weighted_by_rows_and_sums_add_up() -> None:
    figures = EpochFigures()
    for loss, size in ((1.0, 3), (2.0, 1)):
        figures.add_mean("loss", torch.tensor(loss, requires_grad=True), size)
        figures.add_sum("left_out", 2.0)
    assert {name: value.item() for name, value in figures.compute().items()} == {"loss": 1.25, "left_out": 4}
    assert not figures.compute()["loss"].requires_grad
    figures.clear()
    assert figures.compute() == {}


def test_metrics_resumed_from_a_saved_state_equal_uninterrupted_ones() -> None:
    whole, parts = EpochFigures(), EpochFigures()
    for place, value in enumerate(torch.rand(9, generator=torch.Generator().manual_seed(0))):
        resumed = EpochFigures()
        resumed.load_state_dict(parts.state_dict())
        parts = resumed
        for figures in (whole, parts):
            figures.add_mean("loss", value, place + 1)
            if place > 4:  # a metric that appears late, such as that of a second data set
                figures.add_sum("late", 1.0)
    assert whole.compute() == parts.compute()


def test_half_precision_loses_no_batches() -> None:
    figures = EpochFigures()
    for _ in range(1000):  # a bfloat16 sum of ones stops growing at 256
        figures.add_mean("loss", torch.tensor(1.0, dtype=torch.bfloat16), 1)
    assert figures.compute()["loss"].item() == 1
