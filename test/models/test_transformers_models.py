"""Loading models of transformers: which library loads a folder, limits, and errors for unsafe and damaged folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from test.helpers import assert_one_line
from test.models.helpers import build_texts, randomize
from test.models.towers import build_peer, has_family, save_tower
from text.commands.running import get_exit_code
from text.errors import ArtifactError, SettingsWarning, UnsupportedModelError, UsageError
from text.models import RobertaEncoder, TransformersEncoder, build_bi_encoder, load_encoder, quantize_int8
from text.models.checkpoint import list_encoder_files

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tower("DistilBERT", tmp_path_factory.mktemp("towers") / "distilbert")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tower("BERT", tmp_path_factory.mktemp("towers") / "bert")


@pytest.fixture
def folder(distilbert: Path, tmp_path: Path) -> Path:
    """Return a copy of a folder that a test may change."""
    return Path(shutil.copytree(distilbert, tmp_path / "copy"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refuse(folder: Path, place: Path, *parts: str, code: int) -> None:
    """Check that a folder does not load, with one line that names the place and the parts."""
    with pytest.raises((ArtifactError, UnsupportedModelError)) as caught:
        load_encoder(folder)
    assert_one_line(caught.value, place, *parts)
    assert get_exit_code(caught.value) == code


# ---- which library loads a folder


def test_the_library_of_each_folder(bert: Path, distilbert: Path) -> None:
    assert isinstance(load_encoder(bert), RobertaEncoder)
    assert isinstance(load_encoder(distilbert), TransformersEncoder)
    assert isinstance(load_encoder(bert, pooling="max"), TransformersEncoder)
    forced, own = load_encoder(bert, library="transformers").eval(), load_encoder(bert).eval()
    assert isinstance(forced, TransformersEncoder)
    with torch.no_grad():
        torch.testing.assert_close(forced(*build_texts(1)), own(*build_texts(1)), rtol=1e-5, atol=1e-5)


def test_a_tower_of_a_bert_is_saved_as_a_bert(bert: Path, tmp_path: Path) -> None:
    forced = load_encoder(bert, library="transformers", pooling="mean", normalize=True).eval()
    forced.save_pretrained(tmp_path)
    again = load_encoder(tmp_path).eval()
    assert isinstance(again, RobertaEncoder)
    with torch.no_grad():
        torch.testing.assert_close(forced(*build_texts(1)), again(*build_texts(1)), rtol=1e-5, atol=1e-5)


def test_an_unknown_library_and_a_file_are_refused(bert: Path) -> None:
    with pytest.raises(UsageError, match="library"):
        load_encoder(bert, library="torch")
    with pytest.raises(UsageError, match="folders only"):
        load_encoder(bert / "model.safetensors", library="transformers")
    with pytest.raises(UsageError, match="layer_norm_eps"):
        load_encoder(bert, library="transformers", layer_norm_eps=0.1)


def test_random_weights_need_no_library() -> None:
    with pytest.raises(UsageError, match="--encoder_library=transformers"):
        build_bi_encoder("tiny", vocab_size=300, encoder_library="transformers")
    with pytest.raises(UsageError, match="--pooling=last"):
        build_bi_encoder("tiny", vocab_size=300, pooling="last")


# ---- options


def test_limits_of_the_families(tmp_path: Path, distilbert: Path) -> None:
    """The tokenizer states 128 tokens. T5 has no limit, and the positions of an MPNet begin at 2."""
    assert load_encoder(distilbert).max_length == 128
    assert load_encoder(distilbert, max_seq_length=None).max_length == 512
    for family, with_limit, without, most in (("T5", 128, 512, 1 << 17), ("MPNet", 128, 128, 128)):
        folder = save_tower(family, tmp_path / family)
        assert load_encoder(folder).max_length == with_limit
        edit_json(folder / "tokenizer_config.json", model_max_length=10**30)
        encoder = load_encoder(folder)
        assert (encoder.max_length, encoder.num_positions) == (without, most)


def test_default_poolings(tmp_path: Path, distilbert: Path) -> None:
    for family, pooling in (("Qwen3", "last"), ("T5", "mean")):
        encoder = load_encoder(save_tower(family, tmp_path / family))
        assert isinstance(encoder, TransformersEncoder) and encoder.head.poolings == (pooling,)
    encoder = load_encoder(distilbert)
    assert isinstance(encoder, TransformersEncoder) and encoder.head.poolings == ("first",)


def test_the_tokenizer_must_fit(distilbert: Path, tmp_path: Path) -> None:
    encoder = load_encoder(distilbert)
    encoder.fit_tokenizer(300, 0)  # Positions of a DistilBERT do not depend on the padding token.
    with pytest.raises(ValueError, match="301"):
        encoder.fit_tokenizer(301, 1)
    mpnet = load_encoder(save_tower("MPNet", tmp_path / "mpnet"))
    with pytest.raises(ValueError, match="pad_token_id is 1"):
        mpnet.fit_tokenizer(300, 0)


def test_options_that_a_tower_does_not_support_are_refused(distilbert: Path, tmp_path: Path) -> None:
    encoder = load_encoder(distilbert, projection_dim=8)
    with pytest.raises(UsageError, match="int8"):
        quantize_int8(encoder)
    with pytest.raises(UsageError, match="--compile"):
        encoder.compile_layers()
    encoder.save_pretrained(tmp_path)
    assert load_encoder(tmp_path, projection_dim=8).embedding_dim == 8
    with pytest.raises(UsageError, match="--projection_dim is 9"):
        load_encoder(tmp_path, projection_dim=9)
    with pytest.raises(UsageError, match="hidden_dropout_prob"):
        load_encoder(distilbert, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2)


def test_normalization_can_be_added_and_removed(distilbert: Path, tmp_path: Path) -> None:
    load_encoder(distilbert, projection_dim=8, normalize=True).save_pretrained(tmp_path)
    assert load_encoder(tmp_path).is_normalized and not load_encoder(tmp_path, normalize=False).is_normalized


# ---- files


def test_weights_in_several_files_load_and_are_listed(folder: Path) -> None:
    expected = load_encoder(folder).state_dict()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    weight_map = {key: names[number % 2] for number, key in enumerate(weights)}
    for name in names:
        kept = {key: each for key, each in weights.items() if weight_map[key] == name}
        save_file(kept, folder / name, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    found = load_encoder(folder).state_dict()
    assert all(torch.equal(each, found[name]) for name, each in expected.items())
    assert {*list_encoder_files(folder)} == {folder / "config.json", index, *(folder / name for name in names)}
    (folder / names[1]).unlink()
    with pytest.raises(FileNotFoundError, match=names[1]):
        load_encoder(folder)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(weight_map, "../x.safetensors")}))
    refuse(folder, index, "weight_map", code=5)


def test_heads_are_ignored(tmp_path: Path) -> None:
    import transformers

    peer = build_peer("DistilBERT")
    model = transformers.DistilBertForMaskedLM(peer.config)
    model.distilbert.load_state_dict(peer.state_dict())
    model.save_pretrained(tmp_path / "masked")
    encoder = load_encoder(tmp_path / "masked")
    found = {name.removeprefix("model."): each for name, each in encoder.state_dict().items()}
    assert all(torch.equal(each, found[name]) for name, each in peer.state_dict().items())


def test_pickles_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refuse(folder, folder / "pytorch_model.bin", "safetensors", code=2)


def test_missing_unknown_and_damaged_weights_are_refused(folder: Path, distilbert: Path) -> None:
    def restore() -> None:
        shutil.copy(distilbert / "model.safetensors", folder)

    key = "transformer.layer.1.ffn.lin1.weight"
    edit_weights(folder, lambda weights: weights.pop(key))
    refuse(folder, folder, key, "missing", code=5)
    restore()
    edit_weights(folder, lambda weights: weights.update({"transformer.layer.2.ffn.lin1.weight": weights[key].clone()}))
    refuse(folder, folder, "transformer.layer.2.ffn.lin1.weight", "unknown", code=5)
    restore()
    edit_weights(folder, lambda weights: weights[key].fill_(torch.nan))
    refuse(folder, folder, key, "NaN", code=5)
    restore()
    edit_weights(folder, lambda weights: weights.update({key: weights[key][:4].clone()}))
    refuse(folder, folder, key, "shape", code=5)
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    refuse(folder, folder / "model.safetensors", "header", code=5)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("changes", "part", "code"),
    [
        ({"model_type": "mine", "auto_map": {"AutoModel": "mine.Model"}}, "never executed", 2),
        ({"model_type": None}, "model_type", 5),
        ({"model_type": "vit"}, "model_type", 2),
        ({"model_type": "clip"}, "model_type", 2),
        ({"model_type": "bart"}, "model_type", 2),
        ({"quantization_config": {"bits": 4}}, "quantization_config", 2),
        ({"vocab_size": 1 << 40}, "vocab_size", 5),
        ({"n_layers": 1 << 30}, "num_hidden_layers", 5),
    ],
)
def test_unsupported_configurations_are_refused(folder: Path, changes: dict[str, Any], part: str, code: int) -> None:
    edit_json(folder / "config.json", **changes)
    refuse(folder, folder / "config.json", part, code=code)


@pytest.mark.parametrize("family", ["distilbert", "bert"])
def test_an_adapter_is_refused(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """AutoModel adds it to the weights beside it, so ignoring it would give other embeddings."""
    folder = Path(shutil.copytree(request.getfixturevalue(family), tmp_path / "copy"))
    (folder / "adapter_config.json").write_text("{}")
    refuse(folder, folder, "adapter", code=2)
    (folder / "config.json").unlink()  # The folder of an adapter alone.
    refuse(folder, folder, "adapter", code=2)


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("FNetConfig", {}, "supported.md"),  # Its forward pass takes no attention mask in transformers 4.
        ("ConvBertConfig", {"embedding_size": 16, "num_attention_heads": 2}, "padding changes"),
    ],
)
def test_models_in_which_padding_changes_embeddings_are_refused(
    name: str, settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 8}
    model = transformers.AutoModel.from_config(getattr(transformers, name)(**sizes, **settings))
    randomize(model)
    model.save_pretrained(tmp_path)
    refuse(tmp_path, tmp_path, reason, code=2)


def test_a_bert_that_is_a_decoder_pools_the_last_token(bert: Path, tmp_path: Path) -> None:
    """Its first token sees no other token, so that all texts would have the same embedding."""
    folder = Path(shutil.copytree(bert, tmp_path / "copy"))
    edit_json(folder / "config.json", is_decoder=True)
    encoder = load_encoder(folder).eval()
    assert isinstance(encoder, TransformersEncoder) and encoder.head.poolings == ("last",)


def test_a_sharded_bert_of_sentence_transformers_loads(bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "copy"))
    model = transformers.AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    types = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in types.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    with torch.no_grad():
        expected = load_encoder(bert, pooling="mean").eval()(*build_texts(1))
        torch.testing.assert_close(load_encoder(folder).eval()(*build_texts(1)), expected)


def test_code_in_a_folder_is_not_executed(folder: Path, tmp_path: Path) -> None:
    """AutoModel has the class. The code may differ from it, so a warning names the code."""
    (folder / "mine.py").write_text("raise SystemExit('executed')")
    edit_json(folder / "config.json", auto_map={"AutoModel": "mine.Model", "AutoConfig": "mine.Config"})
    with pytest.warns(SettingsWarning, match=r"mine\.Model"):
        encoder = load_encoder(folder)
    assert isinstance(encoder, TransformersEncoder)
    encoder.save_pretrained(tmp_path / "saved")
    assert "auto_map" not in (tmp_path / "saved" / "config.json").read_text()


def test_loading_and_saving_print_nothing(distilbert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    load_encoder(distilbert).save_pretrained(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.glob(".dpr-text*"))
    assert str(distilbert) not in (tmp_path / "config.json").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not has_family("GTE"), reason="this transformers has no GTE")
def test_embeddings_of_a_saved_model_survive_a_change_of_process(tmp_path: Path) -> None:
    folder = save_tower("GTE", tmp_path / "gte")
    encoder = load_encoder(folder).eval()
    encoder.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(encoder(*build_texts(1)), load_encoder(tmp_path / "saved").eval()(*build_texts(1)))
