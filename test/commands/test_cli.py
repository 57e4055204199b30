"""From a command line to flags: groups, positional arguments, YAML files, numbers, errors."""

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
    flag_fields,
    flag_values,
    number,
    parse_flags,
    pick_arguments,
    run_command,
)
from text.commands.train_flags import TrainFlags
from text.errors import UsageError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Depth:
    """How deep to look."""

    deep: bool = False
    """Look into folders of folders."""
    levels: int = number(1, least=1, below=9)
    """Levels to look into."""
    inner: int = field(default=3, metadata={"flag": False})
    """Not a flag."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Look at folders."""

    folders: list[str] = field(metadata={"positional": "FOLDER"})
    """Where to look."""
    output: str | None = None
    """Where to write."""
    kinds: list[str] | None = None
    """What to look for."""
    depth: Depth = Depth()


@dataclass(frozen=True, kw_only=True)
class RequiredFlags:
    """A command with a required flag."""

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
        (["a", "--output=b", "--output=c"], "--output is given twice"),
        (["a", "--kinds=b"], "--kinds='[a, b]'"),
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
        ("outptu: a\n", r"--output\?"),
        ("levels: 0\n", "--levels is 0"),
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


def test_values_of_flags_go_there_and_back() -> None:
    values = flag_values(parse_flags(TrainFlags, ["--matryoshka_dims=[8, 4]", "--tied"]))
    assert values["matryoshka_dims"] == [8, 4] and values["tied"] is True
    assert set(values) == set(flag_fields(TrainFlags))
    assert "all_positives" not in values
    argv = [
        f"--{name}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}" for name, value in values.items()
    ]
    assert flag_values(parse_flags(TrainFlags, argv)) == values


def test_without_flags_all_have_their_defaults() -> None:
    assert parse_flags(TrainFlags, []) == TrainFlags()


def test_a_function_gets_the_flags_that_it_takes() -> None:
    def look(output: str, levels: int) -> None: ...

    assert pick_arguments(look, Flags(folders=[], output="o"), Depth(levels=2)) == {"output": "o", "levels": 2}


def test_help_lists_each_flag_under_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run_command(print, Flags, ["--help"])
    shown = capsys.readouterr().out
    assert "FOLDER [FOLDER ...]" in shown and "--folders" not in shown
    for text in ("Where to look.", "Where to write.", "Look into folders of folders."):
        assert text in shown
    assert shown.index("depth:") < shown.index("  --deep")
    assert "--inner" not in shown


def test_help_of_train_has_a_sentence_for_each_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run_command(print, TrainFlags, ["--help"])
    shown = capsys.readouterr().out
    sentences = re.findall(r"^  --(\w+) [^\n]*\n? +\S+ \S+", shown, flags=re.MULTILINE)
    assert set(sentences) >= set(flag_fields(TrainFlags))
    assert re.findall(r"^(\w+):$", shown, flags=re.MULTILINE)[1:] == [
        "data",
        "model",
        "objective",
        "optimization",
        "run",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert f"usage: dpr-text {name}" in capsys.readouterr().out


def test_the_list_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, sentence in COMMANDS.items():
        assert any(line.split() == [name, *sentence.split()] for line in lines)
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"dpr-text {__version__}\n")
    assert main(["trian"]) == 2
    assert "trian" in capsys.readouterr().err


def test_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "text", "--help"]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "usage: dpr-text COMMAND" in done.stdout


def test_help_shows_the_items_of_a_default(capsys: pytest.CaptureFixture[str]) -> None:
    for command, shown in (("evaluate", "default: [1, 5, 10, 20, 100]"), ("mine", "default: [1]")):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert shown in " ".join(capsys.readouterr().out.split())


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
