"""WordPiece tokenizer classes of transformers: those of BERT and MPNet.

They keep only the vocabulary of a ``tokenizer.json`` and rebuild all other parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, processors

from text.errors import UnsupportedModelError
from text.transforms.tokenizer_parts import (
    check_part,
    find_frames,
    find_token,
    get_token_content,
    get_tokenizer_parts,
    set_roberta_template,
)

BERT = (
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRReaderTokenizer",
)
MPNET = "MPNetTokenizer"
_MODEL = {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
_BERT_FRAME = (("cls_token", "[CLS]"), ("sep_token", "[SEP]"))
_MPNET_FRAME = (("cls_token", "<s>"), ("sep_token", "</s>"))
"""Option name and default token, for the special tokens before and after a text."""


def apply_bert(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Rebuild the parts of a BERT tokenizer."""
    _set_parts(tokenizer, folder, options, name)
    start, end = (find_token(tokenizer, folder, options, key, token) for key, token in _BERT_FRAME)
    if find_frames(tokenizer) != ([start[1], -1, end[1]], [start[1], -1, end[1], -1, end[1]]):
        tokenizer.post_processor = processors.BertProcessing(end, start)


def apply_mpnet(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Rebuild the parts of an MPNet tokenizer. Its pair template is RoBERTa's.

    Raises:
        UnsupportedModelError: ``tokenize_chinese_chars`` contradicts ``tokenizer.json``. Releases of transformers
            differ in which of them wins.
    """
    found = (get_tokenizer_parts(tokenizer)["normalizer"] or {}).get("handle_chinese_chars", True)
    check_part(folder, name, "normalizer.handle_chinese_chars", found, options.get("tokenize_chinese_chars", True))
    _set_parts(tokenizer, folder, options, name)
    set_roberta_template(tokenizer, folder, options, _MPNET_FRAME, adds_space=False)


def _set_parts(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    parts = get_tokenizer_parts(tokenizer)
    check_part(folder, name, "normalizer", (parts["normalizer"] or {}).get("type"), "BertNormalizer")
    check_part(folder, name, "pre_tokenizer", (parts["pre_tokenizer"] or {}).get("type"), "BertPreTokenizer")
    for key, value in {**_MODEL, "unk_token": get_token_content(options.get("unk_token", "[UNK]"))}.items():
        check_part(folder, name, f"model.{key}", parts["model"].get(key), value)
    tokenizer.normalizer = build_bert_normalizer(folder, options, name)


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
