"""The settings that stand beside a tokenizer's file, applied as transformers and sentence-transformers apply them.

``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json`` and ``sentence_bert_config.json`` can
change what a ``tokenizer.json`` does. Which class of transformers reads the files decides which of the settings count:
``BertTokenizer`` builds the normalizer anew, ``PreTrainedTokenizerFast`` takes ``tokenizer.json`` as it is.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from text.errors import ArtifactError, SettingsWarning
from text.foreign_settings import (
    SPECIAL_TOKENS,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_OPTIONS,
    TRANSFORMER,
    Table,
    describe_unknown,
    describe_unsupported,
)

SENTENCE_FILES = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "xlm-roberta"))
"""Names of the settings that sentence-transformers has for a transformer and its tokenizer."""
PADDING_TOKENS = ("<pad>", "[PAD]")
_AS_IT_IS = ("PreTrainedTokenizerFast", "TokenizersBackend")
_BERT = (
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRReaderTokenizer",
)
_ROBERTA, _XLM_ROBERTA = "RobertaTokenizer", "XLMRobertaTokenizer"
_CLASS_OF_MODEL = {
    "bert": "BertTokenizer",
    "dpr": "DPRQuestionEncoderTokenizer",
    "roberta": _ROBERTA,
    "xlm-roberta": _XLM_ROBERTA,
}
_SWITCHES = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")
_BERT_MODEL = {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
_FORCE = 'Write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json to use tokenizer.json as it is.'


def read_settings(path: Path, table: Table | None = None) -> dict[str, Any]:
    """Return the settings of a file that are not null; none if there is no such file. A table checks them.

    Raises:
        ArtifactError: The file is damaged, or a setting has a value that is not supported.
    """
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: not JSON ({error}). Save the tokenizer again.") from None
    if not isinstance(settings, dict):
        raise ArtifactError(f"{path}: a {type(settings).__name__} instead of settings by name. Save it again.")
    if table is not None and (unsupported := describe_unsupported(settings, table)):
        raise ArtifactError(f"{path}: {unsupported}")
    if table is not None and (unknown := describe_unknown(settings, table)):
        warnings.warn(f"{path}: {unknown}", SettingsWarning, stacklevel=2)
    return {name: value for name, value in settings.items() if value is not None}


def read_options(folder: Path) -> dict[str, Any]:
    """Return what the files beside a tokenizer say, special tokens included.

    Raises:
        ArtifactError: A file is damaged, or a setting has a value that is not supported.
    """
    path = folder / "tokenizer_config.json"
    options = read_settings(path, TOKENIZER_OPTIONS)
    if "attention_mask" not in options.get("model_input_names", ["attention_mask"]):
        raise ArtifactError(f"{path}: model_input_names lacks attention_mask. Padding would be part of the texts.")
    if "added_tokens_decoder" not in options:  # as transformers decides whether to read the older files
        options |= read_settings(folder / "special_tokens_map.json", SPECIAL_TOKENS_MAP)
        options["added_tokens"] = read_settings(folder / "added_tokens.json")
    return options


def setting_files(folder: Path) -> list[Path]:
    """Return the files beside a tokenizer that transformers reads with it."""
    options = read_settings(folder / "tokenizer_config.json")
    older = () if "added_tokens_decoder" in options else ("special_tokens_map.json", "added_tokens.json")
    names = ("config.json", "tokenizer_config.json", *older)
    return [path for path in (folder / name for name in names) if path.is_file()]


def apply_settings(tokenizer: Tokenizer, folder: Path) -> None:
    """Make a ``tokenizer.json`` give the ids that transformers gives with the files beside it.

    Raises:
        ArtifactError: A file is damaged, has a value that is not supported, or contradicts ``tokenizer.json``.
    """
    options = read_options(folder)
    name = class_name(folder, options)
    if name in _BERT:
        _apply_bert(tokenizer, folder, options, name)
    elif name == _ROBERTA:
        _apply_roberta(tokenizer, folder, options)
    elif name == _XLM_ROBERTA:
        _check_xlm_roberta(tokenizer, folder, options)
    else:
        _check_as_it_is(tokenizer, folder, options, is_named=name in _AS_IT_IS)
    _check_sides(tokenizer, folder, options)
    _add_tokens(tokenizer, folder, options)
    default = "[PAD]" if name in _BERT else "<pad>" if name in (_ROBERTA, _XLM_ROBERTA) else ""
    _choose_padding(tokenizer, options, default)


def lower_if_asked(tokenizer: Tokenizer, folder: Path) -> None:
    """Put ``do_lower_case`` of sentence-transformers before what the tokenizer itself does to a text."""
    path = next((folder / name for name in SENTENCE_FILES if (folder / name).is_file()), None)
    if path is None or not read_settings(path, TRANSFORMER).get("do_lower_case", False):
        return
    normalizer = _parts(tokenizer)["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    if not any(step.get("type") == "Lowercase" for step in steps):
        before = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])


def class_name(folder: Path, options: dict[str, Any]) -> str:
    """Return the class by which transformers reads the files; "" if nothing says which.

    Raises:
        ArtifactError: It is none that this library knows.
    """
    model = read_settings(folder / "config.json")
    stated = options.get("tokenizer_class", model.get("tokenizer_class"))
    name = stated if stated is not None else _CLASS_OF_MODEL.get(str(model.get("model_type")), "")
    name = name.removesuffix("Fast") if isinstance(name, str) and name not in _AS_IT_IS else name
    if name not in ("", *_BERT, _ROBERTA, _XLM_ROBERTA, *_AS_IT_IS):
        raise ArtifactError(f"{folder / 'tokenizer_config.json'}: tokenizer_class {name} is not supported. {_FORCE}")
    return name


def _apply_bert(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str) -> None:
    parts = _parts(tokenizer)
    _expect(folder, name, "normalizer", (parts["normalizer"] or {}).get("type"), "BertNormalizer")
    _expect(folder, name, "pre_tokenizer", (parts["pre_tokenizer"] or {}).get("type"), "BertPreTokenizer")
    for key, value in {**_BERT_MODEL, "unk_token": _content(options.get("unk_token", "[UNK]"))}.items():
        _expect(folder, name, f"model.{key}", parts["model"].get(key), value)
    tokenizer.normalizer = bert_normalizer(folder, options, name)
    start, end = (_known(tokenizer, folder, options, key, token) for key, token in _BERT_FRAME)
    if _frames(tokenizer) != ([start[1], -1, end[1]], [start[1], -1, end[1], -1, end[1]]):
        tokenizer.post_processor = processors.BertProcessing(end, start)


def bert_normalizer(folder: Path, options: Mapping[str, Any], name: str) -> normalizers.Normalizer:
    """Return the normalizer that BERT's tokenizers of transformers build, whatever ``tokenizer.json`` has.

    Raises:
        ArtifactError: A tokenizer of DPR shall not lower-case. Releases of transformers differ in whether it does.
    """
    lowercase = options.get("do_lower_case", True)
    if name.startswith("DPR") and not lowercase:
        path = folder / "tokenizer_config.json"
        raise ArtifactError(f"{path}: do_lower_case is false, which a {name} ignores. Make it a BertTokenizer.")
    return normalizers.BertNormalizer(
        lowercase=lowercase,
        strip_accents=options.get("strip_accents"),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
    )


_BERT_FRAME = (("cls_token", "[CLS]"), ("sep_token", "[SEP]"))
_ROBERTA_FRAME = (("cls_token", "<s>"), ("sep_token", "</s>"))


def _apply_roberta(tokenizer: Tokenizer, folder: Path, options: dict[str, Any]) -> None:
    parts, adds_space = _parts(tokenizer), options.get("add_prefix_space", False)
    _expect(folder, _ROBERTA, "model.type", parts["model"]["type"], "BPE")
    _expect(folder, _ROBERTA, "normalizer", parts["normalizer"], None)
    _expect(folder, _ROBERTA, "pre_tokenizer", (parts["pre_tokenizer"] or {}).get("type"), "ByteLevel")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_space)
    start, end = (_known(tokenizer, folder, options, key, token) for key, token in _ROBERTA_FRAME)
    if _frames(tokenizer) != ([start[1], -1, end[1]], [start[1], -1, end[1], end[1], -1, end[1]]):
        tokenizer.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=adds_space)


def _check_xlm_roberta(tokenizer: Tokenizer, folder: Path, options: dict[str, Any]) -> None:
    parts = _parts(tokenizer)
    _expect(folder, _XLM_ROBERTA, "model.type", parts["model"]["type"], "Unigram")
    scheme = "always" if options.get("add_prefix_space", True) else "never"
    steps = (parts["pre_tokenizer"] or {}).get("pretokenizers", [parts["pre_tokenizer"] or {}])
    found = next((step.get("prepend_scheme") for step in steps if step.get("type") == "Metaspace"), None)
    _expect(folder, _XLM_ROBERTA, "pre_tokenizer.prepend_scheme", found, scheme)


def _check_as_it_is(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], *, is_named: bool) -> None:
    """Refuse an option that stands in both files with two values, where transformers' releases differ in which counts.

    Without a class, the options of BERT count too: nothing says that they do not.
    """
    parts = _parts(tokenizer)
    normalizer, split = parts["normalizer"] or {}, parts["pre_tokenizer"] or {}
    found = {"add_prefix_space": split.get("add_prefix_space")}
    if not is_named:
        names = ("lowercase", "strip_accents", "handle_chinese_chars")
        found |= dict(zip(_SWITCHES, (normalizer.get(name) for name in names), strict=False))
    for option, value in found.items():
        if option in options and value is not None and options[option] != value:
            raise ArtifactError(
                f"{folder / 'tokenizer_config.json'}: {option} is {json.dumps(options[option])}, but tokenizer.json "
                f"has {json.dumps(value)}. Make both the same."
            )


def _add_tokens(tokenizer: Tokenizer, folder: Path, options: dict[str, Any]) -> None:
    """Add the tokens that are stated beside the tokenizer and that it lacks, or has with other flags.

    Raises:
        ArtifactError: A token is not described as transformers does, or would get another id than the stated one.
    """
    has = tokenizer.get_added_tokens_decoder()
    stated = {
        i: token for i, token in _stated(folder, options).items() if "added_tokens" not in options or i not in has
    }
    known = {repr(token) for token in has.values()}
    tokenizer.add_tokens([token for _, token in sorted(stated.items()) if repr(token) not in known])
    for i, token in stated.items():
        if tokenizer.token_to_id(token.content) != i:
            path = folder / ("added_tokens.json" if "added_tokens" in options else "tokenizer_config.json")
            raise ArtifactError(f"{path}: token {token.content} has id {i}. tokenizer.json must give it the same one.")
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    extra = options.get("extra_special_tokens", options.get("additional_special_tokens", []))
    named = [
        *special_tokens(folder, options).values(),
        *map(_content, extra.values() if isinstance(extra, dict) else extra),
    ]
    tokenizer.add_tokens([AddedToken(token, special=True) for token in dict.fromkeys(named) if token not in added])


def special_tokens(folder: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens that the options name, such as ``pad_token``.

    Raises:
        ArtifactError: One is no token.
    """
    try:
        return {name: _content(options[name]) for name in SPECIAL_TOKENS if name in options}
    except (KeyError, TypeError):
        path = folder / "tokenizer_config.json"
        raise ArtifactError(f"{path}: a special token is no text. Save the tokenizer again.") from None


def stated_tokens(folder: Path, options: Mapping[str, Any]) -> dict[int, str]:
    """Return the added tokens that the options name, by id.

    Raises:
        ArtifactError: They are not described as transformers does.
    """
    return {i: token.content for i, token in _stated(folder, options).items()}


def _stated(folder: Path, options: Mapping[str, Any]) -> dict[int, AddedToken]:
    try:
        older = {int(i): AddedToken(token) for token, i in options.get("added_tokens", {}).items()}
        return older | {int(i): AddedToken(**token) for i, token in options.get("added_tokens_decoder", {}).items()}
    except (AttributeError, TypeError, ValueError):
        path = folder / "tokenizer_config.json"
        raise ArtifactError(f"{path}: added_tokens_decoder has no tokens by id. Save the tokenizer again.") from None


def _check_sides(tokenizer: Tokenizer, folder: Path, options: dict[str, Any]) -> None:
    """Refuse texts that are cut or padded on the left, which ``tokenizer.json`` can say too."""
    for name, setting in (("truncation", tokenizer.truncation), ("padding", tokenizer.padding)):
        if setting is not None and f"{name}_side" not in options and setting["direction"] != "right":
            path = folder / "tokenizer.json"
            raise ArtifactError(f"{path}: {name}.direction is {json.dumps(setting['direction'])}. It must be right.")


def _choose_padding(tokenizer: Tokenizer, options: dict[str, Any], default: str) -> None:
    """Note the padding token for ``padding_idx`` where its name alone would not tell."""
    token = _content(options.get("pad_token", default))
    index = tokenizer.token_to_id(token) if token else None
    if index is not None and index != find_padding(tokenizer):
        tokenizer.enable_padding(pad_id=index, pad_token=token)


def find_padding(tokenizer: Tokenizer) -> int | None:
    """Return the id of the padding token: the one of ``padding`` in ``tokenizer.json``, else one with a usual name."""
    padding = tokenizer.padding
    if padding is not None and tokenizer.token_to_id(padding["pad_token"]) == padding["pad_id"]:
        return padding["pad_id"]
    known = (tokenizer.token_to_id(token) for token in PADDING_TOKENS)
    return next((index for index in known if index is not None), None)


def _known(tokenizer: Tokenizer, folder: Path, options: dict[str, Any], name: str, default: str) -> tuple[str, int]:
    token = _content(options.get(name, default))
    index = tokenizer.token_to_id(token)
    if index is None:
        raise ArtifactError(f"{folder / 'tokenizer_config.json'}: {name} {token} is not in the vocabulary. {_FORCE}")
    return token, index


def _frames(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens around a text and around two, with -1 for each text."""
    encodings = tokenizer.encode("a"), tokenizer.encode("a", "a")
    frames = []
    for encoding in encodings:
        frame: list[int] = []
        for index, is_special in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
            if is_special or frame[-1:] != [-1]:
                frame.append(index if is_special else -1)
        frames.append(frame)
    return frames[0], frames[1]


def _expect(folder: Path, name: str, part: str, found: Any, expected: Any) -> None:
    if found != expected:
        found, expected = json.dumps(found), json.dumps(expected)
        raise ArtifactError(
            f"{folder / 'tokenizer.json'}: {part} is {found}, but transformers' {name} has {expected}. {_FORCE}"
        )


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the parts of a ``tokenizer.json`` besides its vocabulary."""
    settings = json.loads(tokenizer.to_str())
    settings["model"].pop("vocab", None)
    return settings
