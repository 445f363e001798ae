"""The command: on this machine, and on two hosts that are this machine with a difference."""

import json
import os

import pytest

from tests.doctor.pretend import PretendedHosts
from tests.launching import DEMO, xstilts

CLOCK = "import time\nreal = time.time\ntime.time = lambda: real() + {ahead}\n"


def findings(path) -> dict[str, list[dict]]:
    return {check["check"]: check["findings"] for check in json.loads(path.read_text())["checks"]}


def statuses(path) -> dict[str, set[str]]:
    return {check: {finding["status"] for finding in found} for check, found in findings(path).items()}


def test_this_machine(tmp_path):
    out = tmp_path / "out.json"
    done = xstilts("doctor", "--only", "versions,disk,clocks,recipe", "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    found = statuses(out)
    assert list(found) == ["hosts", "versions", "clocks", "disk", "recipe"]
    assert found["hosts"] == found["versions"] == {"pass"}
    assert found["clocks"] == found["recipe"] == {"skipped"}
    (disk,) = findings(out)["disk"]
    assert disk["figures"]["free_gb"] > 0 or disk["status"] == "warn"
    assert json.loads(out.read_text())["ok"] is True


def test_a_failed_check_is_named_with_exit_code_2(tmp_path):
    out = tmp_path / "out.json"
    done = xstilts("doctor", DEMO, "run.folder=/proc/runs", "--only", "disk", "--json", out)
    assert done.returncode == 2
    assert "failed: disk" in done.stderr
    assert "next: run.folder=FOLDER elsewhere" in done.stdout
    (disk,) = findings(out)["disk"]
    assert disk["status"] == "fail" and "/proc cannot be written" in disk["says"]


def test_a_model_that_does_not_fit(tmp_path):
    out, recipe = tmp_path / "out.json", DEMO.with_name("nine_tasks.yaml")
    overrides = ("model.encoder=xlm-roberta-xxl", f"data.store={tmp_path}", f"run.folder={tmp_path}")
    done = xstilts("doctor", recipe, "--only", "memory", "--json", out, *overrides)
    assert done.returncode == 2 and "failed: memory" in done.stderr
    memory, *_ = findings(out)["memory"]
    assert "does not fit" in memory["says"] and "xstilts plan" in memory["fix"]
    assert memory["figures"]["peak_bytes"] > 100e9  # 10.7 billion parameters at 16 bytes


def test_as_many_processes_as_asked_for(tmp_path):
    out = tmp_path / "out.json"
    done = xstilts("doctor", "--processes", 3, "--only", "collectives,devices", "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    found = findings(out)
    assert found["collectives"][0]["says"].startswith("3 processes over gloo: ")
    assert found["collectives"][0]["figures"]["all"]["large_bytes"] > 0
    cores = len(os.sched_getaffinity(0))
    assert found["devices"][0]["fix"] == ("" if cores >= 3 else f"--processes {cores} or fewer")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "portss"], "did you mean 'ports'?"),
        (["no.yaml"], "no.yaml does not exist"),
        (["--hostfile", "no-hostfile"], "no-hostfile"),
        (["--hostfile", "x", "--processes", "2"], "contradict"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments, says):
    done = xstilts("doctor", *arguments)
    assert done.returncode == 2 and says in done.stderr


def test_a_version_and_a_clock_that_differ_on_one_of_two_hosts(tmp_path):
    hosts = PretendedHosts(tmp_path / "hosts", "127.0.0.1", "127.0.0.2")
    metadata = "Metadata-Version: 2.1\nName: transformers\nVersion: 5.0.0.dev1\n"
    files = {"transformers-5.0.0.dev1.dist-info/METADATA": metadata, "sitecustomize.py": CLOCK.format(ahead=42)}
    hosts.python_differs("127.0.0.2", **files)
    out = tmp_path / "out.json"
    only = ("--only", "versions,clocks,ports")
    done = xstilts("doctor", "--hostfile", hosts.hostfile, *only, "--json", out, **hosts.environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "failed: versions, clocks" in done.stderr
    says = findings(out)
    assert any("127.0.0.2 has 5.0.0.dev1" in finding["says"] for finding in says["versions"])
    assert any("pip install transformers==" in finding["fix"] for finding in says["versions"])
    (clock,) = says["clocks"]
    assert "127.0.0.2's clock is 42.0 s ahead" in clock["says"]
    assert clock["figures"]["skew_seconds"] == pytest.approx(42, abs=0.5)
