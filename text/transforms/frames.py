"""The special tokens that a tokenizer puts around texts."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from text.errors import ArtifactError, UnsupportedModelError
from text.transforms.byte_level_bpe import encode_batch
from text.transforms.layout import Encode, Templates


def check_templates(tokenizer: Tokenizer, file: Path) -> None:
    """Check that a tokenizer puts special tokens around texts, and does no more.

    Raises:
        UnsupportedModelError: It does more. The file is named.
        ArtifactError: It has no token for a letter. The file is named.
    """
    if tokenizer.padding is not None or tokenizer.truncation is not None:
        tokenizer = copy_without_limits(tokenizer)
    try:
        find_templates(functools.partial(encode_batch, tokenizer), tokenizer)
    except ValueError as error:
        raise UnsupportedModelError.at(file, str(error)) from None
    except Exception as error:  # the library raises plain Exception for a word without a token
        raise ArtifactError(f"{file}: {error}") from None


def copy_without_limits(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that neither cuts nor pads texts."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    return plain


def find_templates(encode: Encode, tokenizer: Tokenizer) -> Templates:
    """Return the special tokens around a text, and those around a title and a text.

    Args:
        encode: Texts to ids without special tokens.
        tokenizer: It neither cuts nor pads texts.

    Raises:
        ValueError: It does more than to put special tokens around texts.
    """
    return Templates(_template(encode, tokenizer, "a"), _template(encode, tokenizer, "a", "b b"))


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
    return ValueError(f"the tokenizer makes {tokens} of {texts}. It must put only special tokens around them.")
