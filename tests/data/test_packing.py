import itertools
import json

import numpy as np
import pytest

from trainer.data.packing import Planner, pack_in_order, packs_of_rank
from trainer.data.stream import Stream, permutation
from trainer.errors import UserError

# Unit lengths in tokens as (quantile, length) points, joined by straight lines: stand-ins for single sentences' pairs
# (QQP, NLI), SQuAD windows cut at 384, four HellaSwag endings together, and CCG sentences.
LENGTHS = {
    "pairs": ((0, 9), (0.5, 31), (0.9, 55), (0.99, 84), (1, 250)),
    "windows": ((0, 34), (0.5, 173), (0.9, 285), (0.99, 384), (1, 384)),
    "options": ((0, 88), (0.5, 385), (0.9, 560), (0.99, 640), (1, 760)),
    "sentences": ((0, 4), (0.5, 30), (0.9, 54), (0.99, 80), (1, 160)),
}
SIZES = {"pairs": 40_000, "windows": 9_000, "options": 4_000, "sentences": 8_000}
RATES = {"pairs": 0.55, "windows": 0.2, "options": 0.15, "sentences": 0.1}
# Little to fill gaps with, so that units must wait.
COARSE = {"pairs": 0.01, "windows": 0.49, "options": 0.49, "sentences": 0.01}


def lengths(name: str) -> np.ndarray:
    """Evenly spaced quantiles, in an order that has nothing to do with length."""
    quantiles, tokens = zip(*LENGTHS[name], strict=True)
    ordered = (np.interp(np.linspace(0, 1, SIZES[name]), quantiles, tokens) + 1e-6).astype(np.int64)
    return ordered[permutation(0, name, 0, SIZES[name])]


TOKENS = {name: lengths(name) for name in SIZES}


def planner(pack_tokens=16_384, packs_per_step=8, seed=5, rates=RATES) -> Planner:
    return Planner(Stream(SIZES, rates, seed), list(TOKENS.values()), pack_tokens, packs_per_step)


def steps(plan: Planner, count: int) -> list:
    return [plan.next_step() for _ in range(count)]


def contents(plan) -> list:
    return [(pack.tasks.tolist(), pack.units.tolist(), pack.tokens) for pack in plan.packs]


def pairs(plans: list) -> list[tuple[int, int]]:
    """(task, unit) of every placed unit."""
    packs = [pack for plan in plans for pack in plan.packs]
    return [pair for pack in packs for pair in zip(pack.tasks.tolist(), pack.units.tolist(), strict=True)]


@pytest.mark.parametrize("pack_tokens, packs_per_step", [(16_384, 8), (4096, 16), (2048, 4), (65_536, 8)])
def test_packs_are_full_and_ranks_balanced(pack_tokens, packs_per_step):
    for plan in steps(planner(pack_tokens, packs_per_step), 40):
        assert plan.fill >= 0.98
        for world_size in (2, 4, packs_per_step):
            shares = [
                sum(plan.packs[number].tokens for number in packs_of_rank(packs_per_step, rank, world_size))
                for rank in range(world_size)
            ]
            assert max(shares) / np.mean(shares) - 1 <= 0.01


def test_a_pack_never_overflows_and_its_tokens_are_counted_right():
    tables = list(TOKENS.values())
    for plan in steps(planner(), 20):
        for pack in plan.packs:
            used = sum(int(tables[task][unit]) for task, unit in zip(pack.tasks, pack.units, strict=True))
            assert pack.tokens == used <= 16_384
        assert plan.tokens == sum(pack.tokens for pack in plan.packs)
        assert plan.fill == plan.tokens / (8 * 16_384)
        counts = plan.task_counts(4)
        assert counts.sum() == sum(len(pack.units) for pack in plan.packs)
        assert counts[0] == sum(int(np.sum(pack.tasks == 0)) for pack in plan.packs)


def drawn_until(state: dict, stream: Stream) -> list[tuple[int, int]]:
    """(task, unit) of everything a fresh stream gives up to where a plan's state has it."""
    drawn = []
    while stream.block <= state["stream"]["block"]:
        used = None if stream.block < state["stream"]["block"] else state["at"]
        drawn += list(zip(*(part.tolist() for part in stream.next_block()), strict=True))[:used]
    return drawn


@pytest.mark.parametrize("rates", [RATES, COARSE])
def test_every_drawn_unit_is_placed_exactly_once(rates):
    """After whole windows, packs and the units still waiting are what the stream drew, nothing twice or lost."""
    plan = planner(2048, rates=rates)
    placed = []
    for _ in range(3):
        placed += pairs(steps(plan, plan.window_packs // 8))
    state = plan.next_step().state  # says what the last whole window left over
    waiting = [tuple(pair) for pair in state["missed"]]
    assert waiting
    assert sorted(placed + waiting) == sorted(drawn_until(state, Stream(SIZES, rates, 5)))


def test_units_wait_more_than_one_window_when_they_must():
    """Halves (and a token) keep wholes out; a window that is full with waiting wholes leaves other waiting ones."""
    sizes, rates = {"halves": 60, "wholes": 60}, {"halves": 0.5, "wholes": 0.5}
    tokens = [np.full(60, (1 << 17) + 1), np.full(60, 1 << 18)]
    plan = Planner(Stream(sizes, rates, 0), tokens, 1 << 18, 2)
    assert plan.window_packs == 2
    placed, waited = [], 0
    for _ in range(200):
        step = plan.next_step()
        waiting = [tuple(pair) for pair in step.state["missed"]]
        assert sorted(placed + waiting) == sorted(drawn_until(step.state, Stream(sizes, rates, 0)))
        waited = max(waited, len(waiting) - len(set(waiting) & set(pairs([step]))))
        placed += pairs([step])
    assert waited > 2


def test_no_unit_waits_for_long():
    """What found no room in a window is in the next one."""
    plan = planner(2048, rates=COARSE)
    waited = 0
    for window in range(6):
        of_window = steps(plan, plan.window_packs // 8)
        assert of_window[0].state["window"] == window
        missed = {tuple(pair) for pair in of_window[0].state["missed"]}
        assert missed <= set(pairs(of_window))
        waited += len(missed)
    assert waited > 100


@pytest.mark.parametrize("rates", [RATES, COARSE])
def test_continues_from_any_step(rates):
    """At a window's first, middle and last steps: the state alone, through JSON, decides what follows."""
    original = planner(2048, 4, rates=rates)
    plans = steps(original, 3 * original.window_packs // 4 + 3)
    for at in [0, 1, 30, 62, 63, 64, 65, 100, 127, 128, len(plans) - 4]:
        fresh = planner(2048, 4, rates=rates)
        fresh.restore(json.loads(json.dumps(plans[at].state)))
        for expected in plans[at + 1 : at + 4]:
            found = fresh.next_step()
            assert contents(found) == contents(expected)
            assert found.state == expected.state
            assert found.example_ids_hash() == expected.example_ids_hash()


def test_a_restored_planner_may_have_been_used():
    plans = steps(planner(), 4)
    used = planner()
    steps(used, 7)
    used.restore(plans[1].state)
    assert contents(used.next_step()) == contents(plans[2])


def test_plans_depend_on_the_seed_and_on_nothing_else():
    assert contents(planner(seed=5).next_step()) == contents(planner(seed=5).next_step())
    assert planner(seed=5).next_step().example_ids_hash() != planner(seed=6).next_step().example_ids_hash()


def test_the_hash_tells_order_and_ids():
    first, second = steps(planner(), 2)
    assert first.example_ids_hash() != second.example_ids_hash()
    assert len(first.example_ids_hash()) == 16


def test_the_plan_never_changes():
    """As in test_stream: a change gives every run another order, and no old run could be continued."""
    assert [plan.example_ids_hash() for plan in steps(planner(), 5)][::4] == ["c4188aa245c5a840", "f755ef1132dc4fea"]


def test_packs_are_as_mixed_as_the_mixture():
    """No pack of a window is systematically made of the leftovers: each holds every common task."""
    for plan in steps(planner(), 8):
        for pack in plan.packs:
            assert np.bincount(pack.tasks, minlength=4).min() > 0


def test_rates_survive_packing():
    counts = sum(plan.task_counts(4) for plan in steps(planner(), 200))
    assert counts / counts.sum() == pytest.approx(list(RATES.values()), abs=0.005)


def test_packs_of_rank_share_out_every_pack_once():
    for size in (1, 2, 4, 8):
        taken = [list(packs_of_rank(8, rank, size)) for rank in range(size)]
        assert sorted(itertools.chain(*taken)) == list(range(8))
        assert {len(packs) for packs in taken} == {8 // size}


def test_a_world_size_that_does_not_divide_the_packs():
    with pytest.raises(UserError, match="train.packs_per_step is 8, which 3 processes") as caught:
        packs_of_rank(8, 0, 3)
    assert "train.packs_per_step=9" in caught.value.fix
    with pytest.raises(UserError) as caught:
        packs_of_rank(2, 0, 16)
    assert "train.packs_per_step=16" in caught.value.fix


def test_a_unit_larger_than_a_pack():
    with pytest.raises(UserError, match="an example of options has 760 tokens, but a pack holds 512") as caught:
        planner(pack_tokens=512)
    assert "train.pack_tokens=1024" in caught.value.fix
    planner(pack_tokens=760)


def test_pack_in_order():
    tokens = np.array([5, 5, 1, 10, 9, 2, 12])
    packs = [pack.tolist() for pack in pack_in_order(tokens, 10)]
    assert packs == [[0, 1], [2], [3], [4], [5], [6]]
    assert [pack.tolist() for pack in pack_in_order(tokens, 1000)] == [list(range(7))]
    assert pack_in_order(np.empty(0, np.int64), 10) == []
