"""``dpr-text train`` with encoders of transformers: exact resume, several ranks, and the commands after training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from test.commands.test_train_ranks import read_figures, run
from test.commands.training import SMALL, TINY_SET, fail_train, read_metrics, run_train
from test.helpers import write_collection
from test.models.towers import save_tower
from text.bundle import BiEncoderBundle
from text.commands.cli import parse_flags, run_command
from text.commands.encode import EncodeFlags, encode
from text.commands.search import SearchFlags, search
from text.commands.serve import ServeFlags, load_searches
from text.evaluation import read_run
from text.models import RobertaEncoder, TransformersEncoder

Capture = pytest.CaptureFixture[str]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def modernbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tower("ModernBERT", tmp_path_factory.mktemp("towers") / "modernbert")


def read_models(folder: Path) -> dict[str, bytes]:
    """Return the weights of all modules of a saved model."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--dropout=0.1", "--projection_dim=8"],
        ["--dropout=0.1", "--chunk_tokens=64", "--activation_checkpointing", "--tied"],
        ["--dropout=0.1", "--precision=bf16-mixed", "--pooling=last", "--normalize"],
    ],
    ids=["plain", "memory", "bfloat16"],
)
def test_a_resumed_run_has_the_weights_of_an_undisturbed_run(
    modernbert: Path, tmp_path: Path, capsys: Capture, flags: list[str]
) -> None:
    common = [f"--encoder={modernbert}", "--schedule=constant", *SMALL, *flags]
    assert run_train(*common, "--max_epochs=2", f"--output_dir={tmp_path}/whole") == 0
    assert "ModernBert through transformers" in capsys.readouterr().out
    assert run_train(*common, "--max_epochs=1", f"--output_dir={tmp_path}/resumed") == 0
    assert run_train(*common, "--max_epochs=2", f"--output_dir={tmp_path}/resumed", "--resume") == 0
    losses = [[row["train_loss_step"] for row in read_metrics(tmp_path / name)] for name in ("whole", "resumed")]
    assert losses[0] == losses[1]
    whole, resumed = (read_models(tmp_path / name / "model") for name in ("whole", "resumed"))
    assert whole == resumed and len(whole) == (1 if "--tied" in flags else 6 if "--projection_dim=8" in flags else 2)


@pytest.mark.slow
def test_two_processes_equal_one(modernbert: Path, tmp_path: Path) -> None:
    flags = f"--data_path={TINY_SET} --encoder={modernbert} --max_epochs=2 --dropout=0 --batch_size=4"
    run(tmp_path / "two", "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", flags=flags)
    run(tmp_path / "one", flags=flags)
    two, one = read_figures(tmp_path / "two"), read_figures(tmp_path / "one")
    assert len(two) == len(one)
    for found, expected in zip(two, one, strict=True):
        assert found == pytest.approx(expected, rel=5e-3)  # AdamW divides by small numbers


@pytest.mark.slow
def test_a_trained_tower_encodes_searches_and_serves(modernbert: Path, tmp_path: Path) -> None:
    flags = [f"--encoder={modernbert}", "--max_epochs=1", f"--output_dir={tmp_path}/run", *SMALL]
    assert run_train(*flags, "--question_prompt=who: ", "--similarity=cosine") == 0
    model, vectors, collection = tmp_path / "run/model", tmp_path / "vectors", tmp_path / "corpus.jsonl"
    write_collection(collection, ["a", "b", "c"], ["an oak", "a beech and its leaves", "a river in the north"])
    places = [f"--model={model}", f"--collection={collection}", f"--output_dir={vectors}"]
    assert run_command(encode, EncodeFlags, [*places, "--encoder_precision=bfloat16"]) == 0
    (tmp_path / "questions.jsonl").write_text(json.dumps({"id": "1", "question": "a beech and its leaves"}) + "\n")
    asked = [f"--model={model}", f"--embeddings={vectors}", f"--questions={tmp_path}/questions.jsonl", "--k=3"]
    assert run_command(search, SearchFlags, [*asked, f"--run={tmp_path}/run.trec"]) == 0
    assert sorted(read_run(tmp_path / "run.trec")["1"]) == ["a", "b", "c"]
    served = load_searches(parse_flags(ServeFlags, [f"--model={model}", f"--embeddings={vectors}", "--device=cpu"]))
    assert served
    encoder = BiEncoderBundle.load(model).encoder("question")
    assert isinstance(encoder, TransformersEncoder) and encoder.find_prompt("question") == "who: "


@pytest.mark.slow
def test_a_bert_through_transformers_trains_as_the_own_encoder(tmp_path: Path) -> None:
    bert = save_tower("BERT", tmp_path / "bert")
    losses = {}
    for name, more in (("own", []), ("tower", ["--encoder_library=transformers"])):
        flags = [f"--encoder={bert}", f"--output_dir={tmp_path}/{name}", "--max_epochs=10", "--dropout=0", *more]
        assert run_train(*flags, "--log_every_n_steps=1", *SMALL) == 0
        rows = read_metrics(tmp_path / name)
        losses[name] = [float(row["train_loss_step"]) for row in rows if row["train_loss_step"]]
        assert isinstance(BiEncoderBundle.load(tmp_path / name / "model").encoder("passage"), RobertaEncoder)
    assert len(losses["own"]) == 20
    torch.testing.assert_close(torch.tensor(losses["own"]), torch.tensor(losses["tower"]), rtol=0, atol=1e-4)


def test_flags_that_a_tower_does_not_support_are_refused(tmp_path: Path, capsys: Capture) -> None:
    mpnet = save_tower("MPNet", tmp_path / "mpnet")
    for flag in ("--compile", "--activation_checkpointing"):
        code, line = fail_train(capsys, f"--encoder={mpnet}", flag, f"--output_dir={tmp_path}/run")
        assert code == 2 and flag in line and "MPNet through transformers" in line
    code, line = fail_train(capsys, "--encoder_library=transformers", f"--output_dir={tmp_path}/run")
    assert code == 2 and "--encoder_library" in line
