"""``dpr-text convert``: printed counts, exit codes, and outputs that appear together or not at all."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from test.helpers import read_examples, snapshot, write_jsonl
from text.commands import main
from text.commands.cli import parse_flags
from text.commands.convert import ConvertFlags
from text.datasets.forms.converting import TARGETS
from text.datasets.forms.data_set import FOLDER_FORMS
from text.datasets.forms.reading import FORMS

OAK = {"docid": "1", "title": "Oaks", "text": "A beetle ate the oak."}
ELM = {"docid": "2", "title": "Elms", "text": "An elm."}


def run(*argv: str) -> int:
    return main(["convert", *map(str, argv)])


def write_tevatron(path: Path, **changed: object) -> Path:
    row = {"query_id": "q", "query": "who", "positive_passages": [OAK], "negative_passages": [ELM, {"text": " "}]}
    return write_jsonl(
        path, [row | changed, {"query": " ", "positive_passages": [OAK]}, {"query": "a", "positive_passages": []}]
    )


def test_what_is_read_written_and_left_out_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tevatron(tmp_path / "rows.jsonl")
    assert run(f"--data_path={source}", f"--output_dir={tmp_path / 'out'}") == 0
    expected = (
        "train.jsonl: 1 rows; 3 tevatron rows read; 1 negative_passages without text, left out; 1 rows with a blank "
        "question, left out; 1 rows without a positive, left out\n"
    )
    assert capsys.readouterr().out.endswith(expected)
    assert run(f"--data_path={source}", f"--output_dir={tmp_path / 'out'}") == 2  # exists
    assert run(f"--data_path={source}", f"--output_dir={tmp_path / 'out'}", "--overwrite", "--compact") == 0
    assert "passages.jsonl: 2 passages\n" in capsys.readouterr().out


def test_named_columns(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("id,q,a,b\n5,who,beetle,moth\n")
    columns = "{question: q, positive: a, negative: [b]}"
    assert run(f"--data_path={tmp_path / 'faq.csv'}", f"--columns={columns}", f"--output_dir={tmp_path}") == 0
    assert json.loads((tmp_path / "train.jsonl").read_text()) == {
        "question_id": "5",
        "question": "who",
        "positive_ctxs": [{"text": "beetle"}],
        "hard_negative_ctxs": [{"text": "moth"}],
    }


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--form=dpr"], 3),  # The rows have no question.
        (["--form=beir"], 2),
        (["--columns={question: query}"], 2),
        (["--columns={question: query, positive: a}"], 2),
        (["--columns={question: query, text: a}"], 2),
        (["--columns={question: query, positive: [a, b]}"], 2),
        (["--min_relevance=1"], 2),
        (["--skip_missing"], 2),
        (["--num_negatives=1"], 2),
        (["--compact", "--to=tevatron"], 2),
        (["--collection={source}"], 2),
        (["--collection={passages}"], 2),
        (["--data_path={missing}"], 2),
        (["--to=sentence-transformers"], 0),
    ],
)
def test_an_option_without_effect_is_refused(flags: list[str], code: int, tmp_path: Path) -> None:
    source = write_tevatron(tmp_path / "rows.jsonl")
    passages = write_jsonl(tmp_path / "passages.jsonl", [{"_id": "1", "text": "a"}])
    names = {"source": source, "passages": passages, "missing": tmp_path / "missing"}
    flags = [flag if "{" in flag and ":" in flag else flag.format(**names) for flag in flags]
    if not any(flag.startswith("--data_path") for flag in flags):
        flags.append(f"--data_path={source}")
    out = tmp_path / "out"
    expected = 3 if flags[0].startswith("--collection") and str(source) in flags[0] else code
    assert run(*flags, f"--output_dir={out}") == expected
    assert out.exists() == (code == 0)


def test_compact_rows_need_their_collection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(
        tmp_path / "rows.jsonl", [{"question": "q", "positive_ids": ["1"], "hard_negative_ids": ["2"]}]
    )
    out = f"--output_dir={tmp_path / 'out'}"
    assert run(f"--data_path={source}", out, "--to=tevatron") == 2
    assert "--collection" in capsys.readouterr().err
    passages = write_jsonl(tmp_path / "passages.jsonl", [{"_id": "1", "title": "Oaks", "text": "a"}])
    assert run(f"--data_path={source}", f"--collection={passages}", out) == 3
    assert f"{source}:1 (byte 0) hard_negative_ids[0]: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    write_jsonl(passages, [{"_id": "1", "title": "Oaks", "text": "a"}, {"_id": "2", "text": "b"}])
    assert run(f"--data_path={source}", f"--collection={passages}", out, "--to=tevatron") == 0
    [row] = map(json.loads, (tmp_path / "out" / "train.jsonl").read_text().splitlines())
    assert row["positive_passages"] == [{"docid": "1", "title": "Oaks", "text": "a"}]


def test_an_id_with_two_passages_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tevatron(tmp_path / "rows.jsonl", negative_passages=[OAK | {"text": "other"}])
    assert run(f"--data_path={source}", f"--output_dir={tmp_path / 'out'}", "--compact") == 3
    assert f"{source}:1 (byte 0) hard_negative_ctxs[0].passage_id: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_with_other_numbers_of_negatives_need_a_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"query": "q", "pos": ["a", "b"], "neg": ["c"]}, {"query": "r", "pos": ["a"], "neg": ["c", "d"]}]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    flags = [f"--data_path={source}", f"--output_dir={tmp_path / 'out'}", "--to=sentence-transformers"]
    assert run(*flags) == 3
    assert f"{source}:2 " in (error := capsys.readouterr().err) and "--num_negatives" in error
    assert run(*flags, "--num_negatives=2") == 0
    assert "1 rows with too few hard negatives, left out" in capsys.readouterr().out
    [row] = map(json.loads, (tmp_path / "out" / "train.jsonl").read_text().splitlines())
    assert row == {"anchor": "r", "positive": "a", "negative_1": "c", "negative_2": "d"}


def test_a_value_that_json_cannot_hold_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"query": ["q"], "positive": ["a"], "image": [b"\xff"]}), tmp_path / "a.parquet")
    assert run(f"--data_path={tmp_path / 'a.parquet'}", f"--output_dir={tmp_path / 'out'}") == 3
    assert "a.parquet:1 image: " in capsys.readouterr().err


def test_the_flags_name_every_form() -> None:
    kinds = get_type_hints(ConvertFlags)
    assert {*get_args(get_args(kinds["form"])[0])} == {*FORMS, *FOLDER_FORMS}
    assert get_args(kinds["to"]) == TARGETS


def test_the_examples_of_the_help_are_valid() -> None:
    for line in read_examples(ConvertFlags):
        assert parse_flags(ConvertFlags, shlex.split(line)[2:])


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_output(tmp_path: Path) -> None:
    source = write_tevatron(tmp_path / "rows.jsonl")
    source.write_bytes(source.read_bytes() * 300_000)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "text", "convert", f"--data_path={source}", f"--output_dir={out}"]
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            while not list(out.glob(".dpr-text-*")) and process.poll() is None:
                time.sleep(0.01)
            os.kill(process.pid, wanted)
            process.wait()
        assert not (out / "train.jsonl").exists() and process.returncode != 0
    write_tevatron(source)
    assert run(f"--data_path={source}", f"--output_dir={out}") == 0
    assert [path.name for path in snapshot(out)] == ["train.jsonl"]  # The next writer removes the leftovers.


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the peak memory of Linux")
def test_memory_stays_bounded(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    with source.open("w") as file:
        for i in range(3000):
            passages = [{"docid": f"{i}-{j}", "title": f"title {j}", "text": f"text {i} {j} " * 40} for j in range(30)]
            file.write(
                json.dumps({"query": f"q{i}", "positive_passages": passages[:1], "negative_passages": passages}) + "\n"
            )
    code = (
        "import sys; from text.commands import main; code = main(sys.argv[1:]); "
        "print(*[line for line in open('/proc/self/status') if 'VmHWM' in line]); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "convert", f"--data_path={source}", f"--output_dir={tmp_path / 'out'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert source.stat().st_size > 40_000_000
    assert int(done.stdout.split()[-2]) < 100_000  # KiB. Importing torch alone needs twice as much.
