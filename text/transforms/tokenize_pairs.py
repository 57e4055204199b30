"""Tokenization of (question, passage) pairs, the input of a cross-encoder.

Dimensions: N pairs; L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from text.records import Passage, TokenBatch
from text.transforms.layout import Text
from text.transforms.titles import title_and_text
from text.transforms.token_templates import copy_without_limits
from text.transforms.tokenize import Tokenize


class TokenizePairs(Tokenize):
    """Transform from (question, passage text) pairs to one TokenBatch.

    The post-processor of the tokenizer defines the template, such as BERT's ``[CLS] question [SEP] passage [SEP]``.
    Truncation removes tokens one by one from the end of the longer part, as ``transformers`` and sentence-transformers
    do. A question is therefore never truncated as long as it has at most half of the tokens of a pair.

    Args:
        tokenizer: Trained tokenizer.
        max_length: Maximum number of tokens per pair, including special tokens.
        has_token_types: Also return ``TokenBatch.token_types``, as the template defines them.

    Raises:
        ValueError: See ``Tokenize``.

    >>> from text.transforms import train_tokenizer
    >>> tokens = TokenizePairs(train_tokenizer(["oak oak"], vocab_size=300), max_length=8)([("oak", "oak oak")])
    >>> tokens.input_ids.tolist()  # <s> 0, </s> 2
    [[0, 262, 2, 2, 262, 225, 262, 2]]
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, *, has_token_types: bool = False) -> None:
        super().__init__(tokenizer, max_length)
        types = find_token_types(tokenizer)
        self._token_types = types if has_token_types and any(part.any() for part in types) else None

    @property
    def has_token_types(self) -> bool:
        """True if batches have token types, because the template has more than one."""
        return self._token_types is not None

    def forward(self, texts: Sequence[Text | tuple[Text, Text]]) -> TokenBatch:
        """Tokenize N pairs, padded to the longest one.

        Args:
            texts: Pairs of a question and the text of a passage.

        Returns:
            Batch with (N, L) ids and attention mask, where L is at most ``max_length``. ``empty`` is true if the
            question or the passage has no tokens.

        Raises:
            ValueError: ``texts`` is empty.
            TypeError: An element is not a pair.
        """
        if not texts:
            raise ValueError("texts is empty; expected at least one pair")
        if any(not isinstance(pair, tuple) for pair in texts):
            raise TypeError("an element is not a pair. Give (question, passage text) tuples.")
        rows = [self._build_row(*parts) for parts in self._encode_all(texts)]
        tokens = self._build_batch(rows)
        return tokens if self._token_types is None else tokens._replace(token_types=self._build_types(rows, tokens))

    def _encode_all(self, texts: Sequence[Text | tuple[Text, Text]]) -> list[tuple[bool, list[np.ndarray]]]:
        """Return for each pair whether a part has no tokens, and the ids of both parts."""
        encoded = iter(self.encode([part for pair in texts for part in pair if isinstance(part, str)]))
        pairs = [[next(encoded) if isinstance(part, str) else part for part in pair] for pair in texts]
        return [(not all(map(len, parts)), parts) for parts in pairs]

    def _build_types(self, rows: Sequence[tuple[list[np.ndarray], bool, bool]], tokens: TokenBatch) -> torch.Tensor:
        """Return the token type of each token, (N, L) int64. Padding has type 0."""
        assert self._token_types is not None
        start, first, middle, second, end = self._token_types
        types = np.zeros(tuple(tokens.input_ids.shape), dtype=np.int64)
        types[tokens.attention_mask.numpy()] = np.concatenate(
            [
                np.concatenate([start, first.repeat(len(parts[1])), middle, second.repeat(len(parts[3])), end])
                for parts, _, _ in rows
            ]
        )
        return torch.from_numpy(types)


def find_token_types(tokenizer: Tokenizer) -> tuple[np.ndarray, ...]:
    """Return the token types of five parts: before the question, question, between, passage, after it.

    The two arrays of the texts have one element, because all tokens of a text have the same type.
    """
    encoding = copy_without_limits(tokenizer).encode("a", "b b")
    types, sequences = np.array(encoding.type_ids), encoding.sequence_ids
    places = [np.array([i for i, each in enumerate(sequences) if each == number]) for number in (0, 1)]
    (first, last), (second, after) = ((each[0], each[-1] + 1) for each in places)
    return types[:first], types[first : first + 1], types[last:second], types[second : second + 1], types[after:]


def question_and_passage(question: str, passage: Passage) -> tuple[Text, Text]:
    """Return a question and the text of a passage after its title, ready to tokenize as a pair.

    >>> question_and_passage("What is an oak?", Passage("1", "Oak", "An oak is a tree."))
    ('What is an oak?', 'Oak An oak is a tree.')
    """
    return question, title_and_text(passage, "join")[1]
