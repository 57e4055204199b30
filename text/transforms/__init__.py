"""From texts to tensors: modules that compose in a ``torch.nn.Sequential``."""

from text.transforms.collate import BiEncoderCollator, known_positive_mask, known_positive_pairs
from text.transforms.titles import title_and_text
from text.transforms.tokenize import Tokenize
from text.transforms.tokenizer_files import load_tokenizer, save_tokenizer, train_tokenizer
from text.transforms.torchtext_transforms import TorchtextTokenize, torchtext_bpe

__all__ = [
    "BiEncoderCollator",
    "Tokenize",
    "TorchtextTokenize",
    "known_positive_mask",
    "known_positive_pairs",
    "load_tokenizer",
    "save_tokenizer",
    "title_and_text",
    "torchtext_bpe",
    "train_tokenizer",
]
