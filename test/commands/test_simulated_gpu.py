"""Whole training runs on a simulated GPU, compared with the same runs on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from test.commands.training import SMALL, read_metrics, run_train
from test.cuda_simulation import simulate_gpu

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FLAGS = (*SMALL, "--max_epochs=2", "--dropout=0", "--learning_rate=0.001", "--log_every_n_steps=1")


def read_losses(folder: Path) -> list[float]:
    return [float(row["train_loss_step"]) for row in read_metrics(folder) if row.get("train_loss_step")]


@pytest.mark.parametrize(
    ("flags", "kernel", "tolerance"),
    [
        ([], "efficient", 1e-4),
        (["--chunk_tokens=64", "--pooling=first"], "efficient", 1e-4),
        (["--chunk_tokens=64", "--activation_checkpointing", "--symmetric"], "efficient", 1e-4),
        (["--precision=bf16-mixed", "--chunk_tokens=64"], "flash", 2e-2),
        (["--precision=bf16-mixed", "--activation_checkpointing", "--tied"], "flash", 2e-2),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_run_has_the_losses_of_a_run_on_the_cpu(
    flags: list[str], kernel: str, tolerance: float, tmp_path: Path
) -> None:
    assert run_train(*FLAGS, *flags, f"--output_dir={tmp_path / 'cpu'}") == 0
    with simulate_gpu() as calls:
        assert run_train(*FLAGS, *flags, f"--output_dir={tmp_path / 'gpu'}") == 0
    assert {call.kernel for call in calls} >= {kernel}
    losses = read_losses(tmp_path / "gpu")
    assert losses == pytest.approx(read_losses(tmp_path / "cpu"), abs=tolerance) and losses[-1] < losses[0]
