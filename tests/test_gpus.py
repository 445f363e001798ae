"""GPUs that the driver has and torch cannot use: no run trains on the CPU in their stead by mistake."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.launching import DEMO, xstilts
from trainer import gpus
from trainer.errors import UserError


@pytest.fixture
def unusable(monkeypatch) -> None:
    """CUDA does not start, though the driver's library may still count two GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi of these lines of sh onto the path."""

    def put(lines: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    put("printf 'GPU 0: X (UUID: GPU-1)\\nGPU 1: X (UUID: GPU-2)\\n'")
    return put


def test_gpus_that_torch_cannot_use_are_refused(unusable, smi, monkeypatch):
    with pytest.raises(UserError, match="has 2 NVIDIA GPUs that torch cannot use") as caught:
        gpus.check_seen({})
    assert caught.value.why == "CUDA 13.0 does not start" and "driver too old" in caught.value.fix
    assert "torch.zeros(1).cuda()" in caught.value.fix and "DS_ACCELERATOR=cpu before the command" in caught.value.fix
    for visible in ("7", "cuda:0"):
        with pytest.raises(UserError) as caught:
            gpus.check_seen({"CUDA_VISIBLE_DEVICES": visible})
        assert f"with CUDA_VISIBLE_DEVICES={visible}" in caught.value.why and "nvidia-smi -L" in caught.value.fix
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError) as caught:
        gpus.check_seen({})
    assert "is not built for CUDA" in caught.value.why


@pytest.mark.parametrize("lines", ["exit 9", "echo 'No devices were found'"])
def test_without_an_answer_of_nvidia_smi_the_devices_count(lines, unusable, smi, tmp_path):
    smi(lines)
    gpus.check_seen({}, tmp_path)
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "nvidia1").mkdir()  # may not be opened, as those of others in a container
    with pytest.raises(UserError, match="has an NVIDIA GPU that torch cannot use"):
        gpus.check_seen({}, tmp_path)


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_who_wants_the_cpu_gets_it(visible, unusable, smi):
    gpus.check_seen({"CUDA_VISIBLE_DEVICES": visible})
    gpus.check_seen({"DS_ACCELERATOR": "cpu"})


def test_what_asks_torch_for_gpus_finds_none_on_the_cpu():
    program = "import os, trainer; print(repr(os.environ.get('CUDA_VISIBLE_DEVICES')))"
    said = {}
    for choice in ("cpu", "cuda"):
        environ = {"DS_ACCELERATOR": choice, "CUDA_VISIBLE_DEVICES": "1"}
        root = Path(gpus.__file__).parents[1]
        done = subprocess.run([sys.executable, "-c", program], cwd=root, env=environ, capture_output=True, text=True)
        said[choice] = done.stdout.strip()
    assert said == {"cpu": "''", "cuda": "'1'"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPUs")
@pytest.mark.parametrize("command", [["train"], ["launch", "--dry-run"]])
def test_neither_trains_nor_launches_without_them(command, smi, tmp_path):
    device = {"DS_ACCELERATOR": "", "CUDA_VISIBLE_DEVICES": "0,1"}
    done = xstilts(command[0], DEMO, f"run.folder={tmp_path}", *command[1:], **device)
    assert done.returncode == 2 and "that torch cannot use" in done.stderr, done.stdout + done.stderr
