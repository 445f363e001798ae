"""launch/slurm.sbatch, with stand-ins for srun and scontrol that start and signal real processes of this machine."""

import signal
import subprocess
import time

import pytest

from tests.launch.conftest import LONG, NOT_FINITE, ROUNDING, STEPS, environment, same_run, script
from tests.launching import DEMO, ROOT, steps

pytestmark = pytest.mark.slow
# As srun: the rest of the line is run as a task of each of two nodes; signals go on to the tasks; the exit code is the
# largest of theirs.
SRUN = r"""#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
tasks=()
for node in 0 1; do
  SLURM_PROCID=$node SLURM_NODEID=$node SLURM_STEP_NUM_NODES=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=0 "$@" &
  tasks+=($!)
done
trap 'kill -USR1 "${tasks[@]}"' USR1
trap 'kill -TERM "${tasks[@]}"' TERM
largest=0
for task in "${tasks[@]}"; do
  while kill -0 "$task" 2> /dev/null; do wait "$task"; done
  wait "$task"
  code=$?
  if [ "$code" -gt "$largest" ]; then largest=$code; fi
done
exit "$largest"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in
  show) printf 'localhost\\nlocalhost\\n' ;;
  requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""


@pytest.fixture
def job(tmp_path, overrides):
    """Starts the batch script as Slurm does: a copy elsewhere, in the folder it was submitted from."""
    script(tmp_path / "bin", "srun", SRUN)
    script(tmp_path / "bin", "scontrol", SCONTROL)
    script(tmp_path / "spool", "slurm_script", (ROOT / "launch" / "slurm.sbatch").read_text())
    environ = environment(
        SLURM_JOB_ID="4711", SLURM_NNODES="2", SLURM_JOB_NODELIST="node[1-2]", SLURM_SUBMIT_DIR=str(ROOT),
        REQUEUED=str(tmp_path / "requeued"),
    )  # fmt: skip
    environ["PATH"] = f"{tmp_path / 'bin'}:{environ['PATH']}"

    def start(*more: str) -> subprocess.Popen:
        words = [tmp_path / "spool" / "slurm_script", DEMO, *overrides, *more]
        log = open(tmp_path / "log", "a")
        return subprocess.Popen(words, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True)

    return start


def wait_for_step(run, step: int, process, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ((run / "events.jsonl").is_file() and step in steps(run)):
        assert process.poll() is None and time.monotonic() < deadline, (run.parent / "log").read_text()[-3000:]
        time.sleep(0.1)


def test_before_the_time_limit_it_saves_and_is_queued_again(job, one_host, tmp_path):
    run, requeued = tmp_path / "demo", tmp_path / "requeued"
    first = job()
    wait_for_step(run, 1, first)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(120) == 28, (tmp_path / "log").read_text()[-3000:]
    assert requeued.read_text() == "4711\n"
    assert max(steps(run)) < STEPS, "it was done before the signal"
    again = job()
    assert again.wait(200) == 0, (tmp_path / "log").read_text()[-3000:]
    assert requeued.read_text() == "4711\n"
    assert "srun, because this is a Slurm job of 2 nodes" not in (tmp_path / "log").read_text()  # it was named
    same_run(steps(run), one_host(2), ROUNDING)


def test_a_cancelled_job_saves_and_stays_away(job, tmp_path):
    process = job(f"train.steps={LONG}")
    wait_for_step(tmp_path / "demo", 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 28, (tmp_path / "log").read_text()[-3000:]
    assert not (tmp_path / "requeued").exists()


def test_a_run_that_fails_ends_the_job_with_its_code(job, tmp_path):
    process = job(*NOT_FINITE)
    assert process.wait(200) == 22, (tmp_path / "log").read_text()[-3000:]
    assert not (tmp_path / "requeued").exists()
    assert "exit 22: rank " in (tmp_path / "log").read_text().strip().splitlines()[-1]
