"""From texts to tensors: modules that compose in a ``torch.nn.Sequential``."""

from text.transforms.collate import BiEncoderCollator, known_positive_mask
from text.transforms.tokenize import Tokenize, load_tokenizer, save_tokenizer, train_tokenizer

__all__ = [
    "BiEncoderCollator",
    "Tokenize",
    "known_positive_mask",
    "load_tokenizer",
    "save_tokenizer",
    "train_tokenizer",
]
