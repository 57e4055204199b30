"""Texts to token batches, on the ``tokenizers`` library.

``load_tokenizer`` and ``train_tokenizer`` give a ``tokenizers.Tokenizer``; ``Tokenize`` adds what
an encoder needs: limits, padding, masks, and which texts were too long.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

from text.errors import ArtifactError
from text.records import TokenBatch

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""RoBERTa's, in the order of their ids, 0 to 4, in a vocabulary that we train."""

_PADDING_TOKENS = ("<pad>", "[PAD]")


class Tokenize(nn.Module):
    """Texts, or pairs of title and text, to one TokenBatch.

    A pair becomes ``<s> title </s></s> text </s>`` (RoBERTa's pair encoding, or whatever the
    tokenizer's own post-processor makes of a pair); one with an empty title is encoded as the text
    alone. What is too long loses tokens from the end of its longer part, one by one.

    Args:
        tokenizer: A trained tokenizer; it is copied, so that two limits can share one.
        max_length: Most tokens a text may have, special tokens included.

    Raises:
        ValueError: ``max_length`` leaves no room for a text, or there is no padding token.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        super().__init__()
        least = tokenizer.num_special_tokens_to_add(is_pair=True) + 2
        if max_length < least:
            raise ValueError(f"max_length is {max_length}; expected {least} or more, to hold a title and a text")
        self.max_length = max_length
        self.padding_idx = _padding_idx(tokenizer)
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.enable_truncation(max_length, strategy="longest_first")
        self._tokenizer.enable_padding(pad_id=self.padding_idx)

    def forward(self, texts: Sequence[str | tuple[str, str]]) -> TokenBatch:
        """Tokenizes N texts together, padded to the longest of them.

        Args:
            texts: Strings, or (title, text); both kinds may stand in one call.

        Returns:
            (N, L) ids and mask with L at most ``max_length``.

        Raises:
            ValueError: There is no text.
        """
        if not texts:
            raise ValueError("texts is empty; expected at least one")
        inputs = [text if isinstance(text, str) or text[0] else text[1] for text in texts]
        encodings = self._tokenizer.encode_batch_fast(inputs)
        attention_mask = torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool)
        special = torch.tensor([encoding.special_tokens_mask for encoding in encodings], dtype=torch.bool)
        return TokenBatch(
            input_ids=torch.tensor([encoding.ids for encoding in encodings]),
            attention_mask=attention_mask,
            truncated=torch.tensor([bool(encoding.overflowing) for encoding in encodings]),
            empty=~(attention_mask & ~special).any(dim=1),
        )

    def extra_repr(self) -> str:
        return f"vocab_size={self._tokenizer.get_vocab_size()}, max_length={self.max_length}"


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from local files; the network is not asked.

    Args:
        path: A ``tokenizer.json``; or a folder that holds one (Hugging Face's form); or a folder
            with GPT-2 style ``vocab.json`` and ``merges.txt`` (RoBERTa's form).

    Raises:
        FileNotFoundError: Nothing of the kind is there.
        ArtifactError: The files cannot be read as a tokenizer, or a vocabulary lacks RoBERTa's
            special tokens.
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
    raise FileNotFoundError(f"{path}: no tokenizer; expected tokenizer.json, or vocab.json with merges.txt")


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
