"""Checkpoints that are on disk whole or not at all, and are loaded without pickled code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from text.artifacts import atomic_write
from text.errors import ArtifactError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written through ``text.artifacts.atomic_write``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_write(path) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Loads tensors and plain values only.

        Raises:
            FileNotFoundError: There is no such file.
            ArtifactError: The file is damaged, or holds anything but tensors and plain values.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such checkpoint")
        try:
            return super().load_checkpoint(path, map_location, weights_only=True)
        except Exception as error:  # damaged files raise many kinds
            reason = str(error).strip().split("\n")[0]
            raise ArtifactError(f"{path}: cannot be loaded ({reason}); expected a checkpoint") from None
