"""``dpr-text train``: flags and output files."""

from __future__ import annotations

import gzip
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from test.commands.training import SMALL, TINY_SET, fail_train, read_metrics, rewrite_rows, run_train
from text.bundle import BiEncoderBundle
from text.models import BiEncoder, RobertaEncoder
from text.transforms import load_tokenizer, train_tokenizer

Capture = pytest.CaptureFixture[str]

# Lightning warns about usage that does not matter for these tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a copy of the tiny set that a test may change."""
    return Path(shutil.copytree(TINY_SET, tmp_path / "data"))


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """Return the folder of a small sentence-transformers BERT with a limit of 48 tokens and a query prompt."""
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
    "flags", [[], ["--tied=false", "--passage_prompt=a: ", "--titles=pair", "--activation_checkpointing"]]
)
def test_training_from_an_external_model(bert: Path, tmp_path: Path, flags: list[str]) -> None:
    run_folder = tmp_path / "run"
    arguments = ["--encoder", str(bert), "--output_dir", str(run_folder), "--max_epochs=1", *SMALL[:2], *flags]
    assert run_train(*arguments) == 0
    used = yaml.safe_load((run_folder / "config.yaml").read_text())
    assert (used["question_max_length"], used["passage_max_length"]) == (48, 48)
    assert (used["similarity"], used["temperature"], used["tied"]) == ("cosine", 0.05, not flags)
    assert (used["question_prompt"], used["passage_prompt"]) == ("query: ", "a: " if flags else "")
    model = BiEncoder.from_pretrained(run_folder / "model")
    assert isinstance(model.passage_encoder, RobertaEncoder)
    assert model.passage_encoder.config.pooling == "mean"
    assert model.passage_encoder.config.prompts == {"query": "query: ", "document": "a: " if flags else ""}
    assert load_tokenizer(run_folder / "model").to_str() == load_tokenizer(bert).to_str()
    assert json.loads((run_folder / "model/config.json").read_text())["titles"] == ("pair" if flags else "join")
    use = '("its title", "its text")' if flags else '"its title its text"'
    assert f"model.encode_document([{use}])" in (run_folder / "model/README.md").read_text()


@pytest.mark.slow
def test_resume_compares_the_settings_of_the_starting_model(bert: Path, tmp_path: Path, capsys: Capture) -> None:
    flags = ["--encoder", str(bert), "--output_dir", str(tmp_path / "run"), *SMALL[:2]]
    assert run_train(*flags, "--max_epochs=1") == 0
    code, line = fail_train(capsys, *flags, "--max_epochs=2", "--resume", "--titles=pair")
    assert code == 5 and "titles: join -> pair" in line
    assert run_train(*flags, "--max_epochs=2", "--resume", "--titles=join", "--temperature=0.05") == 0


@pytest.mark.filterwarnings("default:the loss cannot fall:text.errors.SettingsWarning")
def test_a_run_that_cannot_learn_is_reported_with_the_flag_to_change(tmp_path: Path, capsys: Capture) -> None:
    run = ["--fast_dev_run", f"--output_dir={tmp_path}", *SMALL]
    assert run_train("--normalize", "--temperature=1", *run) == 0
    # 5 questions with a positive and a negative each: log(1 + 9 / e^2) and log(10).
    [line] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "below 0.80" in line and "2.30" in line and "--temperature=0.05" in line
    assert run_train("--normalize", *run) == 0
    assert "warning" not in capsys.readouterr().err


def test_training_from_a_checkpoint_of_fairs_dpr(bert: Path, tmp_path: Path, capsys: Capture) -> None:
    weights = BertModel.from_pretrained(bert).state_dict()
    sides = {f"{side}.{name}": value for side in ("question_model", "ctx_model") for name, value in weights.items()}
    torch.save({"model_dict": sides}, tmp_path / "dpr.cp")
    flags = ["--encoder", str(tmp_path / "dpr.cp"), "--fast_dev_run", *SMALL]
    code, line = fail_train(capsys, *flags)
    assert code == 2 and "dpr.cp" in line and "--tokenizer" in line
    assert run_train(*flags, "--tokenizer", str(bert)) == 0


@pytest.mark.skipif(find_spec("torchtext") is None, reason="torchtext is not installed")
def test_torchtext_makes_the_same_run(tmp_path: Path) -> None:
    metrics = []
    for backend in ("tokenizers", "torchtext"):
        folder = tmp_path / backend
        flags = ["--tokenizer_backend", backend, "--output_dir", str(folder), "--max_epochs=1", *SMALL[:2]]
        assert run_train(*flags) == 0
        metrics.append((folder / "metrics.csv").read_text())
    assert metrics[0] == metrics[1]


def test_a_length_limit_may_be_as_large_as_the_number_of_positions(bert: Path, tmp_path: Path, capsys: Capture) -> None:
    flags = ["--encoder", str(bert), f"--output_dir={tmp_path / 'run'}", "--max_epochs=1", *SMALL[:2]]
    assert run_train(*flags, "--passage_max_length=60") == 0
    assert BiEncoderBundle.load(tmp_path / "run/model").encoder("passage").max_length == 512
    assert json.loads((tmp_path / "run/model/config.json").read_text())["passage_max_length"] == 60
    code, line = fail_train(capsys, *flags, "--passage_max_length=513", "--overwrite")
    assert code == 2 and "--passage_max_length is 513" in line and "512" in line


def test_the_same_seed_gives_the_same_metrics_csv(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        assert run_train("--max_epochs=2", f"--output_dir={tmp_path / folder}", *SMALL) == 0
    assert (tmp_path / "a" / "metrics.csv").read_bytes() == (tmp_path / "b" / "metrics.csv").read_bytes()
    assert run_train("--max_epochs=2", f"--output_dir={tmp_path / 'c'}", *SMALL, "--seed=1") == 0
    assert (tmp_path / "a" / "metrics.csv").read_bytes() != (tmp_path / "c" / "metrics.csv").read_bytes()


def test_resume_continues_and_training_can_start_from_a_saved_model(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "run"
    output = f"--output_dir={folder}"
    assert run_train("--max_epochs=1", output, *SMALL, "--tied", "--validate_first") == 0
    assert not (folder / "model" / "passage_encoder").exists()
    assert run_train("--max_epochs=2", output, *SMALL, "--tied", "--resume") == 0
    epochs = [row["epoch"] for row in read_metrics(folder) if row["valid_loss"]]
    assert epochs == ["0", "0", "1"]  # before training, and after each epoch
    elsewhere = ["--max_epochs=3", f"--output_dir={tmp_path / 'elsewhere'}", *SMALL, "--tied"]
    assert run_train(*elsewhere, f"--resume={folder}") == 0
    again = ["--max_epochs=1", *SMALL, f"--encoder={folder / 'model'}", f"--output_dir={tmp_path / 'again'}"]
    assert run_train(*again) == 0
    assert (tmp_path / "elsewhere" / "checkpoints" / "best.ckpt").exists()
    code, line = fail_train(capsys, "--resume=nowhere.ckpt", output)
    assert code == 2 and "--resume: nowhere.ckpt" in line
    kept = (folder / "tokenizer.json").read_bytes()
    train_tokenizer(["who ate the oak"], 300).save(str(tmp_path / "tokenizer.json"))
    other = [f"--tokenizer={tmp_path / 'tokenizer.json'}", "--max_epochs=3", "--tied", *SMALL, "--resume"]
    code, line = fail_train(capsys, *other, output)
    assert code == 5 and f"{folder}/checkpoints/last.ckpt" in line and f"{folder}/tokenizer.json" in line
    assert (folder / "tokenizer.json").read_bytes() == kept


def test_fast_dev_run_saves_nothing(tmp_path: Path) -> None:
    assert run_train("--fast_dev_run", f"--output_dir={tmp_path / 'run'}", "--gpus=0") == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--in_batch_negatives=false"],
        ["--similarity=cosine", "--temperature=0.05"],
        ["--projection_dim=32", "--normalize", "--sample_positives", "--num_other_negatives=2", "--num_workers=2"],
    ],
)
def test_other_objectives_train(tmp_path: Path, flags: list[str]) -> None:
    assert run_train("--max_epochs=1", f"--output_dir={tmp_path}", *SMALL, *flags) == 0


def write_compact_set(folder: Path) -> Path:
    """Write the tiny set as compact rows with passage ids, and the collection of these passages."""
    pools = {
        "positive_ctxs": "positive_ids",
        "hard_negative_ctxs": "hard_negative_ids",
        "negative_ctxs": "negative_ids",
    }
    passages = {}
    folder.mkdir()
    for stage in ("train", "valid", "test"):
        shutil.copy(TINY_SET / f"{stage}.jsonl", folder)
        for line in (folder / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines():
            for context in (context for name in pools for context in json.loads(line)[name]):
                passages[context["passage_id"]] = f"{context['passage_id']}\t{context['text']}\t{context['title']}\n"
        rewrite_rows(
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
    compact = write_compact_set(tmp_path / "compact")
    array = tmp_path / "array"
    array.mkdir()
    for stage in ("train", "valid", "test"):
        rows = [json.loads(line) for line in (data / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()]
        (array / f"{stage}.json.gz").write_bytes(gzip.compress(json.dumps(rows, indent=2).encode()))
    forms = {
        "full": [f"--data_path={data}"],
        "cached": [f"--data_path={data}", "--token_cache"],
        "compact": [f"--data_path={compact}", f"--collection={compact}/passages.tsv"],
        "both": [f"--data_path={compact}", f"--collection={compact}/passages.tsv", "--token_cache", "--num_workers=2"],
        "array": [f"--data_path={array}"],
    }
    left = []
    for name, flags in forms.items():
        flags += ["--max_epochs=2", "--eval_hard_negatives=2", "--tokenizer", str(tmp_path / "tokenizer.json")]
        if name == "full":
            train_tokenizer((data / "train.jsonl").read_text(encoding="utf-8").splitlines(), 400).save(flags[-1])
        assert run_train(*flags, f"--output_dir={tmp_path / name}") == 0
        left.append((tmp_path / name / "metrics.csv").read_text())
    assert len(set(left)) == 1


def test_several_sets_are_mixed_and_logged_apart(data: Path, tmp_path: Path, capsys: Capture) -> None:
    files = f"[{data}/train.jsonl, {data}/valid.jsonl]"
    flags = [f"--train_files={files}", "--train_rates=[0.5, 2]", "--one_set_per_batch", "--max_epochs=1", *SMALL]
    assert run_train(*flags, f"--data_path={data}", f"--output_dir={tmp_path / 'run'}") == 0
    assert "train: an epoch takes 5 of train, 20 of valid" in capsys.readouterr().out
    rows = read_metrics(tmp_path / "run")
    assert [row["train_questions/valid"] for row in rows if row["train_questions/valid"]] == ["20.0"]
    assert all(float(row["train_loss/train"]) > 0 for row in rows if row["train_loss/train"])


def test_skipped_rows_are_counted_and_recorded(data: Path, tmp_path: Path, capsys: Capture) -> None:
    with open(data / "train.jsonl", "a") as file:
        file.write('{"question": " ", "positive_ctxs": []}\n{"question": "why", "positive_ctxs": []}\n\n')
    flags = [f"--data_path={data}", "--max_epochs=1", f"--output_dir={tmp_path / 'run'}", *SMALL]
    code, line = fail_train(capsys, *flags)
    assert code == 3 and f"{data}/train.jsonl:11 " in line and "2 of 12" in line
    assert run_train(*flags, "--max_skipped=0.2") == 0
    assert "train: 10 questions, 2 rows skipped (1 blank lines, left out)" in capsys.readouterr().out
    rejects = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in rejects] == [(11, "blank question"), (12, "no positive_ctxs")]


def test_rows_without_a_positive_are_left_out_on_request(data: Path, tmp_path: Path, capsys: Capture) -> None:
    with open(data / "train.jsonl", "a") as file:
        file.write('{"question": "why", "positive_ctxs": []}\n')
    flags = [f"--data_path={data}", "--fast_dev_run", "--max_skipped=0", f"--output_dir={tmp_path / 'run'}", *SMALL]
    assert fail_train(capsys, *flags)[0] == 3
    assert run_train(*flags, "--skip_no_positives") == 0
    found = "train: 10 questions, 0 rows skipped (1 rows without a positive, left out)"
    assert found in capsys.readouterr().out


def test_scores_of_a_teacher_in_the_rows(data: Path, tmp_path: Path, capsys: Capture) -> None:
    flags = [f"--data_path={data}", *SMALL, "--max_epochs=1", "--score_key=teacher"]
    code, line = fail_train(capsys, *flags, "--guide_margin=1", f"--output_dir={tmp_path / 'none'}")
    assert code == 3 and "train.jsonl:1 (byte 0) positive_ctxs[0].teacher: " in line
    rows = [json.loads(row) for row in (data / "train.jsonl").read_text().splitlines()]
    for row in rows:
        for pool in ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs"):
            for place, context in enumerate(row[pool]):
                context["teacher"] = 10 * (pool == "positive_ctxs") - place
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    losses = {}
    for name, flag in (("plain", []), ("taught", ["--distillation=1"]), ("guided", ["--guide_margin=50"])):
        key = flags[:-1] if name == "plain" else flags
        assert run_train(*key, *flag, f"--output_dir={tmp_path / name}", "--num_hard_negatives=3") == 0
        losses[name] = read_metrics(tmp_path / name)[0]["train_loss_step"]
    assert len(set(losses.values())) == 3  # this margin removes all hard negatives
    for wrong in (flags, ["--distillation=0.5"]):
        code, line = fail_train(capsys, *wrong)
        assert code == 2 and "--score_key" in line and "--distillation" in line
    code, line = fail_train(capsys, *flags, "--distillation=0.5", "--token_cache")
    assert code == 2 and "--token_cache" in line and "--score_key" in line


def test_print_config_and_config_are_a_round_trip(tmp_path: Path, capsys: Capture) -> None:
    def printed(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            run_train(*arguments, "--print_config")
        return capsys.readouterr().out

    first = printed("--batch_size=3", "--tied")
    assert yaml.safe_load(first)["batch_size"] == 3
    (tmp_path / "config.yaml").write_text(first)
    assert printed(f"--config={tmp_path / 'config.yaml'}") == first
