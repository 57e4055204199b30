"""Where a passage's title goes: into a pair with its text, or before it."""

from __future__ import annotations

from text.records import Passage, TokenizedPassage
from text.transforms.layout import Text

TITLES = ("pair", "join")
"""How a passage's title and text can be put together."""


def title_and_text(passage: Passage | TokenizedPassage, titles: str = "pair") -> tuple[Text, Text]:
    """Return the title and the text of a passage as they are tokenized.

    Args:
        passage: Any; out of a token cache only as a pair, since tokens of two texts are not those of both joined.
        titles: "pair" has the two apart, as DPR; "join" puts a space between and has no title, as is usual for models
            of sentence-transformers.

    Raises:
        TypeError: Tokens are to be joined.
        ValueError: ``titles`` is another word.

    >>> title_and_text(Passage("1", "Oak", "An oak is a tree."), "join")
    ('', 'Oak An oak is a tree.')
    """
    if titles == "pair":
        return passage.title, passage.text
    if titles != "join":
        raise ValueError(f'titles is "{titles}"; expected "pair" or "join"')
    if isinstance(passage, TokenizedPassage):
        raise TypeError("the passage is tokens of a cache; expected texts to join its title with")
    return "", f"{passage.title} {passage.text}" if passage.title else passage.text
