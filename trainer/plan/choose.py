"""The search: every way of running that keeps the recipe's step, and the fastest that fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from trainer import engine
from trainer.config import RunConfig
from trainer.data.packing import FULL
from trainer.errors import UserError
from trainer.plan.activations import Kernels, activations, choose_attention
from trainer.plan.devices import Devices
from trainer.plan.memory import Memory, memory
from trainer.plan.shapes import Data, Shape, describe
from trainer.plan.speed import Speed, speed

CONFIGS = tuple(f"ds_configs/zero{name}.json" for name in ("0", "1", "2", "2_offload", "3", "3_offload"))
LIKED = (2, 1, 3, 0)  # stages that are as fast as each other, in the order they are taken
EQUAL = 1.02  # steps that take this much longer are taken for as fast
GRAIN, MOST_TOKENS = 64, 1 << 20  # of the largest pack, searched for
CONTEXT = {"cuda": 1.0e9, "cpu": 0.9e9}  # bytes of a process without a model: CUDA, NCCL; libraries and their caches
SLACK = 0.05  # share of a GPU's memory that fragments in torch's allocator
# A CPU run keeps freed blocks (trainer.host), which fragment as packs differ: resident bytes beyond those in use, per
# byte of activations. 0.7 to 1.3 with one process, 1.8 with two, by benchmarks/memory.py.
FRAGMENTS = 1.3


@dataclass(frozen=True)
class Option:
    """One way of running a recipe's step."""

    config: str
    stage: int
    offload: bool
    checkpointing: bool
    pack_tokens: int
    packs_per_step: int
    memory: Memory
    speed: Speed
    reserve: float
    room: float  # bytes left on a device; below 0 it does not fit

    @property
    def fits(self) -> bool:
        return self.room >= 0


@dataclass(frozen=True)
class Plan:
    """Attributes:
    options: for each configuration, without and with checkpointing, the fastest pack size that fits (or the smallest).
    largest: (configuration, checkpointing) -> tokens of the largest pack that fits, 0 if none does.
    reasons: one sentence each for stage, offload, pack size and checkpointing.
    steps: of the run, None if its number of epochs is not yet a number of steps.
    """

    shape: Shape
    data: Data
    devices: Devices
    dtype: str
    kernels: Kernels
    options: tuple[Option, ...]
    largest: dict[tuple[str, bool], int]
    chosen: Option
    reasons: tuple[str, ...]
    steps: int | None

    @property
    def seconds(self) -> float | None:
        """Of the whole run, without evaluation and checkpoints."""
        return None if self.steps is None else self.steps * self.chosen.speed.seconds


def need(config: RunConfig, device: str, ranks: int) -> tuple[Shape, Memory]:
    """What a recipe needs on each of `ranks` devices (cuda or cpu), run exactly as it says.

    Raises:
        UserError: the encoder's config or engine.config cannot be read.
    """
    shape, data = describe(config)
    dtype = _dtype(config, device)
    kept = activations(shape, _kernels(config, device, dtype), data, config.train.pack_tokens)
    settings = engine.read_config(config.engine.config)
    return shape, memory(shape, kept, settings, dtype, ranks, config.train.packs_per_step // ranks, device)


def make_plan(config: RunConfig, devices: Devices) -> Plan:
    """The plan of a recipe for devices; its prepared data is used where it is there.

    Raises:
        UserError: nothing fits, the step cannot be shared by the devices, or the encoder's config cannot be loaded.
    """
    shape, data = describe(config)
    dtype = _dtype(config, devices.kind)
    search = _Search(config, devices, shape, data, dtype)
    options = search.options()
    fitting = [option for option in options if option.fits]
    if not fitting:
        raise _nothing_fits(min(options, key=lambda option: -option.room), devices, shape)
    chosen = search.best(_simplest(fitting))
    steps = config.train.steps
    if steps is None and data.tokens is not None:
        batch = config.train.packs_per_step * config.train.pack_tokens
        steps = math.ceil(config.train.epochs * data.tokens / (batch * FULL))
    largest = {(o.config, o.checkpointing): search.largest(o.config, o.checkpointing) for o in options}
    kernels = search.kernels(chosen.checkpointing)
    reasons = _reasons(chosen, options, search)
    return Plan(shape, data, devices, dtype, kernels, tuple(options), largest, chosen, reasons, steps)


def _dtype(config: RunConfig, device: str) -> str:
    """As engine.choose_dtype, which asks the device that is here."""
    return config.engine.dtype if config.engine.dtype != "auto" else "bf16" if device == "cuda" else "fp32"


def _kernels(config: RunConfig, device: str, dtype: str) -> Kernels:
    size, checkpointing = 4 if dtype == "fp32" else 2, config.model.gradient_checkpointing
    attention = choose_attention(device, size, config.kernels.attention)
    return Kernels(config.kernels.layers == "fused", attention, size, device, checkpointing)


class _Search:
    def __init__(self, config: RunConfig, devices: Devices, shape: Shape, data: Data, dtype: str):
        self.config, self.devices, self.shape, self.data, self.dtype = config, devices, shape, data, dtype
        self.settings = {path: engine.read_config(path) for path in self._configs()}
        self.packs = self._packs()

    def _configs(self) -> list[str]:
        # Stage 0 adds up in the module's own dtype: left out where that loses precision, unless it is asked for.
        exact = CONFIGS if self.dtype == "fp32" else CONFIGS[1:]
        return list(dict.fromkeys([self.config.engine.config, *exact]))

    def _packs(self) -> list[tuple[int, int]]:
        """(pack_tokens, packs_per_step) that make the recipe's step on these devices, smallest packs first."""
        ranks, train = self.devices.count, self.config.train
        batch, longest = train.packs_per_step * train.pack_tokens, self.data.longest
        packs = [
            (batch // (ranks * each), ranks * each)
            for each in range(batch // (ranks * longest), 0, -1)
            if batch % (ranks * each) == 0
        ]
        if not packs:
            why = f"one pack a device would be {batch / ranks:,.0f} tokens, and must be a whole number"
            if batch < ranks * longest:
                why = f"one pack a device would be {batch / ranks:,.0f} tokens, but an example may take {longest:,}"
            raise UserError(
                f"a step of {batch:,} tokens (packs_per_step x pack_tokens) cannot be shared by {ranks} devices",
                why=why,
                fix=f"train.packs_per_step={ranks * max(1, round(train.packs_per_step / ranks))} with "
                f"train.pack_tokens={max(longest, train.pack_tokens)}, or fewer devices",
            )
        return packs

    def kernels(self, checkpointing: bool) -> Kernels:
        return replace(_kernels(self.config, self.devices.kind, self.dtype), checkpointing=checkpointing)

    def options(self) -> list[Option]:
        ways = [self.config.model.gradient_checkpointing, not self.config.model.gradient_checkpointing]
        best = []
        for path in self.settings:
            for checkpointing in ways:
                tried = [self.option(path, checkpointing, *pack) for pack in self.packs]
                fitting = [option for option in tried if option.fits]
                best.append(self.best(fitting) if fitting else tried[0])
        return best

    def option(self, path: str, checkpointing: bool, pack_tokens: int, packs_per_step: int) -> Option:
        zero = self.settings[path]["zero_optimization"]
        kernels, devices = self.kernels(checkpointing), self.devices
        need = self._memory(path, checkpointing, pack_tokens, packs_per_step // devices.count)
        reserve = self._reserve(need)
        how_fast = speed(self.shape, self.data, kernels, zero, devices, pack_tokens, packs_per_step)
        room = devices.memory - reserve - need.peak
        if devices.kind == "cuda" and devices.host_memory is not None:
            room = min(room, devices.host_memory / devices.per_node - need.host)
        offload = "offload_optimizer" in zero
        sizes = (pack_tokens, packs_per_step)
        return Option(path, zero["stage"], offload, checkpointing, *sizes, need, how_fast, reserve, room)

    def best(self, options: list[Option]) -> Option:
        """The fastest; among those as fast, the one with fewest changes to the recipe."""
        fastest = min(option.speed.seconds for option in options)
        return min((o for o in options if o.speed.seconds <= EQUAL * fastest), key=self._dislike)

    def _dislike(self, option: Option) -> tuple:
        away = abs(math.log(option.pack_tokens / self.config.train.pack_tokens))
        other = option.config != self.config.engine.config
        return option.offload, option.checkpointing, other, LIKED.index(option.stage), away

    def _memory(self, path: str, checkpointing: bool, tokens: int, micro_steps: int) -> Memory:
        kept = activations(self.shape, self.kernels(checkpointing), self.data, tokens)
        settings, devices = self.settings[path], self.devices
        return memory(self.shape, kept, settings, self.dtype, devices.count, micro_steps, devices.kind)

    def _reserve(self, need: Memory) -> float:
        if self.devices.kind == "cuda":
            return CONTEXT["cuda"] + SLACK * self.devices.memory
        return CONTEXT["cpu"] + FRAGMENTS * need.activations

    @cache  # noqa: B019 - a search lives as long as its plan is made
    def largest(self, path: str, checkpointing: bool) -> int:
        """Tokens of the largest pack that fits when a device has several a step; 0 if none does."""
        low, high = 0, MOST_TOKENS // GRAIN
        while low < high:
            middle = (low + high + 1) // 2
            need = self._memory(path, checkpointing, middle * GRAIN, 2)
            fits = self.devices.memory >= self._reserve(need) + need.peak
            low, high = (middle, high) if fits else (low, middle - 1)
        return low * GRAIN


def _simplest(fitting: list[Option]) -> list[Option]:
    """Whole weights on the device where that fits, else stage 3, else offloading: each is more communication, which
    overlaps less in reality than in a formula."""
    whole = [option for option in fitting if option.stage < 3 and not option.offload]
    return whole or [option for option in fitting if not option.offload] or fitting


def _reasons(chosen: Option, options: list[Option], search: _Search) -> tuple[str, ...]:
    def rival(**wanted) -> Option | None:
        same = [o for o in options if all(getattr(o, key) == value for key, value in wanted.items())]
        return max(same, key=lambda o: (o.fits, -o.speed.seconds), default=None)

    def verdict(option: Option) -> str:
        if not option.fits:
            return f"needs {-option.room / 1e9:.1f} GB more than there is"
        slower = option.speed.seconds / chosen.speed.seconds - 1
        return f"would be {slower:.0%} slower" if slower >= 0.005 else "would be no faster"

    others = {stage: rival(stage=stage, offload=False) for stage in (1, 2, 3) if stage != chosen.stage}
    stages = "; ".join(f"stage {stage} {verdict(option)}" for stage, option in others.items() if option)
    without = rival(offload=False)
    offload = (
        f"offload: without it the run {verdict(without)}" if chosen.offload else "no offload: the optimizer state fits"
    )
    train, ranks = search.config.train, search.devices.count
    pack = (
        f"{chosen.packs_per_step} packs of {chosen.pack_tokens:,} tokens: the recipe's step of "
        f"{train.packs_per_step * train.pack_tokens:,} tokens, {chosen.packs_per_step // ranks} a device, "
        "the fastest such packs that fit"
    )
    limit = search.largest(chosen.config, not chosen.checkpointing)
    if chosen.checkpointing:
        checkpointing = f"gradient checkpointing: without it packs above {limit:,} tokens do not fit"
    else:
        checkpointing = "no gradient checkpointing: activations fit, and computing them again would take a third more"
    return f"ZeRO stage {chosen.stage}: {stages}", offload, pack, checkpointing


def _nothing_fits(nearest: Option, devices: Devices, shape: Shape) -> UserError:
    largest = sorted(nearest.memory.parts.items(), key=lambda part: -part[1])[:2]
    named = " and ".join(f"{name} {size / 1e9:.1f} GB" for name, size in largest if size)
    return UserError(
        f"nothing fits: {nearest.config} with packs of {nearest.pack_tokens:,} tokens"
        f"{' and gradient checkpointing' if nearest.checkpointing else ''} comes nearest, and lacks "
        f"{-nearest.room / 1e9:.1f} GB on each of {devices.count} devices",
        why=f"{shape.parameters / 1e6:,.0f}M parameters; at the peak ({nearest.memory.peak_moment}) {named}, of "
        f"{devices.memory / 1e9:.1f} GB less a reserve of {nearest.reserve / 1e9:.1f} GB",
        fix="more devices, devices with more memory, a smaller data.max_length, or a smaller encoder",
    )
