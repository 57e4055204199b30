"""The settings that stand beside a tokenizer's file, applied as transformers and sentence-transformers apply them.

``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json`` and ``sentence_bert_config.json`` can
change what a ``tokenizer.json`` does. Which class of transformers reads the files decides which of the settings count:
``BertTokenizer`` builds the normalizer anew, ``PreTrainedTokenizerFast`` takes ``tokenizer.json`` as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers

from text.artifacts import read_json
from text.errors import ArtifactError, UnsupportedModelError
from text.foreign_settings import (
    ENCODER,
    SPECIAL_TOKENS,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_OPTIONS,
    TRANSFORMER,
    find_sentence_file,
    read_optional_settings,
    read_setting,
)
from text.transforms.tokenizer_classes import (
    BERT,
    CLASS_OF_MODEL,
    FORCE_HINT,
    GENERIC_CLASSES,
    ROBERTA,
    XLM_ROBERTA,
    apply_class,
    get_token_content,
    get_tokenizer_parts,
)

PADDING_TOKENS = ("<pad>", "[PAD]")
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word")


def read_options(folder: Path) -> dict[str, Any]:
    """Return what the files beside a tokenizer say, special tokens included.

    Raises:
        ArtifactError: A file is damaged.
        UnsupportedModelError: A setting has a value that is not supported.
    """
    path = folder / "tokenizer_config.json"
    options = _without_null(read_optional_settings(path, TOKENIZER_OPTIONS))
    if "attention_mask" not in options.get("model_input_names", ["attention_mask"]):
        reason = "model_input_names lacks attention_mask. Padding would be part of the texts."
        raise UnsupportedModelError.at(path, reason)
    if "added_tokens_decoder" not in options:  # as transformers decides whether to read the older files
        older = folder / "special_tokens_map.json"
        options |= _without_null(read_optional_settings(older, SPECIAL_TOKENS_MAP))
        added = folder / "added_tokens.json"
        options["added_tokens"] = read_json(added, dict[str, int]) if os.path.lexists(added) else {}
    return options


def _without_null(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def list_setting_files(folder: Path) -> list[Path]:
    """Return the files beside a tokenizer that transformers reads with it."""
    decoder = read_setting(folder / "tokenizer_config.json", TOKENIZER_OPTIONS, "added_tokens_decoder")
    older = () if decoder is not None else ("special_tokens_map.json", "added_tokens.json")
    names = ("config.json", "tokenizer_config.json", *older)
    return [path for path in (folder / name for name in names) if path.is_file()]


def apply_settings(tokenizer: Tokenizer, folder: Path) -> None:
    """Make a ``tokenizer.json`` give the ids that transformers gives with the files beside it.

    Raises:
        ArtifactError: A file is damaged, or contradicts ``tokenizer.json``.
        UnsupportedModelError: A setting has a value that is not supported.
    """
    options = read_options(folder)
    _check_sides(tokenizer, folder, options)
    _forget_lengths(tokenizer)
    name = find_class_name(folder, options)
    apply_class(tokenizer, folder, options, name)
    _add_tokens(tokenizer, folder, options)
    default = "[PAD]" if name in BERT else "<pad>" if name in (ROBERTA, XLM_ROBERTA) else ""
    _choose_padding(tokenizer, options, default)


def apply_token_settings(tokenizer: Tokenizer, folder: Path, names: Mapping[str, str]) -> Tokenizer:
    """Return a tokenizer of a vocabulary with the flags of its tokens that the files beside it state.

    Raises:
        UnsupportedModelError: There are more or other tokens in them, or a space goes before each text.
    """
    options = read_options(folder)
    tokens, special = read_added_tokens(folder, options), read_special_tokens(options)
    more = [token for i, token in tokens.items() if tokenizer.token_to_id(token.content) != i]
    more += [token for name, token in special.items() if token.content != names.get(name, token.content)]
    if more or options.get("add_prefix_space", False):
        found = f"token {more[0].content} beside the vocabulary" if more else "add_prefix_space is true"
        reason = f"{found}. Save it with transformers, which writes a tokenizer.json."
        raise UnsupportedModelError.at(folder, reason)
    tokenizer.add_tokens([*special.values(), *tokens.values()])
    return tokenizer


def apply_lower_casing(tokenizer: Tokenizer, folder: Path) -> None:
    """Put ``do_lower_case`` of sentence-transformers before what the tokenizer itself does to a text."""
    path = find_sentence_file(folder)
    if path is None or not read_setting(path, TRANSFORMER, "do_lower_case"):
        return
    normalizer = get_tokenizer_parts(tokenizer)["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    if not any(step.get("type") == "Lowercase" for step in steps):
        before = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])


def find_class_name(folder: Path, options: dict[str, Any]) -> str:
    """Return the class by which transformers reads the files; "" if nothing says which.

    Raises:
        UnsupportedModelError: It is none that this library knows.
    """
    path = folder / "config.json"
    stated = options.get("tokenizer_class", read_setting(path, ENCODER, "tokenizer_class"))
    name = stated if stated is not None else CLASS_OF_MODEL.get(read_setting(path, ENCODER, "model_type"), "")
    name = name if name in GENERIC_CLASSES else name.removesuffix("Fast")
    if name not in ("", *BERT, ROBERTA, XLM_ROBERTA, *GENERIC_CLASSES):
        reason = f"tokenizer_class {name} is not supported. {FORCE_HINT}"
        raise UnsupportedModelError.at(folder / "tokenizer_config.json", reason)
    return name


def _add_tokens(tokenizer: Tokenizer, folder: Path, options: dict[str, Any]) -> None:
    """Add the tokens that are stated beside the tokenizer and that it lacks, or has with other flags.

    Raises:
        ArtifactError: A token is not described as transformers does, or would get another id than the stated one.
    """
    has = tokenizer.get_added_tokens_decoder()
    stated = {
        i: token for i, token in read_added_tokens(folder, options).items() if "added_tokens" not in options or i not in has
    }
    known = {repr(token) for token in has.values()}
    tokenizer.add_tokens([token for _, token in sorted(stated.items()) if repr(token) not in known])
    for i, token in stated.items():
        if tokenizer.token_to_id(token.content) != i:
            path = folder / ("added_tokens.json" if "added_tokens" in options else "tokenizer_config.json")
            raise ArtifactError(f"{path}: token {token.content} has id {i}. tokenizer.json must give it the same one.")
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    extra = options.get("extra_special_tokens", options.get("additional_special_tokens", []))
    extra = map(_special, extra.values() if isinstance(extra, dict) else extra)
    named = [*read_special_tokens(options).values(), *extra]
    unique = {token.content: token for token in named if token.content not in added}
    tokenizer.add_tokens(list(unique.values()))


def read_special_tokens(options: Mapping[str, Any]) -> dict[str, AddedToken]:
    """Return the special tokens that the options name, such as ``pad_token``."""
    return {name: _special(options[name]) for name in SPECIAL_TOKENS if name in options}


def _special(token: str | dict[str, Any]) -> AddedToken:
    settings = token if isinstance(token, dict) else {}
    flags = {flag: settings[flag] for flag in _FLAGS if isinstance(settings.get(flag), bool)}
    return AddedToken(get_token_content(token), special=True, **flags)


def read_added_tokens(folder: Path, options: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Return the added tokens that the options name, by id.

    Raises:
        ArtifactError: They are not described as transformers does.
    """
    try:
        older = {int(i): AddedToken(token) for token, i in options.get("added_tokens", {}).items()}
        return older | {int(i): AddedToken(**token) for i, token in options.get("added_tokens_decoder", {}).items()}
    except (AttributeError, TypeError, ValueError):
        name = "added_tokens" if "added_tokens" in options else "added_tokens_decoder"
        path = folder / ("added_tokens.json" if "added_tokens" in options else "tokenizer_config.json")
        raise ArtifactError(f"{path}: {name} has no tokens by id. Save the tokenizer again.") from None


def _check_sides(tokenizer: Tokenizer, folder: Path, options: dict[str, Any]) -> None:
    """Refuse texts that are cut or padded on the left, which ``tokenizer.json`` can say too."""
    for name, setting in (("truncation", tokenizer.truncation), ("padding", tokenizer.padding)):
        if setting is not None and f"{name}_side" not in options and setting["direction"] != "right":
            reason = f"{name}.direction is {json.dumps(setting['direction'])}. Only right is supported."
            raise UnsupportedModelError.at(folder / "tokenizer.json", reason)


def _forget_lengths(tokenizer: Tokenizer) -> None:
    """Remove the lengths to which ``tokenizer.json`` cuts and pads. A huge one would fill the memory."""
    tokenizer.no_truncation()
    if (padding := tokenizer.padding) is not None:
        tokenizer.enable_padding(pad_id=padding["pad_id"], pad_token=padding["pad_token"])


def _choose_padding(tokenizer: Tokenizer, options: dict[str, Any], default: str) -> None:
    """Note the padding token for ``padding_idx`` where its name alone would not tell."""
    token = get_token_content(options.get("pad_token", default))
    index = tokenizer.token_to_id(token) if token else None
    if index is not None and index != find_padding(tokenizer):
        tokenizer.enable_padding(pad_id=index, pad_token=token)


def find_padding(tokenizer: Tokenizer) -> int | None:
    """Return the id of the padding token: the one of ``padding`` in ``tokenizer.json``, else one with a usual name."""
    padding = tokenizer.padding
    if padding is not None and tokenizer.token_to_id(padding["pad_token"]) == padding["pad_id"]:
        return padding["pad_id"]
    known = (tokenizer.token_to_id(token) for token in PADDING_TOKENS)
    return next((index for index in known if index is not None), None)
