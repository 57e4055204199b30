"""Long passages in windows: a small encoder keeps more of what 60 words say than of what 500 do.

A document is then as good as its best window (MaxP; Dai and Callan, arXiv:1905.09217), which
``text.evaluation.max_passage`` makes of a run.
"""

from __future__ import annotations

from text.records import Passage


def cut_windows(passage: Passage, length: int, stride: int) -> list[Passage]:
    """Each of them has the passage's title, and its id with # and a number from 0 on, as Pyserini names segments.

    Args:
        passage: One of any length; a short one is its own only window.
        length: Words of a window; the last one may have fewer.
        stride: Words from the start of one to that of the next; below ``length`` they overlap.

    Raises:
        ValueError: The stride is not between 1 and the length, so that words would be lost.

    >>> [each.text for each in cut_windows(Passage("p", "", "a b c d e f g"), 4, 2)]
    ['a b c d', 'c d e f', 'e f g']
    """
    if not 1 <= stride <= length:
        raise ValueError(f"stride is {stride}; expected 1 to {length}, the words of a window")
    words = passage.text.split()
    starts = range(0, max(0, len(words) - length) + stride, stride)
    texts = [" ".join(words[start : start + length]) for start in starts]
    names = [f"{passage.passage_id}#{number}" if passage.passage_id else "" for number in range(len(texts))]
    return [Passage(name, passage.title, text) for name, text in zip(names, texts, strict=True)]
