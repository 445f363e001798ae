"""A run set up and ready: everything between a recipe and the first step."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import distributed, engine, plan
from trainer.checkpoint import room_needed
from trainer.checkpoint_writer import CheckpointWriter
from trainer.config import RunConfig, dump_recipe
from trainer.data.loader import Collator, TrainLoader
from trainer.data.masking import masking_of
from trainer.data.mixture import mixture_rates, variants_of
from trainer.data.packing import FULL, Planner, packs_of_rank
from trainer.data.prepare import Prepared, open_prepared, prepare, tasks_of
from trainer.data.stream import Stream
from trainer.distributed import World
from trainer.engine import Engine
from trainer.errors import UserError
from trainer.evaluation.dev import Scores
from trainer.events import Events, JsonLines
from trainer.export import probe_hidden_states, write_export
from trainer.model import vocabulary
from trainer.model.build import build_model, first_rows, plain_state
from trainer.model.encoder import load_tokenizer
from trainer.resume import continue_run, run_identity
from trainer.tasks import load_tasks
from trainer.tasks.spec import Task
from trainer.watch import Watch, alike
from trainer.watch.alike import check_alike


@dataclass
class Session:
    """Attributes:
    total_steps: steps of the whole run; first_step: the next one to do (1 for a new run).
    rates: task -> probability of being drawn.
    best: score and step of the best evaluation so far.
    examples: task -> units trained on so far.
    decay: product of (1 - learning rate * weight decay) so far: what untrained embedding rows are multiplied by.
    checkpoints: writes the run's checkpoints.
    """

    config: RunConfig
    world: World
    tokenizer: Any
    prepared: dict[str, Prepared]
    rates: dict[str, float]
    total_steps: int
    first_step: int
    planner: Planner
    engine: Engine
    events: Events
    watch: Watch
    best: dict[str, float]
    examples: dict[str, int]
    decay: float = 1.0

    def __post_init__(self):
        section = self.config.checkpoint
        self.checkpoints = CheckpointWriter(
            self.config.run_folder, self.world, self.events, section.keep, section.background
        )

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What must not change when the run is continued; see `run_identity`."""
        return run_identity(self)

    @property
    def tasks(self) -> dict[str, Task]:
        return tasks_of(self.prepared)

    def loader(self) -> TrainLoader:
        on_gpu = self.world.device.type == "cuda"
        stores = {name: item.train for name, item in self.prepared.items()}
        one_shape = on_gpu or self.config.kernels.compile == "on"
        constant = self.config.train.pack_tokens if one_shape else None
        masking = masking_of(self.tasks.values(), self.tokenizer, self.config.seed)
        collator = Collator(self.tasks, stores, self.tokenizer.pad_token_id, constant, masking)
        return TrainLoader(self.planner, collator, self.world.rank, self.world.size, on_gpu, self.first_step)

    def dev_collator(self) -> Collator:
        return dev_collator(self.prepared, self.tokenizer)

    def export(self, out: Path, scores: Scores | None = None) -> Path:
        """Write the live model as a plain Hugging Face folder; all ranks must call it."""
        self.watch.beat("export")
        state, probe = self.engine.full_state(), probe_hidden_states(self)
        encoder = self.engine.model.encoder
        what = (encoder.config, self.tokenizer, self.tasks, self.config, probe, self.engine.dtype, scores)
        kept = vocabulary.kept_rows(encoder)

        def write() -> float:
            plain = plain_state(state, kept, self.decay, None if kept is None else first_rows(self.config))
            return write_export(out, plain, *what, self.total_steps)

        difference = distributed.on_first(write)
        self.events.emit("export", step=self.total_steps, path=str(out), difference=difference)
        return out


def open_session(
    config: RunConfig, sinks: Callable[[int], list], progress: Callable[[str, int], None] | None = None
) -> Session:
    """Join the ranks, open the data, build the model, continue from the newest checkpoint; inside of `joined`.

    Args:
        sinks: total steps -> event sinks of rank 0 besides events.jsonl.
        progress: told what `prepare` does, when the recipe has it prepare first.

    Raises:
        UserError: anything that would make the run fail or differ from what the recipe says.
    """
    world = engine.start()
    config, planned = plan.apply(config, world)
    packs_of_rank(config.train.packs_per_step, world.rank, world.size)
    dtype = engine.choose_dtype(config, world.device)
    engine.derive_config(config, world.size, dtype)
    if config.train.deterministic:
        torch.use_deterministic_algorithms(True)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.autograd.set_detect_anomaly(config.train.detect_anomaly)

    tasks = load_tasks(config)
    distributed.on_first(lambda: load_tokenizer(config) and None)  # downloaded, or made, by one process
    tokenizer = load_tokenizer(config)
    if config.data.prepare == "auto":
        distributed.on_first(lambda: prepare(config, tasks, tokenizer, progress))
    prepared = open_prepared(config, tasks, tokenizer)
    check_alike(alike.data(prepared), "the same prepared data")
    rates, total_steps = resolve_mixture(config, prepared)
    planner = make_planner(config, prepared, rates)

    model, report, notes = build_model(config, prepared, tokenizer, world.device, dtype)
    run = config.run_folder
    distributed.on_first(lambda: check_room(run, sum(p.numel() for p in model.parameters()), config.checkpoint.keep))
    live = Engine(model, config, world, dtype)
    events = _open_events(run, sinks(total_steps)) if world.first else Events([])
    watch = Watch(config, world, events, prepared, dtype)
    watch.start()
    live.beat = watch.beat
    examples = dict.fromkeys(prepared, 0)
    session = Session(
        config, world, tokenizer, prepared, rates, total_steps, 1, planner, live, events, watch, {}, examples
    )
    continued = continue_run(session)
    if world.first:
        dump_recipe(config, run / "recipe.yaml")
    events.emit(
        "start",
        total_steps=total_steps,
        first_step=session.first_step,
        tasks=list(prepared),
        rates=rates,
        world_size=world.size,
        stage=live.stage,
        dtype=dtype,
        device=str(world.device.type),
        run_folder=str(run),
        packs_per_step=config.train.packs_per_step,
        pack_tokens=config.train.pack_tokens,
        encoder_keys=dataclasses.asdict(report),
        notes=[*planned, str(report), *notes, *live.notes, *([f"continued from {continued}"] if continued else [])],
    )
    return session


def dev_collator(prepared: Mapping[str, Prepared], tokenizer) -> Collator:
    """Builds batches of the dev splits."""
    tasks, stores = tasks_of(prepared), {name: item.dev for name, item in prepared.items()}
    return Collator(tasks, stores, tokenizer.pad_token_id, None, masking_of(tasks.values(), tokenizer, seed=0))


def resolve_mixture(config: RunConfig, prepared: Mapping[str, Prepared]) -> tuple[dict[str, float], int]:
    """Rates of the tasks, and the number of steps (from the recipe's epochs when it says no steps)."""
    sizes = {name: len(item.train) for name, item in prepared.items()}
    per_unit = {name: item.train.tokens.mean() for name, item in prepared.items() if len(item.train)}
    tokens_a_step = config.train.packs_per_step * config.train.pack_tokens * FULL
    steps = config.train.steps
    if steps is None:
        total = sum(int(item.train.tokens.sum()) for item in prepared.values())
        steps = math.ceil(config.train.epochs * total / tokens_a_step)
    variants = variants_of(tasks_of(prepared).values())
    rates = mixture_rates(sizes, config.mixture, variants=variants)
    if config.mixture.strategy == "unimax":
        for _ in range(50):  # the budget in units depends on the rates' mean length, and the rates on the budget
            budget = steps * tokens_a_step / sum(rates[name] * per_unit[name] for name in sizes)
            rates = mixture_rates(sizes, config.mixture, budget, variants)
    return rates, steps


def make_planner(config: RunConfig, prepared: Mapping[str, Prepared], rates: Mapping[str, float]) -> Planner:
    sizes = {name: len(item.train) for name, item in prepared.items()}
    stream = Stream(sizes, rates, config.seed)
    return Planner(
        stream, [item.train.tokens for item in prepared.values()], config.train.pack_tokens, config.train.packs_per_step
    )


def check_room(run: Path, parameters: int, keep: int) -> None:
    """Before any time is spent: the run folder can be written, and its disk holds the checkpoints."""
    try:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = run / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"run folder {run} cannot be written", why=str(error), fix="run.folder=FOLDER elsewhere"
        ) from None
    needed, free = room_needed(run, parameters, keep), shutil.disk_usage(run).free
    if free < needed:
        raise UserError(
            f"the disk of {run} has {free / 1e9:.1f} GB free, but its checkpoints need {needed / 1e9:.1f} GB",
            why=f"{parameters:,} parameters at about 16 bytes, {keep} checkpoints kept and one being written",
            fix="run.folder=FOLDER on a larger disk, or a smaller checkpoint.keep",
        )


def _open_events(run: Path, sinks: list) -> Events:
    lines = JsonLines(run / "events.jsonl")
    events = Events([lines, *sinks])
    if lines.torn_bytes:
        events.emit("warning", message=f"a half-written line ({lines.torn_bytes} bytes) was cut off events.jsonl")
    return events


def replace_section(config: RunConfig, section: str, **changes: Any) -> RunConfig:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})
