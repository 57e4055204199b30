"""Low-rank adapters (LoRA, arXiv:2106.09685) on encoders of ``transformers``, with the library ``peft``.

Training changes the adapters and the layers after pooling. The other weights of the encoder stay as they are. At the
end, the adapters are merged into the weights, and saved alone in the format of peft.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from text.artifacts import write_json
from text.errors import ArtifactError, UsageError, explain_missing
from text.models.biencoder import embed_tokens
from text.models.encoder import TextEncoder
from text.models.files import save_weights
from text.models.full_float32 import full_float32
from text.models.transformers_encoder import TransformersEncoder
from text.records import TokenBatch

ALL_LINEAR = "all-linear"
"""Name that stands for all linear layers."""
_ADAPTER = "default"
_LEAST_CHANGE = 1e-6
"""Smallest change of an embedding that is not a rounding error."""
_LARGEST_ERROR = 1e-5
"""Largest allowed difference between the embeddings before and after merging."""


def add_adapters(
    encoder: TextEncoder, rank: int, *, alpha: int | None = None, targets: Sequence[str] | None = None
) -> None:
    """Add low-rank adapters to linear layers of an encoder, and freeze its other weights.

    The layers after pooling stay trainable. The adapters do not change embeddings before they are trained.

    Args:
        encoder: Encoder of ``transformers``. It is changed in place.
        rank: Rank of the adapters.
        alpha: Adapters are scaled by ``alpha / rank``. By default, it is twice the rank.
        targets: Last parts of the names of the linear layers, such as "q_proj", or ``ALL_LINEAR``. By default, the
            layers that peft chooses for the architecture, or all linear layers.

    Raises:
        MissingPackageError: peft is not installed.
        UsageError: The encoder is not computed by ``transformers``, or it has no linear layer of that name.
    """
    with explain_missing("lora"):
        import peft
    if not isinstance(encoder, TransformersEncoder):
        raise UsageError("--lora_rank needs an encoder of transformers. Give --encoder a folder of transformers.")
    layers = _find_linear_layers(encoder.model)
    names = _choose_layers(encoder, layers, targets)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=names,
        lora_dropout=0.0,
        fan_in_fan_out=not all(isinstance(layers[name], nn.Linear) for name in names),
    )
    peft.inject_adapter_in_model(config, encoder.model, _ADAPTER)


def _find_linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers by name. The pooler of BERT is left out, because no embedding depends on it."""
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    modules = model.named_modules()
    return {name: each for name, each in modules if isinstance(each, kinds) and not name.startswith("pooler.")}


def _choose_layers(
    encoder: TransformersEncoder, layers: Mapping[str, nn.Module], targets: Sequence[str] | None
) -> list[str]:
    """Return the names of the layers that get an adapter.

    Raises:
        UsageError: A target is not the name of a linear layer.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    if targets is None:
        known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(encoder.model.config.model_type, ())
        chosen = [name for name in layers if name.rpartition(".")[2] in known]
        return chosen or list(layers)
    if list(targets) == [ALL_LINEAR]:
        return list(layers)
    for target in targets:
        if not any(_is_named(name, target) for name in layers):
            found = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise UsageError(
                f"--lora_targets names {target}, but {encoder.describe()} has no such linear layer. "
                f"Choose from {found}, or {ALL_LINEAR} alone."
            )
    return [name for name in layers if any(_is_named(name, target) for target in targets)]


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def describe_adapters(encoder: TextEncoder) -> str:
    """Return the adapters of an encoder and the number of trainable weights in a few words, or "" without adapters."""
    layers = _find_adapted_layers(encoder)
    if not layers:
        return ""
    config = _get_settings(encoder)
    parts = sorted({name.rpartition(".")[2] for name in layers})
    sizes = [(each.numel(), each.requires_grad) for each in encoder.parameters()]
    num_trained = sum(size for size, is_trained in sizes if is_trained)
    return (
        f"LoRA of rank {config['r']} and alpha {config['lora_alpha']} on {', '.join(parts)} "
        f"({num_trained:,} of {sum(size for size, _ in sizes):,} weights are trained)"
    )


class SavedAdapters(NamedTuple):
    """Adapters in the format of peft."""

    settings: dict[str, Any]
    """Content of ``adapter_config.json``."""
    weights: dict[str, Tensor]
    """Content of ``adapter_model.safetensors``."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that peft loads.

        Raises:
            OSError: The folder cannot be written.
        """
        save_weights(Path(folder) / "adapter_model.safetensors", self.weights)
        write_json(Path(folder) / "adapter_config.json", self.settings)


def merge_adapters(encoder: TextEncoder, tokens: TokenBatch, base: str, side: str) -> SavedAdapters | None:
    """Merge the adapters of an encoder into its weights, and return them. Nothing happens without adapters.

    The encoder moves to the CPU and to float32. Its embeddings of some texts are compared before and after.

    Args:
        encoder: Encoder to change in place.
        tokens: Texts whose embeddings are compared.
        base: The model that training started from. peft loads it before the adapters.
        side: "question" or "passage", for error messages.

    Raises:
        ArtifactError: The adapters do not change the embeddings, or the merged model has other embeddings.
    """
    layers = _find_adapted_layers(encoder)
    if not layers:
        return None
    encoder.to("cpu", torch.float32).eval()
    adapted = _embed(encoder, tokens)
    _set_adapters(layers, is_on=False)
    change = _measure(_embed(encoder, tokens), adapted)
    _set_adapters(layers, is_on=True)
    if not adapted.isfinite().all():
        raise ArtifactError(f"{side} encoder: embeddings with adapters are NaN or infinite. Lower --learning_rate.")
    if change <= _LEAST_CHANGE:
        raise ArtifactError(
            f"{side} encoder: training did not change the adapters (embeddings differ by {change:.1e}). "
            "Train more steps, or raise --learning_rate."
        )
    saved = SavedAdapters(_describe_config(encoder, list(layers), base), _copy_weights(layers))
    _merge(encoder, layers)
    error = _measure(_embed(encoder, tokens), adapted)
    if not error <= _LARGEST_ERROR:  # also if it is NaN
        raise ArtifactError(
            f"{side} encoder: the embeddings of the merged model and of the adapters differ by {error:.1e}. The "
            f"largest allowed difference is {_LARGEST_ERROR:.0e}. Lower --learning_rate or --lora_alpha."
        )
    return saved


def _find_adapted_layers(encoder: nn.Module) -> dict[str, Any]:
    """Return the layers with adapters, by name."""
    model: Any = getattr(encoder, "model", None)
    if not hasattr(model, "peft_config"):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: each for name, each in model.named_modules() if isinstance(each, LoraLayer)}


@torch.no_grad()
def _embed(encoder: nn.Module, tokens: TokenBatch) -> Tensor:
    with full_float32("cpu"):
        return embed_tokens(encoder, tokens)


def _measure(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two sets of embeddings. It is relative to the largest value above 1."""
    return float((one - other).abs().max() / other.abs().max().clamp(min=1.0))


def _set_adapters(layers: Mapping[str, Any], *, is_on: bool) -> None:
    for layer in layers.values():
        layer.enable_adapters(is_on)


def _copy_weights(layers: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the adapters, by their keys in the files of peft."""
    return {
        f"base_model.model.{name}.{matrix}.weight": getattr(layer, matrix)[_ADAPTER].weight.detach().contiguous()
        for name, layer in layers.items()
        for matrix in ("lora_A", "lora_B")
    }


def _describe_config(encoder: Any, names: list[str], base: str) -> dict[str, Any]:
    """Return the content of ``adapter_config.json``."""
    settings = _get_settings(encoder)
    settings |= {"base_model_name_or_path": base, "inference_mode": True, "target_modules": names}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in sorted(settings.items())}


def _get_settings(encoder: Any) -> dict[str, Any]:
    return encoder.model.peft_config[_ADAPTER].to_dict()


def _merge(encoder: Any, layers: Mapping[str, Any]) -> None:
    """Add the adapters to the weights, and put the layers of the model in their place again."""
    for name, layer in layers.items():
        layer.merge(safe_merge=True)
        parent, _, attribute = name.rpartition(".")
        setattr(encoder.model.get_submodule(parent), attribute, layer.get_base_layer())
    del encoder.model.peft_config
