"""Rules for the settings in files of transformers, sentence-transformers and tokenizers.

A table has one rule for each setting of a file:

- a ``ValueCheck`` checks a setting that the readers in ``text/models`` and ``text/transforms`` use;
- ``Only`` lists the supported values;
- a text states why the setting does not change embeddings.

Unsupported values raise an error. Settings that are in no table cause a warning.
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
    """Supported values of a setting. A missing setting and null are also supported."""

    values: tuple[Any, ...]


class ValueCheck(NamedTuple):
    """Type and range of a setting. A missing setting and null are also valid."""

    description: str
    """Description of valid values, for error messages."""
    is_valid: Callable[[Any], bool]


def _build_integer_check(low: int, high: int = (1 << 31) - 1) -> ValueCheck:
    """Return the check for an integer in a range."""
    return ValueCheck(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _is_limit(value: Any) -> bool:
    """Return whether a value is a maximum number of tokens. 16.0 counts as 16."""
    return (type(value) is int or (type(value) is float and value.is_integer())) and value >= 1


def _is_token(value: Any) -> bool:
    return isinstance(value.get("content") if isinstance(value, dict) else value, str)


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list | dict) and all(map(_is_token, value.values() if isinstance(value, dict) else value))


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


READ = "The library tokenizers reads it."
_SIZE = _build_integer_check(1)
_ID = _build_integer_check(0)
_TEXT = ValueCheck("a text", lambda value: isinstance(value, str))
_TEXTS = ValueCheck("a list of texts", _is_text_list)
_LIMIT = ValueCheck("a positive whole number", _is_limit)
_SHARE = ValueCheck("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
_EPSILON = ValueCheck("a number above 0 and at most 0.1", lambda value: type(value) is float and 0 < value <= 0.1)
_TOKEN = ValueCheck("a token", _is_token)
_TOKENS = ValueCheck("a list of tokens", _is_token_list)
_SWITCH = ValueCheck("true or false", lambda value: type(value) is bool)
_TRAINING = "It affects training and initial weights only."
_GENERATION = "It affects text generation only."
_HEADS = "It affects heads only, which an encoder lacks."
_OUTPUT = "It affects the format of the output only."
_RECORD = "It describes the origin of the file."
_SPEED = "It affects speed or memory only."
_DECODING = "It affects decoding only."
_PADDING = "It affects padding only, and embeddings do not depend on padding."
_TRUNCATION = "Texts are always truncated to model_max_length, with the strategy longest_first."
_CHAT = "It affects chats only."

Rule = str | Only | ValueCheck
"""Rule for one setting. A text states why the setting does not change embeddings."""
Table = Mapping[str, Rule]
"""Rules by the name of the setting."""


def _repeat_rule(rule: Rule, names: str) -> dict[str, Rule]:
    """Return a table that gives the same rule to each of several settings."""
    return dict.fromkeys(names.split(), rule)


ENCODER: Table = {
    **_repeat_rule(_TEXT, "model_type tokenizer_class"),
    **_repeat_rule(_SIZE, "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size"),
    **_repeat_rule(_SIZE, "max_position_embeddings"),
    **_repeat_rule(_ID, "pad_token_id bos_token_id eos_token_id projection_dim"),
    **_repeat_rule(_SHARE, "hidden_dropout_prob attention_probs_dropout_prob"),
    "type_vocab_size": _build_integer_check(1, 1 << 10),
    "layer_norm_eps": _EPSILON,
    "hidden_act": Only(("gelu", "gelu_python")),  # Two names of one function.
    "position_embedding_type": Only(("absolute",)),
    "pruned_heads": Only(({},)),
    "quantization_config": Only(()),
    "auto_map": Only(()),
    **_repeat_rule(Only((False,)), "is_decoder is_causal is_encoder_decoder add_cross_attention"),
    **_repeat_rule(Only((False,)), "use_bfloat16 tie_encoder_decoder"),
    **_repeat_rule(_TRAINING, "initializer_range gradient_checkpointing tie_word_embeddings"),
    **_repeat_rule(
        _HEADS, "classifier_dropout id2label label2id num_labels problem_type finetuning_task task_specific_params"
    ),
    **_repeat_rule(_HEADS, "sentence_transformers sbert_ce_default_activation_function"),
    **_repeat_rule(_OUTPUT, "output_attentions output_hidden_states output_past return_dict"),
    **_repeat_rule(_RECORD, "architectures transformers_version adapters onnx_export directionality"),
    **_repeat_rule(
        _SPEED, "use_cache chunk_size_feed_forward torchscript attn_implementation experts_implementation xla_device"
    ),
    **_repeat_rule(
        "The ids come from the tokenizer.", "cls_token_id sep_token_id unk_token_id mask_token_id eos_token_ids"
    ),
    **_repeat_rule("The dtype is float32, or the one that --precision chooses.", "dtype torch_dtype"),
    **_repeat_rule("BERT's pooler, which no encoder here uses.", "pooler_fc_size pooler_num_attention_heads"),
    **_repeat_rule(
        "BERT's pooler, which no encoder here uses.", "pooler_num_fc_layers pooler_size_per_head pooler_type"
    ),
    **_repeat_rule(
        _GENERATION,
        "bad_words_ids begin_suppress_tokens cross_attention_hidden_size decoder_start_token_id diversity_penalty "
        "do_sample early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id "
        "forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams "
        "num_return_sequences output_scores prefix remove_invalid_values repetition_penalty return_dict_in_generate "
        "suppress_tokens temperature tf_legacy_loss top_k top_p typical_p",
    ),
}
"""Rules for ``config.json`` of RoBERTa, XLM-RoBERTa, BERT and DPR."""

TOWER: Table = {
    "quantization_config": Only(()),
    "pruned_heads": Only(({},)),
    "position_embedding_type": Only(("absolute",)),  # Releases of transformers differ in the other ones.
}
"""Rules for ``config.json`` of models that the library transformers loads. It reads all other settings."""

MODULE: Table = {
    **_repeat_rule(_TEXT, "path type"),
    **_repeat_rule("The order of the file decides.", "idx name"),
    "kwargs": Only(([],)),
}
"""Rules for an entry of ``modules.json``."""

SENTENCE_FILES = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "xlm-roberta"))
"""Possible names of the file with the settings of a transformer and its tokenizer in sentence-transformers."""
TRANSFORMER: Table = {
    "max_seq_length": _LIMIT,
    "do_lower_case": _SWITCH,
    "transformer_task": Only(("feature-extraction",)),
    "module_output_name": Only(("token_embeddings",)),
    "modality_config": Only(({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},)),
    "processing_kwargs": Only(({},)),
    **_repeat_rule(Only(()), "query_length document_length query_expansion tokenizer_name_or_path"),
    **_repeat_rule(Only(({},)), "model_args model_kwargs tokenizer_args processor_kwargs config_args config_kwargs"),
    **_repeat_rule(_SPEED, "unpad_inputs backend"),
    **_repeat_rule(_RECORD, "cache_dir"),
}
"""Rules for ``sentence_bert_config.json`` and the other ``SENTENCE_FILES``."""

POOLING: Table = {
    "pooling_mode": ValueCheck(
        "a text or a list of texts", lambda value: isinstance(value, str) or _is_text_list(value)
    ),
    **_repeat_rule(_SWITCH, "pooling_mode_cls_token pooling_mode_mean_tokens"),
    **_repeat_rule(_SWITCH, "pooling_mode_max_tokens pooling_mode_mean_sqrt_len_tokens"),
    **_repeat_rule(_SWITCH, "pooling_mode_weightedmean_tokens pooling_mode_lasttoken"),
    "include_prompt": _SWITCH,
    **_repeat_rule("The transformer decides the width.", "embedding_dimension word_embedding_dimension"),
}
_NAMES = {
    "module_input_name": Only(("sentence_embedding",)),
    "module_output_name": Only(("sentence_embedding",)),
}
DENSE: Table = {
    **_repeat_rule(_SIZE, "in_features out_features"),
    "bias": _SWITCH,
    "activation_function": _TEXT,
    "use_residual": Only((False,)),
    **_NAMES,
}
LAYER_NORM: Table = {"dimension": "The weights decide the width.", **_NAMES}
NORMALIZE: Table = _NAMES
"""Rules for ``config.json`` in the folder of a sentence-transformers module, here and above."""

SENTENCE_TRANSFORMERS: Table = {
    "prompts": ValueCheck(
        "an object with a text for each name",
        lambda value: isinstance(value, dict) and all(isinstance(each, str | None) for each in value.values()),
    ),
    **_repeat_rule(_TEXT, "default_prompt_name similarity_fn_name"),
    "model_type": Only(("SentenceTransformer",)),
    "truncate_dim": Only(()),
    **_repeat_rule(_RECORD, "__version__ requirements"),
}
"""Rules for ``config_sentence_transformers.json``."""

CROSS_ENCODER: Table = {
    **SENTENCE_TRANSFORMERS,
    "model_type": Only(("CrossEncoder",)),
    "activation_fn": _TEXT,
}
"""Rules for ``config_sentence_transformers.json`` of a cross-encoder."""
SENTENCE_CLASSIFIER: Table = {
    **TRANSFORMER,
    "transformer_task": Only(("sequence-classification",)),
    "module_output_name": Only(("scores",)),
    "modality_config": Only(({"text": {"method": "forward", "method_output_name": "logits"}},)),
}
"""Rules for ``sentence_bert_config.json`` of a cross-encoder."""

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
    **_repeat_rule(_TOKENS, "additional_special_tokens extra_special_tokens"),
}
"""Rules for ``special_tokens_map.json``."""

TOKENIZER_OPTIONS: Table = {
    **SPECIAL_TOKENS_MAP,
    "tokenizer_class": _TEXT,
    **_repeat_rule(_SWITCH, "do_lower_case strip_accents tokenize_chinese_chars add_prefix_space keep_accents"),
    **_repeat_rule(_SWITCH, "split_by_punct legacy add_bos_token add_eos_token"),
    **_repeat_rule(_ID, "extra_ids unk_id"),
    "added_tokens_decoder": ValueCheck(
        "an object with a token for each id",
        lambda value: isinstance(value, dict) and _is_token_list(list(value.values())),
    ),
    **_repeat_rule(_LIMIT, "model_max_length max_len"),
    "model_input_names": _TEXTS,
    "truncation_side": Only(("right",)),
    "padding_side": Only(("right", "left")),
    "fix_mistral_regex": Only((False,)),
    "split_special_tokens": Only((False,)),
    "do_basic_tokenize": Only((True,)),
    "never_split": Only(([],)),
    "wordpieces_prefix": Only(("##",)),
    "auto_map": Only(()),
    "backend": Only(("tokenizers",)),
    "init_inputs": Only(([],)),
    "model_specific_special_tokens": Only(({},)),
    "tokenizer_file": _RECORD,
    **_repeat_rule("No release of transformers applies it to a tokenizer.json.", "remove_space vocab_type"),
    **_repeat_rule(_DECODING, "clean_up_tokenization_spaces errors decode_with_prefix_space"),
    "spaces_between_special_tokens": _DECODING,
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": _DECODING,
    **_repeat_rule("It affects offsets only.", "trim_offsets"),
    **_repeat_rule(_TRUNCATION, "max_length stride truncation_strategy truncation"),
    **_repeat_rule(_PADDING, "padding pad_to_multiple_of pad_token_type_id"),
    "use_default_system_prompt": _CHAT,
    **_repeat_rule(_CHAT, "chat_template response_template response_schema chat_control_tokens"),
    **_repeat_rule(
        _RECORD, "name_or_path special_tokens_map_file is_local local_files_only files_loaded processor_class"
    ),
    **_repeat_rule(_RECORD, "full_tokenizer_file vocab_file merges_file from_slow use_fast verbose"),
    "sp_model_kwargs": "tokenizer.json contains a copy.",
}
"""Rules for ``tokenizer_config.json``."""

TOKENIZER: Table = {
    **_repeat_rule(READ, "added_tokens normalizer pre_tokenizer post_processor model"),
    **_repeat_rule(_TRUNCATION, "truncation"),
    "padding": READ,
    "decoder": _DECODING,
    "version": _RECORD,
}
"""Rules for ``tokenizer.json``."""

TOKENIZER_MODEL: Table = {
    **_repeat_rule(READ, "type vocab merges unk_token unk_id fuse_unk byte_fallback ignore_merges"),
    **_repeat_rule(READ, "continuing_subword_prefix end_of_word_suffix max_input_chars_per_word"),
    "dropout": Only((0.0,)),  # Otherwise the ids of a text would be random.
}
"""Rules for ``model`` in ``tokenizer.json``: BPE, WordPiece, Unigram or WordLevel."""


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
    """Return the path of the first file of ``SENTENCE_FILES`` in a folder, or None if there is none."""
    return next((folder / name for name in SENTENCE_FILES if os.path.lexists(folder / name)), None)


def read_optional_settings(path: Path, table: Table) -> dict[str, Any]:
    """Return the checked settings in a file that may be missing. A symbolic link to a missing file is an error."""
    return read_settings(path, table) if os.path.lexists(path) else {}


def read_setting(path: Path, table: Table, *names: str) -> Any:
    """Return the first of several settings that a file contains, checked against a table. Otherwise return None."""
    settings = read_json(path, dict[str, Any]) if os.path.lexists(path) else {}
    name = next((name for name in names if name in settings), None)
    if name is None:
        return None
    check_settings(path, {name: settings[name]}, table)
    return settings[name]


def check_settings(path: Path, settings: Mapping[str, Any], table: Table) -> None:
    """Check settings against a table, and warn about settings that the table lacks.

    Raises:
        ArtifactError: A setting has an invalid type or range.
        UnsupportedModelError: A setting has a value that is not supported.
    """
    for name, value in settings.items():
        rule = table.get(name)
        if isinstance(rule, ValueCheck) and value is not None and not rule.is_valid(value):
            raise ArtifactError(f"{path}: {name} is {_format_value(value)}. It must be {rule.description}.")
        if isinstance(rule, Only) and value is not None and not any(_is_same(value, each) for each in rule.values):
            supported = " or ".join(map(json.dumps, rule.values)) or "null"
            raise UnsupportedModelError.at(path, f"{name} is {_format_value(value)}. Only {supported} is supported.")
    if unknown := [name for name in settings if name not in table and not name.startswith("_")]:
        message = (
            f"unknown settings are ignored: {', '.join(unknown)}. Compare embeddings with those of the other library."
        )
        warnings.warn(f"{path}: {message}", SettingsWarning, stacklevel=3)


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the class and the folder of each module in the ``modules.json`` of sentence-transformers.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: The file is damaged, or a module is outside the folder.
    """
    path = folder / "modules.json"
    modules = []
    for module in read_json(path, list[dict[str, Any]]):
        check_settings(path, module, MODULE)
        if module.get("type") is None or module.get("path") is None:
            raise ArtifactError(f"{path}: a module has no type or no path. Each module needs both.")
        # A file may be a symbolic link, as in the cache of Hugging Face, but a path must not leave the folder.
        if os.path.isabs(module["path"]) or ".." in Path(module["path"]).parts or "\0" in module["path"]:
            raise ArtifactError(
                f"{path}: path is {_format_value(module['path'])}. It must be a folder inside the model."
            )
        modules.append((module["type"], folder / module["path"]))
    return modules


def _is_same(value: Any, other: Any) -> bool:
    """Return whether two values have the same type and are equal. In Python, 0 equals False."""
    return type(value) is type(other) and value == other


def _format_value(value: Any) -> str:
    """Return a value as JSON for an error message, truncated to 200 characters."""
    content = json.dumps(value)
    return content if len(content) <= 200 else f"{content[:200]}..."
