"""After the warm-up nothing is compiled again, and no micro-step waits for a value."""

import json
import os
import subprocess
import sys

import pytest

from tests.launching import ROOT


@pytest.mark.slow
def test_a_hundred_mixed_steps_neither_compile_nor_wait(store, tmp_path):
    overrides = [store, f"run.folder={tmp_path}", "kernels.compile=on", "train.packs_per_step=1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.runs.steady_worker", str(tmp_path / "out.json"), *overrides],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["mixed_steps"] == found["steps"] == 100
    assert found["graphs_at_the_end"] == found["graphs_after_warm_up"] > 0
    assert found["waits"]["micro-steps"] == {}
    # DeepSpeed asks of both parameter groups and of all gradients whether their norm is a number; the other four are
    # step counters that torch's fused AdamW reads on a CPU, where that is no wait.
    assert set(found["waits"]["optimizer step"]) <= {"aten::_local_scalar_dense"}
    assert sum(found["waits"]["optimizer step"].values()) <= (3 + 4) * found["steps"]
