"""Parts of single checks that need no other process."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.launching import DEMO
from trainer.doctor.all_reduce import LARGE, MEDIUM, affordable, rounds, too_long
from trainer.doctor.checks.compilers import _lacking, builds, compiled_code
from trainer.doctor.checks.data import _fingerprint
from trainer.doctor.checks.machine import HARMLESS, installed
from trainer.doctor.checks.recipe import suits
from trainer.doctor.checks.storage import nearest_folder, write_speed
from trainer.doctor.cluster import Answers
from trainer.doctor.gradients import compare
from trainer.doctor.registry import CHECKS
from trainer.watch import alike


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_every_pair_meets_once_and_nobody_twice_in_a_round(count):
    found = list(rounds(range(count)))
    pairs = [pair for one in found for pair in one]
    assert sorted(pairs) == [(a, b) for a in range(count) for b in range(a + 1, count)]
    for one in found:
        members = [member for pair in one for member in pair]
        assert len(set(members)) == len(members)


def test_a_slow_network_gets_smaller_messages_and_is_called_slow():
    fast, slow, crawling = (affordable(MEDIUM / rate, 6.0, LARGE["cpu"]) for rate in (1e9, 10e6, 1e5))
    assert fast == LARGE["cpu"] and crawling == MEDIUM
    assert MEDIUM < slow < LARGE["cpu"] and slow % 4 == 0 and 7 * slow / 10e6 <= 6.0
    assert too_long([(30e6, 100.0)], 130.0).startswith("too slow: below 1 MB/s")
    assert "hangs" in too_long([], 130.0)


def test_gradients_are_compared_in_parts_of_the_largest():
    expected = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([0.5])}
    same = compare({name: value.clone() for name, value in expected.items()}, expected)
    assert same["difference"] == 0.0
    apart = compare({"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([0.9])}, expected)
    assert apart["worst"] == "b" and apart["difference"] == pytest.approx(0.1)
    broken = compare({"a": torch.tensor([1.0, math.nan]), "b": torch.tensor([0.5])}, expected)
    assert broken == {"difference": math.inf, "worst": "a"}
    with pytest.raises(ValueError, match="other parameters"):
        compare({"a": expected["a"]}, expected)
    with pytest.raises(ValueError, match="zero"):
        compare(expected, {name: torch.zeros_like(value) for name, value in expected.items()})


no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what a recipe lacks on a CPU")


@no_gpu
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("engine.dtype=fp16", "fp16"),
        ("kernels.attention=packed_varlen", "packed_varlen"),
        ("train.packs_per_step=5", "share evenly"),
    ],
)
def test_a_recipe_that_does_not_suit_a_cpu(override, says):
    found = suits(str(DEMO), [override], processes=2)
    assert [(fatal, says in text) for fatal, text, _ in found["problems"]] == [(True, True)]
    assert suits(str(DEMO), [], processes=2)["problems"] == []


@no_gpu
def test_offloading_on_a_cpu_is_said_but_not_refused():
    found = suits(str(DEMO), ["engine.config=ds_configs/zero3_offload.json"], processes=2)
    ((fatal, says, fix),) = found["problems"]
    assert not fatal and "offloads" in says and fix == "engine.config=ds_configs/zero3.json"


def test_what_must_be_compiled(tmp_path, monkeypatch):
    assert builds(str(DEMO), [])["ops"] == {}
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    overrides = ["engine.config=ds_configs/zero2_offload.json", "kernels.compile=on"]
    found = builds(str(DEMO), overrides)
    assert found["ops"] == {"cpu_adam": False} and found["missing"] == "a C++ compiler and ninja"
    assert found["kernels"] and found["kernels_lack"] == ["a C compiler"]
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setitem(sys.modules, "triton", None)
    assert list(_lacking(on_gpu=True)) == ["a C compiler", "triton", "Python's headers (python3-dev)"]
    built = tmp_path / "cpu_adam" / "cpu_adam.so"
    built.parent.mkdir()
    built.write_bytes(b"")
    assert builds(str(DEMO), overrides)["ops"] == {"cpu_adam": False}
    (tmp_path / "ninja").touch(0o755)  # without which torch loads nothing that it has built
    found = builds(str(DEMO), overrides)
    assert found["ops"] == {"cpu_adam": True} and found["missing"] == "a C++ compiler"
    host = SimpleNamespace(ask_recipe=lambda question: Answers({"node1": {**found, "kernels": False}}, {}))
    assert [finding.status for finding in compiled_code(host)] == ["pass"]
    assert builds(str(DEMO), overrides)["locks"] == {}
    built.with_name("lock").write_bytes(b"")  # of a build that was killed
    assert builds(str(DEMO), overrides)["locks"] == {"cpu_adam": str(built.with_name("lock"))}


def test_the_speed_of_a_disk_leaves_nothing_behind(tmp_path):
    assert nearest_folder(str(tmp_path / "runs" / "one")) == str(tmp_path)
    found = write_speed(str(tmp_path), "token")
    assert found["rate"] > 0 and found["free"] > 0
    assert list(tmp_path.iterdir()) == []


def test_stores_of_one_size_are_told_apart(tmp_path):
    for name, text in (("a", "same length 1"), ("b", "same length 2"), ("c", "same length 1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "units.arrow").write_text(text)
    a, b, c = (_fingerprint(tmp_path / name) for name in "abc")
    assert a["bytes"] == b["bytes"] and a["hash"] != b["hash"] and a["hash"] == c["hash"]


def test_the_doctor_compares_what_a_run_compares(monkeypatch):
    found = {}
    for patch in ("3.11.2", "3.11.9"):
        monkeypatch.setattr("platform.python_version", lambda patch=patch: patch)
        alike.versions.cache_clear()
        found[patch] = alike.versions(), installed()["versions"]
    alike.versions.cache_clear()
    (run, doctor), (other, _) = found.values()
    assert run == other and run["python"] == "3.11" and alike.source_hash() in run["xstilts"]
    assert run.items() <= doctor.items() and doctor["python patch"] == "2" and "python patch" in HARMLESS


def test_checks_say_what_they_do():
    for check in CHECKS.values():
        assert check.about and check.run.__doc__
