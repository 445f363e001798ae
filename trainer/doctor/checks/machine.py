"""Hosts answer, have the same software, and the same devices."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import trainer
from trainer.doctor.cluster import IMPORTS, Cluster
from trainer.doctor.registry import Finding, check, failure, passed, question, warning
from trainer.errors import UserError

# Of these a difference is only said: weights, batches and messages between processes do not depend on it.
HARMLESS_PACKAGES = ("datasets", "pyarrow", "safetensors")
HARMLESS = ("python patch", "driver", *HARMLESS_PACKAGES)
BUSY = 0.05  # share of a GPU's memory that others may hold without a warning


@check("hosts")
def hosts(cluster: Cluster) -> Iterator[Finding]:
    """every host answers"""
    answers = cluster.ask(hello)
    yield from answers.failures()
    cluster.drop(answers.errors)
    if answers:
        yield passed(", ".join(answers))


@question
def hello() -> str:
    return platform.node()


@check("versions")
def versions(cluster: Cluster) -> Iterator[Finding]:
    """every host has the same software"""
    answers = cluster.ask(installed, timeout=IMPORTS)
    yield from answers.failures()
    if not answers:
        return
    found = {host: answer["versions"] for host, answer in answers.items()}
    agree = True
    for part in next(iter(found.values())):
        for finding in _differences(cluster, part, {host: parts.get(part) for host, parts in found.items()}):
            agree = False
            yield finding
    for host, answer in answers.items():
        for wanted, has in answer["unmet"].items():
            agree = False
            fix = cluster.on(host, f"{sys.executable} -m pip install '{wanted}'")
            yield failure(f"{host} has {has or 'none'} of {wanted}, which xstilts needs", fix)
    if agree:
        shown = found[next(iter(found))]
        names = ("xstilts", "python", "torch", "deepspeed", "transformers", "CUDA", "NCCL")
        yield passed(", ".join(f"{name} {shown[name]}" for name in names if shown[name]), versions=shown)


def _differences(cluster: Cluster, part: str, found: Mapping[str, str | None]) -> Iterator[Finding]:
    """A finding for each host whose version is not that of most hosts (of the first ones, where as many differ)."""
    from trainer.watch.alike import PACKAGES

    common = Counter(found.values()).most_common(1)[0][0]
    for host, version in found.items():
        if version == common:
            continue
        says = f"{part} differs: {host} has {version or 'none'}, {_most(found, common)} {common or 'none'}"
        if part in (*PACKAGES, *HARMLESS_PACKAGES) and common:
            fix = cluster.on(host, f"{sys.executable} -m pip install {part}=={common}")
        elif part == "xstilts":
            like = next(name for name, value in found.items() if value == common)
            root = Path(trainer.__file__).parents[1]
            fix = f"bring {root} on {host} to the state of {like}'s, e.g. by git pull or rsync"
        else:
            fix = f"install on {host} what the others have"
        yield (warning if part in HARMLESS else failure)(says, fix)


def _most(found: Mapping[str, Any], common: Any) -> str:
    same = [host for host, value in found.items() if value == common]
    return same[0] if len(same) == 1 else f"the other {len(same)}"


@question
def installed() -> dict[str, Any]:
    """Versions by name (None: not there), and requirements of this package that are not met, with what is there."""
    import torch

    from trainer.watch import alike

    versions = {**alike.versions(), "python patch": platform.python_version().rsplit(".", 1)[1]}
    versions |= {name: alike.installed(name) for name in HARMLESS_PACKAGES}
    nccl = torch.cuda.nccl.version() if torch.cuda.is_available() else None
    versions |= {"CUDA": torch.version.cuda, "NCCL": nccl and ".".join(map(str, nccl)), "driver": _driver()}
    return {"versions": versions, "unmet": _unmet()}


def _driver() -> str | None:
    file = Path("/proc/driver/nvidia/version")
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", file.read_text()) if file.is_file() else None
    return found and found[1]


def _unmet() -> dict[str, str | None]:
    from packaging.requirements import Requirement  # transformers needs it, too

    from trainer.watch.alike import installed as version_of

    try:
        wanted = [Requirement(text) for text in metadata.requires("xstilts") or ()]
    except metadata.PackageNotFoundError:  # run from its folder, without being installed
        return {}
    found = {wish: version_of(wish.name) for wish in wanted if wish.marker is None or wish.marker.evaluate()}
    return {
        f"{wish.name}{wish.specifier}": has
        for wish, has in found.items()
        if has is None or not wish.specifier.contains(has, prereleases=True)
    }


@check("devices")
def compare_devices(cluster: Cluster) -> Iterator[Finding]:
    """every host has the same GPUs, free and as many as its slots"""
    yield from cluster.devices.failures()
    found = dict(cluster.devices)
    if not found:
        return
    problems = [
        *_unequal(cluster, found),
        *(finding for host in found for finding in _usable(cluster, host, found[host])),
    ]
    yield from problems
    if not problems:
        first = next(iter(found.values()))
        each = f" on each of {len(found)} hosts" if len(found) > 1 else ""
        yield passed(f"{_said(first)}{each}, {first['memory'] / 1e9:.0f} GB of memory free", devices=found)


def _unequal(cluster: Cluster, found: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    said = {host: _kind(answer) for host, answer in found.items()}
    common = Counter(said.values()).most_common(1)[0][0]
    for host, devices in said.items():
        if devices != common:
            says = f"devices differ: {host} has {devices}, {_most(said, common)} {common}"
            if "no GPU" in (devices, common):  # gloo and NCCL do not talk to each other
                yield failure(says, f"{cluster.on(host, 'nvidia-smi')}; or take {host} out of the hostfile")
            else:
                fix = f"xstilts plan RECIPE for the smallest, or take {host} out of the hostfile"
                yield warning(f"{says}: the slowest and smallest decides", fix)


def _usable(cluster: Cluster, host: str, answer: Mapping[str, Any]) -> Iterator[Finding]:
    gpus, slots = answer["gpus"], cluster.slots(host)
    option = "--processes " if cluster.local_processes else "slots="
    if answer["hidden"]:
        yield failure(f"{answer['hidden']['what']} ({answer['hidden']['why']})", answer["hidden"]["fix"])
    if gpus and slots > len(gpus):
        yield failure(f"{slots} processes are to run on {host}, but it has {len(gpus)} GPUs", f"{option}{len(gpus)}")
    if not gpus and slots > answer["cores"]:
        says = f"{slots} processes are to run on the {answer['cores']} cores of {host}"
        yield warning(says, f"{option}{answer['cores']} or fewer")
    for number, gpu in enumerate(gpus):
        if gpu["used"] is not None and gpu["used"] > BUSY * gpu["memory"]:
            says = (
                f"GPU {number} of {host} is in use: {gpu['used'] / 1e9:.1f} of {gpu['memory'] / 1e9:.1f} GB are taken"
            )
            yield warning(says, cluster.on(host, "nvidia-smi"))


def _kind(answer: Mapping[str, Any]) -> str:
    gpus = Counter(f"{gpu['name']} of {gpu['memory'] / 1e9:.0f} GB" for gpu in answer["gpus"])
    return ", ".join(f"{count} x {name}" for name, count in gpus.items()) or "no GPU"


def _said(answer: Mapping[str, Any]) -> str:
    return _kind(answer) if answer["gpus"] else f"no GPU, {answer['cores']} cores"


@question
def devices() -> dict[str, Any]:
    """GPUs (name, bytes of memory, bytes used, compute capability), cores, free bytes of memory; of GPUs that are
    `hidden` from torch: what, why and the next command."""
    import torch

    from trainer.gpus import check_seen, gpus_of_node
    from trainer.host import available_cores
    from trainer.plan.devices import available_memory

    used = _used_memory()
    gpus = []
    for number in range(gpus_of_node()):
        gpu = torch.cuda.get_device_properties(number)
        taken = next((size for name, size in used.items() if str(gpu.uuid) in name), None)
        capability = [gpu.major, gpu.minor]
        gpus.append({"name": gpu.name, "memory": gpu.total_memory, "used": taken, "capability": capability})
    hidden = None
    try:
        check_seen()
    except UserError as error:
        hidden = {"what": error.what, "why": error.why, "fix": error.fix}
    return {"gpus": gpus, "cores": available_cores(), "memory": available_memory(), "hidden": hidden}


def _used_memory() -> dict[str, int]:
    """uuid of a GPU -> bytes in use, without a context of this process's own on it."""
    if not shutil.which("nvidia-smi"):
        return {}
    query = ["nvidia-smi", "--query-gpu=uuid,memory.used", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.splitlines()
    rows = [line.split(", ") for line in lines if line.count(", ") == 1]
    return {uuid: int(used) * 2**20 for uuid, used in rows if used.isdigit()}
