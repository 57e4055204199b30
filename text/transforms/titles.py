"""Combination of a passage's title and text: as a pair, or joined into one text."""

from __future__ import annotations

from text.records import Passage, TokenizedPassage
from text.transforms.layout import Text

TITLES = ("pair", "join")
"""Ways to combine the title and text of a passage."""


def title_and_text(passage: Passage | TokenizedPassage, titles: str = "pair") -> tuple[Text, Text]:
    """Return the title and text of a passage, ready to tokenize.

    Args:
        passage: Passage to convert. A passage from a token cache must use "pair", because tokens cannot be joined.
        titles: "pair" keeps title and text separate, as DPR does. "join" returns an empty title, and a text that starts
            with the title. Most sentence-transformers models expect this.

    Raises:
        TypeError: ``titles`` is "join" and the passage holds tokens.
        ValueError: ``titles`` has another value.

    >>> title_and_text(Passage("1", "Oak", "An oak is a tree."), "join")
    ('', 'Oak An oak is a tree.')
    """
    if titles == "pair":
        return passage.title, passage.text
    if titles != "join":
        raise ValueError(f'titles is "{titles}"; expected "pair" or "join"')
    if isinstance(passage, TokenizedPassage):
        raise TypeError('tokens from a cache cannot be joined with a title. Use titles="pair", or passages with texts.')
    return "", f"{passage.title} {passage.text}" if passage.title else passage.text
