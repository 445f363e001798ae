"""The choice: it fits, it keeps the step, and it says why; where nothing fits, the error says by how much."""

from pathlib import Path

import pytest

from tests.launching import DEMO
from trainer.config import load_recipe
from trainer.errors import UserError
from trainer.plan import given_gpus, make_plan
from trainer.plan.choose import _simplest
from trainer.plan.devices import Devices
from trainer.plan.speed import flops_per_token

NINE = Path(DEMO).with_name("nine_tasks.yaml")
CPU = Devices("cpu", "CPU", 1, 1, 64e9, 64e9, 5e9, 1e11, 2e10)


def plan(tmp_path, devices, *overrides):
    return make_plan(load_recipe(NINE, [f"data.store={tmp_path}", *overrides]), devices)


@pytest.mark.parametrize(("gpus", "gigabytes"), [(1, 16), (2, 24), (8, 16), (8, 80), (16, 80)])
def test_the_choice_fits_and_keeps_the_step(gpus, gigabytes, tmp_path):
    found = plan(tmp_path, given_gpus(gpus, gigabytes * 1e9))
    chosen = found.chosen
    assert chosen.memory.peak + chosen.reserve <= gigabytes * 1e9
    assert chosen.pack_tokens * chosen.packs_per_step == 16 * 2048
    assert chosen.packs_per_step % gpus == 0
    assert chosen.pack_tokens >= found.data.longest
    assert chosen.pack_tokens <= found.largest[chosen.config, chosen.checkpointing]


def test_a_large_gpu_trains_xlm_r_large_without_stage_3_and_without_checkpointing(tmp_path):
    chosen = plan(tmp_path, given_gpus(8, 80e9)).chosen
    assert (chosen.stage, chosen.offload, chosen.checkpointing) == (2, False, False)
    assert chosen.pack_tokens > 2048, "larger packs are faster where they fit"


def test_stage_3_is_for_what_does_not_fit_otherwise_and_offloading_for_the_rest(tmp_path):
    options = plan(tmp_path, given_gpus(8, 80e9)).options
    fitting = [option for option in options if option.fits]
    assert {option.stage for option in _simplest(fitting)} == {1, 2}
    rest = [option for option in fitting if option.stage == 3 or option.offload]
    assert {option.config for option in _simplest(rest)} == {"ds_configs/zero3.json"}
    rest = [option for option in rest if option.offload]
    assert _simplest(rest) == rest


def test_reasons_name_what_the_other_stages_lack(tmp_path):
    found = plan(tmp_path, given_gpus(8, 80e9, name="H100"), "model.encoder=facebook/xlm-roberta-xxl")
    assert (found.chosen.stage, len(found.reasons)) == (2, 4)
    lacking = next(option for option in found.options if option.stage == 1)
    assert f"stage 1 needs {-lacking.room / 1e9:.1f} GB more" in found.reasons[0]


def test_checkpointing_allows_larger_packs(tmp_path):
    largest = plan(tmp_path, given_gpus(8, 24e9)).largest
    for config in {config for config, _ in largest}:
        assert largest[config, True] > 2 * largest[config, False]


def test_nothing_fits_says_by_how_much(tmp_path):
    with pytest.raises(UserError) as error:
        plan(tmp_path, given_gpus(1, 8e9), "model.encoder=facebook/xlm-roberta-xxl")
    assert "lacks" in error.value.what and "GB" in error.value.what
    assert "10,802M parameters" in error.value.why
    assert "more devices" in error.value.fix


@pytest.mark.parametrize("gpus", [7, 64])
def test_a_step_that_cannot_be_shared_is_refused(gpus, tmp_path):
    with pytest.raises(UserError, match="cannot be shared") as error:
        plan(tmp_path, given_gpus(gpus, 80e9))
    assert "train.packs_per_step=" in error.value.fix


def test_a_cpu_keeps_the_recipe_and_fp32(tmp_path):
    found = plan(tmp_path, CPU, "model.encoder=xlm-roberta-base")
    assert found.dtype == "fp32"
    assert (found.chosen.pack_tokens, found.chosen.packs_per_step) == (2048, 16)
    assert found.chosen.config == "ds_configs/zero2.json"


def test_flops_are_those_published_for_xlm_r_large(tmp_path):
    shape = plan(tmp_path, given_gpus(1, 80e9)).shape
    assert flops_per_token(shape, 0) == pytest.approx(1.814e9, rel=1e-3)
    assert flops_per_token(shape, 1) - flops_per_token(shape, 0) == 294_912


def test_more_gpus_are_faster_but_less_efficient(tmp_path):
    speeds = [plan(tmp_path, given_gpus(n, 80e9)).chosen.speed for n in (1, 2, 4, 8)]
    rates = [speed.tokens_per_second for speed in speeds]
    assert rates == sorted(rates)
    assert speeds[0].efficiency == 1 and speeds[-1].efficiency < 1


@pytest.mark.parametrize(
    ("arguments", "what"), [((0, 8e9), "--gpus"), ((4, -1), "--gpu-memory"), ((3, 8e9, 2), "nodes")]
)
def test_impossible_devices_are_refused(arguments, what):
    with pytest.raises(UserError, match=what):
        given_gpus(*arguments)
