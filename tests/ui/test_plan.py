"""What `xstilts plan` prints: every number whole in 80 columns, and the same numbers the plan holds."""

from pathlib import Path

import pytest
from rich.console import Console

from tests.launching import DEMO, xstilts
from trainer.config import load_recipe
from trainer.plan import given_gpus, make_plan
from trainer.ui.plan import plan_view

NINE = Path(DEMO).with_name("nine_tasks.yaml")


@pytest.mark.parametrize("encoder", ["xlm-roberta-large", "xlm-roberta-xxl"])
@pytest.mark.parametrize("gpus", [(8, 80e9), (16, 640e9, 2)])
def test_the_view_keeps_every_number_whole(encoder, gpus, tmp_path):
    plan = make_plan(load_recipe(NINE, [f"model.encoder={encoder}", f"data.store={tmp_path}"]), given_gpus(*gpus))
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(plan_view(plan))
    text = console.export_text()
    assert "…" not in text
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert f"engine.config={plan.chosen.config}" in text
    peak = plan.chosen.memory.peak + plan.chosen.reserve
    assert f"{peak / 1e9:.1f}" in text
    for option in plan.options:
        if option.fits:
            assert f"{option.packs_per_step} x {option.pack_tokens:,}" in text


def test_the_command_takes_overrides_behind_options(tmp_path):
    overrides = (f"data.store={tmp_path}", "model.encoder=xlm-roberta-xl")
    done = xstilts("plan", NINE, "--gpus", 8, "--gpu-memory", 80, *overrides)
    assert done.returncode == 0, done.stderr
    assert "xlm-roberta-xl: 3.5G parameters" in done.stdout


def test_a_gpu_count_without_memory_is_refused(tmp_path):
    done = xstilts("plan", NINE, "--gpus", 8)
    assert done.returncode == 2
    assert "--gpu-memory" in done.stderr
