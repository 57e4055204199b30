"""Saved rerankers: a cross-encoder, its tokenizer, and all settings that decide scores.

Training writes the folder of a reranker, and scoring reads it, both with this module only. The folder contains:

- ``reranker.json``: the maximum length, the treatment of titles, and the size and hash of each other file;
- the weights, configuration and tokenizer in the format of ``transformers`` (AutoModelForSequenceClassification) and
  sentence-transformers (CrossEncoder).

``Reranker.load`` also opens folders of the other two libraries. A pair has the same score in all three.

Dimensions: N pairs.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from text.artifacts import FileFacts, hash_file, hash_json, read_json
from text.errors import ArtifactError, UnsupportedModelError, UsageError
from text.models import CrossEncoder, load_cross_encoder
from text.models.chunks import MAX_TOKENS
from text.models.cross_encoder import score_in_batches
from text.models.cross_encoder_files import list_classifier_files
from text.models.files import (
    RERANKER,
    begin_saving,
    check_model_folder,
    check_nothing_added,
    check_saved_files,
    end_saving,
)
from text.models.sentence_files import read_tokenizer_limit
from text.records import Passage
from text.transforms import (
    TokenizePairs,
    Tokenizer,
    load_tokenizer,
    question_and_passage,
    read_has_token_types,
    save_tokenizer,
)
from text.transforms.tokenizer_files import count_ids, get_padding_idx, list_tokenizer_files

TITLES = ("join",)
"""Ways to combine the title and text of a passage. A cross-encoder reads the title before the text."""
MAX_GPU_TOKENS = 1 << 16
"""Default maximum number of tokens in a batch on a GPU."""
_DEFAULT_MAX_LENGTH = 512
"""Maximum tokens of a pair if the starting model states none."""
_BLOCK_PAIRS = 1 << 11
"""Number of pairs that are sorted by length and scored together."""


class _Settings(NamedTuple):
    """Content of ``reranker.json``."""

    max_length: int
    titles: Literal["join"]
    files: dict[str, FileFacts] | None = None
    """Size and hash of each file that decides scores, by its path. None turns the check of files off."""


@dataclass(frozen=True, kw_only=True)
class Reranker:
    """A cross-encoder with its tokenizer and settings.

    A pair is tokenized as question and passage, with the title before the text of the passage. If it is longer than
    ``max_length``, tokens are removed one by one from the end of the longer part, as in the other two libraries. So
    only the passage is truncated unless the question has more than half of the tokens.

    Args:
        model: The cross-encoder.
        tokenizer: Its tokenizer.
        max_length: Maximum tokens of a question and a passage together, special tokens included.
        titles: "join": the title stands before the text.
        has_token_types: Give the model the token types of the tokenizer's template, as BERT needs. The tokenizer's
            files store this setting.
        hashes: SHA-256 of each file that decides scores. ``load`` fills it.
        max_tokens: Maximum number of tokens in a batch of ``score`` on a GPU. It changes memory, not scores.

    Raises:
        ValueError: A setting has an unknown value, the limit is higher than the model allows, or the tokenizer does not
            fit the model.

    >>> import tempfile
    >>> from text.models import RobertaCrossEncoder, roberta_tiny
    >>> from text.transforms import train_tokenizer
    >>> tokenizer = train_tokenizer(["who ate the oak"], vocab_size=300)
    >>> model = RobertaCrossEncoder.from_encoder(roberta_tiny(vocab_size=300), dropout=0.1)
    >>> reranker = Reranker(model=model, tokenizer=tokenizer, max_length=128)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     reranker.save(folder)
    ...     reranker = Reranker.load(folder)
    >>> reranker.score(["who ate the oak"] * 2, [Passage("1", "", "a beetle"), Passage("2", "", "nobody")]).shape
    (2,)
    """

    model: CrossEncoder
    tokenizer: Tokenizer
    max_length: int
    titles: str = "join"
    has_token_types: bool = False
    hashes: Mapping[str, str] = field(default_factory=dict, repr=False)
    max_tokens: int = field(default=MAX_GPU_TOKENS, repr=False)

    def __post_init__(self) -> None:
        if self.titles not in TITLES:
            raise ValueError(f'titles is "{self.titles}". A reranker supports {" and ".join(TITLES)} only.')
        self.model.fit_tokenizer(count_ids(self.tokenizer), get_padding_idx(self.tokenizer))
        least = self.tokenizer.num_special_tokens_to_add(True) + 2
        if not least <= self.max_length <= self.model.num_positions:
            limit = f"The model takes {least} to {self.model.num_positions} tokens"
            raise ValueError(f"max_length is {self.max_length}. {limit}.")
        if self.transform.has_token_types and self.model.num_token_types == 1:
            raise ValueError(
                "the tokenizer has two token types, but the model has one. Use the tokenizer of this model."
            )

    @functools.cached_property
    def transform(self) -> TokenizePairs:
        """Transform from (question, passage text) pairs to tokens."""
        has_types = self.has_token_types and self.model.num_token_types > 0
        return TokenizePairs(self.tokenizer, self.max_length, has_token_types=has_types)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide scores, by the name of the command-line flag."""
        return {"pair_max_length": self.max_length, "titles": self.titles}

    @property
    def identity(self) -> str:
        """Hexadecimal SHA-256 of all files and settings that decide scores. A new model has no files yet."""
        return hash_json({"files": dict(self.hashes), **self.settings})

    def describe(self) -> str:
        """Return a one-line description of the settings."""
        parts = (
            self.model.describe(),
            "a new head with random weights" if self.model.is_new_head else "",
            "titles joined with texts",
            f"at most {self.max_length} tokens of a question and a passage",
            f"{self.model.activation} in sentence-transformers",
        )
        return ", ".join(filter(None, parts))

    @torch.inference_mode()
    def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
        """Return the scores of N pairs, (N,) float32, in the order of the pairs. Larger is better.

        Scores are logits: the ``activation`` of the model is not applied. Pairs of similar length are scored together.
        The score of a pair does not depend on the others, except for rounding. The model is put into evaluation mode.

        Args:
            questions: N questions.
            passages: N passages. Passage i is compared with question i.

        Raises:
            ValueError: The two lists have different lengths.
            TypeError: ``questions`` is a string.
        """
        if isinstance(questions, str):
            raise TypeError("questions is a str. Give a list with the question of each passage.")
        if len(questions) != len(passages):
            raise ValueError(f"there are {len(questions)} questions and {len(passages)} passages. Give pairs.")
        self.model.eval()
        is_on_cpu = next(self.model.parameters()).device.type == "cpu"
        max_tokens = MAX_TOKENS if is_on_cpu else self.max_tokens
        scores, transform = np.empty(len(questions), dtype=np.float32), self.transform
        for start in range(0, len(questions), _BLOCK_PAIRS):
            block = slice(start, start + _BLOCK_PAIRS)
            pairs = [question_and_passage(*pair) for pair in zip(questions[block], passages[block], strict=True)]
            scores[block] = score_in_batches(self.model, transform(pairs), max_tokens).cpu().numpy()
        return scores

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the reranker to a folder that ``load``, ``transformers`` and sentence-transformers can read.

        ``reranker.json`` is written last. Until then the folder does not load, so files of two models never mix.

        Raises:
            FileExistsError: The folder contains a bi-encoder.
            OSError: The folder cannot be written.
        """
        folder = Path(folder)
        _check_no_bi_encoder(folder)
        begin_saving(folder / RERANKER)
        self.model.save_pretrained(folder)
        has_types = self.has_token_types
        save_tokenizer(self.tokenizer, folder, max_length=self.max_length, has_token_types=has_types)
        settings = {"max_length": self.max_length, "titles": self.titles}
        end_saving(folder / RERANKER, settings, list_reranker_files(folder))

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        precision: str = "float32",
        device: str = "cpu",
        max_tokens: int = MAX_GPU_TOKENS,
    ) -> Reranker:
        """Load a saved reranker.

        Args:
            folder: A folder that ``save`` wrote; or a folder of ``transformers`` or sentence-transformers, with its
                tokenizer, that ``text.models.load_cross_encoder`` can load.
            precision: "float32"; "bfloat16"; "float16", which needs a GPU; or "int8", which needs a CPU.
            device: Device of the model, such as "cuda".
            max_tokens: Maximum number of tokens in a batch on a GPU.

        Raises:
            FileNotFoundError: A file is missing, or the folder contains a training run instead of a model.
            ArtifactError: A file is damaged, or two settings contradict each other.
            UnsupportedModelError: The model or a setting is not supported, or the folder contains a bi-encoder.
            UsageError: The model or the device does not support the precision.
        """
        needed = {"float16": "a GPU", "int8": "a CPU"}
        if precision in needed and device.startswith("cpu") != (precision == "int8"):
            raise UsageError(f'precision "{precision}" needs {needed[precision]}, but the device is "{device}".')
        loaded = load_reranker(folder)
        model = loaded.model.copy_for_inference(precision) if precision != "float32" else loaded.model
        return dataclasses.replace(loaded, model=model.to(device).eval(), max_tokens=max_tokens)


def load_reranker(folder: str | os.PathLike[str]) -> Reranker:
    """Load a reranker in float32 on the CPU. See ``Reranker.load``."""
    folder = Path(folder)
    check_model_folder(folder)
    if (folder / "question_encoder").is_dir():
        reason = "this is a bi-encoder, which embeds questions and passages and cannot score pairs as a reranker"
        raise UnsupportedModelError.at(folder, f"{reason}. Give the folder of a reranker.")
    settings = _read_settings(folder)
    model, tokenizer = load_cross_encoder(folder), load_tokenizer(folder)
    limit = settings.max_length if settings else min(read_tokenizer_limit(folder) or 1 << 30, model.num_positions)
    has_types = read_has_token_types(folder)
    hashes = {path.relative_to(folder).as_posix(): hash_file(path) for path in list_reranker_files(folder)}
    try:
        return Reranker(model=model, tokenizer=tokenizer, max_length=limit, has_token_types=has_types, hashes=hashes)
    except ValueError as error:
        raise ArtifactError(f"{folder}: {error}") from None


def choose_max_length(requested: int | None, encoder: str, model: CrossEncoder, tokenizer: Tokenizer) -> int:
    """Return the maximum tokens of a pair in training.

    Args:
        requested: The value of ``--pair_max_length``. By default, it is the limit of a saved reranker, otherwise 512.
        encoder: Folder that training starts from, or the name of a size.
        model: The model, which limits the length.
        tokenizer: The tokenizer, whose special tokens must fit with one token each of the question and the passage.

    Raises:
        UsageError: The length is higher than the limit of the model, or too low for a pair.
    """
    if requested is None:
        settings = _read_settings(Path(encoder)) if os.path.isdir(encoder) else None
        stated = None if model.is_new_head else read_tokenizer_limit(Path(encoder))
        default = settings.max_length if settings else stated or _DEFAULT_MAX_LENGTH
        return min(default, model.num_positions)
    least = tokenizer.num_special_tokens_to_add(True) + 2
    if not least <= requested <= model.num_positions:
        limits = f"{least} to {model.num_positions} tokens, including special tokens"
        raise UsageError(f"--pair_max_length is {requested}. Give {limits}.")
    return requested


def list_reranker_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files that decide the scores of a saved reranker, without ``reranker.json``."""
    return sorted({*list_classifier_files(folder), *list_tokenizer_files(folder)})


def _check_no_bi_encoder(folder: Path) -> None:
    for name in ("question_encoder", "modules.json"):
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} belongs to another model. Save to another folder.")


def _read_settings(folder: Path) -> _Settings | None:
    """Return the ``reranker.json`` of a saved reranker after a check of its files. None for another library.

    Raises:
        ArtifactError: A setting is missing or has the wrong type, a file is damaged, or saving was interrupted.
    """
    path = folder / RERANKER
    if not os.path.lexists(path):
        return None
    listed = check_saved_files(path)
    if listed is not None:
        check_nothing_added(path, listed, list_reranker_files(folder))
    return read_json(path, _Settings)
