"""Callbacks around a training step: speed, progress bar, precision, random state and accumulated gradients."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor

from text.records import TrainingBatch
from text.training.distributed import AllRanks, get_rank, get_world_size, sum_over_ranks
from text.training.host_values import log_on_host
from text.training.lightning_internals import close_bars, count_trained_batches, is_last_batch
from text.training.saved_state import StateError, check_keys, check_tensor, find_state


class Throughput(Callback):
    """Callback that logs the questions trained per second, and the share of padding in this rank's batches.

    Both are averages over the batches between two rows of the logs. Time spent waiting for data counts, validation
    does not.
    """

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._paused, self._pause_began = 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        num_batches = trainer.log_every_n_steps * trainer.accumulate_grad_batches  # pyright: ignore
        self._batches = deque([_Batch(self._read_clock(), 0, 0, 0)], maxlen=num_batches + 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._pause_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again."""
        self._paused += time.perf_counter() - self._pause_began

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TrainingBatch, batch_idx: int
    ) -> None:
        """Log speed and padding of the latest batches."""
        sides = batch.texts.values()
        num_tokens = sum(int(tokens.lengths.sum()) for tokens in sides)
        num_positions = sum(tokens.input_ids.numel() for tokens in sides)
        num_questions = len(batch.positive_index) * trainer.world_size
        self._batches.append(_Batch(self._read_clock(), num_questions, num_tokens, num_positions))
        before, *batches = self._batches
        seconds = batches[-1].ended - before.ended
        padding = 1 - sum(b.num_tokens for b in batches) / max(1, sum(b.num_positions for b in batches))
        speed = sum(b.num_questions for b in batches) / seconds
        for name, value in (("examples/s", speed), ("padding", padding)):
            log_on_host(pl_module, name, value, prog_bar=True)

    def _read_clock(self) -> float:
        """Return the time in seconds, without the time of validations."""
        return time.perf_counter() - self._paused


class _Batch(NamedTuple):
    ended: float
    num_questions: int
    num_tokens: int
    num_positions: int


class ProgressBar(TQDMProgressBar):
    """Progress bar that shows the epoch and the total after a resume inside an epoch. Lightning's bar does not."""

    def on_train_start(self, *_: Any) -> None:
        """Set the epoch and the total, which Lightning sets only if an epoch starts from its first batch."""
        super().on_train_start(*_)
        self.on_train_epoch_start(*_)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that an error message starts on a line of its own."""
        close_bars(self)


class TensorFloat32(Callback):
    """Callback that lets a GPU compute float32 matrix products in TF32 while a Trainer runs.

    The setting belongs to the process, so the earlier one is restored at the end.
    """

    def __init__(self) -> None:
        self._before = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Allow TF32."""
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the earlier setting."""
        torch.set_float32_matmul_precision(self._before)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the earlier setting. Lightning calls no ``teardown`` after an error."""
        torch.set_float32_matmul_precision(self._before)


class AccumulatedGradients(Callback):
    """Callback that saves the gradients accumulated since the last optimizer step, so that no batch is lost.

    A checkpoint holds the mean of the ranks' gradients, which is what the next optimizer step uses.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Tensor] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the accumulated gradients. Every rank must call this, as Lightning does."""
        is_between = count_trained_batches(trainer) % trainer.accumulate_grad_batches and not is_last_batch(trainer)
        if is_between:
            named = ((name, weights.grad) for name, weights in pl_module.named_parameters())
            found = {
                name: sum_over_ranks(gradient) / get_world_size() for name, gradient in named if gradient is not None
            }
            checkpoint["accumulated_gradients"] = self._restored or found  # may be saved again before the first step

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load the accumulated gradients for the next training batch."""
        self._restored = checkpoint.get("accumulated_gradients", {})

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: TrainingBatch, batch_idx: int
    ) -> None:
        """Put loaded gradients back into the parameters, once."""
        for name, gradient in self._restored.items():
            weights = pl_module.get_parameter(name)
            weights.grad = gradient.to(weights)
        self._restored = {}


class RandomState(Callback):
    """Callback that saves the state of torch's random number generators, so that dropout resumes exactly.

    The state is restored at the first training step, so random numbers drawn while a run starts (such as those that
    initialize an encoder) do not change it. Each rank has its own state.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed each rank differently, so that ranks do not share dropout masks."""
        if trainer.world_size > 1:
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)

    def check_states(self, states: Mapping[str, Any]) -> None:
        """Check the random states in a checkpoint: those of at least one rank, for the CPU and each GPU.

        Raises:
            StateError: A state is missing or invalid.
        """
        state, key = find_state(states, self.state_key)
        check_keys(state, ("cpu", "cuda"), key)
        if not isinstance(state["cuda"], list):
            raise StateError(f"{key}.cuda: expected a list.")
        _check_random_states(state["cpu"], torch.Generator(), f"{key}.cpu")
        for number, device_states in enumerate(state["cuda"]):
            generator = torch.Generator("cuda") if torch.cuda.is_available() else None
            _check_random_states(device_states, generator, f"{key}.cuda[{number}]")

    def state_dict(self) -> dict[str, Any]:
        """Return the random states of all ranks. Every rank must call this, as Lightning does."""
        if self._restored is not None:  # saved again before the first step
            return self._restored
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {"cpu": _gather_states(torch.get_rng_state()), "cuda": [_gather_states(state) for state in cuda]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the loaded states for the first training step."""
        self._restored = state_dict

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: TrainingBatch, batch_idx: int
    ) -> None:
        """Restore loaded states before the first training step."""
        if self._restored is not None:
            torch.set_rng_state(_select_state(self._restored["cpu"]))
            # The checkpoint may come from a machine with more GPUs or fewer, so zip is not strict.
            for device, states in zip(range(torch.cuda.device_count()), self._restored["cuda"], strict=False):
                torch.cuda.set_rng_state(_select_state(states), device)
            self._restored = None


def _check_random_states(states: Any, generator: torch.Generator | None, key: str) -> None:
    """Check random states of ranks, (ranks, bytes), by loading them into a generator of their device.

    Without a generator, only the shape and the type are checked.
    """
    width = None if generator is None else generator.get_state().numel()
    if not isinstance(states, Tensor) or states.dim() != 2 or not len(states) or states.dtype != torch.uint8:
        raise StateError(f"{key}: expected a uint8 tensor of shape (ranks, bytes).")
    check_tensor(states, (len(states), width or states.shape[1]), key)
    try:
        for state in states if generator is not None else ():
            generator.set_state(state.clone())  # pyright: ignore[reportOptionalMemberAccess]
    except RuntimeError:
        raise StateError(f"{key}: not a random number generator state of this PyTorch version.") from None


def _gather_states(state: Tensor) -> Tensor:
    """Return the states of all ranks: (bytes,) to (ranks, bytes)."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_initialized() else torch.device("cpu")
    return AllRanks([1] * get_world_size()).gather(state[None].to(device)).cpu()


def _select_state(states: Tensor) -> Tensor:
    """Return the state of this rank. If fewer ranks saved states than run now, several ranks share a state."""
    return states.cpu()[get_rank() % len(states)].clone()  # torch misreads a view of a larger tensor
