"""Make a BEIR collection, and DPR rows with BM25 negatives, from the original CSV files of FairytaleQA.

    PYTHONPATH=. python -m benchmarks.data.fairytaleqa --source=FairytaleQAData --output_dir=data/fairytaleqa

The input is a checkout of https://github.com/uci-soe/FairytaleQAData (Apache-2.0). The script reads the folder
``data-by-train-split`` and writes ``corpus.jsonl``, ``queries.jsonl``, ``qrels/{train,dev,test}.tsv`` and
``dpr_{train,dev,test}.jsonl.gz``. It prints whether each file equals the file behind the published metrics of this
project. It exits with 1 if a file differs.

The rules of this script were reconstructed from these published files. Applied to their texts in the original order,
the rules reproduce every byte. docs/reference/benchmarks.md lists open questions.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.data.dpr_rows import (
    Checksum,
    format_json_lines,
    format_tsv,
    make_data_parser,
    search_bm25,
    to_context,
    write_or_exit,
)
from text.records import Passage

SEED = 7
FOLDERS = {"train": "train", "dev": "val", "test": "test"}
NUM_STORIES = 278
DEPTH = 20
EXPECTED = {
    "corpus.jsonl": Checksum(3483576, "c441e8ddb7a29be0f3e531e0a8685caa7f00c55c3c9eec50bdff3bb38359b9ae"),
    "queries.jsonl": Checksum(2198402, "3a882aba4ded104ff5327e5e5d3284dc4514ec3b5019fb41fc3c1bd282ec34d8"),
    "qrels/train.tsv": Checksum(499614, "27ca150e164cb1b56ce1aa8ee582e707371655f5669771f13dde097024d8afab"),
    "qrels/dev.tsv": Checksum(58381, "642112d078a7ca95a49b3d399ecdd75d1e77aae1ff76398d40ab383f0def9b68"),
    "qrels/test.tsv": Checksum(58962, "7c59558d26a1fe5af58021a680cb193e7c971c5361cce968e04c65a15cc7541e"),
    "dpr_train.jsonl.gz": Checksum(21288612, "1f325b62abcdafbbc3bc7d7ee967694a93ea8055cc6cf673043d3c2eab2f4390"),
    "dpr_dev.jsonl.gz": Checksum(2420378, "446e32b90e1c60de78650ec9af264690da3310b2f12ad15f29366cf4ef488598"),
    "dpr_test.jsonl.gz": Checksum(2374531, "356d7d0ea7bff51b34cb1a91a5ea38cdd98af658b9ab14e01f3dc018d02479d6"),
}


class Question(NamedTuple):
    """A question about a story."""

    question_id: str
    text: str
    answer: str
    kind: str
    """Value of the column "attribute1", such as "action"."""
    scope: str
    """Value of the column "local-or-sum": ``local`` for one section, ``summary`` for several."""
    positives: list[Passage]


class Story(NamedTuple):
    """A story with its sections and questions."""

    name: str
    split: str
    sections: list[Passage]
    questions: list[Question]


def main() -> None:
    """Make the files."""
    parser = make_data_parser(__doc__)
    parser.add_argument("--source", type=Path, required=True, help="Checkout of the repository FairytaleQAData.")
    arguments = parser.parse_args()
    stories = read_stories(arguments.source / "data-by-train-split")
    if len(stories) != NUM_STORIES:
        parser.error(f"{arguments.source} has {len(stories)} stories in data-by-train-split. FairytaleQA has 278.")
    write_or_exit(parser, arguments, make_files(stories), EXPECTED)


def read_stories(folder: Path) -> list[Story]:
    """Return all stories of train, dev and test, sorted by name within a split.

    Args:
        folder: Folder with ``section-stories/SPLIT/NAME-story.csv`` and ``questions/SPLIT/NAME-questions.csv``.
    """
    stories = []
    for split, name in FOLDERS.items():
        found = (folder / "section-stories" / name).glob("*-story.csv")
        for story in sorted(path.name.removesuffix("-story.csv") for path in found):
            sections = _read_csv(folder / "section-stories" / name / f"{story}-story.csv")
            questions = _read_csv(folder / "questions" / name / f"{story}-questions.csv")
            stories.append(make_story(story, split, sections, questions))
    return stories


def make_story(
    name: str, split: str, section_rows: Sequence[Mapping[str, str]], question_rows: Sequence[Mapping[str, str]]
) -> Story:
    """Return a story from the rows of its two CSV files.

    Sections without text are left out. Question numbers start at 0. Section numbers are in the column "section".
    """
    title = name.replace("-", " ")
    texts = {int(row["section"]): row["text"] for row in section_rows if row["text"]}
    sections = {number: Passage(f"{name}#{number}", title, text) for number, text in texts.items()}
    questions = []
    for number, row in enumerate(question_rows):
        places = [int(place) for place in re.findall(r"\d+", row["cor_section"])]
        questions.append(
            Question(
                f"{name}-q{number}",
                row["question"],
                row["answer1"],
                row["attribute1"],
                row["local-or-sum"],
                [sections[place] for place in places if place in sections],
            )
        )
    return Story(name, split, list(sections.values()), questions)


def make_files(stories: Sequence[Story]) -> dict[str, bytes]:
    """Return the content of each file by file name."""
    contents = {
        "corpus.jsonl": format_json_lines(
            {"_id": each.passage_id, "title": each.title, "text": each.text}
            for story in stories
            for each in story.sections
        ),
        "queries.jsonl": format_json_lines(_format_query(each) for story in stories for each in story.questions),
    }
    rng = Random(SEED)
    for split in FOLDERS:
        chosen = [story for story in stories if story.split == split]
        questions = [question for story in chosen for question in story.questions]
        contents[f"qrels/{split}.tsv"] = _format_qrels(questions)
        rng.shuffle(questions)
        rows = make_rows(questions, [section for story in chosen for section in story.sections])
        contents[f"dpr_{split}.jsonl.gz"] = format_json_lines(rows)
    return contents


def make_rows(questions: Sequence[Question], pool: Sequence[Passage]) -> list[dict[str, Any]]:
    """Return the DPR row of each question. The hard negative is the best BM25 passage that is not a positive.

    Args:
        questions: Questions of a split.
        pool: Sections of the same split. Hard negatives may contain the answer, because answers are free sentences.
    """
    rows = []
    found = search_bm25(pool, [question.text for question in questions], DEPTH)
    for question, hits in zip(questions, found, strict=True):
        hard = next(hit for hit in hits if pool[hit.row] not in question.positives)
        row = {
            "dataset": "fairytaleqa",
            "qid": question.question_id,
            "question": question.text,
            "answers": [question.answer],
            "positive_ctxs": [to_context(each, 1000.0, is_positive=True) for each in question.positives],
            "negative_ctxs": [],
            "hard_negative_ctxs": [to_context(pool[hard.row], round(hard.score, 3))],
        }
        rows.append(row)
    return rows


def _read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file. Each run of white space becomes one space."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return [
            {name: " ".join((value or "").split()) for name, value in row.items() if name}
            for row in csv.DictReader(file)
        ]


def _format_query(question: Question) -> dict[str, Any]:
    metadata = {"answer": question.answer, "type": question.kind, "local": question.scope}
    return {"_id": question.question_id, "text": question.text, "metadata": metadata}


def _format_qrels(questions: Sequence[Question]) -> bytes:
    pairs = [(each.question_id, positive.passage_id, 1) for each in questions for positive in each.positives]
    return format_tsv([("query-id", "corpus-id", "score"), *pairs], "\n")


if __name__ == "__main__":
    main()
