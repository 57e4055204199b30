"""Cross-encoders that training starts from: random weights of a named size, or saved weights."""

from __future__ import annotations

import os
from typing import Any

import torch

from text.errors import UsageError
from text.models.cross_encoder import CrossEncoder, RobertaCrossEncoder
from text.models.cross_encoder_loading import load_cross_encoder
from text.models.initial_encoders import SIZES, check_encoder_name
from text.models.transformers_cross_encoder import TransformersCrossEncoder

_DEFAULT_DROPOUT = 0.1


def build_cross_encoder(
    encoder: str,
    *,
    encoder_library: str | None = None,
    vocab_size: int,
    pad_token_id: int = 1,
    bos_token_id: int | None = 0,
    eos_token_id: int | None = 2,
    dropout: float | None = None,
    activation_checkpointing: bool = False,
    compile_layers: bool = False,
) -> CrossEncoder:
    """Return the cross-encoder that training starts from.

    Args:
        encoder: A name in ``SIZES`` for random weights, or a folder that ``load_cross_encoder`` opens. An encoder
            without a head gets a new head.
        encoder_library: "transformers" computes a saved model by ``transformers``.
        vocab_size: Entries of the tokenizer. ``text.transforms.encoder_settings`` returns this and the next three
            arguments.
        pad_token_id: Id of the tokenizer's padding token.
        bos_token_id: Id of the token that the tokenizer adds before each text.
        eos_token_id: Id of the token that the tokenizer adds after each text.
        dropout: Dropout rate. None keeps the setting of saved weights, and means 0.1 for random weights.
        activation_checkpointing: Recompute activations in the backward pass to save memory.
        compile_layers: Compile the layers once for all lengths.

    Raises:
        UsageError: The tokenizer does not fit the model, or ``encoder`` does not exist, is a bi-encoder, or does not
            support an option.
        ArtifactError, UnsupportedModelError: See ``load_cross_encoder``.
    """
    check_encoder_name(encoder)
    if encoder in SIZES:
        if encoder_library is not None:
            raise UsageError(
                f"--encoder_library={encoder_library} needs a saved model, but --encoder is {encoder}. Give a folder."
            )
        rate = _DEFAULT_DROPOUT if dropout is None else dropout
        options: dict[str, Any] = {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}
        options |= {"pad_token_id": pad_token_id, "bos_token_id": bos_token_id, "eos_token_id": eos_token_id}
        options |= {"vocab_size": vocab_size, "max_position_embeddings": 513 + pad_token_id, "pooling": "first"}
        model: CrossEncoder = RobertaCrossEncoder.from_encoder(SIZES[encoder](**options), rate)
    else:
        _check_folder(encoder)
        model = load_cross_encoder(encoder, library=encoder_library, dropout=dropout, allow_new_head=True)
    try:
        model.fit_tokenizer(vocab_size, pad_token_id)
    except ValueError as error:
        raise UsageError(f"--encoder is {encoder}: {error} Use the tokenizer of the encoder.") from None
    if isinstance(model, TransformersCrossEncoder):
        _freeze_unused(model)
    model.set_activation_checkpointing(activation_checkpointing)
    if compile_layers:
        model.compile_layers()
    return model


def _check_folder(encoder: str) -> None:
    if os.path.isfile(encoder):
        raise UsageError(f"--encoder is {encoder}, a file. Training a reranker starts from a folder.")
    if os.path.isdir(inner := os.path.join(encoder, "question_encoder")):
        raise UsageError(f"--encoder is {encoder}, a bi-encoder. Start from one of its encoders, such as {inner}.")


def _freeze_unused(model: TransformersCrossEncoder) -> None:
    """Freeze the weights on which no score depends. Several GPUs would wait for their gradients."""
    trained = [each for each in model.parameters() if each.requires_grad]
    ids = torch.zeros(1, 4, dtype=torch.int64)
    score = model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum()
    gradients = torch.autograd.grad(score, trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
