"""Flag values have the same meaning in files and on command lines. Wrong values are refused with their place."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from text.artifacts import dump_yaml, parse_yaml
from text.commands import COMMANDS, load_command
from text.commands.cli import get_flag_values, number_field, parse_flags
from text.commands.flag_fields import get_flag_types
from text.commands.flag_values import check_flags, parse_flag
from text.commands.loop import LoopFlags
from text.commands.report import ReportFlags
from text.errors import UsageError

ALL_FLAGS = [
    pytest.param(name, flag, kind, id=f"{name}-{flag}")
    for name in COMMANDS
    for flag, kind in get_flag_types(load_command(name)[1]).items()
]
NUMERIC = [param for param in ALL_FLAGS if re.search(r"\b(int|float)\b", str(param.values[2]))]
LOOP = ["--collection=c", "--output_dir=o"]
REQUIRED = {
    "select": ["--raw_path=08", "--out_path=yes"],
    "check": ["--data_path=1e5"],
    "convert": ["--data_path=0x10", "--output_dir=no"],
    "encode": ["--model=no", "--collection=0x10", "--output_dir=~a"],
    "update": ["--collection=a", "--upsert=1_000", "--output=b"],
    "search": ["--model=a", "--embeddings=b", "--questions=c: d", "--run=2001-01-01"],
    "evaluate": ["--run=é", "--output_dir=a\tb"],
    "mine": ["--rows=08", "--collection=b", "--output=o", "--runs=['1', '-']", "--num=[1, 2]"],
    "score": ["--rows=08", "--teacher=no", "--output=1_0"],
    "windows": ["--collection='", "--output_dir=#"],
    "loop": [*LOOP, "--rounds=[{sources: {bm25: 1}}]", "--train={max_epochs: 1}"],
    "report": ["1", "--output=a.html"],
    "serve": ["--model=m", "--embeddings=[e"],
}
"""Flags of each command that make its command line valid."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """One flag of each type."""

    whole: int = 1
    part: float = number_field(0.5, least=0)
    is_on: bool = False
    name: str = "n"
    maybe: str | None = None
    choice: Literal["a", "b"] | None = None
    numbers: list[int] = field(default_factory=list)
    parts: tuple[float, ...] = ()
    names: list[str] | None = None
    nested: dict[str, dict[str, float]] = field(default_factory=dict)
    anything: dict[str, Any] = field(default_factory=dict)


def read(folder: Path, content: str | bytes) -> Flags:
    path = folder / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return parse_flags(Flags, [f"--config={path}"])


@pytest.mark.parametrize(
    ("flag", "content", "value"),
    [
        ("whole", "010", 10),
        ("whole", "+3", 3),
        ("part", "1e-5", 1e-5),
        ("part", "1.5e+3", 1500.0),
        ("part", "2", 2.0),
        ("is_on", "true", True),
        ("is_on", "False", False),
        ("name", "yes", "yes"),
        ("name", "2001-01-01", "2001-01-01"),
        ("maybe", "null", None),
        ("maybe", "~", None),
        ("choice", "a", "a"),
        ("choice", "null", None),
        ("numbers", "[1, 010]", [1, 10]),
        ("names", "[yes, '1']", ["yes", "1"]),
        ("names", "null", None),
        ("names", "a,b", ["a,b"]),
        ("numbers", "10", [10]),
        ("parts", "2", (2.0,)),
        ("nested", "{a: {b: 1}}", {"a": {"b": 1.0}}),
    ],
)
def test_a_value_means_the_same_in_a_file_and_on_the_command_line(
    tmp_path: Path, flag: str, content: str, value: Any
) -> None:
    from_file = getattr(read(tmp_path, f"{flag}: {content}\n"), flag)
    from_argv = getattr(parse_flags(Flags, [f"--{flag}={content}"]), flag)
    assert (from_file, type(from_file)) == (from_argv, type(from_argv)) == (value, type(value))


@pytest.mark.parametrize(
    ("flag", "content"),
    [
        *[("whole", each) for each in ("0x10", "1_000", "1.0", "1e2", "yes", "", "null", "[1]", "9" * 30, "9" * 5000)],
        *[("part", each) for each in ("nan", ".inf", "inf", "1e999", "1_0.5", "", "-1", "true")],
        *[("is_on", each) for each in ("yes", "on", "1", "", "null")],
        *[("name", each) for each in ("null", "~")],
        ("choice", "c"),
        *[("numbers", each) for each in ("1,", "1,x", "x", "", "[null]", "[true]", "[1.5]", "[[1]]", "{a: 1}", "null")],
        *[("names", each) for each in ("[1]", "[null]", "[a")],
        *[("nested", each) for each in ("{a: 1}", "{a: {b: null}}", "{a: {b: x}}", "{1: {b: 1}}")],
        *[("anything", each) for each in ("{a: !!binary aGk=}", "{a: 1, a: 2}", "{a: {b: 1, b: 2}}", "[1]", "{?: 1}")],
    ],
)
def test_a_wrong_value_is_refused_with_its_flag(tmp_path: Path, flag: str, content: str) -> None:
    with pytest.raises(UsageError, match=f"--{flag}"):
        parse_flags(Flags, [f"--{flag}={content}"])
    with pytest.raises(UsageError, match=r"c.yaml|--part"):
        read(tmp_path, f"{flag}: {content}\n")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("names: &a [*a]\n", "c.yaml:1: "),
        (BOMB, "c.yaml: "),
        ("numbers: " + "[" * 5000, "c.yaml: "),
        ("whole: 1\nname: x\nwhole: 2\n", "c.yaml:3: .*whole"),
        ("anything: {b: [{c: 1,\n c: 2}]}\n", "c.yaml:2: .*c is given twice"),
        ("# a list\n- whole\n", "c.yaml:2: .*name: value"),
        ("text\n", "c.yaml:1: .*name: value"),
        ("whole: 1\n---\nwhole: 2\n", "c.yaml:2: not valid YAML: more than one document"),
        ("numbers:\n- 1\n- x\n", r"c.yaml:3: numbers\[1\]"),
        ("names:\n- a\n- [b]\n", r"c.yaml:3: names\[1\]"),
        ("name: x\npart: -1\n", "c.yaml:2: part is -1"),
        (b"name: \xff\n", "c.yaml: "),
        ("name: x\nwhole:\n", "c.yaml:2: whole is null"),
        ("name: x\n\nnested: {a: {b: x}}\n", "c.yaml:3: nested.a.b"),
        ("whole: !!python/object/apply:os.getpid []\n", "c.yaml:1: "),
        ("config: other.yaml\n", "c.yaml:1: config is not a flag"),
        ("nmae: x\n", "c.yaml:1: nmae is not a flag. Did you mean name"),
        ("nested.a.b: 1\n", "c.yaml:1: nested.a.b is not a flag"),
    ],
)
def test_a_file_of_flags_that_is_refused(tmp_path: Path, content: str | bytes, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        read(tmp_path, content)


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UsageError, match=str(path)):
            parse_flags(Flags, [f"--config={path}"])


def test_the_command_line_may_correct_the_range_of_a_number_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("part: -1\n")
    assert parse_flags(Flags, [f"--config={tmp_path}/c.yaml", "--part=1"]).part == 1


@pytest.mark.parametrize(
    ("content", "shown"), [("٣", '"٣"'), ("a\u200eb", r'"a\u200eb"'), ("a\x1bb", r'"a\u001bb"'), ("a\udcff", "udcff")]
)
def test_a_refused_value_is_shown_as_it_was_typed(content: str, shown: str) -> None:
    """Control characters are escaped."""
    with pytest.raises(UsageError) as error:
        parse_flags(Flags, [f"--choice={content}"])
    assert shown in str(error.value)


def test_an_empty_file_has_no_flags(tmp_path: Path) -> None:
    assert read(tmp_path, "# whole: 2\n") == Flags()


@pytest.mark.parametrize("order", [1, -1])
def test_the_command_line_goes_before_the_file(tmp_path: Path, order: int) -> None:
    (tmp_path / "c.yaml").write_text("whole: 2\nname: file\n")
    argv = [f"--config={tmp_path}/c.yaml", "--whole=3"]
    assert parse_flags(Flags, argv[::order]) == Flags(whole=3, name="file")


def test_positional_arguments_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("runs: [a, b]\noutput: o.html\n")
    assert parse_flags(ReportFlags, [f"--config={tmp_path}/c.yaml"]).runs == ["a", "b"]
    assert parse_flags(ReportFlags, ["a", "--output=o.html", "b"]).runs == ["a", "b"]


@pytest.mark.parametrize(("name", "flag", "kind"), ALL_FLAGS)
def test_null_is_refused_unless_the_type_has_it(name: str, flag: str, kind: Any) -> None:
    if type(None) in get_args(kind):
        assert check_flags({flag: None}, {flag: kind}, "c.yaml") == {flag: None}
        assert parse_flag(flag, "null", kind) is None
        return
    with pytest.raises(UsageError, match=f"c.yaml: {flag} is null"):
        check_flags({flag: None}, get_flag_types(load_command(name)[1]), "c.yaml")
    with pytest.raises(UsageError, match=f"--{flag} is null"):
        parse_flag(flag, "null", kind)


@pytest.mark.parametrize("name", COMMANDS)
def test_printed_flags_are_read_back(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    required = REQUIRED.get(name, [])
    _, flags_class = load_command(name)
    with pytest.raises(SystemExit, match="0"):
        parse_flags(flags_class, [*required, "--print_config"])
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    assert parse_flags(flags_class, [f"--config={tmp_path}/c.yaml"]) == parse_flags(flags_class, required)


@pytest.mark.parametrize(("name", "flag", "kind"), NUMERIC)
def test_a_number_is_taken_or_refused_by_its_flag(name: str, flag: str, kind: Any) -> None:
    others = [each for each in REQUIRED.get(name, []) if not each.startswith(f"--{flag}=")]
    for content in (str(2**63 - 1), str(10**30), str(2**40), "-1", "0", "1e308"):
        text = f"[{content}]" if "[" in str(kind) else content
        is_large_whole = "int" in str(kind) and len(content) > 10
        try:
            parse_flags(load_command(name)[1], [*others, f"--{flag}={text}"])
        except ValueError as error:
            assert flag in str(error)
        else:
            assert not is_large_whole


def test_a_cut_off_of_0_is_refused_before_any_file_is_read() -> None:
    with pytest.raises(UsageError, match="--k is 0"):
        parse_flags(load_command("evaluate")[1], [*REQUIRED["evaluate"], "--positives=p", "--k", "5", "0"])


def test_every_number_has_its_maximum() -> None:
    for flag, most in {"seed": 2**32 - 1, "num_workers": 256, "projection_dim": 2**16, "vocab_size": 2**20}.items():
        assert get_flag_values(parse_flags(load_command("train")[1], [f"--{flag}={most}"]))[flag] == most
        with pytest.raises(UsageError, match=f"--{flag} is {most + 1}.*at most {most}"):
            parse_flags(load_command("train")[1], [f"--{flag}={most + 1}"])


@pytest.mark.parametrize(
    ("name", "flag", "kind"), [param for param in ALL_FLAGS if re.search(r"\bstr\b", str(param.values[2]))]
)
def test_an_empty_text_is_refused_unless_it_means_something(name: str, flag: str, kind: Any) -> None:
    """An unset shell variable gives an empty text."""
    if "dict" in str(kind):
        return
    others = [each for each in REQUIRED.get(name, []) if not each.startswith(f"--{flag}=")]
    if (name, flag) == ("report", "runs"):
        argv = [*others, ""]
    else:
        argv = [*others, f"--{flag}=" + ("['']" if "[" in str(kind) else "")]
    if flag in ("question_prompt", "passage_prompt") or (flag == "index_parameters"):
        assert get_flag_values(parse_flags(load_command(name)[1], argv))[flag] == ""
        return
    with pytest.raises(UsageError, match=f"--{flag}"):
        parse_flags(load_command(name)[1], argv)


def test_an_empty_text_in_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"c\.yaml:1: name is empty"):
        read(tmp_path, "name: ''\n")
    with pytest.raises(UsageError, match="--config is empty"):
        parse_flags(Flags, ["--config="])


@pytest.mark.parametrize(
    ("argv", "numbers", "names"),
    [
        (["--numbers=1,5, 20"], [1, 5, 20], None),
        (["--numbers", "1", "5,20"], [1, 5, 20], None),
        (["--numbers", "1", "--names", "a b", "c,d", "--is_on"], [1], ["a b", "c,d"]),
        (["--names=a", "--numbers=[1, 5]"], [1, 5], ["a"]),
        (["--names=['[a]', b]"], [], ["[a]", "b"]),
    ],
)
def test_ways_to_write_a_list(argv: list[str], numbers: list[int], names: list[str] | None) -> None:
    found = parse_flags(Flags, argv)
    assert (found.numbers, found.names) == (numbers, names)
    assert found.is_on == ("--is_on" in argv)


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--names=a", "b"], "b. Write a list as --names='[a, b]'"),
        (["--numbers=1", "2"], "2. Write a list as --numbers=1,2"),
        (["--names=a", "--names=b"], "--names='[a, b]'"),
        (["--numbers=1", "--numbers=2"], "--numbers=1,2"),
        (["--names", "[a,", "b]"], "--names='[a, b]'"),
        (["--names"], "--names has no value"),
        (["--names="], "--names is empty"),
    ],
)
def test_an_invalid_list_is_refused(argv: list[str], part: str) -> None:
    with pytest.raises(UsageError, match=re.escape(part)):
        parse_flags(Flags, argv)


def test_a_value_that_is_no_yaml_has_the_name_of_its_flag_and_no_line() -> None:
    with pytest.raises(UsageError, match=r"^--whole: "):
        parse_flags(Flags, ["--whole=[a"])


def test_a_recipe_is_for_a_loop_and_an_unknown_name_lists_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"--config=tiny .*dpr-text loop"):
        parse_flags(Flags, ["--config=tiny"])
    for flags_class in (Flags, LoopFlags):
        with pytest.raises(UsageError, match=r"--config=tyni: .*nq-bert-base.*tiny"):
            parse_flags(flags_class, ["--config=tyni"])
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError, match="--config=data: is a folder"):
        parse_flags(Flags, ["--config=data"])
    (tmp_path / "tiny").write_text("whole: 7\n")
    assert parse_flags(Flags, ["--config=tiny"]).whole == 7


@pytest.mark.parametrize(
    ("flag", "part"),
    [
        ("--train={max_epochs: }", "max_epochs is null"),
        ("--train.max_epochs=x", '--train.max_epochs is "x"'),
        ("--train.max_epochs=0", "max_epochs is 0"),
        ("--train={max_epochs: '3'}", "max_epochs"),
        ("--train={max_epochs: 0}", "max_epochs is 0"),
        ("--mine={margn: 1}", "margin"),
        ("--windows={words: yes}", "words"),
        ("--rounds=[{train: {batch_size: null}}]", "round 1.*batch_size is null"),
        ("--rounds=[{}, {go_on: 'yes'}]", "round 2: go_on"),
        ("--rounds=[{}, {sources: {bm25: '1'}}]", "round 2: sources.bm25"),
        ("--rounds=[{}, {sources: {bm25: }}]", "round 2: sources.bm25"),
        ("--rounds=[null]", r"--rounds\[0\]"),
        ("--rounds=&a [*a]", "--rounds: "),
        ("--rounds=[{train: {seed: 1, seed: 2}}]", "--rounds: .*seed"),
        ("--expected={BM25: {test: {mrr@10: x}}}", "expected.BM25.test.mrr@10"),
    ],
)
def test_settings_in_a_recipe_are_checked_when_it_is_read(flag: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        parse_flags(LoopFlags, [*LOOP, flag])


def test_the_environment_sets_no_flags() -> None:
    variables = {"JSONARGPARSE_DEFAULT_ENV": "true", "SELECT_NUM_ITEMS": "3", "DPR_TEXT_SELECT__NUM_ITEMS": "3"}
    command = [sys.executable, "-m", "text", "select", "--raw_path=a", "--out_path=b", "--print_config"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    assert parse_yaml(done.stdout.encode(), "stdout")["num_items"] == 10


def test_values_of_all_types_survive_a_round_trip() -> None:
    flags = Flags(name="010", maybe="null", names=["~", "1e5"], anything={"a": [None, True, 1e-5, "yes"]})
    printed = parse_yaml(dump_yaml(get_flag_values(flags)).encode(), "c.yaml")
    assert Flags(**check_flags(printed, get_flag_types(Flags), "c.yaml")) == flags
    argv = [
        f"--{name}={json.dumps(value)}" for name, value in get_flag_values(flags).items() if not isinstance(value, str)
    ]
    assert dataclasses.replace(parse_flags(Flags, argv), name="010", maybe="null") == flags
