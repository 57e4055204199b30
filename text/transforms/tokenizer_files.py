"""Tokenizers from files, to files, and trained, on the ``tokenizers`` library."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from text.artifacts import write_json, write_text
from text.errors import ArtifactError

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""RoBERTa's, in the order of their ids, 0 to 4, in a vocabulary that we train."""

_BYTE_LEVEL_BPE = (
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("gpt2_bpe_encoder.json", "gpt2_bpe_vocab.bpe"),
)
"""What Hugging Face, GPT-2 and torchtext call a vocabulary and its merges."""
_PADDING_TOKENS = ("<pad>", "[PAD]")
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
        ArtifactError: The files cannot be read as a tokenizer, or a vocabulary lacks RoBERTa's or
            BERT's special tokens.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise ArtifactError(f"{file}: not a tokenizer ({error}); expected the form of tokenizers") from None
    for vocab, merges in _BYTE_LEVEL_BPE:
        if (path / vocab).is_file() and (path / merges).is_file():
            return _as_told_beside(path, _load_byte_level_bpe(path / vocab, path / merges))
    if (path / "vocab.txt").is_file():
        return _as_told_beside(path, _load_word_piece(path / "vocab.txt"))
    raise FileNotFoundError(
        f"{path}: no tokenizer; expected tokenizer.json, vocab.json with merges.txt, encoder.json with vocab.bpe, "
        "or vocab.txt"
    )


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
    names = _BERT_NAMES if tokenizer.id_to_token(padding_idx(tokenizer)) == "[PAD]" else _ROBERTA_NAMES
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
    try:
        entries, pairs = models.BPE.read_file(str(vocab), str(merges))
        if vocab.name != "vocab.json":
            entries = _with_ids_of_roberta(entries, vocab.parent / "dict.txt")
        tokenizer = Tokenizer(models.BPE(entries, pairs))
    except ArtifactError:
        raise
    except Exception as error:  # the library raises plain Exception
        found = f"{vocab.parent}: not a tokenizer ({error})"
        raise ArtifactError(f"{found}; expected {vocab.name}, {merges.name}") from None
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise ArtifactError(f"{vocab}: lacks {', '.join(missing)}; expected RoBERTa's special tokens in it")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _as_roberta(tokenizer)


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
    options = _tokenizer_config(vocab.parent / "tokenizer_config.json")
    try:
        tokenizer = Tokenizer(models.WordPiece.from_file(str(vocab), unk_token="[UNK]"))
    except Exception as error:  # the library raises plain Exception
        raise ArtifactError(f"{vocab}: not a vocabulary ({error}); expected a token a line") from None
    missing = [token for token in _BERT_NAMES.values() if tokenizer.token_to_id(token) is None]
    if missing:
        raise ArtifactError(f"{vocab}: lacks {', '.join(missing)}; expected BERT's special tokens in it")
    tokenizer.add_special_tokens(list(_BERT_NAMES.values()))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=options.get("do_lower_case", True),
        strip_accents=options.get("strip_accents"),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    cls_id, sep_id = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    assert cls_id is not None and sep_id is not None
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep_id), ("[CLS]", cls_id))
    return tokenizer


def _as_told_beside(folder: Path, tokenizer: Tokenizer) -> Tokenizer:
    """The same, if the files beside its vocabulary change nothing: without ``tokenizer.json``, that is not built.

    Raises:
        ArtifactError: There are more tokens in them, or a space goes before each text.
    """
    options, added = (_tokenizer_config(folder / name) for name in ("tokenizer_config.json", "added_tokens.json"))
    try:
        decoder = {token["content"]: int(i) for i, token in options.get("added_tokens_decoder", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ArtifactError(f"{folder}/tokenizer_config.json: added_tokens_decoder; expected tokens by id") from None
    more = [token for token, i in {**decoder, **added}.items() if tokenizer.token_to_id(token) != i]
    if more or options.get("add_prefix_space", False):
        found = f"token {more[0]} beside the vocabulary" if more else "add_prefix_space is true"
        raise ArtifactError(f"{folder}: {found}; expected a tokenizer.json with it, as transformers saves")
    return tokenizer


def _tokenizer_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: not JSON ({error}); expected a tokenizer's options") from None
    if not isinstance(options, dict):
        raise ArtifactError(f"{path}: a {type(options).__name__}; expected a tokenizer's options")
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if options.get(name) not in (None, True, False):
            raise ArtifactError(f"{path}: {name} is {json.dumps(options[name])}; expected true or false")
    return {name: option for name, option in options.items() if option is not None}


def _as_roberta(tokenizer: Tokenizer) -> Tokenizer:
    """Adds RoBERTa's special tokens, decoder and pair encoding."""
    # "<mask>" takes the space before it, so that it can stand for a word.
    tokenizer.add_special_tokens([*SPECIAL_TOKENS[:-1], AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.decoder = decoders.ByteLevel()
    cls_id, sep_id = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    assert cls_id is not None and sep_id is not None
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", sep_id), ("<s>", cls_id), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def padding_idx(tokenizer: Tokenizer) -> int:
    """The id of its padding token.

    Raises:
        ValueError: It has none.
    """
    known = [index for token in _PADDING_TOKENS if (index := tokenizer.token_to_id(token)) is not None]
    if not known:
        raise ValueError(f"the tokenizer has no padding token; expected {' or '.join(_PADDING_TOKENS)}")
    return known[0]
