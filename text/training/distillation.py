"""Parts of the objectives that learn from a teacher's scores: the checks of the settings, and the mix of two losses.

Dimensions: B questions.
"""

from __future__ import annotations

import math

from torch import Tensor

DISTILLATION_LOSSES = ("kl", "margin_mse")


def check_teacher_settings(
    *, guide_margin: float | None, distillation: float, distillation_loss: str, teacher_temperature: float
) -> None:
    """Check the settings that two objectives share. ``Objective`` documents them.

    Raises:
        ValueError: A number is out of range, or the distillation loss is unknown.
    """
    if not 0 < teacher_temperature < math.inf:
        raise ValueError(f"teacher_temperature is {teacher_temperature}; expected a number above 0")
    if guide_margin is not None and not math.isfinite(guide_margin):
        raise ValueError(f"guide_margin is {guide_margin}; expected a finite number")
    if not 0 <= distillation <= 1:
        raise ValueError(f"distillation is {distillation}; expected a weight from 0 to 1")
    if distillation_loss not in DISTILLATION_LOSSES:
        raise ValueError(f'distillation_loss is "{distillation_loss}"; expected "kl" or "margin_mse"')


def mix_losses(
    losses: Tensor, taught: Tensor, *, weight: float, num_scores: Tensor, has_positive: Tensor, distillation_loss: str
) -> Tensor:
    """Return the contrastive losses mixed with the distillation losses, (B,).

    A question needs two scores of the teacher; for "margin_mse", one of them is the positive's. Other questions keep
    the contrastive loss.

    Args:
        losses: (B,) float. Contrastive loss of each question.
        taught: (B,) float. Distillation loss of each question.
        weight: Weight of the distillation loss, from 0 to 1.
        num_scores: (B,) number of the question's passages with a score.
        has_positive: (B,) bool. True if the question's positive has a score.
        distillation_loss: "kl" or "margin_mse".
    """
    is_taught = num_scores > 1
    if distillation_loss == "margin_mse":
        is_taught = is_taught & has_positive
    share = weight * is_taught
    return (1 - share) * losses + share * taught
