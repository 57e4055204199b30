"""Sums over a batch on all ranks: one small vector, one exchange between ranks, and one read by the host.

Dimensions: B questions of this rank; S data sets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from text.models.transfers import send_to
from text.records import TrainingBatch
from text.training.distributed import sum_over_ranks
from text.training.host_values import HostCopy


class TextCounts(NamedTuple):
    """Numbers of texts of a batch on all ranks."""

    num_truncated: float
    size: int
    num_left_out: float


class BatchResults(NamedTuple):
    """Results of a batch on all ranks, in host memory."""

    loss: Tensor
    """Mean loss of the questions. 0 without questions."""
    num_questions: int
    texts: dict[str, TextCounts]
    """Counts of the texts by their name: "questions" and "passages", or "pairs"."""
    sets: list[tuple[Tensor, int]]
    """Mean loss and number of questions of each data set."""


class BatchSums:
    """Sums over the questions and texts of a batch on all ranks. Every rank must build one for its share.

    The host does not wait for the sums until ``read``.

    Args:
        losses: (B,) losses of this rank's questions.
        batch: This rank's share of the batch.
        num_sets: Number of data sets, S, whose losses are summed separately. 0 leaves them out.
    """

    def __init__(self, losses: Tensor, batch: TrainingBatch, num_sets: int = 0) -> None:
        # The vector has the loss, the truncated texts of each kind, the questions, the texts and the texts left out of
        # each kind, and the losses and questions of each set. Only what the GPU computed comes from there.
        self._kinds = list(batch.texts)
        kinds = batch.texts.values()
        known = [
            float(len(losses)),
            *(float(len(tokens.lengths)) for tokens in kinds),
            *(float(batch.counts[f"{kind} left out, no tokens"]) for kind in self._kinds),
        ]
        computed = [losses.detach().sum(), *(tokens.truncated.sum().to(losses.dtype) for tokens in kinds)]
        known_sums = send_to(torch.tensor(known, dtype=losses.dtype), losses.device)
        sets = _sum_sets(losses.detach(), batch.sources, num_sets) if num_sets else []
        sums = sum_over_ranks(torch.cat([torch.stack(computed), known_sums, *sets]))
        self.num_questions = sums[len(computed)]
        """Number of questions of all ranks, as a scalar on the device of the losses."""
        self._num_sets = num_sets
        self._copy = HostCopy(sums)

    def read(self) -> BatchResults:
        """Wait for the sums, and return the results."""
        values = self._copy.read()
        num_kinds = len(self._kinds)
        loss, num_questions = values[0], values[1 + num_kinds]
        starts = (1, 2 + num_kinds, 2 + 2 * num_kinds)
        truncated, sizes, left_out = (values[start : start + num_kinds].tolist() for start in starts)
        texts = {
            kind: TextCounts(truncated[place], int(sizes[place]), left_out[place])
            for place, kind in enumerate(self._kinds)
        }
        set_losses, set_sizes = values[2 + 3 * num_kinds :].reshape(2, self._num_sets)
        sets = [(_divide(each, size), int(size)) for each, size in zip(set_losses, set_sizes, strict=True)]
        return BatchResults(_divide(loss, num_questions), int(num_questions), texts, sets)


def _sum_sets(losses: Tensor, sources: Tensor, num_sets: int) -> list[Tensor]:
    """Return the sums of the losses and the numbers of questions of data sets: (S,) each."""
    is_in_set = sources == torch.arange(num_sets, device=sources.device)[:, None]  # (S, B)
    return [losses.expand_as(is_in_set).masked_fill(~is_in_set, 0).sum(dim=1), is_in_set.sum(dim=1).to(losses.dtype)]


def _divide(total: Tensor, size: Tensor) -> Tensor:
    return total / size.clamp(min=1)
