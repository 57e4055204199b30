"""Tokenizers from files, to files, and trained, on the ``tokenizers`` library."""

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
from text.transforms.token_templates import check_templates
from text.transforms.tokenizer_classes import build_bert_normalizer
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
)

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""RoBERTa's, in the order of their ids, 0 to 4, in a vocabulary that we train."""

_BYTE_LEVEL_BPE = (
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("gpt2_bpe_encoder.json", "gpt2_bpe_vocab.bpe"),
)
"""What Hugging Face, GPT-2 and torchtext call a vocabulary and its merges."""
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
"""Hugging Face's names of special tokens."""


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from local files; the network is not asked.

    Args:
        path: A ``tokenizer.json``; or a folder that holds one (Hugging Face's form), or ``vocab.json``
            and ``merges.txt`` (RoBERTa's form), or GPT-2's own ``encoder.json`` and ``vocab.bpe`` (also
            under torchtext's names of them), or ``vocab.txt`` (BERT's form; it lower-cases unless
            ``do_lower_case`` in ``tokenizer_config.json`` is false). GPT-2's ids become RoBERTa's where
            fairseq's ``dict.txt`` is beside them; else they follow RoBERTa's special tokens, from 5 on.

    Raises:
        FileNotFoundError: Nothing of the kind is there.
        ArtifactError: The files cannot be read as a tokenizer.
        UnsupportedModelError: The tokenizer is one that is not supported, such as a vocabulary without RoBERTa's or
            BERT's special tokens.
    """
    files = find_tokenizer_files(path)
    check_sizes(files)
    with translate_tokenizer_errors(files):
        tokenizer = _load(files)
        _check_ids(tokenizer, files[0])
        if _is_listed(Path(path)):
            apply_lower_casing(tokenizer, files[0].parent)
        check_templates(tokenizer, files[0])
    return tokenizer


def _load(files: Sequence[Path]) -> Tokenizer:
    if files[0].name == "vocab.txt":
        return _load_word_piece(files[0])
    return _load_byte_level_bpe(*files[:2]) if len(files) > 1 else _load_whole(files[0])


def _check_ids(tokenizer: Tokenizer, file: Path) -> None:
    """Refuse a vocabulary in which two tokens share an id. The library drops one of them when it copies a tokenizer."""
    owner: dict[int, str] = {}
    for token, i in tokenizer.get_vocab().items():
        if owner.setdefault(i, token) != token:
            both = json.dumps([owner[i], token], ensure_ascii=False)
            raise ArtifactError(f"{file}: the tokens {both} have one id, {i}. Restore it, or save the tokenizer again.")


def list_tokenizer_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return all files of a folder that ``load_tokenizer`` reads, settings included.

    Raises:
        FileNotFoundError: There is no tokenizer.
    """
    files = find_tokenizer_files(folder)
    return [*files, *list_setting_files(files[0].parent)]


def find_tokenizer_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files of the vocabulary: a tokenizer.json; or vocabulary, merges and dictionary.

    Raises:
        FileNotFoundError: There are none.
    """
    folder = _transformer_folder(Path(path))
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
        f"{path}: no tokenizer; expected tokenizer.json, vocab.json with merges.txt, encoder.json with vocab.bpe, "
        "or vocab.txt"
    )


def _transformer_folder(path: Path) -> Path:
    """Return the folder of the transformer in a folder of sentence-transformers; any other path as it is."""
    modules = read_modules(path) if _is_listed(path) else []
    return modules[0][1] if modules else path


def _is_listed(path: Path) -> bool:
    """Return whether sentence-transformers wrote the folder. It reads its settings of a transformer only then."""
    return os.path.lexists(path / "modules.json")


def _load_whole(file: Path) -> Tokenizer:
    """Load a file in the form of tokenizers. The settings beside it count if it is a ``tokenizer.json``."""
    tokenizer = Tokenizer.from_file(str(file))
    dropout = round(getattr(tokenizer.model, "dropout", None) or 0.0, 6)
    check_settings(file, {"model.dropout": dropout}, {"model.dropout": TOKENIZER_MODEL["dropout"]})
    if file.name == "tokenizer.json":
        apply_settings(tokenizer, file.parent)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str | os.PathLike[str], *, max_length: int | None = None) -> None:
    """Writes ``tokenizer.json`` and what ``transformers`` and ``sentence-transformers`` need beside it.

    Args:
        tokenizer: One that ``load_tokenizer`` or ``train_tokenizer`` gave.
        folder: May hold an encoder, and shall for the two libraries to make use of it.
        max_length: Most tokens of a text, for the two.

    Raises:
        ValueError: There is no padding token.
        OSError: The folder cannot be written.
    """
    padding = str(tokenizer.id_to_token(get_padding_idx(tokenizer)))
    names = (_BERT_NAMES if padding == "[PAD]" else _ROBERTA_NAMES) | {"pad_token": padding}
    # A name without an entry would become a new one.
    special = {name: token for name, token in names.items() if tokenizer.token_to_id(token) is not None}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **special,
        **({} if max_length is None else {"model_max_length": max_length}),
    }
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.no_truncation()
    bare.no_padding()
    write_text(Path(folder) / "tokenizer.json", bare.to_str(pretty=True))
    write_json(Path(folder) / "tokenizer_config.json", config)


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, show_progress: bool = False) -> Tokenizer:
    """A byte-level BPE as RoBERTa's, learned from the texts.

    Args:
        texts: What the tokenizer shall be good at; the same texts give the same tokenizer.
        vocab_size: Most entries; few texts give fewer. At least 261: 256 bytes and 5 special tokens.

    Raises:
        ValueError: ``vocab_size`` is below 261.
    """
    least = 256 + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise ValueError(f"vocab_size is {vocab_size}; expected {least} or more")
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
    return _as_roberta(tokenizer)


def load_or_train_tokenizer(
    path: str | os.PathLike[str] | None, texts: Callable[[], Iterable[str]], vocab_size: int
) -> Tokenizer:
    """Return the tokenizer at a path, or train one if the path is None.

    Args:
        path: As in ``load_tokenizer``.
        texts: Is called for the texts to train on.
        vocab_size: As in ``train_tokenizer``.
    """
    if path is not None:
        return load_tokenizer(path)
    return train_tokenizer(texts(), vocab_size, show_progress=sys.stderr.isatty())


def _load_byte_level_bpe(vocab: Path, merges: Path) -> Tokenizer:
    """RoBERTa's, or GPT-2's (Radford et al. 2019), of which RoBERTa's differs by its ids alone."""
    entries, pairs = models.BPE.read_file(str(vocab), str(merges))
    if vocab.name != "vocab.json":
        entries = _with_ids_of_roberta(entries, vocab.parent / "dict.txt")
    tokenizer = Tokenizer(models.BPE(entries, pairs))
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise UnsupportedModelError.at(vocab, f"it lacks {', '.join(missing)}. RoBERTa's special tokens must be in it.")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # transformers reads vocab.json, and gives "<mask>" no space unless a file beside it says so.
    tokenizer = _as_roberta(tokenizer, mask_takes_space=vocab.name != "vocab.json")
    return apply_token_settings(tokenizer, vocab.parent, _ROBERTA_NAMES)


def _with_ids_of_roberta(entries: dict[str, int], dictionary: Path) -> dict[str, int]:
    """GPT-2's entries, and RoBERTa's special tokens.

    fairseq's dictionary has a line for each id from 4 on: GPT-2's id, or a made-up word, and a count.
    """
    if not dictionary.is_file():
        return {
            token: i for i, token in enumerate((*SPECIAL_TOKENS, *sorted(entries, key=lambda token: entries[token])))
        }
    token_of = {str(i): token for token, i in entries.items()}
    lines = dictionary.read_text(encoding="utf-8").splitlines()
    words = [line.rpartition(" ")[0] for line in lines]
    missing = token_of.keys() - set(words)
    if missing or len(set(words)) < len(words):
        found = f"GPT-2's id {min(missing, key=int)} is missing" if missing else "a word stands twice"
        raise ArtifactError(f"{dictionary}: {found}; expected fairseq's dictionary, with every id of encoder.json once")
    tokens = [*SPECIAL_TOKENS[:4], *(token_of.get(word, word) for word in words), SPECIAL_TOKENS[4]]
    return {token: i for i, token in enumerate(tokens)}


def _load_word_piece(vocab: Path) -> Tokenizer:
    """BERT's (arXiv:1810.04805), with the options that ``transformers`` knows."""
    options = read_options(vocab.parent)
    tokenizer = Tokenizer(models.WordPiece.from_file(str(vocab), unk_token="[UNK]"))
    missing = [token for token in _BERT_NAMES.values() if tokenizer.token_to_id(token) is None]
    if missing:
        raise UnsupportedModelError.at(vocab, f"it lacks {', '.join(missing)}. BERT's special tokens must be in it.")
    tokenizer.add_special_tokens(list(_BERT_NAMES.values()))
    tokenizer.normalizer = build_bert_normalizer(vocab.parent, options, find_class_name(vocab.parent, options))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    cls_id, sep_id = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    assert cls_id is not None and sep_id is not None
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep_id), ("[CLS]", cls_id))
    return apply_token_settings(tokenizer, vocab.parent, _BERT_NAMES)


def _as_roberta(tokenizer: Tokenizer, *, mask_takes_space: bool = True) -> Tokenizer:
    """Add RoBERTa's special tokens, decoder and pair encoding.

    Args:
        tokenizer: The tokenizer to change.
        mask_takes_space: Whether "<mask>" takes the space before it, so that it can stand for a word.
    """
    mask = AddedToken("<mask>", lstrip=mask_takes_space, special=True)
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
        UnsupportedModelError: The tokenizer has none.
    """
    index = find_padding(tokenizer)
    if index is None:
        names = " or ".join(PADDING_TOKENS)
        reason = f"it has no padding token. Add {names}, or name one in tokenizer_config.json."
        raise UnsupportedModelError.at("the tokenizer", reason)
    return index


def count_ids(tokenizer: Tokenizer) -> int:
    """Return how many ids a table of embeddings needs: one more than the highest id, which can leave some out."""
    return max(tokenizer.get_vocab().values()) + 1


def encoder_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the settings of an encoder with random weights that its tokenizer decides.

    Raises:
        UnsupportedModelError: The tokenizer has no padding token.

    >>> encoder_settings(train_tokenizer(["oak oak"], vocab_size=300))
    {'vocab_size': 263, 'pad_token_id': 1, 'bos_token_id': 0, 'eos_token_id': 2}
    """
    around = tokenizer.encode("").ids
    return {
        "vocab_size": count_ids(tokenizer),
        "pad_token_id": get_padding_idx(tokenizer),
        "bos_token_id": around[0] if around else None,
        "eos_token_id": around[-1] if around else None,
    }
