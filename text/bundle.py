"""Saved models: two encoders, their tokenizer, and all settings that decide embeddings and scores.

Training writes the folder of a model and retrieval reads it, both with this module only. The folder contains:

- ``config.json``: length limits, treatment of titles, similarity, temperature, whether the encoders are tied, and the
  size and hash of each file that decides embeddings;
- the tokenizer;
- one folder for each encoder, in the format of ``transformers`` and sentence-transformers.

``BiEncoderBundle.load`` also opens folders of other libraries. Both sides then use the same encoder.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from text.artifacts import FileFacts, atomic_write, read_json
from text.errors import ArtifactError, SettingsWarning, UnsupportedModelError, UsageError
from text.losses import SIMILARITIES
from text.models import BiEncoder, TextEncoder, TransformersEncoder, load_encoder
from text.models.checkpoint import list_encoder_files
from text.models.cross_encoder_files import is_classifier
from text.models.files import begin_saving, check_model_folder, check_nothing_added, check_saved_files, end_saving
from text.models.lora import describe_adapters
from text.models.sentence_files import read_similarity
from text.transforms import (
    TITLES,
    BiEncoderCollator,
    StoredEmbeddings,
    Tokenize,
    Tokenizer,
    TorchtextTokenize,
    load_tokenizer,
    save_tokenizer,
    torchtext_bpe,
)
from text.transforms.tokenizer_files import count_ids, get_padding_idx, list_tokenizer_files

SIDES = ("question", "passage")
"""Names of the two sides of a model."""
_CONFIG = "config.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


class _Settings(NamedTuple):
    """Content of ``config.json``."""

    question_max_length: int
    passage_max_length: int
    titles: Literal["pair", "join"]
    similarity: Literal["dot", "cosine"]
    temperature: float
    tied: bool
    files: dict[str, FileFacts] | None = None
    """Size and hash of each file that decides embeddings, by its path. None turns the check of files off."""


@dataclass(frozen=True, kw_only=True)
class BiEncoderBundle:
    """A bi-encoder with its tokenizer and settings.

    Args:
        model: The encoders, with their prompts.
        tokenizer: Tokenizer of both encoders.
        question_max_length: Maximum tokens of a question, special tokens included.
        passage_max_length: Maximum tokens of a title and text together, special tokens included.
        titles: "pair" encodes title and text as a pair (DPR). "join" puts the title before the text.
        similarity: "dot" or "cosine".
        temperature: Divides the logits in training. It does not change the order of passages.

    Raises:
        ValueError: A setting has an unknown value, a limit is higher than the encoder allows, or the tokenizer does not
            fit an encoder (see ``text.transforms.encoder_settings``).

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
            self.encoder(side).fit_tokenizer(count_ids(self.tokenizer), get_padding_idx(self.tokenizer))

    @property
    def limits(self) -> dict[str, int]:
        """Maximum tokens of a question and of a passage, by the name of the setting."""
        return {"question_max_length": self.question_max_length, "passage_max_length": self.passage_max_length}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide embeddings and scores, by the name of the command-line flag."""
        return {
            **self.limits,
            "titles": self.titles,
            "similarity": self.similarity,
            "temperature": self.temperature,
            "tied": self.model.is_tied,
            **{f"{side}_prompt": self._find_prompt(side) for side in SIDES},
        }

    @property
    def has_unit_length(self) -> bool:
        """True if scores lie between -1 and 1, because similarity is cosine or embeddings have length 1."""
        return self.similarity == "cosine" or all(self.encoder(side).is_normalized for side in SIDES)

    def describe(self) -> str:
        """Return a one-line description of the settings."""
        prompts = [f"{side}s begin with {json.dumps(prompt)}" for side in SIDES if (prompt := self._find_prompt(side))]
        encoders = dict.fromkeys(self.encoder(side) for side in SIDES)
        parts = (
            *dict.fromkeys(each.describe() for each in encoders if isinstance(each, TransformersEncoder)),
            *filter(None, dict.fromkeys(map(describe_adapters, encoders))),
            "cosine similarity" if self.similarity == "cosine" else "dot product",
            f"temperature {self.temperature:g}",
            "one encoder for both sides" if self.model.is_tied else "two encoders",
            "titles joined with texts" if self.titles == "join" else "titles and texts as pairs",
            f"at most {self.question_max_length} tokens of a question and {self.passage_max_length} of a passage",
            *(prompts or ["no prompts"]),
        )
        return ", ".join(parts)

    def encoder(self, side: str) -> TextEncoder:
        """Return the encoder of one side, "question" or "passage"."""
        encoder = self.model.question_encoder if side == "question" else self.model.passage_encoder
        if not isinstance(encoder, TextEncoder):
            raise TypeError(f"the {side} encoder is a {type(encoder).__name__}. Only a TextEncoder can be saved.")
        return encoder

    def transform(self, side: str, backend: str = "tokenizers") -> Tokenize | TorchtextTokenize:
        """Return the transform of one side, which turns texts into token ids with the limit and the prompt of the side.

        Args:
            side: "question" or "passage".
            backend: "tokenizers" or "torchtext" (GPT2BPETokenizer). Both give the same ids.
        """
        limit, prompt = self.limits[f"{side}_max_length"], self._find_prompt(side)
        if backend == "torchtext":
            return TorchtextTokenize(torchtext_bpe(self.tokenizer), limit, prompt)
        return Tokenize(self.tokenizer, limit, prompt)

    def build_collator(
        self, num_positives: int = 1, backend: str = "tokenizers", stored: StoredEmbeddings | None = None
    ) -> BiEncoderCollator:
        """Return the collator that turns Examples into batches for the encoders.

        Args:
            num_positives: Maximum number of positives of a question in a batch.
            backend: "tokenizers" or "torchtext". See ``transform``.
            stored: Lookups of embeddings to put into the batches.
        """
        question_transform, passage_transform = (self.transform(side, backend) for side in SIDES)
        return BiEncoderCollator(
            question_transform, passage_transform, num_positives, titles=self.titles, stored=stored
        )

    def build_token_cache_transform(self) -> Tokenize:
        """Return the transform with which ``DPRDataPipe.cache_tokens`` tokenizes each text once.

        Raises:
            UsageError: Titles are joined with texts, or the tokenizer merges a prompt with the text after it. The
                tokens of a text then depend on what precedes it, so they cannot be cached.
        """
        if self.titles == "join":
            raise UsageError(
                "--token_cache does not support titles joined with texts. Use --titles=pair, or omit --token_cache."
            )
        transforms = [
            Tokenize(self.tokenizer, self.limits[f"{side}_max_length"], self._find_prompt(side)) for side in SIDES
        ]
        for transform in transforms:
            if not transform.takes_ids:
                prompt = json.dumps(transform.prompt)
                raise UsageError(
                    f"--token_cache does not support the prompt {prompt}, which the tokenizer merges with each text. "
                    "Omit --token_cache."
                )
        return transforms[-1]

    def _find_prompt(self, side: str) -> str:
        return self.encoder(side).find_prompt(side)

    def save(self, folder: str | os.PathLike[str], *, passages_from: str | os.PathLike[str] | None = None) -> None:
        """Write the model to a folder that ``load``, ``transformers`` and sentence-transformers can read.

        ``config.json`` is written last. Until then the folder does not load, so files of two models never mix.

        Args:
            folder: Output folder.
            passages_from: Model whose passage encoder is copied file by file instead of this model's. The hashes of
                these files stay the same, so the saved model can search the embeddings of that model.

        Raises:
            FileExistsError: The encoders are tied, and the folder contains the passage encoder of another model.
            OSError: The folder cannot be written.
        """
        folder = Path(folder)
        limits = {"question_encoder": self.question_max_length, "passage_encoder": self.passage_max_length}
        if self.model.is_tied:  # The shared encoder has one limit.
            limits = {"question_encoder": self.passage_max_length}
        self.model.check_folder(folder)
        begin_saving(folder / _CONFIG)
        self.model.save_pretrained(folder, similarity=self.similarity, max_lengths=limits)
        save_tokenizer(self.tokenizer, folder, max_length=self.passage_max_length)
        for name, limit in limits.items():
            save_tokenizer(self.tokenizer, folder / name, max_length=limit)
        if passages_from is not None:
            _replace_folder(folder / "passage_encoder", find_encoder_folder(passages_from, "passage"))
        names = [name for name in _Settings._fields if name not in ("tied", "files")]
        settings = {name: getattr(self, name) for name in names} | {"tied": self.model.is_tied}
        files = {path for side in SIDES for path in list_model_files(folder, side)}
        end_saving(folder / _CONFIG, settings, [*files, *(folder / name for name in _TOKENIZER)])

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> BiEncoderBundle:
        """Load a saved model.

        Args:
            folder: A folder that ``save`` wrote; or a folder of ``transformers`` or sentence-transformers, with its
                tokenizer, that ``text.models.load_encoder`` can load.

        Raises:
            FileNotFoundError: A file is missing, or the folder contains a training run instead of a model.
            ArtifactError: A file is damaged, or two settings contradict each other.
            UnsupportedModelError: The model or a setting is not supported.
        """
        question = load_side(folder, "question")
        settings = _read_settings(folder)
        if find_encoder_folder(folder, "passage") == find_encoder_folder(folder, "question"):
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
    """One side of a saved model: the encoder, tokenizer and settings that embed its texts."""

    encoder: TextEncoder
    tokenizer: Tokenizer
    max_length: int
    """Maximum tokens of a text, special tokens included."""
    prompt: str
    """Text before every question or passage."""
    titles: str
    """"pair" or "join"."""
    similarity: str
    """"dot" or "cosine"."""


class ModelDefaults(NamedTuple):
    """Settings of a saved model that its encoders do not contain."""

    titles: str
    similarity: str
    temperature: float | None
    """Training temperature. None if the model does not state it."""
    tied: bool
    max_lengths: tuple[int, int] | None
    """Maximum tokens of a question and of a passage. None if the limits of the encoders apply."""


def load_side(folder: str | os.PathLike[str], side: str) -> BundleSide:
    """Load one side of a saved model, "question" or "passage". The other side is not loaded.

    Raises:
        FileNotFoundError: See ``BiEncoderBundle.load``.
        ArtifactError, UnsupportedModelError: See ``BiEncoderBundle.load``.
        ValueError: ``side`` is neither "question" nor "passage".
    """
    inner = find_encoder_folder(folder, side)
    if is_classifier(inner):
        reason = "this is a reranker, which scores pairs of a question and a passage and has no embeddings"
        raise UnsupportedModelError.at(folder, f"{reason}. Give a bi-encoder, or load it with text.reranker.Reranker.")
    _check_files(Path(folder), inner, side)
    # The config.json of a bundle contains its limits. Those in the encoders' folders are for sentence-transformers.
    settings = _read_settings(folder)
    unlimited: dict[str, Any] = {"max_seq_length": None} if settings else {}
    encoder, tokenizer = load_encoder(inner, **unlimited), load_tokenizer(inner)
    try:
        encoder.fit_tokenizer(count_ids(tokenizer), get_padding_idx(tokenizer))
    except ValueError as error:
        raise ArtifactError(f"{inner}: {error} The tokenizer belongs to another model.") from None
    loaded = BundleSide(
        encoder,
        tokenizer,
        encoder.max_length,
        encoder.find_prompt(side),
        _read_titles(Path(folder), settings),
        _read_similarity(Path(folder), settings, encoder),
    )
    return loaded._replace(max_length=_read_limit(folder, settings, side, loaded))


def find_encoder_folder(folder: str | os.PathLike[str], side: str) -> Path:
    """Return the folder of the encoder of one side. A folder with a single encoder is returned itself.

    Raises:
        FileNotFoundError: The folder is missing, or contains a training run instead of a model.
        ValueError: ``side`` is neither "question" nor "passage".
    """
    folder = Path(folder)
    if side not in SIDES:
        raise ValueError(f'side is "{side}". Use "question" or "passage".')
    check_model_folder(folder)
    separate, shared = folder / f"{side}_encoder", folder / "question_encoder"
    return separate if separate.is_dir() else shared if shared.is_dir() else folder


def list_model_files(folder: str | os.PathLike[str], side: str) -> list[Path]:
    """Return the files that decide the embeddings of one side of a saved model.

    The ``config.json`` of the bundle is not included, because ``BundleSide`` contains its settings.

    Raises:
        FileNotFoundError: See ``BiEncoderBundle.load``.
        ArtifactError: See ``BiEncoderBundle.load``.
    """
    inner = find_encoder_folder(folder, side)
    return sorted({*list_encoder_files(inner), *list_tokenizer_files(inner)})


def are_saved_together(folder: str | os.PathLike[str], model_hashes: Mapping[str, str]) -> bool:
    """Return whether the settings of a saved model list the files of both of its encoders with these hashes.

    It is false for a model with one encoder, for a folder of another library, and if the settings list no files.

    Args:
        folder: The model.
        model_hashes: SHA-256 of the files of both encoders (``text.retrieval.embedder.hash_model``).
    """
    settings = _read_settings(folder)
    listed = {name: facts.sha256 for name, facts in ((settings and settings.files) or {}).items()}
    places = {
        name: name if name.startswith("question_encoder/") else f"passage_encoder/{name}" for name in model_hashes
    }
    found = {places[name]: value for name, value in model_hashes.items()}
    return bool(found) and found.items() <= listed.items()


def _replace_folder(folder: Path, source: Path) -> None:
    """Replace a folder by a copy of another one."""

    def copy_file(path: str, copied: str) -> None:
        with atomic_write(copied) as temporary:
            shutil.copyfile(path, temporary)

    shutil.rmtree(folder)
    shutil.copytree(source, folder, copy_function=copy_file)


def _check_files(folder: Path, inner: Path, side: str) -> None:
    """Check that the files of one side are unchanged, and that no file that decides embeddings was added."""
    path = folder / _CONFIG
    if not (_is_bundle(folder) and os.path.lexists(path)):
        return
    listed = check_saved_files(path, f"{inner.name}/")
    if listed is not None:
        check_nothing_added(path, listed, list_model_files(folder, side))


def _is_bundle(folder: Path) -> bool:
    """Return whether ``BiEncoderBundle.save`` wrote a folder. ``config.json`` may be missing."""
    return (folder / "question_encoder").is_dir()


def _read_settings(folder: str | os.PathLike[str]) -> _Settings | None:
    """Return the ``config.json`` of a saved model. For a folder of another library, return None.

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
        raise ArtifactError(f"{path}: tied is {json.dumps(settings.tied)}, but {found} passage_encoder in the folder.")
    return settings


def _read_limit(folder: str | os.PathLike[str], settings: _Settings | None, side: str, loaded: BundleSide) -> int:
    """Return the maximum tokens of one side. A title and a text of one token each must fit."""
    name = f"{side}_max_length"
    limit = loaded.encoder.max_length if settings is None else getattr(settings, name)
    prompt = loaded.encoder.find_prompt(side).rstrip()
    least = loaded.tokenizer.num_special_tokens_to_add(True) + 2
    least += len(loaded.tokenizer.encode(prompt, add_special_tokens=False).ids)
    try:
        return _check_limit(name, limit, loaded.encoder, least)
    except ValueError as error:
        raise ArtifactError(f"{Path(folder, _CONFIG)}: {error}") from None


def _check_limit(name: str, limit: int, encoder: TextEncoder, least: int = 1) -> int:
    if not least <= limit <= encoder.max_length:
        raise ValueError(f"{name} is {limit}. The encoder takes {least} to {encoder.max_length} tokens.")
    return limit


def read_defaults(folder: str | os.PathLike[str]) -> ModelDefaults | None:
    """Return the settings with which training continues from a saved model. None if its files state none.

    A sentence-transformers model has one encoder, and titles are joined with texts. Its default similarity is cosine.

    Args:
        folder: The folder of a saved model, of one of its encoders, or of another library.

    Raises:
        ArtifactError, UnsupportedModelError: See ``BiEncoderBundle.load``.
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
    """Return the folder of a saved model, given this folder or the folder of one of its encoders. Otherwise None."""
    if (folder / "question_encoder").is_dir():
        return folder
    resolved = folder.resolve()
    is_encoder = resolved.name in ("question_encoder", "passage_encoder")
    return resolved.parent if is_encoder and (resolved.parent / "question_encoder").is_dir() else None


def _read_titles(folder: Path, settings: _Settings | None) -> str:
    """Return "pair" or "join", as a saved model states it or as the other library treats titles."""
    if settings is None and (defaults := read_defaults(folder)) is not None:
        return defaults.titles
    return settings.titles if settings else "pair"


def _read_similarity(folder: Path, settings: _Settings | None, encoder: TextEncoder) -> str:
    """Return "dot" or "cosine", as the folder states it or as its library compares embeddings by default."""
    stated, in_modules = settings.similarity if settings else None, read_similarity(folder)
    if stated is not None:
        if in_modules not in (None, stated):
            file = "config_sentence_transformers.json"
            raise ArtifactError(f'{folder}: similarity is "{stated}" in config.json, but "{in_modules}" in {file}.')
        return stated
    is_bundle = (folder / "question_encoder").is_dir()
    if is_bundle:
        message = f"{folder} has no config.json. Using titles=pair and the maximum lengths of the encoders."
        warnings.warn(f"{message} Save the model with BiEncoderBundle.save.", SettingsWarning, stacklevel=4)
    if encoder.is_normalized:  # Dot product and cosine are equal.
        return "dot"
    if in_modules is not None:
        return in_modules
    if not (is_bundle or (folder / "modules.json").is_file()):  # DPR compares plain encoders by dot product.
        return "dot"
    default = "dot" if is_bundle else "cosine"
    warnings.warn(
        f"{folder} does not state a similarity. Using {default}. "
        'To choose another one, set "similarity_fn_name" in config_sentence_transformers.json.',
        SettingsWarning,
        stacklevel=4,
    )
    return default
