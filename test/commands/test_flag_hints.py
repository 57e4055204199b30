"""Hints in errors about wrong flags and arguments."""

from __future__ import annotations

import pytest

from text.commands import COMMANDS, load_command
from text.commands.cli import parse_flags
from text.commands.flag_fields import get_flag_types
from text.commands.flag_hints import _OTHER_NAMES
from text.errors import UsageError


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("train --lr=1e-3", "Did you mean --learning_rate?"),
        ("train --epochs 3", "Did you mean --max_epochs?"),
        ("train --model_name_or_path=a", "Did you mean --encoder?"),
        ("encode --model_name_or_path=a", "Did you mean --model?"),
        ("train --per_device_train_batch_size=8", "Did you mean --batch_size?"),
        ("train --output=a", "Did you mean --output_dir?"),
        ("train --batch-size=8", "Did you mean --batch_size?"),
        ("train --bach_size=8", "Did you mean --batch_size?"),
        ("train -batch_size=8", "Did you mean --batch_size?"),
        ("search --top_k=8", "Did you mean --k?"),
        ("train batch_size=8", "Write --batch_size=8."),
        ("train lr=8", "Did you mean --learning_rate?"),
        ("check data", "--data_path=data"),
        ("check data/train.jsonl", "--data_path=data"),
        ("check train.jsonl", "--data_path=."),
        ("train a.jsonl", "--train_files=a.jsonl"),
        ("encode runs/nq/model", "--model=runs/nq/model"),
        ("mine a.jsonl", "--rows=a.jsonl"),
        ("select a.json.gz", "--raw_path=a.json.gz"),
        ("loop --seed=1", "Set it in a section: --train.seed, --mine.seed, --reranker.seed."),
        ("loop --train.sed=1", "Did you mean --train.seed?"),
        ("loop --trian.gpus=1", "Did you mean --train.gpus?"),
        ("loop --x.y=1", "Write a dot only after --windows, --train,"),
        ("loop --train.a.b=1", "Write one flag of --train as --train.NAME=VALUE."),
        ("train --train.gpus=1", "Did you mean --gpus?"),
        ("evaluate --x.y=1", "No flag of this command has a dot."),
        ("loop --rounds.1.seed=1", "--rounds has no flags of its own."),
    ],
)
def test_hints(line: str, hint: str) -> None:
    name, *argv = line.split()
    with pytest.raises(UsageError) as error:
        parse_flags(load_command(name)[1], argv)
    assert str(error.value).endswith(hint) or hint in str(error.value)


def test_no_name_of_another_tool_is_also_a_flag_of_the_same_command() -> None:
    known = [get_flag_types(load_command(name)[1]) for name in COMMANDS]
    for flag, others in _OTHER_NAMES.items():
        assert any(flag in kinds for kinds in known)
        assert not [other for other in others.split() if all(other in kinds for kinds in known if flag in kinds)]
