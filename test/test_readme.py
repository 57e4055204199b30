"""The README's Python and commands run as they stand. Its links and those of the example's README lead somewhere."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from test.pages import ROOT, Block, blocks, run, stand_ins

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAIN, TORCHTEXT = README.split("## With torchtext")


def test_the_code_of_the_readme_runs(tmp_path: Path, python: Path) -> None:
    stand_ins(tmp_path)
    code = [block for block in blocks(MAIN) if "python3 -m venv" not in block.code]  # .ci/run has these two
    assert [block.language for block in code].count("python") == 4
    end = Block("python", "print(next(iter(batches)).passage_keys.shape)", 1, is_slow=False, printed=None)
    printed = "".join(run([*code, end], tmp_path, python))
    assert printed.endswith("torch.Size([20, 2])\n")
    assert "accuracy@1 " in printed
    assert "which metal has the highest melting point -> " in printed
    assert re.search(r"^[123] -?\d+\.\d+$", printed, flags=re.MULTILINE)


@pytest.mark.skipif(find_spec("torchtext") is None, reason="torchtext is not installed")
def test_the_python_with_torchtext_runs(tmp_path: Path, python: Path) -> None:
    stand_ins(tmp_path)
    [block] = [block for block in blocks(TORCHTEXT) if block.language == "python"]
    more = block._replace(code=f"{block.code}print(sum(w.numel() for w in weights.values()))\n")
    assert run([more], tmp_path, python) == ["124054272\n"]


@pytest.mark.parametrize("page", ["README.md", "examples/dpr/README.md"])
def test_links_lead_to_files_and_headings(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    ours = [link for link in links if not link.startswith("https:")]
    assert len(ours) > 10
    for path, _, anchor in (link.partition("#") for link in ours):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in headings(target), (path, anchor)


def headings(page: Path) -> set[str]:
    """As GitHub names them in addresses."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_each_install_is_of_a_lock() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.py")]
    installs = [
        line for page in pages for line in re.findall("pip install ([^`&\n]+)", page.read_text(encoding="utf-8"))
    ]
    assert len(installs) > 10
    assert [line for line in installs if "--require-hashes" not in line and "--no-index" not in line] == []
