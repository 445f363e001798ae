"""What DeepSpeed saves, copied to CPU memory, so that it can be written while training goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

from trainer.engine_parts.shards import load


@dataclass(frozen=True)
class Snapshot:
    """One rank's part of the training state.

    Attributes:
        files: path, as DeepSpeed names it -> content for `torch.save`.
        wait: returns when the copies from the GPU have arrived; to be called before `files` are read.
    """

    files: dict[Path, Any]
    wait: Callable[[], None]


class SnapshotEngine(CheckpointEngine):
    """In place of DeepSpeed's own checkpoint engine: `save` copies and touches no disk, `load` executes nothing.

    DeepSpeed keeps deciding what a checkpoint holds and what its files are called.
    """

    def __init__(self):
        super().__init__()
        self.name = "snapshot"
        self._files: dict[Path, Any] = {}

    def create(self, info: CheckpointCommitInfo) -> None:
        self._files = {}

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing: whoever writes the files makes their folders."""

    def save(self, state_dict: Any, path: str) -> None:
        self._files[Path(path)] = copied(state_dict, {})

    def load(self, path: str, map_location: Any = None) -> Any:
        return load(Path(path), map_location)

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True

    def take(self) -> Snapshot:
        """What was saved since `create`; it is handed over and forgotten here."""
        files, self._files = self._files, {}
        if not torch.cuda.is_available():
            return Snapshot(files, lambda: None)
        # The copies queue on the stream of the training, so later kernels cannot change what they read.
        arrived = torch.cuda.Event()
        arrived.record()
        return Snapshot(files, arrived.synchronize)


def copied(value: Any, memo: dict[tuple, torch.Tensor]) -> Any:
    """A copy with every tensor in CPU memory; tensors that share their memory, like tied weights, share the copy.

    Args:
        memo: copies made so far.
    """
    if isinstance(value, torch.Tensor):
        key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in memo:
            memo[key] = _to_cpu(value.detach())
        return memo[key]
    if isinstance(value, dict):
        new = copy.copy(value)
        new.update((name, copied(below, memo)) for name, below in value.items())
        return new
    if type(value) in (list, tuple):
        return type(value)(copied(below, memo) for below in value)
    return copy.deepcopy(value)


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type == "cpu":
        return tensor.clone(memory_format=torch.contiguous_format)
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
