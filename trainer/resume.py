"""Continuing a run: what a checkpoint says of it, what must not have changed, and going on where it was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trainer import afresh, checkpoint, distributed, engine
from trainer.config import RunConfig
from trainer.data.prepare import tokenizer_fingerprint
from trainer.errors import UserError
from trainer.model import vocabulary
from trainer.watch import alike

if TYPE_CHECKING:
    from trainer.session import Session

# What may change under a run that is continued, because no weight and no example depends on it.
HARMLESS = (
    "run",
    "log",
    "checkpoint",
    "evaluation",
    "watch",
    "data.store",
    "data.workers",
    "data.prepare",
    "task_files",
    "engine.config",  # a path; what the file says is compared
)
# What decides which examples a step has: the position in the data that a checkpoint holds is one of these.
ORDER = ("seed", "tasks", "train.packs_per_step", "train.pack_tokens")
TOKENIZER = "the tokenizer"
SETTING = "{} in engine.config"
CUT = SETTING.format("zero_optimization.sub_group_size")  # which cuts a rank's part of the optimizer's state at stage 3
# Sections and keys of the engine.config file that change how fast or where things are computed, not what.
SPEED = ("steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "flops_profiler", "comms_logger",
         "tensorboard", "wandb", "csv_monitor", "comet", "aio",
         *(f"zero_optimization.{key}" for key in (
             "overlap_comm", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "allgather_partitions",
             "allgather_bucket_size", "round_robin_gradients", "offload_param",
             "offload_optimizer.pin_memory", "offload_optimizer.buffer_count", "stage3_prefetch_bucket_size",
             "stage3_param_persistence_threshold", "stage3_model_persistence_threshold", "stage3_max_live_parameters",
             "stage3_max_reuse_distance", "stage3_gather_16bit_weights_on_model_save"))
)  # fmt: skip


def state_of(session: Session, step: int, planner: Any) -> dict[str, Any]:
    """A checkpoint's state.json, of plain values.

    Args:
        planner: its state after `step`.
    """
    return {
        "format": checkpoint.FORMAT,
        "step": step,
        "planner": planner,
        "world_size": session.world.size,
        "stage": session.engine.stage,
        "dtype": session.engine.dtype,
        "best": session.best,
        "decay": session.decay,
        "layout": parameter_layout(session),
        "examples": session.examples,
        "identity": session.identity,
        "versions": alike.versions(),
    }


def run_identity(session: Session) -> dict[str, Any]:
    """What must not change under a run that is continued, flat, by recipe key."""
    flat = _flat(session.config) | engine_settings(session.config)
    flat[TOKENIZER] = tokenizer_fingerprint(session.tokenizer)
    for name, item in session.prepared.items():
        flat[f"prepared data of {name}"] = item.train.manifest["fingerprint"]
    return flat


def engine_settings(config: RunConfig) -> dict[str, Any]:
    """What the engine.config file itself decides of a run's numbers, flat; the recipe decides the rest."""
    given, decided = engine.read_config(config.engine.config), engine.derived_settings(config, 1, "fp32", 0)
    left_out = (*SPEED, *_flatten(decided))
    return {SETTING.format(key): value for key, value in _flatten(given).items() if not _below(key, left_out)}


def parameter_layout(session: Session) -> dict[str, str]:
    """What decides the names and shapes of the trained parameters, besides the encoder and the tasks."""
    rows = vocabulary.rows_hash(vocabulary.kept_rows(session.engine.model.encoder))
    return {"layers": session.config.kernels.layers, "vocabulary rows": rows}


def continue_run(session: Session) -> str | None:
    """Restore the newest good checkpoint; the folder it was, or None for a new run. All ranks must call it.

    Raises:
        UserError: the checkpoint belongs to another recipe, other data, other steps or another stage; or its files hold
            more than numbers.
        RunError: every checkpoint is damaged.
    """
    session.identity  # noqa: B018 - worked out now, on every rank: the file of engine.config may change later
    config, world, events = session.config, session.world, session.events
    run = config.run_folder
    distributed.on_first(lambda: checkpoint.sweep(run))
    if not config.checkpoint.resume:
        if distributed.on_first(lambda: afresh.is_due(run)):
            supervisors = distributed.gather_objects(afresh.supervisor())  # torchrun has one on every node
            if aside := distributed.on_first(lambda: afresh.begin(run, supervisors)):
                events.emit("warning", message=f"the run starts afresh; its earlier checkpoints are now in {aside}")
            return None
        events.emit("warning", message="checkpoint.resume=false was obeyed at the first start, and this is another")
    folder = checkpoint.newest_good(run, lambda text: events.emit("warning", message=text), world)
    if folder is None:
        return None
    state = checkpoint.read_state(folder)
    _check_order(session, state, folder)
    _check_layout(session, state, folder)
    _check_identity(session, state, folder)
    for text in version_changes(state.get("versions", {})):
        events.emit("warning", message=f"{folder} was written with {text}; losses may differ in their last digits")
    dtype = state.get("dtype", session.engine.dtype)
    then, now = (state["world_size"], state["stage"], dtype), (world.size, session.engine.stage, session.engine.dtype)
    if then != now:
        cut = "{} processes at ZeRO stage {} in {}".format
        events.emit("warning", message=f"{folder} was written by {cut(*then)}; it is re-cut for {cut(*now)}")
    as_it_lies = then == now and CUT not in changes(state["identity"], session.identity)
    session.engine.load(folder / "engine", None if as_it_lies else dtype)
    try:
        session.planner.restore(state["planner"])
    except IndexError:  # checkpoint.accept_changes let other data pass
        why = "its place is at examples that are no longer there"
        raise UserError(f"{folder} does not fit the prepared data", why=why, fix="choose another run.name") from None
    session.first_step, session.best, session.examples = state["step"] + 1, state["best"], state["examples"]
    session.decay = state["decay"]
    events.emit("resume", step=state["step"], folder=str(folder), examples=session.examples)
    return str(folder)


def changes(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys of an identity that differ. A recipe key that an earlier version did not have stood at its default."""
    defaults = {key: value for key, value in {**_flat(RunConfig()), TOKENIZER: now[TOKENIZER]}.items() if key in now}
    saved = {**defaults, **saved}
    if not any(key.endswith(SETTING.format("")) for key in saved):  # an earlier version compared the path alone
        now = {key: value for key, value in now.items() if not key.endswith(SETTING.format(""))}
    return sorted(key for key in saved.keys() | now.keys() if _known(key) and saved.get(key) != now.get(key))


def version_changes(saved: dict[str, str]) -> list[str]:
    """ "PACKAGE THEN (now NOW)" of every package that a checkpoint was written with in another version."""
    now = alike.versions()
    return [f"{name} {then} (now {now.get(name)})" for name, then in saved.items() if now.get(name) != then]


def _check_layout(session: Session, state: dict[str, Any], folder) -> None:
    stages = state["stage"], session.engine.stage
    if stages[0] != stages[1] and 0 in stages:
        raise UserError(
            f"{folder} was written at ZeRO stage {stages[0]}, but this run is at stage {stages[1]}",
            why="stage 0 keeps the optimizer's state in a form of its own; stages 1 to 3 continue each other",
            fix="continue with the engine.config it was started with, or choose another run.name",
        )
    if state["layout"] != parameter_layout(session):
        raise UserError(
            f"the parameters in {folder} are not laid out as this run's",
            why=f"then {state['layout']}, now {parameter_layout(session)}: kernels.layers names them, model.vocabulary "
            "and the prepared data choose the embedding's rows",
            fix="undo the change, or choose another run.name",
        )


def _check_order(session: Session, state: dict[str, Any], folder) -> None:
    then, now = state["identity"], session.identity
    changed = [key for key in changes(then, now) if key in ORDER]
    if changed:
        values = "; ".join(f"{key}: {then.get(key)!r} -> {now.get(key)!r}" for key in changed)
        raise UserError(
            f"{folder} cannot be continued with another {', '.join(changed)}, whatever checkpoint.accept_changes says",
            why=f"{values}: its place in the data is one among other steps, so examples would be repeated or left out",
            fix="choose another run.name, or undo the change",
        )


def _check_identity(session: Session, state: dict[str, Any], folder) -> None:
    then, now = state["identity"], session.identity
    changed = changes(then, now)
    if changed and not session.config.checkpoint.accept_changes:
        raise UserError(
            f"{folder} belongs to another recipe or other data: {', '.join(changed)} changed",
            why="; ".join(f"{key}: {then.get(key)!r} -> {now.get(key)!r}" for key in changed[:3]),
            fix="undo the change, choose another run.name, or checkpoint.accept_changes=true",
        )


def _flat(config: RunConfig) -> dict[str, Any]:
    """A recipe's keys that matter, dotted, without sections."""
    return {key: value for key, value in _flatten(config.to_dict()).items() if _known(key)}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = [_flatten(below, f"{prefix}.{key}" if prefix else key) for key, below in value.items()]
    return {key: below for part in parts for key, below in part.items()}


def _known(key: str) -> bool:
    return not _below(key, HARMLESS)


def _below(key: str, sections: Iterable[str]) -> bool:
    return any(key == section or key.startswith(section + ".") for section in sections)
