"""Choice of the passages of a row that one step uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import TypeVar

T = TypeVar("T")


def sample_first(positives: Sequence[T], random: Random) -> list[T]:
    """Return all positives, with a randomly chosen one moved to the front."""
    chosen = int(random.random() * len(positives))
    return [positives[chosen], *positives[:chosen], *positives[chosen + 1 :]]


def sample_negatives(pool: Sequence[T | None], n: int, random: Random | None) -> list[T]:
    """Return ``n`` different passages of a pool, or all passages of a smaller pool.

    Args:
        pool: The passages. None marks an unusable passage.
        n: Number of passages to return.
        random: Random generator that draws the passages. None takes the first ones.
    """
    if n == 0:
        return []
    places = range(len(pool)) if random is None else _shuffle_lazily(len(pool), random)
    return list(islice((passage for i in places if (passage := pool[i]) is not None), n))


def _shuffle_lazily(n: int, random: Random) -> Iterator[int]:
    """Yield 0 to n - 1 in random order. Each number is only drawn when it is needed (Fisher-Yates)."""
    moved: dict[int, int] = {}
    for last in range(n - 1, -1, -1):
        # Among the methods of Random, only random() gives the same numbers in every version of Python.
        i = int(random.random() * (last + 1))
        yield moved.get(i, i)
        moved[i] = moved.get(last, last)
