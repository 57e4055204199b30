"""The help of commands: groups of flags, values, defaults, and examples that can be parsed."""

from __future__ import annotations

import re
import shlex
import textwrap

import pytest

from test.commands.test_cli import Flags
from test.helpers import read_examples
from text.commands import COMMANDS, load_command, main
from text.commands.cli import get_flag_fields, parse_flags
from text.commands.flag_help import format_help
from text.commands.train_flags import TrainFlags

NO_PATHS = set(
    "allowed_hosts choose_weight device host index index_parameters lora_targets measures milvus passage_prompt "
    "question_prompt round score_key split test_split train_split valid_split".split()
)
"""Text flags that are not paths."""
ALL = [load_command(name)[1] for name in COMMANDS]


def test_help_of_a_small_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    expected = """
        usage: look FOLDER [FOLDER ...] [--flag=value ...]

        Search folders.

        required:
          FOLDER                Folders to search.

        flags:
          --output PATH         Output file.
          --kinds TEXT [TEXT ...]
                                Kinds to find.

        depth:
          --deep                Search subfolders too.
          --levels N            Levels to search. (default: 1)

        general:
        """
    assert format_help(Flags, "look").startswith(textwrap.dedent(expected).strip("\n"))


def test_groups_of_train() -> None:
    headings = re.findall(r"^(\w+):$", format_help(TrainFlags, "dpr-text train"), flags=re.MULTILINE)
    assert headings == ["data", "model", "objective", "optimization", "run", "general", "examples"]


@pytest.mark.parametrize("flags_class", ALL)
def test_every_flag_has_help_and_no_type_of_python(flags_class: type) -> None:
    shown = format_help(flags_class, "dpr-text")
    for name, field in get_flag_fields(flags_class).items():
        flag = re.escape(field.metadata.get("positional") or f"--{name}")
        assert re.search(rf"^  {flag}\b[^\n]*?(\n +|  +)\w", shown, flags=re.MULTILINE), name
    flags = shown.partition("general:")[0]
    assert not re.search(r"\b(str|int|float|bool|None|Literal)\b|\b(list|dict|tuple)\[|\btype: ", flags)
    assert max(map(len, shown.partition("examples:")[0].splitlines())) <= 120


@pytest.mark.parametrize("flags_class", ALL)
def test_every_command_has_examples_that_can_be_parsed(flags_class: type) -> None:
    examples = [shlex.split(line, comments=True) for line in read_examples(flags_class)]
    assert examples
    for program, name, *argv in examples:
        assert program == "dpr-text" and load_command(name)[1] is flags_class
        parse_flags(flags_class, argv)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: dpr-text {name}") and f"\n  dpr-text {name} " in shown


def test_help_shows_defaults_as_people_write_them() -> None:
    shown = {name: " ".join(format_help(load_command(name)[1], name).split()) for name in ("evaluate", "mine", "loop")}
    assert "--k N [N ...] Cut-offs of the metrics. (default: 1 5 10 20 100)" in shown["evaluate"]
    assert "for each of --runs. (default: 1)" in shown["mine"]
    assert "--score_start={true,false}" in shown["loop"] and "(default: true)" in shown["loop"]
    assert "--train {NAME: VALUE}" in shown["loop"]


def test_help_asks_for_a_path_wherever_a_flag_is_one() -> None:
    shown = "\n".join(format_help(flags_class, "") for flags_class in ALL)
    assert set(re.findall(r"^  --(\w+)\S*?(?: \[?|\[=)TEXT", shown, flags=re.MULTILINE)) == NO_PATHS
