"""From a command line to a driver's flags: arguments that are no flags."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from examples.dpr.cli import UsageError, parse, run


@dataclass(frozen=True, kw_only=True)
class Config:
    """Looks at folders."""

    folders: list[str] = field(metadata={"positional": "FOLDER"})
    """Where to look."""
    output: str | None = None
    """Where to write."""
    deep: bool = False
    """Look into folders of folders."""


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
    ],
)
def test_what_cannot_be_meant(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        parse(Config, argv)


def test_help_has_its_name_and_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(lambda _: None, Config, ["--help"])
    shown = capsys.readouterr().out
    assert "FOLDER [FOLDER ...]" in shown
    assert "Where to look." in shown
    assert "--folders" not in shown
