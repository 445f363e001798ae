"""Whether the ranks of a run have the same code, packages and data: where they do not, gradients are silently wrong."""

from __future__ import annotations

import functools
import platform
import socket
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

import trainer
from trainer import distributed
from trainer.data.prepare import Prepared
from trainer.exits import Exit, RunError

PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy")


@functools.cache
def versions() -> dict[str, str | None]:
    """What decides a run's numbers on this host: package -> version (None: not there), this one's with a hash of its
    source; Python's without the patch, with which only its faults change."""
    python, _ = platform.python_version().rsplit(".", 1)
    found = {"xstilts": f"{trainer.__version__} (source {source_hash()})", "python": python}
    return {**found, **{package: installed(package) for package in PACKAGES}}


def installed(package: str) -> str | None:
    """The version of a package, None if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def data(prepared: Mapping[str, Prepared]) -> dict[str, str]:
    """Split -> fingerprint of its prepared data."""
    splits = [(f"{name} ({split})", store) for name, item in prepared.items()
              for split, store in (("train", item.train), ("dev", item.dev))]  # fmt: skip
    return {name: store.manifest["fingerprint"] for name, store in splits}


def source_hash() -> str:
    """64-bit hash of the names and bytes of this package's Python files."""
    root, digest = Path(trainer.__file__).parent, xxhash.xxh3_64()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_alike(
    values: Mapping[str, str | None], what: str, gather: Callable[[Any], list[Any]] = distributed.gather_objects
) -> None:
    """Every rank's `values` must be those of rank 0; all ranks call it.

    Args:
        gather: gives every rank's value, in rank order, on every rank.

    Raises:
        RunError: names what differs, and where.
    """
    everywhere = gather((socket.gethostname(), dict(values)))
    first_host, first = everywhere[0]
    for rank, (host, other) in enumerate(everywhere):
        different = [key for key in first if other.get(key) != first[key]]
        if different:
            pairs = [(key, other.get(key) or "none", first[key] or "none") for key in different[:3]]
            raise RunError(
                Exit.ENVIRONMENT,
                f"rank {rank} on {host} and rank 0 on {first_host} do not have {what}: {', '.join(different)}",
                why="; ".join(f"{key}: {there} there, {here} on {first_host}" for key, there, here in pairs),
                fix=f"make them the same; xstilts doctor --hostfile H shows every difference; or leave {host} out",
            )
