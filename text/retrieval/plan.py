"""The plan of embeddings on disk, the names of their files, and the manifest with their hashes.

``plan.json`` holds everything that determines the bytes of the embeddings. The files of a shard are:

- ``.npy``: (rows, D) numbers
- ``.ids``: one passage id per line
- ``.keys.npy``: (rows,) int64 hashes of id, title and text
- ``.cut.npy``: (rows,) int8, 1 for texts that were truncated
- ``.scales.npy``: (rows,) float32 scales, only for int8

``shard-00000.json`` holds the hashes of the files of a shard, and ``manifest.json`` the hashes of all files.

Dimensions: R rows of the collection; D width of an embedding.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from text.artifacts import FileFacts, check_listed, hash_json, read_json, read_sealed, seal, write_json
from text.errors import ArtifactError

DType = Literal["float32", "float16", "int8"]
DTYPES: tuple[str, ...] = get_args(DType)
NUMBERS, SCALES, CUT = ".npy", ".scales.npy", ".cut.npy"
"""Suffixes of the files that the encoder fills. The ``CUT`` file has 1 for each truncated text, else 0."""
IDS, KEYS = ".ids", ".keys.npy"
"""Suffixes of the files of passage ids and passage hashes."""
PART, PROGRESS = ".part", ".progress"
"""Suffixes of the files of an unfinished shard."""
QUESTIONS = "questions.jsonl"
"""File name of the encoded questions, from whose embeddings a student learns."""
MANIFEST = "manifest.json"
"""File name of the manifest of finished embeddings."""
_MAX_ROWS, _MAX_DIM = 1 << 40, 1 << 16


class EncoderSettings(NamedTuple):
    """The settings of an encoder that change its embeddings."""

    similarity: Literal["dot", "cosine"]
    max_length: int = 1
    titles: Literal["pair", "join"] = "pair"
    prompt: str = ""
    precision: Literal["float32", "bfloat16", "float16", "int8"] = "float32"


class EncodedFile(NamedTuple):
    """The collection that was encoded."""

    path: str
    """Path relative to the folder of the embeddings. Earlier versions stored the path that the user gave."""
    sha256: str
    num_passages: int


class Plan(NamedTuple):
    """Everything that determines the bytes of the embeddings."""

    model: dict[str, str]
    """SHA-256 of the files of both encoders and their tokenizers."""
    settings: EncoderSettings
    collection: EncodedFile
    num_rows: int
    """R, the number of passages."""
    embedding_dim: int
    """D, the width of an embedding."""
    dtype: DType
    """Type of the numbers on disk."""
    shard_rows: int
    """Rows per shard. The last shard may have fewer."""
    block_rows: int
    """Rows per block. The texts of a block are sorted by length and encoded together."""
    reused: str = ""
    """Key of the plan of the embeddings that were copied for unchanged passages. Empty if none were."""
    max_tokens: int = 0
    """Maximum number of tokens in one batch on a GPU, as chosen when the encoding started. 0 on a CPU."""
    side: Literal["passage", "question"] = "passage"
    """Encoder that computed the embeddings. A student learns from embeddings of questions."""

    @property
    def key(self) -> str:
        """Hash of the plan. It does not depend on the path of the collection."""
        return hash_json(self._replace(collection=self.collection._replace(path="")).to_dict())

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_rows // self.shard_rows)

    def get_shard_rows(self, shard: int) -> range:
        """Return the rows of the collection that a shard holds."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_rows))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``plan.json`` without its hash.

        ``max_tokens`` and ``side`` are left out if they have their defaults, so that the plans of earlier versions keep
        their keys.
        """
        content = self._asdict() | {"settings": self.settings._asdict(), "collection": self.collection._asdict()}
        defaults = [("max_tokens", 0), ("side", "passage")]
        return {name: value for name, value in content.items() if (name, value) not in defaults}


class EmbeddingsManifest(NamedTuple):
    """The files of one shard or of all shards, with the key of their plan."""

    plan: str
    files: dict[str, FileFacts]


def get_shard_path(folder: str | os.PathLike[str], shard: int, suffix: str) -> Path:
    """Return the path of one file of a shard."""
    return Path(folder, f"shard-{shard:05}{suffix}")


def list_encoder_suffixes(dtype: str) -> tuple[str, ...]:
    """Return the suffixes of the files of a shard that the encoder fills."""
    return (NUMBERS, SCALES, CUT) if dtype == "int8" else (NUMBERS, CUT)


def list_data_suffixes(dtype: str) -> tuple[str, ...]:
    """Return the suffixes of all data files of a shard."""
    return (*list_encoder_suffixes(dtype), IDS, KEYS)


def find_shard(name: str, plan: Plan) -> int | None:
    """Return the number of the shard to which a file name belongs, finished or not. None for other files.

    >>> settings, collection = EncoderSettings("dot"), EncodedFile("corpus.jsonl", "", 20)
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
    """Return the plan with the path of its collection relative to the folder of the embeddings.

    A relative path stays valid in any working directory, and when the collection and the embeddings move together.
    """
    path = os.path.relpath(os.path.realpath(plan.collection.path), os.path.realpath(folder))
    return plan._replace(collection=plan.collection._replace(path=path))


def find_collection(folder: str | os.PathLike[str], plan: Plan) -> str:
    """Return the path of the collection that was encoded. The file may be missing.

    The path is relative if the file is inside the working directory, else absolute. Embeddings of an earlier version
    may store a path relative to the working directory of the encoding.
    """
    path = os.path.normpath(os.path.join(os.path.realpath(folder), plan.collection.path))
    if not os.path.exists(path) and os.path.exists(plan.collection.path):
        return plan.collection.path
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def write_plan(folder: str | os.PathLike[str], plan: Plan) -> None:
    """Write ``plan.json`` with the hash of its content."""
    write_json(Path(folder, "plan.json"), seal(plan.to_dict()))


def read_plan(folder: str | os.PathLike[str]) -> Plan:
    """Read the plan of the embeddings in a folder.

    Raises:
        FileNotFoundError: The folder holds no embeddings.
        ArtifactError: The file is damaged, or an earlier version wrote it.
    """
    path = Path(folder, "plan.json")
    try:
        plan = read_sealed(path, Plan)
        _check_values(path, plan)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such file, so there are no embeddings. Run dpr-text encode, or check the path."
        ) from None
    except ArtifactError as fault:
        raise ArtifactError(f"{fault} To encode again, use another folder.") from None
    return plan


def select_passage_files(model: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of the files that decide the embeddings of passages, from the hashes of a whole model.

    The files of a separate question encoder are left out. A new question encoder does not change these embeddings.
    """
    return {name: value for name, value in model.items() if not name.startswith("question_encoder/")}


def describe_changed_files(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return a phrase that names up to two files whose hashes differ. A longer list would hide other changes."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return f"model files {', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''} differ"


def read_embeddings_manifest(folder: str | os.PathLike[str], plan: Plan, *, check_hashes: bool) -> EmbeddingsManifest:
    """Read the manifest of finished embeddings, and check the files that it lists.

    The manifest must list all files of the shards, and no other files.

    Raises:
        ArtifactError: The encoding is not finished. Or the manifest or a file is missing, is damaged, or belongs to
            another plan.
    """
    path = Path(folder, MANIFEST)
    if not path.exists():
        raise ArtifactError(
            f"{os.fspath(folder)}: no {MANIFEST}, so the encoding is not finished. Run it again to continue."
        )
    manifest = _read_checked_manifest(path, plan, range(plan.num_shards), (*list_data_suffixes(plan.dtype), ".json"))
    check_listed(folder, manifest.files, check_hashes=check_hashes)
    return manifest


def read_shard_manifest(folder: str | os.PathLike[str], plan: Plan, shard: int) -> EmbeddingsManifest:
    """Read the manifest of one shard. The files that it lists are not checked.

    Raises:
        FileNotFoundError: The shard is not finished.
        ArtifactError: The manifest is damaged or belongs to another plan.
    """
    path = get_shard_path(folder, shard, ".json")
    return _read_checked_manifest(path, plan, range(shard, shard + 1), list_data_suffixes(plan.dtype))


def _read_checked_manifest(path: Path, plan: Plan, shards: range, suffixes: tuple[str, ...]) -> EmbeddingsManifest:
    """Read a manifest, and check that it lists exactly the files with these suffixes of these shards."""
    manifest = read_json(path, EmbeddingsManifest)
    if manifest.plan != plan.key:
        raise ArtifactError(f"{path}: does not match plan.json. Encode to another folder.")
    count = len(shards) * len(suffixes)
    # A damaged plan can have more shards than fit into memory, so the number of files is compared first.
    if len(manifest.files) != count or manifest.files.keys() != {
        get_shard_path("", shard, suffix).name for shard in shards for suffix in suffixes
    }:
        raise ArtifactError(
            f"{path}: does not list the {count} files of the plan's shards. It is damaged: encode again."
        )
    return manifest


def _check_values(path: Path, plan: Plan) -> None:
    """Check the numbers of a plan before memory is allocated.

    Raises:
        ArtifactError: A number is out of range. The message names it.
    """
    limits = {"num_rows": _MAX_ROWS, "embedding_dim": _MAX_DIM, "shard_rows": _MAX_ROWS, "block_rows": _MAX_ROWS}
    for name, most in {**limits, "max_tokens": _MAX_ROWS}.items():
        least = 1 if name in limits else 0
        if not least <= (value := getattr(plan, name)) <= most:
            raise ArtifactError(f"{path}: {name} is {value}. It must be from {least} to {most}.")
    if plan.shard_rows % plan.block_rows:
        raise ArtifactError(
            f"{path}: shard_rows is {plan.shard_rows}, not a multiple of block_rows, {plan.block_rows}."
        )
    if plan.num_rows != plan.collection.num_passages:
        count = plan.collection.num_passages
        raise ArtifactError(f"{path}: num_rows is {plan.num_rows}, but the collection has {count} passages.")
