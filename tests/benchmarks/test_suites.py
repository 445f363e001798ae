import json
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import gpu_suite
from benchmarks.gpu_suite import Part


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


SLEEPER = "import time, sys; print('measuring', flush=True); time.sleep(60)"
STUBBORN = "import time, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('no', flush=True); time.sleep(60)"


def test_a_part_that_fails_or_is_cut_costs_only_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_suite, "GRACE", 1.0)
    parts = [
        Part("fails", python("print('what went wrong'); raise SystemExit(3)"), 20),
        Part("sleeps", python(SLEEPER), -15),  # what the first left over: some 4 seconds
        Part("works", python("print('fine')"), 30),
        Part("no tests", python("raise SystemExit(5)"), 20, (0, 5)),
    ]
    console = Console(record=True, width=120, quiet=True)
    done = gpu_suite.run_parts(parts, tmp_path, "suite", {"dry": True}, console)
    assert [each.outcome for each in done] == ["failed", "cut", "ok", "ok"]
    assert [each.exit_code for each in done] == [3, None, 0, 5]
    assert "what went wrong" in (tmp_path / "logs/fails.txt").read_text()
    result = json.loads((tmp_path / "suite.json").read_text())
    assert [part["outcome"] for part in result["parts"]] == ["failed", "cut", "ok", "ok"]


def test_a_part_is_interrupted_before_it_is_killed(tmp_path, monkeypatch, request):
    log = tmp_path / "log.txt"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    assert gpu_suite.run_part(Part("polite", python(SLEEPER), 0), 5, log).outcome == "cut"
    assert "KeyboardInterrupt" in log.read_text()
    monkeypatch.setattr(gpu_suite, "GRACE", 0.5)
    done = gpu_suite.run_part(Part("stubborn", python(STUBBORN), 0), 5, log)
    assert done.outcome == "cut" and done.seconds < 40  # of 60


@pytest.mark.parametrize("suite", gpu_suite.SUITES)
@pytest.mark.parametrize("dry", [False, True])
def test_every_part_is_a_command_that_exists(tmp_path, suite, dry):
    parts = gpu_suite.SUITES[suite](tmp_path, dry)
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        assert part.command[:2] == (sys.executable, "-m")
        if part.name != "tests":
            assert str(tmp_path) in part.command[-1]


def test_the_gpu_suite_stays_below_nine_minutes(tmp_path):
    parts = gpu_suite.gpu(tmp_path, dry=False)
    assert sum(part.seconds for part in parts) <= 9 * 60 - 10
    names = [part.name for part in parts]
    assert names == ["tests", "throughput", "versus_hf", "memory"]


def test_the_command_tells_failures_by_its_exit_code(tmp_path, monkeypatch):
    broken = {"quick": lambda out, dry: [Part("fails", python("raise SystemExit(1)"), 20)]}
    monkeypatch.setattr(gpu_suite, "SUITES", broken)
    with pytest.raises(SystemExit) as failed:
        command.main(["quick", "--dry", "--out", str(tmp_path)])
    assert failed.value.code == 1
    with pytest.raises(SystemExit):
        command.main(["nothing"])


def test_report_is_part_of_the_command(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing")
    with pytest.raises(SystemExit) as refused:
        command.main(["report", "--check", "--readme", str(readme), "--out", str(tmp_path)])
    assert refused.value.code == 2


@pytest.mark.long
def test_the_gpu_suite_runs_dry_on_a_cpu(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu", "--dry", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=960,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found = {path.name for path in tmp_path.glob("*.json")}
    assert {"suite_gpu.json", "throughput_cpu.json", "versus_hf_cpu.json", "memory.json"} <= found
    result = json.loads((tmp_path / "throughput_cpu.json").read_text())
    assert not result["failed"] and {"packs of 1,536", "everything on", "ZeRO stage 3"} <= set(result["arms"])
    assert result["parity"]["fast"]["gradient"] <= result["parity"]["limits"]["gradient"]
