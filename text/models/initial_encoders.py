"""The two encoders that training starts from: random weights of a named size, or saved weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from text.errors import UsageError
from text.models.biencoder import BiEncoder
from text.models.roberta import (
    RobertaEncoder,
    roberta_base,
    roberta_large,
    roberta_mini,
    roberta_small,
    roberta_tiny,
)

SIZES = {
    "tiny": roberta_tiny,
    "mini": roberta_mini,
    "small": roberta_small,
    "base": roberta_base,
    "large": roberta_large,
}


def check_encoder_name(name: str) -> None:
    """Check that training can start from an encoder.

    Raises:
        UsageError: It is neither a size nor a path, or it is the folder of a training run.
    """
    if os.path.isdir(os.path.join(name, "model", "question_encoder")):
        raise UsageError(f"--encoder is {name}, the folder of a training run. Use {os.path.join(name, 'model')}.")
    if name not in SIZES and not os.path.exists(name):
        raise UsageError(f"--encoder is {name}. Give a folder, a file, or one of {', '.join(SIZES)}.")


def choose_learning_rate(learning_rate: float | None, encoder: str) -> float:
    """Return the learning rate that was asked for, or 1e-3 for random weights and 2e-5 (FAIR's DPR) for saved ones."""
    if learning_rate is not None:
        return learning_rate
    return 1e-3 if encoder in SIZES else 2e-5


def build_bi_encoder(
    encoder: str,
    *,
    vocab_size: int,
    pad_token_id: int = 1,
    bos_token_id: int | None = 0,
    eos_token_id: int | None = 2,
    tied: bool = False,
    freeze_question: bool = False,
    freeze_passage: bool = False,
    pooling: str | None = None,
    projection_dim: int | None = None,
    normalize: bool | None = None,
    dropout: float | None = None,
    question_prompt: str | None = None,
    passage_prompt: str | None = None,
    max_length: int = 0,
    activation_checkpointing: bool = False,
    compile_layers: bool = False,
) -> BiEncoder:
    """Return the encoders that training starts from.

    Args:
        encoder: A name of ``SIZES`` for random weights; a folder that ``RobertaEncoder.from_pretrained`` opens; the
            ``model/`` of a training run; or a checkpoint of FAIR's DPR.
        vocab_size: Entries of the tokenizer. ``text.transforms.encoder_settings`` returns this and the next three.
        pad_token_id: The tokenizer's padding token.
        bos_token_id: The token that the tokenizer puts before each text.
        eos_token_id: The token that the tokenizer puts behind each text.
        tied: One encoder embeds questions and passages. Otherwise two encoders start with the same weights, or with
            their own from a bi-encoder.
        freeze_question: Do not train the question encoder.
        freeze_passage: Do not train the passage encoder.
        pooling: "first" or "mean". None keeps the pooling of the saved weights, and is "mean" for random weights.
        projection_dim: Width of a linear layer after pooling. None keeps what the saved weights have.
        normalize: Scale embeddings to length 1. None keeps what the saved weights do.
        dropout: Share of activations that training drops. None keeps the value of the saved weights.
        question_prompt: Text before every question. None keeps the prompt of the saved weights.
        passage_prompt: Text before every passage. None keeps the prompt of the saved weights.
        max_length: Tokens of the longest text. A lower ``max_seq_length`` of the saved weights is lifted.
        activation_checkpointing: Recompute activations in the backward pass.
        compile_layers: Compile the layers, once for all lengths.

    Raises:
        UsageError: The tokenizer has more entries than the encoder or another padding token, or ``encoder`` does not
            exist.
        ArtifactError: The saved weights are damaged.
        UnsupportedModelError: The saved model is not supported.
        ValueError: One side of tied encoders is to be frozen.
    """
    check_encoder_name(encoder)
    asked = {
        "pooling": pooling,
        "projection_dim": projection_dim,
        "normalize": normalize,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    overrides: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    token_ids = {"pad_token_id": pad_token_id, "bos_token_id": bos_token_id, "eos_token_id": eos_token_id}
    if encoder in SIZES:
        # RoBERTa's positions start behind the padding token's id: 514 rows where that is 1.
        places = 513 + pad_token_id
        random: dict[str, Any] = {"vocab_size": vocab_size, **token_ids, "max_position_embeddings": places}
        random["pooling"] = "mean"
        question_encoder = SIZES[encoder](**(random | overrides))
        passage_encoder = question_encoder if tied else copy.deepcopy(question_encoder)
    else:
        question_encoder, passage_encoder = _load_encoders(encoder, overrides, tied=tied)
        for each in (question_encoder, passage_encoder):
            try:
                each.fit_tokenizer(vocab_size, pad_token_id)
            except ValueError as error:
                raise UsageError(f"--encoder is {encoder}: {error} Use the tokenizer of the encoder.") from None
    prompts = _resolve_prompts(question_encoder, passage_encoder, question_prompt, passage_prompt)
    for each in (question_encoder, passage_encoder):
        limit = each.config.max_seq_length
        limit = None if limit is None or max_length > limit else limit
        each.config = replace(each.config, prompts=prompts, max_seq_length=limit)
        each.activation_checkpointing = activation_checkpointing
        for layer in each.layers if compile_layers else ():
            layer.compile(dynamic=True)
    return BiEncoder(question_encoder, passage_encoder, freeze_question=freeze_question, freeze_passage=freeze_passage)


def _load_encoders(encoder: str, overrides: Mapping[str, Any], *, tied: bool) -> tuple[RobertaEncoder, RobertaEncoder]:
    """Return the saved question and passage encoder, one object if they are tied."""
    passage_encoder = None
    if os.path.isfile(encoder) or os.path.isdir(os.path.join(encoder, "question_encoder")):
        # The limits of a saved model do not bind training.
        limits: dict[str, Any] = {} if os.path.isfile(encoder) else {"max_seq_length": None}
        saved = BiEncoder.from_pretrained(encoder, **(limits | dict(overrides)))
        question_encoder, passage_encoder = saved.question_encoder, saved.passage_encoder
    else:
        question_encoder = RobertaEncoder.from_pretrained(encoder, **overrides)
    if tied:
        passage_encoder = question_encoder
    elif passage_encoder is None:
        passage_encoder = copy.deepcopy(question_encoder)
    assert isinstance(question_encoder, RobertaEncoder) and isinstance(passage_encoder, RobertaEncoder)
    return question_encoder, passage_encoder


def _resolve_prompts(
    question_encoder: RobertaEncoder,
    passage_encoder: RobertaEncoder,
    question_prompt: str | None,
    passage_prompt: str | None,
) -> dict[str, str]:
    """Return the prompts under the names of sentence-transformers."""
    query, document = question_encoder.config.find_prompt("question"), passage_encoder.config.find_prompt("passage")
    return {
        "query": query if question_prompt is None else question_prompt,
        "document": document if passage_prompt is None else passage_prompt,
    }
