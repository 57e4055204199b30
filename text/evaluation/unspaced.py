"""Scripts that put no spaces between words, such as Chinese, Japanese, Thai and Korean.

A letter of these scripts, with the marks behind it, is a unit: a text is compared unit by unit, as a string. Korean has
spaces, but joins particles to its nouns. Digits, and the letters of all other scripts, still make words.
"""

from __future__ import annotations

import re
from itertools import pairwise

import regex

_SCRIPTS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}"
    r"\u30FC\uFF70\uFF9E\uFF9F"  # Marks of Japanese that no script claims.
)
_LETTER = rf"[[{_SCRIPTS}]&&[\p{{L}}\u3007]]"
# A syllable of Hangul comes apart in NFD. It is one unit in each form.
_HANGUL = r"[\u1100-\u115F\uA960-\uA97C]+[\u1160-\u11A7\uD7B0-\uD7C6]+[\u11A8-\u11FF\uD7CB-\uD7FB]*"
UNIT = rf"(?:{_HANGUL}|{_LETTER})\p{{M}}*"
"""A pattern for one unit. Its flag is ``regex.VERSION1``."""

_UNITS = regex.compile(UNIT, regex.VERSION1)
_RUNS = regex.compile(rf"(?:{UNIT})+", regex.VERSION1)
_CANDIDATES = re.compile("[\u0e00-\u1aff\u2e80-\ud7ff\uf900-\uffdc\U0001aff0-\U0003ffff]")
"""Blocks that hold all units. Most texts have no character of them, which is quick to see."""


def has_unspaced(text: str) -> bool:
    """Return whether a text has a letter of a script without spaces.

    >>> has_unspaced("Paris"), has_unspaced("在Paris")
    (False, True)
    """
    return not text.isascii() and _CANDIDATES.search(text) is not None and _UNITS.search(text) is not None


def separate_units(text: str) -> str:
    """Return a text with spaces around each unit.

    >>> separate_units("1985年 Tokyo東京").split()
    ['1985', '年', 'Tokyo', '東', '京']
    """
    return _UNITS.sub(r" \g<0> ", text) if has_unspaced(text) else text


def split_bigrams(text: str) -> tuple[str, list[str]]:
    """Return the rest of a text, and the pairs of neighbouring units. A unit without a neighbour stands alone.

    >>> split_bigrams("長城は在Paris")
    (' Paris', ['長城', '城は', 'は在'])
    """
    if not has_unspaced(text):
        return text, []
    runs = [_UNITS.findall(run) for run in _RUNS.findall(text)]
    bigrams = [a + b for units in runs for a, b in pairwise(units)]
    return _RUNS.sub(" ", text), bigrams + [units[0] for units in runs if len(units) == 1]
