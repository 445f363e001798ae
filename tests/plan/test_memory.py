"""The ledger against sums done by hand. How near it is to real runs, benchmarks/memory.py measures."""

import pytest

from trainer import engine
from trainer.plan.activations import Activations
from trainer.plan.memory import BEGIN, END, INIT, STEP, memory
from trainer.plan.shapes import Shape

P, V = 1_000_000_000, 200_000_000
SHAPE = Shape("model", 24, 1024, 16, 4096, False, 0.1, 0.1, 1, 1, 0, P, V)
NOTHING = Activations(0.0, 0.0, 0.0)


def need(stage, dtype="bf16", ranks=1, micro_steps=2, device="cuda", kept=NOTHING):
    return memory(SHAPE, kept, engine.read_config(f"ds_configs/zero{stage}.json"), dtype, ranks, micro_steps, device)


def sums(found, per=P):
    return {moment: sum(parts.values()) / per for moment, parts in found.moments.items()}


def test_stage_2_in_bf16_is_18_bytes_a_parameter_on_one_gpu():
    found = need(2)
    buckets = 2 * 2 * 50e6 / P
    assert sums(found)[BEGIN] == pytest.approx(2 + 4 + 4 + 8 + buckets)
    assert sums(found)[STEP] == pytest.approx(2 + 4 + 4 + 8 + 8 * V / P)  # norms are taken in fp64


def test_partitions_shrink_with_the_ranks_and_weights_do_not():
    one, many = need(2, ranks=1).moments[BEGIN], need(2, ranks=64).moments[BEGIN]
    assert many["optimizer state"] == one["optimizer state"] / 64
    assert many["weights"] == one["weights"]
    assert need(3, ranks=64).moments[BEGIN]["weights"] == one["weights"] / 64


def test_fp32_at_stage_2_keeps_the_weights_twice_and_copies_gradients_in_the_step():
    found = sums(need(2, "fp32", device="cpu"))
    assert found[STEP] == pytest.approx(4 + 4 + 8 + 4 + 4)
    assert found[INIT] == pytest.approx(12)


def test_stage_0_in_fp32_is_16_bytes_a_parameter():
    assert sums(need(0, "fp32", device="cpu"))[STEP] == pytest.approx(16)


def test_stage_1_in_bf16_keeps_whole_gradients_twice():
    assert need(1, ranks=1000).moments[BEGIN]["gradients"] == 6 * P


def test_a_gpu_gets_the_whole_module_in_its_dtype_first_and_a_cpu_in_fp32():
    for stage in ("3", "3_offload"):
        assert sums(need(stage, ranks=1000))[INIT] == pytest.approx(2)
        assert sums(need(stage, ranks=1000, device="cpu"))[INIT] >= 4


def test_offloading_moves_the_optimizer_to_the_host():
    found = need("2_offload", ranks=4)
    assert all(parts["optimizer state"] == 0 for parts in found.moments.values())
    assert found.host >= 16 * P / 4
    assert need("3_offload", ranks=4).moments[STEP]["weights"] == 0


def test_on_a_cpu_what_is_offloaded_takes_the_same_memory():
    on_gpu, on_cpu = need("2_offload", "fp32"), need("2_offload", "fp32", device="cpu")
    assert on_cpu.peak > on_gpu.peak + 0.9 * on_gpu.host - 1e9


def test_activations_count_where_they_are():
    found = need(2, kept=Activations(5e9, 1e9, 2e8))
    assert found.moments[BEGIN]["activations"] == 6e9
    assert found.moments[END]["activations"] == 2e8
    assert found.moments[STEP]["activations"] == 0
    assert found.peak_moment == BEGIN


@pytest.mark.parametrize("stage", ["0", "1", "2", "3", "2_offload", "3_offload"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_more_ranks_never_need_more(stage, dtype, device):
    few, many = need(stage, dtype, 2, device=device), need(stage, dtype, 16, device=device)
    assert many.peak <= few.peak
