"""``dpr-text train`` on bad data, bad flags and bad folders: the exit code, and the place that the error names."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from test.commands.training import SMALL, TINY_SET, fail_train, rewrite_rows, run_train

# Lightning's remarks on how it is used; none is about what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
Fails = Callable[..., str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the tiny set that a test may spoil."""
    return Path(shutil.copytree(TINY_SET, tmp_path / "data"))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a training that fails with an exit code, and return its error."""

    def run(code: int, *flags: str) -> str:
        found, line = fail_train(capsys, *flags)
        assert found == code, line
        return line

    return run


@pytest.mark.skipif(find_spec("torchtext") is not None, reason="torchtext is installed")
def test_torchtext_is_not_installed(fails: Fails) -> None:
    assert "--tokenizer_backend=torchtext" in fails(2, "--tokenizer_backend=torchtext", "--fast_dev_run")


@pytest.mark.parametrize("flags", [["--titles=join"], ["--score_key=score", "--distillation=0.5"]])
def test_a_token_cache_does_not_fit_other_flags(fails: Fails, flags: list[str]) -> None:
    line = fails(2, *flags, "--token_cache", "--fast_dev_run")
    assert "--token_cache" in line and flags[0].split("=")[0] in line


def test_no_data_is_named(fails: Fails, tmp_path: Path) -> None:
    config = tmp_path / "flags.yaml"
    config.write_text(f"valid_file: {TINY_SET}/valid.jsonl\nfast_dev_run: true\n")
    line = fails(2, f"--config={config}")
    assert "--train_files" in line and "--data_path" in line


def test_an_empty_file(data: Path, fails: Fails) -> None:
    (data / "train.jsonl").write_bytes(b"")
    assert f"{data}/train.jsonl" in fails(3, f"--data_path={data}", "--fast_dev_run")


def test_one_question_without_negatives_needs_a_flag(data: Path, fails: Fails) -> None:
    lonely = (data / "train.jsonl").read_text().splitlines()[0]
    record = json.loads(lonely) | {"hard_negative_ctxs": []}
    (data / "train.jsonl").write_text(json.dumps(record) + "\n")
    flags = [f"--data_path={data}", "--fast_dev_run"]
    line = fails(3, *flags)
    assert f"{data}/train.jsonl" in line
    assert run_train(*flags, "--allow_no_negatives") == 0
    (data / "train.jsonl").write_text(lonely + "\n")
    assert run_train(*flags) == 0


def test_without_in_batch_negatives_rows_need_their_own(data: Path, fails: Fails) -> None:
    rewrite_rows(data / "train.jsonl", lambda record: record | {"hard_negative_ctxs": []})
    line = fails(3, f"--data_path={data}", "--fast_dev_run", "--in_batch_negatives=false")
    assert f"{data}/train.jsonl" in line


def test_a_tokenizer_is_loaded_before_rows_are_read(data: Path, fails: Fails) -> None:
    (data / "train.jsonl").write_text("no row\n")
    assert "nowhere" in fails(2, f"--data_path={data}", "--tokenizer=nowhere", "--fast_dev_run")


def test_a_loss_that_is_not_finite(tmp_path: Path, fails: Fails) -> None:
    line = fails(6, "--max_epochs=3", "--learning_rate=1e30", f"--output_dir={tmp_path}")
    assert f"{TINY_SET}/train.jsonl:" in line and "nan" in line


def test_a_pattern_is_no_file_name(data: Path, fails: Fails) -> None:
    line = fails(2, f"--data_path={data}", f"--train_files=[{data}/none*.jsonl]", "--fast_dev_run")
    assert f"{data}/none*.jsonl" in line


def test_a_file_of_another_form(data: Path, fails: Fails) -> None:
    (data / "passages.tsv").write_text("id\ttext\ttitle\n1\ta\tb\n")
    files = f"--train_files=[{data}/train.jsonl, {data}/passages.tsv]"
    assert f"{data}/passages.tsv:1 (byte 0)" in fails(3, f"--data_path={data}", files, "--fast_dev_run")


def test_false_is_false_for_a_bare_flag_and_no_checkpoint(tmp_path: Path, fails: Fails) -> None:
    assert run_train("--tied", "false", "--fast_dev_run=true") == 0
    assert "--resume: False" in fails(2, "--resume", "False", f"--output_dir={tmp_path}")
    assert "tied" in fails(2, "--tied=perhaps")


def test_files_that_are_missing_or_folders(data: Path, fails: Fails) -> None:
    (data / "valid.jsonl").unlink()
    (data / "valid.jsonl").symlink_to("nowhere")
    assert f"{data}/valid.jsonl" in fails(2, f"--data_path={data}", "--fast_dev_run")
    (data / "valid.jsonl").unlink()
    (data / "valid.jsonl").mkdir()
    assert f"{data}/valid.jsonl" in fails(2, f"--data_path={data}", "--fast_dev_run")
    for flag in ("--tokenizer=nowhere", "--encoder=nowhere", "--collection=nowhere"):
        assert "nowhere" in fails(2, flag, "--fast_dev_run")
    assert "nowhere.yaml" in fails(2, "--config=nowhere.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read everything")
def test_an_unreadable_file(data: Path, fails: Fails) -> None:
    (data / "valid.jsonl").chmod(0)
    assert f"{data}/valid.jsonl" in fails(2, f"--data_path={data}", "--fast_dev_run")


def test_an_output_folder_inside_a_file(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file" in fails(2, f"--output_dir={tmp_path / 'file' / 'run'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can write everywhere")
def test_an_output_folder_that_cannot_be_written(tmp_path: Path, fails: Fails) -> None:
    tmp_path.chmod(0o555)
    assert str(tmp_path) in fails(4, f"--output_dir={tmp_path}")


def test_an_output_folder_that_is_a_file(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file is not a folder" in fails(2, f"--output_dir={tmp_path / 'file'}")


def test_overwrite_replaces_a_run_and_nothing_else(tmp_path: Path, fails: Fails) -> None:
    flags = ["--max_epochs=1", f"--output_dir={tmp_path}", *SMALL]
    (tmp_path / "metrics.csv").write_text("precious")
    for overwrite in ([], ["--overwrite"]):  # no run claims the file
        assert f"{tmp_path}/metrics.csv" in fails(2, *flags, *overwrite)
        assert (tmp_path / "metrics.csv").read_text() == "precious"
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / ".probe").write_text("of a user")
    assert run_train(*flags) == 0
    line = fails(2, *flags)
    assert str(tmp_path) in line and "--overwrite" in line
    assert "--overwrite" in fails(2, *flags, "--overwrite", "--resume")
    for name in ("mine.txt", "model/mine.bin", "evaluation/figures.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not of a run")
    before = (tmp_path / "metrics.csv").read_text()
    assert run_train(*flags, "--overwrite", "--seed=1") == 0
    assert (tmp_path / "metrics.csv").read_text() != before
    for name in ("mine.txt", "model/mine.bin", "evaluation/figures.json"):
        assert (tmp_path / name).read_text() == "not of a run"
    assert (tmp_path / ".probe").read_text() == "of a user"


def test_an_earlier_run_is_not_lost_to_an_error(data: Path, tmp_path: Path, fails: Fails) -> None:
    folder = tmp_path / "run"
    assert run_train("--max_epochs=1", f"--output_dir={folder}", *SMALL) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (data / "train.jsonl").write_text("{}\n")
    assert "train.jsonl:1" in fails(3, f"--data_path={data}", f"--output_dir={folder}", "--overwrite")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_new_run_from_the_model_of_the_run_that_it_would_remove(tmp_path: Path, fails: Fails) -> None:
    flags = ["--max_epochs=1", f"--output_dir={tmp_path}", *SMALL]
    assert run_train(*flags) == 0
    assert f"--encoder has {tmp_path}/model" in fails(2, *flags, "--overwrite", f"--encoder={tmp_path}/model")
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
        ("--train_rates=1,2", ["--train_rates has 2 numbers"]),
        ("--train_rates=0", ["--train_rates is 0.0"]),
        ("--question_max_length=0", ["--question_max_length is 0"]),
        ("--matryoshka_dims=[64,256]", ["matryoshka_dims are [64, 256]", "128"]),
        ("--precision=fp16", ["precision"]),
        ("--monitor=loss", ["monitor", "valid_loss"]),
        ("--encoder=Tiny", ["--encoder is Tiny", "tiny", "hf download Tiny"]),
        ("--num_nodes=2", ["--num_nodes is 2", "torchrun"]),
        ("--num_workers=-1", ["--num_workers is -1"]),
    ],
)
def test_a_value_out_of_range_is_named_and_leaves_nothing(
    fails: Fails, tmp_path: Path, flag: str, parts: list[str]
) -> None:
    line = fails(2, flag, f"--output_dir={tmp_path}")
    assert all(part in line for part in parts)
    assert list(tmp_path.iterdir()) == []  # so that the right value can follow


def test_nothing_left_to_train(fails: Fails) -> None:
    line = fails(2, "--freeze_question", "--freeze_passage")
    assert "--freeze_question" in line and "--freeze_passage" in line
    fails(2, "--freeze_question", "--tied", "--fast_dev_run")


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        run_train("--batch_size=0", "--debug")
