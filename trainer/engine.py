"""The engine: DeepSpeed, and the only module that imports it.

A file of ds_configs/ says how to run (stage, offload, buckets); the recipe says what to compute. The engine overlays
what the recipe derives and refuses a file that contradicts it, so that no number lives in two places.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer import distributed, host
from trainer.config import RunConfig
from trainer.data.loader import PackedBatch
from trainer.distributed import World
from trainer.engine_parts.recut import recut
from trainer.engine_parts.shards import Shards, full_state
from trainer.errors import UserError
from trainer.model.multitask import MultiTaskModel

if TYPE_CHECKING:
    from trainer.engine_parts.snapshot import Snapshot

BROKEN = [f"0.18.{n}" for n in range(3, 10)] + [f"0.19.{n}" for n in range(4)]  # wrong bf16 gradients (DeepSpeed #8224)
TRIM_EVERY = 20  # steps, on a CPU
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_dtype(config: RunConfig, device: torch.device) -> str:
    """The dtype parameters and activations have: the recipe's, or bf16 on GPUs and fp32 on CPUs.

    Raises:
        UserError: fp16 on a CPU; bf16 on a GPU without it.
    """
    dtype = config.engine.dtype
    if dtype == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if dtype == "fp16" and device.type == "cpu":
        raise UserError(
            "engine.dtype is fp16, but this run is on a CPU",
            why="CPU kernels for fp16 are missing or slow, and loss scaling buys nothing there",
            fix="engine.dtype=fp32 (or bf16)",
        )
    if dtype == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("engine.dtype is bf16, which this GPU does not support", fix="engine.dtype=fp16")
    return dtype


def read_config(path: str) -> dict[str, Any]:
    """A DeepSpeed JSON file.

    Raises:
        UserError: missing, not JSON, or without a ZeRO stage.
    """
    file = Path(path)
    if not file.is_file():
        below = Path(__file__).resolve().parents[1] / path  # recipes name ds_configs/ from any working directory
        file = below if below.is_file() else file
    try:
        settings = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"cannot read engine.config {path}", why=str(error), fix="ls ds_configs/") from None
    except json.JSONDecodeError as error:
        raise UserError(f"engine.config {path} is not valid JSON", why=str(error)) from None
    if settings.get("zero_optimization", {}).get("stage") not in (0, 1, 2, 3):
        raise UserError(f"engine.config {path} has no zero_optimization.stage of 0, 1, 2 or 3")
    return settings


def stage_of(config: RunConfig) -> int:
    """The ZeRO stage of a recipe's engine.config."""
    return read_config(config.engine.config)["zero_optimization"]["stage"]


def derive_config(config: RunConfig, world_size: int, dtype: str) -> dict[str, Any]:
    """The whole DeepSpeed configuration of a run: the file's settings and what the recipe derives.

    Raises:
        UserError: the file sets what the recipe decides to something else, the dtype and stage do not go together,
            or checkpoints could not be continued.
    """
    settings = read_config(config.engine.config)
    stage = settings["zero_optimization"]["stage"]
    offload = "offload_optimizer" in settings["zero_optimization"]
    if stage == 0 and dtype == "fp16":
        raise UserError(
            "engine.dtype is fp16 with ZeRO stage 0",
            why="DeepSpeed accumulates gradients in fp16 there, which overflows where stages 1-3 do not",
            fix="engine.config=ds_configs/zero1.json, or engine.dtype=bf16",
        )
    if settings["zero_optimization"].get("round_robin_gradients"):
        raise UserError(
            f"{config.engine.config} sets zero_optimization.round_robin_gradients",
            why="DeepSpeed's map of its optimizer's state does not follow it: a checkpoint would be re-cut wrongly",
            fix=f"delete it from {config.engine.config}",
        )
    for key, value in derived_settings(config, world_size, dtype, stage).items():
        given = settings.get(key, value)
        for part in value if isinstance(value, dict) else [None]:
            want, have = (value, given) if part is None else (value[part], given.get(part, value[part]))
            if have not in (want, "auto"):
                name = key if part is None else f"{key}.{part}"
                raise UserError(
                    f"{config.engine.config} sets {name} to {have!r}, but the recipe makes it {want!r}",
                    why="two places would decide one thing",
                    fix=f'delete {name} from {config.engine.config}, or set it to "auto"',
                )
        settings[key] = {**given, **value} if isinstance(value, dict) else value
    for key in ("optimizer", "scheduler"):
        if key in settings:
            raise UserError(
                f"{config.engine.config} has a section {key!r}, but the recipe decides it",
                fix=f"delete it from {config.engine.config} and set train.learning_rate, train.schedule, ... instead",
            )
    if offload:
        settings["zero_force_ds_cpu_optimizer"] = True
    return settings


def derived_settings(config: RunConfig, world_size: int, dtype: str, stage: int) -> dict[str, Any]:
    """What the recipe decides of a DeepSpeed configuration."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # one pack
        "gradient_accumulation_steps": config.train.packs_per_step // world_size,
        "train_batch_size": config.train.packs_per_step,
        "gradient_clipping": config.train.clip,
        # In every other case DeepSpeed drops a step whose gradient is not finite without being told to.
        "bf16": {"enabled": dtype == "bf16", "check_grad_overflow": True},
        "fp16": {"enabled": dtype == "fp16"},
        # Stage 0 can only accumulate in the parameters' dtype; elsewhere fp32, which loses nothing over many packs.
        "data_types": {"grad_accum_dtype": dtype if stage == 0 else "fp32"},
    }


def start(seconds: int = 1800) -> World:
    """Join the process group (gloo on CPUs, NCCL on GPUs) and say who this process is."""
    from datetime import timedelta

    distributed.complete_environment()
    world = World.from_environment()
    distributed.bind_gloo(world)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        host.use_cpu_well(world.local_size)
    _quiet_deepspeed()
    import deepspeed

    if deepspeed.__version__ in BROKEN:
        raise UserError(
            f"DeepSpeed {deepspeed.__version__} gives wrong bf16 gradients for shared modules (DeepSpeed #8224)",
            fix="pip install 'deepspeed>=0.19.4'",
        )
    # Only DeepSpeed's inference uses this kernel, which each process would compile, probe the machine for (with the
    # linker's complaints on the terminal) and leave 69 MB of in /dev/shm.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, timeout=timedelta(seconds=seconds), verbose=False)
    return world


class Engine:
    """A model under DeepSpeed.

    Attributes:
        notes: choices made on the way, each said once to the user.
        stage: the ZeRO stage; dtype: bf16, fp16 or fp32.
        beat: told the phase and pack that a step is in.
        forward_seconds: of a step's first forward pass (on a GPU, of the step before); 0 at stage 3, where it waits for
            other ranks.
    """

    def __init__(self, model: MultiTaskModel, config: RunConfig, world: World, dtype: str):
        import deepspeed

        from trainer.engine_parts.snapshot import SnapshotEngine

        settings = derive_config(config, world.size, dtype)
        self.config, self.world, self.dtype = config, world, dtype
        self.stage = settings["zero_optimization"]["stage"]
        self.notes: list[str] = []
        self.beat: Callable[..., None] = lambda phase, pack=None: None
        self.forward_seconds, self._pack, self._timer = 0.0, 0, Stopwatch(world.device)
        self.accumulation = settings["gradient_accumulation_steps"]
        optimizer = self._optimizer(model, "offload_optimizer" in settings["zero_optimization"])
        self.model = model
        # In the dtype DeepSpeed would convert it to: an fp32 copy of a large model would be the peak of a GPU's memory.
        model.to(world.device, DTYPES[dtype]).train()  # transformers hands encoders over in evaluation mode
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=settings, dist_init_required=False
        )
        if self.stage == 0 and dtype != "fp32" and self.accumulation > 1:
            self.notes.append(
                f"stage 0 adds up the gradients of {self.accumulation} packs in {dtype}; stages 1 to 3 do in fp32"
            )
        self.engine.checkpoint_engine = SnapshotEngine()
        self.engine._copy_recovery_script = lambda folder: None  # a checkpoint holds no program
        kind = type(self.engine.optimizer).__name__
        fused = " (fused)" if optimizer.defaults.get("fused") else ""
        self.notes.append(
            f"optimizer: {type(optimizer).__name__}{fused} under {kind}, ZeRO stage {self.stage}, {dtype}"
        )

    def _optimizer(self, model: torch.nn.Module, offload: bool) -> torch.optim.Optimizer:
        train = self.config.train
        kept, decayed = [], []
        for name, parameter in model.named_parameters():
            no_decay = name.endswith("bias") or "LayerNorm" in name or "layer_norm" in name
            (kept if no_decay else decayed).append(parameter)
        groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": kept, "weight_decay": 0.0}]
        settings = {"lr": train.learning_rate, "betas": train.betas, "eps": train.epsilon}
        if offload:
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            return DeepSpeedCPUAdam(groups, **settings, adamw_mode=True)
        # torch's own fused kernel: as fast as DeepSpeed's, and nothing to compile at the first step.
        return torch.optim.AdamW(groups, **settings, fused=True)

    def micro_step(self, batch: PackedBatch, factors: Mapping[str, float], step: int) -> torch.Tensor:
        """Forward and backward of one pack; the loss sums by task (tasks,), detached.

        Dropout is seeded by (seed, step, pack): it does not depend on the rank that computes it.
        """
        torch.manual_seed(_pack_seed(self.config.seed, step, batch.number))
        packs = self.config.train.packs_per_step
        self.beat("forward", pack=self._pack)
        if self._pack == 0 and self.stage < 3:
            self.forward_seconds = self._timer.start()
        # DeepSpeed averages over ranks and micro-steps; the factors already divide by the step's global count.
        loss, sums = self.engine(batch, {task: factor * packs for task, factor in factors.items()})
        if self._pack == 0 and self.stage < 3:
            self.forward_seconds = self._timer.stop() or self.forward_seconds
        self.beat("backward")
        # An infinite loss can have finite gradients. Times NaN they are not, and DeepSpeed drops the step.
        self.engine.backward(loss * (1 + 0 * loss.detach()))
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()
        self._pack += 1
        return sums

    def step(self, learning_rate: float) -> float | torch.Tensor:
        """The optimizer step that ends the last micro-step; gives the gradient norm before clipping, on the device
        where DeepSpeed leaves it there."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = None
        if self.stage == 0 and self.dtype == "fp32":  # the one case in which DeepSpeed clips without keeping the norm
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters()])
        self.beat("update")
        self._pack = 0
        if norm is None or norm.isfinite():
            self.engine.step()
        else:
            self._step_without_update()
        if self.world.device.type == "cpu" and self.engine.global_steps % TRIM_EVERY == 0:
            host.release_free_memory()
        return self.engine.get_global_grad_norm() if norm is None else norm

    def _step_without_update(self) -> None:
        """What DeepSpeed does with a gradient that is not finite, where it leaves that to torch's optimizer."""
        optimizer = self.engine.optimizer
        optimizer.step = lambda *args, **kwargs: None
        self.engine.step()
        del optimizer.step
        self.engine.skipped_steps += 1

    def logits(self, batch: PackedBatch) -> dict[str, torch.Tensor]:
        """Task logits of a pack, without gradients. Every rank must call it equally often (ZeRO-3 gathers weights)."""
        self.engine.eval()
        with torch.no_grad():
            logits = self.engine(batch)
        self.engine.train()
        return logits

    def hidden_states(self, batch: PackedBatch) -> torch.Tensor:
        """Last hidden states (T, H) of a pack, in fp32; every rank must call it equally often."""
        self.engine.eval()
        with torch.no_grad():
            hidden = self.engine(batch, hidden_only=True).float()
        self.engine.train()
        return hidden

    def skipped_steps(self) -> int:
        """Steps without an update, because the gradient was not finite; the same on all ranks."""
        return self.engine.skipped_steps

    def snapshot(self, folder: Path) -> Snapshot:
        """A copy of this rank's part of the training state, for files below `folder`, which itself is not touched; all
        ranks must call it."""
        self.engine.save_checkpoint(str(folder), tag="state", save_latest=False)
        return self.engine.checkpoint_engine.take()

    def load(self, folder: Path, recut_from: str | None = None) -> None:
        """Restore what was written of `snapshot`; all ranks must call it.

        Args:
            recut_from: None when world size, stage and dtype are those of the run that wrote it; else its dtype.
                Stage 0, of which every rank has all, is loaded alike at any world size; it continues no other stage.
        """
        if recut_from is not None and self.stage > 0:
            shards = Shards(folder / "state")
            recut(self.engine, shards, self.world.rank, self.world.size, recut_from == self.dtype)
            return
        path, _ = self.engine.load_checkpoint(str(folder), tag="state")
        if path is None:
            raise UserError(f"DeepSpeed could not load {folder}", fix="checkpoint.resume=false starts the run afresh")

    def full_state(self) -> dict[str, torch.Tensor]:
        """The fp32 weights of the whole model on the CPU of rank 0 (empty elsewhere), valid until the next step; all
        ranks must call it."""
        from deepspeed.utils import safe_get_full_fp32_param

        state = {}
        for name, parameter in self.engine.module.named_parameters():
            if self.stage == 0 or (self.dtype == "fp32" and self.stage < 3):
                value = parameter.detach()
            else:
                value = safe_get_full_fp32_param(parameter)
            if self.world.first:
                state[name] = value.to("cpu", torch.float32)
        return state

    def full_gradients(self) -> dict[str, torch.Tensor]:
        """The step's gradients before clipping, fp32 on the CPU, between its last micro-step and `step`; all ranks must
        call it, and every rank gets them."""
        from deepspeed.utils import safe_get_full_grad

        gradients = {}
        for name, parameter in self.engine.module.named_parameters():
            gradient = parameter.grad if self.stage == 0 else safe_get_full_grad(parameter)
            gradients[name] = gradient.detach().to("cpu", torch.float32, copy=True)
        return gradients

    def memory_bytes(self) -> int:
        """Peak memory of this rank: allocated on the GPU, or resident on a CPU."""
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device)
        return host.peak_resident_bytes()


class Stopwatch:
    """Seconds between `start` and `stop` on the device; a GPU's are known later, and given by the next `start`."""

    def __init__(self, device: torch.device):
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else None
        self.began, self.used = 0.0, False

    def start(self) -> float:
        """The GPU's seconds of last time, 0 at first and on a CPU."""
        self.began, seconds = time.monotonic(), 0.0
        if self.events:
            seconds = self.events[0].elapsed_time(self.events[1]) / 1e3 if self.used else 0.0
            self.events[0].record()
        self.used = True
        return seconds

    def stop(self) -> float | None:
        """The CPU's seconds; None on a GPU."""
        if self.events:
            self.events[1].record()
            return None
        return time.monotonic() - self.began


def full_state_of_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """The fp32 weights in a checkpoint's `engine` folder, put together without a process group."""
    _quiet_deepspeed()
    return full_state(folder / "state")


def _pack_seed(seed: int, step: int, pack: int) -> int:
    """A well-mixed seed (splitmix64) of three counters."""
    mixed = 0
    for part in (seed, step, pack):
        mixed = (mixed + part + 0x9E3779B97F4A7C15) & (2**64 - 1)
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        mixed ^= mixed >> 31
    return mixed >> 1  # torch takes 63 bits


def _quiet_deepspeed() -> None:
    """DeepSpeed logs dozens of lines at start; what users need of them is in the run's own notes."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
