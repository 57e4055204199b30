"""Parsing of command lines: groups, positional arguments, YAML files, numbers and errors."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from text import __version__
from text.commands import COMMANDS, main
from text.commands.cli import (
    get_flag_fields,
    get_flag_values,
    name_flags,
    number_field,
    parse_flags,
    pick_arguments,
)
from text.commands.train_flags import TrainFlags
from text.errors import ArtifactError, DataError, UsageError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Depth of the search."""

    deep: bool = False
    """Search subfolders too."""
    levels: int = number_field(1, least=1, below=9)
    """Levels to search."""
    inner: int = field(default=3, metadata={"flag": False})
    """Not a flag."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Search folders."""

    folders: list[str] = field(metadata={"positional": "FOLDER"})
    """Folders to search."""
    output: str | None = None
    """Output file."""
    kinds: list[str] | None = None
    """Kinds to find."""
    depth: Depth = Depth()


@dataclass(frozen=True, kw_only=True)
class RequiredFlags:
    """Flags of a command with a required flag."""

    model: str
    """Folder of a model."""


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["a"], Flags(folders=["a"])),
        (["a", "b c"], Flags(folders=["a", "b c"])),
        (["a", "b", "--output=c"], Flags(folders=["a", "b"], output="c")),
        (["--output", "c", "a", "b"], Flags(folders=["a", "b"], output="c")),
        (["a", "--deep"], Flags(folders=["a"], depth=Depth(deep=True))),
        (["a", "--kinds=b"], Flags(folders=["a"], kinds=["b"])),
        (["--kinds", "b", "a", "c"], Flags(folders=["a", "c"], kinds=["b"])),
        (["--deep=true", "--levels=2", "1", "[x]"], Flags(folders=["1", "[x]"], depth=Depth(deep=True, levels=2))),
    ],
)
def test_positional_arguments_and_groups(argv: list[str], expected: Flags) -> None:
    assert parse_flags(Flags, argv) == expected


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "FOLDER"),
        (["a", "--outptu=b"], "--output?"),
        (["a", "--kinds=b", "--kinds=c"], "--kinds='[a, b]'"),
        (["a", "--output"], "--output=VALUE"),
        (["a", "--debug=1"], "--debug takes no value"),
        (["a", "--output=b", "--output=c"], "--output is given twice"),
        (["a", "--kinds=[b"], "--kinds"),
        (["a", "--out=b"], "--out=b"),
        (["a", "--inner=4"], "--inner"),
        (["a", "--levels=0"], "--levels is 0"),
        (["a", "--levels=9"], "--levels is 9"),
        (["a", "--levels=x"], "levels"),
        (["a", "--deep=perhaps"], "deep"),
    ],
)
def test_a_wrong_command_line_names_the_flag(argv: list[str], part: str) -> None:
    with pytest.raises(UsageError, match=re.escape(part)):
        parse_flags(Flags, argv)


def test_a_required_flag_is_required_by_the_parser() -> None:
    with pytest.raises(UsageError, match="model"):
        parse_flags(RequiredFlags, [])
    assert parse_flags(RequiredFlags, ["--model=m"]) == RequiredFlags(model="m")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("output: a\noutput: b\n", r"c.yaml:2: .*output"),
        ("outptu: a\n", r"c.yaml:1: .* output\?"),
        ("levels: 0\n", r"c.yaml:1: levels is 0"),
    ],
)
@pytest.mark.parametrize("is_apart", [False, True])
def test_a_wrong_file_of_flags_names_the_flag(tmp_path: Path, content: str, part: str, is_apart: bool) -> None:
    (tmp_path / "c.yaml").write_text(content)
    flag = ["--config", str(tmp_path / "c.yaml")] if is_apart else [f"--config={tmp_path / 'c.yaml'}"]
    with pytest.raises(UsageError, match=part):
        parse_flags(Flags, ["a", *flag])


def test_a_file_of_flags_and_the_command_line_go_together(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("output: a\nlevels: 4\n")
    found = parse_flags(Flags, ["a", f"--config={tmp_path}/c.yaml", "--levels=5"])
    assert found == Flags(folders=["a"], output="a", depth=Depth(levels=5))


def test_flag_values_survive_a_round_trip() -> None:
    values = get_flag_values(parse_flags(TrainFlags, ["--matryoshka_dims=[8, 4]", "--tied"]))
    assert values["matryoshka_dims"] == [8, 4] and values["tied"] is True
    assert set(values) == set(get_flag_fields(TrainFlags))
    assert "all_positives" not in values
    argv = [
        f"--{name}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}" for name, value in values.items()
    ]
    assert get_flag_values(parse_flags(TrainFlags, argv)) == values


def test_an_empty_command_line_gives_the_defaults() -> None:
    assert parse_flags(TrainFlags, []) == TrainFlags()


def test_a_function_gets_the_flags_that_it_takes() -> None:
    def look(output: str, levels: int) -> None: ...

    assert pick_arguments(look, Flags(folders=[], output="o"), Depth(levels=2)) == {"output": "o", "levels": 2}


def test_the_list_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, sentence in COMMANDS.items():
        assert any(line.split() == [name, *sentence.split()] for line in lines)
    assert main([]) == 0


@pytest.mark.parametrize("argv", [["--version"], ["-V"], ["version"]])
def test_the_version(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out == f"dpr-text {__version__}\n"


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    assert "usage: dpr-text COMMAND" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["help", "select"])
    assert "usage: dpr-text select" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["trian"], "Did you mean train?"),
        (["--gpus=1", "train"], "dpr-text train --gpus=1"),
        (["x"], ", windows, loop,"),
    ],
)
def test_an_unknown_command_gets_a_hint(argv: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("max_words are [0]; expected more", "--max_words are [0]; expected more"),
        ("run is 3, and max_words is 4", "--run is 3, and --max_words is 4"),
        ("3 rows of the run; raise max_words.", "3 rows of the run; raise --max_words."),
        ("max_words/a.txt:1: --max_words, 'max_words' and my_max_words", None),
        ("run.trec: cut", None),
    ],
)
@pytest.mark.parametrize("kind", [UsageError, ValueError, DataError, ArtifactError])
def test_an_error_names_flags_as_the_command_line_does(line: str, named: str | None, kind: type[Exception]) -> None:
    """Errors about flags get dashes. An ArtifactError does not, because it is about the keys of a file."""
    with pytest.raises(kind) as error, name_flags(["run", "max_words", "words"]):
        raise kind(line)
    assert str(error.value) == (line if kind is ArtifactError else named or line)


def test_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "text", "--help"]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "usage: dpr-text COMMAND" in done.stdout


@pytest.mark.parametrize("module", ["text.commands", "text.commands.running", "text.errors"])
def test_ctrl_c_before_the_command_begins_is_one_line(module: str) -> None:
    code = f"""
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["text", "--version"]
runpy.run_module("text", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 143 and len(done.stderr.splitlines()) == 1 and "SIGINT" in done.stderr
