"""Metrics of an epoch: by hand, after a resume, and in half precision."""

from __future__ import annotations

import torch

from text.training.epoch_metrics import EpochMetrics


def test_means_are_weighted_by_rows_and_sums_add_up() -> None:
    metrics = EpochMetrics()
    for loss, size in ((1.0, 3), (2.0, 1)):
        metrics.add_mean("loss", torch.tensor(loss, requires_grad=True), size)
        metrics.add_sum("left_out", 2.0)
    assert {name: value.item() for name, value in metrics.compute().items()} == {"loss": 1.25, "left_out": 4}
    assert not metrics.compute()["loss"].requires_grad
    metrics.clear()
    assert metrics.compute() == {}


def test_metrics_resumed_from_a_saved_state_equal_uninterrupted_ones() -> None:
    whole, parts = EpochMetrics(), EpochMetrics()
    for place, value in enumerate(torch.rand(9, generator=torch.Generator().manual_seed(0))):
        resumed = EpochMetrics()
        resumed.load_state_dict(parts.state_dict())
        parts = resumed
        for metrics in (whole, parts):
            metrics.add_mean("loss", value, place + 1)
            if place > 4:  # a metric that appears late, such as that of a second data set
                metrics.add_sum("late", 1.0)
    assert whole.compute() == parts.compute()


def test_half_precision_loses_no_batches() -> None:
    metrics = EpochMetrics()
    for _ in range(1000):  # a bfloat16 sum of ones stops growing at 256
        metrics.add_mean("loss", torch.tensor(1.0, dtype=torch.bfloat16), 1)
    assert metrics.compute()["loss"].item() == 1
