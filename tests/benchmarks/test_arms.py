import re
import time

import pytest

from benchmarks import arms


def stub(tmp_path, name: str, seconds: float = 0.002, fail: str | None = None, processes: int = 1) -> arms.Arm:
    spec = {"name": name, "seconds": seconds, "log": str(tmp_path / "log"), "fail": fail}
    return arms.Arm(name, "tests.benchmarks.stub_arm", spec, processes)


def test_arms_take_turns_and_only_one_works_at_a_time(tmp_path):
    with arms.start([stub(tmp_path, "a"), stub(tmp_path, "b", 0.004)]) as running:
        assert running["a"].facts == {"parameters": 7}
        turns = arms.interleave(running, warmup_steps=3, rounds=2, steps=5, seconds=0)
    # Warm-up of 3 steps each, then twice 2 untimed and 5 timed ones each.
    assert (tmp_path / "log").read_text() == "aaabbb" + 2 * (7 * "a" + 7 * "b")
    assert [turn["steps"] for turn in turns["a"]] == [5, 5]
    figures = {name: arms.summary(turns[name]) for name in turns}
    assert figures["a"]["fill"] == pytest.approx(0.9) and figures["a"]["examples"] == 30
    for name, seconds in (("a", 0.002), ("b", 0.004)):
        assert seconds < figures[name]["step_seconds"]["lowest"]
        assert figures[name]["useful_tokens_per_second"]["highest"] <= 90 / seconds


def test_a_turn_lasts_at_least_its_seconds(tmp_path):
    with arms.start([stub(tmp_path, "a")]) as running:
        turn = running["a"].turn(steps=2, seconds=0.1)
        assert turn["seconds"] >= 0.1 and turn["steps"] > 2
        assert turn["useful_tokens"] == 90 * turn["steps"]
        assert sum(turn["step_seconds"]) == pytest.approx(turn["seconds"], abs=0.02)
        assert turn["phases"] == {}
        profiled = running["a"].turn(steps=3, profile=True)
    assert 0.002 < profiled["phases"]["forward"] <= profiled["seconds"] / 3


def test_a_dead_arm_is_told_with_the_end_of_its_log(tmp_path):
    with pytest.raises(arms.ArmDied, match=r"(?s)arm b .*exit code 1.*no such model"):
        with arms.start([stub(tmp_path, "a"), stub(tmp_path, "b", fail="build")]):
            raise AssertionError("started")
    with arms.start([stub(tmp_path, "a", fail="step")]) as running:
        with pytest.raises(arms.ArmDied, match="out of memory"):
            arms.interleave(running, 2, 1, 5, 0)


def test_the_others_go_on_when_that_is_tolerated(tmp_path):
    chosen = [stub(tmp_path, "a"), stub(tmp_path, "b", fail="build"), stub(tmp_path, "c", fail="step")]
    with arms.start(chosen, together=3, tolerate=True) as running:
        turns = arms.interleave(running, 2, 2, 3, 0, tolerate=True)
        assert set(turns) == set(running) == {"a"} and len(turns["a"]) == 2
        assert "no such model" in running.failed["b"] and "out of memory" in running.failed["c"]


def test_arms_are_gone_after_an_error_in_between(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with arms.start([stub(tmp_path, "a", seconds=0.01)]) as running:
            process = running["a"]
            raise KeyboardInterrupt
    assert process._process.returncode is not None


def test_an_arm_ends_when_its_parent_is_gone(tmp_path):
    process = arms.Process(stub(tmp_path, "a"), tmp_path / "arm")
    process.wait_ready()
    process._connection.close()
    process._connection = None
    assert process._process.wait(30) == 1
    process.stop()


def test_a_silent_arm_is_given_up(tmp_path, monkeypatch):
    with arms.start([stub(tmp_path, "a", seconds=5)]) as running:
        monkeypatch.setattr(arms, "PATIENCE", 0.1)
        began = time.monotonic()
        with pytest.raises(arms.ArmDied, match="said nothing"):
            running["a"].turn(1, settle=0)
        assert time.monotonic() - began < 3
        running["a"].stop(grace=0)


def turn(tokens: int, seconds: float) -> arms.Turn:
    return {
        "useful_tokens": tokens, "padded_tokens": 2 * tokens, "examples": 4, "seconds": seconds, "steps": 2,
        "step_seconds": [seconds / 4, 3 * seconds / 4], "peak_bytes": 10 * tokens, "phases": {},
    }  # fmt: skip


def test_figures_are_those_of_the_turns():
    figures = arms.summary([turn(100, 1.0), turn(100, 4.0), turn(300, 2.0)])
    assert figures["useful_tokens_per_second"] == {"median": 100, "lowest": 25, "highest": 150}
    assert figures["padded_tokens_per_second"]["median"] == 200
    assert figures["step_seconds"] == {"median": 0.875, "lowest": 0.25, "highest": 3.0}
    assert (figures["fill"], figures["peak_bytes"], figures["turns"], figures["steps"]) == (0.5, 3000, 3, 6)


def test_ratios_are_taken_round_by_round():
    ours, theirs = [turn(100, 1.0), turn(100, 2.0)], [turn(50, 1.0), turn(100, 8.0)]
    assert arms.ratio_of_rounds(ours, theirs) == {"median": 3.0, "lowest": 2.0, "highest": 4.0}


def test_only_rank_0_talks(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv(arms.ADDRESS, "/nowhere")
    channel = arms.connect()
    channel.ready(parameters=1)
    channel.step(1, 1, 1)
    assert not channel.profiling


def test_without_a_parent_steps_run_on(monkeypatch):
    monkeypatch.delenv(arms.ADDRESS, raising=False)
    channel = arms.connect()
    channel.ready()
    for _ in range(3):
        channel.step(1, 1, 1)


def test_the_launcher_gets_several_processes(tmp_path):
    command = arms._command(stub(tmp_path, "a", processes=3), tmp_path / "spec.json")
    assert "deepspeed.launcher.runner" in command and command[command.index("--num_gpus") + 1] == "3"
    assert re.fullmatch(r"2\d{4}|3[01]\d{3}", command[command.index("--master_port") + 1])
    (tmp_path / "spec.json").write_text('{"x": 1}')
    spec = arms.spec_of(["--local_rank=2", str(tmp_path / "spec.json")])
    assert spec == {"x": 1, "folder": str(tmp_path)}
