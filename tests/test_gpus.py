"""GPUs that the driver has and torch does not see: no run trains on the CPU in their stead by mistake."""

import pytest
import torch

from tests.launching import DEMO, xstilts
from trainer import gpus
from trainer.errors import UserError


@pytest.fixture
def driver(tmp_path, monkeypatch) -> None:
    """Of two GPUs, of which torch sees none."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf 'GPU 0: X (UUID: GPU-1)\\nGPU 1: X (UUID: GPU-2)\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_that_torch_does_not_see_are_refused(driver, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="has 2 NVIDIA GPUs, but torch sees none") as caught:
        gpus.check_seen({})
    assert "is a CPU build" in caught.value.why and "DS_ACCELERATOR=cpu before the command" in caught.value.fix
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError) as caught:
        gpus.check_seen({"CUDA_VISIBLE_DEVICES": "7"})
    assert "CUDA 13.0, which cannot start here; CUDA_VISIBLE_DEVICES is 7" in caught.value.why
    assert "update the driver" in caught.value.fix


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_who_wants_the_cpu_gets_it(visible, driver):
    gpus.check_seen({"CUDA_VISIBLE_DEVICES": visible})
    gpus.check_seen({"DS_ACCELERATOR": "cpu"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees the GPUs")
@pytest.mark.parametrize("command", [["train"], ["launch", "--dry-run"]])
def test_neither_trains_nor_launches_without_them(command, driver, tmp_path):
    device = {"DS_ACCELERATOR": "", "CUDA_VISIBLE_DEVICES": "0,1"}
    done = xstilts(command[0], DEMO, f"run.folder={tmp_path}", *command[1:], **device)
    assert done.returncode == 2 and "but torch sees none" in done.stderr, done.stdout + done.stderr
