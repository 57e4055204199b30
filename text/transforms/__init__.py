"""Transforms from texts to tensors. The modules compose in a ``torch.nn.Sequential``."""

from tokenizers import Tokenizer

from text.transforms.collate import (
    BiEncoderCollator,
    StoredEmbeddings,
    known_positive_mask,
    match_keys,
    match_known_positives,
)
from text.transforms.pairs import CrossEncoderCollator
from text.transforms.titles import TITLES, title_and_text
from text.transforms.tokenize import Tokenize
from text.transforms.tokenize_pairs import TokenizePairs, question_and_passage
from text.transforms.tokenizer_files import (
    encoder_settings,
    load_or_train_tokenizer,
    load_tokenizer,
    read_has_token_types,
    save_tokenizer,
    train_tokenizer,
)
from text.transforms.torchtext_transforms import TorchtextTokenize, torchtext_bpe

__all__ = [
    "TITLES",
    "BiEncoderCollator",
    "CrossEncoderCollator",
    "StoredEmbeddings",
    "Tokenize",
    "TokenizePairs",
    "Tokenizer",
    "TorchtextTokenize",
    "encoder_settings",
    "known_positive_mask",
    "load_or_train_tokenizer",
    "load_tokenizer",
    "match_keys",
    "match_known_positives",
    "question_and_passage",
    "read_has_token_types",
    "save_tokenizer",
    "title_and_text",
    "torchtext_bpe",
    "train_tokenizer",
]
