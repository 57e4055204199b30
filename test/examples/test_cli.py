"""From a command line to a driver's flags: arguments that are no flags."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from examples.dpr.cli import UsageError, parse, run, shown


@dataclass(frozen=True, kw_only=True)
class Config:
    """Looks at folders."""

    folders: list[str] = field(metadata={"positional": "FOLDER"})
    """Where to look."""
    output: str | None = None
    """Where to write."""
    deep: bool = False
    """Look into folders of folders."""
    kinds: list[str] | None = None
    """What to look for."""


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["a"], Config(folders=["a"])),
        (["a", "b c"], Config(folders=["a", "b c"])),
        (["a", "b", "--output=c"], Config(folders=["a", "b"], output="c")),
        (["--output", "c", "a", "b"], Config(folders=["a", "b"], output="c")),
        (["a", "--deep"], Config(folders=["a"], deep=True)),
        (["--deep=true", "1", "[x]"], Config(folders=["1", "[x]"], deep=True)),
    ],
)
def test_positional_arguments(argv: list[str], expected: Config) -> None:
    assert parse(Config, argv) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: folders"),
        (["a", "--outptu=b"], "did you mean --output?"),
        (["a", "--output=b", "--output=c"], "--output is given twice"),
        (["a", "--kinds=b"], "expected a list, such as --kinds='[a, b]'"),
    ],
)
def test_what_cannot_be_meant(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(Config, argv)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("output: a\noutput: b\n", r"c.yaml:2: output is given twice; expected it once"),
        ("outptu: a\n", r"did you mean --output\?"),
    ],
)
@pytest.mark.parametrize("is_apart", [False, True])
def test_f11_a_file_of_flags(tmp_path: Path, content: str, message: str, is_apart: bool) -> None:
    (tmp_path / "c.yaml").write_text(content)
    flag = ["--config", str(tmp_path / "c.yaml")] if is_apart else [f"--config={tmp_path / 'c.yaml'}"]
    with pytest.raises(UsageError, match=message):
        parse(Config, ["a", *flag])


def test_stopped_from_the_keyboard(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(_: Config) -> None:
        raise KeyboardInterrupt

    assert run(stopped, Config, ["a"]) == 143
    assert capsys.readouterr().err.endswith(": stopped by SIGINT\n")


def test_help_has_its_name_and_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(lambda _: None, Config, ["--help"])
    shown = capsys.readouterr().out
    assert "FOLDER [FOLDER ...]" in shown
    assert "Where to look." in shown
    assert "--folders" not in shown


def test_g8_a_terminal_obeys_nothing_in_texts() -> None:
    assert shown("a\x1b]0;b\x07 c\td\ne \u00e9\x9b\r") == r"a\x1b]0;b\x07 c" + "\td\ne \u00e9" + r"\x9b\r"
