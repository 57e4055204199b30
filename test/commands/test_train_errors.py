"""``dpr-text train`` with bad data, flags and folders: exit codes, and places named by errors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from test.commands.training import SMALL, TINY_SET, fail_train, rewrite_rows, run_train

# Lightning warns about usage that does not matter for these tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
Fail = Callable[..., str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a copy of the tiny set that a test may change."""
    return Path(shutil.copytree(TINY_SET, tmp_path / "data"))


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Fail:
    """Return a function that runs a failing training, checks its exit code, and returns its error."""

    def run(code: int, *flags: str) -> str:
        found, line = fail_train(capsys, *flags)
        assert found == code, line
        return line

    return run


@pytest.mark.skipif(find_spec("torchtext") is not None, reason="torchtext is installed")
def test_torchtext_is_not_installed(fail: Fail) -> None:
    assert "--tokenizer_backend=torchtext" in fail(2, "--tokenizer_backend=torchtext", "--fast_dev_run")


@pytest.mark.parametrize("flags", [["--titles=join"], ["--score_key=score", "--distillation=0.5"]])
def test_a_token_cache_cannot_be_combined_with_some_flags(fail: Fail, flags: list[str]) -> None:
    line = fail(2, *flags, "--token_cache", "--fast_dev_run")
    assert "--token_cache" in line and flags[0].split("=")[0] in line


def test_missing_data_flags_are_named(fail: Fail, tmp_path: Path) -> None:
    config = tmp_path / "flags.yaml"
    config.write_text(f"valid_file: {TINY_SET}/valid.jsonl\nfast_dev_run: true\n")
    line = fail(2, f"--config={config}")
    assert "--train_files" in line and "--data_path" in line


def test_an_empty_file(data: Path, fail: Fail) -> None:
    (data / "train.jsonl").write_bytes(b"")
    assert f"{data}/train.jsonl" in fail(3, f"--data_path={data}", "--fast_dev_run")


def test_one_question_without_negatives_needs_a_flag(data: Path, fail: Fail) -> None:
    lonely = (data / "train.jsonl").read_text().splitlines()[0]
    record = json.loads(lonely) | {"hard_negative_ctxs": []}
    (data / "train.jsonl").write_text(json.dumps(record) + "\n")
    flags = [f"--data_path={data}", "--fast_dev_run"]
    line = fail(3, *flags)
    assert f"{data}/train.jsonl" in line
    assert run_train(*flags, "--allow_no_negatives") == 0
    (data / "train.jsonl").write_text(lonely + "\n")
    assert run_train(*flags) == 0


def test_without_in_batch_negatives_rows_need_their_own(data: Path, fail: Fail) -> None:
    rewrite_rows(data / "train.jsonl", lambda record: record | {"hard_negative_ctxs": []})
    line = fail(3, f"--data_path={data}", "--fast_dev_run", "--in_batch_negatives=false")
    assert f"{data}/train.jsonl" in line


def test_a_tokenizer_is_loaded_before_rows_are_read(data: Path, fail: Fail) -> None:
    (data / "train.jsonl").write_text("no row\n")
    assert "nowhere" in fail(2, f"--data_path={data}", "--tokenizer=nowhere", "--fast_dev_run")


def test_a_loss_that_is_not_finite(tmp_path: Path, fail: Fail) -> None:
    line = fail(6, "--max_epochs=3", "--learning_rate=1e30", f"--output_dir={tmp_path}")
    assert f"{TINY_SET}/train.jsonl:" in line and "nan" in line


def test_a_glob_pattern_is_not_a_file_name(data: Path, fail: Fail) -> None:
    line = fail(2, f"--data_path={data}", f"--train_files=[{data}/none*.jsonl]", "--fast_dev_run")
    assert f"{data}/none*.jsonl" in line


def test_a_file_of_another_format_is_refused(data: Path, fail: Fail) -> None:
    (data / "passages.tsv").write_text("id\ttext\ttitle\n1\ta\tb\n")
    files = f"--train_files=[{data}/train.jsonl, {data}/passages.tsv]"
    assert f"{data}/passages.tsv:2" in fail(2, f"--data_path={data}", files, "--fast_dev_run")


def test_false_turns_a_bare_flag_off_and_is_not_a_checkpoint(tmp_path: Path, fail: Fail) -> None:
    assert run_train("--tied", "false", "--fast_dev_run=true") == 0
    assert "--resume: False" in fail(2, "--resume", "False", f"--output_dir={tmp_path}")
    assert "tied" in fail(2, "--tied=perhaps")


def test_missing_files_and_folders_in_place_of_files_are_named(data: Path, fail: Fail) -> None:
    (data / "valid.jsonl").unlink()
    (data / "valid.jsonl").symlink_to("nowhere")
    assert f"{data}/valid.jsonl" in fail(2, f"--data_path={data}", "--fast_dev_run")
    (data / "valid.jsonl").unlink()
    (data / "valid.jsonl").mkdir()
    assert f"{data}/valid.jsonl" in fail(2, f"--data_path={data}", "--fast_dev_run")
    for flag in ("--tokenizer=nowhere", "--encoder=nowhere", "--collection=nowhere"):
        assert "nowhere" in fail(2, flag, "--fast_dev_run")
    assert "nowhere.yaml" in fail(2, "--config=nowhere.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read everything")
def test_an_unreadable_file(data: Path, fail: Fail) -> None:
    (data / "valid.jsonl").chmod(0)
    assert f"{data}/valid.jsonl" in fail(2, f"--data_path={data}", "--fast_dev_run")


def test_an_output_folder_inside_a_file(tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file" in fail(2, f"--output_dir={tmp_path / 'file' / 'run'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can write everywhere")
def test_an_output_folder_that_cannot_be_written(tmp_path: Path, fail: Fail) -> None:
    tmp_path.chmod(0o555)
    assert str(tmp_path) in fail(4, f"--output_dir={tmp_path}")


def test_an_output_folder_that_is_a_file(tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file is not a folder" in fail(2, f"--output_dir={tmp_path / 'file'}")


def test_overwrite_replaces_a_run_and_nothing_else(tmp_path: Path, fail: Fail) -> None:
    flags = ["--max_epochs=1", f"--output_dir={tmp_path}", *SMALL]
    (tmp_path / "metrics.csv").write_text("precious")
    for overwrite in ([], ["--overwrite"]):  # the file belongs to no run
        assert f"{tmp_path}/metrics.csv" in fail(2, *flags, *overwrite)
        assert (tmp_path / "metrics.csv").read_text() == "precious"
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / ".probe").write_text("of a user")
    assert run_train(*flags) == 0
    line = fail(2, *flags)
    assert str(tmp_path) in line and "--overwrite" in line
    assert "--overwrite" in fail(2, *flags, "--overwrite", "--resume")
    for name in ("mine.txt", "model/mine.bin", "evaluation/figures.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not of a run")
    before = (tmp_path / "metrics.csv").read_text()
    assert run_train(*flags, "--overwrite", "--seed=1") == 0
    assert (tmp_path / "metrics.csv").read_text() != before
    for name in ("mine.txt", "model/mine.bin", "evaluation/figures.json"):
        assert (tmp_path / name).read_text() == "not of a run"
    assert (tmp_path / ".probe").read_text() == "of a user"


def test_an_error_does_not_remove_an_earlier_run(data: Path, tmp_path: Path, fail: Fail) -> None:
    folder = tmp_path / "run"
    assert run_train("--max_epochs=1", f"--output_dir={folder}", *SMALL) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (data / "train.jsonl").write_text("{}\n")
    assert "train.jsonl:1" in fail(3, f"--data_path={data}", f"--output_dir={folder}", "--overwrite")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_does_not_overwrite_the_model_that_it_starts_from(tmp_path: Path, fail: Fail) -> None:
    flags = ["--max_epochs=1", f"--output_dir={tmp_path}", *SMALL]
    assert run_train(*flags) == 0
    assert f"--encoder is {tmp_path}/model" in fail(2, *flags, "--overwrite", f"--encoder={tmp_path}/model")
    assert (tmp_path / "model" / "config.json").exists()


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--batch_size=0", ["batch_size is 0"]),
        ("--max_epochs=-1", ["--max_epochs is -1", "1"]),
        ("--learning_rate=nan", ["learning_rate"]),
        ("--learning_rate=.nan", ["learning_rate"]),
        ("--learning_rate=0", ["--learning_rate is 0.0"]),
        ("--temperature=-1", ["temperature is -1.0"]),
        ("--dropout=1", ["--dropout is 1.0"]),
        ("--gpus=2", ["--gpus is 2"]),
        ("--similarity=l2", ["similarity"]),
        ("--question_max_length=3", ["--question_max_length is 3", "6"]),
        ("--passage_max_length=600", ["--passage_max_length is 600", "512"]),
        ("--vocab_size=9", ["vocab_size is 9", "261"]),
        ("--train_rates=1,2", ["--train_rates has 2 "]),
        ("--train_rates=0", ["--train_rates is 0.0"]),
        ("--question_max_length=0", ["--question_max_length is 0"]),
        ("--matryoshka_dims=[64,256]", ["matryoshka_dims are [64, 256]", "128"]),
        ("--precision=fp16", ["precision"]),
        ("--monitor=loss", ["monitor", "valid_loss"]),
        ("--encoder=Tiny", ["--encoder is Tiny", "tiny", "hf download Tiny"]),
        ("--num_nodes=2", ["--num_nodes is 2", "torchrun"]),
        ("--num_workers=-1", ["--num_workers is -1"]),
        ("--tf32", ["--tf32", "--gpus"]),
    ],
)
def test_a_value_out_of_range_is_named_and_leaves_nothing(
    fail: Fail, tmp_path: Path, flag: str, parts: list[str]
) -> None:
    line = fail(2, flag, f"--output_dir={tmp_path}")
    assert all(part in line for part in parts)
    assert list(tmp_path.iterdir()) == []  # so that the command can be repeated with a valid value


def test_nothing_left_to_train(fail: Fail) -> None:
    line = fail(2, "--freeze_question", "--freeze_passage")
    assert "--freeze_question" in line and "--freeze_passage" in line
    fail(2, "--freeze_question", "--tied", "--fast_dev_run")


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        run_train("--batch_size=0", "--debug")
