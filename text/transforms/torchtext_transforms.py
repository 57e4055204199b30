"""Adapter for torchtext transforms, for code that already uses them. It can replace ``Tokenize``.

The last release of torchtext, 0.18, requires PyTorch 2.3. With the same vocabulary, torchtext and ``tokenizers`` give
the same ids. The only exception is a special token that occurs literally in a text: torchtext tokenizes its letters.
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
    """Transform that wraps a ``torchtext.transforms`` module and returns token batches like ``Tokenize``.

    A (title, text) pair becomes ``start title between text end``. Special tokens and padding that the wrapped transform
    adds (``AddToken``, ``ToTensor``) are removed first. Tokens that its ``Truncate`` removes are not reported as
    truncated.

    Args:
        transform: Callable from a list of texts, or from one text, to ids: integers, strings of digits or a tensor.
            Examples: ``GPT2BPETokenizer``, or a ``Sequential`` such as ``ROBERTA_BASE_ENCODER.transform()``.
        max_length: Maximum number of tokens per text, including special tokens and prompt.
        prompt: Prefix of each text, or of the title of a pair.
        start: Ids before a text. Default: RoBERTa's ``<s>``. BERT's [CLS] has another id.
        between: Ids between title and text. Default: ``</s></s>``.
        end: Ids after a text. Default: ``</s>``.
        padding_idx: Id of the padding token. Default: ``<pad>``.

    Raises:
        ValueError: ``max_length`` leaves no room for a text. Or the transform returns no ids, or returns the id of a
            special token for a plain character. GPT-2's vocabulary does so, because it lacks RoBERTa's special tokens.
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
    """Function from texts to ids without special tokens. It is a module, so that the transform becomes a submodule."""

    def __init__(self, transform: Callable, start: list[int], end: list[int], padding_idx: int) -> None:
        super().__init__()
        self.transform = transform
        self.start, self.end, self.padding_idx = start, end, padding_idx

    def forward(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            rows = self.transform(list(texts)) if len(texts) else []
        except TypeError:  # RegexTokenizer accepts only a single text.
            rows = [self.transform(text) for text in texts]
        is_padded = isinstance(rows, Tensor)
        return [self._strip_special_ids(row, is_padded) for row in (rows.tolist() if is_padded else rows)]

    def _strip_special_ids(self, row: list[int] | list[str], is_padded: bool) -> np.ndarray:
        try:
            ids = [int(token) for token in row]
        except ValueError:
            raise ValueError(
                f"the transform returns {row[:3]} instead of ids. Add a vocabulary (VocabTransform) to it."
            ) from None
        while is_padded and ids and ids[-1] == self.padding_idx:
            ids.pop()
        is_wrapped = ids[: len(self.start)] == self.start and ids[len(ids) - len(self.end) :] == self.end
        if is_wrapped and len(ids) >= len(self.start) + len(self.end):
            ids = ids[len(self.start) : len(ids) - len(self.end)]
        return np.array(ids, dtype=np.int32)


def _check_ids(encode: _Encode, special: set[int]) -> None:
    """Check that no ASCII character has the id of a special token."""
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    for character, ids in zip(characters, encode(characters), strict=True):
        for token in special.intersection(ids.tolist()):
            raise ValueError(
                f'the transform gives "{character}" the id {token}, which belongs to a special token. Use a '
                "vocabulary with special tokens, such as RoBERTa's (VocabTransform)."
            )


def torchtext_bpe(tokenizer: Tokenizer) -> nn.Module:
    """Build torchtext's ``GPT2BPETokenizer`` with the vocabulary and merges of a byte-level BPE.

    Args:
        tokenizer: Byte-level BPE, loaded from GPT-2's or RoBERTa's files or trained by ``train_tokenizer``.

    Raises:
        ValueError: The tokenizer is not a byte-level BPE, or ``<s>``, ``<pad>`` and ``</s>`` are not ids 0, 1 and 2.
        ImportError: torchtext is not installed.
        OSError: The installed torchtext does not work with the installed PyTorch.
    """
    with warnings.catch_warnings():
        # torchtext 0.18 warns at every import that it is the last release.
        warnings.filterwarnings("ignore", message=r"(?s).*TORCHTEXT STATUS", category=UserWarning)
        from torchtext.transforms import GPT2BPETokenizer  # pyright: ignore[reportMissingImports]

    config = json.loads(tokenizer.to_str())
    if not is_plain_byte_level_bpe(config):
        kind = config["model"]["type"]
        raise ValueError(
            f"the tokenizer is {kind}, or has options; torchtext needs a plain byte-level BPE like GPT-2's"
        )
    if [tokenizer.token_to_id(token) for token in ("<s>", "<pad>", "</s>")] != [0, 1, 2]:
        raise ValueError("the special tokens are not RoBERTa's; torchtext needs <s>, <pad>, </s> as ids 0, 1, 2")
    merges = "\n".join(["#version: 0.2", *map(" ".join, config["model"]["merges"]), ""])
    with tempfile.TemporaryDirectory() as folder:
        encoder_json, vocab_bpe = Path(folder, "encoder.json"), Path(folder, "vocab.bpe")
        encoder_json.write_text(json.dumps(config["model"]["vocab"]), encoding="utf-8")
        vocab_bpe.write_text(merges, encoding="utf-8")
        return GPT2BPETokenizer(str(encoder_json), str(vocab_bpe))
