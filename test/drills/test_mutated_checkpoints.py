"""Checkpoints with changed content and a valid hash, and checkpoints with changed bytes.

Every change raises an ArtifactError, or the resumed run has the weights of the uninterrupted run. Some numbers, such
as weights, moments and random states, may have any value, so no check can notice their change (``FREE``).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from test.drills.mutations import VALUES, make_generators, mutate_bytes
from test.training.conftest import Interrupt, Run, SaveAndStop, write_rows
from text.commands.running import get_exit_code
from text.errors import ArtifactError
from text.training import AtomicCheckpointIO, StepFailures, build_checkpoint_callbacks
from text.training.checkpoint_content import check_head
from text.training.early_stopping import EarlyStopping

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
FREE = re.compile(
    r"/state_dict/.*|/optimizer_states/0/state/.*/exp_avg(_sq)?|/callbacks/(RandomState|EarlyStopping).*"
    r"|/callbacks/_Checkpoint.*'monitor': 'valid_loss'.*|/accumulated_gradients/.*"
)
TRAILER = 71
"""Size in bytes of the trailer after the content: a marker and the SHA-256."""


class Drill:
    """A run that was stopped between two optimizer steps of its second epoch, and the same run without a stop."""

    def __init__(self, folder: Path) -> None:
        self.rows, self.folder = write_rows(folder / "rows.jsonl"), folder / "run"
        self.checkpoint = folder / "run" / "stopped.ckpt"
        self.weights = self.run().fit().copy_weights()
        with pytest.raises(Interrupt):
            self.run(SaveAndStop(4, self.checkpoint)).fit()
        self.content = torch.load(self.checkpoint, weights_only=True)
        self.checked = self.run()

    def run(self, *callbacks: Any) -> Run:
        keep = [
            StepFailures(),
            EarlyStopping("valid_loss", patience=9),
            *build_checkpoint_callbacks(self.folder, "valid_loss", "min"),
        ]
        return Run(self.rows, self.folder, callbacks=[*callbacks, *keep], enable_checkpointing=True)

    def check(self, content: Any) -> bool:
        """Return whether a content passes the check that a run makes before using it."""
        try:
            check_head(content, "stopped.ckpt")
            self.checked.task.check_checkpoint(content, "stopped.ckpt", self.checked.trainer, self.checked.data)
        except ArtifactError as error:
            assert str(error).startswith("stopped.ckpt: ") and "\n" not in str(error) and get_exit_code(error) == 5
            return False
        return True

    def resume(self, content: Any) -> bool:
        """Return whether a run resumes from a content. Check that it then has the weights of the uninterrupted run."""
        path = self.folder / "changed.ckpt"
        AtomicCheckpointIO().save_checkpoint(content, path)
        try:
            found = self.run().fit(path).copy_weights()
        except ArtifactError:
            return False
        assert all(torch.equal(found[name], weights) for name, weights in self.weights.items())
        return True


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Drill:
    return Drill(tmp_path_factory.mktemp("drill"))


def copy_containers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: copy_containers(each) for name, each in value.items()}
    return [copy_containers(each) for each in value] if isinstance(value, list) else value


def list_places(value: Any, path: str = "") -> list[tuple[Any, Any, str]]:
    """Return every container with each of its keys and the path of the key."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    found = []
    for key in keys:
        found += [(value, key, f"{path}/{key}"), *list_places(value[key], f"{path}/{key}")]
    return found


def mutate(content: Any, random: Random) -> str:
    """Change one value or key, and return its path."""
    every = list_places(content)
    # Choose the part first, so that parts with few values change as often as the weights.
    part = random.choice(list(content))
    container, key, path = random.choice([place for place in every if re.match(f"/{re.escape(part)}(/|$)", place[2])])
    value, kind = container[key], random.randrange(6)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[random.choice(["", "x", f"{key} ", "__class__", 7])] = container.pop(key)
    elif kind in (2, 3) and type(value) is int:
        container[key] = value + random.choice([-1, 1, 1000, -(10**9)])
    elif kind in (2, 3) and isinstance(value, Tensor):
        container[key] = random.choice(TENSORS)(value)
    elif kind == 4:
        other, name, _ = random.choice(every)
        container[key] = other.get(name) if isinstance(other, dict) else value
    else:
        container[key] = random.choice(
            [*VALUES, torch.zeros(0), torch.zeros(3, 3), torch.tensor(1), make_nested_lists(40)]
        )
    return path


def make_nested_lists(depth: int) -> Any:
    return [make_nested_lists(depth - 1)] if depth else []


TENSORS = [
    lambda tensor: tensor[..., None],
    lambda tensor: tensor.flatten()[:1],
    lambda tensor: tensor.to(torch.int32),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: torch.full_like(tensor.float(), torch.nan),
    lambda tensor: torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape),
    lambda tensor: tensor.to_sparse() if tensor.dim() else tensor.bool(),
    lambda tensor: torch.nn.Parameter(tensor.float()),
    lambda tensor: tensor.tolist(),
    lambda tensor: torch.empty(tensor.shape, device="meta"),
]


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(each, other[name]) for name, each in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.layout == other.layout and torch.equal(one, other)
    return type(one) is type(other) and one == other


def test_changed_content_is_refused_or_has_no_effect(drill: Drill) -> None:
    assert drill.check(copy_containers(drill.content)) and drill.resume(drill.content)
    passed: dict[str, Any] = {}
    for random in make_generators(25, 1000):
        content = copy_containers(drill.content)
        path = mutate(content, random)
        kept = copy_containers(content)
        if drill.check(content) and not FREE.fullmatch(path) and not is_same(kept, drill.content):
            passed[path] = kept
    # A run that resumes from accepted content equals the uninterrupted run.
    for content in list(passed.values())[:20]:
        assert drill.resume(content)


def test_a_run_refuses_what_the_check_refuses(drill: Drill) -> None:
    for random in make_generators(26, 20):
        content = copy_containers(drill.content)
        if not FREE.fullmatch(mutate(content, random)):
            kept = copy_containers(content)
            assert drill.resume(kept) == drill.check(content)


def test_changed_bytes_are_refused(drill: Drill) -> None:
    whole, path = drill.checkpoint.read_bytes(), drill.folder / "bytes.ckpt"
    for random in make_generators(27, 300):
        path.write_bytes(mutate_bytes(whole, random))
        with pytest.raises(ArtifactError, match=f"^{path}: "):
            AtomicCheckpointIO().load_checkpoint(path)


def test_changed_bytes_with_a_valid_hash_give_only_artifact_errors(drill: Drill) -> None:
    whole, path = drill.checkpoint.read_bytes()[:-TRAILER], drill.folder / "bytes.ckpt"
    pickle_end = whole.index(b"PK", 4)
    start = whole.rindex(b"PK\x01\x02", 0, len(whole) - 4000)
    for random in make_generators(28, 300):
        ends = random.choice([(0, pickle_end), (start, len(whole))])
        changed = whole[: ends[0]] + mutate_bytes(whole[slice(*ends)], random) + whole[ends[1] :]
        path.write_bytes(changed + b"sha256:" + hashlib.sha256(changed).hexdigest().encode())
        try:
            drill.check(AtomicCheckpointIO().load_checkpoint(path))
        except ArtifactError as error:
            assert str(error).startswith(f"{path}: ") and "weights_only" not in str(error)
