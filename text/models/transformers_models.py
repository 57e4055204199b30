"""Models of the library ``transformers``: loading, saving and facts about them.

Only this file, ``transformers_cross_encoder.py`` and ``lora.py`` import the library. Models come from local folders
with safetensors files. Code from a folder is never executed, and nothing is downloaded.
"""

from __future__ import annotations

import inspect
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from torch import nn

from text.artifacts import atomic_write, read_json, write_json
from text.errors import (
    ArtifactError,
    MissingPackageError,
    SettingsWarning,
    UnsupportedModelError,
    explain_missing,
    is_out_of_memory,
)
from text.foreign_settings import TOWER, check_settings
from text.models.files import check_no_adapter, check_safetensors, is_finite, list_weights_files
from text.models.padding_check import check_padding

_DROPOUTS = (
    "hidden_dropout_prob attention_probs_dropout_prob hidden_dropout attention_dropout dropout dropout_rate "
    "embedding_dropout mlp_dropout resid_pdrop embd_pdrop attn_pdrop resid_dropout embed_dropout"
).split()
"""Dropout rates of the transformer in ``config.json``, by their names in the families."""
_UNLIMITED = 1 << 17
"""Maximum tokens of a text if positions are relative, so that the model has no limit."""
_BUFFERS = ("position_ids", "token_type_ids", "inv_freq")
"""Names of buffers that older releases saved. They are computed, not read."""
_LIBRARY_TYPES = ("dpr",)
"""Model types for which ``transformers`` does not return a hidden state for each token."""


def read_model_settings(folder: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a model, without importing ``transformers``.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: The file is damaged.
        UnsupportedModelError: A setting is not supported, or the folder contains an adapter.
    """
    check_no_adapter(folder)
    path = folder / "config.json"
    settings = read_json(path, dict[str, Any])
    if not isinstance(settings.get("model_type"), str):
        raise ArtifactError(f"{path}: model_type is {json.dumps(settings.get('model_type'))}. It must be a text.")
    supported = {name: value for name, value in settings.items() if name in TOWER}
    check_settings(path, supported, TOWER)
    return settings


def load_model(folder: Path, dropout: float | None = None) -> nn.Module:
    """Load the transformer of a folder in float32, without heads.

    Args:
        folder: Local folder with ``config.json`` and safetensors files.
        dropout: Dropout rate that replaces all rates of the configuration. None keeps them.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged, or the weights do not fit the configuration.
        UnsupportedModelError: The model is not supported.
        MissingPackageError: ``transformers`` is not installed.
    """
    model = read_model(folder, dropout, find_class=_find_class, list_problems=_list_problems)
    for name, parameter in model.named_parameters():
        # No embedding depends on a pooler, and all tokens have type 0, which a RobertaEncoder adds to its positions.
        if "pooler" in name or "token_type" in name:
            parameter.requires_grad_(False)
    return model


def read_model(
    folder: Path,
    dropout: float | None,
    *,
    find_class: Callable[[Path, Any], Any],
    list_problems: Callable[[Any, Mapping[str, Any]], Mapping[str, Sequence[str]]],
    head_dropouts: Sequence[str] = (),
    is_classifier: bool = False,
) -> Any:
    """Read a model of any class from a folder, in float32 and in training mode.

    Args:
        folder: See ``load_model``.
        dropout: See ``load_model``.
        find_class: Function from the folder and the configuration to the class of the model.
        list_problems: Function from the model and the loading info of ``transformers`` to wrong keys of weights, by
            their problem. Weights with another shape are found here.
        head_dropouts: Names of the dropout rates of a head.
        is_classifier: The model has a classification head with one label.

    Raises:
        Exception: See ``load_model``.
    """
    settings = read_model_settings(folder)
    shapes = _check_weights(folder)
    with explain_missing("transformers"):
        import transformers  # noqa: F401
    with quiet_transformers():
        architecture = _build_architecture(folder, settings)
        kind = find_class(folder, architecture)
        _check_size(folder, architecture, shapes)
        _set_dropout(folder, architecture, dropout, head_dropouts)
        if is_classifier:
            architecture.num_labels = 1
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
        options["ignore_mismatched_sizes"] = True  # _check_loaded names the key.
        if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
            options["add_pooling_layer"] = False
        with translate_errors(folder):
            model, info = kind.from_pretrained(
                str(folder), config=architecture, dtype=torch.float32, output_loading_info=True, **options
            )
        _check_loaded(folder, model, info, list_problems(model, info))
        check_padding(folder, model, choose_call_options(model), is_classifier=is_classifier)
    _warn_about_code(folder, settings)
    model.config.name_or_path = ""  # Otherwise some releases save the path of this folder.
    return model.train()  # New modules of PyTorch are in training mode, so those of this library are, too.


def save_model(model: Any, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a transformer, each file atomically.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".dpr-text-saving"
    shutil.rmtree(scratch, ignore_errors=True)  # A killed process may have left it.
    try:
        with quiet_transformers():
            model.save_pretrained(str(scratch), max_shard_size="1000GB")
        with atomic_write(folder / "model.safetensors") as temporary:
            shutil.copyfile(scratch / "model.safetensors", temporary)
        write_json(folder / "config.json", read_json(scratch / "config.json", dict[str, Any]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def choose_pooling(model: Any) -> str:
    """Return the pooling of a folder that states none: the last token of a decoder, the mean of T5, else the first."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING

    kind = type(model.config)
    if type(model) is not MODEL_MAPPING.get(kind, None):  # the encoder of an encoder-decoder
        return "mean"
    is_decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
    # A BERT may be a decoder, too. Its first token then sees no other token.
    return "last" if is_decoder or getattr(model.config, "is_decoder", False) else "first"


def count_positions(model: Any) -> int:
    """Return the maximum tokens of a text: those of the position table, or those that the model was trained for."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return _UNLIMITED
    padding = find_position_padding(model)
    return limit if padding is None else limit - padding - 1


def has_position_limit(model: Any) -> bool:
    """Return whether the architecture states a maximum number of tokens."""
    return count_positions(model) < _UNLIMITED


def find_position_padding(model: nn.Module) -> int | None:
    """Return the id of the padding token if positions start after it, as in RoBERTa and MPNet. Otherwise None."""
    for module in model.modules():
        padding, table = getattr(module, "padding_idx", None), getattr(module, "position_embeddings", None)
        if isinstance(padding, int) and isinstance(table, nn.Embedding) and table.padding_idx is not None:
            return padding
    return None


def turn_on_checkpointing(model: Any) -> bool:
    """Make a model recompute activations in the backward pass. Return False if the family does not support it."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        return False
    with quiet_transformers():  # A newer name of the method replaces this one in some releases.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # Some releases also make word embeddings require gradients, which would build graphs of frozen encoders.
    with suppress(AttributeError):
        model.disable_input_require_grads()
    return True


def choose_call_options(model: nn.Module) -> dict[str, Any]:
    """Return further arguments with which a model is called: decoders need no cache of keys and values."""
    parameters = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in parameters else {}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Turn off the messages, progress bars and warnings of ``transformers`` inside the block."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


@contextmanager
def translate_errors(folder: Path) -> Iterator[None]:
    """Turn errors of ``transformers`` into errors of this library. An error of the file system is kept."""
    try:
        yield
    except (MemoryError, MissingPackageError):
        raise
    except ImportError as error:  # such as an attention implementation that is not installed
        raise UnsupportedModelError.at(folder, _describe_error(error)) from None
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        if is_out_of_memory(error):
            raise MemoryError(f"{folder}: not enough memory for these weights.") from None
        raise ArtifactError(
            f"{folder}: transformers cannot load this model: {_describe_error(error)} "
            "The weights and the configuration do not match, or a file is damaged."
        ) from None


def _describe_error(error: BaseException) -> str:
    name = type(error).__name__
    text = " ".join(str(error).split())[:300] or name
    return f"{name}: {text}" if isinstance(error, KeyError) else text


def _check_weights(folder: Path) -> dict[str, list[int]]:
    """Check the headers of all weights files, and return the shape of each tensor."""
    shapes: dict[str, list[int]] = {}
    for path in list_weights_files(folder):
        if path.suffix == ".bin":
            reason = "transformers models load from safetensors only. Convert the file to model.safetensors."
            raise UnsupportedModelError.at(path, reason)
        if path.suffix == ".safetensors":
            shapes |= check_safetensors(path)
    return shapes


def _build_architecture(folder: Path, settings: Mapping[str, Any]) -> Any:
    """Return the configuration of a model, as an object of ``transformers``.

    Raises:
        UnsupportedModelError: ``transformers`` does not have the model type, or it is no model of text.
    """
    from transformers import CONFIG_MAPPING

    path, kind = folder / "config.json", settings["model_type"]
    if kind not in CONFIG_MAPPING or kind in _LIBRARY_TYPES:
        import transformers

        reason = f"model_type is {json.dumps(kind)}. transformers {transformers.__version__} has no encoder for it."
        if "auto_map" in settings:
            reason += " The code in its folder is never executed."
        raise UnsupportedModelError.at(path, reason)
    with translate_errors(folder):
        config = CONFIG_MAPPING[kind].from_pretrained(str(folder), local_files_only=True)
    if hasattr(config, "auto_map"):  # A saved model does not contain the code.
        delattr(config, "auto_map")
    if config.get_text_config() is not config:
        raise UnsupportedModelError.at(path, f"model_type is {json.dumps(kind)}. Only models of text are supported.")
    if hasattr(config, "reference_compile"):  # An older ModernBERT would otherwise compile itself.
        config.reference_compile = False
    return config


def _warn_about_code(folder: Path, settings: Mapping[str, Any]) -> None:
    """Warn if the author of a model computes it by code of its own."""
    code = settings.get("auto_map")
    if isinstance(code, Mapping) and "AutoModel" in code:
        reason = f"auto_map names {json.dumps(code['AutoModel'])}, code that is never executed. transformers computes"
        message = f"{folder / 'config.json'}: {reason} {settings['model_type']} itself."
        warnings.warn(f"{message} Compare embeddings with those of that code.", SettingsWarning, stacklevel=4)


def _find_class(folder: Path, architecture: Any) -> Any:
    """Return the class of the transformer without heads. An encoder-decoder gives its encoder."""
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    # A saved encoder of T5 no longer states that T5 is an encoder-decoder.
    found: Any = MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(architecture), None)
    if found is None and not architecture.is_encoder_decoder:
        found = MODEL_MAPPING.get(type(architecture), None)
    if not isinstance(found, type) or found.main_input_name != "input_ids":
        reason = f"model_type is {json.dumps(architecture.model_type)}. transformers has no encoder of text for it."
        raise UnsupportedModelError.at(folder / "config.json", reason)
    return found


def _check_size(folder: Path, architecture: Any, shapes: Mapping[str, list[int]]) -> None:
    """Check sizes against the weights before the model is built. A wrong configuration could exhaust the memory."""
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    width = getattr(architecture, "hidden_size", 1)
    sizes = {"vocab_size": 1, "num_hidden_layers": width, "intermediate_size": width}
    for name, factor in sizes.items():
        value = getattr(architecture, name, 0)
        if isinstance(value, int) and value * (1 if name == "vocab_size" else factor) > 2 * total:
            reason = f"{name} is {value}, but {total} weights are saved. The configuration and the weights differ."
            raise ArtifactError(f"{folder / 'config.json'}: {reason}")


def _set_dropout(folder: Path, architecture: Any, dropout: float | None, more: Sequence[str] = ()) -> None:
    """Set all dropout rates of a configuration.

    Args:
        folder: Folder of the model, for error messages.
        architecture: The configuration, which is changed.
        dropout: The rate. None keeps all rates.
        more: Names of further rates.

    Raises:
        UnsupportedModelError: The family has no dropout.
    """
    if dropout is None:
        return
    names = [name for name in (*_DROPOUTS, *more) if isinstance(getattr(architecture, name, None), int | float)]
    if not names:
        reason = f'model_type "{architecture.model_type}" has no dropout. Omit --dropout.'
        raise UnsupportedModelError.at(folder / "config.json", reason)
    for name in names:
        setattr(architecture, name, dropout)


def _list_problems(model: Any, info: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the keys of a transformer that were not read, and those of its weights that remain in the files."""
    own = {name.partition(".")[0] for name, _ in model.named_parameters()}
    prefix = f"{model.base_model_prefix}."
    unknown = [
        key
        for key in info["unexpected_keys"]
        if key.removeprefix(prefix).partition(".")[0] in own and not key.endswith(_BUFFERS)
    ]
    return {"is missing": [key for key in info["missing_keys"] if not key.startswith("pooler.")], "is unknown": unknown}


def _check_loaded(folder: Path, model: Any, info: Mapping[str, Any], problems: Mapping[str, Sequence[str]]) -> None:
    """Check that all weights were read as they should be.

    Raises:
        ArtifactError: A key has a problem, or a weight has another shape, or is NaN or infinite.
    """
    for problem, keys in problems.items():
        if keys:
            reason = f"key {min(keys)} {problem}. The weights and the configuration do not match."
            raise ArtifactError(f"{folder}: {reason}")
    # transformers 4 lists keys, and transformers 5 lists tuples of a key and two shapes.
    mismatched = [each if isinstance(each, str) else each[0] for each in info["mismatched_keys"]]
    if mismatched:
        raise ArtifactError(f"{folder}: key {min(mismatched)} has another shape than in config.json.")
    for name, weight in model.named_parameters():
        if not is_finite(weight.detach()):
            raise ArtifactError(f"{folder}: key {name} contains NaN or infinite numbers. Restore the weights.")
