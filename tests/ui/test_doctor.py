"""What `xstilts doctor` prints: 80 columns, and every command whole."""

from rich.console import Console

from trainer.doctor import Report, Result
from trainer.doctor.registry import SKIP, Finding, failure, passed, warning
from trainer.ui.doctor import doctor_view

FIX = "ssh node2 '/opt/venv/bin/python -m pip install transformers==5.23.0'"


def shown(*results: Result) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(doctor_view(Report(("node1", "node2"), None, results)))
    return console.export_text()


def test_every_finding_has_a_row_and_its_command():
    versions = (failure("transformers differs: node2 has 5.0.1, node1 5.23.0", FIX), warning("[b] driver differs", "-"))
    clocks = (passed("within 1 ms"),)
    text = shown(
        Result("versions", versions, 2.0),
        Result("clocks", clocks, 0.25),
        Result("shared files", (Finding(SKIP, "there is a single host"),), 0.0),
    )
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines()) and "…" not in text
    words = " ".join(text.split())
    assert f"next: {FIX}" in words
    assert "[b] driver differs" in words
    assert text.count("versions") == 2  # its first row, and the slowest check
    assert "2 hosts, 2 s (versions took 2): 1 pass, 1 warn, 1 fail, 1 skipped" in words


def test_a_command_longer_than_a_line_is_folded_not_cut():
    path = "/" + "x" * 200
    text = shown(Result("disk", (failure("full", f"rm {path}"),), 1.0))
    assert path in "".join(text.split())
