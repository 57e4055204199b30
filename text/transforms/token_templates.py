"""Detection of the special tokens that a tokenizer adds around texts."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from text.errors import ArtifactError, UnsupportedModelError
from text.transforms.byte_level_bpe import encode_batch
from text.transforms.layout import Encode, Templates


def check_templates(tokenizer: Tokenizer, file: Path) -> None:
    """Check that a tokenizer's post-processor only adds special tokens around texts.

    Raises:
        UnsupportedModelError: The post-processor does something else. The message names the file.
        ArtifactError: The tokenizer has no token for a letter. The message names the file.
    """
    if tokenizer.padding is not None or tokenizer.truncation is not None:
        tokenizer = copy_without_limits(tokenizer)
    try:
        find_templates(functools.partial(encode_batch, tokenizer), tokenizer)
    except ValueError as error:
        raise UnsupportedModelError.at(file, str(error)) from None
    except Exception as error:  # The library raises plain Exception for a word without a token.
        raise ArtifactError(f"{file}: {error}") from None


def copy_without_limits(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy of a tokenizer without truncation and padding."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    return plain


def find_templates(encode: Encode, tokenizer: Tokenizer) -> Templates:
    """Return the special tokens around a single text, and around a title and a text.

    Args:
        encode: Function from texts to ids without special tokens.
        tokenizer: Tokenizer without truncation and padding.

    Raises:
        ValueError: The post-processor does more than add special tokens around texts.
    """
    return Templates(_find_template(encode, tokenizer, "a"), _find_template(encode, tokenizer, "a", "b b"))


def find_special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids of the special tokens before and after a single text."""
    plain = copy_without_limits(tokenizer)
    before, after = _find_template(functools.partial(encode_batch, plain), plain, "a")
    return before.tolist(), after.tolist()


def _find_template(encode: Encode, tokenizer: Tokenizer, first: str, second: str | None = None) -> list[np.ndarray]:
    """Return the special tokens that the post-processor adds before, between and after texts."""
    encoding = tokenizer.encode(first, second)
    special, parts, at = [*encoding.special_tokens_mask, 0], [], 0
    for ids in encode([first] if second is None else [first, second]):
        begin = special.index(0, at)
        parts.append(encoding.ids[at:begin])
        at = begin + len(ids)
        if not len(ids) or encoding.ids[begin:at] != ids.tolist():
            raise _build_template_error(encoding.tokens, first, second)
    if not all(special[at:-1]):
        raise _build_template_error(encoding.tokens, first, second)
    return [np.array(part, dtype=np.int64) for part in (*parts, encoding.ids[at:])]


def _build_template_error(tokens: list[str], first: str, second: str | None) -> ValueError:
    texts = f'the text "{first}"' if second is None else f'the title "{first}" and the text "{second}"'
    return ValueError(
        f"the tokenizer encodes {texts} as {tokens}. Only special tokens around texts are supported. "
        "Use a tokenizer whose post-processor adds nothing else."
    )
