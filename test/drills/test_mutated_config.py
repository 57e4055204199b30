"""Mutated flag files, recipes and command lines give a usage error or flags of the right types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from test.drills.mutations import make_generators, mutate_bytes, mutate_json
from text.artifacts import check_type, dump_yaml, read_yaml
from text.commands import COMMANDS, load_command
from text.commands.cli import RECIPES, format_error, get_exit_code, get_flag_values, parse_flags
from text.commands.flag_fields import get_flag_types
from text.commands.loop import LoopFlags
from text.commands.train_flags import TrainFlags
from text.errors import escape_controls

pytestmark = pytest.mark.slow
COUNT = 1000


def check(flags_class: type, argv: Sequence[str]) -> bool:
    """Check that flags give a usage error or have the right types. Return whether they were accepted."""
    try:
        flags = parse_flags(flags_class, argv)
    except Exception as error:
        assert get_exit_code(error) == 2, f"{type(error).__name__}: {error}"
        assert format_error(error) == escape_controls(format_error(error))
        return False
    kinds = get_flag_types(flags_class)
    for name, value in get_flag_values(flags).items():
        check_type({name: value}, dict[str, kinds[name]], name)
    assert type(flags) is flags_class
    return True


def change_value(document: dict[str, Any], random: Random) -> bytes:
    """Return a file of flags with one changed value or key."""
    return json.dumps(mutate_json(document, random), ensure_ascii=False).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def sources() -> dict[str, tuple[type, bytes]]:
    """Return the flags of a training, and a recipe with values of every type."""
    flags = get_flag_values(TrainFlags())
    recipe = (RECIPES / "squad_w100-minilm.yaml").read_bytes()
    return {"train": (TrainFlags, dump_yaml(flags).encode()), "recipe": (LoopFlags, recipe)}


@pytest.mark.parametrize("name", ["train", "recipe"])
def test_mutated_bytes_of_a_file(sources: Any, name: str, tmp_path: Path) -> None:
    flags_class, content = sources[name]
    path = tmp_path / "c.yaml"
    num_read = 0
    for random in make_generators(1, COUNT):
        path.write_bytes(mutate_bytes(content, random))
        num_read += check(flags_class, [f"--config={path}"])
    assert 0 < num_read < COUNT


@pytest.mark.parametrize("name", ["train", "recipe"])
def test_mutated_values_of_a_file(sources: Any, name: str, tmp_path: Path) -> None:
    flags_class, content = sources[name]
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    document = read_yaml(path, dict[str, Any])
    num_read = 0
    for random in make_generators(2, COUNT):
        path.write_bytes(change_value(document, random))
        num_read += check(flags_class, [f"--config={path}"])
    assert 0 < num_read < COUNT


def test_mutated_command_lines() -> None:
    num_read = 0
    for random in make_generators(3, COUNT):
        flags_class = load_command(random.choice(list(COMMANDS)))[1]
        kinds = get_flag_types(flags_class)
        dropped = random.sample(sorted(kinds), k=len(kinds) // 10)
        argv = [f"--{name}={_spell(kind, random)}" for name, kind in kinds.items() if name not in dropped]
        place = random.randrange(len(argv))
        if random.random() < 0.7:
            changed = mutate_bytes(argv[place].encode(), random).replace(b"\0", b"")
            argv[place] = changed.decode("utf-8", "surrogateescape")
        num_read += check(flags_class, argv)
    assert 0 < num_read < COUNT


def _spell(kind: Any, random: Random) -> str:
    """Return a text for a flag that often fits its type."""
    likely = {int: ["3", "1"], float: ["0.5", "1e-5"], bool: ["true", "false"], str: ["a", "b c"]}.get(kind)
    return random.choice(likely or ["null", "[1]", "[a, b]", "{}", "{a: {b: {c: 1}}}", "pair", "1", "dot"])
