"""torchtext's transforms in the place of Tokenize, for code that has them.

torchtext's last release, 0.18, loads on PyTorch 2.3 only. What it gives and what ``tokenizers`` gives are the same
ids, for one vocabulary, but where a special token stands literally in a text: here its letters are tokenized.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from torch import Tensor, nn

from text.transforms.byte_level_bpe import is_plain_byte_level_bpe
from text.transforms.layout import Templates, TokenLayout


class TorchtextTokenize(TokenLayout):
    """A transform of ``torchtext.transforms``, and what an encoder needs around it, as ``Tokenize`` has it.

    Pairs of title and text become ``start title between text end``. Special tokens and padding that the transform
    adds itself (``AddToken``, ``ToTensor``) are taken off first; what its ``Truncate`` cuts off is not counted as
    truncated.

    Args:
        transform: A list of texts, or one, to the ids of each, as numbers, strings of digits or a tensor: a
            ``GPT2BPETokenizer``, or a ``Sequential`` such as ``ROBERTA_BASE_ENCODER.transform()``.
        max_length: Most tokens a text may have, special tokens and prompt included.
        prompt: Put before every text, or title.
        start: Ids before a text; RoBERTa's ``<s>`` by default. BERT's [CLS] has another.
        between: Ids between title and text; by default ``</s></s>``.
        end: Ids after a text; by default ``</s>``.
        padding_idx: The id that fills rows up; by default ``<pad>``.

    Raises:
        ValueError: ``max_length`` leaves no room for a text; the transform gives no ids, or those of special tokens
            (as GPT-2's own do, which have no such tokens).
    """

    def __init__(
        self,
        transform: Callable[[list[str]], Any],
        max_length: int,
        prompt: str = "",
        *,
        start: Sequence[int] = (0,),
        between: Sequence[int] = (2, 2),
        end: Sequence[int] = (2,),
        padding_idx: int = 1,
    ) -> None:
        encode = _Encode(transform, list(start), list(end), padding_idx)
        _check_ids(encode, {*start, *between, *end, padding_idx})
        before, middle, after = (np.array(ids, dtype=np.int64) for ids in (start, between, end))
        templates = Templates((before, after), (before, middle, after))
        super().__init__(encode, templates, padding_idx, max_length, prompt)


class _Encode(nn.Module):
    """Texts to bare ids; a module, so that the transform is a part of what holds this."""

    def __init__(self, transform: Callable, start: list[int], end: list[int], padding_idx: int) -> None:
        super().__init__()
        self.transform = transform
        self.start, self.end, self.padding_idx = start, end, padding_idx

    def forward(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            rows = self.transform(list(texts)) if len(texts) else []
        except TypeError:  # RegexTokenizer takes one text
            rows = [self.transform(text) for text in texts]
        is_padded = isinstance(rows, Tensor)
        return [self._bare(row, is_padded) for row in (rows.tolist() if is_padded else rows)]

    def _bare(self, row: list[int] | list[str], is_padded: bool) -> np.ndarray:
        try:
            ids = [int(token) for token in row]
        except ValueError:
            raise ValueError(
                f"the transform gives {row[:3]}; expected ids: a vocabulary (VocabTransform) is missing"
            ) from None
        while is_padded and ids and ids[-1] == self.padding_idx:
            ids.pop()
        is_wrapped = ids[: len(self.start)] == self.start and ids[len(ids) - len(self.end) :] == self.end
        if is_wrapped and len(ids) >= len(self.start) + len(self.end):
            ids = ids[len(self.start) : len(ids) - len(self.end)]
        return np.array(ids, dtype=np.int32)


def _check_ids(encode: _Encode, special: set[int]) -> None:
    """That no character is a special token."""
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    for character, ids in zip(characters, encode(characters), strict=True):
        for token in special.intersection(ids.tolist()):
            raise ValueError(
                f'the transform gives "{character}" the id {token}, a special token\'s; expected ids of a vocabulary '
                "that has them, such as RoBERTa's (VocabTransform)"
            )


def torchtext_bpe(tokenizer: Tokenizer) -> nn.Module:
    """torchtext's ``GPT2BPETokenizer`` with the vocabulary and merges of a byte-level BPE.

    Args:
        tokenizer: From GPT-2's or RoBERTa's files, or trained here.

    Raises:
        ValueError: It is of another kind, or ``<s>``, ``<pad>`` and ``</s>`` are not 0, 1 and 2.
        ImportError: torchtext is not installed.
        OSError: The one that is does not fit this PyTorch.
    """
    with warnings.catch_warnings():
        # torchtext 0.18, the last release, says so at every import.
        warnings.filterwarnings("ignore", message=r"(?s).*TORCHTEXT STATUS", category=UserWarning)
        from torchtext.transforms import GPT2BPETokenizer  # pyright: ignore[reportMissingImports]

    config = json.loads(tokenizer.to_str())
    if not is_plain_byte_level_bpe(config):
        raise ValueError(f"the tokenizer is no plain byte-level BPE ({config['model']['type']}); expected GPT-2's kind")
    if [tokenizer.token_to_id(token) for token in ("<s>", "<pad>", "</s>")] != [0, 1, 2]:
        raise ValueError("the tokenizer has other special tokens than RoBERTa's; expected <s>, <pad>, </s> at 0, 1, 2")
    merges = "\n".join(["#version: 0.2", *map(" ".join, config["model"]["merges"]), ""])
    with tempfile.TemporaryDirectory() as folder:
        encoder_json, vocab_bpe = Path(folder, "encoder.json"), Path(folder, "vocab.bpe")
        encoder_json.write_text(json.dumps(config["model"]["vocab"]), encoding="utf-8")
        vocab_bpe.write_text(merges, encoding="utf-8")
        return GPT2BPETokenizer(str(encoder_json), str(vocab_bpe))
