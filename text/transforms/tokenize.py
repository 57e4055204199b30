"""Texts to token batches, on the ``tokenizers`` library.

Where tokenizers come from is told in ``tokenizer_files.py``; how their ids are laid out, in ``layout.py``. The two
halves can be done apart, text to ids once (``encode``) and ids to batches often.
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
    """Texts, or pairs of title and text, to one TokenBatch.

    A pair becomes ``<s> title </s></s> text </s>`` (RoBERTa's pair encoding, or whatever the
    tokenizer's own post-processor makes of a pair); one whose title has no token is encoded as the
    text alone. What is too long loses tokens from the end of its longer part, one by one.

    Args:
        tokenizer: A trained tokenizer; it is copied, so that two limits can share one.
        max_length: Most tokens a text may have, special tokens and prompt included.
        prompt: Put before every text, or title; "query: " is one. The two are tokenized as one string.

    Raises:
        ValueError: ``max_length`` leaves no room for a text; there is no padding token; or the
            post-processor does more than to put special tokens around texts.

    >>> from text.transforms import train_tokenizer
    >>> tokenize = Tokenize(train_tokenizer(["oak oak"], vocab_size=300), max_length=8)
    >>> tokens = tokenize(["oak", ("oak", "oak oak oak oak")])  # <s> 0, <pad> 1, </s> 2
    >>> tokens.input_ids[0].tolist(), tokens.input_ids[1, :4].tolist()
    ([0, 262, 2, 1, 1, 1, 1, 1], [0, 262, 2, 2])
    >>> tokens.truncated
    tensor([False,  True])
    """

    fingerprint: str
    """Hex SHA-256 of what decides the ids of ``encode``; the same for every ``max_length``."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, prompt: str = "") -> None:
        plain = copy_without_limits(tokenizer)
        encode: Encode = build_tiktoken_encoder(plain) or functools.partial(encode_batch, plain)
        encode = cut_long_texts(encode, plain)
        super().__init__(encode, find_templates(encode, plain), get_padding_idx(tokenizer), max_length, prompt)
        self.vocab_size = count_ids(tokenizer)
        self.fingerprint = hashlib.sha256(plain.to_str().encode()).hexdigest()

    def extra_repr(self) -> str:
        return f"vocab_size={self.vocab_size}, max_length={self.max_length}"
