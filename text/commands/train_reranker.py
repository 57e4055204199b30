"""The parts of ``dpr-text train --task=rerank`` that belong to a cross-encoder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from text.commands.cli import pick_arguments
from text.commands.train_flags import TrainFlags
from text.datasets import DPRDataPipe
from text.models import SIZES, build_cross_encoder
from text.reranker import Reranker, choose_max_length
from text.training import CrossEncoderTask, DPRDataModule, RerankObjective, print_rank_zero
from text.transforms import (
    CrossEncoderCollator,
    Tokenizer,
    encoder_settings,
    load_or_train_tokenizer,
    read_has_token_types,
)


class RerankerTraining:
    """A reranker to train. It has the same methods as ``BiEncoderTraining``."""

    is_tied = None
    """None, because a reranker has a single encoder."""

    def __init__(self, flags: TrainFlags, pipe: DPRDataPipe, tokenizer: Tokenizer | None) -> None:
        self.flags = flags
        self.model = _build_reranker(flags, pipe, tokenizer)
        """The cross-encoder with its tokenizer and settings."""

    @property
    def collate(self) -> CrossEncoderCollator:
        """Function from Examples to a batch."""
        return CrossEncoderCollator(self.model.transform)

    def build_data(self, pipes: Mapping[str, DPRDataPipe]) -> DPRDataModule:
        """Return the data loaders."""
        return DPRDataModule(self.collate, **pipes, train_collate=None, num_workers=self.flags.data.num_workers)

    def build_task(self, learning_rate: float, set_names: list[str]) -> CrossEncoderTask:
        """Return the Lightning module."""
        objective = RerankObjective(**pick_arguments(RerankObjective, self.flags.objective))
        options = dict(pick_arguments(CrossEncoderTask, self.flags.optimization), learning_rate=learning_rate)
        return CrossEncoderTask(self.model.model, objective, **options, set_names=set_names)

    def write_lengths(self, folder: Path, pipe: DPRDataPipe) -> None:
        """Write nothing: the lengths of pairs are not recorded."""

    def save(self, folder: Path, pipe: DPRDataPipe) -> None:
        """Write the trained model to the folder of the run."""
        self.model.save(folder / "model")


def _build_reranker(flags: TrainFlags, pipe: DPRDataPipe, tokenizer: Tokenizer | None) -> Reranker:
    """Return the model that training starts from, with its tokenizer and settings."""
    tokenizer = tokenizer or load_or_train_tokenizer(None, pipe.texts, flags.model.vocab_size)
    encoder = flags.model.encoder
    options = pick_arguments(build_cross_encoder, flags.model, flags.optimization) | encoder_settings(tokenizer)
    model = build_cross_encoder(**options, compile_layers=flags.optimization.compile)
    source = flags.model.tokenizer or (encoder if os.path.isdir(encoder) else None)
    has_types = model.num_token_types > 1 if model.is_new_head or source is None else read_has_token_types(source)
    limit = choose_max_length(flags.model.pair_max_length, encoder, model, tokenizer)
    reranker = Reranker(model=model, tokenizer=tokenizer, max_length=limit, has_token_types=has_types)
    print_rank_zero(f"from {encoder}: {reranker.describe()}")
    if model.is_new_head and encoder not in SIZES:
        print_rank_zero(f"{encoder} has no classification head. A new head starts from random weights.")
    return reranker
