"""Packs of several parts, dealt to ranks: every unit once, equal rounds, the same outputs at any world size."""

import threading

import numpy as np
import pytest
import torch

from tests.stores import TASKS, random_units, store_of
from trainer import distributed
from trainer.data.loader import Collator
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluation.dev import Part, run_packs
from trainer.tasks import FORMATS

SIZES = {"nli": 13, "choice": 1, "spans": 6, "tags": 9}
CPU = torch.device("cpu")


@pytest.fixture
def parts(tmp_path):
    """Of every format, two parts by the same head: like a target in two languages."""
    return [
        Part(name, TASKS[name], store_of(tmp_path, random_units(TASKS[name], size, seed=seed), f"{name}-{seed}"))
        for name, size in SIZES.items()
        for seed in (1, 2)
    ]


@pytest.fixture
def ranks(monkeypatch):
    """Runs `work(world)` on each of so many ranks, as threads that meet where they gather; their results."""

    def run(size: int, work) -> list:
        barrier, values, results = threading.Barrier(size), [None] * size, [None] * size
        own = threading.local()

        def gather(value):
            values[own.rank] = value
            barrier.wait(timeout=20)
            return list(values)

        monkeypatch.setattr(distributed, "gather_objects", gather)

        def start(rank):
            own.rank = rank
            results[rank] = work(World(rank, size, rank, size, CPU))

        threads = [threading.Thread(target=start, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert all(result is not None for result in results), "a rank failed or hangs"
        return results

    return run


def evaluate(parts, world, pack_tokens=64, limit=None, broken=None):
    """Outputs that tell the tokens they were read from, and how often the model was called, empty packs among them."""
    collators = [Collator(TASKS, dict.fromkeys(TASKS, part.store), 0, None) for part in parts]
    places = [list(TASKS).index(part.head) for part in parts]
    seen = []

    def batch_of(part, units):
        return collators[part](np.full(len(units), places[part]), units)

    def logits_of(batch):
        seen.append(batch.tokens)
        logits = {}
        for name, task in TASKS.items():
            tokens = batch.input_ids[batch.heads[name]["rows"]].float()
            logits[name] = torch.stack([tokens * (i + 1) % 17 for i in range(FORMATS[task.format].outputs(task))], 1)
            if name == broken and len(tokens):
                logits[name][-1, -1] = torch.nan
        return logits

    progress = []
    outputs = run_packs(logits_of, parts, batch_of, pack_tokens, world, limit, lambda *done: progress.append(done))
    assert progress == [(i + 1, len(seen)) for i in range(len(seen))]
    return outputs, seen


def equal(found, expected) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(len(f) == len(e) and all(map(np.array_equal, f, e)) for f, e in pairs)


@pytest.mark.parametrize("size", [2, 3])
def test_the_number_of_ranks_changes_nothing(parts, ranks, size):
    ((alone, packs),) = ranks(1, lambda world: evaluate(parts, world))
    assert [len(outputs) for outputs in alone] == [len(part.store) for part in parts]
    together = ranks(size, lambda world: evaluate(parts, world))
    for outputs, _ in together:
        assert equal(outputs, alone)
    calls = [seen for _, seen in together]
    assert {len(seen) for seen in calls} == {-(-len(packs) // size)}, "as many rounds on every rank"
    assert sorted(t for seen in calls for t in seen if t) == sorted(packs), "the packs of one rank, each once"


def test_the_size_of_packs_changes_nothing(parts, ranks):
    ((small, _),) = ranks(1, lambda world: evaluate(parts, world))
    ((large, seen),) = ranks(1, lambda world: evaluate(parts, world, pack_tokens=100_000))
    assert equal(small, large) and len(seen) == len(parts)


def test_one_example_for_many_ranks(parts, ranks):
    only = [part for part in parts if part.head == "choice"][:1]
    results = ranks(3, lambda world: evaluate(only, world))
    assert [len(outputs[0]) for outputs, _ in results] == [1, 1, 1]
    assert sorted(seen[0] > 0 for _, seen in results) == [False, False, True]


def test_a_limit_takes_the_first_examples_of_every_part(parts, ranks):
    ((outputs, _),) = ranks(1, lambda world: evaluate(parts, world, limit=5))
    assert [len(part) for part in outputs] == [min(5, size) for size in SIZES.values() for _ in (1, 2)]
    ((whole, _),) = ranks(1, lambda world: evaluate(parts, world))
    assert equal(outputs, [part[:5] for part in whole])


@pytest.mark.parametrize("size", [1, 3])
def test_outputs_that_are_no_numbers_are_refused_on_every_rank(parts, ranks, size):
    """Of "choice" one rank of three has a pack, the others none: they hear of it where they would gather."""

    def work(world):
        with pytest.raises(UserError, match="^choice: the model's outputs are not all numbers") as caught:
            evaluate([part for part in parts if part.head in ("nli", "choice")], world, 100_000, broken="choice")
        return str(caught.value)

    assert len(set(ranks(size, work))) == 1


def test_no_parts_are_no_outputs(ranks):
    assert ranks(2, lambda world: evaluate([], world)) == [([], []), ([], [])]
