"""The parts of ``dpr-text train`` that belong to a bi-encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from text.bundle import BiEncoderBundle
from text.commands.cli import pick_arguments
from text.commands.stored_embeddings import open_stored_embeddings
from text.commands.train_flags import TrainFlags, build_objective
from text.datasets import DPRDataPipe
from text.models import build_bi_encoder
from text.runs.adapters import finish_adapters
from text.runs.lengths import write_training_lengths
from text.runs.model_settings import choose_model_settings
from text.training import BiEncoderTask, DPRDataModule, print_rank_zero, resolve_max_lengths
from text.transforms import BiEncoderCollator, Tokenizer, encoder_settings, load_or_train_tokenizer


class BiEncoderTraining:
    """A bi-encoder to train.

    Args:
        flags: Flags of ``dpr-text train``.
        pipe: Training rows, on which a tokenizer is trained if there is none.
        tokenizer: The tokenizer, or None.
    """

    def __init__(self, flags: TrainFlags, pipe: DPRDataPipe, tokenizer: Tokenizer | None) -> None:
        self.flags = flags
        self.model = _build_bundle(flags, pipe, tokenizer)
        """The encoders with their tokenizer and settings."""

    @property
    def is_tied(self) -> bool:
        """True if one encoder embeds both questions and passages."""
        return self.model.model.is_tied

    @property
    def collate(self) -> BiEncoderCollator:
        """Function from Examples to a batch."""
        return self.model.build_collator(backend=self.flags.model.tokenizer_backend)

    def build_data(self, pipes: Mapping[str, DPRDataPipe]) -> DPRDataModule:
        """Return the data loaders."""
        flags = self.flags
        backend, stored = flags.model.tokenizer_backend, open_stored_embeddings(flags, pipes, self.model)
        collate, train_collate = (
            self.model.build_collator(num, backend, stored) for num in (1, flags.data.num_positives)
        )
        for pipe in pipes.values() if flags.data.token_cache else ():
            pipe.cache_tokens(self.model.build_token_cache_transform())
        return DPRDataModule(collate, **pipes, train_collate=train_collate, num_workers=flags.data.num_workers)

    def build_task(self, learning_rate: float, set_names: list[str]) -> BiEncoderTask:
        """Return the Lightning module."""
        options = dict(pick_arguments(BiEncoderTask, self.flags.optimization), learning_rate=learning_rate)
        return BiEncoderTask(self.model.model, build_objective(self.flags, self.model), **options, set_names=set_names)

    def write_lengths(self, folder: Path, pipe: DPRDataPipe) -> None:
        """Write the lengths of the training texts to the folder of the run."""
        write_training_lengths(folder / "lengths.json", pipe, self.model)

    def save(self, folder: Path, pipe: DPRDataPipe) -> None:
        """Write the trained model, and its adapters, to the folder of the run."""
        finish_adapters(folder / "adapter", self.model, pipe.texts(), self.flags.model.encoder)
        self.model.save(folder / "model", passages_from=self.flags.model.kept_model)


def _build_bundle(flags: TrainFlags, pipe: DPRDataPipe, tokenizer: Tokenizer | None) -> BiEncoderBundle:
    tokenizer = tokenizer or load_or_train_tokenizer(None, pipe.texts, flags.model.vocab_size)
    limits = (flags.model.question_max_length, flags.model.passage_max_length)
    chosen = choose_model_settings(**pick_arguments(choose_model_settings, flags.model))
    options = pick_arguments(build_bi_encoder, flags.model, flags.optimization, chosen)
    options |= encoder_settings(tokenizer) | {"max_length": max(limit or 0 for limit in limits)}
    model = build_bi_encoder(**options, compile_layers=flags.optimization.compile)
    limits = resolve_max_lengths(*limits, model, tokenizer, chosen.default_max_lengths)
    bundle = BiEncoderBundle(model=model, tokenizer=tokenizer, **limits, **pick_arguments(BiEncoderBundle, chosen))
    print_rank_zero(f"from {flags.model.encoder}: {bundle.describe()}")
    return bundle
