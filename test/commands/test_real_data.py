"""Selection and training on real rows of Natural Questions and SQuAD in the DPR format."""

from __future__ import annotations

import csv
import gzip
import shutil
from pathlib import Path

import pytest

from test.commands.training import run_train
from text.commands.cli import run_command
from text.commands.select import SelectFlags, select

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, which is not part of the project"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]


def read_column(folder: Path, name: str) -> list[float]:
    """Return the values of one column of ``metrics.csv`` in order."""
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nq_dev_10", "squad1_dev_10"])
def test_selects_from_real_rows_and_trains(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    for stage, skip, num in (("train", 0, 6), ("valid", 6, 2), ("test", 8, 2)):
        arguments = [f"--raw_path={DATA / 'dpr' / name}.jsonl", f"--out_path={folder / stage}.jsonl"]
        numbers = [f"--num_items={num}", f"--skip_items={skip}"]
        assert run_command(select, SelectFlags, [*arguments, *numbers]) == 0
    output = tmp_path / "run"
    small = ["--max_epochs=1", "--batch_size=3", "--eval_hard_negatives=2", "--eval_other_negatives=2"]
    assert run_train(f"--data_path={folder}", f"--output_dir={output}", *small) == 0
    assert "train: 6 questions, 0 rows skipped" in capsys.readouterr().out
    assert len(read_column(output, "test_loss")) == 1


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_training_lifts_validation_on_squad(tmp_path: Path) -> None:
    folder, output = tmp_path / "data", tmp_path / "run"
    folder.mkdir()
    for stage, source in (("train", "train"), ("valid", "dev"), ("test", "dev")):
        with (
            gzip.open(DATA / "squad_w100" / f"{source}.jsonl.gz") as packed,
            open(folder / f"{stage}.jsonl", "wb") as out,
        ):
            shutil.copyfileobj(packed, out)
    flags = ["--encoder=tiny", "--tied", "--similarity=cosine", "--temperature=0.05", "--validate_first"]
    steps = ["--max_epochs=1", "--batch_size=32", "--warmup_steps=50", "--learning_rate=1e-3"]
    lengths = ["--passage_max_length=160", "--eval_hard_negatives=4", "--eval_other_negatives=0"]
    assert run_train(f"--data_path={folder}", f"--output_dir={output}", *flags, *steps, *lengths) == 0
    before, after = read_column(output, "valid_mrr@10")
    assert after > 2 * before
