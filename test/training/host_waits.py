"""Count what makes the host wait for a GPU, on a machine without one.

Tensors are marked as if they were on a GPU: weights, gradients, moments, batches, tensors that are made with a device,
and everything computed from them. A host waits if it reads such a tensor, if the size of a result depends on its
values, or if it copies ordinary memory to the GPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from text.training.host_values import HostCopy

ROOT = Path(__file__).parents[2]
_READS = {
    "aten._local_scalar_dense.default": "reads a number",
    "aten.equal.default": "compares tensors",
    "aten.nonzero.default": "nonzero",
    "aten._unique2.default": "unique",
    "aten.unique_dim.default": "unique",
    "aten.unique_consecutive.default": "unique",
    "aten.masked_select.default": "masked_select",
    "aten.masked_scatter_backward.default": "masked_select",
    "aten.repeat_interleave.Tensor": "repeat_interleave without output_size",
}
_INDEXING = ("aten.index.Tensor", "aten.index_put.default", "aten.index_put_.default", "aten._index_put_impl_.default")
_FACTORIES = ("zeros", "ones", "empty", "full", "arange", "rand", "randn", "randint")


class HostWaits:
    """Waits of the host, by kind and place."""

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()
        self._storages: dict[int, Any] = {}  # kept alive, so that no other storage gets the address

    def mark(self, *values: Any) -> None:
        """Treat tensors as tensors of the GPU."""
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr():
                self._storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()

    def unmark(self, tensor: Tensor) -> None:
        """Treat a tensor as a tensor of the host."""
        self._storages.pop(tensor.untyped_storage().data_ptr(), None)

    def is_marked(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage().data_ptr() in self._storages

    def add(self, kind: str) -> None:
        self.found[kind, _find_place()] += 1

    def describe(self) -> str:
        return "\n".join(f"{count} x {place}: {kind}" for (kind, place), count in sorted(self.found.items()))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the waits of the block."""
        waits, read = self, HostCopy.read

        def read_and_count(self: HostCopy) -> Tensor:
            waits.add("waits for a copy")
            values = read(self)
            waits.unmark(values)
            return values

        with ExitStack() as stack:
            HostCopy.read = read_and_count
            stack.callback(setattr, HostCopy, "read", read)
            stack.enter_context(_Dispatch(self))
            stack.enter_context(_Functions(self))
            yield


class _Dispatch(TorchDispatchMode):
    """Mode that sees each operator, also in the backward pass."""

    def __init__(self, waits: HostWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name, waits = str(func), self.waits
        is_marked = any(map(waits.is_marked, tree_leaves((args, kwargs))))
        if is_marked and name in _READS and not (name.startswith("aten.repeat") and (kwargs or {}).get("output_size")):
            waits.add(_READS[name])
        if is_marked and name in _INDEXING:
            self._check_indices([index for index in args[1] if index is not None])
        if name == "aten.copy_.default":
            is_waiting = not (len(args) > 2 and args[2])
            if is_waiting and args[1].dim() and waits.is_marked(args[0]) != waits.is_marked(args[1]):
                waits.add("copies and waits")
            is_marked = waits.is_marked(args[0])
        result = func(*args, **(kwargs or {}))
        if is_marked:
            waits.mark(result)
        return result

    def _check_indices(self, indices: Sequence[Tensor]) -> None:
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            self.waits.add("boolean index")
        elif not all(map(self.waits.is_marked, indices)):
            self.waits.add("index on the host")


class _Functions(TorchFunctionMode):
    """Mode that sees each call from Python."""

    def __init__(self, waits: HostWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name, waits, kwargs = getattr(func, "__name__", ""), self.waits, kwargs or {}
        is_marked = bool(args) and waits.is_marked(args[0])
        has_device = kwargs.get("device") is not None
        if name == "__getitem__" and is_marked and _has_list(args[1]):
            waits.add("index by a list")
        if name in ("tolist", "numpy", "cpu") and is_marked and args[0].numel():
            waits.add(name)
        result = func(*args, **kwargs)
        if (name in ("tensor", "as_tensor") and has_device) or (name == "new_tensor" and is_marked):
            waits.add(f"copies a Python number to the GPU ({name})")
            waits.mark(result)
        elif name in _FACTORIES and has_device:
            waits.mark(result)
        elif name == "to" and not is_marked and _names_device(args, kwargs):
            result = self._follow_copy(result)
        return result

    def _follow_copy(self, result: Tensor) -> Tensor:
        """Return the result of ``to`` on the GPU or the host, and count a copy to the GPU unless it is pinned."""
        callers = _list_callers()
        if any(path.endswith("apply_func.py") for path, _ in callers):
            if not any(function == "batch_to_device" for _, function in callers):
                return result  # Lightning moves its metrics to the device of the logged value: the host
        elif not any(path.endswith("transfers.py") for path, _ in callers):
            self.waits.add("copies to the GPU")
        result = result.clone()  # On a CPU, ``to`` returns the tensor of the host itself.
        self.waits.mark(result)
        return result


def _has_list(index: Any) -> bool:
    return any(isinstance(each, list) or type(each).__module__ == "numpy" for each in _as_tuple(index))


def _as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _names_device(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    places = (*args[1:2], kwargs.get("device"))
    return any(isinstance(each, torch.device | str | Tensor) for each in places)


def _list_callers() -> list[tuple[str, str]]:
    frame, callers = sys._getframe(1), []
    while frame is not None:
        callers.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    return callers


def _find_place() -> str:
    """Return the innermost line of this library, or else of Lightning or PyTorch."""
    frame, other = sys._getframe(1), ""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(str(ROOT / "text")):
            return f"{path[len(str(ROOT)) + 1 :]}:{frame.f_lineno}"
        if not other and "lightning" in path:
            other = f"{path.partition('site-packages/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return other
