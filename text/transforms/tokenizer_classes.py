"""Behavior of the tokenizer classes of transformers, applied to a ``tokenizer.json``.

Most classes rebuild parts of the file, and releases of transformers differ in the parts. ``word_piece_classes``,
``unigram_classes`` and ``bpe_classes`` set or check the parts of each class. A tokenizer that loads has the same ids in
all supported releases. Generic classes use the file as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from text.errors import ArtifactError
from text.transforms.bpe_classes import GEMMA, LLAMA, QWEN, ROBERTA, apply_gemma, apply_llama, apply_qwen, apply_roberta
from text.transforms.tokenizer_parts import get_tokenizer_parts
from text.transforms.unigram_classes import (
    ALBERT,
    DEBERTA,
    T5,
    XLM_ROBERTA,
    apply_albert,
    apply_deberta,
    apply_t5,
    apply_xlm_roberta,
)
from text.transforms.word_piece_classes import BERT, MPNET, apply_bert, apply_mpnet

GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_RULES = {
    **dict.fromkeys(BERT, apply_bert),
    MPNET: apply_mpnet,
    XLM_ROBERTA: apply_xlm_roberta,
    T5: apply_t5,
    ALBERT: apply_albert,
    DEBERTA: apply_deberta,
    ROBERTA: apply_roberta,
    QWEN: apply_qwen,
    LLAMA: apply_llama,
    GEMMA: apply_gemma,
}
KNOWN_CLASSES = (*_RULES, *GENERIC_CLASSES)
MODEL_CLASSES = {
    **dict.fromkeys(("bert", "distilbert", "electra", "nomic_bert"), "BertTokenizer"),
    "dpr": "DPRQuestionEncoderTokenizer",
    "mpnet": MPNET,
    "roberta": ROBERTA,
    **dict.fromkeys(("xlm-roberta", "gte"), XLM_ROBERTA),
    **dict.fromkeys(("t5", "mt5"), T5),
    "albert": ALBERT,
    "deberta-v2": DEBERTA,
    **dict.fromkeys(("qwen2", "qwen3"), QWEN),
    **dict.fromkeys(("llama", "mistral"), LLAMA),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), GEMMA),
}
"""Class of a model type, for a tokenizer whose files name no class."""
DEFAULT_PADDING = {
    **dict.fromkeys((*BERT, DEBERTA), "[PAD]"),
    **dict.fromkeys((MPNET, ROBERTA, XLM_ROBERTA, T5, ALBERT, GEMMA), "<pad>"),
    QWEN: "<|endoftext|>",
}
"""Padding token of a class whose files name none. Llama has no padding token by default."""
TYPED_CLASSES = (*(name for name in BERT if name != "DistilBertTokenizer"), DEBERTA)
"""Classes that give an encoder the token types of pairs if the files do not say so."""
LEFT_PADDED = (LLAMA, GEMMA)
"""Classes that pad on the left if the files state no side."""
_SWITCHES = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")


def apply_class(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Change a tokenizer to behave as a class of transformers does with the same files.

    Args:
        tokenizer: Tokenizer from a ``tokenizer.json``. It is changed in place.
        folder: Folder of the file, for error messages.
        options: Settings from the files beside it, and ``model_type`` of the encoder in the folder.
        name: Name of the class, or "" if no file names one.

    Raises:
        ArtifactError: An option contradicts ``tokenizer.json``, or a special token is missing.
        UnsupportedModelError: ``tokenizer.json`` has parts that the class does not have.
    """
    if name in _RULES:
        _RULES[name](tokenizer, folder, options, name)
    else:
        _check_generic(tokenizer, folder, options, is_named=bool(name))
    # For this model type, transformers 5 loads a Qwen2Tokenizer whatever class the files name.
    if options["model_type"] == "qwen2" and name != QWEN:
        apply_qwen(tokenizer, folder, options, QWEN)


def _check_generic(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], *, is_named: bool) -> None:
    """Check that no option has different values in the two files. Releases of transformers differ in which one wins.

    If no class is named, BERT's options are checked too, because the class could be BERT's.
    """
    parts = get_tokenizer_parts(tokenizer)
    normalizer, split = parts["normalizer"] or {}, parts["pre_tokenizer"] or {}
    found = {"add_prefix_space": split.get("add_prefix_space")}
    if not is_named:
        names = ("lowercase", "strip_accents", "handle_chinese_chars")
        found |= dict(zip(_SWITCHES, (normalizer.get(name) for name in names), strict=True))
    for option, value in found.items():
        if option in options and value is not None and options[option] != value:
            raise ArtifactError(
                f"{folder / 'tokenizer_config.json'}: {option} is {json.dumps(options[option])}, but tokenizer.json "
                f"has {json.dumps(value)}. Use the same value in both."
            )
