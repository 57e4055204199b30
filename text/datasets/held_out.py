"""Choice of the questions that are held out of a data set for validation.

Rows with the same question, or the same question id, always go to the same side, even from different files. All other
rows are training data. No file is copied.

Dimensions: U usable rows of all files; G groups of rows with the same question or question id.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from text.datasets.row_index import RowIndex
from text.errors import UsageError

_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Constants of SplitMix64, a hash of 64-bit numbers."""


def draw_held_out(indexes: Sequence[RowIndex], share: float, seed: int) -> list[np.ndarray]:
    """Return the held-out rows of each file, in ascending order.

    The choice depends on the questions, their ids and the seed. It does not depend on the order of rows and files.

    Args:
        indexes: Index of each file.
        share: Share of the groups to hold out, above 0 and below 1. Rounded to a whole number of groups.
        seed: Seed of the choice.

    Raises:
        UsageError: ``share`` is not between 0 and 1, or one side would be empty.
    """
    if not 0 < share < 1:
        raise UsageError(f"valid_share is {share}. Give a share above 0 and below 1.")
    usable = np.flatnonzero(np.concatenate([index.has_row for index in indexes]))
    questions, ids = (
        np.concatenate([getattr(index, name) for index in indexes])[usable] for name in ("questions", "question_ids")
    )
    names, groups = np.unique(_group(questions, ids), return_inverse=True)  # (G,), (U,)
    num_held_out = round(share * len(names))
    if not 0 < num_held_out < len(names):
        side = "validation" if num_held_out == 0 else "training"
        raise UsageError(
            f"valid_share is {share}, which leaves no question for {side}: the {len(usable)} rows have {len(names)} "
            "different questions or question ids. Use another share, or more rows."
        )
    is_held_out = np.zeros(len(names), bool)
    is_held_out[np.argsort(_hash(names, seed), kind="stable")[:num_held_out]] = True
    rows = usable[is_held_out[groups]]
    ends = [0, *accumulate(len(index.questions) for index in indexes)]
    return [rows[(start <= rows) & (rows < end)] - start for start, end in pairwise(ends)]


def _group(questions: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the (U,) name of each row's group: the smallest key of its questions.

    Args:
        questions: (U,) int64. Key of the question of each row.
        ids: (U,) int64. Key of the question id, or 0 for a question without an id.
    """
    has_id = np.flatnonzero(ids)
    if not len(has_id):
        return questions
    links = (np.unique(questions, return_inverse=True)[1], np.unique(ids[has_id], return_inverse=True)[1])
    names = questions
    while True:
        before = names
        for rows, link in zip((slice(None), has_id), links, strict=True):
            smallest = np.full(link.max() + 1, np.iinfo(np.int64).max)
            np.minimum.at(smallest, link, names[rows])
            names = names.copy()
            names[rows] = smallest[link]
        if np.array_equal(before, names):
            return names


def _hash(keys: np.ndarray, seed: int) -> np.ndarray:
    """Return the seeded SplitMix64 hash of each key, uint64."""
    values = keys.view(np.uint64) + np.uint64((seed + 1) * _MIX[0] % (1 << 64))
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MIX[1])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MIX[2])
    return values ^ (values >> np.uint64(31))
