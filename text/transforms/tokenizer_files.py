"""Loading, saving and training of tokenizers with the ``tokenizers`` library."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from text.artifacts import write_json, write_text
from text.errors import ArtifactError, UnsupportedModelError
from text.foreign_settings import TOKENIZER_MODEL, check_settings, read_modules
from text.transforms.token_templates import check_templates, find_special_ids
from text.transforms.tokenizer_classes import GENERIC_CLASSES
from text.transforms.tokenizer_errors import check_sizes, translate_tokenizer_errors
from text.transforms.tokenizer_settings import (
    PADDING_TOKENS,
    apply_lower_casing,
    apply_settings,
    apply_token_settings,
    find_class_name,
    find_padding,
    list_setting_files,
    read_options,
    read_token_type_setting,
)
from text.transforms.word_piece_classes import BERT, build_bert_normalizer

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""RoBERTa's special tokens, in the order of their ids (0 to 4) in a trained vocabulary."""

_BYTE_LEVEL_BPE = (
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("gpt2_bpe_encoder.json", "gpt2_bpe_vocab.bpe"),
)
"""File names of vocabulary and merges: Hugging Face's, GPT-2's and torchtext's."""
_ROBERTA_NAMES = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
_BERT_NAMES = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}
"""Special tokens by their names in Hugging Face's settings."""


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Load a tokenizer from local files, without network access.

    A folder may contain one of:

    - ``tokenizer.json`` (Hugging Face)
    - ``vocab.json`` and ``merges.txt`` (RoBERTa)
    - ``encoder.json`` and ``vocab.bpe`` (GPT-2), also under torchtext's names. With fairseq's ``dict.txt`` beside them,
      ids become RoBERTa's. Otherwise they follow RoBERTa's special tokens, starting at 5.
    - ``vocab.txt`` (BERT). It lower-cases unless ``do_lower_case`` in ``tokenizer_config.json`` is false.

    Args:
        path: A ``tokenizer.json``, or a folder.

    Raises:
        FileNotFoundError: The path contains no tokenizer.
        ArtifactError: The files cannot be read as a tokenizer.
        UnsupportedModelError: The tokenizer is not supported, for example a vocabulary without RoBERTa's or BERT's
            special tokens.
    """
    files = find_tokenizer_files(path)
    check_sizes(files)
    with translate_tokenizer_errors(files):
        tokenizer = _load(files)
        _check_ids(tokenizer, files[0])
        if _has_modules_file(Path(path)):
            apply_lower_casing(tokenizer, files[0].parent)
        check_templates(tokenizer, files[0])
    return tokenizer


def read_has_token_types(path: str | os.PathLike[str]) -> bool:
    """Return whether ``transformers`` gives an encoder the token types of pairs with the tokenizer of a folder.

    Raises:
        FileNotFoundError: The folder contains no tokenizer.
        ArtifactError, UnsupportedModelError: See ``load_tokenizer``.
    """
    return read_token_type_setting(find_tokenizer_files(path)[0].parent)


def _load(files: Sequence[Path]) -> Tokenizer:
    if files[0].name == "vocab.txt":
        return _load_word_piece(files[0])
    return _load_byte_level_bpe(*files[:2]) if len(files) > 1 else _load_tokenizer_json(files[0])


def _check_ids(tokenizer: Tokenizer, file: Path) -> None:
    """Check that no two tokens share an id, because the library drops one of them when it copies a tokenizer."""
    owner: dict[int, str] = {}
    for token, i in tokenizer.get_vocab().items():
        if owner.setdefault(i, token) != token:
            both = json.dumps([owner[i], token], ensure_ascii=False)
            raise ArtifactError(f"{file}: the tokens {both} share the id {i}. Restore it, or save the tokenizer again.")


def list_tokenizer_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the paths of all files that ``load_tokenizer`` reads from a folder, including settings.

    Raises:
        FileNotFoundError: The folder contains no tokenizer.
    """
    files = find_tokenizer_files(folder)
    return [*files, *list_setting_files(files[0].parent)]


def find_tokenizer_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the paths of ``tokenizer.json``, or of vocabulary, merges and fairseq's dictionary.

    Raises:
        FileNotFoundError: The path contains no tokenizer.
    """
    folder = _find_transformer_folder(Path(path))
    if folder.is_file():
        return [folder]
    for names in (("tokenizer.json",), *_BYTE_LEVEL_BPE, ("vocab.txt",)):
        if all((folder / name).is_file() for name in names):
            others = ["dict.txt"] if len(names) > 1 and names[0] != "vocab.json" else []
            return [
                *(folder / name for name in names),
                *(folder / name for name in others if (folder / name).is_file()),
            ]
    raise FileNotFoundError(
        f"{path}: no tokenizer found. Give a folder with tokenizer.json, with vocab.json and merges.txt, with "
        "encoder.json and vocab.bpe, or with vocab.txt."
    )


def _find_transformer_folder(path: Path) -> Path:
    """Return the folder of the transformer module in a sentence-transformers folder, or any other path unchanged."""
    modules = read_modules(path) if _has_modules_file(path) else []
    return modules[0][1] if modules else path


def _has_modules_file(path: Path) -> bool:
    """Return whether sentence-transformers wrote the folder. Its settings apply only to such a folder."""
    return os.path.lexists(path / "modules.json")


def _load_tokenizer_json(file: Path) -> Tokenizer:
    """Load a file of the tokenizers library. If its name is ``tokenizer.json``, apply the settings beside it."""
    tokenizer = Tokenizer.from_file(str(file))
    dropout = round(getattr(tokenizer.model, "dropout", None) or 0.0, 6)
    check_settings(file, {"model.dropout": dropout}, {"model.dropout": TOKENIZER_MODEL["dropout"]})
    if file.name == "tokenizer.json":
        apply_settings(tokenizer, file.parent)
    return tokenizer


def save_tokenizer(
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    *,
    max_length: int | None = None,
    has_token_types: bool = False,
) -> None:
    """Write ``tokenizer.json``, and the settings that ``transformers`` and ``sentence-transformers`` read with it.

    Args:
        tokenizer: Tokenizer from ``load_tokenizer`` or ``train_tokenizer``.
        folder: Output folder. The two libraries also need an encoder in it.
        max_length: Maximum number of tokens per text, stored for the two libraries.
        has_token_types: The encoder distinguishes the two texts of a pair by their token types.

    Raises:
        ValueError: The tokenizer has no padding token.
        OSError: The folder is not writable.
    """
    padding = str(tokenizer.id_to_token(get_padding_idx(tokenizer)))
    names = (_BERT_NAMES if padding == "[PAD]" else _ROBERTA_NAMES) | {"pad_token": padding}
    # transformers makes each named token special, also one that is missing or an ordinary entry of the vocabulary.
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    special = {name: token for name, token in names.items() if token in added or name == "pad_token"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", *(["token_type_ids"] if has_token_types else []), "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **special,
        **({} if max_length is None else {"model_max_length": max_length}),
        **({"padding_side": "left"} if (tokenizer.padding or {}).get("direction") == "left" else {}),
    }
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.no_truncation()
    bare.no_padding()
    write_text(Path(folder) / "tokenizer.json", bare.to_str(pretty=True))
    write_json(Path(folder) / "tokenizer_config.json", config)


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, show_progress: bool = False) -> Tokenizer:
    """Train a byte-level BPE with RoBERTa's special tokens.

    Args:
        texts: Training texts. The same texts give the same tokenizer.
        vocab_size: Maximum number of entries, at least 261 (256 bytes and 5 special tokens). Few texts give fewer.
        show_progress: Show a progress bar.

    Raises:
        ValueError: ``vocab_size`` is below 261.
    """
    minimum = 256 + len(SPECIAL_TOKENS)
    if vocab_size < minimum:
        raise ValueError(f"vocab_size is {vocab_size}; expected {minimum} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _add_roberta_parts(tokenizer)


def load_or_train_tokenizer(
    path: str | os.PathLike[str] | None, texts: Callable[[], Iterable[str]], vocab_size: int
) -> Tokenizer:
    """Load a tokenizer from a path, or train a tokenizer if the path is None.

    Args:
        path: File or folder for ``load_tokenizer``, or None.
        texts: Function that returns the training texts. It is called only to train.
        vocab_size: Maximum number of entries of a trained tokenizer.
    """
    if path is not None:
        return load_tokenizer(path)
    return train_tokenizer(texts(), vocab_size, show_progress=sys.stderr.isatty())


def _load_byte_level_bpe(vocab: Path, merges: Path) -> Tokenizer:
    """Load RoBERTa's tokenizer, or GPT-2's (Radford et al. 2019), which differs from RoBERTa's only in its ids."""
    entries, pairs = models.BPE.read_file(str(vocab), str(merges))
    if vocab.name != "vocab.json":
        entries = _map_to_roberta_ids(entries, vocab.parent / "dict.txt")
    tokenizer = Tokenizer(models.BPE(entries, pairs))
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise UnsupportedModelError.at(vocab, f"it lacks {', '.join(missing)}. Add RoBERTa's special tokens.")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # With vocab.json, "<mask>" of transformers does not absorb the space before it unless another file sets this.
    tokenizer = _add_roberta_parts(tokenizer, should_mask_strip=vocab.name != "vocab.json")
    return apply_token_settings(tokenizer, vocab.parent, _ROBERTA_NAMES)


def _map_to_roberta_ids(entries: dict[str, int], dictionary: Path) -> dict[str, int]:
    """Return GPT-2's entries and RoBERTa's special tokens, with RoBERTa's ids.

    fairseq's dictionary has one line per id, starting at 4: GPT-2's id or a filler word, and a count.
    """
    if not dictionary.is_file():
        return {
            token: i for i, token in enumerate((*SPECIAL_TOKENS, *sorted(entries, key=lambda token: entries[token])))
        }
    gpt2_tokens = {str(i): token for token, i in entries.items()}
    lines = dictionary.read_text(encoding="utf-8").splitlines()
    words = [line.rpartition(" ")[0] for line in lines]
    missing = gpt2_tokens.keys() - set(words)
    if missing or len(set(words)) < len(words):
        found = f"GPT-2's id {min(missing, key=int)} is missing" if missing else "a word occurs twice"
        raise ArtifactError(f"{dictionary}: {found}. Use fairseq's dictionary, with every id of encoder.json once.")
    tokens = [*SPECIAL_TOKENS[:4], *(gpt2_tokens.get(word, word) for word in words), SPECIAL_TOKENS[4]]
    return {token: i for i, token in enumerate(tokens)}


def _load_word_piece(vocab: Path) -> Tokenizer:
    """Load BERT's tokenizer (arXiv:1810.04805), with the options that ``transformers`` supports."""
    options = read_options(vocab.parent)
    name = find_class_name(vocab.parent, options)
    if name not in ("", *BERT, *GENERIC_CLASSES):
        reason = f"a {name} needs a tokenizer.json. Save the tokenizer with transformers, which writes this file."
        raise UnsupportedModelError.at(vocab, reason)
    tokenizer = Tokenizer(models.WordPiece.from_file(str(vocab), unk_token="[UNK]"))
    missing = [token for token in _BERT_NAMES.values() if tokenizer.token_to_id(token) is None]
    if missing:
        raise UnsupportedModelError.at(vocab, f"it lacks {', '.join(missing)}. Add BERT's special tokens.")
    tokenizer.add_special_tokens(list(_BERT_NAMES.values()))
    tokenizer.normalizer = build_bert_normalizer(vocab.parent, options, name)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    cls_id, sep_id = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    assert cls_id is not None and sep_id is not None
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep_id), ("[CLS]", cls_id))
    return apply_token_settings(tokenizer, vocab.parent, _BERT_NAMES)


def _add_roberta_parts(tokenizer: Tokenizer, *, should_mask_strip: bool = True) -> Tokenizer:
    """Add RoBERTa's special tokens, decoder and pair template.

    Args:
        tokenizer: Tokenizer to change in place.
        should_mask_strip: If True, "<mask>" absorbs the space before it, so that it can replace a word.
    """
    mask = AddedToken("<mask>", lstrip=should_mask_strip, special=True)
    tokenizer.add_special_tokens([*SPECIAL_TOKENS[:-1], mask])
    tokenizer.decoder = decoders.ByteLevel()
    cls_id, sep_id = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    assert cls_id is not None and sep_id is not None
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", sep_id), ("<s>", cls_id), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def get_padding_idx(tokenizer: Tokenizer) -> int:
    """Return the id of the padding token.

    Raises:
        UnsupportedModelError: The tokenizer has no padding token.
    """
    index = find_padding(tokenizer)
    if index is None:
        names = " or ".join(PADDING_TOKENS)
        reason = f'it has no padding token. Add {names}, or name one in tokenizer_config.json: "pad_token": "</s>".'
        raise UnsupportedModelError.at("the tokenizer", reason)
    return index


def count_ids(tokenizer: Tokenizer) -> int:
    """Return the number of rows that an embedding table needs: one more than the highest id. Ids may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def encoder_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the encoder settings that depend on the tokenizer, for an encoder with random weights.

    Raises:
        UnsupportedModelError: The tokenizer has no padding token.

    >>> encoder_settings(train_tokenizer(["oak oak"], vocab_size=300))
    {'vocab_size': 263, 'pad_token_id': 1, 'bos_token_id': 0, 'eos_token_id': 2}
    """
    before, after = find_special_ids(tokenizer)
    return {
        "vocab_size": count_ids(tokenizer),
        "pad_token_id": get_padding_idx(tokenizer),
        "bos_token_id": before[0] if before else None,
        "eos_token_id": after[-1] if after else None,
    }
