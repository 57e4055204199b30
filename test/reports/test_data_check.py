"""Report of ``dpr-text check``: false negatives, lengths, shared positives and the plot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from test.helpers import record, write_jsonl
from text.datasets import DPRDataPipe
from text.records import Example, Passage, hash_question
from text.reports.data_check import (
    SplitContents,
    check_picture,
    count_false_negatives,
    count_shared_positives,
    draw_histograms,
    format_batches,
    format_lengths,
    read_contents,
)
from text.runs.lengths import Lengths


def build_example(question: str, answers: list[str], positive: Passage, *negatives: Passage) -> Example:
    return Example(question, answers, [positive], list(negatives), [])


BOTH = Passage("1", "", "both answer it")
BATCH = [
    build_example("a", ["apple pie"], BOTH),
    build_example("b", [], BOTH),
    build_example("c", ["ample", "..."], Passage("2", "", "An Apple pie, sliced.")),
]


def test_false_negatives_by_hand() -> None:
    # a and b each see the other's copy of their positive. a also sees the passage of c, which contains its answer.
    assert count_false_negatives(BATCH) == (2, 1)
    # A question's own hard negative does not count, even if it contains the answer.
    assert count_false_negatives([build_example("a", ["pie"], BOTH, Passage("3", "", "pie"))]) == (0, 0)


def test_answers_in_scripts_without_spaces_are_matched() -> None:
    great_wall = build_example("长城在哪个国家", ["中国"], Passage("1", "", "长城是中国古代的军事防御工程。"))
    capital = build_example("哪个国家的首都是北京", ["中国"], Passage("2", "", "北京是中国的首都。"))
    fuji = build_example("富士山在哪个国家", ["日本"], Passage("3", "", "富士山是日本最高的山。"))
    assert count_false_negatives([great_wall, capital, fuji]) == (0, 2)
    page = format_batches([[great_wall, capital, fuji]], 3)
    assert page[3].split()[-1] == "2.00" and page[4].split()[-1] == "100%"
    assert not any("100%" in line for line in format_batches([BATCH], 3))


def test_the_share_of_questions_without_answers_is_shown() -> None:
    assert [line.split()[-1] for line in format_batches([BATCH], 3) if "without answers" in line] == ["33%"]
    assert not any("without answers" in line for line in format_batches([BATCH[:1]], 1))


def test_only_complete_batches_are_averaged_if_there_are_any() -> None:
    with_negative = [build_example("d", [], Passage("4", "", "x"), Passage("5", "", "y"))]
    whole, short = format_batches([BATCH, with_negative], 3), format_batches([with_negative], 3)
    assert "3 questions, each compared with 3 passages; the loss is 1.10" in whole[1]
    assert "1 questions, each compared with 2 passages; the loss is 0.69" in short[1]
    assert whole[2].split()[-1] == "2.00" and short[2].split()[-1] == "0.00"


def test_truncated_share_counts_texts_beyond_the_limit() -> None:
    [_, _, line] = format_lengths([Lengths("questions", np.array([1, 2, 3, 1000]), 2)])
    assert line.split()[-5:] == ["2", "850", "1,000", "2", "50.00%"]


def test_positives_of_the_same_question_are_known() -> None:
    one, other = Passage("1", "", "pie one"), Passage("2", "", "pie two")
    rows = [
        build_example("a", ["pie"], each)._replace(same_question_positives=[one.keys, other.keys])
        for each in (one, other)
    ]
    assert count_false_negatives(rows) == (2, 0)


def test_contents_of_a_split_match_its_rows(tmp_path: Path) -> None:
    rows = [record("a", positives=2), record(" A "), record("b"), record("none", positives=0)]
    pipe = DPRDataPipe(write_jsonl(tmp_path / "rows.jsonl", rows), 2, max_skipped=0.5)
    found = read_contents(pipe)
    examples = [example for batch in pipe for example in batch]
    assert found.questions == Counter(hash_question(example.question) for example in examples)
    assert sorted(found.questions.values()) == [1, 2]
    keys = {passage.keys for example in examples for passage in example.positives}
    assert set(map(tuple, found.positives.tolist())) == keys and len(found.positives) == len(keys)


def test_shared_positives_have_the_same_id_or_content(tmp_path: Path) -> None:
    def read(name: str, *positives: dict[str, str]) -> SplitContents:
        rows = [record(f"{name} {i}", positive_ctxs=[positive]) for i, positive in enumerate(positives)]
        return read_contents(DPRDataPipe(write_jsonl(tmp_path / f"{name}.jsonl", rows), 1))

    train = read("train", {"id": "1", "title": "Oak", "text": "an oak"}, {"text": "an elm"}, {"id": "3", "text": "a"})
    test = read(
        "test",
        {"id": "1", "text": "AN OAK"},  # by id
        {"id": "1", "title": "Oak", "text": "an  oak"},  # the same passage again
        {"id": "2", "text": "an elm"},  # by content
        {"id": "4", "text": "an ash"},
    )
    assert (count_shared_positives(test, train), count_shared_positives(train, test)) == (2, 2)
    assert count_shared_positives(test, read("none", {"text": "a yew"})) == 0


def test_only_a_plot_of_this_command_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "lengths.png"
    check_picture(path)
    draw_histograms(path, [Lengths(kind, np.array([3, 4]), 8) for kind in ("questions", "passages")])
    check_picture(path)
    path.write_bytes(b"\x89PNG of a user")
    with pytest.raises(FileExistsError, match=str(path)):
        check_picture(path)
