"""The programs by which a launcher starts, signals and ends processes on other hosts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from trainer.doctor.cluster import Cluster
from trainer.doctor.registry import Finding, Skipped, check, failure, passed, question, warning

ON_HOSTS = ("pgrep", "pkill")  # of procps; `trainer.running` signals ranks with them, over pdsh


@check("programs")
def programs(cluster: Cluster) -> Iterator[Finding]:
    """what starts and ends processes on other hosts is there"""
    if cluster.nodes[0].here:
        raise Skipped("there is no hostfile")
    found = cluster.ask(lacking, programs=ON_HOSTS)
    yield from found.failures()
    lacks = {host: missing for host, missing in found.items() if missing}
    if shutil.which("pdsh") is None:
        fix = "apt-get install pdsh, or torchrun on each host (launch/torchrun.sh), which needs none"
        yield failure("this machine has no pdsh, without which xstilts launch --hostfile does not start", fix)
    for host, missing in lacks.items():
        says = f"{host} has no {' and no '.join(missing)}, with which its processes are told to save or to end"
        yield warning(says, cluster.on(host, "apt-get install procps"))
    if not (lacks or found.errors) and shutil.which("pdsh"):
        yield passed("pdsh here, pgrep and pkill on every host")


@question
def lacking(programs: list[str]) -> list[str]:
    """Those of some programs that are not on the path."""
    return [name for name in programs if shutil.which(name) is None]
