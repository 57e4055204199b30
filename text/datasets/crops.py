"""Questions out of a passage's own words, for passages that few questions ask about.

A model that has learnt from them finds names and rare words better, which a question shares with its passage. It is the
inverse cloze task (Lee et al., arXiv:1906.00300) with words left out, as Contriever's random crops (arXiv:2112.09118).
"""

from __future__ import annotations

from random import Random

_SPAN = 16
"""Neighbouring words that are drawn from."""
_KEPT = 0.6
"""How likely each of them is kept: some ten in all, as many as a question has."""
_MARKS = ".,;:!?\"'()[]"


def crop(text: str, random: Random) -> str:
    """Some of the words of a place in a text, in their order, without the marks around them.

    The whole text's words, where none would be left. Only ``random.random`` is drawn from, which is the same in every
    version of Python.

    >>> crop("The mole had been working very hard all the morning, spring-cleaning his little home.", Random(0))
    'mole had been working hard all the spring-cleaning his'
    """
    words = text.split()
    start = int(random.random() * max(1, len(words) - _SPAN + 1))
    kept = [word.strip(_MARKS) for word in words[start : start + _SPAN] if random.random() < _KEPT]
    return " ".join(filter(None, kept)) or text
