"""Memory of one device, by part and moment, as DeepSpeed 0.19's optimizers hold it.

P parameters, N ranks, V the largest parameter (the word embeddings), 4 bytes for fp32 and b for the module's dtype.
Every moment of a step is written down; the peak is the largest, and which one that is depends on the sizes. Where the
terms come from is said with each optimizer; file names are those of deepspeed/runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.plan.activations import Activations
from trainer.plan.shapes import Shape

PARTS = ("weights", "fp32 weights", "gradients", "optimizer state", "activations", "buffers")
ALLREDUCE = 500_000_000  # elements that stage 0 copies together to add them up (engine.py, MEMORY_OPT_ALLREDUCE_SIZE)
INIT, BEGIN, END, REDUCE, STEP = "initialisation", "backward begins", "backward ends", "reduction", "optimizer step"
Parts = dict[str, float]


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        moments: moment -> part -> bytes.
        host: bytes in the host's memory, for offloaded parts; on a CPU they are in the moments too.
    """

    moments: dict[str, Parts]
    host: float

    @property
    def peak_moment(self) -> str:
        return max(self.moments, key=lambda moment: sum(self.moments[moment].values()))

    @property
    def parts(self) -> Parts:
        """At the peak."""
        return self.moments[self.peak_moment]

    @property
    def peak(self) -> float:
        return sum(self.parts.values())

    @property
    def activations(self) -> float:
        """At the moment that has most of them."""
        return max(parts["activations"] for parts in self.moments.values())


@dataclass(frozen=True)
class _Sizes:
    """What the formulas share: P, P/N, V, b, the reduce buckets' bytes, micro-steps, and whether on a CPU."""

    whole: float
    own: float
    largest: float
    number: int
    buckets: float
    accumulates: bool
    on_cpu: bool
    settings: Mapping[str, Any]

    @property
    def module(self) -> float:
        return self.whole * self.number

    @property
    def copied(self) -> float:
        """One bucket, copied together for the reduction."""
        return min(self.whole, float(self.settings.get("reduce_bucket_size", 5e8))) * self.number

    @property
    def arriving(self) -> float:
        """The module before DeepSpeed has it: loaded in fp32, and converted on the way to a GPU."""
        return 4 * self.whole if self.on_cpu else self.module

    @property
    def norm(self) -> float:
        """The largest gradient of a partition in fp64, in which its norm is taken (zero/utils.py, get_norm_dtype)."""
        return 8 * min(self.largest, self.own)


def memory(
    shape: Shape, kept: Activations, settings: Mapping[str, Any], dtype: str, ranks: int, micro_steps: int, device: str
) -> Memory:
    """What one rank needs.

    Args:
        kept: of one pack.
        settings: a file of ds_configs/.
        dtype: bf16, fp16 or fp32; device: cuda or cpu.
    """
    zero = settings["zero_optimization"]
    number, whole, on_cpu = 4 if dtype == "fp32" else 2, float(shape.parameters), device == "cpu"
    bucket, doubled = float(zero.get("reduce_bucket_size", 5e8)), 2 if zero.get("overlap_comm") else 1
    # A GPU allocates buckets whole; on a CPU only the pages that gradients are written to exist.
    buckets = min(whole, bucket * doubled) if on_cpu else bucket * doubled
    sizes = _Sizes(whole, whole / ranks, shape.largest, number, buckets * number, micro_steps > 1, on_cpu, zero)
    stage = zero["stage"]
    if "offload_optimizer" in zero:
        moments, host = (_stage3_offloaded if stage == 3 else _partitioned_offloaded)(sizes)
    elif stage == 0:
        moments, host = _whole(sizes), 0.0
    elif stage == 1 and dtype == "bf16":
        moments, host = _bf16_optimizer(sizes), 0.0
    elif stage == 3:
        moments, host = _stage3(sizes), 0.0
    else:
        moments, host = _partitioned(sizes, stage), 0.0
    for moment, size in ((BEGIN, kept.saved + kept.working), (END, kept.last)):
        moments[moment]["activations"] += size
    if on_cpu and host:
        for parts in moments.values():
            parts["buffers"] += host
    return Memory(moments, host)


def _parts(weights=0.0, fp32=0.0, gradients=0.0, state=0.0, buffers=0.0) -> Parts:
    return dict(zip(PARTS, (weights, fp32, gradients, state, 0.0, buffers), strict=True))


def _whole(s: _Sizes) -> dict[str, Parts]:
    """Stage 0. In fp32 torch's optimizer works on the module itself. In bf16 (fp16/unfused_optimizer.py) it works on
    fp32 clones, with fp32 copies of all gradients during the step, and its state is made at once, by a step with zero
    gradients. Gradients are added up over the ranks in copies of up to ALLREDUCE elements."""
    low = s.number == 2
    base = {"weights": s.module, "fp32": 4 * s.whole if low else 0.0, "state": 8 * s.whole}
    copies = min(s.whole, ALLREDUCE + s.largest) * s.number
    return {
        INIT: _parts(**base, gradients=6 * s.whole) if low else _parts(s.module),
        BEGIN: _parts(**base, gradients=s.module if s.accumulates else 0.0),
        END: _parts(**base, gradients=s.module + s.largest * s.number * s.accumulates),
        REDUCE: _parts(**base, gradients=s.module, buffers=copies),
        STEP: _parts(**base, gradients=s.module, buffers=4 * s.whole if low else 0.0),
    }


def _bf16_optimizer(s: _Sizes) -> dict[str, Parts]:
    """Stage 1 in bf16 with fp32 accumulation is another class (bf16_optimizer.py): whole fp32 gradients from the
    start, and the module's own bf16 gradients, which are set to zero but never freed. The sum over ranks is taken in
    a bf16 copy."""
    base = {"weights": s.module, "fp32": 4 * s.own, "state": 8 * s.own}
    gradients = 4 * s.whole + s.module
    return {
        INIT: _parts(2 * s.module, fp32=4 * s.own, gradients=4 * s.whole),
        BEGIN: _parts(**base, gradients=gradients),
        END: _parts(**base, gradients=gradients, buffers=4 * s.largest),
        REDUCE: _parts(**base, gradients=gradients, buffers=s.module),
        STEP: _parts(**base, gradients=gradients),
    }


def _partitioned(s: _Sizes, stage: int) -> dict[str, Parts]:
    """Stages 1 and 2 (zero/stage_1_and_2.py). The module's weights become views of a flat copy, and each rank clones
    its partition in fp32, also when the module is fp32 already.

    Low precision: reduced gradients are copied out of their bucket, cast, and added to an fp32 buffer of the partition,
    which the optimizer uses as it is.
    fp32: reduced gradients of the partition are copied together (4 P/N; a second time when several packs add up), and
    the step copies them into one flat tensor (4 P/N) while the first copy is still there. Stage 1 keeps the whole
    gradients until the step's last pack. The largest parameter, when it is larger than a bucket, is reduced where it
    lies; a bucket that spans partitions is copied once more."""
    low = s.number == 2
    base = {"weights": s.module, "fp32": 4 * s.own, "state": 8 * s.own}
    partition, whole = 4 * s.own, 4 * s.whole if stage == 1 else 0.0
    earlier = (whole or partition) if s.accumulates else 0.0
    begun = 0.0 if s.on_cpu else s.buckets
    spanning = s.copied + 4 * min(s.largest, s.own) if low else s.copied if s.own < s.whole else 0.0
    arriving = s.largest * s.number
    if low:
        end = whole + partition
    else:
        end = max(whole, partition) + (partition if s.accumulates and stage == 2 else 0.0)
    return {
        INIT: max(
            _parts(2 * s.module),  # before the first copy of the weights is gone
            _parts(s.module, fp32=partition, gradients=partition),
            key=lambda parts: sum(parts.values()),
        ),
        BEGIN: _parts(**base, gradients=earlier, buffers=begun),
        END: _parts(**base, gradients=end + arriving, buffers=s.buckets + spanning),
        STEP: _parts(**base, gradients=partition, buffers=s.norm if low else max(partition, s.norm)),
    }


def _partitioned_offloaded(s: _Sizes) -> tuple[dict[str, Parts], float]:
    """Stages 1 and 2 with the optimizer on the host: fp32 weights, gradients and two moments of the partition (16 P/N),
    a copy of it in the module's dtype, and a buffer for the largest gradient on either side; fp32 gradients of several
    packs add up on the host."""
    low = s.number == 2
    accumulated = 4 * s.own if low else 0.0
    largest = s.largest * s.number
    host = 16 * s.own + s.own * s.number + largest + (4 * s.own if s.accumulates and not low else 0.0)
    spanning = s.copied + 4 * min(s.largest, s.own) if low else s.copied if s.own < s.whole else 0.0
    begun = 0.0 if s.on_cpu else s.buckets
    return {
        INIT: _parts(2 * s.module),
        BEGIN: _parts(s.module, gradients=accumulated if s.accumulates else 0.0, buffers=begun + largest),
        END: _parts(s.module, gradients=accumulated + largest, buffers=s.buckets + spanning + largest),
        STEP: _parts(s.module, gradients=accumulated, buffers=s.norm),
    }, host


def _gathered(s: _Sizes) -> float:
    """Bytes of the parameters that stage 3 has put together at once: those whose next use, through the rest of the
    forward pass and back, is nearer than stage3_max_reuse_distance stay (zero/partitioned_param_coordinator.py)."""
    near = float(s.settings.get("stage3_max_reuse_distance", 1e9)) / 2
    ahead = float(s.settings.get("stage3_prefetch_bucket_size", 5e7))
    most = float(s.settings.get("stage3_max_live_parameters", 1e9))
    return s.number * min(s.whole, max(min(near + ahead, most), s.largest))


def _stage3(s: _Sizes) -> dict[str, Parts]:
    """Stage 3 (zero/stage3.py): a partition of everything; in fp32 its weights are their own fp32 copy. Accumulated
    gradients and the reduce bucket are allocated once; the step copies the gradients into one flat tensor."""
    low = s.number == 2
    bucket = s.copied if s.on_cpu else float(s.settings.get("reduce_bucket_size", 5e8)) * s.number  # only one
    base = {"weights": s.own * s.number, "fp32": 4 * s.own if low else 0.0, "state": 8 * s.own}
    gradients, gathered, arriving = 4 * s.own, _gathered(s), s.largest * s.number
    kept = base["weights"] + base["fp32"]
    return {
        INIT: max(
            _parts(s.arriving), _parts(kept, gradients=2 * gradients, buffers=bucket), key=lambda p: sum(p.values())
        ),
        BEGIN: _parts(**base, gradients=gradients, buffers=bucket + gathered),
        END: _parts(**base, gradients=gradients + arriving, buffers=2 * bucket + gathered),
        STEP: _parts(**base, gradients=gradients, buffers=bucket + max(4 * s.own, s.norm)),
    }


def _stage3_offloaded(s: _Sizes) -> tuple[dict[str, Parts], float]:
    """Stage 3 with optimizer and weights on the host: the weights' partition, their fp32 copy, gradients as they add up
    and once more for the optimizer, and two moments."""
    device = _stage3(s)
    weights = s.own * s.number if "offload_param" in s.settings else 0.0
    host = weights + 4 * s.own + 8 * s.own + 8 * s.own
    for moment, parts in device.items():
        if moment != INIT:
            parts |= {"fp32 weights": 0.0, "optimizer state": 0.0}
            parts["weights"] = 0.0 if weights else s.own * s.number
            parts["gradients"] = s.largest * s.number if moment == END else 0.0
    device[INIT] = _parts(s.arriving)
    return device, host
