"""The settings in files of transformers, sentence-transformers and tokenizers, and what this library does with each.

A table has a line for each setting of a kind of file. A ``Kind`` says what a setting must be that the readers in
``text/models`` and ``text/transforms`` use. ``Only`` lists the values that an encoder of this library can have. A text
says why the setting does not change an embedding. Other values are refused, and settings that no table knows are named.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from text.artifacts import read_json
from text.errors import ArtifactError, SettingsWarning, UnsupportedModelError


class Only(NamedTuple):
    """Values of a setting that are supported. A missing setting and null are supported too."""

    values: tuple[Any, ...]


class Kind(NamedTuple):
    """Type and range of a setting. A missing setting and null are supported too."""

    name: str
    holds: Callable[[Any], bool]


def _whole(low: int, high: int = (1 << 31) - 1) -> Kind:
    return Kind(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _is_limit(value: Any) -> bool:
    """Return whether a value is a maximum number of tokens. 16.0 is 16."""
    return (type(value) is int or (type(value) is float and value.is_integer())) and value >= 1


def _is_token(value: Any) -> bool:
    return isinstance(value.get("content") if isinstance(value, dict) else value, str)


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list | dict) and all(map(_is_token, value.values() if isinstance(value, dict) else value))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


READ = "It is read, by the library whose file it is."
_SIZE = _whole(1)
_ID = _whole(0)
_TEXT = Kind("a text", lambda value: isinstance(value, str))
_TEXTS = Kind("a list of texts", _are_texts)
_LIMIT = Kind("a positive whole number", _is_limit)
_SHARE = Kind("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
_EPSILON = Kind("a number above 0 and at most 0.1", lambda value: type(value) is float and 0 < value <= 0.1)
_TOKEN = Kind("a token", _is_token)
_TOKENS = Kind("a list of tokens", _are_tokens)
_SWITCH = Kind("true or false", lambda value: type(value) is bool)
_TRAINING = "It is about training, or about the first weights."
_GENERATION = "It is about generating text."
_HEADS = "It is about heads, which an encoder does not have."
_OUTPUT = "It is about the form of the output."
_RECORD = "It is a record of how the file came to be."
_SPEED = "It is about speed or memory."
_DECODING = "It is about turning ids into text."
_PADDING = "It is about padding, which an embedding does not depend on."
_OWN_CUT = "Texts are cut by longest_first to model_max_length, whatever it says."
_CHAT = "It is about chats."

Rule = str | Only | Kind
Table = Mapping[str, Rule]


def _same(reason: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), reason)


ENCODER: Table = {
    **_same(_TEXT, "model_type tokenizer_class"),
    **_same(_SIZE, "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size"),
    **_same(_SIZE, "max_position_embeddings"),
    **_same(_ID, "pad_token_id bos_token_id eos_token_id projection_dim"),
    **_same(_SHARE, "hidden_dropout_prob attention_probs_dropout_prob"),
    "type_vocab_size": _whole(1, 1 << 10),
    "layer_norm_eps": _EPSILON,
    "hidden_act": Only(("gelu", "gelu_python")),  # one function
    "position_embedding_type": Only(("absolute",)),
    "pruned_heads": Only(({},)),
    "quantization_config": Only(()),
    "auto_map": Only(()),
    **_same(Only((False,)), "is_decoder is_causal is_encoder_decoder add_cross_attention"),
    **_same(Only((False,)), "use_bfloat16 tie_encoder_decoder"),
    **_same(_TRAINING, "initializer_range gradient_checkpointing tie_word_embeddings"),
    **_same(
        _HEADS, "classifier_dropout id2label label2id num_labels problem_type finetuning_task task_specific_params"
    ),
    **_same(_OUTPUT, "output_attentions output_hidden_states output_past return_dict"),
    **_same(_RECORD, "architectures transformers_version adapters onnx_export directionality"),
    **_same(
        _SPEED, "use_cache chunk_size_feed_forward torchscript attn_implementation experts_implementation xla_device"
    ),
    **_same("The tokenizer has its own.", "cls_token_id sep_token_id unk_token_id mask_token_id eos_token_ids"),
    **_same("Embeddings are computed in float32, or as --precision says.", "dtype torch_dtype"),
    **_same("BERT's pooler, which no encoder here uses.", "pooler_fc_size pooler_num_attention_heads"),
    **_same("BERT's pooler, which no encoder here uses.", "pooler_num_fc_layers pooler_size_per_head pooler_type"),
    **_same(
        _GENERATION,
        "bad_words_ids begin_suppress_tokens cross_attention_hidden_size decoder_start_token_id diversity_penalty "
        "do_sample early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id "
        "forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams "
        "num_return_sequences output_scores prefix remove_invalid_values repetition_penalty return_dict_in_generate "
        "suppress_tokens temperature tf_legacy_loss top_k top_p typical_p",
    ),
}
"""``config.json`` of RoBERTa, XLM-RoBERTa, BERT and DPR."""

MODULE: Table = {
    **_same(_TEXT, "path type"),
    **_same("The order in the file counts.", "idx name"),
    "kwargs": Only(([],)),
}
"""One entry of ``modules.json``."""

SENTENCE_FILES = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "xlm-roberta"))
"""Names of the file that sentence-transformers has for a transformer and its tokenizer."""
TRANSFORMER: Table = {
    "max_seq_length": _LIMIT,
    "do_lower_case": _SWITCH,
    "transformer_task": Only(("feature-extraction",)),
    "module_output_name": Only(("token_embeddings",)),
    "modality_config": Only(({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},)),
    "processing_kwargs": Only(({},)),
    **_same(Only(()), "query_length document_length query_expansion tokenizer_name_or_path"),
    **_same(Only(({},)), "model_args model_kwargs tokenizer_args processor_kwargs config_args config_kwargs"),
    **_same(_SPEED, "unpad_inputs backend"),
    **_same(_RECORD, "cache_dir"),
}
"""``sentence_bert_config.json``, or another one of ``SENTENCE_FILES``."""

POOLING: Table = {
    "pooling_mode": Kind("a text or a list of texts", lambda value: isinstance(value, str) or _are_texts(value)),
    **_same(_SWITCH, "pooling_mode_cls_token pooling_mode_mean_tokens"),
    **_same(_SWITCH, "pooling_mode_max_tokens pooling_mode_mean_sqrt_len_tokens"),
    **_same(_SWITCH, "pooling_mode_weightedmean_tokens pooling_mode_lasttoken"),
    "include_prompt": Only((True,)),
    **_same("The transformer decides the width.", "embedding_dimension word_embedding_dimension"),
}
_NAMES = {
    "module_input_name": Only(("sentence_embedding",)),
    "module_output_name": Only(("sentence_embedding",)),
}
DENSE: Table = {
    **_same(_SIZE, "in_features out_features"),
    "bias": _SWITCH,
    "activation_function": _TEXT,
    "use_residual": Only((False,)),
    **_NAMES,
}
LAYER_NORM: Table = {"dimension": "The weights decide the width.", **_NAMES}
NORMALIZE: Table = _NAMES
"""``config.json`` in the folder of a module of sentence-transformers."""

SENTENCE_TRANSFORMERS: Table = {
    "prompts": Kind(
        "an object of texts by name",
        lambda value: isinstance(value, dict) and all(isinstance(each, str | None) for each in value.values()),
    ),
    **_same(_TEXT, "default_prompt_name similarity_fn_name"),
    "model_type": Only(("SentenceTransformer",)),
    "truncate_dim": Only(()),
    **_same(_RECORD, "__version__ requirements"),
}
"""``config_sentence_transformers.json``."""

SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
SPECIAL_TOKENS_MAP: Table = {
    **dict.fromkeys(SPECIAL_TOKENS, _TOKEN),
    **_same(_TOKENS, "additional_special_tokens extra_special_tokens"),
}
"""``special_tokens_map.json``."""

TOKENIZER_OPTIONS: Table = {
    **SPECIAL_TOKENS_MAP,
    "tokenizer_class": _TEXT,
    **_same(_SWITCH, "do_lower_case strip_accents tokenize_chinese_chars add_prefix_space"),
    "added_tokens_decoder": Kind(
        "an object of tokens by id", lambda value: isinstance(value, dict) and _are_tokens(list(value.values()))
    ),
    **_same(_LIMIT, "model_max_length max_len"),
    "model_input_names": _TEXTS,
    "truncation_side": Only(("right",)),
    "padding_side": Only(("right",)),
    "split_special_tokens": Only((False,)),
    "do_basic_tokenize": Only((True,)),
    "never_split": Only(([],)),
    "wordpieces_prefix": Only(("##",)),
    "auto_map": Only(()),
    "backend": Only(("tokenizers",)),
    "init_inputs": Only(([],)),
    "model_specific_special_tokens": Only(({},)),
    "tokenizer_file": _RECORD,
    **_same("tokenizer.json, or the template of the class, counts.", "add_bos_token add_eos_token"),
    **_same(_DECODING, "clean_up_tokenization_spaces errors decode_with_prefix_space"),
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": _DECODING,
    **_same("It is about offsets.", "trim_offsets"),
    **_same(_OWN_CUT, "max_length stride truncation_strategy truncation"),
    **_same(_PADDING, "padding pad_to_multiple_of pad_token_type_id"),
    **_same(_CHAT, "chat_template response_template response_schema chat_control_tokens"),
    **_same(_RECORD, "name_or_path special_tokens_map_file is_local local_files_only files_loaded processor_class"),
    **_same(_RECORD, "full_tokenizer_file vocab_file merges_file from_slow use_fast legacy verbose"),
    "sp_model_kwargs": "tokenizer.json has its own copy.",
}
"""``tokenizer_config.json``."""

TOKENIZER: Table = {
    **_same(READ, "added_tokens normalizer pre_tokenizer post_processor model"),
    **_same(_OWN_CUT, "truncation"),
    "padding": READ,
    "decoder": _DECODING,
    "version": _RECORD,
}
"""``tokenizer.json``."""

TOKENIZER_MODEL: Table = {
    **_same(READ, "type vocab merges unk_token unk_id fuse_unk byte_fallback ignore_merges"),
    **_same(READ, "continuing_subword_prefix end_of_word_suffix max_input_chars_per_word"),
    "dropout": Only((0.0,)),  # else a text has other ids each time
}
"""``model`` in ``tokenizer.json``: BPE, WordPiece, Unigram or WordLevel. A class of transformers can have its own."""


def read_settings(path: Path, table: Table) -> dict[str, Any]:
    """Return the settings in a file of another library, checked against a table.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: The file is damaged.
        UnsupportedModelError: A setting has a value that is not supported.
    """
    settings = read_json(path, dict[str, Any])
    check_settings(path, settings, table)
    return settings


def find_sentence_file(folder: Path) -> Path | None:
    """Return the file of sentence-transformers with the settings of its transformer, or None if there is none."""
    return next((folder / name for name in SENTENCE_FILES if os.path.lexists(folder / name)), None)


def read_optional_settings(path: Path, table: Table) -> dict[str, Any]:
    """Return the same, or no settings if there is no such file. A symbolic link to a missing file is an error."""
    return read_settings(path, table) if os.path.lexists(path) else {}


def read_setting(path: Path, table: Table, *names: str) -> Any:
    """Return the first setting of these names in a file that may be missing, checked against a table; or None."""
    settings = read_json(path, dict[str, Any]) if os.path.lexists(path) else {}
    name = next((name for name in names if name in settings), None)
    if name is None:
        return None
    check_settings(path, {name: settings[name]}, table)
    return settings[name]


def check_settings(path: Path, settings: Mapping[str, Any], table: Table) -> None:
    """Refuse settings with values that are not supported, and warn of settings that the table lacks.

    Raises:
        ArtifactError: A setting has a value that no library would write.
        UnsupportedModelError: A setting has a value that is not supported.
    """
    for name, value in settings.items():
        rule = table.get(name)
        if isinstance(rule, Kind) and value is not None and not rule.holds(value):
            raise ArtifactError(f"{path}: {name} is {_show(value)}. It must be {rule.name}.")
        if isinstance(rule, Only) and value is not None and not any(_is_same(value, each) for each in rule.values):
            supported = " or ".join(map(json.dumps, rule.values)) or "null"
            raise UnsupportedModelError.at(path, f"{name} is {_show(value)}. Only {supported} is supported.")
    if unknown := [name for name in settings if name not in table and not name.startswith("_")]:
        message = f"nothing is known of {', '.join(unknown)}. It is ignored: compare embeddings."
        warnings.warn(f"{path}: {message}", SettingsWarning, stacklevel=3)


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the class and the folder of each module that ``modules.json`` of sentence-transformers lists.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It is damaged, or a module lies outside the folder.
    """
    path = folder / "modules.json"
    modules = []
    for module in read_json(path, list[dict[str, Any]]):
        check_settings(path, module, MODULE)
        if module.get("type") is None or module.get("path") is None:
            raise ArtifactError(f"{path}: a module has no type or no path. It must have both.")
        # A file may be a symbolic link, as in the cache of Hugging Face. A path that leads out is no part of a model.
        if os.path.isabs(module["path"]) or ".." in Path(module["path"]).parts or "\0" in module["path"]:
            raise ArtifactError(f"{path}: path is {_show(module['path'])}. It must be a folder in the same folder.")
        modules.append((module["type"], folder / module["path"]))
    return modules


def _is_same(value: Any, other: Any) -> bool:
    """Return whether two values are equal and of one type. In Python 0 equals False."""
    return type(value) is type(other) and value == other


def _show(value: Any) -> str:
    """Return a value for an error, cut to a length that a terminal can show."""
    content = json.dumps(value)
    return content if len(content) <= 200 else f"{content[:200]}..."
