import threading

import numpy as np
import pytest
import torch

from tests.stores import TASKS, mixed_prepared
from trainer.data.loader import Collator, TrainLoader
from trainer.data.packing import Planner, packs_of_rank
from trainer.data.stream import Stream

PAD = 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(prepared, units of the training splits by task name)."""
    return mixed_prepared(tmp_path_factory.mktemp("data"), train=30, dev=11)


def collator_of(prepared, constant_tokens=None) -> Collator:
    tasks = {name: item.task for name, item in prepared.items()}
    return Collator(tasks, {name: item.train for name, item in prepared.items()}, PAD, constant_tokens)


def planner_of(prepared, pack_tokens=512, packs_per_step=4) -> Planner:
    sizes = {name: len(item.train) for name, item in prepared.items()}
    stream = Stream(sizes, dict.fromkeys(sizes, 0.25), seed=1)
    return Planner(stream, [item.train.tokens for item in prepared.values()], pack_tokens, packs_per_step)


def mixed(units) -> tuple[np.ndarray, np.ndarray, list]:
    """A pack's (tasks, units) that interleaves the tasks, and its sequences in order."""
    pairs = [(1, 4), (0, 2), (2, 0), (3, 7), (2, 5), (0, 9), (1, 0), (3, 1)]
    names = list(TASKS)
    sequences = [sequence for task, unit in pairs for sequence in units[names[task]][unit].sequences]
    return np.array([task for task, _ in pairs]), np.array([unit for _, unit in pairs]), sequences


def test_tokens_positions_and_offsets(data):
    prepared, units = data
    tasks, numbers, sequences = mixed(units)
    batch = collator_of(prepared)(tasks, numbers, number=3)
    assert batch.number == 3
    assert batch.input_ids.tolist() == sum(sequences, [])
    assert batch.position_ids.tolist() == [i for sequence in sequences for i in range(len(sequence))]
    assert batch.cu_seqlens.tolist() == [0, *np.cumsum([len(sequence) for sequence in sequences])]
    assert batch.max_seqlen == max(map(len, sequences))
    assert batch.tokens == len(batch.input_ids)
    assert batch.units == {name: 2 for name in TASKS}
    assert not batch.token_type_ids.any()
    kinds = {name: getattr(batch, name).dtype for name in ("input_ids", "position_ids", "token_type_ids", "cu_seqlens")}
    assert kinds == {
        "input_ids": torch.int64,
        "position_ids": torch.int64,
        "token_type_ids": torch.int64,
        "cu_seqlens": torch.int32,
    }


def test_heads_read_the_right_tokens(data):
    prepared, units = data
    tasks, numbers, _ = mixed(units)
    batch = collator_of(prepared)(tasks, numbers)
    nli, choice, spans, tags = (batch.heads[name] for name in TASKS)

    def read(arrays):
        return batch.input_ids[arrays["rows"]].tolist()

    assert read(nli) == [units["nli"][i].sequences[0][0] for i in (2, 9)]
    assert nli["target"].tolist() == [units["nli"][i].target[0] for i in (2, 9)]
    assert read(choice) == [sequence[0] for i in (4, 0) for sequence in units["choice"][i].sequences]
    assert choice["target"].tolist() == [units["choice"][i].target[0] for i in (4, 0)]
    windows = [units["spans"][i] for i in (0, 5)]
    candidates = [[w.sequences[0][0], *w.sequences[0][w.rows[0] : w.rows[1]]] for w in windows]
    assert read(spans) == candidates[0] + candidates[1]
    assert spans["target"].tolist() == [w.target for w in windows]
    for row, expected in zip(spans["index"], candidates, strict=True):
        present = row[row >= 0]
        assert [read(spans)[i] for i in present] == expected
    sentences = [units["tags"][i] for i in (7, 1)]
    assert read(tags) == [s.sequences[0][row] for s in sentences for row in s.rows]
    assert tags["target"].tolist() == sum((s.target for s in sentences), [])
    assert tags["owner"].tolist() == [i for i, s in enumerate(sentences) for _ in s.rows]


def test_token_types_come_along(tmp_path):
    prepared, units = mixed_prepared(tmp_path, types=2)
    batch = collator_of(prepared, constant_tokens=400)(np.array([1, 0]), np.array([3, 1]))
    expected = [kind for kinds in (*units["choice"][3].types, *units["nli"][1].types) for kind in kinds]
    assert batch.token_type_ids[: batch.tokens].tolist() == expected
    assert not batch.token_type_ids[batch.tokens :].any()


def test_constant_shapes_are_filled_with_short_sequences_of_padding(data):
    prepared, units = data
    tasks, numbers, sequences = mixed(units)
    plain = collator_of(prepared)(tasks, numbers)
    batch = collator_of(prepared, constant_tokens=512)(tasks, numbers)
    assert len(batch.input_ids) == len(batch.position_ids) == len(batch.token_type_ids) == 512
    assert batch.tokens == plain.tokens == sum(map(len, sequences))
    assert set(batch.input_ids[batch.tokens :].tolist()) == {PAD}
    assert batch.cu_seqlens[: len(sequences) + 1].tolist() == plain.cu_seqlens.tolist()
    assert batch.cu_seqlens[-1] == 512
    filler = batch.cu_seqlens.diff()[len(sequences) :]
    assert filler.max() <= 64 and filler.min() > 0
    for name in TASKS:
        for key, value in plain.heads[name].items():
            assert torch.equal(value, batch.heads[name][key])


def test_a_full_pack_gets_no_filler(data):
    prepared, units = data
    tasks, numbers, sequences = mixed(units)
    batch = collator_of(prepared, constant_tokens=sum(map(len, sequences)))(tasks, numbers)
    assert batch.cu_seqlens.diff().min() > 0 and len(batch.cu_seqlens) == len(sequences) + 1


@pytest.mark.parametrize("constant, size", [(None, 1), (256, 256)])
def test_an_empty_pack_is_padding_alone(data, constant, size):
    """Ranks without a pack in the last round of an evaluation run the model on one."""
    nothing = np.empty(0, np.int64)
    batch = collator_of(data[0], constant)(nothing, nothing)
    assert batch.input_ids.tolist() == [PAD] * size
    assert batch.tokens == 0 and batch.units == dict.fromkeys(TASKS, 0)
    assert all(len(arrays["rows"]) == 0 for arrays in batch.heads.values())


def test_to_moves_every_tensor(data):
    batch = collator_of(data[0])(np.array([0, 2]), np.array([1, 1])).to(torch.device("meta"))
    tensors = [value for value in vars(batch).values() if torch.is_tensor(value)]
    tensors += [value for arrays in batch.heads.values() for value in arrays.values()]
    assert len(tensors) > 10 and {value.device.type for value in tensors} == {"meta"}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_plan(data, world_size):
    """Every rank sees the same plan, and its own packs of it: the ones `packs_of_rank` says."""
    prepared, _ = data
    expected = [planner_of(prepared)]
    expected = [expected[0].next_step() for _ in range(6)]
    for rank in range(world_size):
        loader = TrainLoader(planner_of(prepared), collator_of(prepared), rank, world_size, pin=False)
        steps = [step for _, step in zip(range(6), loader, strict=False)]
        for step, plan in zip(steps, expected, strict=True):
            assert step.plan.example_ids_hash() == plan.example_ids_hash()
            assert step.plan.state == plan.state
            assert [batch.number for batch in step.batches] == list(packs_of_rank(4, rank, world_size))
            for batch in step.batches:
                assert batch.tokens == plan.packs[batch.number].tokens


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "loader"]


def test_the_thread_ends_with_the_loop(data):
    prepared, _ = data
    steps = iter(TrainLoader(planner_of(prepared), collator_of(prepared), 0, 1, pin=False))
    next(steps)
    assert loader_threads()
    steps.close()
    assert not loader_threads()


def test_an_error_in_the_thread_is_raised_at_its_step(data):
    prepared, _ = data
    collator, calls = collator_of(prepared), []

    def faulty(tasks, units, number, step):
        calls.append(number)
        if len(calls) > 9:  # in the third step of four packs
            raise OSError("the disk is gone")
        return collator(tasks, units, number, step)

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for step in TrainLoader(planner_of(prepared), faulty, 0, 1, pin=False):
            seen.append(step)
    assert len(seen) == 2
    assert not loader_threads()
