"""Unigram tokenizer classes of transformers: those of XLM-RoBERTa, T5, ALBERT and DeBERTa-v2.

Release 5 of transformers rebuilds their parts from the vocabulary, and release 4 uses ``tokenizer.json`` as it is. A
file with other parts is rejected, because the two releases would give different ids.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers

from text.errors import UnsupportedModelError
from text.transforms.tokenizer_parts import (
    check_frames,
    check_part,
    find_token,
    get_token_content,
    get_tokenizer_parts,
    list_steps,
    set_roberta_template,
)

XLM_ROBERTA, T5, ALBERT, DEBERTA = "XLMRobertaTokenizer", "T5Tokenizer", "AlbertTokenizer", "DebertaV2Tokenizer"
_XLM_ROBERTA_FRAME = (("bos_token", "<s>"), ("eos_token", "</s>"))
"""Option name and default token, for the special tokens before and after a text."""
_REPEATED_SPACES = {"Regex": " {2,}"}
_QUOTES = [
    {"type": "Replace", "pattern": {"String": quote}, "content": '"'} for quote in ("``", "''")
]  # SentencePiece's ALBERT replaces the quotes of LaTeX.
_DEBERTA_SPACES = {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "}


def apply_xlm_roberta(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Rebuild the parts of an XLM-RoBERTa tokenizer."""
    adds_space = options.get("add_prefix_space", True)
    _set_word_parts(tokenizer, folder, name, unk_id=3, scheme="always" if adds_space else "never")
    set_roberta_template(tokenizer, folder, options, _XLM_ROBERTA_FRAME, adds_space=adds_space)


def apply_t5(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Rebuild the parts of a T5 or mT5 tokenizer, and check its template and sentinel tokens.

    Raises:
        UnsupportedModelError: A sentinel token such as ``<extra_id_0>`` is missing. transformers would add it with an
            id that the encoder may lack.
    """
    _set_word_parts(tokenizer, folder, name, unk_id=2, scheme="always")
    end = find_token(tokenizer, folder, options, "eos_token", "</s>")[1]
    check_frames(tokenizer, folder, name, ([-1, end], [-1, end, -1, end]))
    sentinels = [f"<extra_id_{number}>" for number in range(options.get("extra_ids", 100))]
    missing = next((token for token in sentinels if tokenizer.token_to_id(token) is None), None)
    if missing is not None:
        reason = f"extra_ids is {len(sentinels)}, but tokenizer.json lacks {missing}. Set extra_ids to 0."
        raise UnsupportedModelError.at(folder / "tokenizer_config.json", reason)


def _set_word_parts(tokenizer: Tokenizer, folder: Path, name: str, *, unk_id: int, scheme: str) -> None:
    """Set the parts of a tokenizer that splits texts into words and maps characters with SentencePiece's table."""
    parts = get_tokenizer_parts(tokenizer)
    _check_unigram(folder, name, parts["model"], unk_id)
    tokenizer.normalizer = _build_character_map(folder, name, parts["normalizer"])
    _check_splits(folder, name, parts, scheme)
    split = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])


def _check_splits(folder: Path, name: str, parts: dict[str, Any], scheme: str) -> None:
    """Check that ``tokenizer.json`` splits texts at spaces and marks words with ``▁``."""
    steps = list_steps(parts["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in steps]
    steps_before = list_steps(parts["normalizer"], "normalizers")
    removes_spaces = any(step.get("pattern") == _REPEATED_SPACES for step in steps_before) or name == XLM_ROBERTA
    # Without repeated spaces, Metaspace alone splits words, too. The words of an XLM-RoBERTa are always split anew.
    if kinds != ["Metaspace"] or not removes_spaces:
        check_part(folder, name, "pre_tokenizer", kinds, ["WhitespaceSplit", "Metaspace"])
    for key, value in (("replacement", "▁"), ("prepend_scheme", scheme)):
        check_part(folder, name, f"pre_tokenizer.{key}", steps[-1][key], value)


def _build_character_map(folder: Path, name: str, found: dict[str, Any] | None) -> normalizers.Normalizer | None:
    """Return only SentencePiece's character map. Steps for spaces have no effect, because words are split at spaces."""
    steps = _list_steps_for_characters(found)
    if not steps:
        return None
    check_part(folder, name, "normalizer", [step["type"] for step in steps], ["Precompiled"])
    return normalizers.Precompiled(base64.b64decode(steps[0]["precompiled_charsmap"]))


def _list_steps_for_characters(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [step for step in list_steps(normalizer, "normalizers") if not _is_about_spaces(step)]


def _is_about_spaces(step: dict[str, Any]) -> bool:
    return step["type"] == "Strip" or (step.get("pattern") == _REPEATED_SPACES and step["content"] in (" ", "▁"))


def _check_unigram(folder: Path, name: str, model: dict[str, Any], unk_id: int) -> None:
    for key, value in (("type", "Unigram"), ("unk_id", unk_id), ("byte_fallback", False)):
        check_part(folder, name, f"model.{key}", model.get(key), value)


def apply_albert(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Check the parts of an ALBERT tokenizer. The template of ``tokenizer.json`` is used."""
    parts = get_tokenizer_parts(tokenizer)
    _check_unigram(folder, name, parts["model"], unk_id=1)
    accents = [] if options.get("keep_accents", False) else [{"type": "NFKD"}, {"type": "StripAccents"}]
    case = [{"type": "Lowercase"}] if options.get("do_lower_case", True) else []
    steps = _list_steps_for_characters(parts["normalizer"])
    is_mapped = bool(steps) and steps[-1]["type"] == "Precompiled"
    check_part(folder, name, "normalizer", steps[:-1] if is_mapped else steps, [*_QUOTES, *accents, *case])
    scheme = "always" if options.get("add_prefix_space", True) else "never"
    _check_splits(folder, name, parts, scheme)


def apply_deberta(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Check the parts of a DeBERTa-v2 or DeBERTa-v3 tokenizer."""
    parts = get_tokenizer_parts(tokenizer)
    unknown = get_token_content(options.get("unk_token", "[UNK]"))
    unk_id = _find_score_zero(tokenizer, unknown)
    _check_unigram(folder, name, parts["model"], options.get("unk_id", 1) if unk_id is None else unk_id)
    case = [{"type": "Lowercase"}] if options.get("do_lower_case", False) else []
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    steps = list_steps(parts["normalizer"], "normalizers")
    check_part(folder, name, "normalizer", steps, [*case, _DEBERTA_SPACES, {"type": "NFC"}, strip])
    scheme = "always" if options.get("add_prefix_space", True) else "first"
    split = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
    marks = [{"type": "Punctuation", "behavior": "Isolated"}] if options.get("split_by_punct", False) else []
    check_part(folder, name, "pre_tokenizer", list_steps(parts["pre_tokenizer"], "pretokenizers"), [*marks, split])
    start, end = (
        find_token(tokenizer, folder, options, key, token)[1]
        for key, token in (("cls_token", "[CLS]"), ("sep_token", "[SEP]"))
    )
    check_frames(tokenizer, folder, name, ([start, -1, end], [start, -1, end, -1, end]))


def _find_score_zero(tokenizer: Tokenizer, token: str) -> int | None:
    """Return the id of a token if its score in a Unigram vocabulary is zero."""
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    return next((i for i, (content, score) in enumerate(vocab) if content == token and score == 0.0), None)
