"""Saved models keep their settings, open in other libraries, and detect damaged or replaced files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from text.bundle import BiEncoderBundle, load_side
from text.errors import ArtifactError, SettingsWarning, UnsupportedModelError, UsageError
from text.models import BiEncoder, RobertaEncoder, roberta_tiny
from text.records import Passage
from text.retrieval import Embedder
from text.transforms import save_tokenizer, train_tokenizer

TEXTS = ["who ate the oak", "a beetle did", "nobody ate an ash", "the elm grew tall"] * 3
PASSAGES = [Passage("1", "oaks", "a beetle did"), Passage("2", "", "nobody ate an ash"), Passage("3", "elms", "tall")]


def make_bundle(*, tied: bool = False, normalize: bool = False, **settings: Any) -> BiEncoderBundle:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 300)
    options = {"vocab_size": 300, "pooling": "mean", "max_position_embeddings": 66, "normalize": normalize}
    prompts = {"query": "q:", "document": "p:"}
    sides = [roberta_tiny(**options, prompts=prompts).eval() for _ in range(1 if tied else 2)]
    limits = {"question_max_length": 12, "passage_max_length": 20}
    return BiEncoderBundle(model=BiEncoder(sides[0], sides[-1]), tokenizer=tokenizer, **{**limits, **settings})


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in {**content, **changes}.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    """Save one encoder as a folder of sentence-transformers. Its embeddings are not normalized."""
    bundle = make_bundle(tied=True)
    bundle.encoder("question").save_pretrained(tmp_path / "st")
    save_tokenizer(bundle.tokenizer, tmp_path / "st", max_length=20)
    return tmp_path / "st"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"similarity": "cosine", "temperature": 0.05, "titles": "join", "question_max_length": 9}]
)
def test_loading_restores_every_setting(tmp_path: Path, tied: bool, settings: dict[str, Any]) -> None:
    bundle = make_bundle(tied=tied, **settings)
    bundle.save(tmp_path / "model")
    loaded = BiEncoderBundle.load(tmp_path / "model")
    for name in ("question_max_length", "passage_max_length", "titles", "similarity", "temperature"):
        assert getattr(loaded, name) == getattr(bundle, name)
    assert loaded.model.is_tied == tied
    assert loaded.tokenizer.to_str() == bundle.tokenizer.to_str()
    for side in ("question", "passage"):
        assert loaded.encoder(side).prompts == bundle.encoder(side).prompts
        before, after = bundle.encoder(side).state_dict(), loaded.encoder(side).state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
    loaded.save(tmp_path / "again")
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "model", tmp_path / "again")
    )
    assert first == second


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_sentence_transformers_gives_the_same_scores(tmp_path: Path, tied: bool, similarity: str) -> None:
    make_bundle(tied=tied, similarity=similarity, titles="join").save(tmp_path)
    peer = SentenceTransformer(str(tmp_path), device="cpu")
    assert peer.similarity_fn_name == similarity
    questions = ["who ate the oak", "what grew"]
    texts = [f"{passage.title} {passage.text}".strip() for passage in PASSAGES]
    expected = peer.similarity(peer.encode_query(questions), peer.encode_document(texts))
    found = (
        Embedder.from_pretrained(tmp_path, "question")(questions)
        @ Embedder.from_pretrained(tmp_path, "passage")(PASSAGES).T
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_model_trained_with_cosine_embeds_for_cosine(tmp_path: Path) -> None:
    make_bundle(similarity="cosine").save(tmp_path)
    embedder = Embedder.from_pretrained(tmp_path, "passage")
    assert embedder.settings["similarity"] == "cosine"
    np.testing.assert_allclose(embedder(PASSAGES).norm(dim=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("stated", "expected"), [("dot", "dot"), ("cosine", "cosine")])
def test_the_similarity_of_a_folder_of_sentence_transformers_is_read(
    encoder_folder: Path, stated: str, expected: str
) -> None:
    edit_json(encoder_folder / "config_sentence_transformers.json", similarity_fn_name=stated)
    assert BiEncoderBundle.load(encoder_folder).similarity == expected
    peer = SentenceTransformer(str(encoder_folder), device="cpu")
    embedder = Embedder.from_pretrained(encoder_folder, "passage", titles="join")
    texts = [passage.text for passage in PASSAGES]
    own = [Passage("", "", text) for text in texts]
    expected_scores = peer.similarity(peer.encode_document(texts), peer.encode_document(texts))
    torch.testing.assert_close(embedder(own) @ embedder(own).T, expected_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["euclidean", "manhattan", "Cosine"])
def test_other_similarities_are_rejected_by_name(encoder_folder: Path, name: Any) -> None:
    path = encoder_folder / "config_sentence_transformers.json"
    edit_json(path, similarity_fn_name=name)
    with pytest.raises(UnsupportedModelError) as error:
        BiEncoderBundle.load(encoder_folder)
    assert str(path) in str(error.value) and str(name) in str(error.value)
    edit_json(path, similarity_fn_name=3)
    with pytest.raises(ArtifactError, match="similarity_fn_name is 3"):
        BiEncoderBundle.load(encoder_folder)


def test_a_folder_without_a_similarity_causes_a_warning(encoder_folder: Path) -> None:
    with pytest.warns(SettingsWarning, match="cosine"):
        assert BiEncoderBundle.load(encoder_folder).similarity == "cosine"
    assert SentenceTransformer(str(encoder_folder), device="cpu").similarity_fn_name == "cosine"


def test_normalized_embeddings_cause_no_warning_about_similarity(tmp_path: Path) -> None:
    bundle = make_bundle(tied=True, normalize=True)
    bundle.encoder("question").save_pretrained(tmp_path)
    save_tokenizer(bundle.tokenizer, tmp_path, max_length=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BiEncoderBundle.load(tmp_path).similarity == "dot"


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_model_of_the_previous_version_opens_with_its_settings(tmp_path: Path, similarity: str) -> None:
    bundle = make_bundle(similarity=similarity, titles="join")
    bundle.save(tmp_path)
    for path in tmp_path.rglob("config_sentence_transformers.json"):
        edit_json(path, similarity_fn_name=None)  # The previous version did not write it.
    edit_json(tmp_path / "config.json", files=None)
    loaded = BiEncoderBundle.load(tmp_path)
    assert (loaded.similarity, loaded.titles, loaded.limits) == (similarity, "join", bundle.limits)


def test_encoders_without_settings_cause_a_warning(tmp_path: Path) -> None:
    bundle = make_bundle()
    bundle.model.save_pretrained(tmp_path)
    for side in ("question_encoder", "passage_encoder"):
        save_tokenizer(bundle.tokenizer, tmp_path / side, max_length=20)
    with pytest.warns(SettingsWarning) as caught:
        assert load_side(tmp_path, "question").similarity == "dot"
    messages = [str(each.message) for each in caught]
    assert all(str(tmp_path) in message for message in messages)
    assert any("config.json" in message for message in messages) and any("dot" in message for message in messages)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"similarity": "Cosine"}, ["similarity", "Cosine"]),
        ({"similarity": []}, ["similarity", "[]"]),
        ({"similarity": 1e308}, ["similarity", "1e+308"]),
        ({"question_max_length": 5}, ["question_max_length", "5"]),  # The special tokens and the prompt need more.
        ({"question_max_length": 10**9}, ["question_max_length", "1000000000"]),
        ({"pooling": "mean"}, ["pooling"]),
        ({"files": []}, ["files"]),
        ({"files": {"x": {"bytes": -1}}}, ["files.x"]),
        ({"similarity": "dot"}, ["dot", "cosine"]),  # The file of sentence-transformers states cosine.
        ({"titles": "joined"}, ["titles", "joined"]),
        ({"question_max_length": "12"}, ["question_max_length", "12"]),
        ({"passage_max_length": 65}, ["passage_max_length", "65", "64"]),
        ({"temperature": 0}, ["temperature", "0"]),
        ({"temperature": True}, ["temperature", "true"]),
        ({"temperature": float("inf")}, ["Infinity"]),
        ({"temperature": -1}, ["temperature", "-1"]),
        ({"titles": None}, ["titles"]),
        ({"passage_max_length": None}, ["passage_max_length"]),
        ({"tied": True}, ["tied", "passage_encoder"]),
        ({"tied": "no"}, ["tied", "no"]),
    ],
)
def test_a_damaged_setting_is_an_error_that_names_its_file(
    tmp_path: Path, change: dict[str, Any], parts: list[str]
) -> None:
    make_bundle(similarity="cosine").save(tmp_path)
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(ArtifactError) as error:
        BiEncoderBundle.load(tmp_path)
    assert all(part in str(error.value) for part in [str(tmp_path), *parts])


def test_a_lost_passage_encoder_is_an_error(tmp_path: Path) -> None:
    make_bundle().save(tmp_path)
    shutil.rmtree(tmp_path / "passage_encoder")
    with pytest.raises(ArtifactError, match="passage_encoder"):
        load_side(tmp_path, "passage")


def test_two_different_tokenizers_are_rejected(tmp_path: Path) -> None:
    make_bundle().save(tmp_path)
    edit_json(tmp_path / "config.json", files=None)
    save_tokenizer(train_tokenizer(["an elm grew", "nobody ate"], 290), tmp_path / "passage_encoder", max_length=20)
    with pytest.raises(ArtifactError, match="tokenizers"):
        BiEncoderBundle.load(tmp_path)


def test_sentence_transformers_truncates_at_the_same_limits(tmp_path: Path) -> None:
    make_bundle(similarity="cosine", titles="join").save(tmp_path)
    peer, long = SentenceTransformer(str(tmp_path), device="cpu"), "who ate the oak and the elm " * 5
    with pytest.warns(SettingsWarning, match="^1 of 1 texts"):
        found = Embedder.from_pretrained(tmp_path, "question")([long])
    expected = torch.nn.functional.normalize(torch.from_numpy(peer.encode_query([long])), dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.warns(SettingsWarning, match="^1 of 1 texts"):
        passage = Embedder.from_pretrained(tmp_path, "passage")([Passage("", "", long)])
    expected = torch.nn.functional.normalize(torch.from_numpy(peer.encode_document([long])), dim=-1)
    torch.testing.assert_close(passage, expected, rtol=1e-4, atol=1e-4)


def test_a_larger_tokenizer_is_rejected(tmp_path: Path) -> None:
    make_bundle().save(tmp_path)
    other = train_tokenizer([f"{a}{b} {b}{a}" for a in "abcdefghijk" for b in "lmnopqrstuv"] * 2, 400)
    assert other.get_vocab_size() > 300
    edit_json(tmp_path / "config.json", files=None)
    save_tokenizer(other, tmp_path / "passage_encoder", max_length=20)
    with pytest.raises(ArtifactError, match="passage_encoder"):
        BiEncoderBundle.load(tmp_path)


@pytest.mark.parametrize(
    "settings", [{"similarity": "l2"}, {"titles": "both"}, {"question_max_length": 0}, {"passage_max_length": 65}]
)
def test_an_invalid_setting_cannot_be_bundled(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        make_bundle(**settings)


def test_for_the_folder_of_a_run_the_error_names_its_model(tmp_path: Path) -> None:
    make_bundle().save(tmp_path / "run" / "model")
    with pytest.raises(FileNotFoundError, match="run/model"):
        BiEncoderBundle.load(tmp_path / "run")


def test_transforms_use_limit_and_prompt(tmp_path: Path) -> None:
    bundle = make_bundle()
    tokens = bundle.transform("question")(["who ate the oak " * 9])
    assert tokens.input_ids.shape == (1, 12)
    prompt = bundle.tokenizer.encode("q:", add_special_tokens=False).ids
    assert tokens.input_ids[0, 1 : 1 + len(prompt)].tolist() == prompt
    assert isinstance(bundle.encoder("passage"), RobertaEncoder)


# ---- sizes and hashes of the files


@pytest.mark.parametrize("tied", [False, True])
def test_every_file_that_decides_embeddings_has_a_hash(tmp_path: Path, tied: bool) -> None:
    make_bundle(tied=tied).save(tmp_path)
    listed = json.loads((tmp_path / "config.json").read_text())["files"]
    inner = ["question_encoder"] if tied else ["question_encoder", "passage_encoder"]
    read = {path.relative_to(tmp_path).as_posix() for side in inner for path in (tmp_path / side).rglob("*.*")}
    assert listed.keys() == read | {"tokenizer.json", "tokenizer_config.json"}
    for name, facts in listed.items():
        content = (tmp_path / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def flip_last_bit(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("side", ["question", "passage"])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "1_Pooling/config.json"])
@pytest.mark.parametrize("damage", [flip_last_bit, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_an_error_on_its_side_only(tmp_path: Path, side: str, name: str, damage) -> None:
    make_bundle().save(tmp_path)
    damage(tmp_path / f"{side}_encoder" / name)
    for load in (partial(load_side, tmp_path, side), partial(BiEncoderBundle.load, tmp_path)):
        with pytest.raises(ArtifactError) as error:
            load()
        assert f"{side}_encoder/{name}" in str(error.value) and "\n" not in str(error.value)
    assert load_side(tmp_path, "passage" if side == "question" else "question").similarity == "dot"
    with pytest.raises(ArtifactError, match=f"{side}_encoder"):  # Training starts from a model in this way.
        BiEncoder.from_pretrained(tmp_path)


def test_a_replaced_encoder_is_an_error_unless_the_hashes_are_removed(tmp_path: Path) -> None:
    make_bundle().save(tmp_path)
    weights = tmp_path / "question_encoder" / "model.safetensors"
    shutil.copy(tmp_path / "passage_encoder" / "model.safetensors", weights)
    with pytest.raises(ArtifactError, match=r"question_encoder/model\.safetensors.*config\.json"):
        load_side(tmp_path, "question")
    edit_json(tmp_path / "config.json", files=None)
    same = [load_side(tmp_path, side).encoder.state_dict() for side in ("question", "passage")]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])


def test_an_added_file_is_an_error(tmp_path: Path) -> None:
    make_bundle().save(tmp_path)
    (tmp_path / "question_encoder" / "added_tokens.json").write_text('{"oak": 299}')
    with pytest.raises(ArtifactError, match=r"question_encoder/added_tokens\.json"):
        load_side(tmp_path, "question")


def test_files_may_be_symbolic_links(tmp_path: Path) -> None:
    """The cache of Hugging Face consists of symbolic links."""
    make_bundle().save(tmp_path / "model")
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(path for path in (tmp_path / "model").rglob("*") if path.is_file())):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(tmp_path / "blobs" / str(number))
    assert BiEncoderBundle.load(tmp_path / "model").similarity == "dot"


@pytest.mark.parametrize("earlier", ["nothing", "another model", "a model without hashes", "a damaged model"])
def test_an_interrupted_save_leaves_no_model_that_loads(
    tmp_path: Path, earlier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt the save after each file in turn."""
    bundle = make_bundle(similarity="cosine")
    make_bundle().save(tmp_path / "earlier")
    if earlier == "a model without hashes":
        edit_json(tmp_path / "earlier" / "config.json", files=None)
    if earlier == "a damaged model":
        (tmp_path / "earlier" / "config.json").write_text("{")
    with torch.no_grad():
        next(bundle.encoder("question").parameters()).add_(1)

    class Killed(BaseException): ...

    publish, num_files, folder = os.replace, 0, tmp_path
    for num_written in range(100):
        folder = tmp_path / str(num_written)
        if earlier != "nothing":
            shutil.copytree(tmp_path / "earlier", folder)
        num_files = 0

        def stop(*paths: Any, last: int = num_written) -> None:
            nonlocal num_files
            num_files += 1
            if num_files > last:
                raise Killed
            publish(*paths)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", stop)
            try:
                bundle.save(folder)
                break
            except Killed:
                pass
        changed = num_written > 0 or earlier in ("nothing", "a damaged model")
        if changed:
            for load in (BiEncoderBundle.load, BiEncoder.from_pretrained):
                with pytest.raises((ArtifactError, FileNotFoundError)):
                    load(folder)
        else:
            assert BiEncoderBundle.load(folder).similarity == "dot"
    assert num_files > 15
    assert BiEncoderBundle.load(folder).similarity == "cosine"


def test_saving_tied_encoders_does_not_change_an_untied_model(tmp_path: Path) -> None:
    make_bundle().save(tmp_path)
    edit_json(tmp_path / "config.json", files=None)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="passage_encoder"):
        make_bundle(tied=True).save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# ---- the files that decide embeddings


@pytest.mark.parametrize("tied", [False, True])
def test_files_that_are_not_read_do_not_belong_to_the_model(tmp_path: Path, tied: bool) -> None:
    make_bundle(tied=tied).save(tmp_path)
    before = Embedder.from_pretrained(tmp_path, "question").model_hashes
    inner = tmp_path / ("question_encoder" if tied else "passage_encoder")
    sides = [("", inner), *([] if tied else [("question_encoder/", tmp_path / "question_encoder")])]
    read = {
        f"{side}{path.relative_to(folder).as_posix()}"
        for side, folder in sides
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert before.keys() == read, "the listed files are exactly the files of the saved model"
    for name in ("eval_results.json", "notes.txt", "README.md", "pytorch_model.bin", "vocab.txt", "onnx/config.json"):
        (inner / name).parent.mkdir(exist_ok=True)
        (inner / name).write_text("{}")
    assert Embedder.from_pretrained(tmp_path, "question").model_hashes == before
    assert Embedder.from_pretrained(tmp_path, "passage").model_hashes == before


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ],
)
def test_a_file_that_is_read_belongs_to_the_model(tmp_path: Path, name: str) -> None:
    make_bundle().save(tmp_path)
    before, path = Embedder.from_pretrained(tmp_path, "question").model_hashes, tmp_path / "passage_encoder" / name
    if name == "model.safetensors":
        make_bundle(normalize=True).encoder("question").save_pretrained(tmp_path / "other")
        encoder = RobertaEncoder.from_pretrained(tmp_path / "other")
        with torch.no_grad():
            next(encoder.parameters()).add_(1)
        encoder.save_pretrained(tmp_path / "other")
        shutil.copy(tmp_path / "other" / name, path)
    else:
        path.write_text((path.read_text() if path.exists() else "{}") + "\n")
    after = Embedder.from_pretrained(tmp_path, "question").model_hashes
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {name}


def test_a_vocabulary_file_belongs_to_the_model(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    roberta_tiny(vocab_size=20, pad_token_id=0, model_type="bert").save_pretrained(tmp_path)
    (tmp_path / "modules.json").unlink()
    before = Embedder.from_pretrained(tmp_path, "passage").model_hashes
    assert before.keys() == {"config.json", "model.safetensors", "vocab.txt"}
    (tmp_path / "vocab.txt").write_text("\n".join(reversed(words)))
    assert Embedder.from_pretrained(tmp_path, "passage").model_hashes != before


# ---- token caches


def test_a_prompt_that_merges_with_the_text_rules_out_a_token_cache() -> None:
    bundle = make_bundle()
    assert bundle.build_token_cache_transform().encode(["who"])[0].tolist() == bundle.tokenizer.encode("who").ids[1:-1]
    for encoder in (bundle.encoder("question"), bundle.encoder("passage")):
        encoder.set_texts({"query": "query: ", "document": ""}, None)
    with pytest.raises(UsageError, match=r"--token_cache.*query: "):
        bundle.build_token_cache_transform()
