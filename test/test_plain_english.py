"""Guards against the most common riddles in docstrings, help texts, errors and pages.

The tests are cheap and find only what a pattern can find. They do not replace reading a text aloud.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("text", "examples", "benchmarks", "test")
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
SOURCES += [ROOT / "dpr_text.py", ROOT / "docs/conf.py"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RIDDLE = re.compile(r"(Of|What|As|Where|Whether|Which|Who|How|That|Those|Likewise)\b")
EMPTY_END = re.compile(r"expected (it|them|this|that|so|one)\W*$")
MAX_WORDS = 25


def list_docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield docstrings and the texts below fields, which become the help of flags."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def list_messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each string. Values of an f-string are left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
            yield node.lineno, "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def count_sentence_words(page: str) -> list[int]:
    """Return the number of words of each sentence in the prose of a page, without code, tables and headings."""
    prose = re.sub(r"^ *```.*?^ *```", "", page, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^(#|\||!\[|\(\w+\)=).*$", "\n", prose, flags=re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)|`[^`]*`", " x ", prose)
    paragraphs = re.split(r"\n\s*\n|^ *(?:[-*]|\d+\.) ", prose, flags=re.MULTILINE)
    sentences = [each for paragraph in paragraphs for each in re.split(r"[.:?!](?=\W*\s|\W*$)", paragraph)]
    counts = [len(re.findall(r"[\w'’-]+", sentence)) for sentence in sentences]
    return [count for count in counts if count]


def test_no_docstring_or_flag_starts_with_a_riddle() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {str(node.value)[:60]}"
        for path in SOURCES
        for node in list_docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if RIDDLE.match(str(node.value).strip())
    ]
    assert found == []


def test_no_error_ends_in_an_empty_expectation() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {message}"
        for path in (ROOT / "text").rglob("*.py")
        for line, message in list_messages(ast.parse(path.read_text(encoding="utf-8")))
        if EMPTY_END.search(message)
    ]
    assert found == []


def test_sentences_of_pages_are_short() -> None:
    pages = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
    long = {}
    for name, page in pages.items():
        words = count_sentence_words(page)
        if len(words) > 5 and (percentile := statistics.quantiles(words, n=20, method="inclusive")[-1]) > MAX_WORDS:
            long[name] = percentile
    assert long == {}


def test_paragraphs_of_the_readme_are_short() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 150
    prose = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    paragraphs = [each for each in re.split(r"\n\s*\n", prose) if not each.lstrip().startswith(("|", "-", "!"))]
    assert max(len(paragraph.strip().splitlines()) for paragraph in paragraphs) <= 4


def test_the_guards_find_what_they_are_for() -> None:
    [docstring] = list_docstrings(ast.parse('def f():\n    """Of a window."""'))
    assert RIDDLE.match(str(docstring.value))
    assert not RIDDLE.match("Whole rows of a file.")
    assert EMPTY_END.search("the worker died; expected it.") and not EMPTY_END.search("expected 1 to 1023")
    messages = [message for _, message in list_messages(ast.parse('f"{x} died; expected it"'))]
    assert any(EMPTY_END.search(message) for message in messages)
    page = "# A heading\n\nOne two three. Four `five six`: seven.\n\n| a | table |\n\n```bash\nls -l\n```\n- An item\n"
    assert count_sentence_words(page) == [3, 2, 1, 2]
