"""Reading checkpoints: without executing anything in them, and by parameter, whatever world size and stage cut them.

A ZeRO checkpoint is flat tensors, each of one rank and one group of parameters. Stages 1 and 2 cut a whole group into
equal parts and note which rows of a part belong to which parameter; stage 3 cuts every parameter, padding the last
part. DeepSpeed has converters for this (zero_to_fp32, ds_to_universal), which unpickle without restriction.
"""

from __future__ import annotations

import itertools
import math
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.errors import UserError

STATES = ("fp32", "exp_avg", "exp_avg_sq")  # of every parameter: its weights and Adam's two moments
SCALING = ("loss_scaler", "dynamic_loss_scale", "overflow")


def load(path: Path, map_location: Any = "cpu", mapped: bool = False) -> Any:
    """What `torch.save` wrote: tensors, plain values and the few classes of DeepSpeed's own that its files hold.

    Args:
        mapped: leave the tensors on disk until they are read, where the file allows it.

    Raises:
        UserError: the file holds something else, which loading might execute; or is no such file.
    """
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            lazily = mapped and zipfile.is_zipfile(path)
            return torch.load(path, map_location=map_location, weights_only=True, mmap=lazily)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path} is refused: it holds {found[1] if found else 'something'} besides tensors and plain values",
            why="loading it could execute code, and checkpoints of this program do not need that",
            fix="use a checkpoint that you wrote yourself, or an export (safetensors, which hold nothing but numbers)",
        ) from None
    except (RuntimeError, EOFError) as error:
        raise UserError(f"{path} cannot be read", why=" ".join(str(error).split())[:300]) from None


def _safe_globals() -> list[Any]:
    """The classes in DeepSpeed's files at stages 0 to 3, in all dtypes and offloaded."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    def member(enumeration, name):
        """Some Python versions pickle a member of an enumeration as a call of getattr; this is all it may do."""
        if enumeration is not ZeroStageEnum:
            raise pickle.UnpicklingError("Unsupported global: GLOBAL builtins.getattr")
        return ZeroStageEnum[name]

    return [fragment_address, ZeroStageEnum, LossScaler, DynamicLossScaler, (member, "builtins.getattr")]


@dataclass(frozen=True)
class Piece:
    """`numel` values of a flattened parameter from `start` on: those of a rank's flat group from `at` on."""

    rank: int
    group: int
    at: int
    start: int
    numel: int


class Shards:
    """The training state of a checkpoint of stage 1, 2 or 3, by parameter.

    Attributes:
        folder: the one with DeepSpeed's files; shapes: parameter -> its shape; step: Adam's count of steps.
        model: content of the first file of model states; scaling: state of the fp16 loss scaler, when there is one.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = load(_by_rank(folder, "model_states")[0], mapped=True)
        files = [load(path, mapped=True)["optimizer_state_dict"] for path in _by_rank(folder, "optim_states")]
        whole = files[0].get("zero_stage", 1) == 3
        base, weights = "base_optimizer_state", "single_partition_of_fp32_groups"
        if whole:
            base, weights = "optimizer_state_dict", "fp32_flat_groups"
        self._flat = [
            [{"fp32": flat, **file[base]["state"][group]} for group, flat in enumerate(file[weights])] for file in files
        ]
        self.shapes = {name: shape for group in self.model["param_shapes"] for name, shape in group.items()}
        self.step = int(self._flat[0][0]["step"])
        self.scaling = {key: files[0][key] for key in SCALING if key in files[0]}
        self._pieces: dict[str, list[Piece]] = {name: [] for name in self.shapes}
        for name, piece in self._cut_by_parameter() if whole else self._cut_by_group(files):
            self._pieces[name].append(piece)

    def _cut_by_group(self, files: list[dict]) -> Iterator[tuple[str, Piece]]:
        start = dict.fromkeys(self.shapes, 0)
        for rank, file in enumerate(files):
            for group, mapping in enumerate(file["param_slice_mappings"]):
                for name, here in mapping.items():
                    yield name, Piece(rank, group, here.start, start[name], here.numel)
                    start[name] += here.numel

    def _cut_by_parameter(self) -> Iterator[tuple[str, Piece]]:
        for group, shapes in enumerate(self.model["param_shapes"]):
            at = 0
            for name, shape in shapes.items():
                for rank, (start, numel) in enumerate(parts(math.prod(shape), len(self._flat))):
                    yield name, Piece(rank, group, at, start, numel)
                at += part_size(math.prod(shape), len(self._flat))

    def read(self, name: str, state: str, start: int, out: torch.Tensor) -> None:
        """Copy `out.numel()` values of a flattened parameter's weights or moments, from `start` on, into `out`; only
        these are read from the disk."""
        end, found = start + out.numel(), 0
        for piece in self._pieces[name]:
            begin, stop = max(start, piece.start), min(end, piece.start + piece.numel)
            if begin < stop:
                flat = self._flat[piece.rank][piece.group][state]
                at = piece.at + begin - piece.start
                out[begin - start : stop - start].copy_(flat[at : at + stop - begin])
                found += stop - begin
        if found != out.numel():
            raise UserError(f"{self.folder} holds {found:,} of {out.numel():,} values of {name}")

    def whole(self, name: str, state: str = "fp32") -> torch.Tensor:
        """A parameter's weights or moments in fp32, in its shape."""
        value = torch.empty(math.prod(self.shapes[name]))
        self.read(name, state, 0, value)
        return value.reshape(self.shapes[name])


def full_state(folder: Path) -> dict[str, torch.Tensor]:
    """The fp32 weights in a checkpoint's folder of DeepSpeed files, put together without a process group."""
    if not list(folder.glob("*_optim_states.pt")):  # stage 0: the module is whole in one file
        return {name: value.float() for name, value in load(_by_rank(folder, "model_states")[0])["module"].items()}
    shards = Shards(folder)
    state = {name: shards.whole(name) for name in shards.shapes}
    state |= {name: shards.model["module"][name].clone() for name in shards.model["buffer_names"]}
    return state | {alias: state[name] for alias, name in shards.model["shared_params"].items()}


def part_size(numel: int, ranks: int) -> int:
    """Values of a parameter that stage 3 keeps on each rank, padding included."""
    return math.ceil(numel / ranks)


def parts(numel: int, ranks: int) -> list[tuple[int, int]]:
    """(start, values) of each rank's part of a parameter at stage 3; the last ones may be short or empty."""
    size = part_size(numel, ranks)
    starts = [min(rank * size, numel) for rank in range(ranks + 1)]
    return [(start, end - start) for start, end in itertools.pairwise(starts)]


def _by_rank(folder: Path, kind: str) -> list[Path]:
    """The files of a kind in rank order.

    Raises:
        UserError: there are none, or one of a rank is missing.
    """
    found = {int(re.search(r"rank_(\d+)", path.name)[1]): path for path in folder.glob(f"*mp_rank_00_{kind}.pt")}
    missing = sorted(set(range(max(found, default=0) + 1)) - set(found))
    if missing:
        raise UserError(f"{folder} has no {kind} of rank {missing[0]}", fix="use another checkpoint of the run")
    return [found[rank] for rank in sorted(found)]
