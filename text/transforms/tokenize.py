"""Texts to token batches, on the ``tokenizers`` library.

``load_tokenizer`` and ``train_tokenizer`` give a ``tokenizers.Tokenizer``; ``Tokenize`` adds what
an encoder needs: limits, padding, masks, and which texts were too long. Its two halves can be done
apart, text to ids once (``encode``) and ids to batches often.

Dimensions: N texts; L tokens.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from text.artifacts import write_json, write_text
from text.errors import ArtifactError
from text.records import TokenBatch
from text.transforms.byte_level_bpe import encode_batch, tiktoken_encoder

Encode = Callable[[Sequence[str]], list[np.ndarray]]
Text = str | np.ndarray
"""A text, or its ids."""

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""RoBERTa's, in the order of their ids, 0 to 4, in a vocabulary that we train."""

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
_NOTHING = np.empty(0, dtype=np.int64)


class Tokenize(nn.Module):
    """Texts, or pairs of title and text, to one TokenBatch.

    A pair becomes ``<s> title </s></s> text </s>`` (RoBERTa's pair encoding, or whatever the
    tokenizer's own post-processor makes of a pair); one whose title has no token is encoded as the
    text alone. What is too long loses tokens from the end of its longer part, one by one.

    Args:
        tokenizer: A trained tokenizer; it is copied, so that two limits can share one.
        max_length: Most tokens a text may have, special tokens and prompt included.
        prompt: Put before every text, or title; "query: " is one.

    Raises:
        ValueError: ``max_length`` leaves no room for a text; there is no padding token; the
            post-processor does more than to put special tokens around texts; or the prompt's
            last token would grow together with the text.
    """

    fingerprint: str
    """Hex SHA-256 of what decides the ids of ``encode``; the same for every ``max_length``."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, prompt: str = "") -> None:
        super().__init__()
        self.max_length = max_length
        self.padding_idx = _padding_idx(tokenizer)
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = tokenizer.get_vocab_size()
        self.fingerprint = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()
        self._encoder: Encode = tiktoken_encoder(self._tokenizer) or functools.partial(encode_batch, self._tokenizer)
        single, pair = (_template(self._encoder, self._tokenizer, *texts) for texts in (("a",), ("a", "b b")))
        for template in (single, pair):
            template[0] = np.concatenate([template[0], _prompt(self._encoder, prompt)])
        self._templates = {1: (*single, _NOTHING), 2: pair}
        least = sum(map(len, pair)) + 2
        if max_length < least:
            raise ValueError(f"max_length is {max_length}; expected {least} or more, to hold a title and a text")

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text: int32, whole, without special tokens. ``forward`` takes them in its stead."""
        return self._encoder(texts)

    def forward(self, texts: Sequence[Text | tuple[Text, Text]]) -> TokenBatch:
        """Tokenizes N texts together, padded to the longest of them.

        Args:
            texts: Strings, or ids as ``encode`` gives them (any integer type), or (title, text) of
                these; all kinds may stand in one call.

        Returns:
            (N, L) ids and mask with L at most ``max_length``.

        Raises:
            ValueError: There is no text.
        """
        if not texts:
            raise ValueError("texts is empty; expected at least one")
        rows = [self._row(*parts) for parts in self._ids(texts)]
        lengths = np.array([sum(map(len, row)) for row, _, _ in rows])  # (N,)
        attention_mask = np.arange(lengths.max()) < lengths[:, None]  # (N, L)
        input_ids = np.full(attention_mask.shape, self.padding_idx, dtype=np.int64)
        input_ids[attention_mask] = np.concatenate([part for row, _, _ in rows for part in row], dtype=np.int64)
        return TokenBatch(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention_mask),
            truncated=torch.tensor([truncated for _, truncated, _ in rows]),
            empty=torch.tensor([empty for _, _, empty in rows]),
        )

    def _ids(self, texts: Sequence[Text | tuple[Text, Text]]) -> list[list[np.ndarray]]:
        """The ids of each text, or title and text."""
        items = [(text,) if isinstance(text, (str, np.ndarray)) else text for text in texts]
        encoded = iter(self.encode([part for parts in items for part in parts if isinstance(part, str)]))
        return [[next(encoded) if isinstance(part, str) else part for part in parts] for parts in items]

    def _row(self, *ids: np.ndarray) -> tuple[list[np.ndarray], bool, bool]:
        """The parts of one row, special tokens among them; whether it is truncated; whether it is empty."""
        ids = ids if len(ids[0]) else ids[1:] or ids  # a title without tokens leaves the text alone
        start, middle, end = self._templates[len(ids)]
        first, second = (*ids, _NOTHING)[:2]
        room = self.max_length - len(start) - len(middle) - len(end)
        kept, kept_second = _longest_first(len(first), len(second), room)
        row = [start, first[:kept], middle, second[:kept_second], end]
        return row, kept + kept_second < len(first) + len(second), kept == 0

    def extra_repr(self) -> str:
        return f"vocab_size={self._tokenizer.get_vocab_size()}, max_length={self.max_length}"


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from local files; the network is not asked.

    Args:
        path: A ``tokenizer.json``; or a folder that holds one (Hugging Face's form); or a folder
            with GPT-2 style ``vocab.json`` and ``merges.txt`` (RoBERTa's form), or with ``vocab.txt``
            (BERT's form; it lower-cases unless ``do_lower_case`` in ``tokenizer_config.json`` is false).

    Raises:
        FileNotFoundError: Nothing of the kind is there.
        ArtifactError: The files cannot be read as a tokenizer, or a vocabulary lacks RoBERTa's or
            BERT's special tokens.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    vocab, merges = path / "vocab.json", path / "merges.txt"
    if file.is_file():
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise ArtifactError(f"{file}: not a tokenizer ({error}); expected the form of tokenizers") from None
    if vocab.is_file() and merges.is_file():
        return _load_byte_level_bpe(vocab, merges)
    if (path / "vocab.txt").is_file():
        return _load_word_piece(path / "vocab.txt")
    raise FileNotFoundError(
        f"{path}: no tokenizer; expected tokenizer.json, or vocab.json with merges.txt, or vocab.txt"
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
    names = _BERT_NAMES if tokenizer.id_to_token(_padding_idx(tokenizer)) == "[PAD]" else _ROBERTA_NAMES
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


def _load_byte_level_bpe(vocab: Path, merges: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises plain Exception
        raise ArtifactError(f"{vocab.parent}: not a tokenizer ({error}); expected vocab.json, merges.txt") from None
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise ArtifactError(f"{vocab}: lacks {', '.join(missing)}; expected RoBERTa's special tokens in it")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _as_roberta(tokenizer)


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


def _padding_idx(tokenizer: Tokenizer) -> int:
    known = [index for token in _PADDING_TOKENS if (index := tokenizer.token_to_id(token)) is not None]
    if not known:
        raise ValueError(f"the tokenizer has no padding token; expected {' or '.join(_PADDING_TOKENS)}")
    return known[0]


def _template(encode: Encode, tokenizer: Tokenizer, first: str, second: str | None = None) -> list[np.ndarray]:
    """The special tokens that the post-processor puts before, between and after texts."""
    encoding = tokenizer.encode(first, second)
    special, parts, at = [*encoding.special_tokens_mask, 0], [], 0
    for ids in encode([first] if second is None else [first, second]):
        begin = special.index(0, at)
        parts.append(encoding.ids[at:begin])
        at = begin + len(ids)
        if not len(ids) or encoding.ids[begin:at] != ids.tolist():
            raise _no_template(encoding.tokens, first, second)
    if not all(special[at:-1]):
        raise _no_template(encoding.tokens, first, second)
    return [np.array(part, dtype=np.int64) for part in (*parts, encoding.ids[at:])]


def _prompt(encode: Encode, prompt: str) -> np.ndarray:
    """Its ids. Text is tokenized by itself, so that the two must not have a token in common."""
    if not prompt:
        return _NOTHING
    [ids] = encode([prompt.rstrip()])
    for text in ("a", "A", "1", "."):
        whole, apart = encode([prompt + text, text])
        if whole.tolist() != [*ids, *apart]:
            raise ValueError(
                f'the tokenizer joins "{prompt}" with the text after it; expected a prompt that ends apart'
            )
    return ids.astype(np.int64)


def _no_template(tokens: list[str], first: str, second: str | None) -> ValueError:
    texts = f'the text "{first}"' if second is None else f'the title "{first}" and the text "{second}"'
    return ValueError(f"the tokenizer makes {tokens} of {texts}; expected their tokens in order, special ones around")


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts stay, taking one by one from the longer (``tokenizers``, truncate_encodings)."""
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)
