"""Words of a text as in DPR, and units of scripts without spaces between words.

Examples of such scripts are Chinese, Japanese and Thai. Korean has spaces, but joins particles to nouns, so it is
included. A unit is a letter of such a script with its combining marks. These texts are compared unit by unit. Digits
and the letters of all other scripts form words.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

import regex

_SCRIPTS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}"
    r"\u30FC\uFF70\uFF9E\uFF9F"  # Japanese marks that belong to no script in Unicode.
)
_LETTER = rf"[[{_SCRIPTS}]&&[\p{{L}}\u3007]]"
# NFD splits a Hangul syllable into several characters. It is one unit in both forms.
_HANGUL = r"[\u1100-\u115F\uA960-\uA97C]+[\u1160-\u11A7\uD7B0-\uD7C6]+[\u11A8-\u11FF\uD7CB-\uD7FB]*"
_UNIT = rf"(?:{_HANGUL}|{_LETTER})\p{{M}}*"
_FLAGS = regex.IGNORECASE | regex.UNICODE | regex.MULTILINE
_UNITS = regex.compile(_UNIT, regex.VERSION1)
_RUNS = regex.compile(rf"(?:{_UNIT})+", regex.VERSION1)
_WORDS = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]", _FLAGS)
_WORDS_AND_UNITS = regex.compile(
    rf"{_UNIT}|(?:(?!{_UNIT})[\p{{L}}\p{{N}}\p{{M}}])+|[^\p{{Z}}\p{{C}}]", _FLAGS | regex.VERSION1
)
_PIECES = regex.compile(rf"\p{{P}}*{_UNIT}\p{{P}}*|(?:(?!{_UNIT})\S)+", regex.VERSION1)
"""Pattern of a unit with the punctuation around it, or of other characters between spaces or units."""
_CANDIDATES = re.compile("[\u0e00-\u1aff\u2e80-\ud7ff\uf900-\uffdc\U0001aff0-\U0003ffff]")
"""Unicode blocks that contain all units. This pattern quickly skips most texts, which contain none."""


def has_unspaced_script(text: str) -> bool:
    """Return whether a text contains a letter of a script without spaces.

    >>> has_unspaced_script("Paris"), has_unspaced_script("在Paris")
    (False, True)
    """
    return not text.isascii() and _CANDIDATES.search(text) is not None and _UNITS.search(text) is not None


def separate_units(text: str) -> str:
    """Return a text with spaces around each unit.

    >>> separate_units("1985年 Tokyo東京").split()
    ['1985', '年', 'Tokyo', '東', '京']
    """
    return _UNITS.sub(r" \g<0> ", text) if has_unspaced_script(text) else text


def split_bigrams(text: str) -> tuple[str, list[str]]:
    """Return a text without its units, and the pairs of adjacent units. A unit without a neighbour is returned alone.

    >>> split_bigrams("長城は在Paris")
    (' Paris', ['長城', '城は', 'は在'])
    """
    if not has_unspaced_script(text):
        return text, []
    runs = [_UNITS.findall(run) for run in _RUNS.findall(text)]
    bigrams = [a + b for units in runs for a, b in pairwise(units)]
    return _RUNS.sub(" ", text), bigrams + [units[0] for units in runs if len(units) == 1]


def has_word(text: str) -> bool:
    """Return whether a text contains a visible character other than a space.

    >>> has_word("?"), has_word(" \u200b\ufeff")
    (True, False)
    """
    # The first test is fast, and most texts begin with a letter.
    return text[:1].isalnum() or _WORDS.search(text) is not None


def get_word_pattern(text: str) -> regex.Pattern[str]:
    """Return the pattern of words as in DPR, for a text in NFD. It also matches units if the text has any."""
    return _WORDS_AND_UNITS if has_unspaced_script(text) else _WORDS


def find_pieces(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each unit, and of each word between spaces or units. Visible characters are kept.

    >>> text = "1985年、東京 Tokyo!"
    >>> [text[start:end] for start, end in find_pieces(text)]
    ['1985', '年、', '東', '京', 'Tokyo!']
    """
    return [found.span() for found in _PIECES.finditer(text)]


@lru_cache(maxsize=1 << 12)
def compile_expression(pattern: str) -> regex.Pattern[str] | None:
    """Compile a regular expression that is given as an answer. Return None if it is invalid."""
    try:
        return regex.compile(pattern, _FLAGS)
    except (regex.error, RecursionError):
        return None
