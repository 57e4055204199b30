"""Settings in the files beside a tokenizer, applied as transformers and sentence-transformers apply them.

``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json`` and ``sentence_bert_config.json`` can
change the behavior of a ``tokenizer.json``. The tokenizer class of transformers decides which settings apply:
``BertTokenizer`` rebuilds the normalizer, ``PreTrainedTokenizerFast`` uses ``tokenizer.json`` unchanged.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers

from text.artifacts import read_json
from text.errors import ArtifactError, SettingsWarning, UnsupportedModelError
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
from text.transforms.bpe_classes import DECODERS
from text.transforms.tokenizer_classes import (
    DEFAULT_PADDING,
    GENERIC_CLASSES,
    KNOWN_CLASSES,
    LEFT_PADDED,
    MODEL_CLASSES,
    TYPED_CLASSES,
    apply_class,
)
from text.transforms.tokenizer_parts import FORCE_HINT, get_token_content, get_tokenizer_parts
from text.transforms.unigram_classes import ALBERT

PADDING_TOKENS = ("<pad>", "[PAD]")
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word")


def read_options(folder: Path) -> dict[str, Any]:
    """Return the settings of the files beside a tokenizer, including special tokens.

    Raises:
        ArtifactError: A file is damaged.
        UnsupportedModelError: A setting has a value that is not supported.
    """
    path = folder / "tokenizer_config.json"
    options = _remove_nulls(read_optional_settings(path, TOKENIZER_OPTIONS))
    if "attention_mask" not in options.get("model_input_names", ["attention_mask"]):
        reason = "model_input_names lacks attention_mask. Add it: without it, padding would be part of the texts."
        raise UnsupportedModelError.at(path, reason)
    if "added_tokens_decoder" not in options:  # transformers reads the older files only in this case.
        older = folder / "special_tokens_map.json"
        options |= _remove_nulls(read_optional_settings(older, SPECIAL_TOKENS_MAP))
        added = folder / "added_tokens.json"
        options["added_tokens"] = read_json(added, dict[str, int]) if os.path.lexists(added) else {}
    return options


def _remove_nulls(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def list_setting_files(folder: Path) -> list[Path]:
    """Return the paths of the settings files that transformers reads beside a tokenizer."""
    decoder = read_setting(folder / "tokenizer_config.json", TOKENIZER_OPTIONS, "added_tokens_decoder")
    older = () if decoder is not None else ("special_tokens_map.json", "added_tokens.json")
    names = ("config.json", "tokenizer_config.json", *older)
    return [path for path in (folder / name for name in names) if path.is_file()]


def apply_settings(tokenizer: Tokenizer, folder: Path) -> None:
    """Change a tokenizer to return the ids that transformers returns with the files in ``folder``.

    Raises:
        ArtifactError: A file is damaged, or it contradicts ``tokenizer.json``.
        UnsupportedModelError: A setting has a value that is not supported.
    """
    options = read_options(folder)
    options["model_type"] = read_setting(folder / "config.json", ENCODER, "model_type")
    name = find_class_name(folder, options)
    side = _find_padding_side(tokenizer, folder, options, name)
    _remove_lengths(tokenizer)
    apply_class(tokenizer, folder, options, name)
    _add_tokens(tokenizer, folder, options)
    _set_padding(tokenizer, get_token_content(options.get("pad_token", DEFAULT_PADDING.get(name, ""))), side)


def apply_token_settings(tokenizer: Tokenizer, folder: Path, names: Mapping[str, str]) -> Tokenizer:
    """Add the token flags from the files beside a vocabulary to its tokenizer, and return the tokenizer.

    Raises:
        UnsupportedModelError: The files name other tokens than the vocabulary, or set ``add_prefix_space``.
    """
    options = read_options(folder)
    tokens, special = read_added_tokens(folder, options), read_special_tokens(options)
    more = [token for i, token in tokens.items() if tokenizer.token_to_id(token.content) != i]
    more += [token for name, token in special.items() if token.content != names.get(name, token.content)]
    if more or options.get("add_prefix_space", False):
        found = f"token {more[0].content} beside the vocabulary" if more else "add_prefix_space is true"
        reason = f"{found}. Save the tokenizer with transformers, which writes a tokenizer.json."
        raise UnsupportedModelError.at(folder, reason)
    tokenizer.add_tokens([*special.values(), *tokens.values()])
    return tokenizer


def apply_lower_casing(tokenizer: Tokenizer, folder: Path) -> None:
    """Add lower-casing as the first normalizer if ``do_lower_case`` of sentence-transformers is true."""
    path = find_sentence_file(folder)
    if path is None or not read_setting(path, TRANSFORMER, "do_lower_case"):
        return
    normalizer = get_tokenizer_parts(tokenizer)["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    if not any(step.get("type") == "Lowercase" for step in steps):
        before = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])


def find_class_name(folder: Path, options: dict[str, Any]) -> str:
    """Return the name of the tokenizer class that transformers uses for the files, or "" if no file names one.

    Raises:
        UnsupportedModelError: The class is not supported.
    """
    path = folder / "config.json"
    stated = options.get("tokenizer_class", read_setting(path, ENCODER, "tokenizer_class"))
    if stated is None:
        return MODEL_CLASSES.get(read_setting(path, ENCODER, "model_type"), "")
    name = stated if stated in GENERIC_CLASSES else stated.removesuffix("Fast")
    if name in KNOWN_CLASSES:
        return name
    place = folder / "tokenizer_config.json"
    if name == stated or not (folder / "tokenizer.json").is_file():
        raise UnsupportedModelError.at(place, f"tokenizer_class {name} is not supported. {FORCE_HINT}")
    message = f"tokenizer_class {stated} is not known here, so tokenizer.json is used as it is"
    warnings.warn(f"{place}: {message}. Compare ids with those of transformers.", SettingsWarning, stacklevel=2)
    return stated


def read_token_type_setting(folder: Path) -> bool:
    """Return whether ``transformers`` gives an encoder the token types of pairs, by the files beside a tokenizer."""
    options = read_options(folder)
    if (names := options.get("model_input_names")) is not None:
        return "token_type_ids" in names
    name = find_class_name(folder, options)
    if name in (*GENERIC_CLASSES, ALBERT, ""):
        message = "model_input_names is missing, and releases of transformers differ in its default"
        advice = (
            'Pairs get token types, as in transformers 4. To turn them off, set it to ["input_ids", "attention_mask"].'
        )
        warnings.warn(f"{folder / 'tokenizer_config.json'}: {message}. {advice}", SettingsWarning, stacklevel=2)
        return True
    return name in TYPED_CLASSES


def _add_tokens(tokenizer: Tokenizer, folder: Path, options: dict[str, Any]) -> None:
    """Add the tokens from the settings that the tokenizer lacks or has with other flags.

    Raises:
        ArtifactError: A token has an invalid description, or would get another id than in the settings.
    """
    present = tokenizer.get_added_tokens_decoder()
    stated = {
        i: token
        for i, token in read_added_tokens(folder, options).items()
        if "added_tokens" not in options or i not in present
    }
    known = {repr(token) for token in present.values()}
    tokenizer.add_tokens([token for _, token in sorted(stated.items()) if repr(token) not in known])
    for i, token in stated.items():
        if tokenizer.token_to_id(token.content) != i:
            path = folder / ("added_tokens.json" if "added_tokens" in options else "tokenizer_config.json")
            reason = f"token {token.content} has id {i}, but tokenizer.json gives it another id. Make both the same."
            raise ArtifactError(f"{path}: {reason}")
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    extra = options.get("extra_special_tokens", options.get("additional_special_tokens", []))
    extra = map(_build_special_token, extra.values() if isinstance(extra, dict) else extra)
    named = [*read_special_tokens(options).values(), *extra]
    unique = {token.content: token for token in named if token.content not in added}
    tokenizer.add_tokens(list(unique.values()))


def read_special_tokens(options: Mapping[str, Any]) -> dict[str, AddedToken]:
    """Return the special tokens of the options by name, such as ``pad_token``."""
    return {name: _build_special_token(options[name]) for name in SPECIAL_TOKENS if name in options}


def _build_special_token(token: str | dict[str, Any]) -> AddedToken:
    settings = token if isinstance(token, dict) else {}
    flags = {flag: settings[flag] for flag in _FLAGS if isinstance(settings.get(flag), bool)}
    return AddedToken(get_token_content(token), special=True, **flags)


def read_added_tokens(folder: Path, options: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Return the added tokens of the options by id.

    Raises:
        ArtifactError: The description of a token is invalid.
    """
    try:
        older = {int(i): AddedToken(token) for token, i in options.get("added_tokens", {}).items()}
        return older | {int(i): AddedToken(**token) for i, token in options.get("added_tokens_decoder", {}).items()}
    except (AttributeError, TypeError, ValueError):
        name = "added_tokens" if "added_tokens" in options else "added_tokens_decoder"
        path = folder / ("added_tokens.json" if "added_tokens" in options else "tokenizer_config.json")
        raise ArtifactError(f"{path}: {name} is not a mapping of ids and tokens. Save the tokenizer again.") from None


def _find_padding_side(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> str:
    """Return the side on which transformers pads: left or right.

    Raises:
        UnsupportedModelError: ``tokenizer.json`` truncates on the left. Or the class pads on the left, but its encoders
            have absolute positions, so that embeddings would depend on the padding.
    """
    truncation, padding = tokenizer.truncation, tokenizer.padding
    if truncation is not None and "truncation_side" not in options and truncation["direction"] != "right":
        reason = f"truncation.direction is {json.dumps(truncation['direction'])}. Only right is supported."
        raise UnsupportedModelError.at(folder / "tokenizer.json", reason)
    default = "left" if name in LEFT_PADDED else "right"
    side = options.get("padding_side", default if padding is None else padding["direction"])
    if side == "left" and name in KNOWN_CLASSES and name not in (*DECODERS, *GENERIC_CLASSES):
        file, setting = ("tokenizer_config.json", "padding_side")
        if "padding_side" not in options:
            file, setting = ("tokenizer.json", "padding.direction")
        raise UnsupportedModelError.at(folder / file, f"{setting} is left. Only right is supported for a {name}.")
    return side


def _remove_lengths(tokenizer: Tokenizer) -> None:
    """Remove the truncation and padding lengths of ``tokenizer.json``. A huge padding length would exhaust memory."""
    tokenizer.no_truncation()
    if (padding := tokenizer.padding) is not None:
        tokenizer.enable_padding(pad_id=padding["pad_id"], pad_token=padding["pad_token"])


def _set_padding(tokenizer: Tokenizer, token: str, side: str) -> None:
    """Store the padding token in the tokenizer if ``find_padding`` would not find it, and the left side."""
    found = find_padding(tokenizer)
    index = tokenizer.token_to_id(token) if token else None
    if index is None:
        index = found
    if index is not None and (index != found or side == "left"):
        tokenizer.enable_padding(direction=side, pad_id=index, pad_token=str(tokenizer.id_to_token(index)))


def find_padding(tokenizer: Tokenizer) -> int | None:
    """Return the id of the padding token: from ``padding`` in ``tokenizer.json``, or of ``<pad>`` or ``[PAD]``."""
    padding = tokenizer.padding
    if padding is not None and tokenizer.token_to_id(padding["pad_token"]) == padding["pad_id"]:
        return padding["pad_id"]
    known = (tokenizer.token_to_id(token) for token in PADDING_TOKENS)
    return next((index for index in known if index is not None), None)
