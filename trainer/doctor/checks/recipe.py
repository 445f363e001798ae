"""The recipe suits the devices, and fits their memory and the disk."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from trainer.config import RunConfig, load_recipe
from trainer.doctor.checks.storage import nearest_folder
from trainer.doctor.cluster import Cluster
from trainer.doctor.registry import Finding, Skipped, check, failure, passed, question, warning
from trainer.errors import UserError
from trainer.gpus import gpus_of_node


@cache
def read(recipe: str, overrides: tuple[str, ...]) -> RunConfig:
    """The recipe, as this host reads it; its errors are the questions'."""
    return load_recipe(recipe, overrides)


def device_here():
    """The torch.device of a run's first process on this host."""
    import torch

    return torch.device("cuda", 0) if gpus_of_node() else torch.device("cpu")


@check("recipe", needs_recipe=True)
def recipe(cluster: Cluster) -> Iterator[Finding]:
    """the recipe suits the devices"""
    answers = cluster.ask_recipe(suits, processes=cluster.processes)
    yield from answers.failures()
    problems = [(host, *problem) for host, answer in answers.items() for problem in answer["problems"]]
    for says, (fatal, fix, hosts) in _by_text(problems).items():
        where = "" if len(hosts) == len(cluster.names) else f"{', '.join(hosts)}: "
        yield (failure if fatal else warning)(f"{where}{says}", fix)
    if answers and not (problems or answers.errors):
        found = answers[next(iter(answers))]
        says = f"{found['config']}, {found['dtype']}, attention {found['attention']} on {found['device']}"
        yield passed(f"{cluster.processes} {'process' if cluster.processes == 1 else 'processes'} of {says}")


def _by_text(problems) -> dict[str, tuple[bool, str, list[str]]]:
    """What hosts say alike, once."""
    found: dict[str, tuple[bool, str, list[str]]] = {}
    for host, fatal, says, fix in problems:
        found.setdefault(says, (fatal, fix, []))[2].append(host)
    return found


@question
def suits(recipe: str, overrides: list[str], processes: int) -> dict[str, Any]:
    """What a run would choose on this host, and its `problems`: whether fatal, what, next command."""
    import torch

    from trainer import engine
    from trainer.data.packing import packs_of_rank
    from trainer.model.attention import choose_attention

    config, device = read(recipe, tuple(overrides)), device_here()
    problems: list[tuple[bool, str, str]] = []

    def attempt(choose: Callable[[], Any]) -> Any:
        try:
            return choose()
        except UserError as error:
            problems.append((True, f"{error.what}{f' ({error.why})' if error.why else ''}", error.fix))

    settings = engine.read_config(config.engine.config)
    dtype = attempt(lambda: engine.choose_dtype(config, device))
    attention = None
    if dtype:
        attention = attempt(lambda: choose_attention(config.kernels.attention, device, engine.DTYPES[dtype])[0])
        attempt(lambda: engine.derive_config(config, processes, dtype))
    if config.engine.plan == "off":
        attempt(lambda: packs_of_rank(config.train.packs_per_step, 0, processes))
    offloads = [key for key in settings["zero_optimization"] if key.startswith("offload_")]
    if device.type == "cpu" and offloads:
        says = f"{config.engine.config} offloads to host memory, where a CPU run has everything anyway"
        problems.append((False, says, f"engine.config=ds_configs/zero{settings['zero_optimization']['stage']}.json"))
    if device.type == "cuda" and dtype == "fp32":
        problems.append((False, "engine.dtype is fp32 on a GPU, which is several times slower", "engine.dtype=auto"))
    if device.type == "cuda" and dtype == "bf16" and torch.cuda.get_device_capability(device) < (8, 0):
        says = f"engine.dtype is bf16, which {torch.cuda.get_device_name(device)} only emulates, slowly"
        problems.append((False, says, "engine.dtype=fp16"))
    chosen = {"config": config.engine.config, "dtype": dtype, "attention": attention, "device": device.type}
    return {**chosen, "problems": problems}


@check("memory", needs_recipe=True)
def memory(cluster: Cluster) -> Iterator[Finding]:
    """the recipe fits the devices' memory, its checkpoints the disk"""
    smallest = _smallest(cluster)
    answers = cluster.ask_recipe(needs, of=[cluster.first], processes=cluster.processes, **smallest)
    for error in answers.errors.values():
        raise error
    found = answers[cluster.first]
    device, total, have = smallest["device"], found["peak"] + found["reserve"], smallest["memory"]
    unit = "GPU" if device == "cuda" else "process"
    parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in found["parts"].items() if size >= 5e7)
    says = (
        f"{total / 1e9:.1f} GB of {have / 1e9:.1f} GB a {unit} ({parts or 'little'}; reserve {_gb(found['reserve'])})"
    )
    figures = {"peak_bytes": found["peak"], "reserve_bytes": found["reserve"], "memory_bytes": have}
    see = f"xstilts plan {cluster.recipe[0]} shows what fits; engine.plan=auto takes it"
    if total > have:
        yield failure(f"does not fit: {says}", see, **figures)
    else:
        yield passed(says, **figures)
    kept, room = found["keep"], found["room"]
    if found["free"] < room:
        says = (
            f"the disk of {found['folder']} has {_gb(found['free'])} GB free, {kept + 1} checkpoints need {_gb(room)}"
        )
        yield failure(says, "run.folder=FOLDER on a larger disk, or a smaller checkpoint.keep")


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}"


def _smallest(cluster: Cluster) -> dict[str, Any]:
    """Kind and bytes of the device with the least memory."""
    devices = dict(cluster.devices)
    if not devices:
        raise Skipped("the devices are not known")
    gpus = [gpu["memory"] for answer in devices.values() for gpu in answer["gpus"]]
    if gpus:
        return {"device": "cuda", "memory": min(gpus)}
    return {"device": "cpu", "memory": min(answer["memory"] / cluster.slots(host) for host, answer in devices.items())}


@question
def needs(recipe: str, overrides: list[str], processes: int, device: str, memory: float) -> dict[str, Any]:
    """Bytes that a run takes of a device at its peak, by part, and of the disk for a checkpoint."""
    from trainer import plan
    from trainer.checkpoint import room_needed
    from trainer.plan.automatic import values_of
    from trainer.plan.choose import CONTEXT, FRAGMENTS, SLACK

    config = read(recipe, tuple(overrides))
    if config.engine.plan == "auto":
        for section, values in values_of(plan.make_plan(config, plan.seen_devices(processes))).items():
            config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})
    shape, need = plan.need(config, device, processes)
    fragments = SLACK * memory if device == "cuda" else FRAGMENTS * need.activations
    folder = nearest_folder(str(config.run_folder))
    return {
        "peak": need.peak,
        "reserve": CONTEXT[device] + fragments,
        "parts": need.parts,
        "room": room_needed(config.run_folder, shape.parameters, config.checkpoint.keep),
        "keep": config.checkpoint.keep,
        "folder": folder,
        "free": shutil.disk_usage(folder).free,
    }
