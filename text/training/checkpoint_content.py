"""Check the content of a checkpoint before any of it is used.

The hash of a checkpoint reveals damage, but not who wrote the file. So keys, types and shapes are compared with those
that the run itself would save, and counts are checked against each other. Optimizer settings and file paths are taken
from the run, not from the checkpoint. Numbers that may have any value, such as weights, cannot be checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer

from text.errors import ArtifactError
from text.training.data_module import DPRDataModule
from text.training.lightning_internals import check_progress, get_loop_states, is_between_steps
from text.training.saved_state import (
    StateError,
    check_dict,
    check_equal,
    check_keys,
    check_length,
    check_like,
    check_plain,
    check_tensor,
)

_HEAD: dict[str, Any] = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": ""}
_DICTS = ("state_dict", "loops", "callbacks")
_LISTS = ("optimizer_states", "lr_schedulers")
_OLDEST_VERSION = (2, 6)
"""Oldest supported Lightning version. Lightning migrates older checkpoints before their content can be checked."""
_FIXED_SETTINGS = ("params", "betas", "eps", "weight_decay", "initial_lr", "amsgrad", "maximize")
"""Settings of AdamW that must not change. The schedule sets the learning rate; the rest only affect the computation."""
_SCALER = "MixedPrecision"
"""Key of the loss scale of float16 training."""


def check_head(content: Any, path: str) -> dict[str, Any]:
    """Check the types of the parts of a checkpoint, and return its content. The parts are not compared yet.

    Args:
        content: The object that the file holds.
        path: The checkpoint, for the error message.

    Raises:
        ArtifactError: A part is missing or has the wrong type. The message names the path and the key.
    """
    try:
        check_plain(content)
        check_dict(content, "the content")
        if missing := [name for name in (*_HEAD, *_DICTS, *_LISTS) if name not in content]:
            raise StateError(f"{missing[0]}: missing.")
        for name, example in _HEAD.items():
            check_like(content[name], example, name)
        for name in _DICTS:
            check_dict(content[name], name)
        for name, state in content["callbacks"].items():
            check_dict(state, f"callbacks.{name}")
        for name in _LISTS:
            check_length(content[name], 1, name)
        wrote = re.match(r"(\d{1,9})\.(\d{1,9})\.\d", content["pytorch-lightning_version"])
        if wrote is None or (int(wrote[1]), int(wrote[2])) < _OLDEST_VERSION:
            raise StateError(f"pytorch-lightning_version: must be {'.'.join(map(str, _OLDEST_VERSION))} or later.")
        return content
    except StateError as error:
        raise ArtifactError(f"{path}: not a checkpoint of this library: {error} Give a checkpoint of a run.") from None


def check_content(
    content: dict[str, Any],
    path: str,
    *,
    trainer: Trainer,
    task: LightningModule,
    optimizer: torch.optim.Optimizer,
    data: DPRDataModule | None,
) -> None:
    """Check that a run can resume from a checkpoint, and put the run's own optimizer settings into the content.

    Args:
        content: Content of the checkpoint, already checked by ``check_head``.
        path: The checkpoint, for the error message.
        trainer: The trainer of the run.
        task: The task of the run.
        optimizer: A new optimizer of the task.
        data: The data of the run.

    Raises:
        ArtifactError: A part is missing, has the wrong form, or contradicts another part. The message names the path
            and the key.
    """
    try:
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0).state_dict()
        _check_weights(content["state_dict"], task)
        _check_optimizer(content, optimizer)
        _check_scheduler(content, schedule)
        _check_scaler(content, trainer)
        _check_position(content, path, trainer, data)
        _check_gradients(content, trainer, task)
        _check_epoch_metrics(content)
        _check_callbacks(content["callbacks"], trainer)
    except StateError as error:
        saved, ours = content["pytorch-lightning_version"], version("pytorch-lightning")
        versions = "" if saved == ours else f" It was written by pytorch-lightning {saved}; installed is {ours}."
        raise ArtifactError(
            f"{path}: cannot resume from this checkpoint: {error}{versions} "
            "Resume with the settings of the run that saved it, or start a new run."
        ) from None


def _check_weights(weights: Mapping[str, Any], task: LightningModule) -> None:
    ours = task.state_dict()
    check_keys(weights, ours, "state_dict")
    for name, tensor in ours.items():
        check_tensor(weights[name], tensor.shape, f"state_dict.{name}", is_float=tensor.is_floating_point())


def _check_optimizer(content: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    [found], key = content["optimizer_states"], "optimizer_states[0]"
    ours = optimizer.state_dict()["param_groups"]
    check_keys(found, ("state", "param_groups"), key)
    check_length(found["param_groups"], len(ours), f"{key}.param_groups")
    for number, (group, our_group) in enumerate(zip(found["param_groups"], ours, strict=True)):
        place = f"{key}.param_groups[{number}]"
        check_keys(group, _FIXED_SETTINGS, place, exact=False)
        for name in _FIXED_SETTINGS:
            check_equal(group[name], our_group[name], f"{place}.{name}")
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    _check_moments(found["state"], parameters, content, f"{key}.state")
    found["param_groups"] = ours


def _check_moments(states: Any, parameters: list[Any], content: dict[str, Any], key: str) -> None:
    """Check the AdamW state of each parameter. There is none before the first step, and float16 may skip steps."""
    num_steps, is_skipping = content["global_step"], _SCALER in content
    may_be_empty = num_steps == 0 or is_skipping
    check_keys(states, range(0 if may_be_empty and states == {} else len(parameters)), key)
    for number, state in states.items():
        place = f"{key}.{number}"
        check_keys(state, ("step", "exp_avg", "exp_avg_sq"), place)
        check_tensor(state["step"], (), f"{place}.step", is_float=True)
        for name in ("exp_avg", "exp_avg_sq"):
            check_tensor(state[name], parameters[number].shape, f"{place}.{name}", is_float=True)
        step = float(state["step"])
        if not (0 < step <= num_steps if is_skipping else step == num_steps) or step != float(states[0]["step"]):
            raise StateError(f"{place}.step: {step}. The checkpoint was saved after step {num_steps}.")
        if bool((state["exp_avg_sq"] < 0).any()):
            raise StateError(f"{place}.exp_avg_sq: has negative numbers.")


def _check_scheduler(content: dict[str, Any], ours: dict[str, Any]) -> None:
    [found], key = content["lr_schedulers"], "lr_schedulers[0]"
    num_steps = content["global_step"]
    check_keys(found, ("base_lrs", "last_epoch", "_last_lr"), key, exact=False)
    check_equal(found["base_lrs"], ours["base_lrs"], f"{key}.base_lrs")
    check_equal(found["last_epoch"], num_steps, f"{key}.last_epoch")
    check_like(found["_last_lr"], ours["_last_lr"], f"{key}._last_lr")
    content["lr_schedulers"] = [
        {**ours, "last_epoch": num_steps, "_step_count": num_steps + 1, "_last_lr": found["_last_lr"]}
    ]


def _check_scaler(content: dict[str, Any], trainer: Trainer) -> None:
    """Check the loss scale of float16 training. Other precisions have none."""
    ours = trainer.precision_plugin.state_dict()
    if bool(ours) != (_SCALER in content):
        raise StateError(f"{_SCALER}: the checkpoint was saved with another --precision.")
    if ours:
        found = content[_SCALER]
        check_like(found, ours, _SCALER)
        for name in ("growth_factor", "backoff_factor", "growth_interval"):
            check_equal(found[name], ours[name], f"{_SCALER}.{name}")
        if not 0 < found["scale"] < math.inf:
            raise StateError(f"{_SCALER}.scale: {found['scale']}; expected a finite number above 0.")


def _check_position(content: dict[str, Any], path: str, trainer: Trainer, data: DPRDataModule | None) -> None:
    """Check the progress of the run: Lightning's counts, and the position in the training data."""
    check_like(content["loops"], get_loop_states(trainer), "loops")
    if trainer.max_epochs is not None and -1 < trainer.max_epochs < content["epoch"]:
        raise StateError(f"epoch: {content['epoch']}. The run has {trainer.max_epochs} epochs.")
    if data is None:
        return
    name = type(data).__qualname__
    if name not in content:
        raise StateError(f"{name}: missing.")
    data.check_state(content[name], path)
    batch, is_last = check_progress(
        content["loops"],
        epoch=content["epoch"],
        num_steps=content["global_step"],
        num_batches=len(data.train),
        accumulated=trainer.accumulate_grad_batches,
    )
    for key, value in data.find_position(content["epoch"], batch, is_last=is_last).items():
        check_equal(content[name][key], value, f"{name}.{key}")


def _check_gradients(content: dict[str, Any], trainer: Trainer, task: LightningModule) -> None:
    """Check the gradients of the batches since the last optimizer step. In float16 they may be infinite."""
    key = "accumulated_gradients"
    is_between = is_between_steps(content["loops"], trainer)
    if is_between != (key in content):
        raise StateError(f"{key}: {'missing' if is_between else 'unexpected right after an optimizer step'}.")
    if is_between:
        trained = {name: each for name, each in task.named_parameters() if each.requires_grad}
        check_keys(content[key], trained, key)
        for name, parameter in trained.items():
            check_tensor(content[key][name], parameter.shape, f"{key}.{name}", is_float=_SCALER not in content)


def _check_epoch_metrics(content: dict[str, Any]) -> None:
    """Check the metrics of the epoch so far, and the number of steps of the schedule."""
    key = "epoch_figures"
    check_keys(content, (key, "num_steps"), "the content", exact=False)
    check_like(content["num_steps"], 0, "num_steps")
    check_keys(content[key], ("totals", "sizes"), key)
    sizes, totals = content[key]["sizes"], content[key]["totals"]
    check_keys(totals, check_dict(sizes, f"{key}.sizes"), f"{key}.totals")
    for name, size in sizes.items():
        check_like(size, 0, f"{key}.sizes.{name}")
        check_tensor(totals[name], (), f"{key}.totals.{name}", is_float=True)


def _check_callbacks(states: Mapping[str, Any], trainer: Trainer) -> None:
    """Check the callback states, by ``check_states`` of each callback that has it."""
    callbacks: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    for callback in callbacks:
        if hasattr(callback, "check_states"):
            callback.check_states(states)
