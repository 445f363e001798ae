"""All-reduce between all processes and between each pair of hosts: right, and how fast."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.doctor.cluster import IMPORTS, Cluster
from trainer.doctor.processes import run_ranks
from trainer.doctor.registry import Finding, Skipped, check, failure, passed, question, warning
from trainer.errors import UserError
from trainer.launchers import free_port
from trainer.network import interface_towards

SLOW = 100e6  # bytes/s between two hosts: 1 Gbit/s
UNLIKE = 0.5  # of the median pair's bandwidth
TIMEOUT, A_HOST, START = 60.0, 1.0, 25.0  # seconds: for all of it, more for each host, of these to import and to meet
SETTINGS = "GLOO_SOCKET_IFNAME={0} NCCL_SOCKET_IFNAME={0}"


@check("collectives")
def collectives(cluster: Cluster) -> Iterator[Finding]:
    """all-reduce is right between all processes and pairs of hosts, and fast"""
    if "ports" in cluster.failed:
        raise Skipped("ports are blocked: it would wait in vain")
    cluster.check_gpus()
    layout = _layout(cluster)
    if sum(len(ranks) for ranks in layout.values()) < 2:
        raise Skipped("a run here has a single process")
    hosts = [ranks[0] for ranks in layout.values()]
    answers = cluster.ask(
        all_reduce, timeout=TIMEOUT + A_HOST * len(layout) + IMPORTS,
        each={host: {"ranks": ranks} for host, ranks in layout.items()},
        world=sum(len(ranks) for ranks in layout.values()), leaders=hosts, address=cluster.address(cluster.first),
        port=cluster.port if len(layout) > 1 else 0,
    )  # fmt: skip
    if answers.errors:
        yield from _failed(cluster, answers.errors)
        return
    found = answers[cluster.first]
    names = {ranks[0]: host for host, ranks in layout.items()}
    pairs = {f"{names[a]} - {names[b]}": figures for a, b, figures in found["pairs"]}
    yield from _judged(found, pairs)


def _layout(cluster: Cluster) -> dict[str, list[int]]:
    """Host -> ranks of its processes: one a GPU; on CPUs one, or two where there is a single host; or --processes."""
    layout, first = {}, 0
    for host in cluster.names:
        devices = cluster.devices.get(host, {"gpus": (), "cores": 1})
        count = min(cluster.slots(host), len(devices["gpus"])) or 1
        if not devices["gpus"] and len(cluster.names) == 1:
            count = cluster.local_processes or min(2, devices["cores"])
        layout[host] = list(range(first, first + count))
        first += count
    return layout


def _failed(cluster: Cluster, errors: Mapping[str, UserError]) -> Iterator[Finding]:
    """One finding for all hosts: what fails on one, the others only wait for."""
    said = "; ".join(f"{host}: {error.what}{f' ({error.why})' if error.why else ''}" for host, error in errors.items())
    interface = cluster.ask(interface_towards, address=cluster.address(cluster.first), of=cluster.others).values()
    fix = "xstilts doctor --only ports shows which hosts cannot reach each other"
    if name := next((name for name in interface if name), None):
        fix = f"export {SETTINGS.format(name)} (the interface that leads to {cluster.first}); {fix}"
    where = f" between {len(cluster.names)} hosts" if cluster.others else ""
    yield failure(f"all-reduce fails{where}: {said}", fix)


def _judged(found: Mapping[str, Any], pairs: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    whole = found["all"]
    wrong = [name for name, figures in {"all processes": whole, **pairs}.items() if not figures["right"]]
    for name in wrong:
        fix = "NCCL_P2P_DISABLE=1 or NCCL_IB_DISABLE=1 shows whether a link is at fault; TORCH_DISTRIBUTED_DEBUG=DETAIL"
        yield failure(f"all-reduce gives wrong sums between {name}", fix)
    middle = statistics.median(figures["bytes_per_second"] for figures in pairs.values()) if pairs else 0.0
    slow = {
        name: figures
        for name, figures in pairs.items()
        if figures["bytes_per_second"] < max(SLOW, UNLIKE * middle) and figures["right"]
    }
    for name, figures in slow.items():
        rate = figures["bytes_per_second"]
        than = "less than 1 Gbit/s" if rate < SLOW else f"the median pair has {middle / 1e6:,.0f}"
        fix = f"is that the fast network's interface? else export {SETTINGS.format('NAME')} (names: ip -br address)"
        yield warning(f"{name}: only {rate / 1e6:,.0f} MB/s ({than})", fix)
    says = f"{found['processes']} processes over {found['backend']}: {_figures(whole)}"
    if pairs and found["processes"] > 2:
        slowest = min(pairs, key=lambda name: pairs[name]["bytes_per_second"])
        says += f"; slowest of {len(pairs)} pairs of hosts, {slowest}: {_figures(pairs[slowest])}"
    if not wrong:
        yield passed(says, all=whole, pairs=dict(pairs), large_bytes=whole["large_bytes"])


def _figures(figures: Mapping[str, float]) -> str:
    rate, latency = figures["bytes_per_second"] / 1e6, figures["seconds"] * 1e6
    return f"{figures['large_bytes'] / 2**20:.0f} MiB at {rate:,.0f} MB/s, 8 B in {latency:,.0f} us"


@question
def all_reduce(ranks: list[int], world: int, leaders: list[int], address: str, port: int) -> dict[str, Any]:
    """Run this host's processes of the test; rank 0's figures, on its host.

    Args:
        leaders: the first rank of each host.
        port: 0 takes a free one, on a single host.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        timeout = TIMEOUT + A_HOST * len(leaders)
        arguments = [str(out), json.dumps(leaders), str(timeout - START)]
        run_ranks("trainer.doctor.all_reduce", arguments, ranks, world, address, port or free_port(), timeout)
        return json.loads(out.read_text()) if out.is_file() else {}


question(interface_towards)
