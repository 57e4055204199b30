"""Texts to token batches, on the ``tokenizers`` library.

Where tokenizers come from is told in ``tokenizer_files.py``; how their ids are laid out, in ``layout.py``. The two
halves can be done apart, text to ids once (``encode``) and ids to batches often.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
from tokenizers import Tokenizer

from text.transforms.byte_level_bpe import encode_batch, tiktoken_encoder
from text.transforms.layout import Encode, Templates, TokenLayout
from text.transforms.tokenizer_files import count_ids, padding_idx


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
        plain = Tokenizer.from_str(tokenizer.to_str())
        plain.no_truncation()
        plain.no_padding()
        encode: Encode = tiktoken_encoder(plain) or functools.partial(encode_batch, plain)
        templates = Templates(_template(encode, plain, "a"), _template(encode, plain, "a", "b b"))
        super().__init__(encode, templates, padding_idx(tokenizer), max_length, prompt)
        self.vocab_size = count_ids(tokenizer)
        self.fingerprint = hashlib.sha256(plain.to_str().encode()).hexdigest()

    def extra_repr(self) -> str:
        return f"vocab_size={self.vocab_size}, max_length={self.max_length}"


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


def _no_template(tokens: list[str], first: str, second: str | None) -> ValueError:
    texts = f'the text "{first}"' if second is None else f'the title "{first}" and the text "{second}"'
    return ValueError(f"the tokenizer makes {tokens} of {texts}; expected their tokens in order, special ones around")
