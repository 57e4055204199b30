"""``dpr-text train --lora_rank``: adapters, their files, and the merged model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

from test.commands.training import ROOT, SMALL, TINY_SET, fail_train, read_metrics, run_train
from test.models.towers import save_tower
from text.bundle import BiEncoderBundle
from text.models.biencoder import embed_tokens
from text.training import AtomicCheckpointIO

peft = pytest.importorskip("peft")
Capture = pytest.CaptureFixture[str]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:Found .* module.* in eval mode:UserWarning"),  # a frozen encoder
    # peft reads an attribute that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
FLAGS = ("--lora_rank=4", "--dropout=0", *SMALL)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tower("DistilBERT", tmp_path_factory.mktemp("towers") / "base")


def read_weights(run: Path, side: str = "question") -> dict[str, torch.Tensor]:
    return load_file(run / "model" / f"{side}_encoder" / "model.safetensors")


def read_adapter(run: Path, side: str = "question") -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / f"{side}_encoder" / "adapter_model.safetensors")


def assert_equal_to_peft(run: Path, base: Path, side: str) -> None:
    bundle = BiEncoderBundle.load(run / "model")
    encoder, tokens = bundle.encoder(side).eval(), bundle.transform(side)(["who ate the oak?", "an oak"])
    theirs = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(run / "adapter" / f"{side}_encoder"))
    with torch.no_grad():
        states = theirs(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask.long()).last_hidden_state
        found = encoder.head(states, tokens.attention_mask, 0)  # type: ignore[operator]
        torch.testing.assert_close(found, embed_tokens(encoder, tokens), rtol=1e-5, atol=1e-5)


def test_training_changes_and_saves_only_adapters(base: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert run_train(f"--encoder={base}", f"--output_dir={run}", "--max_epochs=1", "--freeze_passage", *FLAGS) == 0
    printed = capsys.readouterr().out
    assert "DistilBert through transformers" in printed and "LoRA of rank 4 and alpha 8 on" in printed
    assert float(read_metrics(run)[-1]["learning_rate"] or read_metrics(run)[0]["learning_rate"]) <= 1e-4

    before, merged = load_file(base / "model.safetensors"), read_weights(run)
    adapted = {key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in read_adapter(run)}
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, merged[name])}
    assert changed == {f"{name}.weight" for name in adapted}
    assert all(torch.equal(tensor, before[name]) for name, tensor in read_weights(run, "passage").items())
    assert not (run / "adapter" / "passage_encoder").exists()
    assert_equal_to_peft(run, base, "question")
    listed = yaml.safe_load((run / "manifest.json").read_text())["files"]
    assert {"adapter/question_encoder/adapter_config.json", "adapter/question_encoder/adapter_model.safetensors"} <= {
        *listed
    }


def test_a_run_that_does_not_change_its_adapters_is_an_error(base: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    flags = (f"--encoder={base}", f"--output_dir={run}", "--max_epochs=1", "--tied", *FLAGS)
    capsys.readouterr()
    assert run_train(*flags, "--learning_rate=1e-20") == 5
    error = capsys.readouterr().err.splitlines()[-1]
    assert "question encoder: training did not change the adapters" in error
    assert not (run / "adapter").exists() and not (run / "model").exists() and not (run / "manifest.json").exists()


@pytest.mark.parametrize(
    ("flags", "code", "part"),
    [
        (("--encoder=tiny", "--lora_rank=4"), 2, "--encoder is tiny"),
        (("--encoder={base}", "--lora_alpha=4"), 2, "--lora_alpha"),
        (("--encoder={base}", "--lora_targets=q_lin"), 2, "--lora_targets"),
        (("--encoder={base}", "--lora_rank=4", "--lora_targets=oak"), 2, "oak"),
        (("--encoder={base}", "--lora_rank=0"), 2, "--lora_rank"),
        (("--encoder={base}", "--lora_rank=4", "--precision=bf16-true"), 2, "--precision=bf16-true"),
        (("--encoder={base}", "--lora_rank=4", "--compile"), 2, "--compile"),
    ],
)
def test_flags_that_cannot_be_honored_are_refused(
    base: Path, tmp_path: Path, capsys: Capture, flags: tuple[str, ...], code: int, part: str
) -> None:
    given = [flag.format(base=base) for flag in flags]
    found, line = fail_train(capsys, *given, f"--output_dir={tmp_path}/run", *SMALL)
    assert found == code and part in line, line


def test_a_missing_peft_is_told_with_the_extra(
    base: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text.commands.train_flags.find_spec", lambda name: None if name == "peft" else find_spec(name))
    code, line = fail_train(capsys, f"--encoder={base}", f"--output_dir={tmp_path}/run", *FLAGS)
    assert code == 2 and 'pip install "dpr-text[lora]"' in line


@pytest.mark.slow
def test_each_side_has_its_own_adapter(base: Path, tmp_path: Path) -> None:
    flags = (f"--encoder={base}", f"--output_dir={tmp_path}/run", "--max_epochs=1", "--projection_dim=16", *FLAGS)
    assert run_train(*flags, "--activation_checkpointing", "--precision=bf16-mixed", "--lora_targets=[q_lin]") == 0
    for side in ("question", "passage"):
        assert_equal_to_peft(tmp_path / "run", base, side)
    assert not torch.equal(
        *(next(iter(read_adapter(tmp_path / "run", side).values())) for side in ("question", "passage"))
    )


@pytest.mark.slow
def test_chunks_give_the_adapters_of_whole_batches(base: Path, tmp_path: Path) -> None:
    flags = (f"--encoder={base}", "--max_epochs=1", "--tied", *FLAGS)
    assert run_train(*flags, f"--output_dir={tmp_path}/whole") == 0
    assert run_train(*flags, f"--output_dir={tmp_path}/chunks", "--chunk_tokens=256") == 0
    whole, chunks = (read_adapter(tmp_path / name) for name in ("whole", "chunks"))
    for name, tensor in whole.items():
        torch.testing.assert_close(chunks[name], tensor, rtol=1e-3, atol=1e-5)  # AdamW divides by small numbers


@pytest.mark.slow
def test_a_resumed_run_has_the_adapters_of_an_uninterrupted_one(base: Path, tmp_path: Path) -> None:
    flags = (f"--encoder={base}", "--schedule=constant", "--lora_rank=4", *SMALL)
    assert run_train(*flags, f"--output_dir={tmp_path}/whole", "--max_epochs=2") == 0
    part = f"--output_dir={tmp_path}/part"
    assert run_train(*flags, part, "--max_epochs=1") == 0
    assert run_train(*flags, part, "--max_epochs=2", "--resume") == 0
    for side in ("question", "passage"):
        for read in (read_weights, read_adapter):
            whole, resumed = read(tmp_path / "whole", side), read(tmp_path / "part", side)
            assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@pytest.mark.slow
def test_a_resumed_run_without_model_writes_it_again(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = (f"--encoder={base}", "--tied", f"--output_dir={run}", "--max_epochs=1", *FLAGS)
    assert run_train(*flags) == 0
    weights, adapter = read_weights(run), read_adapter(run)
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "adapter")
    (run / "manifest.json").unlink()
    assert run_train(*flags, "--resume") == 0
    for found, expected in ((read_weights(run), weights), (read_adapter(run), adapter)):
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    checkpoint = AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "best.ckpt", map_location="cpu")
    assert any("lora_A" in name for name in checkpoint["state_dict"])


@pytest.mark.slow
def test_two_processes_train_the_adapters_of_one(base: Path, tmp_path: Path) -> None:
    flags = f"--data_path={TINY_SET} --encoder={base} --tied --max_epochs=1 --batch_size=4".split()
    for name, launcher in (
        ("one", ["-m"]),
        ("two", ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m"]),
    ):
        command = [sys.executable, *launcher, "text", "train", *flags, *FLAGS, f"--output_dir={tmp_path}/{name}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (read_adapter(tmp_path / name) for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=5e-3, atol=1e-5)  # AdamW divides by small numbers
