import pytest
import torch

from trainer import gpus
from trainer.errors import UserError


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees this machine's GPUs")
def test_gpus_that_torch_cannot_use_are_not_passed_over(tmp_path):
    for number in range(2):
        (tmp_path / f"nvidia{number}").touch()
    (tmp_path / "nvidiactl").touch()
    with pytest.raises(UserError, match="cannot use this machine's 2 NVIDIA GPUs") as refused:
        gpus.check_gpus_seen({}, tmp_path)
    assert "DS_ACCELERATOR=cpu" in refused.value.fix
    for asked in ({"DS_ACCELERATOR": "cpu"}, {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}):
        gpus.check_gpus_seen(asked, tmp_path)
    gpus.check_gpus_seen({}, tmp_path / "none")
