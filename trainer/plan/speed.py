"""Seconds of an optimizer step, after the formula for ZeRO on N ranks:

    T = g t_c (1 + CV sqrt(2 ln N)) + communication that computing does not hide + optimizer

with g packs a rank, t_c seconds of one pack's products at an assumed share of the matmul rate, and CV the spread of the
ranks' loads. Every assumption is a constant here; a plan names them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.data.packing import FULL
from trainer.plan.activations import Kernels
from trainer.plan.devices import HOST_BANDWIDTH, PCIE, SERVER_BANDWIDTH, Devices
from trainer.plan.shapes import Data, Shape

# Share of the matmul rate that training reaches: to be replaced by benchmarks' results where there are any.
UTILISATION = {("cuda", True): 0.45, ("cuda", False): 0.35, ("cpu", True): 0.45, ("cpu", False): 0.35}
LAUNCH = 2e-3  # seconds a layer that a GPU waits for its host, forward and backward, however small the pack
SPREAD = 0.01  # CV of the ranks' loads: packs hold nearly the same tokens
OVERLAP = 0.7  # share of the backward pass that can hide communication
RECOMPUTED = 4 / 3  # products of a step with gradient checkpointing, relative to one without
ADAM_BYTES = 46  # read and written per parameter by one Adam step: fp32 weight, gradient, moments, clipping, cast
STAGE3 = 1.15  # what gathering weights module by module costs, when no communication shows against stage 2


@dataclass(frozen=True)
class Speed:
    """Of one optimizer step.

    Attributes:
        seconds: the whole step; computing, communicating (not hidden), updating: its parts.
        utilisation: the share of the matmul rate assumed while computing; below it where the host is the limit.
        efficiency: tokens/s relative to ranks that never wait, for communication or for each other.
    """

    seconds: float
    computing: float
    communicating: float
    updating: float
    tokens: float
    utilisation: float
    efficiency: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def flops_per_token(shape: Shape, effective: float) -> float:
    """Forward and backward: 6 per parameter of the layers, and 12 L H per key a token attends to (PaLM, arXiv
    2204.02311, appendix B, for attention within sequences of their own)."""
    return 6 * shape.in_layers + 12 * shape.layers * shape.hidden * effective


def speed(
    shape: Shape, data: Data, kernels: Kernels, zero: dict, devices: Devices, pack_tokens: int, packs_per_step: int
) -> Speed:
    """Of a step of `packs_per_step` packs, shared evenly by all devices.

    Args:
        zero: the section zero_optimization of a DeepSpeed configuration.
    """
    ranks, packs = devices.count, packs_per_step // devices.count
    share = UTILISATION[devices.kind, kernels.fused]
    products = pack_tokens * flops_per_token(shape, data.effective) / devices.matmul
    pack = products / share * (RECOMPUTED if kernels.checkpointing else 1.0) * (STAGE3 if zero["stage"] == 3 else 1.0)
    if devices.kind == "cuda":
        pack = max(pack, LAUNCH * shape.layers)
    computing = packs * pack * (1 + SPREAD * math.sqrt(2 * math.log(ranks)))
    hidden = OVERLAP * pack * 2 / 3 if zero.get("overlap_comm") else 0.0
    communicating = _communicating(shape.parameters * kernels.bytes, zero["stage"], packs, hidden, devices)
    updating = _updating(shape.parameters, zero, kernels.bytes, packs, devices)
    seconds = computing + communicating + updating
    ideal = packs * pack + updating
    return Speed(
        seconds,
        computing,
        communicating,
        updating,
        packs_per_step * pack_tokens * FULL,
        packs * products / computing,
        ideal / seconds,
    )


def _communicating(module: float, stage: int, packs: int, hidden: float, devices: Devices) -> float:
    """Seconds that computing does not hide. `module` bytes in the module's dtype move: at stage 0 and 1 once a step
    there and back; at stage 2 the gradients after each pack and the weights once; at stage 3 the weights twice and
    the gradients once in each pack."""
    ranks = devices.count
    once = (ranks - 1) / ranks * module / devices.bandwidth
    if stage == 3:
        return packs * max(0.0, 3 * once - hidden)
    if stage == 2:
        return packs * max(0.0, once - hidden) + once
    return 2 * once


def _updating(parameters: float, zero: dict, number: int, packs: int, devices: Devices) -> float:
    """Adam on the rank's share (all of it at stage 0), bound by memory; offloaded, on the host, with gradients and
    weights through PCIe."""
    own = parameters if zero["stage"] == 0 else parameters / devices.count
    if "offload_optimizer" not in zero:
        return ADAM_BYTES * own / devices.memory_bandwidth
    moved = 0.0 if devices.kind == "cpu" else own * (4 + number) / PCIE
    if "offload_param" in zero and devices.kind == "cuda":
        moved += packs * 2 * parameters * number / PCIE
    host = HOST_BANDWIDTH if devices.kind == "cpu" else SERVER_BANDWIDTH
    return ADAM_BYTES * own * devices.per_node / host + moved
