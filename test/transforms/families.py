"""Tiny tokenizers of all supported families, as folders in the format of transformers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TRAINING_TEXTS = [
    "Who wrote the first book about dense retrieval? It's the author's 3rd of 1999 books.",
    "the first book about retrieval was written before the first computer, they'll say",
    "Die Füße der Gänse: «größer» – 北京, مرحبا, 🦆🦆! ``quotes'' and 'more'",
    "def main(x):\n\treturn x + 12345\r\n",
] * 3
ODD_TEXTS = [
    "The first books about 2026's retrieval",
    "",
    " ",
    "  two  spaces  ",
    "\ttab\nnew line\r\n",
    "größer GRÖSSER 北京 مرحبا 👩‍👩‍👧 e\u0301 é \ufeff\u00a0\u200b ☃",
    "a\x00b \x7f",
    "I'LL they'll 12345678 x+=y ``so''",
    "<s> a </s> b <pad> <unk>c <mask> d<mask>",
    "[CLS] a [SEP]b [PAD] [UNK] [MASK] d",
    "<|endoftext|> a <|endoftext|>b <bos>c <eos> <extra_id_3> d",
    "\u2581a \u2581\u2581 b Ġ",
    "book " * 300,
    "x" * 500,
]
EMPTY_TABLE = (1024).to_bytes(4, "little") + bytes(1025)  # A table of sentencepiece that changes no character.
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _template(single: str, pair: str, tokenizer: Tokenizer) -> processors.PostProcessor:
    names = {word.partition(":")[0] for word in pair.split()} - {"$A", "$B"}
    special = [(name, tokenizer.token_to_id(name)) for name in sorted(names)]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


def _train(tokenizer: Tokenizer, trainer: Any, special: list[str], *, mask: str = "", size: int = 340) -> Tokenizer:
    tokenizer.train_from_iterator(TRAINING_TEXTS, trainer(vocab_size=size, special_tokens=special, show_progress=False))
    if mask:
        tokenizer.add_special_tokens([AddedToken(mask, lstrip=True, special=True)])
    return tokenizer


def build_bert() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _train(tokenizer, trainers.WordPieceTrainer, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = _template("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", tokenizer)
    return tokenizer


def build_mpnet() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]"]
    _train(tokenizer, trainers.WordPieceTrainer, special, mask="<mask>")
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def build_roberta() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _train_bytes(tokenizer, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def _train_bytes(tokenizer: Tokenizer, special: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXTS, trainer)


def _train_unigram(special: list[str], unknown: str, normalizer: Any, split: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, split
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token=unknown, show_progress=False, max_piece_length=8
    )
    tokenizer.train_from_iterator(TRAINING_TEXTS, trainer)
    return tokenizer


def _split_words(scheme: str = "always") -> pre_tokenizers.PreTokenizer:
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])


def build_xlm_roberta() -> Tokenizer:
    tokenizer = _train_unigram(
        ["<s>", "<pad>", "</s>", "<unk>"], "<unk>", normalizers.Precompiled(EMPTY_TABLE), _split_words()
    )
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = _template("<s> $A </s>", "<s> $A </s> </s> $B </s>", tokenizer)
    return tokenizer


def build_albert() -> Tokenizer:
    steps = [
        normalizers.Replace("``", '"'),
        normalizers.Replace("''", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.Precompiled(EMPTY_TABLE),
    ]
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]"]
    tokenizer = _train_unigram(special, "<unk>", normalizers.Sequence(steps), _split_words())
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False, special=True)])
    tokenizer.post_processor = _template("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", tokenizer)
    return tokenizer


def build_deberta() -> Tokenizer:
    steps = [
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    split = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")])
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    tokenizer = _train_unigram(special, "[UNK]", normalizers.Sequence(steps), split)
    tokenizer.add_special_tokens(["[MASK]"])
    tokenizer.post_processor = _template("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", tokenizer)
    return tokenizer


def build_t5() -> Tokenizer:
    tokenizer = _train_unigram(
        ["<pad>", "</s>", "<unk>"], "<unk>", normalizers.Precompiled(EMPTY_TABLE), _split_words()
    )
    tokenizer.add_special_tokens([f"<extra_id_{number}>" for number in range(100)])
    tokenizer.post_processor = _template("$A </s>", "$A </s> $B </s>", tokenizer)
    return tokenizer


def build_qwen() -> Tokenizer:
    """Build the tokenizer of Qwen3-Embedding, which appends the padding token to every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pattern = pre_tokenizers.Split(Regex(_QWEN_PATTERN), behavior="isolated", invert=False)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pattern, level])
    _train_bytes(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    template = _template("$A <|endoftext|>", "$A <|endoftext|> $B <|endoftext|>", tokenizer)
    bytes_template = processors.ByteLevel(trim_offsets=False, add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.Sequence([bytes_template, template])
    return tokenizer


def build_modernbert() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _train_bytes(tokenizer, ["<|endoftext|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, special=True)])
    tokenizer.post_processor = _template("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", tokenizer)
    return tokenizer


def _train_with_bytes(tokenizer: Tokenizer, special: list[str]) -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*special, *_BYTES], show_progress=False)
    tokenizer.train_from_iterator(TRAINING_TEXTS, trainer)
    settings = json.loads(tokenizer.to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["content"] not in _BYTES]
    settings["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(settings))


def build_llama() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer = _train_with_bytes(tokenizer, ["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = _template("<s> $A", "<s> $A <s>:1 $B:1", tokenizer)
    return tokenizer


def build_mistral() -> Tokenizer:
    """Build a tokenizer with the older layout of Llama 2, whose template also ends with ``</s>``."""
    tokenizer = Tokenizer(models.BPE(fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = _train_with_bytes(tokenizer, ["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = _template("<s> $A </s>", "<s> $A </s> <s>:1 $B:1 </s>:1", tokenizer)
    return tokenizer


def build_llama_3() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _train_bytes(tokenizer, ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"])
    tokenizer.post_processor = _template("<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|> $B", tokenizer)
    return tokenizer


def build_gemma() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
    tokenizer = _train_with_bytes(tokenizer, ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    tokenizer.post_processor = _template("<bos> $A <eos>", "<bos> $A <eos> <bos>:1 $B:1 <eos>:1", tokenizer)
    return tokenizer


_CONTROL = {"add_bos_token": True, "add_eos_token": True}
FAMILIES: dict[str, tuple[Callable[[], Tokenizer], str, str, dict[str, Any]]] = {
    "bert": (build_bert, "bert", "BertTokenizer", {}),
    "roberta": (build_roberta, "roberta", "RobertaTokenizer", {}),
    "xlm-roberta": (build_xlm_roberta, "xlm-roberta", "XLMRobertaTokenizer", {}),
    "distilbert": (build_bert, "distilbert", "DistilBertTokenizer", {}),
    "electra": (build_bert, "electra", "ElectraTokenizer", {}),
    "mpnet": (build_mpnet, "mpnet", "MPNetTokenizer", {}),
    "albert": (build_albert, "albert", "AlbertTokenizer", {}),
    "deberta": (build_deberta, "deberta-v2", "DebertaV2Tokenizer", {}),
    "modernbert": (build_modernbert, "modernbert", "PreTrainedTokenizerFast", {"pad_token": "[PAD]"}),
    "nomic": (build_bert, "nomic_bert", "BertTokenizer", {}),
    "gte": (build_xlm_roberta, "new", "XLMRobertaTokenizer", {}),
    "t5": (build_t5, "t5", "T5Tokenizer", {"extra_ids": 100}),
    "mt5": (build_t5, "mt5", "T5Tokenizer", {"extra_ids": 0}),
    "qwen": (build_qwen, "qwen3", "Qwen2Tokenizer", {"add_bos_token": False, "padding_side": "left"}),
    "llama": (build_llama, "llama", "LlamaTokenizer", {"pad_token": "</s>", "legacy": False}),
    "llama-3": (build_llama_3, "llama", "PreTrainedTokenizerFast", {"pad_token": "<|pad|>"}),
    "mistral": (build_mistral, "mistral", "LlamaTokenizer", {"pad_token": "</s>", **_CONTROL}),
    "gemma": (build_gemma, "gemma3_text", "GemmaTokenizer", _CONTROL),
}
"""Function that builds the tokenizer, model type, tokenizer class and settings of each family."""


def save_family(name: str, folder: Path) -> Path:
    """Write the tokenizer of a family into a folder, with a ``config.json`` that names the model type."""
    build, model_type, kind, settings = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    build().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": f"{kind.removesuffix('Fast')}Fast", "model_max_length": 48, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    return folder


def encode_table() -> str:
    """Return the empty character table in base64, as ``tokenizer.json`` holds it."""
    return base64.b64encode(EMPTY_TABLE).decode()
