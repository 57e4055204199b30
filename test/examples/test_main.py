"""The driver as a person uses it: commands, what they leave, and how they fail."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from examples.dpr.cli import one_line, parse, run
from examples.dpr.config import DPRConfig
from examples.dpr.main import main
from text.errors import DataError
from text.models import BiEncoder, RobertaEncoder
from text.transforms import load_tokenizer, train_tokenizer

ROOT = Path(__file__).parents[2]
DATA_DIR = "examples/dpr/data/nq3_tiny/data/retriever/"
# Where the figures do not matter, less work.
SMALL = ("--eval_hard_negatives=2", "--eval_other_negatives=0", "--passage_max_length=40")

# Lightning's remarks on how it is used; none is about what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """``PYTHONPATH=. python examples/dpr/main.py ARGUMENTS``, in a process of its own."""
    return subprocess.run(
        [sys.executable, "examples/dpr/main.py", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]):
    """Runs the driver in this process; gives the one line that it fails with."""

    def call(code: int, *arguments: str) -> str:
        capsys.readouterr()
        assert run(main, DPRConfig, arguments) == code
        [line] = capsys.readouterr().err.splitlines()
        return line

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the tiny set that a test may spoil."""
    return Path(shutil.copytree(ROOT / DATA_DIR, tmp_path / "data"))


def rewrite(path: Path, change) -> None:
    """Applies ``change`` to each record of a JSONL file."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(change(record)) + "\n" for record in records), encoding="utf-8")


def metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original example's command, from the root of a copy of the examples, so that it leaves nothing here."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "examples", root / "examples")
    (root / "text").symlink_to(ROOT / "text")
    done = command("--max_epochs=10", f"--data_path={DATA_DIR}", cwd=root)
    assert done.returncode == 0, done.stderr
    assert "model: runs/dpr/model" in done.stdout
    assert "test: loss " in done.stdout
    return root / "runs" / "dpr"


def test_training_loss_falls_to_less_than_half(tiny_run: Path) -> None:
    losses = [float(row["train_loss_epoch"]) for row in metrics(tiny_run) if row["train_loss_epoch"]]
    assert len(losses) == 10
    assert losses[-1] < losses[0] / 2


def test_a_run_leaves_what_it_says(tiny_run: Path) -> None:
    left = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    assert left >= {
        "config.yaml",
        "tokenizer.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "manifest.json",
        "model/README.md",
        "model/config.json",
        "model/modules.json",
        "model/tokenizer.json",
        "model/question_encoder/tokenizer.json",
        "model/passage_encoder/tokenizer.json",
        "model/question_encoder/model.safetensors",
        "model/passage_encoder/model.safetensors",
    }
    manifest = json.loads((tiny_run / "manifest.json").read_text())
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((tiny_run / name).read_bytes()).hexdigest() == digest, name
    assert set(manifest["sha256"]) == left - {"manifest.json", ".lock"}
    assert manifest["data"]["train"]["questions"] == 10
    assert manifest["data"]["train"]["duplicate_keys_checked"] is True
    assert yaml.safe_load((tiny_run / "config.yaml").read_text())["max_epochs"] == 10


def test_the_model_handed_on_is_the_best_checkpoint(tiny_run: Path) -> None:
    model = BiEncoder.from_pretrained(tiny_run / "model")
    assert not model.is_tied
    assert isinstance(model.question_encoder, RobertaEncoder)
    assert model.question_encoder.config.vocab_size == load_tokenizer(tiny_run / "model").get_vocab_size()
    best = max(float(row["valid_mrr@10"]) for row in metrics(tiny_run) if row["valid_mrr@10"])
    assert best > 0.2  # of 30 passages; at random, (1 + 1/2 + ... + 1/10) / 30 = 0.098


def test_the_model_card_has_data_settings_and_results(tiny_run: Path) -> None:
    card = (tiny_run / "model" / "README.md").read_text()
    test = json.loads((tiny_run / "manifest.json").read_text())["test"]
    for line in (
        "| train | train.jsonl | 10 |",
        f"| mrr@10 | {test['test_mrr@10']:.4f} |",
        "| question_max_length | 64 |",
        "| passage_max_length | 256 |",
        "| max_epochs | 10 |",
    ):
        assert line in card.splitlines()


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A small BERT as transformers and sentence-transformers leave it: 48 tokens, a prompt for queries."""
    folder = tmp_path / "bert"
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" .:1abcdefghijklmnopqrstuvwxyz"]
    words += ["query", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    BertModel(BertConfig(**sizes, vocab_size=len(words))).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    settings = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "sentence_bert_config.json": {"max_seq_length": 48},
        "config_sentence_transformers.json": {"prompts": {"query": "query: "}},
        "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True},
    }
    (folder / "1_Pooling").mkdir()
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "flags", [[], ["--tied", "--passage_prompt=a: ", "--titles=join", "--activation_checkpointing"]]
)
def test_training_from_the_weights_of_others(bert: Path, tmp_path: Path, flags: list[str]) -> None:
    run_folder = tmp_path / "run"
    arguments = ["--encoder", str(bert), "--output_dir", str(run_folder), "--max_epochs=1", *SMALL[:2], *flags]
    assert run(main, DPRConfig, arguments) == 0
    used = yaml.safe_load((run_folder / "config.yaml").read_text())
    assert (used["question_max_length"], used["passage_max_length"]) == (48, 48)
    model = BiEncoder.from_pretrained(run_folder / "model")
    assert isinstance(model.passage_encoder, RobertaEncoder)
    assert model.passage_encoder.config.pooling == "mean"
    assert model.passage_encoder.config.prompts == {"query": "query: ", "document": "a: " if flags else ""}
    assert load_tokenizer(run_folder / "model").to_str() == load_tokenizer(bert).to_str()
    assert json.loads((run_folder / "model/config.json").read_text())["titles"] == ("join" if flags else "pair")
    use = '"its title its text"' if flags else '("its title", "its text")'
    assert f"model.encode_document([{use}])" in (run_folder / "model/README.md").read_text()


def test_training_from_a_checkpoint_of_fairs_dpr(bert: Path, tmp_path: Path, fails) -> None:
    weights = BertModel.from_pretrained(bert).state_dict()
    sides = {f"{side}.{name}": value for side in ("question_model", "ctx_model") for name, value in weights.items()}
    torch.save({"model_dict": sides}, tmp_path / "dpr.cp")
    flags = ["--encoder", str(tmp_path / "dpr.cp"), "--fast_dev_run", *SMALL]
    assert "expected --tokenizer as well" in fails(2, *flags)
    assert run(main, DPRConfig, [*flags, "--tokenizer", str(bert)]) == 0


@pytest.mark.skipif(find_spec("torchtext") is None, reason="torchtext is not installed")
def test_torchtext_makes_the_same_run(tmp_path: Path) -> None:
    metrics = []
    for backend in ("tokenizers", "torchtext"):
        folder = tmp_path / backend
        flags = ["--tokenizer_backend", backend, "--output_dir", str(folder), "--max_epochs=1", *SMALL[:2]]
        assert run(main, DPRConfig, flags) == 0
        metrics.append((folder / "metrics.csv").read_text())
    assert metrics[0] == metrics[1]


@pytest.mark.skipif(find_spec("torchtext") is not None, reason="torchtext is installed")
def test_torchtext_that_is_not_installed(fails) -> None:
    line = fails(2, "--tokenizer_backend=torchtext", "--fast_dev_run")
    assert "torchtext is not installed; expected an environment of constraints-torchtext.txt" in line


def test_a_token_cache_is_not_of_torchtext(fails) -> None:
    line = fails(2, "--tokenizer_backend=torchtext", "--token_cache", "--fast_dev_run")
    assert "--token_cache has the ids of tokenizers; expected no --tokenizer_backend=torchtext" in line


def test_a_limit_may_go_up_to_the_positions(bert: Path, tmp_path: Path, fails) -> None:
    flags = ["--encoder", str(bert), f"--output_dir={tmp_path / 'run'}", "--max_epochs=1", *SMALL[:2]]
    assert run(main, DPRConfig, [*flags, "--passage_max_length=60"]) == 0
    assert RobertaEncoder.from_pretrained(tmp_path / "run/model/passage_encoder").max_length == 512
    assert json.loads((tmp_path / "run/model/config.json").read_text())["passage_max_length"] == 60
    line = fails(2, *flags, "--passage_max_length=513", "--overwrite")
    assert line.endswith("--passage_max_length is 513; the encoder takes at most 512")


def test_the_same_seed_gives_the_same_metrics_csv(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        assert run(main, DPRConfig, ["--max_epochs=2", f"--output_dir={tmp_path / folder}", *SMALL]) == 0
    assert (tmp_path / "a" / "metrics.csv").read_bytes() == (tmp_path / "b" / "metrics.csv").read_bytes()
    assert run(main, DPRConfig, ["--max_epochs=2", f"--output_dir={tmp_path / 'c'}", *SMALL, "--seed=1"]) == 0
    assert (tmp_path / "a" / "metrics.csv").read_bytes() != (tmp_path / "c" / "metrics.csv").read_bytes()


def test_resume_goes_on_and_from_a_saved_model_training_starts(tmp_path: Path, fails) -> None:
    folder = tmp_path / "run"
    output = f"--output_dir={folder}"
    assert run(main, DPRConfig, ["--max_epochs=1", output, *SMALL, "--tied", "--validate_first"]) == 0
    assert not (folder / "model" / "passage_encoder").exists()
    assert run(main, DPRConfig, ["--max_epochs=2", output, *SMALL, "--tied", "--resume"]) == 0
    epochs = [row["epoch"] for row in metrics(folder) if row["valid_loss"]]
    assert epochs == ["0", "0", "1"]  # before training, and after each epoch
    elsewhere = ["--max_epochs=3", f"--output_dir={tmp_path / 'elsewhere'}", *SMALL, "--tied"]
    assert run(main, DPRConfig, [*elsewhere, f"--resume={folder}"]) == 0
    again = ["--max_epochs=1", *SMALL, f"--encoder={folder / 'model'}", f"--output_dir={tmp_path / 'again'}"]
    assert run(main, DPRConfig, again) == 0
    assert (tmp_path / "elsewhere" / "checkpoints" / "best.ckpt").exists()
    assert "--resume: nowhere.ckpt does not exist" in fails(2, "--resume=nowhere.ckpt", output)
    kept = (folder / "tokenizer.json").read_bytes()
    train_tokenizer(["who ate the oak"], 300).save(str(tmp_path / "tokenizer.json"))
    other = [f"--tokenizer={tmp_path / 'tokenizer.json'}", "--max_epochs=3", "--tied", *SMALL, "--resume"]
    assert "saved with another tokenizer; expected" in fails(5, *other, output)
    assert (folder / "tokenizer.json").read_bytes() == kept


def test_fast_dev_run_saves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, DPRConfig, ["--fast_dev_run", f"--output_dir={tmp_path / 'run'}", "--gpus=0"]) == 0
    assert "nothing was saved" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--in_batch_negatives=false"],
        ["--similarity=cosine", "--temperature=0.05"],
        ["--projection_dim=32", "--normalize", "--sample_positives", "--num_other_negatives=2", "--num_workers=2"],
    ],
)
def test_other_objectives_train(tmp_path: Path, flags: list[str]) -> None:
    assert run(main, DPRConfig, ["--max_epochs=1", f"--output_dir={tmp_path}", *SMALL, *flags]) == 0


def as_compact(folder: Path) -> Path:
    """The tiny set as rows of ids, and the collection that they name passages of."""
    pools = {
        "positive_ctxs": "positive_ids",
        "hard_negative_ctxs": "hard_negative_ids",
        "negative_ctxs": "negative_ids",
    }
    passages = {}
    folder.mkdir()
    for stage in ("train", "valid", "test"):
        shutil.copy(ROOT / DATA_DIR / f"{stage}.jsonl", folder)
        for line in (folder / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines():
            for context in (context for name in pools for context in json.loads(line)[name]):
                passages[context["passage_id"]] = f"{context['passage_id']}\t{context['text']}\t{context['title']}\n"
        rewrite(
            folder / f"{stage}.jsonl",
            lambda record: {
                "question": record["question"],
                **{ids: [context["passage_id"] for context in record[name]] for name, ids in pools.items()},
            },
        )
    (folder / "passages.tsv").write_text("id\ttext\ttitle\n" + "".join(passages.values()), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_all_forms_of_the_data_give_the_same_metrics_csv(data: Path, tmp_path: Path) -> None:
    compact = as_compact(tmp_path / "compact")
    array = tmp_path / "array"
    array.mkdir()
    for stage in ("train", "valid", "test"):
        rows = [json.loads(line) for line in (data / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()]
        (array / f"{stage}.json.gz").write_bytes(gzip.compress(json.dumps(rows, indent=2).encode()))
    forms = {
        "full": [f"--data_path={data}"],
        "cached": [f"--data_path={data}", "--token_cache"],
        "compact": [f"--data_path={compact}", f"--passages={compact}/passages.tsv"],
        "both": [f"--data_path={compact}", f"--passages={compact}/passages.tsv", "--token_cache", "--num_workers=2"],
        "array": [f"--data_path={array}"],
    }
    left = []
    for name, flags in forms.items():
        flags += ["--max_epochs=2", "--eval_hard_negatives=2", "--tokenizer", str(tmp_path / "tokenizer.json")]
        if name == "full":
            train_tokenizer((data / "train.jsonl").read_text(encoding="utf-8").splitlines(), 400).save(flags[-1])
        assert run(main, DPRConfig, [*flags, f"--output_dir={tmp_path / name}"]) == 0
        left.append((tmp_path / name / "metrics.csv").read_text())
    assert len(set(left)) == 1


def test_several_sets_are_mixed_and_told_apart(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = f"[{data}/train.jsonl, {data}/valid.jsonl]"
    flags = [f"--train_files={files}", "--train_rates=[0.5, 2]", "--one_set_per_batch", "--max_epochs=1", *SMALL]
    assert run(main, DPRConfig, [*flags, f"--data_path={data}", f"--output_dir={tmp_path / 'run'}"]) == 0
    assert "train: an epoch takes 5 of train, 20 of valid" in capsys.readouterr().out
    rows = metrics(tmp_path / "run")
    assert [row["train_questions/valid"] for row in rows if row["train_questions/valid"]] == ["20.0"]
    assert all(float(row["train_loss/train"]) > 0 for row in rows if row["train_loss/train"])


def test_the_original_selection_command(tmp_path: Path) -> None:
    raw = tmp_path / "nq-dev.json"
    records = [json.loads(line) for line in (ROOT / DATA_DIR / "train.jsonl").read_text().splitlines()]
    raw.write_text(json.dumps(records, indent=4))
    out = tmp_path / "out" / "train.jsonl"
    arguments = ["--sel_data", f"--sel_raw_path={raw}", f"--sel_out_path={out}", "--sel_num_items=500"]
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert "kept 10 rows" in done.stdout
    assert "only 10 of the 500 rows asked for are there" in done.stdout  # F9
    assert [json.loads(line) for line in out.read_text().splitlines()] == records


def test_selected_splits_are_disjoint_and_train(tmp_path: Path) -> None:
    raw, folder = tmp_path / "raw.jsonl", tmp_path / "data"
    raw.write_text("".join((ROOT / DATA_DIR / f"{name}.jsonl").read_text() for name in ("train", "valid")))
    for stage, skip, num in (("train", 0, 10), ("valid", 10, 5), ("test", 15, 5)):
        arguments = [f"--sel_raw_path={raw}", f"--sel_out_path={folder / stage}.jsonl", f"--sel_num_items={num}"]
        assert run(main, DPRConfig, ["--sel_data", *arguments, f"--sel_skip_items={skip}"]) == 0
    rows = [line for path in folder.iterdir() for line in path.read_text().splitlines()]
    assert len(rows) == len(set(rows)) == 20
    assert run(main, DPRConfig, [f"--data_path={folder}", "--fast_dev_run", *SMALL]) == 0


def test_help_has_a_sentence_for_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(main, DPRConfig, ["--help"])
    shown = capsys.readouterr().out
    sentences = re.findall(r"^  --(\w+) .*?(?=^  -|\Z)", shown, flags=re.MULTILINE | re.DOTALL)
    assert set(sentences) >= set(DPRConfig.__dataclass_fields__)
    assert "Questions per step" in shown


def test_print_config_and_config_go_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            run(main, DPRConfig, [*arguments, "--print_config"])
        return capsys.readouterr().out

    first = printed("--batch_size=3", "--sel_data")
    assert yaml.safe_load(first)["batch_size"] == 3
    (tmp_path / "config.yaml").write_text(first)
    assert printed(f"--config={tmp_path / 'config.yaml'}") == first


# Faults of the data as a whole (C)


def test_c1_empty_file(data: Path, fails) -> None:
    (data / "train.jsonl").write_bytes(b"")
    assert "no rows in" in fails(3, f"--data_path={data}", "--fast_dev_run")


def test_c3_nothing_to_compare_with(data: Path, fails, tmp_path: Path) -> None:
    lonely = (data / "train.jsonl").read_text().splitlines()[0]
    record = json.loads(lonely) | {"hard_negative_ctxs": []}
    (data / "train.jsonl").write_text(json.dumps(record) + "\n")
    flags = [f"--data_path={data}", "--fast_dev_run"]
    assert "the loss is 0 and nothing is learned" in fails(3, *flags)
    assert run(main, DPRConfig, [*flags, "--allow_no_negatives"]) == 0
    (data / "train.jsonl").write_text(lonely + "\n")
    assert run(main, DPRConfig, flags) == 0


def test_c3_own_contexts_only_needs_negatives(data: Path, fails) -> None:
    rewrite(data / "train.jsonl", lambda record: record | {"hard_negative_ctxs": []})
    assert "nothing is learned" in fails(3, f"--data_path={data}", "--fast_dev_run", "--in_batch_negatives=false")


def test_rows_left_out_are_told_and_recorded(data: Path, tmp_path: Path, fails, capsys) -> None:
    with open(data / "train.jsonl", "a") as file:
        file.write('{"question": " ", "positive_ctxs": []}\n{"question": "why", "positive_ctxs": []}\n\n')
    flags = [f"--data_path={data}", "--max_epochs=1", f"--output_dir={tmp_path / 'run'}", *SMALL]
    assert "2 of 12 rows" in fails(3, *flags)
    assert run(main, DPRConfig, [*flags, "--max_skipped=0.2"]) == 0
    assert "train: 10 questions, 2 rows skipped (1 blank lines, left out)" in capsys.readouterr().out
    rejects = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in rejects] == [(11, "blank question"), (12, "no positive_ctxs")]


# Faults of training, and of the command line (D, F)


def test_non_finite_loss_is_exit_6(tmp_path: Path, fails) -> None:
    line = fails(6, "--max_epochs=3", "--learning_rate=1e30", f"--output_dir={tmp_path}")
    assert "loss is nan; expected a finite number" in line


def test_scores_of_a_teacher_in_the_rows(data: Path, tmp_path: Path, fails) -> None:
    flags = [f"--data_path={data}", *SMALL, "--max_epochs=1", "--score_key=teacher"]
    line = fails(3, *flags, "--guide_margin=1", f"--output_dir={tmp_path / 'none'}")
    assert "train.jsonl:1 (byte 0) positive_ctxs[0].teacher: missing; expected a number" in line
    rows = [json.loads(row) for row in (data / "train.jsonl").read_text().splitlines()]
    for row in rows:
        for pool in ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs"):
            for place, context in enumerate(row[pool]):
                context["teacher"] = 10 * (pool == "positive_ctxs") - place
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    losses = {}
    for name, flag in (("plain", []), ("taught", ["--distillation=1"]), ("guided", ["--guide_margin=50"])):
        key = flags[:-1] if name == "plain" else flags
        assert run(main, DPRConfig, [*key, *flag, f"--output_dir={tmp_path / name}", "--num_hard_negatives=3"]) == 0
        losses[name] = metrics(tmp_path / name)[0]["train_loss_step"]
    assert len(set(losses.values())) == 3  # with such a margin, no hard negative is left
    assert "expected both" in fails(2, *flags)
    assert "expected both" in fails(2, "--distillation=0.5")
    assert "keeps no scores" in fails(2, *flags, "--distillation=0.5", "--token_cache")


def test_a_token_cache_has_titles_apart(fails) -> None:
    assert "--token_cache has titles and texts apart" in fails(2, "--titles=join", "--token_cache", "--fast_dev_run")


def test_c10_pattern_that_matches_nothing(data: Path, fails) -> None:
    message = fails(2, f"--data_path={data}", f"--train_files=[{data}/none*.jsonl]", "--fast_dev_run")
    assert "none*.jsonl: no such file or directory" in message


def test_c11_foreign_file(data: Path, fails) -> None:
    (data / "passages.tsv").write_text("id\ttext\ttitle\n1\ta\tb\n")
    message = fails(
        3, f"--data_path={data}", f"--train_files=[{data}/train.jsonl, {data}/passages.tsv]", "--fast_dev_run"
    )
    assert "passages.tsv:1 (byte 0): invalid JSON" in message


def test_f1_unknown_flag_names_the_nearest(fails) -> None:
    assert "--bach_size" in fails(2, "--bach_size=3") and "did you mean --batch_size?" in fails(2, "--bach_size=3")


def test_without_any_flag_all_have_their_defaults() -> None:
    assert parse(DPRConfig, []) == DPRConfig()


def test_f1_no_abbreviations(fails) -> None:
    assert "unrecognized arguments: --batch" in fails(2, "--batch=10")


def test_f2_repeated_flag(fails) -> None:
    assert "--max_epochs is given twice" in fails(2, "--max_epochs=2", "--max_epochs", "3")


def test_f3_false_is_false_for_a_bare_flag_and_no_checkpoint(tmp_path: Path, fails) -> None:
    assert run(main, DPRConfig, ["--sel_data", "false", "--fast_dev_run=true"]) == 0
    assert "False does not exist" in fails(2, "--resume", "False", f"--output_dir={tmp_path}")
    assert "tied" in fails(2, "--tied=perhaps")


def test_f4_missing_or_folder(data: Path, tmp_path: Path, fails) -> None:
    (data / "valid.jsonl").unlink()
    assert "valid.jsonl: no such file or directory; expected a file" in fails(
        2, f"--data_path={data}", "--fast_dev_run"
    )
    (data / "valid.jsonl").mkdir()
    assert "valid.jsonl: is a directory; expected a file" in fails(2, f"--data_path={data}", "--fast_dev_run")
    assert "nowhere.json: no such file" in fails(2, "--sel_data", "--sel_raw_path=nowhere.json")
    assert "nowhere" in fails(2, "--tokenizer=nowhere", "--fast_dev_run")
    assert "nowhere" in fails(2, "--encoder=nowhere", "--fast_dev_run")
    assert "nowhere.yaml" in fails(2, "--config=nowhere.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read everything")
def test_f4_unreadable(data: Path, fails) -> None:
    (data / "valid.jsonl").chmod(0)
    assert "valid.jsonl: permission denied" in fails(2, f"--data_path={data}", "--fast_dev_run")


def test_f5_output_cannot_be_made(tmp_path: Path, fails) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in fails(2, f"--output_dir={tmp_path / 'file' / 'run'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can write everywhere")
def test_f5_output_cannot_be_written(tmp_path: Path, fails) -> None:
    tmp_path.chmod(0o555)
    assert ": permission denied" in fails(4, f"--output_dir={tmp_path}")


def test_f6_output_exists(data: Path, tmp_path: Path, fails) -> None:
    (tmp_path / "metrics.csv").write_text("precious")
    assert "holds an earlier run (metrics.csv)" in fails(2, f"--output_dir={tmp_path}")
    assert (tmp_path / "metrics.csv").read_text() == "precious"
    raw, out = data / "train.jsonl", data / "valid.jsonl"
    assert "exists" in fails(2, "--sel_data", f"--sel_raw_path={raw}", f"--sel_out_path={out}")
    (tmp_path / "mine.txt").write_text("not of a run")
    assert run(main, DPRConfig, ["--max_epochs=1", f"--output_dir={tmp_path}", *SMALL, "--overwrite"]) == 0
    assert "precious" not in (tmp_path / "metrics.csv").read_text()
    assert (tmp_path / "mine.txt").exists()


def test_f6_an_earlier_run_is_not_lost_to_an_error(data: Path, tmp_path: Path, fails) -> None:
    (tmp_path / "metrics.csv").write_text("precious")
    (data / "train.jsonl").write_text("{}\n")
    fails(3, f"--data_path={data}", f"--output_dir={tmp_path}", "--overwrite")
    assert (tmp_path / "metrics.csv").read_text() == "precious"


def test_f7_output_is_input(data: Path, fails) -> None:
    raw, link = data / "train.jsonl", data / "link.jsonl"
    link.symlink_to(raw)
    line = fails(2, "--sel_data", f"--sel_raw_path={raw}", f"--sel_out_path={link}", "--overwrite")
    assert "is the raw file itself" in line
    assert len(raw.read_text().splitlines()) == 10


def test_f8_bare_file_name(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    assert run(main, DPRConfig, ["--sel_data", "--sel_raw_path=train.jsonl", "--sel_out_path=some.jsonl"]) == 0
    assert (data / "some.jsonl").read_text() == (data / "train.jsonl").read_text()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--batch_size=0", "--batch_size is 0; expected 1 or more"),
        ("--max_epochs=-1", "--max_epochs is -1; expected 1 or more"),
        ("--learning_rate=nan", "learning_rate"),
        ("--learning_rate=.nan", "learning_rate"),
        ("--learning_rate=0", "--learning_rate is 0.0; expected a number above 0"),
        ("--temperature=-1", "--temperature is -1.0; expected a number above 0"),
        ("--sel_num_items=0", "--sel_num_items is 0; expected 1 or more"),
        ("--dropout=1", "--dropout is 1.0; expected 0 or more and below 1"),
        ("--gpus=2", "--gpus is 2; expected at most "),
        ("--similarity=l2", "similarity"),
        ("--question_max_length=3", "max_length is 3; expected 6 or more"),
        ("--passage_max_length=600", "--passage_max_length is 600; the encoder takes at most 512"),
        ("--vocab_size=9", "vocab_size is 9; expected 261 or more"),
        ("--question_max_length=0", "--question_max_length is 0; expected 1 or more"),
        ("--validate_every_n_steps=11", "--validate_every_n_steps is 11; expected at most 10, all of the run"),
        ("--matryoshka_dims=[64,256]", "--matryoshka_dims are [64, 256]; expected 1 to 128, as embeddings have"),
        ("--precision=fp16", "precision"),
        ("--encoder=Tiny", "--encoder is Tiny; expected a folder or file, or one of tiny, mini, small, base, large"),
        ("--num_nodes=2", "--num_nodes is 2; expected a start by torchrun or SLURM on each of them"),
    ],
)
def test_f9_values_that_cannot_be_meant(fails, tmp_path: Path, flag: str, message: str) -> None:
    assert message in fails(2, flag, f"--output_dir={tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}  # so that the right ones can follow


def test_nothing_left_to_train(fails) -> None:
    assert "leave nothing to train" in fails(2, "--freeze_question", "--freeze_passage")
    assert "the two encoders are one object" in fails(2, "--freeze_question", "--tied", "--fast_dev_run")


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="--batch_size is 0"):
        run(main, DPRConfig, ["--batch_size=0", "--debug"])


def test_the_error_of_a_data_worker_is_one_line() -> None:
    error = DataError(
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "dpr.py", line 1, in f\ntext.errors.DataError: a.jsonl:1 (byte 0): cut; expected all of it\n'
        "This exception is thrown by __iter__ of MapperIterDataPipe()"
    )
    assert one_line(error) == "a.jsonl:1 (byte 0): cut; expected all of it"
