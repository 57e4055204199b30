"""Tests of the tokenizers of all families, with transformers as oracle. Ids must be equal in releases 4.57 and 5."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from test.transforms.families import FAMILIES, ODD_TEXTS, save_family
from text.errors import SettingsWarning, UnsupportedModelError
from text.transforms import Tokenize, encoder_settings, load_tokenizer, save_tokenizer

DEFAULT = ("mpnet", "qwen", "t5")  # One of WordPiece, BPE and Unigram.
each_family = pytest.mark.parametrize(
    "name", [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
PROMPTS = ("query: ", "Instruct: find\nQuery:", "Query:\n", "q", " ")


def tokenize(folder: Path, texts: list[Any]) -> list[list[int]]:
    batches = map(Tokenize(load_tokenizer(folder), 2_000), [[text] for text in texts])
    return [batch.input_ids[0].tolist() for batch in batches]


@each_family
def test_ids_equal_transformers(tmp_path: Path, name: str):
    folder = save_family(name, tmp_path / "first")
    theirs = AutoTokenizer.from_pretrained(folder)
    assert tokenize(folder, ODD_TEXTS) == [theirs(text).input_ids for text in ODD_TEXTS]
    # A title without tokens is left out, so such pairs differ from those of transformers.
    pairs = [(text, ODD_TEXTS[0]) for text in ODD_TEXTS if text.strip()]
    assert tokenize(folder, pairs) == [theirs(*pair).input_ids for pair in pairs]
    assert encoder_settings(load_tokenizer(folder))["pad_token_id"] == theirs.pad_token_id

    theirs.save_pretrained(tmp_path / "second")  # The class of transformers writes the parts that it builds.
    shutil.copy(folder / "config.json", tmp_path / "second")
    assert tokenize(tmp_path / "second", ODD_TEXTS) == tokenize(folder, ODD_TEXTS)


@each_family
def test_a_saved_tokenizer_equals_the_loaded_one_in_transformers(tmp_path: Path, name: str):
    folder = save_family(name, tmp_path / "first")
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    save_tokenizer(ours, tmp_path / "saved", max_length=33)
    shutil.copy(folder / "config.json", tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").to_str() == ours.to_str()

    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert [saved(text).input_ids for text in ODD_TEXTS] == [theirs(text).input_ids for text in ODD_TEXTS]
    assert (saved.pad_token, saved.model_max_length, len(saved)) == (theirs.pad_token, 33, len(theirs))
    if name != "mistral":  # Releases differ in the default side of this class.
        assert saved.padding_side == theirs.padding_side
    elif theirs.padding_side != saved.padding_side:
        assert (theirs.padding_side, saved.padding_side) == ("right", "left")


@each_family
def test_ids_in_place_of_texts_give_the_same_rows_with_any_prompt(tmp_path: Path, name: str):
    tokenizer = load_tokenizer(save_family(name, tmp_path))
    for prompt in PROMPTS:
        transform = Tokenize(tokenizer, 2_000, prompt)
        if not transform.takes_ids:
            continue
        for text in ODD_TEXTS:
            of_text, of_ids = transform([text]), transform(transform.encode([text]))
            assert of_ids.input_ids.equal(of_text.input_ids) and of_ids.empty.equal(of_text.empty), (prompt, text)


def test_a_tokenizer_that_does_not_split_words_takes_no_ids_after_a_prompt(tmp_path: Path):
    gemma = load_tokenizer(save_family("gemma", tmp_path))
    assert Tokenize(gemma, 20).takes_ids and not Tokenize(gemma, 20, "query:").takes_ids
    t5 = load_tokenizer(save_family("t5", tmp_path))
    assert Tokenize(t5, 20, "query: ").takes_ids and not Tokenize(t5, 20, "query:").takes_ids


def test_templates_of_decoders_by_hand(tmp_path: Path):
    qwen = load_tokenizer(save_family("qwen", tmp_path / "qwen"))
    words = qwen.encode("book", add_special_tokens=False).ids
    assert tokenize(tmp_path / "qwen", ["book", ("book", "book"), ""]) == [[*words, 0], [*words, 0, *words, 0], [0]]
    assert encoder_settings(qwen) == {"vocab_size": 400, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 0}

    edit_json(tmp_path / "qwen" / "tokenizer.json", lambda parts: parts.update(post_processor=None))
    assert tokenize(tmp_path / "qwen", [("book", "book")]) == [[*words, *words]]
    bare = encoder_settings(load_tokenizer(tmp_path / "qwen"))
    assert bare["bos_token_id"] is None and bare["eos_token_id"] is None


def test_an_ordinary_entry_of_the_vocabulary_is_not_saved_as_a_special_token(tmp_path: Path):
    folder = save_family("qwen", tmp_path / "first")
    edit_json(folder / "tokenizer.json", lambda parts: parts["model"]["vocab"].update({"</s>": 400}))
    ours = load_tokenizer(folder)
    save_tokenizer(ours, tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs("a </s> b").input_ids == ours.encode("a </s> b").ids
    assert 400 not in theirs("a </s> b").input_ids


# ---- classes and settings


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def change_model(**settings: Any) -> Callable[[Any], object]:
    return lambda parts: parts["model"].update(settings)


def drop_sentinel(parts: dict[str, Any]) -> None:
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] != "<extra_id_7>"]


def use_older_layout(parts: dict[str, Any]) -> None:
    prepend, replace = {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}}
    parts["normalizer"] = {"type": "Sequence", "normalizers": [prepend, replace | {"content": "▁"}]}
    parts["pre_tokenizer"] = None


def set_options(**options: Any) -> Callable[[Any], object]:
    return lambda config: config.update(options)


CONFIG, FILE = "tokenizer_config.json", "tokenizer.json"


@pytest.mark.parametrize(
    ("name", "file", "change", "field"),
    [
        ("gemma", CONFIG, set_options(add_eos_token=False), "add_eos_token"),
        ("gemma", CONFIG, lambda config: config.pop("add_eos_token"), "add_eos_token"),
        ("mistral", FILE, lambda parts: parts.update(post_processor=None), "post_processor"),
        ("gemma", FILE, lambda parts: parts.update(normalizer=None), "normalizer"),
        ("gemma", FILE, change_model(byte_fallback=False), "byte_fallback"),
        ("llama", FILE, use_older_layout, "normalizer"),
        ("llama", FILE, change_model(ignore_merges=True), "ignore_merges"),
        ("llama", CONFIG, set_options(legacy=True), "pre_tokenizer"),
        ("llama", CONFIG, set_options(add_bos_token=False), "add_bos_token"),
        ("qwen", FILE, lambda parts: parts.update(normalizer=None), "normalizer"),
        ("qwen", FILE, lambda parts: parts["pre_tokenizer"]["pretokenizers"].pop(0), "pre_tokenizer"),
        ("t5", FILE, drop_sentinel, "<extra_id_7>"),
        ("t5", FILE, lambda parts: parts.update(post_processor=None), "post_processor"),
        ("t5", FILE, lambda parts: parts["pre_tokenizer"]["pretokenizers"].pop(0), "pre_tokenizer"),
        ("albert", CONFIG, set_options(do_lower_case=False), "normalizer"),
        ("albert", CONFIG, set_options(keep_accents=True), "normalizer"),
        ("deberta", CONFIG, set_options(split_by_punct=True), "pre_tokenizer"),
        ("deberta", FILE, change_model(unk_id=0), "unk_id"),
        ("mpnet", CONFIG, set_options(tokenize_chinese_chars=False), "handle_chinese_chars"),
        ("mpnet", CONFIG, set_options(padding_side="left"), "padding_side"),
        ("qwen", CONFIG, set_options(truncation_side="left"), "truncation_side"),
        ("qwen", CONFIG, set_options(auto_map={"AutoTokenizer": ["mine.Tokenizer", None]}), "auto_map"),
        ("qwen", CONFIG, set_options(fix_mistral_regex=True), "fix_mistral_regex"),
        ("qwen", CONFIG, set_options(tokenizer_class="CodeGenTokenizer"), "CodeGenTokenizer"),
    ],
)
def test_a_file_that_releases_of_transformers_treat_differently_is_refused(
    tmp_path: Path, name: str, file: str, change: Callable[[Any], object], field: str
):
    folder = save_family(name, tmp_path)
    edit_json(folder / file, change)
    with pytest.raises(UnsupportedModelError) as caught:
        load_tokenizer(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}/tokenizer") and field in message and "\n" not in message


def test_the_generic_class_uses_any_file_as_it_is(tmp_path: Path):
    """The way out that the errors name."""
    folder = save_family("llama", tmp_path)
    edit_json(folder / FILE, use_older_layout)
    edit_json(folder / CONFIG, set_options(tokenizer_class="PreTrainedTokenizerFast"))
    theirs = AutoTokenizer.from_pretrained(folder)
    assert tokenize(folder, ODD_TEXTS) == [theirs(text).input_ids for text in ODD_TEXTS]


def test_an_unknown_fast_class_uses_the_file_as_it_is_with_a_warning(tmp_path: Path):
    folder = save_family("qwen", tmp_path)
    expected = tokenize(folder, ODD_TEXTS)
    edit_json(folder / CONFIG, set_options(tokenizer_class="OakTokenizerFast", pad_token="<|endoftext|>"))
    with pytest.warns(SettingsWarning, match=r"tokenizer_config\.json: tokenizer_class OakTokenizerFast"):
        assert tokenize(folder, ODD_TEXTS) == expected
    edit_json(folder / CONFIG, set_options(tokenizer_class="OakTokenizer"))
    with pytest.raises(UnsupportedModelError, match="OakTokenizer"):
        load_tokenizer(folder)


def test_a_model_type_decides_if_the_files_name_no_class(tmp_path: Path):
    for name in ("mpnet", "t5", "qwen"):
        folder = save_family(name, tmp_path / name)
        edit_json(folder / CONFIG, lambda config: config.pop("tokenizer_class"))
        theirs = AutoTokenizer.from_pretrained(folder)
        assert tokenize(folder, ODD_TEXTS) == [theirs(text).input_ids for text in ODD_TEXTS]
        assert encoder_settings(load_tokenizer(folder))["pad_token_id"] == theirs.pad_token_id


def test_a_qwen2_model_needs_the_parts_of_its_class_whatever_the_files_name(tmp_path: Path):
    """Release 5 of transformers loads Qwen2Tokenizer for this model type."""
    folder = save_family("llama-3", tmp_path)
    load_tokenizer(folder)
    edit_json(folder / "config.json", set_options(model_type="qwen2"))
    with pytest.raises(UnsupportedModelError, match="Qwen2Tokenizer"):
        load_tokenizer(folder)


def test_a_decoder_without_a_padding_token_is_refused_with_the_way_out(tmp_path: Path):
    folder = save_family("llama", tmp_path)
    edit_json(folder / CONFIG, lambda config: config.pop("pad_token"))
    with pytest.raises(UnsupportedModelError, match='"pad_token": "</s>"'):
        Tokenize(load_tokenizer(folder), 20)


def test_the_template_of_a_folder_that_release_5_saved_is_the_one_of_the_file(tmp_path: Path):
    """Release 5 saves ``backend``, but not ``add_eos_token``."""
    folder = save_family("gemma", tmp_path)
    expected = tokenize(folder, ODD_TEXTS)
    for option in ("add_bos_token", "add_eos_token"):
        edit_json(folder / CONFIG, lambda config, option=option: config.pop(option))
    edit_json(folder / CONFIG, set_options(backend="tokenizers"))
    assert tokenize(folder, ODD_TEXTS) == expected


def test_left_padding_is_kept_in_the_saved_folder_only(tmp_path: Path):
    tokenizer = load_tokenizer(save_family("qwen", tmp_path / "first"))
    batch = Tokenize(tokenizer, 20)(["a", "a book about retrieval"])
    assert batch.attention_mask[0].tolist() == sorted(batch.attention_mask[0].tolist(), reverse=True)
    save_tokenizer(tokenizer, tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / CONFIG).read_text())
    assert saved["padding_side"] == "left"
    assert Tokenizer.from_file(str(tmp_path / "saved" / FILE)).padding is None
