"""Tokenization of texts into token batches with the ``tokenizers`` library.

``tokenizer_files.py`` loads tokenizers. ``layout.py`` arranges the ids in batches. Texts can be encoded once
(``encode``), and the ids used for many batches.
"""

from __future__ import annotations

import functools
import hashlib

from tokenizers import Tokenizer

from text.transforms.byte_level_bpe import build_tiktoken_encoder, encode_batch
from text.transforms.layout import Encode, TokenLayout
from text.transforms.long_texts import cut_long_texts
from text.transforms.token_templates import copy_without_limits, find_templates
from text.transforms.tokenizer_files import count_ids, get_padding_idx


class Tokenize(TokenLayout):
    """Transform from texts, or (title, text) pairs, to one TokenBatch.

    The tokenizer's post-processor defines the template of a pair, such as RoBERTa's ``<s> title </s></s> text </s>``. A
    pair whose title has no token is encoded like a single text. Truncation removes tokens one by one from the end of
    the longer part.

    Args:
        tokenizer: Trained tokenizer. It is copied, so two transforms with different limits can share it.
        max_length: Maximum number of tokens per text, including special tokens and prompt.
        prompt: Prefix of each text, or of the title of a pair, such as "query: ". Prompt and text are tokenized as one
            string.

    Raises:
        ValueError: ``max_length`` leaves no room for a text, the tokenizer has no padding token, or its post-processor
            does more than add special tokens around texts.

    >>> from text.transforms import train_tokenizer
    >>> tokenize = Tokenize(train_tokenizer(["oak oak"], vocab_size=300), max_length=8)
    >>> tokens = tokenize(["oak", ("oak", "oak oak oak oak")])  # <s> 0, <pad> 1, </s> 2
    >>> tokens.input_ids[0].tolist(), tokens.input_ids[1, :4].tolist()
    ([0, 262, 2, 1, 1, 1, 1, 1], [0, 262, 2, 2])
    >>> tokens.truncated
    tensor([False,  True])
    """

    fingerprint: str
    """Hexadecimal SHA-256 of all settings that affect the ids of ``encode``. It does not depend on ``max_length``."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, prompt: str = "") -> None:
        plain = copy_without_limits(tokenizer)
        encode: Encode = build_tiktoken_encoder(plain) or functools.partial(encode_batch, plain)
        encode = cut_long_texts(encode, plain)
        templates, splits_words = find_templates(encode, plain), _splits_words(plain)
        super().__init__(encode, templates, get_padding_idx(tokenizer), max_length, prompt, splits_words=splits_words)
        self.vocab_size = count_ids(tokenizer)
        self.fingerprint = hashlib.sha256(plain.to_str().encode()).hexdigest()

    def extra_repr(self) -> str:
        """Return the settings to show in ``repr``."""
        return f"vocab_size={self.vocab_size}, max_length={self.max_length}"


def _splits_words(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer splits texts at spaces. Llama's and Gemma's do not."""
    text = "oak elm" if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str("oak elm")
    split = tokenizer.pre_tokenizer
    return split is not None and len(split.pre_tokenize_str(text)) > 1
