import json

import numpy as np
import pytest
import torch

from benchmarks import arms, lengths, mixing, rates, scaling, throughput, workload
from trainer.config import MixtureSection, TrainSection
from trainer.tasks.spec import Task

FACTS = {"encoder_parameters": 302_309_376, "layers": 24, "hidden": 1024, "effective_length": 130.0, "world_size": 2}


def test_flops_of_a_token_are_those_of_the_formula():
    """XLM-R Large: 1.814e9 + 294,912 s."""
    assert rates.flops_per_token(302_309_376, 24, 1024, 0) == pytest.approx(1.814e9, rel=1e-3)
    per_length = rates.flops_per_token(0, 24, 1024, 1)
    assert per_length == 294_912


def test_mfu_is_a_share_of_the_measured_rate():
    ceilings = {"matmul_flops_per_second": 798e12, "data_sheet_flops_per_second": 989e12}
    found = throughput.utilisation(2 * 215_000, FACTS, ceilings)  # by two processes: 215k tokens/s each are 50%
    assert found["mfu"] == pytest.approx(0.5, rel=0.01)
    assert found["share_of_data_sheet"] == pytest.approx(found["mfu"] * 798 / 989)
    ceilings["data_sheet_flops_per_second"] = None
    assert throughput.utilisation(1.0, FACTS, ceilings)["share_of_data_sheet"] is None


@pytest.mark.parametrize(
    "name, rate",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H200", 989e12),
        ("Some GPU 9000", None),
    ],
)
def test_data_sheets_are_found_by_name(name, rate):
    assert rates.data_sheet(name) == rate


def test_rates_of_this_machine_are_measured(monkeypatch):
    monkeypatch.setattr(rates, "SIZES", {"cpu": (64, 128)})
    monkeypatch.setattr(rates, "COPY_BYTES", {"cpu": 1 << 20})
    found = rates.measure(torch.device("cpu"), torch.float32, seconds=0.01)
    assert found["matmul_flops_per_second"] == max(found["matmul_by_size"].values()) > 1e6
    assert found["copy_bytes_per_second"] > 1e6 and found["data_sheet_flops_per_second"] is None


def test_the_best_round_counts(monkeypatch):
    ticks = iter([0, 1, 1, 2, 10, 12, 20, 24, 30, 33])  # two calls of 1 s, then rounds of 2, 4 and 3 s
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(ticks))
    assert rates._best_rate(lambda: None, 5.0, torch.device("cpu"), seconds=3.0) == 5.0 / 2


def test_waves_leave_room_for_the_baseline():
    variants = [arms.Arm(str(i), "m", {}) for i in range(5)]
    assert [[arm.name for arm in wave] for wave in throughput.waves(variants, 3)] == [["0", "1"], ["2", "3"], ["4"]]
    assert len(throughput.waves(variants, 1)) == 5


def test_phases_and_the_rest_are_the_step():
    turn = {"phases": {"data": 0.1, "forward": 0.3}, "seconds": 2.0, "steps": 4}
    found = throughput.phases(turn)
    assert found["step"] == 0.5 and found["other"] == pytest.approx(0.1)


def test_packs_of_every_size_make_the_same_batch():
    study = throughput.Study(None, None, {}, 16384, None, "", {}, {}, None)
    assert study.packing(2048) == ("train.pack_tokens=2048", "train.packs_per_step=8")
    assert study.packing(16384) == ("train.pack_tokens=16384", "train.packs_per_step=1")


@pytest.mark.slow
def test_ours_is_an_arm(tmp_path):
    """Two packs a step through the real session and loop: tokens, phases and memory are told."""
    base = workload.choose(tmp_path, "tiny", units_per_task=40)
    packing = ("train.pack_tokens=1536", "train.packs_per_step=2")
    with arms.start([arms.Arm("ours", "benchmarks.ours", base.spec(*packing))]) as running:
        facts = running["ours"].facts
        turn = running["ours"].turn(3)
        profiled = running["ours"].turn(1, profile=True)
    assert facts["encoder_parameters"] == 2 * (4 * 64 * 65 + 64 * 129 + 128 * 65 + 4 * 64)
    assert facts["encoder_parameters"] < facts["parameters"] and facts["packs_per_step"] == 2
    assert 0.9 < turn["useful_tokens"] / (turn["steps"] * 2 * 1536) <= 1
    assert turn["padded_tokens"] >= turn["useful_tokens"] and turn["examples"] > 3
    assert turn["peak_bytes"] > facts["baseline_bytes"] > 1e8
    phases = profiled["phases"]
    assert set(phases) == {"data", "forward", "backward", "optimizer"}
    assert 0 < sum(phases.values()) <= profiled["seconds"]


def test_a_predicted_step_is_the_formula():
    network = scaling.Interconnect("", within_node=100.0, between_nodes=10.0, ranks_a_node=2, latency=0.5)
    alone = scaling.predicted_step_seconds(2.0, 1.0, 3, 1, 50, 100.0, network)
    assert alone == pytest.approx(3 * 2.0 + scaling.ADAM_BYTES * 50 / 100)
    two = scaling.predicted_step_seconds(2.0, 1.0, 3, 2, 50, 100.0, network, cv=0.0)
    wire = 0.5 * 100 / 100  # hidden behind the backward pass, then once more for the weights
    assert two == pytest.approx(3 * 2.0 + wire + scaling.ADAM_BYTES * 50 / 200 + 0.5)
    slow = scaling.predicted_step_seconds(2.0, 1.0, 3, 4, 50, 100.0, network, cv=0.0)
    wire = 0.75 * 100 / 10
    exposed = wire - scaling.OVERLAP * 1.0
    assert slow == pytest.approx(3 * (2.0 + exposed) + wire + scaling.ADAM_BYTES * 50 / 400 + 1.0)
    assert scaling.predicted_step_seconds(2.0, 1.0, 3, 2, 50, 100.0, network, cv=0.1) > two


def test_predictions_say_so_and_lose_efficiency_with_ranks():
    facts = {"packs_per_step": 2, "world_size": 1, "parameters": 340_000_000}
    rows = scaling.predict(facts, {"forward": 0.04, "backward": 0.08}, 16000, 3e12, 0.003)
    assert len(rows) == len(scaling.INTERCONNECTS) * len(scaling.RANKS) and all(row["predicted"] for row in rows)
    efficiency = [row["efficiency"] for row in rows if row["interconnect"] == scaling.INTERCONNECTS[1].name]
    assert 1.05 > efficiency[0] > efficiency[-1] > 0.5
    row = rows[0]
    assert row["useful_tokens_per_second"] == pytest.approx(8 * 2 * 16000 / row["step_seconds"])


def test_mixing_tells_rates_in_units_and_tokens():
    sizes = {"short": np.full(300, 10), "long": np.full(100, 90)}
    tasks = {name: mixing.Sized(Task(name, "pair_classification"), tokens) for name, tokens in sizes.items()}
    train = TrainSection(steps=6, packs_per_step=4, pack_tokens=500)
    found = mixing.measure(tasks, MixtureSection(strategy="proportional"), train)
    short, long = found["tasks"]["short"], found["tasks"]["long"]
    assert short["asked"] == pytest.approx(0.75) and short["units"] == pytest.approx(0.75, abs=0.1)
    assert short["tokens"] == pytest.approx(short["units"] * 10 / (short["units"] * 10 + long["units"] * 90))
    assert short["units"] + long["units"] == pytest.approx(1) == short["tokens"] + long["tokens"]
    assert long["passes"] == pytest.approx(long["units"] * found["plans"]["units"] / 100)
    assert found["plans"]["packs"] == 24 and set(found["plans"]["imbalance_by_world_size"]) == {"2", "4"}


def test_the_published_tasks_keep_their_sizes(tmp_path):
    tasks = mixing.published_tasks(lengths.load(), share=0.01)
    assert len(tasks["mnli"].train) == round(0.01 * lengths.PUBLISHED["mnli"])
    assert len(tasks["squad_v1"].train) > 0.01 * lengths.PUBLISHED["squad_v1"]  # windows
    assert len(mixing.STRATEGIES) >= 5


def test_mixing_runs_as_a_command(tmp_path):
    mixing.main(["--dry", "--steps", "2", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "mixing.json").read_text())
    assert list(result["arms"]) == list(mixing.STRATEGIES) and (tmp_path / "mixing.png").is_file()
    for row in result["arms"].values():
        assert row["plans"]["fill"]["mean"] > 0.95 and row["worst_rate_error"] < 0.02
