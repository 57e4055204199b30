"""Make squad_w100 from the development set of SQuAD 1.1: passages of 100 words, and DPR rows with BM25 negatives.

    PYTHONPATH=. python -m benchmarks.data.squad_w100 --squad=dev-v1.1.json --output_dir=data/squad_w100

The input is ``dev-v1.1.json`` (4,854,279 bytes, CC BY-SA 4.0) from https://rajpurkar.github.io/SQuAD-explorer/. The
script writes ``passages.tsv``. For each of train, dev and test it writes rows (``.jsonl.gz``), rows with ids in place
of texts and up to 20 hard negatives (``.ids.jsonl``), and questions in DPR's format (``.qa.csv``). It prints whether
each file equals the file behind the published metrics of this project. It exits with 1 if a file differs.

The rules of this script were reconstructed from these published files. Applied to the files without negatives and in
the original order, the rules reproduce every byte. docs/reference/benchmarks.md lists open questions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.data.dpr_rows import (
    Checksum,
    Hit,
    format_json_lines,
    format_tsv,
    make_data_parser,
    search_bm25,
    to_context,
    write_or_exit,
)
from text.evaluation import has_answer
from text.records import Passage

SEED = 13
ARTICLES = {"train": 32, "dev": 6, "test": 10}
UNEXPLAINED_WORDS = 33_046
"""Number of 32-bit words to draw from the generator between splitting and shuffling, for an unknown reason."""
WINDOW_WORDS, MIN_WINDOW_WORDS = 100, 20
DEPTH, MAX_HARD_NEGATIVES, ROW_HARD_NEGATIVES = 60, 20, 2
"""BM25 passages per question, hard negatives per question, and hard negatives per row."""
MAX_DRAWS = 200
"""Maximum number of draws of a random negative."""
EXPECTED = {
    "passages.tsv": Checksum(1676134, "d6eef4d96532237302a7b95cd8f8101f890be9b9fc20a76c0d0f5de038495449"),
    "train.jsonl.gz": Checksum(21700049, "f4700859c05d80af106c8b910383b4c933e458f10bd9056f493f3f62b7d065f6"),
    "train.ids.jsonl": Checksum(2978009, "ec785e8d75ae8ff23550540ef60459feedaefe8940616fba9681aee71e6517c7"),
    "train.qa.csv": Checksum(794309, "fa4e91d262154fe674126b3fe7a39cdd768f70e740461d6eefe6dcdf5522ca4d"),
    "dev.jsonl.gz": Checksum(2813370, "78c579995ec559f8c5bfa2df17dc34a72a47bbdf8b3b4c0d387dc9e09ddc2cc9"),
    "dev.ids.jsonl": Checksum(372204, "8ff3d0d35c34ba42d547edc5d9a7ffd60ff8203b1f89f9b1d51c0c79ebd66797"),
    "dev.qa.csv": Checksum(105072, "de0532cd20b70d80f803eed5ad07cb1c207e76584b100eb1c2e614759390b684"),
    "test.jsonl.gz": Checksum(6120657, "a444c33f987389d0941212bd108d145f8eb3a1630035e8ef627918d0299adb1a"),
    "test.ids.jsonl": Checksum(831606, "77ffc7f400d82a69df070ec7da9896c5a7a5ab89a68e4856962217dcd044eeeb"),
    "test.qa.csv": Checksum(232709, "a68a6a34735bc369a7c6dff49672ee3a35d3117ebe7a83b4a764c5e2203d0567"),
}


class Question(NamedTuple):
    """A question with its positives."""

    question_id: str
    text: str
    answers: list[str]
    """Distinct answers, in the order of the annotators."""
    positives: list[Passage]


class Window(NamedTuple):
    """Window of a paragraph, with its position in characters."""

    start: int
    stop: int
    text: str
    """Text of the paragraph from ``start`` to ``stop``."""


def main() -> None:
    """Make the files."""
    parser = make_data_parser(__doc__)
    parser.add_argument("--squad", type=Path, required=True, help="Path of dev-v1.1.json of SQuAD.")
    arguments = parser.parse_args()
    articles = json.loads(arguments.squad.read_text(encoding="utf-8"))["data"]
    if len(articles) != sum(ARTICLES.values()):
        parser.error(f"{arguments.squad} has {len(articles)} articles. dev-v1.1.json of SQuAD has 48.")
    write_or_exit(parser, arguments, make_files(articles), EXPECTED)


def make_files(articles: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Return the content of each file by file name.

    Args:
        articles: Value of "data" in the file of SQuAD.
    """
    passages, questions = read_articles(articles)
    contents = {"passages.tsv": _format_passages([each for article in passages.values() for each in article])}
    rng = Random(SEED)
    splits = split_titles(list(passages), rng)
    rng.getrandbits(32 * UNEXPLAINED_WORDS)
    for split, titles in splits.items():
        # Training and validation must not see test passages. The test searches the whole collection.
        searched = [title for title in passages if split == "test" or title in titles]
        pool = [passage for title in searched for passage in passages[title]]
        split_questions = [question for title in passages if title in titles for question in questions[title]]
        rng.shuffle(split_questions)
        contents |= _format_split(split, split_questions, pool, rng)
    return contents


def read_articles(
    articles: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, list[Passage]], dict[str, list[Question]]]:
    """Return passages and questions by title, sorted by title. Passage ids start at 1."""
    passages: dict[str, list[Passage]] = {}
    questions: dict[str, list[Question]] = {}
    number = 0
    for article in sorted(articles, key=lambda each: each["title"].replace("_", " ")):
        title = article["title"].replace("_", " ")
        passages[title], questions[title] = [], []
        for paragraph in article["paragraphs"]:
            windows = cut_paragraph(paragraph["context"])
            made = [Passage(str(number + place), title, window.text) for place, window in enumerate(windows, 1)]
            number += len(made)
            passages[title] += made
            questions[title] += [_read_question(row, windows, made) for row in paragraph["qas"]]
    return passages, questions


def split_titles(titles: Sequence[str], rng: Random) -> dict[str, set[str]]:
    """Return a random set of titles for each split."""
    shuffled = list(titles)
    rng.shuffle(shuffled)
    stops = list(accumulate(ARTICLES.values()))
    return {name: set(shuffled[stop - size : stop]) for (name, size), stop in zip(ARTICLES.items(), stops, strict=True)}


def cut_paragraph(context: str) -> list[Window]:
    """Return the windows of a paragraph, 100 words each. A rest of fewer than 20 words is added to the last window."""
    words = [(found.start(), found.end()) for found in re.finditer(r"\S+", context)]
    starts = list(range(0, len(words), WINDOW_WORDS))
    if len(starts) > 1 and len(words) - starts[-1] < MIN_WINDOW_WORDS:
        starts.pop()
    pieces = [words[start:stop] for start, stop in zip(starts, [*starts[1:], len(words)], strict=True)]
    return [Window(each[0][0], each[-1][1], context[each[0][0] : each[-1][1]]) for each in pieces]


def find_positives(windows: Sequence[Window], answers: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the indices of the windows with the most answers. The answer of each annotator counts.

    If no window contains a whole answer, the windows with the largest part of the first answer are the positives.
    """
    counts = [sum(answer["text"].strip() in window.text for answer in answers) for window in windows]
    if not any(counts):
        start = answers[0]["answer_start"]
        stop = start + len(answers[0]["text"])
        counts = [min(stop, window.stop) - max(start, window.start) for window in windows]
    return [place for place, count in enumerate(counts) if count == max(counts)]


def find_negatives(
    question: Question, pool: Sequence[Passage], hits: Sequence[Hit], rng: Random
) -> tuple[list[tuple[Passage, float]], Passage | None]:
    """Return the hard negatives of a question with their scores, and a random passage of another article.

    None of these passages contains an answer. The random passage is None if 200 draws found no such passage.
    """
    found = ((pool[hit.row], hit.score) for hit in hits if hit.score > 0)
    hard = [pair for pair in found if pair[0] not in question.positives and not _contains_answer(question, pair[0])][
        :MAX_HARD_NEGATIVES
    ]
    drawn = (pool[rng.randrange(len(pool))] for _ in range(MAX_DRAWS))
    title = question.positives[0].title
    return hard, next((each for each in drawn if each.title != title and not _contains_answer(question, each)), None)


def _contains_answer(question: Question, passage: Passage) -> bool:
    return has_answer(question.answers, passage.text)


def _read_question(row: Mapping[str, Any], windows: Sequence[Window], passages: Sequence[Passage]) -> Question:
    answers = list(dict.fromkeys(answer["text"].strip() for answer in row["answers"]))
    positives = [passages[place] for place in find_positives(windows, row["answers"])]
    return Question(row["id"], row["question"].strip(), answers, positives)


def _format_split(split: str, questions: Sequence[Question], pool: Sequence[Passage], rng: Random) -> dict[str, bytes]:
    found = search_bm25(pool, [question.text for question in questions], DEPTH)
    rows, id_rows = zip(*_make_rows(questions, pool, found, rng), strict=True)
    return {
        f"{split}.jsonl.gz": format_json_lines(rows),
        f"{split}.ids.jsonl": format_json_lines(id_rows),
        f"{split}.qa.csv": format_tsv([(each.text, repr(each.answers)) for each in questions], "\r\n"),
    }


def _make_rows(
    questions: Sequence[Question], pool: Sequence[Passage], found: Iterator[list[Hit]], rng: Random
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield two rows per question: one in DPR's format, and one with ids in place of texts."""
    for question, hits in zip(questions, found, strict=True):
        hard, other = find_negatives(question, pool, hits, rng)
        others = [other] if other is not None else []
        fields = {"qid": question.question_id, "question": question.text, "answers": question.answers}
        row = {
            "dataset": "squad1_dev_w100",
            **fields,
            "positive_ctxs": [to_context(each, 1000.0, is_positive=True) for each in question.positives],
            "negative_ctxs": [to_context(each, 0.0) for each in others],
            "hard_negative_ctxs": [to_context(each, round(score, 4)) for each, score in hard[:ROW_HARD_NEGATIVES]],
        }
        id_row = {
            **fields,
            "positive_ids": [each.passage_id for each in question.positives],
            "hard_negative_ids": [each.passage_id for each, _ in hard],
            "negative_ids": [each.passage_id for each in others],
        }
        yield row, id_row


def _format_passages(passages: Sequence[Passage]) -> bytes:
    """Return ``passages.tsv``. Line feeds in texts become spaces, but only in this file."""
    rows = [(passage.passage_id, passage.text.replace("\n", " "), passage.title) for passage in passages]
    return format_tsv([("id", "text", "title"), *rows], "\r\n")


if __name__ == "__main__":
    main()
