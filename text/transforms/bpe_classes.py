"""BPE tokenizer classes of transformers: those of RoBERTa, Qwen2 and Qwen3, Llama and Mistral, and Gemma.

``RobertaTokenizer`` keeps only vocabulary and merges of a ``tokenizer.json``. For the other classes, release 5 of
transformers rebuilds the parts. Release 4 uses ``tokenizer.json`` as it is, but sets the template of Llama and Gemma by
``add_bos_token`` and ``add_eos_token``. A file for which the releases differ is rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from text.errors import UnsupportedModelError
from text.transforms.tokenizer_parts import (
    FORCE_HINT,
    check_part,
    find_frames,
    find_token,
    get_token_content,
    get_tokenizer_parts,
    list_steps,
    set_roberta_template,
)

ROBERTA, QWEN, LLAMA, GEMMA = "RobertaTokenizer", "Qwen2Tokenizer", "LlamaTokenizer", "GemmaTokenizer"
DECODERS = (QWEN, LLAMA, GEMMA)
"""Classes of decoders. Their encoders use rotary positions, so embeddings do not depend on the side of the padding."""
_ROBERTA_FRAME = (("cls_token", "<s>"), ("sep_token", "</s>"))
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Split pattern of the Qwen tokenizers. Digits are split one by one."""
_MODELS_OF_FILES = ("mistral", "mistral3", "ministral", "ministral3", "mixtral")
"""Model types for which release 5 of transformers uses the ``tokenizer.json`` of a LlamaTokenizer as it is."""


def apply_roberta(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Rebuild the parts of a RoBERTa tokenizer."""
    parts, adds_space = get_tokenizer_parts(tokenizer), options.get("add_prefix_space", False)
    check_part(folder, name, "model.type", parts["model"]["type"], "BPE")
    _set_plain_bpe(tokenizer, folder, parts["model"])
    check_part(folder, name, "normalizer", parts["normalizer"], None)
    check_part(folder, name, "pre_tokenizer", (parts["pre_tokenizer"] or {}).get("type"), "ByteLevel")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_space)
    set_roberta_template(tokenizer, folder, options, _ROBERTA_FRAME, adds_space=adds_space)


def _set_plain_bpe(tokenizer: Tokenizer, folder: Path, model: Mapping[str, Any]) -> None:
    """Reset the BPE options, so that the merges alone determine the ids. RobertaTokenizer ignores these options."""
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        check_part(folder, ROBERTA, f"model.{key}", model.get(key) or "", "")
    bpe = tokenizer.model
    assert isinstance(bpe, models.BPE)
    bpe.unk_token = None
    bpe.fuse_unk = bpe.byte_fallback = bpe.ignore_merges = False


def apply_qwen(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Check the parts of a Qwen2 or Qwen3 tokenizer. The template of ``tokenizer.json`` is used."""
    parts = get_tokenizer_parts(tokenizer)
    _check_bpe(folder, name, parts["model"], unk_token=None, fuse_unk=False, byte_fallback=False)
    check_part(folder, name, "normalizer", parts["normalizer"], {"type": "NFC"})
    steps = list_steps(parts["pre_tokenizer"], "pretokenizers")
    check_part(folder, name, "pre_tokenizer", [step["type"] for step in steps], ["Split", "ByteLevel"])
    split, level = steps
    expected = {"pattern": {"Regex": _QWEN_PATTERN}, "behavior": "Isolated", "invert": False}
    for key, value in expected.items():
        check_part(folder, name, f"pre_tokenizer.{key}", split[key], value)
    for key, value in (("add_prefix_space", options.get("add_prefix_space", False)), ("use_regex", False)):
        check_part(folder, name, f"pre_tokenizer.{key}", level[key], value)


def apply_llama(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Check the parts and the template of a Llama tokenizer.

    A byte-level tokenizer, such as Llama 3's, and the tokenizer of a Mistral model may have any parts.
    """
    parts = get_tokenizer_parts(tokenizer)
    steps = list_steps(parts["pre_tokenizer"], "pretokenizers")
    is_as_it_is = options["model_type"] in _MODELS_OF_FILES or any(step["type"] == "ByteLevel" for step in steps)
    if not is_as_it_is:
        _check_bpe(folder, name, parts["model"], fuse_unk=True, byte_fallback=True)
        _check_bytes(tokenizer, folder, name)
        check_part(folder, name, "normalizer", parts["normalizer"], None)
        first = "always" if options.get("legacy", False) else "first"
        scheme = first if options.get("add_prefix_space", True) else "never"
        split = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
        check_part(folder, name, "pre_tokenizer", parts["pre_tokenizer"], split)
    _check_template(tokenizer, folder, options, names=("<s>", "</s>"))


def apply_gemma(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    """Check the parts and the template of a Gemma tokenizer."""
    parts = get_tokenizer_parts(tokenizer)
    unknown = get_token_content(options.get("unk_token", "<unk>"))
    _check_bpe(folder, name, parts["model"], unk_token=unknown, fuse_unk=True, byte_fallback=True)
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    check_part(folder, name, "normalizer", parts["normalizer"], space)
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    check_part(folder, name, "pre_tokenizer", parts["pre_tokenizer"], split)
    _check_template(tokenizer, folder, options, names=("<bos>", "<eos>"))


def _check_bpe(folder: Path, name: str, model: Mapping[str, Any], **expected: Any) -> None:
    check_part(folder, name, "model.type", model["type"], "BPE")
    for key, value in expected.items():
        check_part(folder, name, f"model.{key}", model.get(key), value)
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        check_part(folder, name, f"model.{key}", model.get(key) or None, None)


def _check_bytes(tokenizer: Tokenizer, folder: Path, name: str) -> None:
    """Check that every byte has a token. Releases of transformers differ in the ids of unknown characters."""
    missing = next((f"<0x{byte:02X}>" for byte in range(256) if tokenizer.token_to_id(f"<0x{byte:02X}>") is None), None)
    if missing is not None:
        reason = f"the vocabulary lacks the byte {missing}, which transformers' {name} needs. {FORCE_HINT}"
        raise UnsupportedModelError.at(folder / "tokenizer.json", reason)


def _check_template(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], names: tuple[str, str]) -> None:
    """Check that the template agrees with ``add_bos_token`` and ``add_eos_token``.

    Release 4 of transformers follows these settings, and release 5 follows ``tokenizer.json``. Release 5 saves no
    such settings, but saves ``backend``.

    Raises:
        UnsupportedModelError: The settings and ``tokenizer.json`` differ.
    """
    if "backend" in options:
        return
    flags = options.get("add_bos_token", True), options.get("add_eos_token", False)
    keys = ("bos_token", "eos_token")
    before, after = (
        [find_token(tokenizer, folder, options, key, token)[1]] if flag else []
        for key, token, flag in zip(keys, names, flags, strict=True)
    )
    single = [*before, -1, *after]
    pair = [*single, *single] if before or after else single  # Two texts without a token between count as one.
    if find_frames(tokenizer) != (single, pair):
        adds = " and ".join(f"add_{key} is {str(flag).lower()}" for key, flag in zip(keys, flags, strict=True))
        reason = (
            f"{adds}, but the post_processor of tokenizer.json adds other tokens. Releases of transformers differ in "
            f"which wins. Save the tokenizer again with the release that the model was trained with. {FORCE_HINT}"
        )
        raise UnsupportedModelError.at(folder / "tokenizer_config.json", reason)
