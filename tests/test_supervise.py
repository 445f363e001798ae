"""The supervisor: when it starts a run again, with what, and that signals and leftovers are its business."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from trainer.attempt import Attempt, End
from trainer.events import read_events
from trainer.exits import Exit, RunError
from trainer.hosts import Host
from trainer.running import Running
from trainer.supervise import Patience, Supervisor, share_evenly


def gives_up(patience, *ends):
    """The error that the last of these ends leads to, after none for the others."""
    for end in ends[:-1]:
        patience.after(end)
    with pytest.raises(RunError) as error:
        patience.after(ends[-1])
    return error.value


@pytest.mark.parametrize(
    "code", [Exit.USER, Exit.DISK, Exit.CHECKPOINT, Exit.ENVIRONMENT, Exit.STOPPED, Exit.INTERRUPTED]
)
def test_what_does_not_pass_by_itself_ends_with_its_own_code(code):
    error = gives_up(Patience(), End(code, "the cause", 7))
    assert error.exit_code == code and error.what == "the cause"


@pytest.mark.parametrize("code", [Exit.BUG, Exit.HANG, Exit.MEMORY, Exit.NOT_FINITE])
def test_the_same_step_twice_is_its_own_cause(code):
    error = gives_up(Patience(), End(code, "it broke", 7), End(Exit.PEER, "a host", 9), End(code, "it broke", 7))
    assert error.exit_code == Exit.GAVE_UP
    assert error.what == f"step 8 ended the run twice with exit code {int(code)}: it broke"


def test_another_step_another_cause_or_a_lost_process_may_pass():
    patience = Patience()
    for end in (End(Exit.BUG, "", 7), End(Exit.HANG, "", 7), End(Exit.BUG, "", 8), *[End(Exit.PEER, "", 9)] * 3):
        assert patience.after(end) >= 1


def test_attempts_without_progress_are_limited_and_wait_longer_and_longer():
    patience = Patience(retries=3)
    assert [patience.after(End(Exit.PEER, "gone", step)) for step in (0, 5, 5, 5)] == [2.0, 1.0, 2.0, 4.0]
    assert patience.after(End(Exit.PEER, "gone", 5)) == 8.0
    error = gives_up(patience, End(Exit.PEER, "gone", 4))
    assert error.exit_code == Exit.GAVE_UP
    assert error.what == "4 attempts in a row came no further than step 5; the last: gone"
    assert Patience(retries=100, in_vain=30).after(End(Exit.PEER, "", 0)) == 60.0


def test_hosts_share_the_packs_evenly():
    assert share_evenly({"a": 2, "b": 2}, 4) == {"a": 2, "b": 2}
    assert share_evenly({"a": 2, "b": 2}, 6) == {"a": 1, "b": 1}
    assert share_evenly({"a": 2, "b": 2, "c": 2}, 8) == {"a": 2, "b": 2}
    assert share_evenly({"a": 3}, 4) == {"a": 2}
    assert share_evenly({}, 4) == {}
    assert share_evenly({"a": 2, "b": 3}, None) == {"a": 2, "b": 3}


# A run of one process: takes so many steps from where its events end, then does what its attempt says.
RUN = """
import json, os, signal, sys, time
from pathlib import Path
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
run, plans = Path(sys.argv[1]), sys.argv[2].split(",")
name = os.environ["XSTILTS_ATTEMPT"]
open(run / "names", "a").write(name + " ")
steps, how = plans[int(name.split("-")[0]) - 1].split(":")
(run / "ranks").mkdir(parents=True, exist_ok=True)
state = {"rank": 0, "host": os.uname().nodename, "pid": os.getpid(), "attempt": name}
(run / "ranks/rank-0.json").write_text(json.dumps(state))
file = open(run / "events.jsonl", "a+")
file.seek(0)
done = sum(json.loads(line)["event"] == "step" for line in file)
say = lambda event, **fields: file.write(json.dumps({"event": event, **fields}) + chr(10))
if done:
    say("resume", step=done)
for step in range(done + 1, done + 1 + int(steps)):
    say("step", step=step)
if how == "0":
    say("finish", step=done)
file.close()
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "wait":
    while not got:
        time.sleep(0.02)
    how = "28"
if how == "lie":
    how = "0"
if how != "0":
    (run / "ranks/exit-0.json").write_text(json.dumps({**state, "code": int(how), "cause": f"cause {how}"}))
sys.exit(int(how))
"""


def supervised(run, plans, retries=10):
    said = []

    def start(hosts, environment):
        assert hosts == {}
        command = [sys.executable, "-c", RUN, str(run), plans, "trainer"]
        return Running(command, {**os.environ, **environment}, alone=True)

    supervisor = Supervisor(run, lambda: 4, start, {}, Patience(retries), 0.0, said.append)
    supervisor.said = said
    return supervisor


def steps_of(run):
    return [event["step"] for event in read_events(run / "events.jsonl") if event["event"] == "step"]


def test_a_killed_run_is_started_until_it_is_complete(tmp_path):
    supervisor = supervised(tmp_path, "2:kill,3:24,1:0")
    supervisor.run()
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6] and supervisor.attempt == 3
    assert (tmp_path / "names").read_text().split() == [f"{n}-{supervisor.token}" for n in (1, 2, 3)]
    ended = [text for text in supervisor.said if " ended at " in text]
    name = socket.gethostname()
    assert ended[0].endswith(f"step 2 with 24: rank 0 on {name} ended without a word: killed, or its host is gone")
    assert ended[1].endswith(f"step 5 with 24: rank 0 on {name}: cause 24")


def test_a_launcher_that_ends_well_is_not_believed_before_the_run_is_complete(tmp_path):
    supervisor = supervised(tmp_path, "2:lie,1:0")
    supervisor.run()
    assert steps_of(tmp_path) == [1, 2, 3]
    assert any("ended at step 2 with 24: rank 0 on " in text for text in supervisor.said)


def test_an_attempt_counts_its_own_steps(tmp_path):
    """The second fails before it has taken one: not at the step that the first one failed at."""
    supervisor = supervised(tmp_path, "4:1,0:1,1:0")
    (tmp_path / "events.jsonl").write_text('{"event": "step", "step": 1}\n')
    with pytest.raises(RunError, match="step 6 ended the run twice"):
        supervisor.run()  # resumed at step 5, like the first one's end
    assert Patience().after(End(Exit.BUG, "", 0)) == 2.0


def test_files_of_another_attempt_do_not_end_this_one(tmp_path, monkeypatch):
    """Of a process that an attempt before has left behind a cut link."""
    monkeypatch.setattr("trainer.attempt.GRACE", 0.0)
    stale = {"rank": 0, "host": "gone", "pid": 1, "attempt": "1-0000", "code": 23, "cause": "it hung"}

    def start(own):
        (tmp_path / "ranks").mkdir()
        (tmp_path / "ranks/exit-0.json").write_text(json.dumps(stale))
        (tmp_path / "events.jsonl").write_text('{"event": "finish"}\n')
        return Running(["sleep", "1"], {}, alone=True)

    assert Attempt(tmp_path, start, print).end([]).code == Exit.DONE


def test_a_cause_that_stays_ends_the_supervisor_with_the_run_s_own_code(tmp_path):
    with pytest.raises(RunError, match="cause 2") as error:
        supervised(tmp_path, "1:kill,0:2").run()
    assert error.value.exit_code == Exit.USER


def test_the_same_failing_step_twice_gives_up(tmp_path):
    with pytest.raises(RunError, match="step 3 ended the run twice") as error:
        supervised(tmp_path, "2:1,0:1").run()
    assert error.value.exit_code == Exit.GAVE_UP


def test_a_launcher_that_starts_nothing_is_not_tried_for_ever(tmp_path):
    def start(hosts, environment):
        return Running(["false"], {})

    with pytest.raises(RunError, match="ended with exit code 1 before any process of the run had begun") as error:
        Supervisor(tmp_path, lambda: 4, start, {}, Patience(retries=0), 0.0, print).run()
    assert error.value.exit_code == Exit.GAVE_UP


@contextlib.contextmanager
def told(number: int, seconds: float):
    """This process is, after so many seconds."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def test_a_signal_reaches_the_run_and_ends_the_supervisor_as_stopped(tmp_path):
    with told(signal.SIGUSR1, 1.5), pytest.raises(RunError, match="cause 28") as error:
        supervised(tmp_path, "2:wait").run()
    assert error.value.exit_code == Exit.STOPPED


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, Exit.STOPPED), (signal.SIGINT, Exit.INTERRUPTED)])
def test_a_signal_before_the_ranks_have_begun_leaves_nothing(number, code, tmp_path):
    begun = []

    def start(hosts, environment):
        begun.append(Running(["sleep", "60"], {}, alone=True))
        return begun[-1]

    name = signal.Signals(number).name
    with told(number, 0.7), pytest.raises(RunError, match=f"stopped by {name} before the run had begun") as error:
        Supervisor(tmp_path, lambda: 4, start, {}, Patience(), 0.0, print).run()
    assert error.value.exit_code == code and len(begun) == 1 and begun[0].process.poll() is not None


def test_a_signal_to_hosts_whose_ranks_are_not_seen_is_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.attempt.AGAIN", 0.1)
    sent = []

    class Remote(Running):
        def signal(self, number):
            sent.append(number)
            if len(sent) == 3:  # only now there is a rank that it reaches
                self.process.kill()
                self.process.wait()

    attempt = Attempt(tmp_path, lambda own: Remote(["sleep", "60"], {}, [Host("node1", 1)]), print)
    assert attempt.end([signal.SIGHUP]).code == Exit.STOPPED
    assert sent == [signal.SIGTERM] * 3


def test_a_signal_between_two_attempts_starts_no_other(tmp_path):
    supervisor = supervised(tmp_path, "1:kill,1:0")
    supervisor.patience.pause = 60.0
    before = signal.getsignal(signal.SIGTERM)
    with told(signal.SIGTERM, 2.0), pytest.raises(RunError, match="stopped by SIGTERM, when the run was down"):
        supervisor.run()
    assert supervisor.attempt == 1 and signal.getsignal(signal.SIGTERM) == before


def test_an_error_of_the_supervisor_itself_leaves_no_run_behind(tmp_path):
    running = []

    def start(own):
        running.append(Running(["sleep", "60"], {}, alone=True))
        return running[0]

    attempt = Attempt(tmp_path, start, print)
    attempt._pass_on = None  # no function: an error like any other
    with pytest.raises(TypeError):
        attempt.end([signal.SIGTERM])
    assert running[0].process.returncode == -signal.SIGKILL


def test_leftovers_of_an_attempt_are_killed_and_another_run_s_process_is_not(tmp_path):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)", "trainer"]
    ours, stranger = (
        subprocess.Popen(sleep, env={**os.environ, "XSTILTS_ATTEMPT": name}) for name in ("3-ab12", "13-ab12")
    )
    (tmp_path / "ranks").mkdir()
    for rank, process in enumerate((ours, stranger)):
        state = {"rank": rank, "host": socket.gethostname(), "pid": process.pid, "attempt": "3-ab12"}
        (tmp_path / f"ranks/rank-{rank}.json").write_text(json.dumps(state))
    time.sleep(0.3)
    try:
        supervised(tmp_path, "1:0").run()
        assert ours.wait(10) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
