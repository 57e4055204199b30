"""Behavior of the tokenizer classes of transformers, applied to a ``tokenizer.json``.

``BertTokenizer``, ``RobertaTokenizer`` and ``XLMRobertaTokenizer`` keep only the vocabulary of the file and rebuild all
other parts. This module rebuilds the same parts. A file with other parts is rejected if releases of transformers differ
in handling them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from text.errors import ArtifactError, UnsupportedModelError

GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
BERT = (
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRReaderTokenizer",
)
ROBERTA, XLM_ROBERTA = "RobertaTokenizer", "XLMRobertaTokenizer"
MODEL_CLASSES = {
    "bert": "BertTokenizer",
    "dpr": "DPRQuestionEncoderTokenizer",
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
}
_SWITCHES = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")
_BERT_MODEL = {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
_XLM_ROBERTA_MODEL = {"type": "Unigram", "unk_id": 3, "byte_fallback": False}
FORCE_HINT = (
    'Write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json to use tokenizer.json as it is.'
)


def apply_class(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Change a tokenizer to behave as a class of transformers does with the same files.

    Args:
        tokenizer: Tokenizer from a ``tokenizer.json``. It is changed in place.
        folder: Folder of the file, for error messages.
        options: Settings from the files beside it.
        name: Name of the class, or "" if no file names one.

    Raises:
        ArtifactError: An option contradicts ``tokenizer.json``, or a special token is missing.
        UnsupportedModelError: ``tokenizer.json`` has parts that the class does not have.
    """
    if name in BERT:
        _apply_bert(tokenizer, folder, options, name)
    elif name == ROBERTA:
        _apply_roberta(tokenizer, folder, options)
    elif name == XLM_ROBERTA:
        _apply_xlm_roberta(tokenizer, folder, options)
    else:
        _check_generic(tokenizer, folder, options, is_named=name in GENERIC_CLASSES)


def _apply_bert(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    parts = get_tokenizer_parts(tokenizer)
    _check_part(folder, name, "normalizer", (parts["normalizer"] or {}).get("type"), "BertNormalizer")
    _check_part(folder, name, "pre_tokenizer", (parts["pre_tokenizer"] or {}).get("type"), "BertPreTokenizer")
    for key, value in {**_BERT_MODEL, "unk_token": get_token_content(options.get("unk_token", "[UNK]"))}.items():
        _check_part(folder, name, f"model.{key}", parts["model"].get(key), value)
    tokenizer.normalizer = build_bert_normalizer(folder, options, name)
    start, end = (_find_token(tokenizer, folder, options, key, token) for key, token in _BERT_FRAME)
    if _find_frames(tokenizer) != ([start[1], -1, end[1]], [start[1], -1, end[1], -1, end[1]]):
        tokenizer.post_processor = processors.BertProcessing(end, start)


def build_bert_normalizer(folder: Path, options: Mapping[str, Any], name: str) -> normalizers.Normalizer:
    """Return the normalizer that the BERT tokenizers of transformers build. They ignore the one in ``tokenizer.json``.

    Raises:
        UnsupportedModelError: ``do_lower_case`` is false for a DPR tokenizer. Releases of transformers differ there.
    """
    lowercase = options.get("do_lower_case", True)
    if name.startswith("DPR") and not lowercase:
        path = folder / "tokenizer_config.json"
        raise UnsupportedModelError.at(
            path, f"do_lower_case is false, which a {name} ignores. Set tokenizer_class to BertTokenizer."
        )
    return normalizers.BertNormalizer(
        lowercase=lowercase,
        strip_accents=options.get("strip_accents"),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
    )


_BERT_FRAME = (("cls_token", "[CLS]"), ("sep_token", "[SEP]"))
_ROBERTA_FRAME = (("cls_token", "<s>"), ("sep_token", "</s>"))
_XLM_ROBERTA_FRAME = (("bos_token", "<s>"), ("eos_token", "</s>"))
"""Option name and default token, for the special tokens before and after a text."""


def _apply_roberta(tokenizer: Tokenizer, folder: Path, options: dict[str, Any]) -> None:
    parts, adds_space = get_tokenizer_parts(tokenizer), options.get("add_prefix_space", False)
    _check_part(folder, ROBERTA, "model.type", parts["model"]["type"], "BPE")
    _set_plain_bpe(tokenizer, folder, parts["model"])
    _check_part(folder, ROBERTA, "normalizer", parts["normalizer"], None)
    _check_part(folder, ROBERTA, "pre_tokenizer", (parts["pre_tokenizer"] or {}).get("type"), "ByteLevel")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_space)
    _set_roberta_template(tokenizer, folder, options, _ROBERTA_FRAME, adds_space=adds_space)


def _set_plain_bpe(tokenizer: Tokenizer, folder: Path, model: Mapping[str, Any]) -> None:
    """Reset the BPE options, so that the merges alone determine the ids. RobertaTokenizer ignores these options."""
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        _check_part(folder, ROBERTA, f"model.{key}", model.get(key) or "", "")
    bpe = tokenizer.model
    assert isinstance(bpe, models.BPE)
    bpe.unk_token = None
    bpe.fuse_unk = bpe.byte_fallback = bpe.ignore_merges = False


def _set_roberta_template(
    tokenizer: Tokenizer, folder: Path, options: dict[str, Any], names: tuple[tuple[str, str], ...], *, adds_space: bool
) -> None:
    start, end = (_find_token(tokenizer, folder, options, key, token) for key, token in names)
    if _find_frames(tokenizer) != ([start[1], -1, end[1]], [start[1], -1, end[1], end[1], -1, end[1]]):
        tokenizer.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=adds_space)


def _apply_xlm_roberta(tokenizer: Tokenizer, folder: Path, options: dict[str, Any]) -> None:
    parts, adds_space = get_tokenizer_parts(tokenizer), options.get("add_prefix_space", True)
    for key, value in _XLM_ROBERTA_MODEL.items():
        _check_part(folder, XLM_ROBERTA, f"model.{key}", parts["model"].get(key), value)
    tokenizer.normalizer = _build_xlm_roberta_normalizer(folder, parts["normalizer"])
    scheme = "always" if adds_space else "never"
    steps = _list_steps(parts["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in steps]
    if kinds != ["Metaspace"]:  # Metaspace alone is enough if the normalizer removes repeated spaces.
        _check_part(folder, XLM_ROBERTA, "pre_tokenizer", kinds, ["WhitespaceSplit", "Metaspace"])
    for key, value in (("replacement", "▁"), ("prepend_scheme", scheme)):
        _check_part(folder, XLM_ROBERTA, f"pre_tokenizer.{key}", steps[-1][key], value)
    split = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])
    _set_roberta_template(tokenizer, folder, options, _XLM_ROBERTA_FRAME, adds_space=adds_space)


def _build_xlm_roberta_normalizer(folder: Path, found: dict[str, Any] | None) -> normalizers.Normalizer | None:
    """Return only SentencePiece's character map. Steps for spaces have no effect, because words are split at spaces."""
    steps = [step for step in _list_steps(found, "normalizers") if not _is_about_spaces(step)]
    if not steps:
        return None
    _check_part(folder, XLM_ROBERTA, "normalizer", [step["type"] for step in steps], ["Precompiled"])
    return normalizers.Precompiled(base64.b64decode(steps[0]["precompiled_charsmap"]))


def _is_about_spaces(step: dict[str, Any]) -> bool:
    return step["type"] == "Strip" or (step.get("pattern") == {"Regex": " {2,}"} and step["content"] in (" ", "▁"))


def _list_steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Return the steps of a part, which is a sequence of steps or a single step."""
    return [] if part is None else part.get(name, [part])


def _check_generic(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], *, is_named: bool) -> None:
    """Check that no option has different values in the two files. Releases of transformers differ in which one wins.

    If no class is named, BERT's options are checked too, because the class could be BERT's.
    """
    parts = get_tokenizer_parts(tokenizer)
    normalizer, split = parts["normalizer"] or {}, parts["pre_tokenizer"] or {}
    found = {"add_prefix_space": split.get("add_prefix_space")}
    if not is_named:
        names = ("lowercase", "strip_accents", "handle_chinese_chars")
        found |= dict(zip(_SWITCHES, (normalizer.get(name) for name in names), strict=False))
    for option, value in found.items():
        if option in options and value is not None and options[option] != value:
            raise ArtifactError(
                f"{folder / 'tokenizer_config.json'}: {option} is {json.dumps(options[option])}, but tokenizer.json "
                f"has {json.dumps(value)}. Use the same value in both."
            )


def _find_token(
    tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str, default: str
) -> tuple[str, int]:
    token = get_token_content(options.get(name, default))
    index = tokenizer.token_to_id(token)
    if index is None:
        raise ArtifactError(
            f"{folder / 'tokenizer_config.json'}: {name} {token} is not in the vocabulary. {FORCE_HINT}"
        )
    return token, index


def _find_frames(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special-token ids around one text and around two texts, with -1 in place of each text."""
    encodings = tokenizer.encode("a"), tokenizer.encode("a", "a")
    frames = []
    for encoding in encodings:
        frame: list[int] = []
        for index, is_special in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
            if is_special or frame[-1:] != [-1]:
                frame.append(index if is_special else -1)
        frames.append(frame)
    return frames[0], frames[1]


def _check_part(folder: Path, name: str, part: str, found: Any, expected: Any) -> None:
    if found != expected:
        found, expected = json.dumps(found), json.dumps(expected)
        reason = f"{part} is {found}, but transformers' {name} has {expected}. {FORCE_HINT}"
        raise UnsupportedModelError.at(folder / "tokenizer.json", reason)


def get_token_content(token: str | dict[str, Any]) -> str:
    """Return the text of a token from the settings, where it is a string or an object."""
    return token if isinstance(token, str) else token["content"]


def get_tokenizer_parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` without its vocabulary."""
    settings = json.loads(tokenizer.to_str())
    settings["model"].pop("vocab", None)
    return settings
