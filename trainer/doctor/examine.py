"""All checks, one after another, to a report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.config import load_recipe
from trainer.doctor import checks  # noqa: F401 - registers the checks
from trainer.doctor.cluster import Cluster, Node, this_machine
from trainer.doctor.registry import CHECKS, FAIL, SKIP, Check, Finding, Skipped, failure
from trainer.errors import UserError
from trainer.tasks import nearest


@dataclass(frozen=True)
class Result:
    """What one check found, and how long that took."""

    check: str
    findings: tuple[Finding, ...]
    seconds: float


@dataclass(frozen=True)
class Report:
    """Attributes:
    hosts: every host of the hostfile, or this machine.
    recipe: its file, or None.
    """

    hosts: tuple[str, ...]
    recipe: str | None
    results: tuple[Result, ...]

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [r.check for r in self.results if any(finding.status == FAIL for finding in r.findings)]

    @property
    def seconds(self) -> float:
        return sum(result.seconds for result in self.results)

    def write(self, path: Path) -> None:
        """As JSON: hosts, recipe, ok, and checks with their findings.

        Raises:
            UserError: the file cannot be written.
        """
        results = [asdict(result) for result in self.results]
        text = {"ok": not self.failed, "hosts": self.hosts, "recipe": self.recipe, "checks": results}
        try:
            path.write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}", why=str(error)) from None


def examine(
    recipe: Path | None = None,
    overrides: Sequence[str] = (),
    nodes: Iterable[Node] = (),
    environment: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    port: int = 29500,
    progress: Callable[[str], Any] = lambda about: None,
) -> Report:
    """Run the checks.

    Args:
        nodes: the hosts of a run; default: this machine.
        environment: variables that the run's processes are given there.
        only: names of checks; default: all.
        port: MASTER_PORT of the run, on the first host.
        progress: told what is being checked.

    Raises:
        UserError: the recipe cannot be read, or a check does not exist.
    """
    for name in only:
        if name not in CHECKS:
            raise UserError(f"unknown check {name!r}", fix=nearest(name, CHECKS))
    if overrides and recipe is None:
        raise UserError(f"{overrides[0]} overrides a recipe, but none is named", fix="xstilts doctor RECIPE ...")
    config = None if recipe is None else load_recipe(recipe, overrides)
    nodes = list(nodes) or [this_machine()]
    given = None if recipe is None else (recipe, list(overrides))
    results = []
    with Cluster(nodes, environment or {}, given, config, port) as cluster:
        for check in CHECKS.values():
            if not only or check.name in only or check.name == "hosts":
                progress(check.about)
                began = time.monotonic()
                findings = tuple(_run(check, cluster))
                results.append(Result(check.name, findings, time.monotonic() - began))
                if any(finding.status == FAIL for finding in findings):
                    cluster.failed.add(check.name)
    return Report(tuple(node.name for node in nodes), recipe and str(recipe), tuple(results))


def _run(check: Check, cluster: Cluster) -> Iterator[Finding]:
    if not cluster.nodes:
        yield Finding(SKIP, "no host answers")
    elif check.needs_recipe and cluster.recipe is None:
        yield Finding(SKIP, "no recipe is named")
    elif check.needs_hosts and len(cluster.nodes) < 2:
        yield Finding(SKIP, "only one host answers" if "hosts" in cluster.failed else "there is a single host")
    else:
        try:
            yield from check.run(cluster)
        except Skipped as why:
            yield Finding(SKIP, str(why))
        except UserError as error:
            yield failure(f"{error.what}{f' ({error.why})' if error.why else ''}", error.fix)
