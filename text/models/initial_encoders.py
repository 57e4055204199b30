"""Encoders that training starts from: random weights of a named size, or saved weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

from text.errors import UsageError
from text.models.biencoder import BiEncoder
from text.models.encoder import TextEncoder
from text.models.files import is_run_folder
from text.models.layer_choice import keep_layers as keep_encoder_layers
from text.models.loading import load_encoder
from text.models.lora import add_adapters
from text.models.roberta import (
    roberta_base,
    roberta_large,
    roberta_mini,
    roberta_small,
    roberta_tiny,
)
from text.models.roberta_config import POOLINGS

SIZES = {
    "tiny": roberta_tiny,
    "mini": roberta_mini,
    "small": roberta_small,
    "base": roberta_base,
    "large": roberta_large,
}
"""Constructors of encoders with random weights, by the name of the size."""


def check_encoder_name(name: str) -> None:
    """Check that training can start from an encoder.

    Raises:
        UsageError: The name is not a size or an existing path, or it is the folder of a training run.
    """
    if is_run_folder(name):
        raise UsageError(
            f"--encoder is {name}, the folder of a training run. Use its model, {os.path.join(name, 'model')}."
        )
    if name not in SIZES and not os.path.exists(name):
        raise UsageError(
            f"--encoder is {name}, which does not exist. Give a folder, a file, or one of {', '.join(SIZES)}."
        )


def choose_learning_rate(learning_rate: float | None, encoder: str, *, lora_rank: int | None = None) -> float:
    """Return the given learning rate.

    By default, it is 1e-3 for random weights, 1e-4 for adapters, and 2e-5 (FAIR's DPR) for saved weights.
    """
    if learning_rate is not None:
        return learning_rate
    if lora_rank is not None:
        return 1e-4
    return 1e-3 if encoder in SIZES else 2e-5


def build_bi_encoder(
    encoder: str,
    *,
    encoder_library: str | None = None,
    vocab_size: int,
    pad_token_id: int = 1,
    bos_token_id: int | None = 0,
    eos_token_id: int | None = 2,
    tied: bool = False,
    freeze_question: bool = False,
    freeze_passage: bool = False,
    keep_layers: Sequence[int] | None = None,
    pooling: str | None = None,
    projection_dim: int | None = None,
    normalize: bool | None = None,
    dropout: float | None = None,
    question_prompt: str | None = None,
    passage_prompt: str | None = None,
    max_length: int = 0,
    activation_checkpointing: bool = False,
    compile_layers: bool = False,
    lora_rank: int | None = None,
    lora_alpha: int | None = None,
    lora_targets: Sequence[str] | None = None,
) -> BiEncoder:
    """Return the encoders that training starts from.

    Args:
        encoder: A name in ``SIZES`` for random weights; a folder that ``load_encoder`` opens; the ``model/`` folder of
            a training run; or a checkpoint of FAIR's DPR.
        encoder_library: "transformers" computes saved encoders by ``transformers``. See ``load_encoder``.
        vocab_size: Entries of the tokenizer. ``text.transforms.encoder_settings`` returns this and the next three
            arguments.
        pad_token_id: Id of the tokenizer's padding token.
        bos_token_id: Id of the token that the tokenizer adds before each text.
        eos_token_id: Id of the token that the tokenizer adds after each text.
        tied: Use one encoder for questions and passages. By default, two encoders start from the same weights, or each
            from its own weights in a saved bi-encoder.
        freeze_question: Do not train the question encoder.
        freeze_passage: Do not train the passage encoder.
        keep_layers: Transformer layers to keep in the encoders that are trained (``text.models.layer_choice``).
        pooling: "first" or "mean"; with ``transformers`` also "last", "max", "mean_sqrt_len" or "weightedmean". None
            keeps the pooling of saved weights, and means "mean" for random weights.
        projection_dim: Width of a linear layer after pooling. None keeps the setting of saved weights.
        normalize: Scale embeddings to length 1. None keeps the setting of saved weights.
        dropout: Dropout rate of hidden states and of attention weights. None keeps the setting of saved weights.
        question_prompt: Text before every question. None keeps the prompt of saved weights.
        passage_prompt: Text before every passage. None keeps the prompt of saved weights.
        max_length: Tokens of the longest text. A lower ``max_seq_length`` of saved weights is removed.
        activation_checkpointing: Recompute activations in the backward pass to save memory.
        compile_layers: Compile the layers once for all lengths.
        lora_rank: Train low-rank adapters of this rank instead of the encoders' own weights (``add_adapters``). The
            encoders are computed by ``transformers``.
        lora_alpha: See ``add_adapters``.
        lora_targets: See ``add_adapters``.

    Raises:
        UsageError: The tokenizer has more entries than the encoder or another padding token, ``encoder`` does not
            exist, or it does not support an option.
        ArtifactError: The saved weights are damaged.
        UnsupportedModelError: The saved model is not supported.
        ValueError: The encoders are tied and only one of them is frozen.
    """
    check_encoder_name(encoder)
    options = {
        "pooling": pooling,
        "projection_dim": projection_dim,
        "normalize": normalize,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    overrides: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    token_ids = {"pad_token_id": pad_token_id, "bos_token_id": bos_token_id, "eos_token_id": eos_token_id}
    if lora_rank is not None:
        if encoder in SIZES:
            raise UsageError(f"--lora_rank needs a saved model, but --encoder is {encoder}. Give a folder.")
        encoder_library = "transformers"
    if encoder in SIZES:
        _check_random(encoder, encoder_library, pooling)
        # The positions of a RoBERTa start after the id of the padding token. Its table has 514 rows if the id is 1.
        num_positions = 513 + pad_token_id
        defaults: dict[str, Any] = {"vocab_size": vocab_size, **token_ids, "max_position_embeddings": num_positions}
        defaults["pooling"] = "mean"
        question_encoder = SIZES[encoder](**(defaults | overrides))
        passage_encoder = question_encoder if tied else copy.deepcopy(question_encoder)
    else:
        question_encoder, passage_encoder = _load_encoders(encoder, overrides, library=encoder_library, tied=tied)
        for each in (question_encoder, passage_encoder):
            try:
                each.fit_tokenizer(vocab_size, pad_token_id)
            except ValueError as error:
                raise UsageError(f"--encoder is {encoder}: {error} Use the tokenizer of the encoder.") from None
    trained = {question_encoder: freeze_question, passage_encoder: freeze_passage}  # Tied encoders are one object.
    trained = [each for each, is_frozen in trained.items() if not is_frozen]
    for each in trained if keep_layers is not None else ():
        keep_encoder_layers(each, keep_layers or ())
    prompts = _resolve_prompts(question_encoder, passage_encoder, question_prompt, passage_prompt)
    for each in (question_encoder, passage_encoder):
        limit = each.max_seq_length
        each.set_texts(prompts, None if limit is None or max_length > limit else limit)
        each.set_activation_checkpointing(activation_checkpointing)
        if compile_layers:
            each.compile_layers()
    if lora_rank is not None:
        for each in trained:
            add_adapters(each, lora_rank, alpha=lora_alpha, targets=lora_targets)
    return BiEncoder(question_encoder, passage_encoder, freeze_question=freeze_question, freeze_passage=freeze_passage)


def _check_random(encoder: str, library: str | None, pooling: str | None) -> None:
    """Check that an encoder with random weights supports the options."""
    if library is not None:
        raise UsageError(f"--encoder_library={library} needs a saved model, but --encoder is {encoder}. Give a folder.")
    if pooling not in (None, *POOLINGS):
        raise UsageError(
            f"--pooling={pooling} needs a saved model, but --encoder is {encoder}. Use {' or '.join(POOLINGS)}."
        )


def _load_encoders(
    encoder: str, overrides: Mapping[str, Any], *, library: str | None, tied: bool
) -> tuple[TextEncoder, TextEncoder]:
    """Return the saved question and passage encoders. Tied encoders are one object."""
    passage_encoder = None
    if os.path.isfile(encoder) or os.path.isdir(os.path.join(encoder, "question_encoder")):
        # Training may use longer texts than the limits of a saved model.
        limits: dict[str, Any] = {} if os.path.isfile(encoder) else {"max_seq_length": None}
        saved = BiEncoder.from_pretrained(encoder, library=library, **(limits | dict(overrides)))
        question_encoder, passage_encoder = saved.question_encoder, saved.passage_encoder
    else:
        question_encoder = load_encoder(encoder, library=library, **overrides)
    if tied:
        passage_encoder = question_encoder
    elif passage_encoder in (None, question_encoder):  # The saved model has one encoder.
        passage_encoder = copy.deepcopy(question_encoder)
    assert isinstance(question_encoder, TextEncoder) and isinstance(passage_encoder, TextEncoder)
    return question_encoder, passage_encoder


def _resolve_prompts(
    question_encoder: TextEncoder,
    passage_encoder: TextEncoder,
    question_prompt: str | None,
    passage_prompt: str | None,
) -> dict[str, str]:
    """Return the prompts of both sides by their names in sentence-transformers."""
    query, document = question_encoder.find_prompt("question"), passage_encoder.find_prompt("passage")
    return {
        "query": query if question_prompt is None else question_prompt,
        "document": document if passage_prompt is None else passage_prompt,
    }
