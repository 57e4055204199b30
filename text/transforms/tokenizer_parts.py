"""Parts of a ``tokenizer.json``, read and compared. The rules of tokenizer classes share these functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from text.errors import ArtifactError, UnsupportedModelError

FORCE_HINT = (
    'Write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json to use tokenizer.json as it is.'
)


def list_steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Return the steps of a part, which is a sequence of steps or a single step."""
    return [] if part is None else part.get(name, [part])


def find_token(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str, default: str) -> tuple[str, int]:
    """Return the token of a setting and its id.

    Raises:
        ArtifactError: The vocabulary lacks the token.
    """
    token = get_token_content(options.get(name, default))
    index = tokenizer.token_to_id(token)
    if index is None:
        raise ArtifactError(
            f"{folder / 'tokenizer_config.json'}: {name} {token} is not in the vocabulary. {FORCE_HINT}"
        )
    return token, index


def find_frames(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special-token ids around one text and around two texts, with -1 in place of each text."""
    encodings = tokenizer.encode("a"), tokenizer.encode("a", "a")
    frames = []
    for encoding in encodings:
        frame: list[int] = []
        for index, is_special in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
            if is_special or frame[-1:] != [-1]:
                frame.append(index if is_special else -1)
        frames.append(frame)
    return frames[0], frames[1]


def set_roberta_template(
    tokenizer: Tokenizer, folder: Path, options: dict[str, Any], names: tuple[tuple[str, str], ...], *, adds_space: bool
) -> None:
    """Put RoBERTa's special tokens around one text and around two texts, unless the tokenizer does so already.

    Args:
        tokenizer: Tokenizer of the file. It is changed in place.
        folder: Folder of the file, for error messages.
        options: Settings from the files beside it.
        names: Option name and default token, for the special tokens before and after a text.
        adds_space: The tokenizer puts a space before each text.

    Raises:
        ArtifactError: The vocabulary lacks a token.
    """
    start, end = (find_token(tokenizer, folder, options, key, token) for key, token in names)
    if find_frames(tokenizer) != ([start[1], -1, end[1]], [start[1], -1, end[1], end[1], -1, end[1]]):
        tokenizer.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=adds_space)


def check_frames(tokenizer: Tokenizer, folder: Path, name: str, expected: tuple[list[int], list[int]]) -> None:
    """Check the special tokens that the post-processor adds around one text and around two texts.

    Args:
        tokenizer: Tokenizer of the file.
        folder: Folder of the file, for error messages.
        name: Name of the tokenizer class.
        expected: Ids around one text and around two texts, with -1 in place of each text.
    """
    for text, found, frame in zip(("a text", "two texts"), find_frames(tokenizer), expected, strict=True):
        check_part(folder, name, f"post_processor around {text}", found, frame)


def check_part(folder: Path, name: str, part: str, found: Any, expected: Any) -> None:
    """Check that a part of ``tokenizer.json`` equals the part that a class of transformers builds.

    Raises:
        UnsupportedModelError: The part differs.
    """
    if found != expected:
        found, expected = json.dumps(found), json.dumps(expected)
        reason = f"{part} is {found}, but transformers' {name} has {expected}. {FORCE_HINT}"
        raise UnsupportedModelError.at(folder / "tokenizer.json", reason)


def get_token_content(token: str | dict[str, Any]) -> str:
    """Return the text of a token from the settings, where it is a string or an object."""
    return token if isinstance(token, str) else token["content"]


def get_tokenizer_parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` without its vocabulary."""
    settings = json.loads(tokenizer.to_str())
    settings["model"].pop("vocab", None)
    return settings
