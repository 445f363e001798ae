"""How the ranks of a run meet: not for ever, and not with other devices. With real processes."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from tests.launching import DEMO, ROOT, xstilts
from trainer.distributed import World, bind_gloo
from trainer.errors import UserError
from trainer.exits import Exit
from trainer.launchers import free_port
from trainer.network import interface_towards


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_meets_nobody_ends_and_says_where_it_waited(rank, tmp_path):
    world = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_SIZE": "1"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    began = time.monotonic()
    done = xstilts("train", DEMO, f"run.folder={tmp_path}", "watch.meet_seconds=3", **world, **place, timeout=120)
    assert done.returncode == Exit.PEER and time.monotonic() - began < 100, done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    where = f"at 127.0.0.1:{place['MASTER_PORT']} within 3 s (watch.meet_seconds)"
    assert f"exit 24: rank {rank} of 2 has not met all others {where}" in last and "xstilts doctor" in last
    left = json.loads((tmp_path / f"demo/ranks/exit-{rank}.json").read_text())
    assert left["code"] == 24 and left["cause"] in last


MIXED = """
import dataclasses, os, sys, torch
from trainer.config import load_recipe
from trainer.distributed import World
from trainer.exits import explain
from trainer.joining import joined

mine = World.from_environment()
mine = dataclasses.replace(mine, device=torch.device("cuda" if mine.first else "cpu"))
World.from_environment = lambda: mine
try:
    with joined(load_recipe(None, ["train.steps=1", f"run.folder={sys.argv[1]}"]), print):
        pass
except Exception as error:
    code, cause = explain(error)
    print(cause, flush=True)
    os._exit(code)
"""


def test_gpus_here_and_cpus_there_are_refused_before_they_wait_for_each_other(tmp_path):
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    words, pipes = [sys.executable, "-c", MIXED, str(tmp_path)], {"stdout": subprocess.PIPE, "text": True}
    own = [{**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    ranks = [subprocess.Popen(words, env=environment, cwd=ROOT, **pipes) for environment in own]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [Exit.ENVIRONMENT] * 2, said
    assert all("do not have the same devices, code and packages: device" in text for text in said)


LATE = """
import os, time
from trainer.distributed import World, gather_by_store, open_store

class Late:
    def __init__(self, store):
        self.store = store
    def __getattr__(self, name):
        if name == "multi_get":
            time.sleep(1)
        return getattr(self.store, name)

world = World.from_environment()
store = open_store(world)
print(gather_by_store(store if world.first else Late(store), world, world.rank), flush=True)
os._exit(0)
"""


def test_rank_0_does_not_take_the_store_along_before_all_have_read():
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    own = [{**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    words = [sys.executable, "-c", LATE]
    ranks = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for environment in own]
    assert [rank.communicate(timeout=120)[0] for rank in ranks] == ["[0, 1]\n"] * 2


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in {"RANK": 6, "WORLD_SIZE": 8, "LOCAL_RANK": 2, "LOCAL_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(UserError) as caught:
        World.from_environment()
    said = str(caught.value)
    assert "process 3 of 4" in said and "it sees 2" in said and "CUDA_VISIBLE_DEVICES is 4,5" in said
    assert "slots=2" in said and caught.value.exit_code == Exit.USER
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert World.from_environment().device == torch.device("cuda", 1)


def test_gloo_is_told_the_network_of_the_hosts(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setattr("trainer.distributed.interface_towards", {"10.0.0.1": "ib0"}.get)
    cpu = torch.device("cpu")
    bind_gloo(World(0, 2, 0, 2, cpu))
    assert "GLOO_SOCKET_IFNAME" not in os.environ  # one host
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.2")
    bind_gloo(World(0, 2, 0, 1, cpu))
    assert "GLOO_SOCKET_IFNAME" not in os.environ  # no interface
    ways = {"10.0.0.1": "ib0", "192.0.2.1": "eth0"}
    monkeypatch.setattr("trainer.distributed.interface_towards", ways.get)
    monkeypatch.setenv("MASTER_ADDR", "node1")  # which on node1 itself is 127.0.1.1
    bind_gloo(World(0, 2, 0, 1, cpu))
    assert os.environ.pop("GLOO_SOCKET_IFNAME") == "eth0"
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    bind_gloo(World(0, 2, 0, 1, cpu))
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    bind_gloo(World(0, 2, 0, 1, cpu))
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"


def test_no_interface_is_named_for_what_does_not_leave_the_machine():
    assert [interface_towards(name) for name in ("127.0.1.1", "localhost", "no such name", "")] == [None] * 4
