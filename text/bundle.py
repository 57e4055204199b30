"""A saved model: two encoders, their tokenizer, and every setting that decides embeddings and scores.

Training writes the folder and retrieval reads it, through this file alone. The folder of ``BiEncoderBundle.save`` holds
``config.json`` (length limits, how titles are joined, similarity, temperature, tied or not, and the size and hash of
the files that decide embeddings), the tokenizer, and one folder for each encoder in the form of ``transformers`` and
sentence-transformers. ``load`` also opens folders of other libraries; then both sides use the same encoder.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from text.artifacts import FileFacts, read_json
from text.artifacts.hub_cache import describe_missing_model
from text.errors import ArtifactError, SettingsWarning, UsageError
from text.losses import SIMILARITIES
from text.models import BiEncoder, RobertaEncoder
from text.models.checkpoint import files as encoder_files
from text.models.files import begin_saving, check_saved_files, end_saving
from text.models.modules import read_similarity
from text.transforms import (
    TITLES,
    BiEncoderCollator,
    Tokenize,
    Tokenizer,
    TorchtextTokenize,
    load_tokenizer,
    save_tokenizer,
    torchtext_bpe,
)
from text.transforms.tokenizer_files import count_ids, padding_idx, tokenizer_files

SIDES = ("question", "passage")
_CONFIG = "config.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


class _Settings(NamedTuple):
    """``config.json``."""

    question_max_length: int
    passage_max_length: int
    titles: Literal["pair", "join"]
    similarity: Literal["dot", "cosine"]
    temperature: float
    tied: bool
    files: dict[str, FileFacts] | None = None
    """Facts of the files that decide embeddings, and of the tokenizer. A folder without them is not checked."""


@dataclass(frozen=True, kw_only=True)
class BiEncoderBundle:
    """A bi-encoder with its tokenizer and the settings that belong to it.

    Args:
        model: The encoders, one object twice if they are tied. Their prompts are in ``encoder.config.prompts``.
        tokenizer: Serves both encoders.
        question_max_length: Maximum tokens of a question, special tokens included.
        passage_max_length: Maximum tokens of a title and text together, special tokens included.
        titles: "pair" encodes title and text as a pair (DPR). "join" puts the title before the text.
        similarity: "dot" or "cosine".
        temperature: Divides the logits in training. It does not change the order of passages.

    Raises:
        ValueError: A setting has an unknown value, a limit is higher than the encoder allows, or the tokenizer has
            more entries than an encoder or another padding token (``text.transforms.encoder_settings``).

    >>> import tempfile
    >>> from text.models import roberta_tiny
    >>> from text.transforms import train_tokenizer
    >>> tokenizer = train_tokenizer(["who ate the oak"], vocab_size=300)
    >>> encoder = roberta_tiny(vocab_size=300, pooling="mean")
    >>> bundle = BiEncoderBundle(
    ...     model=BiEncoder(encoder, encoder),
    ...     tokenizer=tokenizer,
    ...     question_max_length=32,
    ...     passage_max_length=128,
    ...     similarity="cosine",
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bundle.save(folder)
    ...     BiEncoderBundle.load(folder).similarity
    'cosine'
    """

    model: BiEncoder
    tokenizer: Tokenizer
    question_max_length: int
    passage_max_length: int
    titles: str = "pair"
    similarity: str = "dot"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, values in (("titles", TITLES), ("similarity", SIMILARITIES)):
            if getattr(self, name) not in values:
                raise ValueError(f'{name} is "{getattr(self, name)}". Supported are {" and ".join(values)}.')
        for side in SIDES:
            _check_limit(f"{side}_max_length", getattr(self, f"{side}_max_length"), self.encoder(side))
            self.encoder(side).fit_tokenizer(count_ids(self.tokenizer), padding_idx(self.tokenizer))

    @property
    def limits(self) -> dict[str, int]:
        """Maximum tokens of questions and passages, by the name of the setting."""
        return {"question_max_length": self.question_max_length, "passage_max_length": self.passage_max_length}

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that decides embeddings and scores besides the weights, by the name of its flag."""
        return {
            **self.limits,
            "titles": self.titles,
            "similarity": self.similarity,
            "temperature": self.temperature,
            "tied": self.model.is_tied,
            **{f"{side}_prompt": self._prompt(side) for side in SIDES},
        }

    @property
    def has_unit_length(self) -> bool:
        """Whether scores lie between -1 and 1: by cosine similarity, or because embeddings have length 1."""
        return self.similarity == "cosine" or all(self.encoder(side).config.normalize for side in SIDES)

    def describe(self) -> str:
        """Return one line with the settings."""
        prompts = [f"{side}s begin with {json.dumps(self._prompt(side))}" for side in SIDES if self._prompt(side)]
        parts = (
            "cosine similarity" if self.similarity == "cosine" else "dot product",
            f"temperature {self.temperature:g}",
            "one encoder for both sides" if self.model.is_tied else "two encoders",
            "titles joined with texts" if self.titles == "join" else "titles and texts as pairs",
            f"at most {self.question_max_length} tokens of a question and {self.passage_max_length} of a passage",
            *(prompts or ["no prompts"]),
        )
        return ", ".join(parts)

    def encoder(self, side: str) -> RobertaEncoder:
        """Return the encoder of one side, "question" or "passage"."""
        encoder = self.model.question_encoder if side == "question" else self.model.passage_encoder
        if not isinstance(encoder, RobertaEncoder):
            raise TypeError(f"the {side} encoder is a {type(encoder).__name__}. Only a RobertaEncoder can be saved.")
        return encoder

    def transform(self, side: str, backend: str = "tokenizers") -> Tokenize | TorchtextTokenize:
        """Return the transform of one side: texts to token ids, with the side's limit and prompt.

        Args:
            side: "question" or "passage".
            backend: "tokenizers", or "torchtext" for torchtext's GPT2BPETokenizer, which gives the same ids.
        """
        limit, prompt = self.limits[f"{side}_max_length"], self._prompt(side)
        if backend == "torchtext":
            return TorchtextTokenize(torchtext_bpe(self.tokenizer), limit, prompt)
        return Tokenize(self.tokenizer, limit, prompt)

    def build_collator(self, num_positives: int = 1, backend: str = "tokenizers") -> BiEncoderCollator:
        """Return the collator that turns Examples into the batches which the encoders take.

        Args:
            num_positives: Positives of a question in a batch, as far as it has them.
            backend: As in ``transform``.
        """
        question_transform, passage_transform = (self.transform(side, backend) for side in SIDES)
        return BiEncoderCollator(question_transform, passage_transform, num_positives, titles=self.titles)

    def token_cache_transform(self) -> Tokenize:
        """Return the transform that tokenizes texts once for a token cache (``DPRDataPipe.cache_tokens``).

        Raises:
            UsageError: The tokenizer joins a prompt with the text behind it, or titles are joined with texts. No cached
                tokens fit then.
        """
        if self.titles == "join":
            raise UsageError("--token_cache: titles are joined with texts. Leave it out, or give --titles=pair.")
        transforms = [Tokenize(self.tokenizer, self.limits[f"{side}_max_length"], self._prompt(side)) for side in SIDES]
        for transform in transforms:
            if not transform.takes_ids:
                prompt = json.dumps(transform.prompt)
                raise UsageError(
                    f"--token_cache: the tokenizer joins the prompt {prompt} with each text. Leave it out."
                )
        return transforms[-1]

    def _prompt(self, side: str) -> str:
        return self.encoder(side).config.find_prompt(side)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder of a saved model. ``transformers`` and sentence-transformers read it too.

        ``config.json`` is written last. Until then the folder does not load, so that files of two models never mix.

        Raises:
            FileExistsError: The folder holds the passage encoder of another model, and these encoders are tied.
            OSError: The folder cannot be written.
        """
        folder = Path(folder)
        limits = {"question_encoder": self.question_max_length, "passage_encoder": self.passage_max_length}
        if self.model.is_tied:  # one limit for the shared encoder
            limits = {"question_encoder": self.passage_max_length}
        self.model.check_folder(folder)
        begin_saving(folder)
        self.model.save_pretrained(folder, similarity=self.similarity, max_lengths=limits)
        save_tokenizer(self.tokenizer, folder, max_length=self.passage_max_length)
        for name, limit in limits.items():
            save_tokenizer(self.tokenizer, folder / name, max_length=limit)
        names = [name for name in _Settings._fields if name not in ("tied", "files")]
        settings = {name: getattr(self, name) for name in names} | {"tied": self.model.is_tied}
        files = {path for side in SIDES for path in model_files(folder, side)}
        end_saving(folder, settings, [*files, *(folder / name for name in _TOKENIZER)])

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> BiEncoderBundle:
        """Return a saved model.

        Args:
            folder: A folder that ``save`` wrote; or a folder of ``transformers`` or sentence-transformers that
                ``RobertaEncoder.from_pretrained`` opens, with its tokenizer.

        Raises:
            FileNotFoundError: A file is missing, or the folder holds a training run instead of a model.
            ArtifactError: A file is damaged, or two settings contradict each other.
            UnsupportedModelError: The model or a setting is not supported.
        """
        question = load_side(folder, "question")
        settings = _read_settings(folder)
        if encoder_folder(folder, "passage") == encoder_folder(folder, "question"):
            passage = question._replace(max_length=_read_limit(folder, settings, "passage", question))
        else:
            passage = load_side(folder, "passage")
            if passage.tokenizer.to_str() != question.tokenizer.to_str():
                raise ArtifactError(f"{folder}: the tokenizers of the question and the passage encoder differ.")
        return cls(
            model=BiEncoder(question.encoder, passage.encoder),
            tokenizer=question.tokenizer,
            question_max_length=question.max_length,
            passage_max_length=passage.max_length,
            titles=question.titles,
            similarity=question.similarity,
            temperature=settings.temperature if settings else 1.0,
        )


class BundleSide(NamedTuple):
    """One side of a saved model: all that is needed to embed its texts."""

    encoder: RobertaEncoder
    tokenizer: Tokenizer
    max_length: int
    """Maximum tokens of a text, special tokens included."""
    prompt: str
    """Is put before every text."""
    titles: str
    similarity: str


class ModelDefaults(NamedTuple):
    """Settings of a saved model that are not in its encoders."""

    titles: str
    similarity: str
    temperature: float | None
    """None if the model does not say it."""
    tied: bool
    max_lengths: tuple[int, int] | None
    """Maximum tokens of a question and of a passage. None if the encoders' limits count."""


def load_side(folder: str | os.PathLike[str], side: str) -> BundleSide:
    """Return one side of a saved model, "question" or "passage", without loading the other.

    Raises:
        FileNotFoundError: As ``BiEncoderBundle.load``.
        ArtifactError, UnsupportedModelError: As ``BiEncoderBundle.load``.
        ValueError: ``side`` is another word.
    """
    inner = encoder_folder(folder, side)
    _check_files(Path(folder), inner, side)
    # The limits of a bundle are in its config.json. Those of its encoders' folders are for sentence-transformers.
    settings = _read_settings(folder)
    lifted: dict[str, Any] = {"max_seq_length": None} if settings else {}
    encoder, tokenizer = RobertaEncoder.from_pretrained(inner, **lifted), load_tokenizer(inner)
    try:
        encoder.fit_tokenizer(count_ids(tokenizer), padding_idx(tokenizer))
    except ValueError as error:
        raise ArtifactError(f"{inner}: {error} They belong to different models.") from None
    loaded = BundleSide(
        encoder,
        tokenizer,
        encoder.max_length,
        encoder.config.find_prompt(side),
        _read_titles(Path(folder), settings),
        _read_similarity(Path(folder), settings, encoder),
    )
    return loaded._replace(max_length=_read_limit(folder, settings, side, loaded))


def encoder_folder(folder: str | os.PathLike[str], side: str) -> Path:
    """Return the folder of the encoder of one side: the folder itself if it holds a single encoder.

    Raises:
        FileNotFoundError: There is no folder, or it holds a training run instead of a model.
        ValueError: ``side`` is neither "question" nor "passage".
    """
    folder = Path(folder)
    if side not in SIDES:
        raise ValueError(f'side is "{side}". Use "question" or "passage".')
    if not os.path.lexists(folder):
        raise FileNotFoundError(describe_missing_model(folder))
    if (folder / "model" / "question_encoder").is_dir():
        raise FileNotFoundError(f"{folder}: the folder of a training run. Use the model in it: {folder / 'model'}")
    own, shared = folder / f"{side}_encoder", folder / "question_encoder"
    return own if own.is_dir() else shared if shared.is_dir() else folder


def model_files(folder: str | os.PathLike[str], side: str) -> list[Path]:
    """Return the files of one side of a saved model that decide its embeddings, each once.

    ``config.json`` of the bundle is not among them: ``BundleSide`` has the settings in it.

    Raises:
        FileNotFoundError: As ``BiEncoderBundle.load``.
        ArtifactError: As ``BiEncoderBundle.load``.
    """
    inner = encoder_folder(folder, side)
    return sorted({*encoder_files(inner), *tokenizer_files(inner)})


def _check_files(folder: Path, inner: Path, side: str) -> None:
    """Check that the files of one side are those that were saved, and that no other file decides embeddings, too."""
    known = check_saved_files(folder, f"{inner.name}/")
    if known is None:
        return
    for path in model_files(folder, side):
        if path.relative_to(folder).as_posix() not in known:
            config = folder / _CONFIG
            raise ArtifactError(
                f"{path}: {config} does not list it, so it came after the model was saved. Remove this file, or "
                f'"files" from {config}.'
            )


def _read_settings(folder: str | os.PathLike[str]) -> _Settings | None:
    """Return ``config.json`` of a saved model; None for a folder of another library.

    Raises:
        ArtifactError: A setting is missing, has the wrong type or an unknown value, or saving was interrupted.
    """
    path = Path(folder, _CONFIG)
    if not (Path(folder, "question_encoder").is_dir() and os.path.lexists(path)):
        return None
    settings = read_json(path, _Settings)
    if settings.temperature <= 0:
        raise ArtifactError(f"{path}: temperature is {settings.temperature}. It must be above 0.")
    if settings.tied == Path(folder, "passage_encoder").is_dir():
        found = "there is" if settings.tied else "there is no"
        raise ArtifactError(f"{path}: tied is {json.dumps(settings.tied)}, but {found} passage_encoder beside it.")
    return settings


def _read_limit(folder: str | os.PathLike[str], settings: _Settings | None, side: str, loaded: BundleSide) -> int:
    """Return the maximum tokens of one side. They must hold a title and a text of a token each."""
    name = f"{side}_max_length"
    limit = loaded.encoder.max_length if settings is None else getattr(settings, name)
    prompt = loaded.encoder.config.find_prompt(side).rstrip()
    least = loaded.tokenizer.num_special_tokens_to_add(True) + 2
    least += len(loaded.tokenizer.encode(prompt, add_special_tokens=False).ids)
    try:
        return _check_limit(name, limit, loaded.encoder, least)
    except ValueError as error:
        raise ArtifactError(f"{Path(folder, _CONFIG)}: {error}") from None


def _check_limit(name: str, limit: int, encoder: RobertaEncoder, least: int = 1) -> int:
    if not least <= limit <= encoder.max_length:
        raise ValueError(f"{name} is {limit}. The encoder takes {least} to {encoder.max_length} tokens.")
    return limit


def read_defaults(folder: str | os.PathLike[str]) -> ModelDefaults | None:
    """Return the settings of a saved model that training goes on with. None if its files say nothing about them.

    A folder of sentence-transformers has one encoder, and titles are joined with texts. It is compared by cosine
    similarity if it does not say otherwise.

    Args:
        folder: The folder of a saved model, of one of its encoders, or of another library.

    Raises:
        ArtifactError, UnsupportedModelError: As ``BiEncoderBundle.load``.
    """
    folder = Path(folder)
    bundle = _find_bundle(folder)
    settings = _read_settings(bundle) if bundle is not None else None
    if settings is not None:
        limits = (settings.question_max_length, settings.passage_max_length)
        return ModelDefaults(settings.titles, settings.similarity, settings.temperature, settings.tied, limits)
    if bundle is not None or not (folder / "modules.json").is_file():
        return None
    return ModelDefaults("join", read_similarity(folder) or "cosine", None, True, None)


def _find_bundle(folder: Path) -> Path | None:
    """Return the folder of the saved model that a folder is, or is an encoder of."""
    if (folder / "question_encoder").is_dir():
        return folder
    resolved = folder.resolve()
    is_encoder = resolved.name in ("question_encoder", "passage_encoder")
    return resolved.parent if is_encoder and (resolved.parent / "question_encoder").is_dir() else None


def _read_titles(folder: Path, settings: _Settings | None) -> str:
    """Return "pair" or "join", as a saved model says it or as the library of the folder has titles."""
    if settings is None and (defaults := read_defaults(folder)) is not None:
        return defaults.titles
    return settings.titles if settings else "pair"


def _read_similarity(folder: Path, settings: _Settings | None, encoder: RobertaEncoder) -> str:
    """Return "dot" or "cosine", as the folder says it or as its library compares embeddings."""
    ours, theirs = settings.similarity if settings else None, read_similarity(folder)
    if ours is not None:
        if theirs not in (None, ours):
            theirs_file = "config_sentence_transformers.json"
            raise ArtifactError(f'{folder}: config.json says "{ours}" similarity, {theirs_file} says "{theirs}".')
        return ours
    is_ours = (folder / "question_encoder").is_dir()
    if is_ours:
        message = f"{folder} has no config.json. Titles are encoded as pairs, texts up to the encoders' limits."
        warnings.warn(f"{message} Save a model by BiEncoderBundle.save.", SettingsWarning, stacklevel=4)
    if encoder.config.normalize:  # both give the same scores
        return "dot"
    if theirs is not None:
        return theirs
    if not (is_ours or (folder / "modules.json").is_file()):  # a plain encoder, which DPR compares by dot product
        return "dot"
    default = "dot" if is_ours else "cosine"
    warnings.warn(
        f"{folder} does not say how its embeddings are compared. {default} is used. "
        'Write "similarity_fn_name" into config_sentence_transformers.json to choose.',
        SettingsWarning,
        stacklevel=4,
    )
    return default
