"""The code blocks of all documentation pages run. The built site has no warnings and loads no external resources."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest
import torch

from test.pages import ROOT, Block, find_blocks, find_missing_line, run_blocks, write_stand_ins
from text.commands import COMMANDS

DOCS = ROOT / "docs"
PAGES = {
    page.relative_to(DOCS).as_posix(): find_blocks(page.read_text(encoding="utf-8")) for page in DOCS.rglob("*.md")
}
RUN = sorted(name for name, code in PAGES.items() if code)
SLOW = [name for name in RUN if any(block.is_slow for block in PAGES[name])]
LONG = {
    "from/sentence-transformers.md",
    *(f"guide/{name}.md" for name in ("commands", "natural-questions", "reports", "retrieval", "training")),
    "tutorial.md",
}
MODULES = (
    *("records", "errors", "artifacts", "datasets", "transforms", "models", "losses", "evaluation"),
    *("bundle", "reranker"),
    *("training", "retrieval", "serving", "serving.app", "runs.folder", "runs.loop", "reports.run_report"),
)
NEEDS = {
    "from/torchtext.md": ["torchtext"],
    "from/sentence-transformers.md": ["sentence_transformers"],
    "guide/bring-your-model.md": ["transformers"],
    "guide/commands.md": ["bm25s"],
    "guide/retrieval.md": ["faiss", "bm25s"],
    "guide/mining.md": ["bm25s"],
    "guide/training.md": ["transformers", "peft"],
}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the stand-ins for all pages."""
    folder = tmp_path_factory.mktemp("stand-ins")
    write_stand_ins(folder)
    return folder


def check_page(name: str, code: list[Block], stand_ins: Path, folder: Path, python: Path) -> None:
    for package in NEEDS.get(name, ()):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if name == "from/fair-dpr.md" and torch.__version__ < "2.10":
        pytest.skip("an old PyTorch refuses external checkpoints")
    shutil.copytree(stand_ins, folder, symlinks=True, dirs_exist_ok=True)
    for block, printed in zip(code, run_blocks(code, folder, python), strict=True):
        assert find_missing_line(block, printed) is None, f"{name}, line {block.line} prints\n{printed}"


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in RUN])
def test_a_page_runs(name: str, stand_ins: Path, tmp_path: Path, python: Path) -> None:
    check_page(name, [block for block in PAGES[name] if not block.is_slow], stand_ins, tmp_path, python)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SLOW)
def test_a_page_runs_with_its_slow_blocks(name: str, stand_ins: Path, tmp_path: Path, python: Path) -> None:
    check_page(name, PAGES[name], stand_ins, tmp_path, python)


def test_the_output_that_a_page_shows_must_be_printed() -> None:
    [block] = find_blocks("# x\n\n```bash\nfalse\n```\n```output\nfound 3 of 10, 0.25 s\n...\nend\n```\n")
    assert (block.language, block.code, block.line) == ("bash", "false\n", 4)
    assert find_missing_line(block, "noise\nfound 3  of 10, 17.5 s\nmore\nend\n") is None
    assert find_missing_line(block, "found 4 of 10, 0.25 s\nmore\nend") == "found 3 of 10, 0.25 s"
    assert find_missing_line(block, "end\nfound 3 of 10, 0.25 s\nmore\n") == "end"
    assert find_missing_line(block._replace(language="python"), "found 3 of 10, 0.26 s\nmore\nend") is not None


def test_a_failing_block_is_reported(tmp_path: Path, python: Path) -> None:
    for code in ("```bash\nexit 3\n```\n", "```python\n1 / 0\n```\n"):
        with pytest.raises(AssertionError, match=r"line 2, (exit code 3|in <module>)"):
            run_blocks(find_blocks(code), tmp_path, python)


def test_blocks_that_do_not_run_are_few() -> None:
    """Only installation, downloads, diagrams and multi-GPU commands are plain text. All other blocks run."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    languages = re.findall(r"^ *```(\w+)", text, flags=re.MULTILINE)
    assert set(languages) == {"bash", "python", "output", "text", "json", "yaml"}
    assert languages.count("text") < 20


def test_the_page_of_commands_has_the_flags_of_every_command() -> None:
    page = (DOCS / "api/commands.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", page, flags=re.MULTILINE)
    assert headings == ["How to write flags", "Files of flags", *COMMANDS]
    shown = set()
    for path in re.findall(r"autoclass:: ([\w.]+)", page):
        module, _, name = path.rpartition(".")
        shown.add(getattr(importlib.import_module(module), name))
    in_files = {
        getattr(importlib.import_module(f"text.commands.{path.stem}"), name)
        for path in (ROOT / "text/commands").glob("*.py")
        for name in re.findall(r"^class (\w+Flags)\b", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    groups = {
        kind
        for flags_class in in_files
        for kind in get_type_hints(flags_class).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    assert len(in_files) > len(COMMANDS) and len(groups) > 5
    assert in_files | groups <= shown


def test_every_benchmark_result_is_linked() -> None:
    page = (DOCS / "reference/benchmarks.md").read_text(encoding="utf-8")
    assert [f for f in (ROOT / "benchmarks/results").glob("*.md") if f"/{f.name}\n" not in page] == []


class Resources(HTMLParser):
    """Addresses that a browser loads automatically, without the links that a reader may follow."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (name == "href" and tag in ("link", "image", "use")):
                self.found.append(value or "")
            if name == "style":
                self.found.extend(re.findall(r"url\((.*?)\)", value or ""))


def is_external(address: str) -> bool:
    return re.match(r"[\"']?(https?:)?//", address) is not None


@pytest.mark.slow
def test_the_built_documentation(tmp_path: Path) -> None:
    """Check that the site has no warnings, all public names, and no external resources."""
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    pytest.importorskip("furo", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", DOCS, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert len(pages) > 20
    loaded = [address for page in pages.values() for address in Resources(page).found]
    assert len(loaded) > 100 and not [address for address in loaded if is_external(address)]
    for path in tmp_path.rglob("*.css"):
        addresses = re.findall(r"url\((.*?)\)|@import\s+([\"'].*?[\"'])", path.read_text(encoding="utf-8"))
        assert not [address for both in addresses for address in both if is_external(address)], path
    flags = pages[tmp_path / "api/commands.html"]
    for text in (
        "Recompute activations in the backward pass.",
        "Add the passage-to-question loss",
        "Reject candidates that",
    ):
        assert text in flags  # help of a group of train, of a group from text.training, and of one from text.retrieval
    names = set(re.findall(r'id="(text\.[\w.]+)"', "".join(pages.values())))
    for module in (importlib.import_module(f"text.{name}") for name in MODULES):
        assert not [name for name in list_public_names(module) if f"{module.__name__}.{name}" not in names]


def list_public_names(module: ModuleType) -> list[str]:
    """Return the names in a module's ``__all__``, or else its own classes and functions."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return getattr(module, "__all__", [name for name in own if not name.startswith("_")])
