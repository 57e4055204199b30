"""Initial encoders take the ids of special tokens from their tokenizer, in any order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from test.commands.training import SMALL, TINY_SET, fail_train, run_train
from test.models.helpers import BERT, SIZES
from text.bundle import BiEncoderBundle, load_side
from text.datasets import DPRDataPipe
from text.errors import ArtifactError, UnsupportedModelError, UsageError
from text.losses import in_batch_nll
from text.models import BiEncoder, RobertaEncoder, build_bi_encoder, roberta_tiny
from text.retrieval import Embedder
from text.transforms import encoder_settings, load_tokenizer, train_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]
ORDERS = {
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "quick tour": ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"],
    "padding last": ["[UNK]", "[CLS]", "[SEP]", "[MASK]"],
}
"""Special tokens of a vocabulary, from id 0 on. In the last order, [PAD] comes after all words."""
TEXTS = ["who ate the oak", "a", "Why did the beetle, of all, eat it?", "the the the the the the"]


def build_tokenizer(order: str) -> Tokenizer:
    if order == "roberta":
        return train_tokenizer(TEXTS, 300)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*ORDERS[order], *letters, *(f"##{letter}" for letter in letters), "the", "?", ",", "'"]
    words += [] if "[PAD]" in words else ["[PAD]"]
    ids = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    boundaries = ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    tokenizer.post_processor = processors.BertProcessing(*boundaries)
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    return tokenizer


def assert_every_reader_agrees(folder: Path, tokenizer: Tokenizer) -> None:
    """Check that the saved ids are those of the tokenizer, and that three libraries compute the same embeddings."""
    boundaries = tokenizer.encode("").ids
    padding = tokenizer.token_to_id("[PAD]") or tokenizer.token_to_id("<pad>") or 0
    config = json.loads((folder / "question_encoder" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == tuple(boundaries)
    assert (config["pad_token_id"], config["vocab_size"]) == (padding, tokenizer.get_vocab_size())
    expected, _ = Embedder.from_pretrained(folder, "question").embed_list(TEXTS)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    torch.testing.assert_close(expected, torch.from_numpy(model.encode_query(TEXTS)), rtol=1e-5, atol=1e-5)
    encoder = transformers.AutoModel.from_pretrained(folder / "question_encoder").eval()
    options = {"padding": True, "return_tensors": "pt", "truncation": True}
    batch = transformers.AutoTokenizer.from_pretrained(folder / "question_encoder")(TEXTS, **options)
    with torch.no_grad():
        hidden = encoder(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    torch.testing.assert_close(expected, (hidden * mask).sum(1) / mask.sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_random_weights_take_the_ids_of_their_tokenizer(tmp_path: Path, order: str):
    tokenizer = build_tokenizer(order)
    torch.manual_seed(0)
    model = build_bi_encoder("tiny", **encoder_settings(tokenizer))
    encoder = model.question_encoder
    assert isinstance(encoder, RobertaEncoder) and encoder.max_length == 512
    before = encoder.embeddings.word.weight[tokenizer.encode("").ids]
    assert (before.norm(dim=1) > 0).all(), "the special tokens around a text have embeddings"
    bundle = BiEncoderBundle(model=model, tokenizer=tokenizer, question_max_length=16, passage_max_length=32)
    batch = bundle.build_collator()(next(iter(DPRDataPipe(TINY_SET / "train.jsonl", 4, train=True))))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    passages = model.passage_encoder(batch.passages.input_ids, batch.passages.attention_mask)[batch.text_index]
    questions = model.question_encoder(batch.questions.input_ids, batch.questions.attention_mask)
    before = before.detach().clone()
    in_batch_nll(questions, passages, batch.positive_index).mean().backward()
    optimizer.step()
    trained = encoder.embeddings.word.weight[tokenizer.encode("").ids]
    assert not torch.isclose(before, trained).all(dim=1).any(), "the embeddings of the special tokens are trained"
    bundle.save(tmp_path / "model")
    assert_every_reader_agrees(tmp_path / "model", tokenizer)


@pytest.mark.parametrize("order", [pytest.param("bert", marks=pytest.mark.slow), "quick tour"])
def test_a_run_with_a_tokenizer_of_another_library(tmp_path: Path, order: str):
    tokenizer = build_tokenizer(order)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    flags = [f"--tokenizer={tmp_path}", f"--output_dir={tmp_path}/run", "--max_epochs=1", *SMALL]
    assert run_train(*flags) == 0
    assert_every_reader_agrees(tmp_path / "run" / "model", tokenizer)


# ---- an encoder and a tokenizer that do not match


def test_the_vocabulary_size_is_the_highest_id_plus_one():
    tokenizer = build_tokenizer("bert")
    spread = Tokenizer.from_str(tokenizer.to_str().replace('"the":57', '"the":90'))
    assert spread.token_to_id("the") == 90
    assert encoder_settings(spread)["vocab_size"] == 91
    with pytest.raises(ValueError, match="91"):
        build_bundle(roberta_tiny(vocab_size=90, pad_token_id=0), spread)


def build_bundle(encoder: RobertaEncoder, tokenizer: Tokenizer) -> BiEncoderBundle:
    model = BiEncoder(encoder, encoder)
    return BiEncoderBundle(model=model, tokenizer=tokenizer, question_max_length=16, passage_max_length=16)


def test_a_roberta_with_another_padding_token_is_rejected(tmp_path: Path):
    tokenizer = build_tokenizer("quick tour")
    with pytest.raises(ValueError, match=r"pad_token_id is 1\b.*\b3\b"):
        build_bundle(roberta_tiny(vocab_size=300), tokenizer)
    RobertaEncoder(roberta_tiny(vocab_size=300).config).save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ArtifactError, match="pad_token_id is 1"):
        load_side(tmp_path, "question")
    with pytest.raises(UsageError, match="pad_token_id is 1"):
        build_bi_encoder(str(tmp_path), **encoder_settings(tokenizer))


def test_train_rejects_the_tokenizer_of_another_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The vocabularies have the same size, but the padding token of one is a word of the other."""
    transformers.RobertaModel(transformers.RobertaConfig(**SIZES)).save_pretrained(tmp_path)
    build_tokenizer("bert").save(str(tmp_path / "other.json"))
    flags = [f"--encoder={tmp_path}", f"--tokenizer={tmp_path}/other.json", f"--output_dir={tmp_path}/run"]
    code, line = fail_train(capsys, *flags, *SMALL)
    assert code == 2 and str(tmp_path) in line and "pad_token_id" in line


def test_a_bert_uses_the_padding_token_of_the_tokenizer(tmp_path: Path):
    """In a BERT, the padding token only determines which embedding is not trained."""
    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(tmp_path)
    tokenizer = build_tokenizer("quick tour")
    model = build_bi_encoder(str(tmp_path), tied=True, **encoder_settings(tokenizer))
    encoder = model.question_encoder
    assert isinstance(encoder, RobertaEncoder)
    assert (encoder.config.pad_token_id, encoder.embeddings.word.padding_idx) == (3, 3)
    build_bundle(encoder, tokenizer).save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "question_encoder" / "config.json").read_text())
    assert config["pad_token_id"] == 3


@pytest.mark.parametrize("kind", ["hf_roberta", "fairseq_roberta", "pytext_bert"])
def test_a_checkpoint_of_dpr_with_other_encoders_is_rejected(tmp_path: Path, kind: str):
    weights = transformers.BertModel(transformers.BertConfig(**BERT)).state_dict()
    sides = {f"{side}.{name}": value for side in ("question_model", "ctx_model") for name, value in weights.items()}
    content = {"model_dict": sides, "encoder_params": {"encoder_model_type": "hf_bert", "do_lower_case": True}}
    torch.save(content, tmp_path / "dpr.cp")
    assert BiEncoder.from_pretrained(tmp_path / "dpr.cp", num_attention_heads=4).is_tied is False
    content["encoder_params"] = {"encoder_model_type": kind}
    torch.save(content, tmp_path / "dpr.cp")
    with pytest.raises(UnsupportedModelError, match=rf"dpr\.cp.*{kind}"):
        BiEncoder.from_pretrained(tmp_path / "dpr.cp", num_attention_heads=4)


def test_load_tokenizer_reads_the_stated_padding_token(tmp_path: Path):
    build_tokenizer("padding last").save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[MASK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert encoder_settings(load_tokenizer(tmp_path))["pad_token_id"] == ORDERS["padding last"].index("[MASK]")


def test_a_saved_model_with_one_encoder_gives_two_encoders_unless_they_are_tied(tmp_path: Path):
    tokenizer = train_tokenizer(TEXTS, 300)
    encoder = roberta_tiny(vocab_size=300)
    limits: Any = {"question_max_length": 16, "passage_max_length": 16}
    BiEncoderBundle(model=BiEncoder(encoder, encoder), tokenizer=tokenizer, **limits).save(tmp_path)
    options = encoder_settings(tokenizer)
    assert build_bi_encoder(str(tmp_path), tied=True, **options).is_tied
    model = build_bi_encoder(str(tmp_path), freeze_passage=True, **options)
    pairs = zip(model.question_encoder.parameters(), model.passage_encoder.parameters(), strict=True)
    for one, other in pairs:
        assert one is not other and torch.equal(one, other)
        assert one.requires_grad and not other.requires_grad
