"""What `xstilts doctor` shows: a row per finding, with the next command below it."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trainer.doctor import Report
from trainer.doctor.registry import FAIL, PASS, SKIP, WARN
from trainer.ui.tables import new_table

STYLES = {PASS: "green", WARN: "yellow", FAIL: "bold red", SKIP: "dim"}


def doctor_view(report: Report) -> Group:
    """The whole answer."""
    return Group(doctor_table(report), Text(), Text(_summary(report)))


def doctor_table(report: Report) -> Table:
    """A row per finding; commands are never cut, but go on in the next line."""
    table = new_table()
    table.add_column("check", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("found, and the next command", overflow="fold")
    for result in report.results:
        for number, finding in enumerate(result.findings):
            text = Text(finding.says, "dim" if finding.status == SKIP else "")
            if finding.fix:
                text.append(f"\nnext: {finding.fix}", "bold" if finding.status == FAIL else "")
            name = Text("" if number else result.check)
            table.add_row(name, Text(finding.status, STYLES[finding.status]), text)
    return table


def _summary(report: Report) -> str:
    statuses = [finding.status for result in report.results for finding in result.findings]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in STYLES if status in statuses)
    slowest = max(report.results, key=lambda result: result.seconds)
    hosts = f"{len(report.hosts)} host{'s' * (len(report.hosts) > 1)}"
    return f"{hosts}, {report.seconds:.0f} s ({slowest.check} took {slowest.seconds:.0f}): {counts}"
