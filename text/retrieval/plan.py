"""The plan of embeddings on disk, the names of their files, and the manifest by which these files are trusted.

``plan.json`` is everything that decides the bytes of the embeddings. A shard is ``.npy`` with (rows, D) numbers,
``.ids`` with one id a line, ``.keys.npy`` with (rows,) int64 hashes of id, title and text, ``.cut.npy`` with (rows,)
int8 marks of the texts that were longer than the limit, and for int8 ``.scales.npy`` with (rows,) float32 numbers.
``shard-00000.json`` has the hashes of these files, and ``manifest.json`` has the hashes of all files.

Dimensions: R rows of the collection; D width of an embedding.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from text.artifacts import FileFacts, check_listed, hash_json, read_json, read_sealed, seal, write_json
from text.errors import ArtifactError

DType = Literal["float32", "float16", "int8"]
DTYPES: tuple[str, ...] = get_args(DType)
NUMBERS, SCALES, CUT = ".npy", ".scales.npy", ".cut.npy"
"""Endings of the files that an encoder fills. The file of ``CUT`` has 1 for each text that was cut, else 0."""
IDS, KEYS = ".ids", ".keys.npy"
PART, PROGRESS = ".part", ".progress"
"""Endings of the files of a shard that is not finished."""
MANIFEST = "manifest.json"
_MAX_ROWS, _MAX_DIM = 1 << 40, 1 << 16


class Settings(NamedTuple):
    """The settings of an encoder that decide its embeddings."""

    similarity: Literal["dot", "cosine"]
    max_length: int = 1
    titles: Literal["pair", "join"] = "pair"
    prompt: str = ""
    precision: Literal["float32", "bfloat16", "int8"] = "float32"


class EncodedFile(NamedTuple):
    """The collection that was encoded."""

    path: str
    """Relative to the folder of the embeddings, in ``plan.json``. An earlier version wrote it as it was given."""
    sha256: str
    num_passages: int


class Plan(NamedTuple):
    """Everything that decides the bytes of the embeddings."""

    model: dict[str, str]
    """SHA-256 of the files of both encoders and their tokenizers."""
    settings: Settings
    collection: EncodedFile
    num_rows: int
    """R."""
    embedding_dim: int
    """D."""
    dtype: DType
    shard_rows: int
    """Rows of each shard. The last one may have fewer."""
    block_rows: int
    """Rows whose texts are sorted by length and encoded together."""
    reused: str = ""
    """Key of the plan whose embeddings were copied for passages that had not changed."""

    @property
    def key(self) -> str:
        """Hash of the plan. It does not depend on the path of the collection."""
        return hash_json(self._replace(collection=self.collection._replace(path="")).to_dict())

    @property
    def num_shards(self) -> int:
        return -(-self.num_rows // self.shard_rows)

    def get_shard_rows(self, shard: int) -> range:
        """Return the rows of the collection that a shard holds."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_rows))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as ``plan.json`` holds it, without the hash."""
        return self._asdict() | {"settings": self.settings._asdict(), "collection": self.collection._asdict()}


class Manifest(NamedTuple):
    """The files of a shard, or of all shards, and the key of their plan."""

    plan: str
    files: dict[str, FileFacts]


def get_shard_path(folder: str | os.PathLike[str], shard: int, suffix: str) -> Path:
    """Return the path of one file of a shard."""
    return Path(folder, f"shard-{shard:05}{suffix}")


def list_encoder_suffixes(dtype: str) -> tuple[str, ...]:
    """Return the endings of the files of a shard that the encoder fills."""
    return (NUMBERS, SCALES, CUT) if dtype == "int8" else (NUMBERS, CUT)


def list_data_suffixes(dtype: str) -> tuple[str, ...]:
    """Return the endings of the files of a shard that hold data."""
    return (*list_encoder_suffixes(dtype), IDS, KEYS)


def find_shard(name: str, plan: Plan) -> int | None:
    """Return the shard of a plan to which a file belongs by its exact name, finished or not; None for other files.

    >>> settings, collection = Settings("dot"), EncodedFile("corpus.jsonl", "", 20)
    >>> plan = Plan({}, settings, collection, 20, 4, "float32", shard_rows=10, block_rows=10)
    >>> [find_shard(name, plan) for name in ("shard-00001.npy", "shard-00002.npy", "shard-1.npy", "shard-x")]
    [1, None, None, None]
    """
    found = re.fullmatch(r"shard-([0-9]{5,})(\..*)", name)
    encoded = [f"{suffix}{PART}" for suffix in list_encoder_suffixes(plan.dtype)]
    if found is None or found[2] not in (*list_data_suffixes(plan.dtype), *encoded, PROGRESS, ".json"):
        return None
    shard = int(found[1])
    return shard if shard < plan.num_shards and get_shard_path("", shard, found[2]).name == name else None


def make_collection_path_relative(folder: str | os.PathLike[str], plan: Plan) -> Plan:
    """Return a plan whose collection has its path relative to the folder of the embeddings.

    The path then holds from any working directory, and wherever both are moved together.
    """
    path = os.path.relpath(os.path.realpath(plan.collection.path), os.path.realpath(folder))
    return plan._replace(collection=plan.collection._replace(path=path))


def find_collection(folder: str | os.PathLike[str], plan: Plan) -> str:
    """Return the path of the collection that was encoded, absolute or relative to the working directory.

    It need not exist. Embeddings of an earlier version may have it relative to the working directory of the encoding.
    """
    placed = os.path.normpath(os.path.join(os.path.realpath(folder), plan.collection.path))
    if not os.path.exists(placed) and os.path.exists(plan.collection.path):
        return plan.collection.path
    inside = os.path.relpath(placed)
    return placed if inside.startswith(os.pardir) else inside


def write_plan(folder: str | os.PathLike[str], plan: Plan) -> None:
    """Write ``plan.json`` with the hash of its content."""
    write_json(Path(folder, "plan.json"), seal(plan))


def read_plan(folder: str | os.PathLike[str]) -> Plan:
    """Return the plan of the embeddings in a folder.

    Raises:
        FileNotFoundError: The folder holds no embeddings.
        ArtifactError: The file is damaged, or an earlier version wrote it.
    """
    path = Path(folder, "plan.json")
    try:
        plan = read_sealed(path, Plan)
        _check_values(path, plan)
    except ArtifactError as fault:
        raise ArtifactError(f"{fault} To encode again, take another folder.") from None
    return plan


def read_manifest(folder: str | os.PathLike[str], plan: Plan, *, check_hashes: bool) -> Manifest:
    """Return the manifest of finished embeddings. It lists all files of the plan's shards and no others, and they fit.

    Raises:
        ArtifactError: The encoding is not finished, or the manifest or a file is missing, damaged or of another plan.
    """
    path = Path(folder, MANIFEST)
    if not path.exists():
        raise ArtifactError(
            f"{os.fspath(folder)}: no {MANIFEST}, the encoding is not finished. Run it again to continue it."
        )
    manifest = _read_and_check_manifest(path, plan, range(plan.num_shards), (*list_data_suffixes(plan.dtype), ".json"))
    check_listed(folder, manifest.files, check_hashes=check_hashes)
    return manifest


def read_shard_manifest(folder: str | os.PathLike[str], plan: Plan, shard: int) -> Manifest:
    """Return the manifest of one shard. The files that it lists are not looked at.

    Raises:
        FileNotFoundError: The shard is not finished.
        ArtifactError: The manifest is damaged or of another plan.
    """
    path = get_shard_path(folder, shard, ".json")
    return _read_and_check_manifest(path, plan, range(shard, shard + 1), list_data_suffixes(plan.dtype))


def _read_and_check_manifest(path: Path, plan: Plan, shards: range, suffixes: tuple[str, ...]) -> Manifest:
    """Read a manifest that must list these files of these shards, and no others."""
    manifest = read_json(path, Manifest)
    if manifest.plan != plan.key:
        raise ArtifactError(f"{path}: of another plan than plan.json. Encode to a folder of its own.")
    count = len(shards) * len(suffixes)
    # A plan can name more shards than memory holds, so the number is compared first.
    if len(manifest.files) != count or manifest.files.keys() != {
        get_shard_path("", shard, suffix).name for shard in shards for suffix in suffixes
    }:
        raise ArtifactError(
            f"{path}: lists other files than the {count} of the plan's shards. It is damaged: encode again."
        )
    return manifest


def _check_values(path: Path, plan: Plan) -> None:
    """Refuse numbers that no encoding can have, before memory is asked for.

    Raises:
        ArtifactError: A number is out of range; with its name.
    """
    limits = {"num_rows": _MAX_ROWS, "embedding_dim": _MAX_DIM, "shard_rows": _MAX_ROWS, "block_rows": _MAX_ROWS}
    for name, most in limits.items():
        if not 1 <= (value := getattr(plan, name)) <= most:
            raise ArtifactError(f"{path}: {name} is {value}. It must be from 1 to {most}.")
    if plan.shard_rows % plan.block_rows:
        raise ArtifactError(f"{path}: shard_rows is {plan.shard_rows}, no multiple of block_rows, {plan.block_rows}.")
    if plan.num_rows != plan.collection.num_passages:
        count = plan.collection.num_passages
        raise ArtifactError(f"{path}: num_rows is {plan.num_rows}, but the collection has {count} passages.")
