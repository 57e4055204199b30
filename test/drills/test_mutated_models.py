"""Files of a model after an accident: a typed error, or the embeddings of the undamaged model.

Embeddings may also be those that sentence-transformers or transformers computes from the same files: then the mutation
made another valid model. A bundle knows its files by their hashes, so there every change of a listed file is an error.
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

from test.drills.mutations import mutate_bytes, mutate_json, mutations
from test.models.helpers import BERT, encoder, randomize
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
    sides = [encoder(pooling="mean", projection_dim=8, prompts={"query": "q:"}) for _ in range(2)]
    randomize(sides[1], seed=1)
    settings: dict[str, Any] = {"question_max_length": 30, "passage_max_length": 38, "similarity": "cosine"}
    BiEncoderBundle(model=BiEncoder(*sides), tokenizer=tokenizer, **settings).save(folder)


def make_sentence_transformers(folder: Path) -> None:
    encoder(pooling="mean", projection_dim=8, normalize=True, prompts={"query": "q:"}).save_pretrained(folder)
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
    """Return the embeddings of texts as questions and as passages, with the settings that decide scores."""
    loaded = [load_side(folder, side) for side in ("question", "passage")]
    with torch.no_grad():
        embeddings = [
            side.encoder.eval()(tokens.input_ids, tokens.attention_mask)
            for side in loaded
            for tokens in [Tokenize(side.tokenizer, side.max_length, side.prompt)(TEXTS)]
        ]
    return torch.cat(embeddings), loaded[0].similarity, loaded[0].titles


def embed_by_theirs(folder: Path) -> Tensor:
    """Return the embeddings that the library gives whose folder this is."""
    if (folder / "modules.json").exists():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return torch.from_numpy(np.concatenate([model.encode_query(TEXTS), model.encode_document(TEXTS)]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        first = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).last_hidden_state[:, 0]
    return torch.cat([first, first])


def outcome(folder: Path) -> Any:
    """Return embeddings and settings, or None for a typed error. Any other error fails the drill.

    A mutation can also make a model that is not supported.
    """
    try:
        return embed(folder)
    except BaseException as error:
        if get_exit_code(error) != 5 and not isinstance(error, FileNotFoundError | UnsupportedModelError):
            raise
        assert "\n" not in str(error) and str(folder) in str(error), str(error)
        return None


def assert_same_or_theirs(folder: Path, found: Any, expected: Any) -> None:
    if found is None:
        return
    same = found[1:] == expected[1:] and found[0].shape == expected[0].shape and torch.equal(found[0], expected[0])
    if not same:
        torch.testing.assert_close(found[0], embed_by_theirs(folder), rtol=1e-4, atol=1e-4)


def settings_of(folder: Path) -> list[Path]:
    """Return the files of settings. ``tokenizer.json`` is another library's vocabulary."""
    return [path for path in files_of(folder, ".json") if path.name != "tokenizer.json"]


def files_of(folder: Path, *endings: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name.endswith(endings))


@pytest.fixture(params=MAKERS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders[request.param], tmp_path / request.param))


def drill(folder: Path, files: Sequence[Path], change: Callable[[bytes, Random], bytes], count: int) -> None:
    """Change one of the files at a time."""
    expected, refused = embed(folder), 0
    for random in mutations(25, count):
        path = random.choice(files)
        content = path.read_bytes()
        path.write_bytes(change(content, random))
        found = outcome(folder)
        refused += found is None
        assert_same_or_theirs(folder, found, expected)
        path.write_bytes(content)
    assert refused > count / 4


def change_value(content: bytes, random: Random) -> bytes:
    return json.dumps(mutate_json(json.loads(content), random)).encode()


def test_a_changed_setting_is_an_error_or_what_it_says(folder: Path) -> None:
    drill(folder, settings_of(folder), change_value, 350)


def test_damaged_bytes_of_settings_are_an_error_or_what_they_say(folder: Path) -> None:
    drill(folder, settings_of(folder), mutate_bytes, 150)


def test_a_bundle_notices_every_change_of_weights_and_tokenizers(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["bundle"], tmp_path / "bundle"))
    files = [path for path in files_of(folder, ".safetensors", "tokenizer.json") if path.parent != folder]
    for random in mutations(26, 500):
        path = random.choice(files)
        content = path.read_bytes()
        path.write_bytes(mutate_bytes(content, random))
        assert outcome(folder) is None
        path.write_bytes(content)
    assert outcome(folder) is not None


@pytest.mark.parametrize("kind", ["sentence-transformers", "transformers"])
def test_damaged_weights_and_tokenizers_without_facts_end_in_typed_errors(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """Nothing tells a flipped bit of a number, or another word of a vocabulary, so the embeddings are not compared."""
    folder = Path(shutil.copytree(folders[kind], tmp_path / kind))
    files = files_of(folder, ".safetensors", "tokenizer.json")
    for number, random in enumerate(mutations(27, 500)):
        original = path = random.choice(files)
        content = original.read_bytes()
        if original.suffix == ".safetensors" and number % 2:
            weights = load(content)
            path = original.with_name("pytorch_model.bin")
            torch.save(weights, path, _use_new_zipfile_serialization=number % 4 == 1)
            original.unlink()
        change = change_value if path.suffix == ".json" and number % 2 else mutate_bytes
        path.write_bytes(change(path.read_bytes(), random))
        outcome(folder)
        path.unlink()
        original.write_bytes(content)
    assert outcome(folder) is not None
