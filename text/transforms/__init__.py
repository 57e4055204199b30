"""Transforms from texts to tensors. The modules compose in a ``torch.nn.Sequential``."""

from tokenizers import Tokenizer

from text.transforms.collate import BiEncoderCollator, known_positive_mask, match_keys, match_known_positives
from text.transforms.titles import TITLES, title_and_text
from text.transforms.tokenize import Tokenize
from text.transforms.tokenizer_files import (
    encoder_settings,
    load_or_train_tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from text.transforms.torchtext_transforms import TorchtextTokenize, torchtext_bpe

__all__ = [
    "TITLES",
    "BiEncoderCollator",
    "Tokenize",
    "Tokenizer",
    "TorchtextTokenize",
    "encoder_settings",
    "known_positive_mask",
    "load_or_train_tokenizer",
    "load_tokenizer",
    "match_keys",
    "match_known_positives",
    "save_tokenizer",
    "title_and_text",
    "torchtext_bpe",
    "train_tokenizer",
]
