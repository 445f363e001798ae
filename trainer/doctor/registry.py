"""Checks and questions, each registered by a decorator where it is written.

A check runs in the process that the user started, and yields findings. A question is a function that a check has
answered on the hosts: it takes and gives plain JSON, and may raise a UserError. Adding a check touches one file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.doctor.cluster import Cluster

PASS, WARN, FAIL, SKIP = "pass", "warn", "fail", "skipped"


@dataclass(frozen=True)
class Finding:
    """Attributes:
    status: pass, warn, fail or skipped.
    says: what was found, in one sentence that names host, file, port, ...
    fix: the next command or edit.
    figures: what was measured, for scripts; the unit is in a figure's name.
    """

    status: str
    says: str
    fix: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


class Skipped(Exception):
    """A check cannot run; its text says why."""


@dataclass(frozen=True)
class Check:
    """Attributes:
    about: what it checks, in one line.
    needs_recipe, needs_hosts: it is skipped without a recipe, or with a single host.
    """

    name: str
    about: str
    run: Callable[[Cluster], Iterable[Finding]]
    needs_recipe: bool
    needs_hosts: bool


CHECKS: dict[str, Check] = {}
QUESTIONS: dict[str, Callable[..., Any]] = {}


def check(name: str, *, needs_recipe: bool = False, needs_hosts: bool = False):
    """Register a function of a Cluster that yields findings; checks run in the order in which they are registered."""

    def register(run):
        CHECKS[name] = Check(name, run.__doc__.strip().splitlines()[0], run, needs_recipe, needs_hosts)
        return run

    return register


def question(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Register a function that is called on the hosts."""
    QUESTIONS[answer.__name__] = answer
    return answer


def passed(says: str, **figures: Any) -> Finding:
    return Finding(PASS, says, figures=figures)


def warning(says: str, fix: str, **figures: Any) -> Finding:
    return Finding(WARN, says, fix, figures)


def failure(says: str, fix: str, **figures: Any) -> Finding:
    return Finding(FAIL, says, fix, figures)
