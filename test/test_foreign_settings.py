"""Settings of other libraries: each is listed, and has the same effect as there or is rejected by name."""

from __future__ import annotations

import base64
import importlib
import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from test.models.helpers import BERT, SIZES, randomize
from text.bundle import load_side
from text.commands.running import get_exit_code
from text.errors import ArtifactError, SettingsWarning, UnsupportedModelError
from text.foreign_settings import (
    DENSE,
    ENCODER,
    LAYER_NORM,
    MODULE,
    NORMALIZE,
    POOLING,
    SENTENCE_TRANSFORMERS,
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TOKENIZER_MODEL,
    TOKENIZER_OPTIONS,
    TRANSFORMER,
)
from text.models import RobertaEncoder
from text.records import Passage
from text.retrieval import Embedder
from text.transforms import load_tokenizer, save_tokenizer, train_tokenizer

if transformers.__version__ < "5":
    pytest.skip("earlier releases build tokenizers in another way", allow_module_level=True)
sentence_transformers = pytest.importorskip("sentence_transformers")
needs_release_6 = pytest.mark.skipif(sentence_transformers.__version__ < "6", reason="older sentence-transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz:,.ABCÉé北京", "the", "The", "##e"]
TEXTS = ["The Elm", "é É, éclair. " * 9, "北京 oak: ", "", " a B c", "oak [MASK] elm", "x" * 3]


# ---- every setting is listed


@pytest.mark.parametrize("kind", ["RobertaConfig", "XLMRobertaConfig", "BertConfig", "DPRConfig"])
def test_every_field_of_an_encoders_configuration_is_listed(kind: str):
    config = getattr(transformers, kind)
    fields = {*config().to_dict(), *inspect.signature(config.__init__).parameters}
    assert {name for name in fields if not name.startswith("_")} - ENCODER.keys() <= {"self", "args", "kwargs"}


@needs_release_6
def test_every_setting_of_sentence_transformers_is_listed():
    peer_modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")
    for kind, table in (
        ("Transformer", TRANSFORMER),
        ("Pooling", POOLING),
        ("Dense", DENSE),
        ("LayerNorm", LAYER_NORM),
        ("Normalize", NORMALIZE),
    ):
        assert set(getattr(peer_modules, kind).config_keys) <= table.keys(), kind
    arguments = inspect.signature(peer_modules.Transformer.__init__).parameters.keys()
    assert arguments - TRANSFORMER.keys() <= {"self", "model_name_or_path", "args", "kwargs"}
    model = SentenceTransformer(modules=[peer_modules.Normalize()], device="cpu")
    assert model._get_model_config().keys() <= SENTENCE_TRANSFORMERS.keys()
    assert {"idx", "name", "path", "type", "kwargs"} == MODULE.keys()


NOT_IN_FILES = {"tokenizer_object", "gguf_file", "vocab", "vocab_file", "merges", "merges_file", "post_processor"}
NOT_IN_FILES |= {
    "unk_id",
    "tokenizer_padding",
    "tokenizer_truncation",
    "tokenizer",
    "tokenizer_file",
    "fix_mistral_regex",
}
"""Arguments that transformers uses internally, and one for another family of models. They are not settings in files."""


@needs_release_6
def test_every_setting_of_a_tokenizer_is_listed():
    kinds = (transformers.BertTokenizer, transformers.RobertaTokenizer, transformers.XLMRobertaTokenizer)
    names = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    for kind in transformers.BertTokenizer.__mro__[1:-1]:
        if "__init__" in vars(kind):
            names |= set(re.findall(r'kwargs\.(?:pop|get|setdefault)\("(\w+)"', inspect.getsource(kind.__init__)))
    names = {name for name in names if not name.startswith("_")} - {"self", "args", "kwargs"}
    assert {"truncation_side", "do_lower_case", "add_prefix_space"} <= names
    assert names - TOKENIZER_OPTIONS.keys() <= NOT_IN_FILES
    assert SPECIAL_TOKENS_MAP.keys() >= set(transformers.BertTokenizer.SPECIAL_TOKENS_ATTRIBUTES)
    assert json.loads(Tokenizer(models.BPE()).to_str()).keys() == TOKENIZER.keys()
    kinds = (models.BPE(), models.WordPiece(), models.Unigram(), models.WordLevel({"a": 0}, "a"))
    assert {key for kind in kinds for key in json.loads(Tokenizer(kind).to_str())["model"]} == TOKENIZER_MODEL.keys()


def test_an_unknown_setting_causes_a_warning(folder: Path):
    edit_json(folder / "config.json", attention_to_detail=3)
    with pytest.warns(SettingsWarning, match=r"config\.json.*attention_to_detail"):
        RobertaEncoder.from_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", spells=True)
    with pytest.warns(SettingsWarning, match=r"tokenizer_config\.json.*spells"):
        load_tokenizer(folder)


# ---- every setting has the same effect as in the other library, or is rejected


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def save_bert_tokenizer(folder: Path, words: list[str] = WORDS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.txt").unlink()


def save_roberta_tokenizer(folder: Path) -> None:
    tokenizer = train_tokenizer(TEXTS * 3, SIZES["vocab_size"])
    save_tokenizer(tokenizer, folder)
    edit_json(folder / "tokenizer_config.json", tokenizer_class="RobertaTokenizer")


def save_xlm_roberta_tokenizer(folder: Path) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = sorted(set("".join(TEXTS)) - {" "})
    vocab = [*((token, 0.0) for token in special), *((letter, -3.0) for letter in ["▁", *letters]), ("▁oak", -2.0)]
    tokenizer = Tokenizer(models.Unigram([*vocab, ("<mask>", 0.0)], unk_id=3))
    split = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens([*special, "<mask>"])
    save_tokenizer(tokenizer, folder)
    edit_json(folder / "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")


KINDS = {
    "bert": (transformers.BertConfig, BERT, save_bert_tokenizer),
    "roberta": (transformers.RobertaConfig, SIZES, save_roberta_tokenizer),
    "xlm-roberta": (transformers.XLMRobertaConfig, SIZES, save_xlm_roberta_tokenizer),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save one encoder of each kind, with mean pooling, in the format of older releases of sentence-transformers."""
    saved = {}
    for kind, (config, sizes, save_tokenizer_files) in KINDS.items():
        folder = saved[kind] = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        encoder = transformers.AutoModel.from_config(config(**sizes))
        randomize(encoder)
        encoder.save_pretrained(folder)
        save_tokenizer_files(folder)
        (folder / "1_Pooling").mkdir()
        edit_json(folder / "1_Pooling" / "config.json", word_embedding_dimension=32, pooling_mode_mean_tokens=True)
        edit_json(folder / "config_sentence_transformers.json", similarity_fn_name="dot")
        edit_json(folder / "sentence_bert_config.json", max_seq_length=30)
        modules = {"": "Transformer", "1_Pooling": "Pooling"}
        listed = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in modules.items()]
        rows = [{"idx": number, "name": str(number), **module} for number, module in enumerate(listed)]
        (folder / "modules.json").write_text(json.dumps(rows))
    return saved


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    return copy_folder(folders, "bert", tmp_path)


def copy_folder(folders: dict[str, Path], kind: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders[kind], tmp_path / "copy"))


def embed_texts(folder: Path, texts: list[str] = TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    passages = [Passage("", "", text) for text in texts]
    (question_embeddings, _), (passage_embeddings, _) = (
        Embedder.from_pretrained(folder, side).embed_list(each)
        for side, each in (("question", texts), ("passage", passages))
    )
    return question_embeddings, passage_embeddings


def embed_with_peer(folder: Path, texts: list[str] = TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return torch.from_numpy(model.encode_query(texts)), torch.from_numpy(model.encode_document(texts))


def assert_equal_embeddings(folder: Path) -> torch.Tensor:
    expected, found = embed_with_peer(folder), embed_texts(folder)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    return expected[0]


@needs_release_6
@pytest.mark.parametrize("kind", KINDS)
def test_folders_give_the_same_embeddings(folders: dict[str, Path], kind: str):
    assert_equal_embeddings(folders[kind])


@needs_release_6
@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_texts_give_the_same_embeddings(folders: dict[str, Path], kind: str):
    """A RoBERTa does not count a padding token as a position, even if it is part of the text."""
    texts = ["a <pad> b", "<pad>", "a [PAD] b [CLS] c", "</s> a <s> b", "<mask> a", "a<unk>b [SEP]"]
    for one, other in zip(embed_texts(folders[kind], texts), embed_with_peer(folders[kind], texts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


TRUNCATION = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": "BatchLongest",
    "direction": "Right",
    "pad_to_multiple_of": 8,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "[PAD]",
}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
TWO_SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
EMPTY_TABLE = (1024).to_bytes(4, "little") + bytes(1025)  # A table of sentencepiece that changes no character.
TABLE = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(EMPTY_TABLE).decode()}
CHARACTERS = {"type": "Sequence", "normalizers": [TABLE, TWO_SPACES]}
LIKE_MASK = {"content": "[MASK]", "lstrip": True, "rstrip": True, "normalized": False, "special": True}
MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "special": True}
MOVED = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


@needs_release_6
@pytest.mark.parametrize(
    ("kind", "file", "changes"),
    [
        ("bert", "tokenizer_config.json", {"do_lower_case": False}),
        ("bert", "tokenizer_config.json", {"do_lower_case": False, "strip_accents": True}),
        ("bert", "tokenizer_config.json", {"strip_accents": False}),
        ("bert", "tokenizer_config.json", {"tokenize_chinese_chars": False}),
        ("bert", "tokenizer_config.json", {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}),
        ("bert", "tokenizer_config.json", {"cls_token": "a"}),
        ("bert", "tokenizer_config.json", {"sep_token": "b"}),
        ("bert", "tokenizer_config.json", {"added_tokens_decoder": {"19": MOVED | {"content": "o"}}}),
        ("bert", "tokenizer_config.json", {"extra_special_tokens": ["The"]}),
        ("bert", "special_tokens_map.json", {"sep_token": "b"}),
        ("bert", "added_tokens.json", {"o": 19}),
        ("bert", "sentence_bert_config.json", {"max_seq_length": 9}),
        ("bert", "sentence_bert_config.json", {"max_seq_length": None}),
        ("bert", "config.json", {"layer_norm_eps": 0.1}),
        ("bert", "config.json", {"hidden_act": "relu"}),
        ("bert", "config.json", {"is_decoder": True}),
        ("bert", "config_sentence_transformers.json", {"prompts": {"query": "the: "}}),
        ("bert", "1_Pooling/config.json", {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}),
        (
            "bert",
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": False, "pooling_mode_weightedmean_tokens": True},
        ),
        ("roberta", "tokenizer_config.json", {"add_prefix_space": True}),
        ("roberta", "tokenizer_config.json", {"cls_token": "</s>"}),
        ("roberta", "sentence_bert_config.json", {"do_lower_case": True}),
        ("roberta", "config.json", {"layer_norm_eps": 0.1}),
        ("xlm-roberta", "sentence_bert_config.json", {"do_lower_case": True}),
        ("xlm-roberta", "tokenizer_config.json", {"eos_token": "<mask>"}),
    ],
)
def test_a_setting_changes_embeddings_as_in_sentence_transformers(
    folders: dict[str, Path], tmp_path: Path, kind: str, file: str, changes: dict[str, Any]
):
    folder = copy_folder(folders, kind, tmp_path)
    before = embed_with_peer(folder)[0]
    edit_json(folder / file, **changes)
    assert not torch.allclose(assert_equal_embeddings(folder), before, atol=1e-3), "the setting has no effect"


@needs_release_6
@pytest.mark.parametrize(
    ("kind", "file", "changes"),
    [
        ("bert", "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "strip_accents": False}),
        ("bert", "tokenizer_config.json", {"clean_up_tokenization_spaces": True, "stride": 3, "max_length": 5}),
        ("bert", "tokenizer_config.json", {"added_tokens_decoder": {"4": LIKE_MASK | {"single_word": False}}}),
        ("bert", "tokenizer.json", {"padding": PADDING}),
        ("bert", "tokenizer_config.json", {"pad_to_multiple_of": 8, "truncation_strategy": "only_first"}),
        ("bert", "config.json", {"pad_token_id": None, "hidden_act": "gelu_python"}),
        ("bert", "config.json", {"bos_token_id": 7, "eos_token_id": 9, "use_cache": True, "pad_token_id": 5}),
        ("bert", "sentence_bert_config.json", {"do_lower_case": True}),
        (
            "bert",
            "tokenizer.json",
            {"truncation": TRUNCATION},
        ),
        ("roberta", "config.json", {"hidden_dropout_prob": 0.5, "chunk_size_feed_forward": 3, "bos_token_id": 9}),
        ("roberta", "tokenizer_config.json", {"trim_offsets": False, "errors": "strict"}),
        ("xlm-roberta", "tokenizer.json", {"post_processor": None}),
        ("xlm-roberta", "tokenizer.json", {"pre_tokenizer": METASPACE}),
        ("xlm-roberta", "tokenizer.json", {"normalizer": TWO_SPACES}),
        (
            "xlm-roberta",
            "tokenizer.json",
            {"normalizer": CHARACTERS},
        ),
    ],
)
def test_a_setting_without_effect_here_has_none_in_sentence_transformers(
    folders: dict[str, Path], tmp_path: Path, kind: str, file: str, changes: dict[str, Any]
):
    folder = copy_folder(folders, kind, tmp_path)
    before = embed_with_peer(folder)[0]
    edit_json(folder / file, **changes)
    torch.testing.assert_close(assert_equal_embeddings(folder), before, rtol=1e-5, atol=1e-5)


@needs_release_6
@pytest.mark.parametrize("name", ["BertTokenizer", "DPRQuestionEncoderTokenizer", "DPRContextEncoderTokenizer", None])
def test_do_lower_case_defaults_to_the_value_of_the_class(folder: Path, name: str | None):
    path = folder / "tokenizer_config.json"
    options = json.loads(path.read_text())
    del options["do_lower_case"], options["tokenizer_class"]
    path.write_text(json.dumps(options | ({} if name is None else {"tokenizer_class": name})))
    before = embed_texts(folder)[0]
    assert_equal_embeddings(folder)
    edit_json(path, do_lower_case=False)
    if name is not None and name.startswith("DPR"):  # This release ignores the setting, and others do not.
        with pytest.raises(UnsupportedModelError, match="do_lower_case"):
            load_tokenizer(folder)
    else:
        assert not torch.equal(assert_equal_embeddings(folder), before)


@pytest.mark.parametrize(
    ("kind", "file", "changes"),
    [
        ("bert", "tokenizer_config.json", {"truncation_side": "left"}),
        ("bert", "tokenizer_config.json", {"padding_side": "left"}),
        ("bert", "tokenizer_config.json", {"split_special_tokens": True}),
        ("bert", "tokenizer_config.json", {"model_input_names": ["input_ids"]}),
        ("bert", "tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}),
        ("bert", "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer"}),
        ("bert", "tokenizer_config.json", {"unk_token": "[MASK]"}),
        ("bert", "tokenizer.json", {"padding": PADDING | {"direction": "Left"}}),
        (
            "bert",
            "tokenizer.json",
            {"truncation": TRUNCATION | {"direction": "Left"}},
        ),
        ("bert", "config.json", {"position_embedding_type": "relative_key"}),
        ("bert", "config.json", {"pruned_heads": {"0": [1]}}),
        ("bert", "config.json", {"quantization_config": {"bits": 4}}),
        ("bert", "sentence_bert_config.json", {"document_length": 9}),
        ("bert", "sentence_bert_config.json", {"query_expansion": {"length": 9}}),
        ("bert", "config_sentence_transformers.json", {"model_type": "SparseEncoder"}),
        ("bert", "config_sentence_transformers.json", {"truncate_dim": 8}),
        ("xlm-roberta", "tokenizer_config.json", {"add_prefix_space": False}),
        ("xlm-roberta", "tokenizer.json", {"normalizer": {"type": "Lowercase"}}),
        ("xlm-roberta", "tokenizer.json", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}}),
        ("xlm-roberta", "tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}),
    ],
)
def test_an_unsupported_setting_is_rejected_by_file_and_name(
    folders: dict[str, Path], tmp_path: Path, kind: str, file: str, changes: dict[str, Any]
):
    message = get_error_message(folders, tmp_path, kind, file, changes, code=2)
    name = next(iter(changes))
    name = {"add_prefix_space": "prepend_scheme"}.get(name, name)
    assert name in message or (name == "tokenizer_class" and "RobertaTokenizer" in message)


@pytest.mark.parametrize(
    ("kind", "file", "changes"),
    [
        ("roberta", "config.json", {"pad_token_id": 3}),
        ("bert", "tokenizer_config.json", {"do_lower_case": "no"}),
        ("bert", "tokenizer_config.json", {"do_lower_case": 0}),
        ("bert", "tokenizer_config.json", {"strip_accents": 1}),
        ("bert", "tokenizer_config.json", {"tokenize_chinese_chars": 1.0}),
        ("bert", "tokenizer_config.json", {"additional_special_tokens": [5]}),
        ("bert", "tokenizer_config.json", {"additional_special_tokens": "the"}),
        ("bert", "special_tokens_map.json", {"extra_special_tokens": {"the": None}}),
        ("bert", "special_tokens_map.json", {"mask_token": 5}),
        ("bert", "tokenizer_config.json", {"cls_token": "[NEW]"}),
        ("bert", "tokenizer_config.json", {"added_tokens_decoder": {"3": MOVED | {"content": "o"}}}),
        ("bert", "config_sentence_transformers.json", {"default_prompt_name": "absent"}),
    ],
)
def test_an_invalid_setting_counts_as_damage(
    folders: dict[str, Path], tmp_path: Path, kind: str, file: str, changes: dict[str, Any]
):
    message = get_error_message(folders, tmp_path, kind, file, changes, code=5)
    name = next(iter(changes))
    assert name in message or (name == "added_tokens_decoder" and "token o" in message)


def get_error_message(
    folders: dict[str, Path], tmp_path: Path, kind: str, file: str, changes: dict[str, Any], *, code: int
) -> str:
    """Change settings of a folder, check that it does not load, and return the error message."""
    folder = copy_folder(folders, kind, tmp_path)
    edit_json(folder / file, **changes)
    with pytest.raises((ArtifactError, UnsupportedModelError)) as caught:
        load_side(folder, "question")
    message = str(caught.value)
    assert get_exit_code(caught.value) == code and str(folder) in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("roberta", {"dropout": 0.1}),
        ("roberta", {"end_of_word_suffix": "</w>"}),
        ("xlm-roberta", {"unk_id": 4}),
        ("xlm-roberta", {"byte_fallback": True}),
    ],
)
def test_a_tokenizer_model_that_transformers_does_not_build_is_rejected(folders, tmp_path: Path, kind: str, changes):
    path = copy_folder(folders, kind, tmp_path) / "tokenizer.json"
    edit_json(path, model={**json.loads(path.read_text())["model"], **changes})
    with pytest.raises(UnsupportedModelError, match=rf"{re.escape(str(path))}: model\.{next(iter(changes))}"):
        load_tokenizer(path.parent)


def test_dropout_is_rejected_for_every_class(folders: dict[str, Path], tmp_path: Path):
    path = copy_folder(folders, "roberta", tmp_path) / "tokenizer.json"
    edit_json(path.with_name("tokenizer_config.json"), tokenizer_class="PreTrainedTokenizerFast")
    edit_json(path, model={**json.loads(path.read_text())["model"], "dropout": 0.5})
    with pytest.raises(UnsupportedModelError, match="dropout"):
        load_tokenizer(path.rename(path.with_name("other.json")))


@needs_release_6
@pytest.mark.parametrize("changes", [{"unk_token": "b"}, {"ignore_merges": True}, {"dropout": 0.0}])
def test_other_options_of_a_bpe_have_no_effect(folders: dict[str, Path], tmp_path: Path, changes: dict[str, Any]):
    folder = copy_folder(folders, "roberta", tmp_path)
    path = folder / "tokenizer.json"
    edit_json(path, model={**json.loads(path.read_text())["model"], **changes})
    assert_equal_embeddings(folder)


@needs_release_6
@pytest.mark.parametrize(
    ("file", "settings", "spaces"),
    [
        ("tokenizer_config.json", {}, 2),
        ("tokenizer_config.json", {"added_tokens_decoder": {"4": MASK}}, 1),
        ("tokenizer_config.json", {"mask_token": MASK | {"__type": "AddedToken"}}, 1),
        ("special_tokens_map.json", {"mask_token": MASK}, 1),
    ],
)
def test_the_mask_token_strips_spaces_as_the_settings_state(
    folders: dict[str, Path], tmp_path: Path, file: str, settings: dict[str, Any], spaces: int
):
    Tokenizer.from_file(str(folders["roberta"] / "tokenizer.json")).model.save(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    edit_json(tmp_path / file, **settings)
    found = load_tokenizer(tmp_path).encode("a <mask> b").ids
    assert found == transformers.AutoTokenizer.from_pretrained(tmp_path)("a <mask> b").input_ids
    assert len(found) == 5 + spaces  # "a", "<mask>", "b", and a special token at each end.


def test_a_tokenizer_without_an_unknown_token_is_rejected_by_its_file(tmp_path: Path):
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "oak": 1, "b": 2}, "?"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ArtifactError, match=re.escape(str(tmp_path / "tokenizer.json"))):
        load_tokenizer(tmp_path)


# ---- prompts


@needs_release_6
@pytest.mark.parametrize(
    ("prompts", "question", "passage"),
    [
        ({"query": "the: ", "document": "a: "}, "the: ", "a: "),
        ({"query": "the: ", "document": "a: ", "passage": "b: ", "corpus": "c: "}, "the: ", "a: "),
        ({"query": "the: ", "document": ""}, "the: ", ""),
        ({"query": None, "document": None}, "", ""),
        ({"classification": "a: "}, "", ""),
    ],
)
def test_prompts_are_those_of_encode_query_and_encode_document(folder: Path, prompts, question, passage):
    edit_json(folder / "config_sentence_transformers.json", prompts=prompts)
    assert_equal_embeddings(folder)
    assert (load_side(folder, "question").prompt, load_side(folder, "passage").prompt) == (question, passage)


@needs_release_6
@pytest.mark.parametrize("name", ["passage", "corpus"])
def test_a_passage_prompt_under_another_name_is_used_with_a_warning(folder: Path, name: str):
    """Releases of sentence-transformers differ in whether encode_document uses this prompt."""
    edit_json(folder / "config_sentence_transformers.json", prompts={"query": "the: ", name: "a: "})
    with pytest.warns(SettingsWarning, match=name):
        found = embed_texts(folder)[1]
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    torch.testing.assert_close(found, torch.from_numpy(model.encode(TEXTS, prompt_name=name)), rtol=1e-5, atol=1e-5)


@needs_release_6
def test_the_default_prompt_is_not_used_and_causes_a_warning(folder: Path):
    edit_json(folder / "config_sentence_transformers.json", prompts={"x": "the: "}, default_prompt_name="x")
    with pytest.warns(SettingsWarning, match='"x"'):
        assert_equal_embeddings(folder)


@needs_release_6
@pytest.mark.parametrize("prompt", ["query: ", "Query:\n", "q", " "])
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_any_tokenizer_equal_sentence_transformers(folders: dict[str, Path], tmp_path: Path, kind, prompt):
    folder = copy_folder(folders, kind, tmp_path)
    edit_json(folder / "config_sentence_transformers.json", prompts={"query": prompt, "document": "passage: "})
    assert_equal_embeddings(folder)


# ---- limits


def test_a_plain_folder_uses_the_limit_of_its_tokenizer(folder: Path):
    (folder / "modules.json").unlink()
    edit_json(folder / "tokenizer_config.json", model_max_length=9)
    assert load_side(folder, "passage").max_length == 9
    edit_json(folder / "tokenizer_config.json", model_max_length=10**30)
    assert load_side(folder, "passage").max_length == BERT["max_position_embeddings"]


def test_the_tokenizer_is_read_from_the_folder_of_its_module(folder: Path):
    expected = embed_texts(folder)[0]
    (folder / "0_Transformer").mkdir()
    for path in [*folder.glob("tokenizer*.json"), folder / "config.json", folder / "model.safetensors"]:
        path.rename(folder / "0_Transformer" / path.name)
    (folder / "sentence_bert_config.json").rename(folder / "0_Transformer" / "sentence_bert_config.json")
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([listed[0] | {"path": "0_Transformer"}, *listed[1:]]))
    torch.testing.assert_close(embed_texts(folder)[0], expected)
