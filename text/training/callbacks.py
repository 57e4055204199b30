"""Callbacks around a training step: speed, progress bar, random state and accumulated gradients."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor

from text.records import BiEncoderBatch
from text.training.distributed import AllRanks, num_ranks, this_rank, total
from text.training.lightning_internals import close_bars, count_trained_batches, is_last_batch
from text.training.saved_state import StateError, check_keys, check_tensor, find_state


class Throughput(Callback):
    """Shows and logs questions trained per second, and the share of padding in what this process embeds.

    Both are of as many batches as lie between two rows of the logs. Waiting for data counts, validation does not.
    """

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._paused, self._pause_began = 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        num_batches = trainer.log_every_n_steps * trainer.accumulate_grad_batches  # pyright: ignore
        self._batches = deque([_Batch(self._clock(), 0, 0, 0)], maxlen=num_batches + 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused += time.perf_counter() - self._pause_began

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: BiEncoderBatch, batch_idx: int
    ) -> None:
        masks = (batch.questions.attention_mask, batch.passages.attention_mask)
        num_tokens, num_places = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
        num_questions = len(batch.positive_index) * trainer.world_size
        self._batches.append(_Batch(self._clock(), num_questions, num_tokens, num_places))
        before, *batches = self._batches
        seconds = batches[-1].ended - before.ended
        padding = 1 - sum(b.num_tokens for b in batches) / max(1, sum(b.num_places for b in batches))
        pl_module.log("examples/s", sum(b.num_questions for b in batches) / seconds, prog_bar=True)
        pl_module.log("padding", padding, prog_bar=True)

    def _clock(self) -> float:
        """Seconds, without those of validations."""
        return time.perf_counter() - self._paused


class _Batch(NamedTuple):
    ended: float
    num_questions: int
    num_tokens: int
    num_places: int


class ProgressBar(TQDMProgressBar):
    """Lightning's, which in an epoch that is gone on with shows neither its number nor how many batches it has."""

    def on_train_start(self, *_: Any) -> None:
        super().on_train_start(*_)
        self.on_train_epoch_start(*_)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the line of a bar, so that an error begins on a line of its own."""
        close_bars(self)


class AccumulatedGradients(Callback):
    """Keeps gradients in a checkpoint between two optimizer steps, so that batches since the last one are not lost.

    The ranks' own ones are not told apart: their mean is what the next step takes.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Tensor] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Every rank must call this, as Lightning does."""
        is_between = count_trained_batches(trainer) % trainer.accumulate_grad_batches and not is_last_batch(trainer)
        if is_between:
            named = ((name, weights.grad) for name, weights in pl_module.named_parameters())
            found = {name: total(gradient) / num_ranks() for name, gradient in named if gradient is not None}
            checkpoint["accumulated_gradients"] = self._restored or found  # may be saved again before the first step

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint.get("accumulated_gradients", {})

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: BiEncoderBatch, batch_idx: int
    ) -> None:
        for name, gradient in self._restored.items():
            weights = pl_module.get_parameter(name)
            weights.grad = gradient.to(weights)
        self._restored = {}


class RandomState(Callback):
    """Keeps the state of torch's random numbers in checkpoints, so that dropout resumes as it was.

    The state is put back at the first training step: whatever else draws random numbers while a
    run starts, such as building an encoder, has no part in it. Each rank has a state of its own.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)

    def check_states(self, states: Mapping[str, Any]) -> None:
        """Check the random states in a checkpoint: of one rank or more, for the CPU and each GPU.

        Raises:
            StateError: They are missing or none.
        """
        state, key = find_state(states, self.state_key)
        check_keys(state, ("cpu", "cuda"), key)
        if not isinstance(state["cuda"], list):
            raise StateError(f"{key}.cuda: it must be a list.")
        _check_random_states(state["cpu"], torch.Generator(), f"{key}.cpu")
        for number, of_device in enumerate(state["cuda"]):
            generator = torch.Generator("cuda") if torch.cuda.is_available() else None
            _check_random_states(of_device, generator, f"{key}.cuda[{number}]")

    def state_dict(self) -> dict[str, Any]:
        """Every rank must call this, as Lightning does."""
        if self._restored is not None:  # saved again before the first step
            return self._restored
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {"cpu": _of_all_ranks(torch.get_rng_state()), "cuda": [_of_all_ranks(state) for state in cuda]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: BiEncoderBatch, batch_idx: int
    ) -> None:
        if self._restored is not None:
            torch.set_rng_state(_of_this_rank(self._restored["cpu"]))
            # Of more GPUs than are here, as many.
            for device, states in zip(range(torch.cuda.device_count()), self._restored["cuda"], strict=False):
                torch.cuda.set_rng_state(_of_this_rank(states), device)
            self._restored = None


def _check_random_states(states: Any, generator: torch.Generator | None, key: str) -> None:
    """Check random states of ranks, (ranks, bytes), in a generator of their device. Without a device, any bytes do."""
    width = None if generator is None else generator.get_state().numel()
    if not isinstance(states, Tensor) or states.dim() != 2 or not len(states) or states.dtype != torch.uint8:
        raise StateError(f"{key}: it must be random states of ranks, (ranks, bytes).")
    check_tensor(states, (len(states), width or states.shape[1]), key)
    try:
        for state in states if generator is not None else ():
            generator.set_state(state.clone())  # pyright: ignore[reportOptionalMemberAccess]
    except RuntimeError:
        raise StateError(f"{key}: not a state of the random numbers of this PyTorch.") from None


def _of_all_ranks(state: Tensor) -> Tensor:
    """(bytes,) to (ranks, bytes)."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_initialized() else torch.device("cpu")
    return AllRanks(1, device).gather(state[None].to(device)).cpu()


def _of_this_rank(states: Tensor) -> Tensor:
    """Return the state of this rank. If there were fewer ranks, several ranks share a state."""
    return states.cpu()[this_rank() % len(states)].clone()  # torch misreads a state that is a view of several
