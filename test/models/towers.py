"""Small folders of ``transformers`` models with random weights, one for each family, and a tokenizer for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from test.models.helpers import randomize
from text.transforms import save_tokenizer, train_tokenizer

VOCAB_SIZE = 300
TEXTS = ["who wrote the oak?", "", "an oak", ("the long answer about oaks, and who wrote about them: " * 3).strip()]
_WIDE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 1,
}
_DECODER = _WIDE | {"num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 0, "eos_token_id": 2}
_LEARNED = _WIDE | {"max_position_embeddings": 130, "type_vocab_size": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("BertConfig", _LEARNED),
    "RoBERTa": ("RobertaConfig", _LEARNED),
    "XLM-R": ("XLMRobertaConfig", _LEARNED),
    "DistilBERT": (
        "DistilBertConfig",
        {"vocab_size": VOCAB_SIZE, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "pad_token_id": 1},
    ),
    "MPNet": ("MPNetConfig", _LEARNED),
    "ALBERT": ("AlbertConfig", _LEARNED | {"embedding_size": 16}),
    "DeBERTa-v2": (
        "DebertaV2Config",
        _LEARNED
        | {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "position_biased_input": False,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
    ),
    "ELECTRA": ("ElectraConfig", _LEARNED | {"embedding_size": 16}),
    "ModernBERT": (
        "ModernBertConfig",
        _WIDE | {"cls_token_id": 0, "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2, "local_attention": 8},
    ),
    "NomicBERT": ("NomicBertConfig", _WIDE | {"max_position_embeddings": 130}),
    "GTE": ("GteConfig", _LEARNED),
    "Qwen3": ("Qwen3Config", _DECODER | {"max_position_embeddings": 130}),
    "Llama": ("LlamaConfig", _DECODER | {"max_position_embeddings": 130}),
    "Mistral": ("MistralConfig", _DECODER | {"max_position_embeddings": 130, "sliding_window": 8}),
    "Gemma": ("GemmaConfig", _DECODER | {"max_position_embeddings": 130}),
    "T5": (
        "T5Config",
        {"vocab_size": VOCAB_SIZE, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        | {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "feed_forward_proj": "gated-gelu"},
    ),
}
"""Configuration class and settings of each family."""
FAST = ("DistilBERT", "ModernBERT", "Qwen3")
"""Families that the default suite tests."""


def has_family(family: str) -> bool:
    """Return whether the installed ``transformers`` has the family."""
    return hasattr(transformers, FAMILIES[family][0])


def build_peer(family: str, seed: int = 0) -> Any:
    """Return a model of ``transformers`` with random weights. For T5 it is the whole encoder-decoder."""
    name, settings = FAMILIES[family]
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(getattr(transformers, name)(**settings))
    randomize(model)
    return model.eval()


def save_tower(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a model of a family with a tokenizer, and return the folder."""
    build_peer(family, seed).save_pretrained(folder)
    save_tokenizer(train_tokenizer([text or "-" for text in TEXTS], VOCAB_SIZE - 30), folder, max_length=128)
    return folder


def compute_peer_states(folder: Path, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the hidden states that ``AutoModel`` computes, (B, L, H)."""
    is_t5 = transformers.AutoConfig.from_pretrained(folder).model_type == "t5"
    kind = transformers.AutoModelForTextEncoding if is_t5 else transformers.AutoModel
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=input_ids, attention_mask=attention_mask.long()).last_hidden_state
