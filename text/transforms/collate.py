"""BiEncoderCollator: a list of Examples to one BiEncoderBatch.

The layout of a batch is decided here and nowhere else: question by question, its positives, its
hard negatives, its other negatives. Which passages must not count as negatives is worked out
from their identity, wherever passages come together, of one batch, of all ranks or of an evaluation:
two passages are the same if their ids are, or if their titles and texts are.

Dimensions: B questions; P passages; T different texts of these; K known positives of one question; M pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from text.records import BiEncoderBatch, Example, Passage, TokenBatch, TokenizedExample
from text.transforms.layout import Text
from text.transforms.titles import title_and_text

Transform = Callable[[Sequence[Text | tuple[Text, Text]]], TokenBatch]


class BiEncoderCollator:
    """Tokenizes the texts of a batch and says who answers whom.

    Args:
        question_transform: Questions to tokens, such as a ``Tokenize``.
        passage_transform: Pairs of title and text to tokens, likewise.
        num_positives: How many of a question's positives to lay out, as far as it has them.
        titles: "pair" or "join" (``title_and_text``).

    Raises:
        ValueError: ``num_positives`` is below 1.

    >>> from text.records import Passage
    >>> from text.transforms import Tokenize, train_tokenizer
    >>> tokenize = Tokenize(train_tokenizer(["who ate the oak"], vocab_size=300), max_length=64)
    >>> example = Example("who ate the oak", [], [Passage("1", "", "a beetle")], [Passage("2", "", "nobody")], [])
    >>> batch = BiEncoderCollator(tokenize, tokenize)([example, example])
    >>> batch.positive_index.tolist(), batch.owner.tolist(), batch.text_index.tolist()
    ([0, 2], [0, 0, 1, 1], [0, 1, 0, 1])
    """

    def __init__(
        self,
        question_transform: Transform,
        passage_transform: Transform,
        num_positives: int = 1,
        *,
        titles: str = "pair",
    ) -> None:
        if num_positives < 1:
            raise ValueError(f"num_positives is {num_positives}; expected 1 or more")
        self.question_transform = question_transform
        self.passage_transform = passage_transform
        self.num_positives = num_positives
        self.titles = titles

    def __call__(self, examples: Sequence[Example] | Sequence[TokenizedExample]) -> BiEncoderBatch:
        """Lays out one batch.

        A passage without tokens is left out, with its question if it is the positive. A question without tokens is
        left out too. ``counts`` says how many. If no question is left, the batch has no questions and passages. So has
        a batch without examples, the share of some ranks in a short last batch.
        """
        if not examples:
            return _no_batch(num_questions=0, num_passages=0)
        groups = [
            [*example.positives[: self.num_positives], *example.hard_negatives, *example.other_negatives]
            for example in examples
        ]
        passages = [passage for group in groups for passage in group]
        sizes = np.array([len(group) for group in groups])
        owner = np.repeat(np.arange(len(groups)), sizes)  # (P,)
        questions = self.question_transform([example.question for example in examples])
        pairs, text_index = _different([title_and_text(passage, self.titles) for passage in passages])
        texts = self.passage_transform(pairs)
        is_empty = texts.empty.numpy()[text_index]  # (P,)

        is_positive = np.zeros(len(passages), dtype=bool)
        is_positive[np.cumsum(sizes) - sizes] = True  # the first of its group
        keep_question = ~questions.empty.numpy() & ~is_empty[is_positive]
        keep_passage = ~is_empty & keep_question[owner]
        if not keep_question.any():
            return _no_batch(num_questions=len(examples), num_passages=len(passages))
        kept_texts, text_index = np.unique(text_index[keep_passage], return_inverse=True)
        questions, texts = _select(questions, keep_question), _select(texts, np.isin(np.arange(len(pairs)), kept_texts))
        passage_keys, known_positives = _keys(examples, self.num_positives)
        return BiEncoderBatch(
            questions=questions,
            passages=texts,
            text_index=torch.from_numpy(text_index),
            positive_index=torch.from_numpy(np.flatnonzero(is_positive[keep_passage])),
            owner=torch.from_numpy((np.cumsum(keep_question) - 1)[owner[keep_passage]]),
            passage_keys=torch.from_numpy(passage_keys[keep_passage]),
            known_positives=torch.from_numpy(known_positives[keep_question]),
            scores=torch.from_numpy(np.array([passage.score for passage in passages], dtype=np.float32)[keep_passage]),
            sources=torch.from_numpy(np.array([example.source for example in examples])[keep_question]),
            rows=torch.from_numpy(np.array([example.row for example in examples])[keep_question]),
            counts={
                "questions left out, no tokens": int(len(keep_question) - keep_question.sum()),
                "passages left out, no tokens": int(len(keep_passage) - keep_passage.sum()),
            },
        )

    def find_empty_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Return which questions have no tokens, (N,) bool. A prompt does not count."""
        return self.question_transform(questions).empty.numpy()

    def find_empty_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Return which passages have no tokens, (N,) bool. A prompt does not count."""
        pairs = [title_and_text(passage, self.titles) for passage in passages]
        return self.passage_transform(pairs).empty.numpy()


def known_positive_pairs(known_positives: Tensor, passage_keys: Tensor) -> Tensor:
    """Which passages are known to answer which questions; its positive is among a question's.

    Args:
        known_positives: (B, K, 2) int64, keys of each question's known positives.
        passage_keys: (P, 2) int64, keys of the passages compared.

    Returns:
        (M, 2) int64, question and passage, in order, each pair once. Memory is that of the keys and the pairs.
    """
    num_known, num_passages = known_positives.shape[1], len(passage_keys)
    pairs = []
    for known, keys in zip(known_positives.flatten(0, 1).T.contiguous(), passage_keys.T.contiguous(), strict=True):
        keys, order = keys.sort()
        start, end = torch.searchsorted(keys, known), torch.searchsorted(keys, known, right=True)
        found = (end - start).cumsum(0)
        at = torch.arange(len(known), device=keys.device).repeat_interleave(end - start)  # (M,) places among the known
        place = torch.arange(len(at), device=keys.device) - (found - (end - start))[at] + start[at]
        pairs.append(at // max(1, num_known) * num_passages + order[place])
    both = torch.cat(pairs).unique()
    return torch.stack([both // max(1, num_passages), both % max(1, num_passages)], dim=1)


def known_positive_mask(known_positives: Tensor, passage_keys: Tensor, positive_index: Tensor) -> Tensor:
    """Which passages are known to answer a question, besides its own positive.

    Args:
        known_positives: (B, K, 2) int64, keys of each question's known positives.
        passage_keys: (P, 2) int64, keys of the passages compared.
        positive_index: (B,) int64, the passage that stays in.

    Returns:
        (B, P) bool, True where the passage must not count as a negative of the question.
    """
    mask = torch.zeros(len(known_positives), len(passage_keys), dtype=torch.bool, device=passage_keys.device)
    mask[known_positive_pairs(known_positives, passage_keys).unbind(1)] = True
    return mask.scatter(1, positive_index[:, None], False)


def _keys(
    examples: Sequence[Example] | Sequence[TokenizedExample], num_positives: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys of the passages, (P, 2), and of the known positives, (B, K, 2), padded with the first one."""
    positives = [[passage.keys for passage in example.positives] for example in examples]
    negatives = [
        [passage.keys for passage in (*example.hard_negatives, *example.other_negatives)] for example in examples
    ]
    passages = [
        keys for own, others in zip(positives, negatives, strict=True) for keys in (*own[:num_positives], *others)
    ]
    for own, example in zip(positives, examples, strict=True):
        if example.same_question_positives is not None:
            own += example.same_question_positives
    most = max(map(len, positives))
    known = [own + [own[0]] * (most - len(own)) for own in positives]
    return np.array(passages), np.array(known)


def _different(pairs: Sequence[tuple[Text, Text]]) -> tuple[list[tuple[Text, Text]], np.ndarray]:
    """The T different ones, in order, and (P,) where each of them stands."""
    names = [tuple(part if isinstance(part, str) else part.tobytes() for part in pair) for pair in pairs]
    different = dict(zip(names, pairs, strict=True))
    places = {name: place for place, name in enumerate(different)}
    return list(different.values()), np.array([places[name] for name in names])


def _select(tokens: TokenBatch, keep: np.ndarray) -> TokenBatch:
    return tokens if keep.all() else TokenBatch(*(field[torch.from_numpy(keep)] for field in tokens))


def _no_batch(*, num_questions: int, num_passages: int) -> BiEncoderBatch:
    """Return a batch without questions and passages, from which these numbers were left out."""
    nothing = torch.zeros(0, 1, dtype=torch.bool)
    tokens = TokenBatch(torch.zeros(0, 1, dtype=torch.int64), nothing, nothing[:, 0], nothing[:, 0])
    indices = torch.zeros(0, dtype=torch.int64)
    return BiEncoderBatch(
        questions=tokens,
        passages=tokens,
        text_index=indices,
        positive_index=indices,
        owner=indices,
        passage_keys=torch.zeros(0, 2, dtype=torch.int64),
        known_positives=torch.zeros(0, 1, 2, dtype=torch.int64),
        scores=torch.zeros(0),
        sources=indices,
        rows=indices,
        counts={"questions left out, no tokens": num_questions, "passages left out, no tokens": num_passages},
    )
