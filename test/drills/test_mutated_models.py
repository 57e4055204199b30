"""Model folders with one damaged file give a typed error or the embeddings of the undamaged model.

A mutation may also produce another valid model. Its embeddings must then equal those of sentence-transformers or
transformers. A bundle stores hashes of its files, so every change of a listed file is an error there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load
from sentence_transformers import SentenceTransformer
from torch import Tensor

from test.drills.mutations import make_generators, mutate_bytes, mutate_json
from test.models.helpers import BERT, build_encoder, randomize
from text.bundle import BiEncoderBundle, load_side
from text.commands.running import get_exit_code
from text.errors import UnsupportedModelError
from text.models import BiEncoder
from text.transforms import Tokenize, save_tokenizer, train_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TEXTS = ["who ate the oak", "a beetle did", "The elm, É"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz,", "the", "who", "##e"]


def make_bundle(folder: Path) -> None:
    tokenizer = train_tokenizer(TEXTS * 3, 300)
    sides = [build_encoder(pooling="mean", projection_dim=8, prompts={"query": "q:"}) for _ in range(2)]
    randomize(sides[1], seed=1)
    settings: dict[str, Any] = {"question_max_length": 30, "passage_max_length": 38, "similarity": "cosine"}
    BiEncoderBundle(model=BiEncoder(*sides), tokenizer=tokenizer, **settings).save(folder)


def make_sentence_transformers(folder: Path) -> None:
    build_encoder(pooling="mean", projection_dim=8, normalize=True, prompts={"query": "q:"}).save_pretrained(folder)
    save_tokenizer(train_tokenizer(TEXTS * 3, 300), folder, max_length=30)


def make_transformers(folder: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**BERT))
    randomize(model)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.txt").unlink()


MAKERS: dict[str, Callable[[Path], None]] = {
    "bundle": make_bundle,
    "sentence-transformers": make_sentence_transformers,
    "transformers": make_transformers,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {kind: tmp_path_factory.mktemp("models") / kind for kind in MAKERS}
    for kind, make in MAKERS.items():
        make(made[kind])
    return made


def embed(folder: Path) -> tuple[Tensor, str, str]:
    """Return the embeddings of texts as questions and as passages, and the settings that affect scores."""
    loaded = [load_side(folder, side) for side in ("question", "passage")]
    with torch.no_grad():
        embeddings = [
            side.encoder.eval()(tokens.input_ids, tokens.attention_mask)
            for side in loaded
            for tokens in [Tokenize(side.tokenizer, side.max_length, side.prompt)(TEXTS)]
        ]
    return torch.cat(embeddings), loaded[0].similarity, loaded[0].titles


def embed_with_library(folder: Path) -> Tensor:
    """Return the embeddings that the library gives whose format the folder has."""
    if (folder / "modules.json").exists():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return torch.from_numpy(np.concatenate([model.encode_query(TEXTS), model.encode_document(TEXTS)]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        first = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).last_hidden_state[:, 0]
    return torch.cat([first, first])


def embed_or_refuse(folder: Path) -> Any:
    """Return embeddings and settings, or None for a typed error. Any other error fails the drill.

    A mutation may also produce an unsupported model.
    """
    try:
        return embed(folder)
    except BaseException as error:
        if get_exit_code(error) != 5 and not isinstance(error, FileNotFoundError | UnsupportedModelError):
            raise
        assert "\n" not in str(error) and str(folder) in str(error), str(error)
        return None


def assert_same_or_library_result(folder: Path, found: Any, expected: Any) -> None:
    if found is None:
        return
    same = found[1:] == expected[1:] and found[0].shape == expected[0].shape and torch.equal(found[0], expected[0])
    if not same:
        torch.testing.assert_close(found[0], embed_with_library(folder), rtol=1e-4, atol=1e-4)


def list_settings_files(folder: Path) -> list[Path]:
    """Return the settings files. ``tokenizer.json`` is left out, because it is the vocabulary of another library."""
    return [path for path in list_files_by_ending(folder, ".json") if path.name != "tokenizer.json"]


def list_files_by_ending(folder: Path, *endings: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name.endswith(endings))


@pytest.fixture(params=MAKERS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders[request.param], tmp_path / request.param))


def drill(folder: Path, files: Sequence[Path], change: Callable[[bytes, Random], bytes], count: int) -> None:
    """Change one file at a time, and check the result."""
    expected, refused = embed(folder), 0
    for random in make_generators(25, count):
        path = random.choice(files)
        content = path.read_bytes()
        path.write_bytes(change(content, random))
        found = embed_or_refuse(folder)
        refused += found is None
        assert_same_or_library_result(folder, found, expected)
        path.write_bytes(content)
    assert refused > count / 4


def change_value(content: bytes, random: Random) -> bytes:
    return json.dumps(mutate_json(json.loads(content), random)).encode()


def test_a_changed_setting_is_an_error_or_takes_effect(folder: Path) -> None:
    drill(folder, list_settings_files(folder), change_value, 350)


def test_damaged_settings_files_are_an_error_or_take_effect(folder: Path) -> None:
    drill(folder, list_settings_files(folder), mutate_bytes, 150)


def test_a_bundle_notices_every_change_of_weights_and_tokenizers(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["bundle"], tmp_path / "bundle"))
    files = [path for path in list_files_by_ending(folder, ".safetensors", "tokenizer.json") if path.parent != folder]
    for random in make_generators(26, 500):
        path = random.choice(files)
        content = path.read_bytes()
        path.write_bytes(mutate_bytes(content, random))
        assert embed_or_refuse(folder) is None
        path.write_bytes(content)
    assert embed_or_refuse(folder) is not None


@pytest.mark.parametrize("kind", ["sentence-transformers", "transformers"])
def test_damaged_weights_and_tokenizers_without_facts_end_in_typed_errors(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """Embeddings are not compared, because a flipped bit in a number or another word cannot be noticed."""
    folder = Path(shutil.copytree(folders[kind], tmp_path / kind))
    files = list_files_by_ending(folder, ".safetensors", "tokenizer.json")
    for number, random in enumerate(make_generators(27, 500)):
        original = path = random.choice(files)
        content = original.read_bytes()
        if original.suffix == ".safetensors" and number % 2:
            weights = load(content)
            path = original.with_name("pytorch_model.bin")
            torch.save(weights, path, _use_new_zipfile_serialization=number % 4 == 1)
            original.unlink()
        change = change_value if path.suffix == ".json" and number % 2 else mutate_bytes
        path.write_bytes(change(path.read_bytes(), random))
        embed_or_refuse(folder)
        path.unlink()
        original.write_bytes(content)
    assert embed_or_refuse(folder) is not None
