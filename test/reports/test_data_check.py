"""False negatives and lengths of a sample of batches, by hand."""

from __future__ import annotations

import numpy as np

from text.records import Example, Passage
from text.reports.data_check import count_false_negatives, format_batches, format_lengths
from text.runs.lengths import Lengths


def example(question: str, answers: list[str], positive: Passage, *negatives: Passage) -> Example:
    return Example(question, answers, [positive], list(negatives), [])


BOTH = Passage("1", "", "both answer it")
BATCH = [
    example("a", ["apple pie"], BOTH),
    example("b", [], BOTH),
    example("c", ["ample", "..."], Passage("2", "", "An Apple-pie, sliced.")),
]


def test_false_negatives_by_hand() -> None:
    # a and b each meet the other's copy of their positive; a also meets the passage of c, which holds its answer.
    assert count_false_negatives(BATCH) == (2, 1)
    # A question's own hard negative that holds its answer is not a passage of another question.
    assert count_false_negatives([example("a", ["pie"], BOTH, Passage("3", "", "pie"))]) == (0, 0)


def test_only_whole_batches_are_averaged_if_there_are_any() -> None:
    with_negative = [example("d", [], Passage("4", "", "x"), Passage("5", "", "y"))]
    whole, short = format_batches([BATCH, with_negative], 3), format_batches([with_negative], 3)
    assert "3 questions, each compared with 3 passages; the loss is 1.10" in whole[1]
    assert "1 questions, each compared with 2 passages; the loss is 0.69" in short[1]
    assert whole[2].split()[-1] == "2.00" and short[2].split()[-1] == "0.00"


def test_truncated_share_counts_texts_beyond_the_limit() -> None:
    [_, _, line] = format_lengths([Lengths("questions", np.array([1, 2, 3, 1000]), 2)])
    assert line.split()[-5:] == ["2", "850", "1,000", "2", "50.00%"]
