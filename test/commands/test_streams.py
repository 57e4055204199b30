"""Standard streams: readers that stop, closed or full streams, encodings, and control characters."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from text.commands.streams import SafeStream, guard_streams

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
PRINTS = """
import pathlib, sys
from text.commands.running import call_command

def work():
    for number in range(10_000):
        print("line", number)
        print("note", number, file=sys.stderr)
    pathlib.Path(sys.argv[1]).write_text("done")

sys.exit(call_command("printer", work))
"""


def run_shell(command: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a bash command in which $PYTHON is Python. Return its output and the exit code of $PYTHON."""
    environment = {**ENVIRONMENT, "PYTHON": sys.executable, **variables}
    script = ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}", "bash", *arguments]
    return subprocess.run(script, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("redirection", ["| head -1", "2>&1 | head -1", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_the_work_is_done_even_if_nobody_reads_the_output(tmp_path: Path, redirection: str) -> None:
    done = run_shell(f'"$PYTHON" -c "$1" "$2" {redirection}', PRINTS, str(tmp_path / "done"))
    assert done.returncode == 0 and (tmp_path / "done").read_text() == "done"
    assert "Error" not in done.stderr and "Exception" not in done.stderr


def test_output_to_a_full_disk_is_an_error(tmp_path: Path) -> None:
    done = run_shell('"$PYTHON" -c "$1" "$2" > /dev/full', PRINTS, str(tmp_path / "done"))
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == "printer: error: standard output: no space left on device"


def test_help_for_a_reader_that_stops_early() -> None:
    done = run_shell('"$PYTHON" -m text select --help | head -1')
    assert done.returncode == 0 and done.stdout.startswith("usage: ") and done.stderr == ""


@pytest.mark.slow
def test_a_path_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    row = {"question": "q", "answers": ["a"]} | {
        key: [{"title": "t", "text": "x"}] for key in ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs")
    }
    (tmp_path / "é.jsonl").write_text(json.dumps(row) + "\n")
    command = f'"$PYTHON" -m text select --raw_path={tmp_path}/é.jsonl --out_path={tmp_path}/ö.jsonl --num_items=1'
    done = run_shell(command, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and (tmp_path / "ö.jsonl").exists()
    assert "\\xf6.jsonl: kept 1 rows" in done.stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc\n", "a\tb\nc\n"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("a\rb\x9b\u202e", r"a\rb\x9b\u202e"),
        ("\rbar: 3", "\rbar: 3"),  # a progress bar
        ("\n\x1b[A\x1b[A", "\n\x1b[A\x1b[A"),  # a progress bar below others
        ("é", r"\xe9"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    buffer = io.BytesIO()
    stream: Any = SafeStream(io.TextIOWrapper(buffer, encoding="ascii", newline=""))
    print(text, file=stream, end="", flush=True)
    assert buffer.getvalue().decode() == shown


def test_streams_are_restored(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with guard_streams():
        sys.stdout.writelines(["a\x1b", "b\n"])
        assert not sys.stdout.isatty()
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "a\\x1bb\n"
