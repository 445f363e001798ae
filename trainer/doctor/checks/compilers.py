"""What the recipe has compiled on each host: DeepSpeed's operations, and torch.compile's kernels."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.doctor.checks.recipe import device_here, read
from trainer.doctor.cluster import Cluster
from trainer.doctor.registry import Finding, Skipped, check, failure, passed, question, warning

BUILDERS = {"cpu_adam": "CPUAdamBuilder", "async_io": "AsyncIOBuilder"}
BUILD = "from deepspeed.accelerator import get_accelerator; get_accelerator().create_op_builder({!r}).load()"


@check("compiled code", needs_recipe=True)
def compiled_code(cluster: Cluster) -> Iterator[Finding]:
    """what the recipe needs compiled is built, or can be"""
    answers = cluster.ask_recipe(builds)
    yield from answers.failures()
    wanted = sorted({op for answer in answers.values() for op in answer["ops"]})
    kernels = any(answer["kernels"] for answer in answers.values())
    if answers and not (wanted or kernels):
        raise Skipped("this recipe needs nothing compiled")
    ready = bool(answers) and not answers.errors
    for host, answer in answers.items():
        for op in wanted:
            if lock := answer["locks"].get(op):
                ready = False
                says = f"{host} has the lock of a build of DeepSpeed's {op}, for which every process would wait: {lock}"
                fix = cluster.on(host, f"rm {lock}")
                yield failure(says, f"wait if it is being built now; else {fix}")
                continue
            if answer["ops"].get(op):
                continue
            ready = False
            build = cluster.on(host, f'cd {os.getcwd()} && {sys.executable} -c "{BUILD.format(BUILDERS[op])}"')
            if answer["missing"]:
                says = f"{host} must compile DeepSpeed's {op} (engine.config offloads), but lacks {answer['missing']}"
                yield failure(says, f"install {answer['missing']} on {host} (on its PATH), then {build}")
            else:
                says = f"{host} will compile DeepSpeed's {op} at the first step, each of its processes waiting"
                yield warning(says, f"build it now: {build}")
        if answer["kernels"] and (lacks := answer["kernels_lack"]):
            ready = False
            says = f"{host} lacks {' and '.join(lacks)}, which torch.compile's kernels need"
            yield failure(says, f"install {' and '.join(lacks)} on {host}, or kernels.compile=off")
    if ready:
        yield passed(f"{', '.join(wanted + ['a compiler for torch.compile'] * kernels)}: there on every host")


@question
def builds(recipe: str, overrides: list[str]) -> dict[str, Any]:
    """DeepSpeed's operations that a run needs and whether they are built; `locks` of their builds; what is `missing` to
    build them; whether torch.compile's `kernels` are used, and what of theirs is not there."""
    from trainer import engine

    config = read(recipe, tuple(overrides))
    zero = engine.read_config(config.engine.config)["zero_optimization"]
    ops = ["cpu_adam"] if "offload_optimizer" in zero else []
    if any(zero.get(key, {}).get("device") == "nvme" for key in ("offload_optimizer", "offload_param")):
        ops.append("async_io")
    on_gpu = device_here().type == "cuda"
    asked = config.kernels.compile
    kernels = config.kernels.layers == "fused" and (asked == "on" or (asked == "auto" and on_gpu and zero["stage"] < 3))
    compiler = _compiler("CXX", "c++", "g++", "clang++")
    missing = [name for name, found in (("a C++ compiler", compiler), ("ninja", shutil.which("ninja"))) if not found]
    return {
        "ops": {op: _is_built(op) for op in ops},
        "locks": {op: str(lock) for op in ops if (lock := _extensions() / op / "lock").is_file()},
        "missing": " and ".join(missing),
        "kernels": kernels,
        "kernels_lack": list(_lacking(on_gpu)),
    }


def _lacking(on_gpu: bool) -> Iterator[str]:
    """Of what torch.compile compiles with; on GPUs Triton builds its launchers in C, as modules for Python."""
    if _compiler("CC", "cc", "gcc", "clang") is None:
        yield "a C compiler"
    if on_gpu and importlib.util.find_spec("triton") is None:
        yield "triton"
    if on_gpu and not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        yield "Python's headers (python3-dev)"


def _compiler(variable: str, *names: str) -> str | None:
    return next((path for name in (os.environ.get(variable, ""), *names) if (path := shutil.which(name))), None)


def _is_built(op: str) -> bool:
    """With DeepSpeed (DS_BUILD_OPS), or by torch's loader of extensions at an earlier use, which then needs no compiler
    any more, but asks ninja whether it is up to date."""
    package = importlib.util.find_spec("deepspeed")
    about = Path(package.origin).with_name("git_version_info_installed.py") if package and package.origin else None
    if about and about.is_file():
        for line in about.read_text().splitlines():
            name, _, value = line.partition("=")
            if name == "installed_ops" and ast.literal_eval(value).get(op):
                return True
    return (_extensions() / op / f"{op}.so").is_file() and shutil.which("ninja") is not None


def _extensions() -> Path:
    """Where torch.utils.cpp_extension builds (`_get_build_directory`, which would make the folder)."""
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    if folder := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(folder)
    version = "cpu"
    for kind, text in (("rocm", torch.version.hip), ("cu", torch.version.cuda)):
        if text is not None:
            version = kind + text.replace(".", "")
            break
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return Path(get_default_build_root()) / f"{python}_{version}"
