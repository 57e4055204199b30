"""Embeddings on disk that training uses: a teacher's embeddings as targets, or existing embeddings of passages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from text.bundle import BiEncoderBundle, find_encoder_folder
from text.commands.train_flags import TrainFlags
from text.datasets import DPRDataPipe
from text.datasets.stored_check import check_stored
from text.errors import ArtifactError, UsageError
from text.training import is_rank_zero, print_rank_zero
from text.transforms import StoredEmbeddings

if TYPE_CHECKING:
    from text.retrieval import EmbeddingShards
    from text.retrieval.embedding_lookup import EmbeddingLookup


def open_stored_embeddings(
    flags: TrainFlags, pipes: Mapping[str, DPRDataPipe], bundle: BiEncoderBundle
) -> StoredEmbeddings:
    """Open the folders of embeddings that the flags name, and check that they hold all texts of the rows.

    Raises:
        DataError: A question or a passage has no embedding. The error gives path and line.
        ArtifactError: A folder is damaged, its embeddings have another width than the model's, two folders are of
            different models, or the starting model did not encode ``frozen_passages``.
        UsageError: The passage encoder of the starting model cannot be kept.
    """
    if flags.model.frozen_passages is not None:
        _check_frozen(flags.model.frozen_passages, flags.model.encoder, bundle)
    questions = _open_side(flags.data.teacher_questions, "question", pipes, bundle)
    passages = _open_side(flags.data.teacher_passages, "passage", pipes, bundle)
    frozen = _open_side(flags.model.frozen_passages, "passage", pipes, bundle)
    for others in (passages, frozen):
        if questions is not None and others is not None:
            _check_same_model(questions.shards, others.shards)
    for pipe in pipes.values():
        pipe.stored_key = "".join(each.shards.plan.key for each in (questions, passages, frozen) if each is not None)
    return StoredEmbeddings(
        question_targets=None if questions is None else questions.read_questions,
        passage_targets=None if passages is None else passages.read_passages,
        passage_embeddings=None if frozen is None else frozen.read_passages,
    )


def _open_side(
    folder: str | None, side: str, pipes: Mapping[str, DPRDataPipe], bundle: BiEncoderBundle
) -> EmbeddingLookup | None:
    """Open the embeddings of one side and check them. None without a folder."""
    if folder is None:
        return None
    from text.retrieval.embedding_lookup import EmbeddingLookup

    lookup = EmbeddingLookup(folder, side, check_hashes=is_rank_zero())
    if lookup.embedding_dim != (width := bundle.encoder(side).embedding_dim):
        raise ArtifactError(
            f"{folder}: the embeddings have {lookup.embedding_dim} dimensions, but the model has {width}. Use another "
            f"--encoder, or --projection_dim={lookup.embedding_dim}."
        )
    is_question = side == "question"
    counts = check_stored(
        pipes.values(),
        folder,
        has_questions=lookup.has_questions if is_question else None,
        compare_passages=None if is_question else lookup.compare_passages,
    )
    if counts["other texts"]:
        print_rank_zero(
            f"{folder}: {counts['other texts']} of {counts['passages']} passages in rows have another title or text "
            "than the passage that was encoded. The embedding with the same id is used."
        )
    return lookup


def _check_same_model(questions: EmbeddingShards, passages: EmbeddingShards) -> None:
    """Check that one model encoded questions and passages. Embeddings of two models cannot be compared.

    The question encoder may be newer than the embeddings of the passages (``--frozen_passages``).
    """
    from text.retrieval.plan import describe_changed_files, select_passage_files

    ours, theirs = questions.plan.model, passages.plan.model
    is_separate = ours != select_passage_files(ours)
    if ours != theirs and not (is_separate and select_passage_files(ours) == select_passage_files(theirs)):
        changes = describe_changed_files(ours, theirs)
        raise ArtifactError(
            f"{questions.folder}: encoded by another model than {passages.folder} ({changes}). Encode both with one "
            "model."
        )
    ours, theirs = questions.plan.settings.similarity, passages.plan.settings.similarity
    if ours != theirs:
        raise ArtifactError(
            f"{questions.folder}: encoded for {ours} similarity, but {passages.folder} for {theirs}. Encode both again."
        )


def _check_frozen(folder: str, encoder: str, bundle: BiEncoderBundle) -> None:
    """Check that the passage encoder of the starting model encoded the passages, and that it can be kept."""
    from text.retrieval.embedder import hash_model
    from text.retrieval.plan import describe_changed_files, read_plan, select_passage_files

    if not (find_encoder_folder(encoder, "passage") / "modules.json").is_file():
        raise UsageError(
            f"--frozen_passages: {encoder} has no modules.json, so its passage encoder cannot be kept as it is. "
            "Start from a model that dpr-text or sentence-transformers saved."
        )
    plan = read_plan(folder)
    ours, theirs = map(select_passage_files, (hash_model(encoder), plan.model))
    if ours != theirs:
        changes = describe_changed_files(ours, theirs)
        raise ArtifactError(f"{folder}: encoded by another model than --encoder={encoder} ({changes}).")
    if plan.settings.similarity != bundle.similarity:
        raise ArtifactError(
            f"{folder}: encoded for {plan.settings.similarity} similarity, but {encoder} uses {bundle.similarity}."
        )
