"""Checkpoints with a valid hash but unusable content are rejected before any part of them is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from test.training.conftest import Interrupt, Run, SaveAndStop, write_rows
from text.errors import ArtifactError
from text.models import BiEncoder, roberta_tiny
from text.training import AtomicCheckpointIO, BiEncoderTask, StepFailures, build_checkpoint_callbacks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
_SCHEDULE = "'every_n_train_steps': 0, 'every_n_epochs': 1, 'train_time_interval': None"
BEST = f"_Checkpoint{{'monitor': 'valid_loss', 'mode': 'min', {_SCHEDULE}}}"
LAST = BEST.replace("'valid_loss'", "None")


class StoppedRun:
    """Run of 9 steps that was stopped after step 4, in its second epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.rows = write_rows(folder / "rows.jsonl")
        self.checkpoint = self.folder / "stopped.ckpt"
        with pytest.raises(Interrupt):
            self.build_run(SaveAndStop(4, self.checkpoint)).fit()

    def build_run(self, *callbacks: Any, **options: Any) -> Run:
        keep = [StepFailures(), *build_checkpoint_callbacks(self.folder, "valid_loss", "min")]
        return Run(self.rows, self.folder, callbacks=[*callbacks, *keep], enable_checkpointing=True, **options)

    def write_changed(self, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
        """Write the checkpoint with changed content and a valid hash."""
        content = AtomicCheckpointIO().load_checkpoint(self.checkpoint)
        change(content)
        AtomicCheckpointIO().save_checkpoint(content, path)
        return path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> StoppedRun:
    return StoppedRun(tmp_path_factory.mktemp("stopped"))


def get_moments(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizer_states"][0]["state"][3]


def get_groups(content: dict[str, Any]) -> list[dict[str, Any]]:
    return content["optimizer_states"][0]["param_groups"]


def get_counts(content: dict[str, Any]) -> dict[str, Any]:
    return content["loops"]["fit_loop"]["epoch_loop.batch_progress"]


NORM = "model.question_encoder.embeddings.norm.bias"


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("state_dict.x", lambda c: c["state_dict"].update(x=torch.zeros(1))),
        (NORM, lambda c: c["state_dict"].pop(NORM)),
        (NORM, lambda c: c["state_dict"].update({NORM: torch.zeros(3)})),
        (NORM, lambda c: c["state_dict"][NORM].fill_(torch.nan)),
        (NORM, lambda c: c["state_dict"].update({NORM: c["state_dict"][NORM].int()})),
        ("loops.fit_loop", lambda c: c.update(loops={})),
        ("batch_progress.current.ready", lambda c: get_counts(c)["current"].update(ready=-1)),
        ("batch_progress", lambda c: get_counts(c)["current"].update(ready=9, started=9, processed=9)),
        ("batch_progress.total", lambda c: get_counts(c)["total"].update(ready=9)),
        ("is_last_batch", lambda c: get_counts(c).update(is_last_batch=True)),
        ("step", lambda c: c.update(global_step=5)),
        ("epoch", lambda c: c.update(epoch=2)),
        ("DPRDataModule", lambda c: c.pop("DPRDataModule")),
        ("DPRDataModule.row", lambda c: c["DPRDataModule"].update(row=8)),
        ("DPRDataModule.row", lambda c: c["DPRDataModule"].update(row="4")),
        ("DPRDataModule.seed", lambda c: c["DPRDataModule"].pop("seed")),
        ("param_groups", lambda c: get_groups(c).pop()),
        ("params", lambda c: get_groups(c)[0]["params"].pop()),
        ("eps", lambda c: get_groups(c)[0].update(eps=1.0)),
        ("weight_decay", lambda c: get_groups(c)[1].pop("weight_decay")),
        ("state.3", lambda c: c["optimizer_states"][0]["state"].pop(3)),
        ("exp_avg", lambda c: get_moments(c).update(exp_avg=torch.zeros(2))),
        ("exp_avg_sq", lambda c: get_moments(c)["exp_avg_sq"].fill_(-1)),
        ("exp_avg", lambda c: get_moments(c).update(exp_avg=torch.zeros(1).expand(get_moments(c)["exp_avg"].shape))),
        ("state.3.step", lambda c: get_moments(c).update(step=torch.tensor(3.0))),
        ("last_epoch", lambda c: c["lr_schedulers"][0].update(last_epoch=5)),
        ("base_lrs", lambda c: c["lr_schedulers"][0].update(base_lrs=[1.0, 1.0])),
        ("num_steps", lambda c: c.pop("num_steps")),
        ("epoch_figures", lambda c: c["epoch_figures"]["totals"].clear()),
        ("MixedPrecision", lambda c: c.update(MixedPrecision={"scale": 1.0})),
        ("accumulated_gradients", lambda c: c.update(accumulated_gradients={})),
        ("RandomState", lambda c: c.update(callbacks={})),
        ("RandomState.cpu", lambda c: c["callbacks"]["RandomState"].update(cpu=torch.zeros(0, 3))),
        ("RandomState.cpu", lambda c: c["callbacks"]["RandomState"]["cpu"].fill_(255)),
        ("RandomState.cuda", lambda c: c["callbacks"]["RandomState"].update(cuda=[3])),
        ("StepFailures.skipped", lambda c: c["callbacks"]["StepFailures"].update(skipped=-3)),
        ("valid_loss", lambda c: c["callbacks"].pop(BEST)),
        ("valid_loss", lambda c: c["callbacks"][BEST].update(best_model_score=torch.tensor(0.0))),
        ("valid_loss", lambda c: c["callbacks"][BEST].update(best_model_path="")),
        ("valid_loss", lambda c: c["callbacks"][BEST].update(best_k_models=[1])),
    ],
)
def test_unusable_content_is_rejected_with_its_key(
    stopped: StoppedRun, tmp_path: Path, key: str, change: Callable[[dict[str, Any]], object]
) -> None:
    path = stopped.write_changed(tmp_path / "changed.ckpt", change)
    run = stopped.build_run()
    before = sorted(stopped.folder.rglob("*"))
    with pytest.raises(ArtifactError) as caught:
        run.fit(path)
    assert str(caught.value).startswith(f"{path}: ") and key in str(caught.value), caught.value
    assert run.trainer.global_step == 0 and sorted(stopped.folder.rglob("*")) == before


def test_another_encoder_is_rejected_with_the_weight_that_differs(stopped: StoppedRun) -> None:
    run = stopped.build_run()
    word: Any = run.task.model.question_encoder.embeddings.word  # pyright: ignore
    size = int(word.num_embeddings)
    sides = [roberta_tiny(vocab_size=size, pooling="mean", max_position_embeddings=n) for n in (40, 34)]
    for encoders, key in (((sides[0], sides[0]), "position.weight"), ((sides[1], roberta_tiny(vocab_size=size)), "")):
        run = stopped.build_run()
        run.task = BiEncoderTask(BiEncoder(*encoders), learning_rate=1e-3, warmup_steps=2)
        with pytest.raises(ArtifactError, match=f"^{stopped.checkpoint}: .*{key}"):
            run.fit(stopped.checkpoint)


def test_untied_encoders_are_rejected(stopped: StoppedRun) -> None:
    run = stopped.build_run()
    word: Any = run.task.model.question_encoder.embeddings.word  # pyright: ignore
    size = int(word.num_embeddings)
    sides = [roberta_tiny(vocab_size=size, pooling="mean", max_position_embeddings=34) for _ in range(2)]
    run.task = BiEncoderTask(BiEncoder(*sides), learning_rate=1e-3, warmup_steps=2)
    with pytest.raises(ArtifactError, match=r"param_groups\[0\]\.params"):
        run.fit(stopped.checkpoint)


def test_fewer_epochs_than_the_checkpoint_has_are_rejected(stopped: StoppedRun) -> None:
    with pytest.raises(ArtifactError, match=r"epoch: 1\b"):
        stopped.build_run(max_epochs=0).fit(stopped.checkpoint)


def test_paths_in_a_checkpoint_are_never_followed(stopped: StoppedRun, tmp_path: Path) -> None:
    """When a better checkpoint is saved, Lightning deletes the file that its state names as the best one so far."""
    foreign = tmp_path / "foreign.ckpt"
    content = (stopped.folder / "best.ckpt").read_bytes()
    foreign.write_bytes(content)

    def point_away(content: dict[str, Any]) -> None:
        for key in (BEST, LAST):
            state = content["callbacks"][key]
            state.update({name: str(foreign) for name in state if name.endswith("path")}, dirpath=str(tmp_path))
            state["best_k_models"] = {str(foreign): score for score in state["best_k_models"].values()}

    path = stopped.write_changed(stopped.folder / "changed.ckpt", point_away)
    run = stopped.build_run().fit(path)
    assert run.trainer.global_step == 9 and foreign.read_bytes() == content
    for callback in run.trainer.checkpoint_callbacks:
        state: Any = callback.state_dict()
        assert str(tmp_path) not in str(state)
    # If best.ckpt is missing from the folder, the file named in the checkpoint does not replace it.
    (stopped.folder / "best.ckpt").unlink()
    with pytest.raises(ArtifactError, match=r"best\.ckpt: missing"):
        stopped.build_run().fit(path)
    (stopped.folder / "best.ckpt").write_bytes(content)


def test_best_checkpoint_with_a_worse_metric_is_rejected(stopped: StoppedRun, tmp_path: Path) -> None:
    best = stopped.folder / "best.ckpt"
    before = best.read_bytes()

    def worsen(content: dict[str, Any]) -> None:
        state = content["callbacks"][BEST]
        state["best_model_score"] = state["kth_value"] = torch.tensor(99.0)
        state["best_k_models"] = {"x": torch.tensor(99.0)}

    stopped.write_changed(best, worsen)
    with pytest.raises(ArtifactError, match=f"^{best}: .*99"):
        stopped.build_run().fit(stopped.checkpoint)
    best.write_bytes(before)


def test_run_resumed_in_another_folder_copies_the_best_checkpoint(stopped: StoppedRun, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    keep = [StepFailures(), *build_checkpoint_callbacks(moved, "valid_loss", "min")]
    best = (stopped.folder / "best.ckpt").read_bytes()
    with pytest.raises(Interrupt):
        Run(stopped.rows, moved, callbacks=[SaveAndStop(5, moved / "x.ckpt"), *keep], enable_checkpointing=True).fit(
            stopped.checkpoint
        )
    assert (moved / "best.ckpt").read_bytes() == best
    assert keep[1].best_model_path == str(moved / "best.ckpt")  # pyright: ignore[reportAttributeAccessIssue]
