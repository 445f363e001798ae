import contextlib
import io
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import arms, hf_parity, hf_rounds, hf_settings, results, versus_hf, workload
from benchmarks.hf_data import PaddedCollator, TaskBatches, UnitDataset, longest_sequences, tokens_per_example
from benchmarks.hf_rounds import Comparison, Fleet
from benchmarks.hf_settings import Setting
from tests.stores import TASKS, mixed_prepared
from trainer.config import load_recipe
from trainer.data.packing import FULL
from trainer.errors import UserError

RATES = {"nli": 0.5, "choice": 0.25, "spans": 0.15, "tags": 0.1}


@pytest.fixture
def prepared(tmp_path):
    return mixed_prepared(tmp_path, train=60)[0]


def batches_of(prepared, strategy="random", micro_batch=4, accumulation=1, ranks=1, steps=100, seed=0):
    lengths = longest_sequences(prepared)
    return TaskBatches(lengths, RATES, strategy, micro_batch, accumulation, ranks, steps, seed)


def tasks_in(prepared, batch):
    data = UnitDataset([item.train for item in prepared.values()])
    return {data[index][0] for index in batch}


def padded_tokens(prepared, batches):
    lengths = np.concatenate(list(longest_sequences(prepared).values()))
    return sum(len(batch) * lengths[batch].max() for batch in batches)


# Which examples a batch has.


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "batch_rebalance"])
def test_a_batch_is_of_one_task_and_tasks_come_at_their_rates(prepared, strategy):
    batches = batches_of(prepared, strategy, accumulation=2, steps=200)
    drawn = [tasks_in(prepared, batch) for batch in batches]
    assert len(drawn) == len(batches) == 400
    assert all(len(tasks) == 1 for tasks in drawn)
    shares = np.bincount([task for (task,) in drawn]) / len(drawn)
    assert shares == pytest.approx(list(RATES.values()), abs=0.01)


def test_short_stretches_hold_nearly_the_same_tasks(prepared):
    drawn = [min(tasks_in(prepared, batch)) for batch in batches_of(prepared, steps=200)]
    counts = [np.bincount(drawn[start : start + 20], minlength=4) for start in range(0, 200, 20)]
    assert np.ptp(counts, axis=0).max() <= 2  # independent draws of 20 would range over about 7


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_an_epoch_has_every_example_once(prepared, strategy):
    first = [batch for batch in batches_of(prepared, strategy, steps=400) if tasks_in(prepared, batch) == {0}][:15]
    assert sorted(index for batch in first for index in batch) == list(range(60))


def test_all_ranks_of_a_micro_step_have_the_same_task(prepared):
    for strategy in ("random", "group_by_length", "batch_rebalance"):
        drawn = [tasks_in(prepared, b) for b in batches_of(prepared, strategy, ranks=2, accumulation=2, steps=50)]
        assert drawn[0::2] == drawn[1::2]


def test_batch_rebalance_shares_out_a_step_of_one_task(prepared):
    batches = list(batches_of(prepared, "batch_rebalance", accumulation=4, steps=50))
    sizes = set()
    for step in (batches[at : at + 4] for at in range(0, 200, 4)):
        assert sum(map(len, step)) == 16 and len(set.union(*(tasks_in(prepared, batch) for batch in step))) == 1
        sizes |= set(map(len, step))
    assert len(sizes) > 1  # long sequences come in smaller micro-batches


def test_grouping_pads_less(prepared):
    waste = {s: padded_tokens(prepared, batches_of(prepared, s, steps=300)) for s in ("random", "group_by_length")}
    assert waste["group_by_length"] < 0.95 * waste["random"]


def test_a_task_smaller_than_a_step_is_repeated(prepared):
    for strategy in ("random", "group_by_length", "batch_rebalance"):
        batches = list(batches_of(prepared, strategy, micro_batch=40, accumulation=2, steps=6))
        assert sum(map(len, batches)) == 6 * 80


def test_the_order_depends_on_the_seed_alone(prepared):
    assert list(batches_of(prepared, steps=30)) == list(batches_of(prepared, steps=30))
    assert list(batches_of(prepared, steps=30)) != list(batches_of(prepared, steps=30, seed=1))


def test_an_unknown_strategy_is_refused(prepared):
    with pytest.raises(ValueError, match="group_by_size"):
        batches_of(prepared, "group_by_size")


# What a batch looks like.


def test_padding_and_counts(prepared):
    stores = [item.train for item in prepared.values()]
    data = UnitDataset(stores)
    assert len(data) == 240
    batch = PaddedCollator(TASKS, pad_token=1, multiple=8)([data[60], data[61]])  # multiple choice: four options each
    ids, mask = batch["input_ids"], batch["attention_mask"]
    lengths = np.concatenate([stores[1].column("lengths", unit) for unit in (0, 1)])
    assert ids.shape == (8, -(-lengths.max() // 8) * 8)
    assert mask.sum(1).tolist() == lengths.tolist()
    tokens = np.concatenate([stores[1].column("tokens", unit) for unit in (0, 1)])
    assert ids[mask.bool()].tolist() == tokens.tolist() and (ids[~mask.bool()] == 1).all()
    assert (batch["useful_tokens"], batch["padded_tokens"], batch["examples"]) == (lengths.sum(), ids.numel(), 2)
    assert batch["task"] == "choice" and "token_type_ids" not in batch
    assert batch["arrays"]["rows"].tolist() == list(range(0, ids.numel(), ids.shape[1]))


def test_token_types_are_kept(tmp_path):
    prepared, units = mixed_prepared(tmp_path, types=2)
    data = UnitDataset([item.train for item in prepared.values()])
    batch = PaddedCollator(TASKS, 1)([data[0], data[1]])
    kinds = batch["token_type_ids"][batch["attention_mask"].bool()]
    assert kinds.tolist() == [kind for unit in units["nli"][:2] for kind in unit.types[0]]


def test_a_batch_of_several_tasks_is_refused(prepared):
    data = UnitDataset([item.train for item in prepared.values()])
    with pytest.raises(ValueError, match="one task"):
        PaddedCollator(TASKS, 1)([data[0], data[60]])


def test_tokens_per_example_is_the_mean_of_what_is_drawn(prepared):
    data = UnitDataset([item.train for item in prepared.values()])
    seen = [len(data[i][1]["tokens"]) for batch in batches_of(prepared, micro_batch=30, steps=400) for i in batch]
    assert np.mean(seen) == pytest.approx(tokens_per_example(prepared, RATES), rel=0.01)


# The two models are one.


@pytest.fixture
def tiny(tmp_path):
    folder = workload.model_folder("tiny", tmp_path / "tiny")
    overrides = ("engine.config=ds_configs/zero2.json", f"model.encoder={folder}", "model.init=random")
    return load_recipe(workload.BASE, overrides), SimpleNamespace(pad_token_id=1, all_special_ids=[0, 1, 2, 3, 4])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_packed_and_padded_models_agree_in_every_format(tiny, prepared, dtype):
    found = hf_parity.parity(tiny[0], prepared, tiny[1], torch.device("cpu"), dtype)
    assert found["failed"] is None and found["examples"] == 16
    assert found["ours"]["gradient"] < (1e-6 if dtype == "fp32" else 0.05)
    assert ("theirs" in found) == (dtype == "bf16")


def test_the_gate_notices_another_model(tiny, prepared, monkeypatch):
    build = hf_parity.build_model

    def shifted(*arguments):
        model, *rest = build(*arguments)
        model.position_offset -= 1
        return model, *rest

    monkeypatch.setattr(hf_parity, "build_model", shifted)
    found = hf_parity.parity(tiny[0], prepared, tiny[1], torch.device("cpu"), "fp32")
    assert "gradient" in found["failed"]


def comparison(**changes):
    settings = {"overrides": (), "processes": 1, "tokens": 4000.0, "packs": (1, 4008)}
    turns = {"warmup": 2, "steps": 3, "seconds": 0.0}
    work = workload.Workload(None, "stores", ("seed=1",), {"model": "tiny"})
    return Comparison(work, **{**settings, **turns, **changes})


def test_a_failed_gate_ends_the_comparison():
    figures = {"fp32": {"failed": "gradient 3.00e-01 (limit 1.00e-04)"}}
    running = arms.Running()
    running["parity"] = SimpleNamespace(facts=figures)
    with pytest.raises(UserError, match="differ in fp32") as error:
        hf_rounds.gate(running)
    assert "3.00e-01" in error.value.why


# What is compared.


def test_settings_make_up_the_same_step():
    assert hf_settings.default_setting(64, 1) == Setting(32, 2)
    assert hf_settings.default_setting(16, 2) == Setting(8, 1)
    assert hf_settings.default_setting(32, 1, most=8) == Setting(8, 4)
    for examples, processes in ((32, 1), (128, 1), (128, 2)):
        settings = hf_settings.candidates(examples, processes)
        assert {s.micro_batch * s.accumulation * processes for s in settings} == {examples}
        assert len({s.name for s in settings}) == len(settings)
        assert {s.sampling for s in settings} == {"random", "group_by_length", "batch_rebalance"}
    assert {s.micro_batch for s in hf_settings.candidates(128, 1)} == {8, 16, 32, 64, 128}
    assert Setting(32, 1, "batch_rebalance") not in hf_settings.candidates(32, 1)


def test_examples_must_be_shareable():
    hf_settings.check_examples(96, 1)
    for examples, processes in ((33, 1), (3, 2), (0, 1)):
        with pytest.raises(UserError, match="--examples-per-step"):
            hf_settings.check_examples(examples, processes)


@pytest.mark.parametrize(("tokens", "processes"), [(4018.3, 1), (15000, 2), (60000, 1), (60000, 2)])
def test_packs_hold_the_step(tokens, processes):
    packs, size = hf_settings.packs_for(tokens, 1500, processes)
    assert packs % processes == 0 and size <= hf_settings.PACK_TOKENS
    assert tokens <= packs * size * FULL < tokens + 8 * packs + 1


def test_a_pack_holds_the_largest_unit():
    assert hf_settings.packs_for(500, 1500, 1) == (1, 1500)


def test_arms_share_workload_and_overrides():
    shared = comparison(overrides=("engine.dtype=fp32",), packs=(2, 2008), processes=2)
    ours, theirs = shared.ours(), shared.theirs(Setting(8, 2, "group_by_length"))
    assert ours.processes == theirs.processes == 2
    assert ours.spec["overrides"] == [
        "seed=1", "engine.dtype=fp32", "train.packs_per_step=2", "train.pack_tokens=2008",
    ]  # fmt: skip
    assert theirs.spec["overrides"] == ["seed=1", "engine.dtype=fp32"]
    assert theirs.spec["workload"] == ours.spec["workload"] == {"stores": "stores"}
    assert Setting(**theirs.spec["hf"]) == Setting(8, 2, "group_by_length")


# How it is measured, with made-up arms.


def turn(tokens: float, seconds: float = 2.0, padded: float = 4000.0) -> dict:
    counts = {"useful_tokens": tokens, "padded_tokens": padded, "examples": 32, "steps": 2, "seconds": seconds}
    return {**counts, "step_seconds": [seconds / 2] * 2, "peak_bytes": 10**9, "phases": {}}


@pytest.fixture
def fake(monkeypatch):
    """Arms without processes. `tokens`: of each turn, by arm, or the text the arm dies with; `late`: the text it dies
    with when there are several rounds; `started`: what was."""
    state = SimpleNamespace(tokens={}, late={}, started=[])
    good = {"failed": None, "loss": 0.0, "gradient": 0.0}

    @contextlib.contextmanager
    def start(wanted, together=1, tolerate=False):
        state.started.append([arm.name for arm in wanted])
        running = arms.Running()
        for arm in wanted:
            facts = {"fp32": {**good, "ours": good}} if arm.name == "parity" else {"parameters": 7}
            running[arm.name] = SimpleNamespace(arm=arm, facts=facts)
        yield running

    def interleave(running, warmup, rounds, steps, seconds, tolerate=False, after_round=lambda turns: None):
        for name in list(running):
            last_words = state.late.get(name) if rounds > 1 else state.tokens[name]
            if isinstance(last_words, str):
                running.lose(name, arms.ArmDied(last_words), tolerate)
        found = {name: [turn(tokens) for tokens in state.tokens[name][:rounds]] for name in running}
        for done in range(1, rounds + 1):
            after_round({name: turns[:done] for name, turns in found.items()})
        return found

    monkeypatch.setattr(hf_rounds.arms, "start", start)
    monkeypatch.setattr(hf_rounds.arms, "interleave", interleave)
    return state


DEFAULT, GROUPED, BIG = Setting(32, 1), Setting(8, 4, "group_by_length"), Setting(32, 1, "group_by_length")
OUT_OF_MEMORY = 'ended:\n  File "/a/b/c.py", line 3\ntorch.OutOfMemoryError: no room in /data/x/y.bin\nbye'


def test_the_sweep_sorts_and_says_what_failed(fake):
    fake.tokens |= {DEFAULT.name: [100], GROUPED.name: [300], BIG.name: OUT_OF_MEMORY}
    said = []
    with Fleet(2, keep=False) as fleet:
        rows = hf_rounds.sweep(comparison(), fleet, [DEFAULT, GROUPED, BIG], said.append)
    assert [row["name"] for row in rows] == [GROUPED.name, DEFAULT.name, BIG.name]
    assert rows[-1]["failed"] == "torch.OutOfMemoryError: no room in y.bin" and len(said) == 3
    assert fake.started == [[DEFAULT.name, GROUPED.name], [BIG.name]]
    assert hf_rounds.fastest(rows, 5) == [GROUPED, DEFAULT]


@pytest.mark.parametrize("at_once", [1, 5])
def test_the_whole_course(fake, at_once):
    compiled = replace(GROUPED, compile=True)
    fake.tokens |= {
        "xstilts": [800, 880, 840], DEFAULT.name: [400, 440, 300], GROUPED.name: [500, 400, 800],
        BIG.name: OUT_OF_MEMORY, compiled.name: [450, 500, 450],
    }  # fmt: skip
    settings, kept = [DEFAULT, GROUPED, BIG], []
    result = hf_rounds.measure(comparison(), settings, DEFAULT, 3, 1, True, at_once, lambda line: None, kept.append)
    assert [found["arms"]["xstilts"]["turns"] for found in kept] == [1, 2, 3] and kept[-1] == result
    assert [row["name"] for row in result["sweep"]] == [GROUPED.name, compiled.name, DEFAULT.name, BIG.name]
    assert list(result["arms"]) == ["xstilts", DEFAULT.name, GROUPED.name]
    assert (result["default"], result["best"]) == (DEFAULT.name, GROUPED.name)
    row = result["arms"][DEFAULT.name]
    assert row["ours_over_it"] == {"median": 2.0, "lowest": 2.0, "highest": 2.8, "overall": 2520 / 1140}
    assert row["overall"] == 190 and row["useful_tokens_per_step"] == 190 and row["setting"] == asdict(DEFAULT)
    best = result["arms"][GROUPED.name]["ours_over_it"]
    assert result["ratios"] == {"hf_dynamic": row["ours_over_it"], "hf_best": best}
    everything = [["parity", "xstilts", *(s.name for s in settings)], [compiled.name]]
    assert (fake.started == everything) == (at_once == 5)  # where there is room, nothing is built twice

    setting = {"workload": {"model": "tiny"}, "dtype": "fp32", "examples_per_step": 32}
    console = Console(width=160, file=io.StringIO())
    console.print(*versus_hf.tables({"setting": setting, **result}))
    text = console.file.getvalue()
    assert f"{GROUPED.name}, best" in text and "2.00 (2.00-2.80)" in text and "420 (400-440)" in text


@pytest.mark.parametrize("name", ["xstilts", DEFAULT.name])
def test_ours_and_the_default_must_live_through_the_rounds(fake, name):
    fake.tokens |= {"xstilts": [800, 800], DEFAULT.name: [100, 100]}
    fake.late[name] = OUT_OF_MEMORY
    with pytest.raises(arms.ArmDied, match="OutOfMemory"):
        hf_rounds.measure(comparison(), [DEFAULT], DEFAULT, 2, 1, False, 1, lambda line: None, lambda found: None)


def test_a_finalist_that_dies_is_left_out_and_named(fake):
    fake.tokens |= {"xstilts": [800, 800], DEFAULT.name: [100, 100], GROUPED.name: [200, 200], BIG.name: [300, 300]}
    fake.late[BIG.name] = OUT_OF_MEMORY
    settings = [DEFAULT, GROUPED, BIG]
    found = hf_rounds.measure(comparison(), settings, DEFAULT, 2, 2, False, 1, lambda line: None, lambda found: None)
    assert list(found["arms"]) == ["xstilts", DEFAULT.name, GROUPED.name] and found["best"] == GROUPED.name
    assert found["failed"] == {BIG.name: "torch.OutOfMemoryError: no room in y.bin"}
    assert found["ratios"]["hf_best"]["median"] == 4.0


def test_dry_says_the_plan_and_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hf_rounds.arms, "start", None)
    versus_hf.main(["--dry", "--model", "tiny", "--units", "20", "--out", str(tmp_path)])
    text = " ".join(capsys.readouterr().out.split())
    assert "32 examples" in text and "hf_group_by_length_16" in text and "ours: 1 x" in text
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("name", ["versus_hf_cpu", "versus_hf_gpu"])
def test_a_committed_result_is_whole(name):
    path = results.RESULTS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{name} has not been measured")
    result = json.loads(path.read_text())
    assert all(found["failed"] is None for found in result["parity"].values())
    assert {"xstilts", result["default"], result["best"]} <= set(result["arms"])
    steps = {name: row["useful_tokens_per_step"] for name, row in result["arms"].items()}
    assert steps["xstilts"] == pytest.approx(steps[result["best"]], rel=0.25)  # the same work a step, on average
    assert path.with_suffix(".png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "at_once"), [(1, 9), (2, 1)])
def test_the_whole_comparison(tmp_path, processes, at_once):
    sizes = ["--model", "tiny", "--units", "40", "--examples-per-step", "8", "--rounds", "2", "--steps", "2"]
    rest = ["--seconds", "0", "--warmup", "1", "--finalists", "1", "--no-compile", "--processes", str(processes)]
    versus_hf.main([*sizes, *rest, "--at-once", str(at_once), "--out", str(tmp_path)])
    result = json.loads((tmp_path / "versus_hf_cpu.json").read_text())
    assert result["parity"]["fp32"]["failed"] is None
    assert not any("failed" in row for row in result["sweep"])
    dynamic = result["arms"][result["default"]]
    assert dynamic["examples"] == 2 * 2 * 8 and dynamic["facts"]["examples_per_step"] == 8
    assert dynamic["fill"] < 0.95 < result["arms"]["xstilts"]["fill"]
    assert str(tmp_path) not in json.dumps(result)
    assert (tmp_path / "versus_hf_cpu.png").is_file()
