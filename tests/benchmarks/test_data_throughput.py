import json

import numpy as np
import pytest

from benchmarks import data_throughput
from tests.stores import mixed_prepared
from trainer.config import load_recipe
from trainer.data.loader import Collator
from trainer.data.packing import Pack, Planner, StepPlan
from trainer.data.stream import Stream


def plan_of(*tokens: int, pack_tokens: int = 100) -> StepPlan:
    packs = tuple(Pack(np.array([0, 1]), np.array([0, 0]), count) for count in tokens)
    return StepPlan(packs, pack_tokens, {})


def test_imbalance_is_the_fullest_rank_over_the_mean():
    plan = plan_of(90, 100, 80, 90)
    assert data_throughput.rank_imbalance(plan, 1) == 0
    assert data_throughput.rank_imbalance(plan, 2) == pytest.approx(190 / 180 - 1)  # packs 0 and 2, packs 1 and 3
    assert data_throughput.rank_imbalance(plan, 4) == pytest.approx(100 / 90 - 1)


def test_plans_are_described():
    described = data_throughput.describe_plans([plan_of(90, 100, 80, 90), plan_of(100, 100, 100, 100)])
    assert (described["steps"], described["packs"], described["units"], described["tokens"]) == (2, 8, 16, 760)
    assert described["fill"] == {"mean": pytest.approx(0.95), "worst_step": pytest.approx(0.9)}
    assert described["imbalance_by_world_size"] == {
        "2": {"mean": pytest.approx(5 / 180), "worst": pytest.approx(10 / 180)},
        "4": {"mean": pytest.approx(5 / 90), "worst": pytest.approx(10 / 90)},
    }


@pytest.fixture
def parts(tmp_path):
    prepared, _ = mixed_prepared(tmp_path, train=40)
    stores = {name: item.train for name, item in prepared.items()}
    sizes = {name: len(store) for name, store in stores.items()}
    tokens = [store.tokens for store in stores.values()]

    def new_planner():
        return Planner(Stream(sizes, dict.fromkeys(sizes, 0.25), 0), tokens, 4096, 4)

    return prepared, new_planner, Collator({name: item.task for name, item in prepared.items()}, stores, 1, 4096)


def test_rates_are_useful_tokens_over_time(parts, monkeypatch):
    """On a clock that says 2 s for planning and 6 s for collating, then 1 and 3, then 4 and 12."""
    _, new_planner, collator = parts
    ticks = iter([0, 2, 8, 10, 11, 14, 20, 24, 36])
    monkeypatch.setattr(data_throughput.time, "perf_counter", lambda: next(ticks))
    result = data_throughput.measure(new_planner, collator, tokens=1, repeats=3)
    planner = new_planner()
    tokens = sum(planner.next_step().tokens for _ in range(planner.window_packs // 4))
    assert result["tokens"] == tokens > 0.9 * planner.window_packs * 4096
    assert result["repeats"] == 3
    assert result["plan_tokens_per_second"] == {"median": tokens / 2, "lowest": tokens / 4, "highest": tokens / 1}
    assert result["collate_tokens_per_second"] == {"median": tokens / 6, "lowest": tokens / 12, "highest": tokens / 3}
    assert result["tokens_per_second"] == {"median": tokens / 8, "lowest": tokens / 16, "highest": tokens / 4}


def test_every_pack_is_collated(parts):
    _, new_planner, collator = parts
    seen = []

    def counting(tasks, units, number, step):
        seen.append((len(units), number, step))
        return collator(tasks, units, number, step)

    result = data_throughput.measure(new_planner, counting, tokens=600_000, repeats=1)
    assert len(seen) == result["packs"] and sum(count for count, *_ in seen) == result["units"]
    assert [place for _, *place in seen] == [[n, step + 1] for step in range(result["steps"]) for n in range(4)]
    assert result["tokens"] > 600_000


def test_lengths_are_those_of_the_training_split(parts):
    prepared, _, _ = parts
    table = data_throughput.lengths(prepared)
    sizes = np.sort(prepared["choice"].train.sequence_lengths)
    assert table["choice"] == {
        "examples": 40, "units": 40, "p50": sizes[80], "p90": sizes[144], "p99": sizes[158], "max": sizes[-1],
    }  # fmt: skip
    assert list(table) == list(prepared)


def test_the_committed_result_names_no_path_and_reached_the_goal():
    text = (data_throughput.RESULTS / "data_throughput_real.json").read_text()
    result = json.loads(text)
    assert "/" not in text
    assert result["provenance"]["git_revision"] and result["repeats"] >= 5
    assert result["tokens_per_second"]["median"] >= data_throughput.GOAL


def test_a_mixture_with_masked_language_modelling(masked_mixture, monkeypatch):
    recipe, overrides = masked_mixture
    monkeypatch.setattr(data_throughput, "use_one_core", lambda: None)
    result = data_throughput.run(load_recipe(recipe, overrides), tokens=1, repeats=1)
    assert result["tokens_per_second"]["median"] > 0 and set(result["setting"]["rates"]) == {"qqp", "mlm", "mlm-de"}
