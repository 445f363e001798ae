"""Loading a checkpoint of one world size or ZeRO stage (1 to 3) into an engine of another.

DeepSpeed's own way, universal checkpoints, is not taken. It writes every parameter to four files of its own, on one
rank, before anything is loaded; it unpickles without restriction; and at stage 3 it gives every group of parameters
the settings of the first (`load_hp_checkpoint_state_from_checkpoint_dir_stage3`), so that biases and LayerNorms would
decay from then on. Here each rank reads, of each file, the values that are now its own, and hands them to DeepSpeed as
the state dict that it would have saved itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from trainer.engine_parts.shards import STATES, Shards, part_size, parts


def recut(engine, shards: Shards, rank: int, ranks: int, same_dtype: bool) -> None:
    """Restore weights, Adam's moments and counters of a fresh DeepSpeed engine; all ranks must call it.

    Args:
        same_dtype: the checkpoint's run had this dtype, so its fp16 loss scale goes on.
    """
    optimizer, by_parameter = engine.optimizer, engine.zero_optimization_stage() == 3
    if by_parameter:
        optimizer.checkpoint_event_prologue()
    own = optimizer.state_dict()
    flats, base = (_stage3 if by_parameter else _stage12)(engine, own)
    cut = _cut_by_parameter(engine, rank, ranks) if by_parameter else _cut_by_group(engine, own)
    state = [{key: torch.zeros(flat.numel()) for key in STATES} for flat in flats]
    for group, name, at, start, numel in cut:
        for key, values in state[group].items():
            shards.read(name, key, start, values[at : at + numel])
    flats[:] = [values.pop("fp32") for values in state]
    base["state"] = {
        # A count of its own for each, as the optimizer raises it in place.
        group: {"step": _step(optimizer.optimizer, shards.step), **values}
        for group, values in enumerate(state)
    }
    own.update({key: value for key, value in shards.scaling.items() if key in own and same_dtype})
    optimizer.load_state_dict([own] * ranks, load_optimizer_states=True, load_from_fp32_weights=True)
    if by_parameter:
        optimizer.checkpoint_event_epilogue()
    else:
        optimizer.update_lp_params()
    for counter in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, counter, shards.model[counter])


def _stage12(engine, own: dict[str, Any]) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """The fp32 weights, a flat tensor a group with its padding, and the state dict of torch's optimizer."""
    own["single_partition_of_fp32_groups"] = [group["params"][0] for group in engine.optimizer.param_groups]
    return own["single_partition_of_fp32_groups"], own["base_optimizer_state"]


def _stage3(engine, own: dict[str, Any]) -> tuple[list[torch.Tensor], dict[str, Any]]:
    own["fp32_flat_groups"] = list(own["fp32_flat_groups"])
    return own["fp32_flat_groups"], own["optimizer_state_dict"]


def _cut_by_group(engine, own: dict[str, Any]) -> Iterator[tuple[int, str, int, int, int]]:
    """(group, parameter, where in the group, where in the flattened parameter, values) that are this rank's."""
    parameters = dict(engine.module.named_parameters())
    for group, mapping in enumerate(own["param_slice_mappings"]):
        for name, here in mapping.items():
            yield group, name, here.start, parameters[name]._hp_mapping.lp_fragment_address.start, here.numel


def _cut_by_parameter(engine, rank: int, ranks: int) -> Iterator[tuple[int, str, int, int, int]]:
    for group, parameters in enumerate(engine.optimizer.fp16_groups):
        at = 0
        for parameter in parameters:
            start, numel = parts(parameter.ds_numel, ranks)[rank]
            yield group, engine.param_names[parameter], at, start, numel
            at += part_size(parameter.ds_numel, ranks)


def _step(optimizer: torch.optim.Optimizer, step: int) -> int | torch.Tensor:
    """Adam's count as this optimizer keeps it: DeepSpeed's for CPUs as a number, torch's as a tensor."""
    return step if type(optimizer).__name__ == "DeepSpeedCPUAdam" else torch.tensor(float(step))
