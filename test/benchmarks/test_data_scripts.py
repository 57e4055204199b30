"""Tests of the scripts that make the data sets behind the README's metrics.

The original SQuAD and FairytaleQA files are not available here. ``../shared/data`` has the published outputs. The slow
tests rebuild the inputs from these outputs as far as possible, run the scripts, and compare every byte.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.data import fairytaleqa, squad_w100
from benchmarks.data.dpr_rows import Checksum, Hit, search_bm25, write_or_exit
from test.helpers import shared_file
from text.records import Passage

WORDS = [f"w{number}" for number in range(400)]


# SQuAD, by hand


@pytest.mark.parametrize(
    ("num_words", "lengths"),
    [(1, [1]), (119, [119]), (120, [100, 20]), (219, [100, 119]), (220, [100, 100, 20]), (300, [100, 100, 100])],
)
def test_windows_have_100_words_and_a_short_rest_joins_the_last_window(num_words: int, lengths: list[int]) -> None:
    windows = squad_w100.cut_paragraph(" ".join(WORDS[:num_words]))
    assert [len(window.text.split()) for window in windows] == lengths
    assert " ".join(window.text for window in windows).split() == WORDS[:num_words]


def test_windows_keep_the_characters_of_the_paragraph() -> None:
    context = "  one\n two  " + " ".join(WORDS[:118]) + " "
    first, last = squad_w100.cut_paragraph(context)
    assert first.text == "one\n two  " + " ".join(WORDS[:98])
    assert last.text == " ".join(WORDS[98:118])
    assert all(context[window.start : window.stop] == window.text for window in (first, last))


@pytest.mark.parametrize(
    ("answers", "positives"),
    [
        ([("w3", 0)], [0]),
        ([("w150", 0), ("w3", 0), ("w150", 0)], [1]),  # two annotators against one
        ([("w150", 0), ("w3", 0)], [0, 1]),
        (
            [("w99 w100 w101", 98), ("w3 w5", 3)],
            [1],
        ),  # No window contains an answer. The larger part of the first answer counts.
        ([("w98 w99 w100", 98)], [0]),
        ([("w99 w100", 99)], [1]),  # 3 characters against 4
    ],
)
def test_positives_contain_the_answers_of_most_annotators(answers: list[tuple[str, int]], positives: list[int]) -> None:
    context = " ".join(WORDS[:200])
    rows = [{"text": text, "answer_start": context.index(text.split()[0] + " ")} for text, _ in answers]
    assert squad_w100.find_positives(squad_w100.cut_paragraph(context), rows) == positives


def test_negatives_contain_no_answer_and_are_not_positives() -> None:
    pool = [
        Passage(str(i), title, text)
        for i, (title, text) in enumerate([("A", "p"), ("A", "q"), ("B", "Oak!"), ("B", "r")])
    ]
    question = squad_w100.Question("1", "?", ["oak"], [pool[0]])
    hits = [Hit(0, 4.0), Hit(2, 3.0), Hit(1, 2.0), Hit(3, 0.0)]
    hard, other = squad_w100.find_negatives(question, pool, hits, Random(0))
    assert (hard, other) == ([(pool[1], 2.0)], pool[3])
    everywhere = squad_w100.Question("1", "?", ["p", "q", "r", "oak"], [pool[0]])
    assert squad_w100.find_negatives(everywhere, pool, hits, Random(0)) == ([], None)


def test_bm25_finds_the_passage_with_the_rarer_words() -> None:
    pool = [Passage("a", "Trees", "oaks and elms"), Passage("b", "Trees", "elms"), Passage("c", "Birds", "storks")]
    [found] = search_bm25(pool, ["Which oak tree?"], 3)
    assert [hit.row for hit in found] == [0, 1, 2]
    assert found[0].score > found[1].score > found[2].score == 0


def test_a_wrong_squad_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train-v1.1.json"
    path.write_text('{"data": []}', encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["squad_w100", f"--squad={path}", f"--output_dir={tmp_path / 'made'}"])
    with pytest.raises(SystemExit) as error:
        squad_w100.main()
    assert error.value.code == 2
    assert not (tmp_path / "made").exists()


# FairytaleQA, by hand


def write_story(
    folder: Path, split: str, name: str, sections: list[str], questions: list[tuple[str, str, str]]
) -> None:
    for kind in ("section-stories", "questions"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    with open(folder / "section-stories" / split / f"{name}-story.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("section", "text"), *enumerate(sections, 1)])
    with open(folder / "questions" / split / f"{name}-questions.csv", "w", encoding="utf-8", newline="") as file:
        heads = (
            "question_id",
            "local-or-sum",
            "cor_section",
            "attribute1",
            "attribute2",
            "question",
            "answer1",
            "answer2",
        )
        rows = [
            (i, "local", place, "action", "", text, answer, "") for i, (place, text, answer) in enumerate(questions, 1)
        ]
        csv.writer(file).writerows([heads, *rows])


def test_stories_become_a_collection_and_rows(tmp_path: Path) -> None:
    sections = ["An  oak\nfell.", "A stork flew.", ""]
    write_story(tmp_path, "train", "the-oak", sections, [("1, 2", " What fell? ", "an oak"), ("2", "What flew?", "it")])
    write_story(tmp_path, "val", "an-elm", ["An elm."], [])
    write_story(tmp_path, "train", "Zelkova", ["A tree."], [])
    stories = fairytaleqa.read_stories(tmp_path)
    assert [(story.name, story.split) for story in stories] == [
        ("Zelkova", "train"),
        ("the-oak", "train"),
        ("an-elm", "dev"),
    ]
    oak = stories[1]
    assert oak.sections == [
        Passage("the-oak#1", "the oak", "An oak fell."),
        Passage("the-oak#2", "the oak", "A stork flew."),
    ]
    first, second = oak.questions
    assert first == ("the-oak-q0", "What fell?", "an oak", "action", "local", oak.sections)
    assert second.positives == [oak.sections[1]]
    [row] = fairytaleqa.make_rows([second], oak.sections)
    assert [each["passage_id"] for each in row["positive_ctxs"] + row["hard_negative_ctxs"]] == [
        "the-oak#2",
        "the-oak#1",
    ]
    assert row["hard_negative_ctxs"][0]["score"] == 0.0


# Files


def test_a_different_file_is_named_and_gives_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    expected = {
        "a.gz": Checksum(1, hashlib.sha256(b"x").hexdigest()),
        "b": Checksum(1, hashlib.sha256(b"y").hexdigest()),
    }
    flags = argparse.Namespace(output_dir=tmp_path / "made", overwrite=False)
    write_or_exit(parser, flags, {"a.gz": b"x", "b": b"y"}, expected)
    assert gzip.decompress((tmp_path / "made" / "a.gz").read_bytes()) == b"x"
    assert "DIFFERENT" not in capsys.readouterr().out
    for overwrite, code in ((False, 2), (True, 1)):
        again = argparse.Namespace(output_dir=tmp_path / "made", overwrite=overwrite)
        with pytest.raises(SystemExit) as error:
            write_or_exit(parser, again, {"a.gz": b"x", "b": b"z"}, expected)
        assert error.value.code == code
        assert (tmp_path / "made" / "b").read_bytes() == (b"z" if overwrite else b"y")
    assert capsys.readouterr().err.splitlines()[-1].startswith("b: ")


# Reproduction of the published files


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def check_equal(made: dict[str, bytes], folder: Path) -> None:
    for name, content in made.items():
        data = (folder / name).read_bytes()
        assert content == (gzip.decompress(data) if name.endswith(".gz") else data), name


def test_expected_checksums_are_those_of_the_published_files() -> None:
    for name, expected in (("squad_w100", squad_w100.EXPECTED), ("fairytaleqa", fairytaleqa.EXPECTED)):
        folder = shared_file(name)
        for file, seal in expected.items():
            data = (folder / file).read_bytes()
            content = gzip.decompress(data) if file.endswith(".gz") else data
            assert seal == (len(content), hashlib.sha256(content).hexdigest()), file


@pytest.mark.slow
def test_fairytaleqa_is_reproduced(tmp_path: Path) -> None:
    """Rebuild the original CSV files from corpus.jsonl, queries.jsonl and qrels, and run the script on them."""
    folder = shared_file("fairytaleqa")
    sections, questions, places = defaultdict(list), defaultdict(list), defaultdict(list)
    splits = {}
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        section = json.loads(line)
        sections[section["_id"].rpartition("#")[0]].append(section["text"])
    for split, name in fairytaleqa.FOLDERS.items():
        for line in (folder / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            question_id, section_id, _ = line.split("\t")
            places[question_id].append(section_id.rpartition("#")[2])
            splits[question_id.rpartition("-q")[0]] = split, name
    for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        query = json.loads(line)
        questions[query["_id"].rpartition("-q")[0]].append(query)
    stories = []
    for name, asked in questions.items():
        section_rows = [{"section": str(number), "text": text} for number, text in enumerate(sections[name], 1)]
        question_rows = [
            {
                "cor_section": ", ".join(places[query["_id"]]),
                "question": query["text"],
                "answer1": query["metadata"]["answer"],
                "attribute1": query["metadata"]["type"],
                "local-or-sum": query["metadata"]["local"],
            }
            for query in asked
        ]
        stories.append(fairytaleqa.make_story(name, splits[name][0], section_rows, question_rows))
    assert len(stories) == fairytaleqa.NUM_STORIES
    check_equal(fairytaleqa.make_files(stories), folder)


STARTS = {"train": 33_126, "dev": 59_917, "test": 63_450}
"""Number of random 32-bit words drawn before the rows of each split are shuffled."""
POOLS = ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs")


@pytest.mark.slow
def test_squad_w100_is_reproduced() -> None:
    """Rebuild SQuAD's file from passages, questions, answers and positives, and run the script on it."""
    folder = shared_file("squad_w100")
    with open(folder / "passages.tsv", encoding="utf-8", newline="") as file:
        passages = {row[0]: Passage(row[0], row[2], row[1]) for row in list(csv.reader(file, delimiter="\t"))[1:]}
    questions = {name: rebuild_order(folder, name, start) for name, start in STARTS.items()}
    for row in (row for name in STARTS for row in read_rows(folder / f"{name}.jsonl.gz")):
        for each in (
            context for pool in POOLS for context in row[pool]
        ):  # Contexts keep line feeds, unlike passages.tsv.
            passages[each["passage_id"]] = Passage(each["passage_id"], each["title"], each["text"])
    asked = defaultdict(list)
    for row in (row for rows in questions.values() for row in rows):
        asked[row["positive_ctxs"][0]["title"]].append(row)
    articles = []
    for title, rows in asked.items():
        own = [passage for passage in passages.values() if passage.title == title]
        articles.append({"title": title.replace(" ", "_"), "paragraphs": rebuild_paragraphs(own, rows)})
    Random(1).shuffle(articles)  # The script sorts articles.
    check_equal(squad_w100.make_files(articles), folder)


def rebuild_order(folder: Path, split: str, start: int) -> list[dict[str, Any]]:
    """Return the rows of a split without negatives, in the order before shuffling."""
    rows = read_rows(folder / f"{split}.jsonl.gz")
    rng = Random(squad_w100.SEED)
    rng.getrandbits(32 * start)
    places = list(range(len(rows)))
    rng.shuffle(places)
    kept = ("qid", "question", "answers", "positive_ctxs")
    return [
        {name: row[name] for name in kept}
        for _, row in sorted(zip(places, rows, strict=True), key=lambda pair: pair[0])
    ]


def rebuild_paragraphs(passages: list[Passage], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the paragraphs of an article.

    A window of 100 words and the next window belong to the same paragraph, unless the positives contradict this.
    """
    cuts = {each.passage_id for each in passages if len(each.text.split()) != squad_w100.WINDOW_WORDS}
    while True:
        paragraphs = group_passages(passages, cuts)
        owner = {each.passage_id: number for number, windows in enumerate(paragraphs) for each in windows}
        asked = defaultdict(list)
        for row in rows:
            asked[owner[row["positive_ctxs"][0]["passage_id"]]].append(row)
        made = []
        for number, windows in enumerate(paragraphs):
            context = " ".join(each.text for each in windows)
            qas = [rebuild_question(row, windows, context) for row in asked[number]]
            if None in qas:
                cuts |= {each.passage_id for each in windows}  # Split these windows into separate paragraphs.
                break
            made.append({"context": context, "qas": qas})
        else:
            return made


def group_passages(passages: list[Passage], cuts: set[str]) -> list[list[Passage]]:
    paragraphs: list[list[Passage]] = [[]]
    for passage in passages:
        paragraphs[-1].append(passage)
        if passage.passage_id in cuts:
            paragraphs.append([])
    return [each for each in paragraphs if each]


def rebuild_question(row: dict[str, Any], windows: list[Passage], context: str) -> dict[str, Any] | None:
    """Return a question whose positives are those of the row, or None. Try numbers of annotators for each answer."""
    positives = {each["passage_id"] for each in row["positive_ctxs"]}
    answers = row["answers"]
    holds = {each.passage_id: [answer in each.text for answer in answers] for each in windows}
    if any(map(any, holds.values())):
        for times in sorted(product(range(1, 5), repeat=len(answers)), key=sum):
            counts = {name: sum(a * b for a, b in zip(held, times, strict=True)) for name, held in holds.items()}
            if {name for name, count in counts.items() if count == max(counts.values())} == positives:
                break
        else:
            return None
    else:
        times = (1,) * len(answers)
    given = [
        {"text": a, "answer_start": context.find(a)} for a, n in zip(answers, times, strict=True) for _ in range(n)
    ]
    return {"id": row["qid"], "question": row["question"] + " ", "answers": given}
