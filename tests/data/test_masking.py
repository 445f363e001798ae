"""What is masked: how much, of what, and a function of which counters."""

import numpy as np
import pytest

from tests.masked import TinyTokenizer, masked_collator, masked_prepared, masked_units
from tests.stores import VOCABULARY, store_of
from trainer.data.loader import TrainLoader
from trainer.data.masking import EVALUATION, Masking, masking_of
from trainer.data.packing import Planner, packs_of_rank
from trainer.data.stream import Stream
from trainer.errors import UserError
from trainer.tasks.masked_lm import masked_tokens
from trainer.tasks.mlm import MLM

MASK = TinyTokenizer.mask_token_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("store"), masked_units(200, longest=300))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return masked_prepared(tmp_path_factory.mktemp("data"))


def draw(store, unit, step=1, pack=0, place=0, seed=1):
    return Masking(TinyTokenizer(), seed)(store.column("tokens", unit), store.placed(unit, 0), unit, step, pack, place)


def drawn(store, **counters):
    """(original, masked, rows, targets) of every unit."""
    return [(store.column("tokens", unit), *draw(store, unit, place=unit, **counters)) for unit in range(len(store))]


def test_each_sequence_loses_its_share_and_nothing_else_changes(store):
    for original, masked, placed in drawn(store):
        ordinary = len(original) - 2
        assert len(placed.rows) == len(set(placed.rows.tolist())) == masked_tokens(ordinary) >= 1
        assert placed.rows.tolist() == sorted(placed.rows) and placed.rows.min() >= 1
        assert placed.rows.max() <= ordinary  # neither <s> nor </s>
        assert placed.target.tolist() == original[placed.rows].tolist()
        kept = np.delete(np.arange(len(original)), placed.rows)
        assert np.array_equal(masked[kept], original[kept])
        assert masked.dtype == original.dtype == np.int32


def test_shares_of_the_paper(store):
    """15% of the tokens; of these 80% become <mask>, 10% another token and 10% stay, of which a replacement may be."""
    before, after, total = [], [], 0
    for step in range(1, 11):
        for original, masked, placed in drawn(store, step=step):
            total += len(original) - 2
            before.append(placed.target)
            after.append(masked[placed.rows])
    before, after = np.concatenate(before), np.concatenate(after)
    count, ordinary = len(before), VOCABULARY - 5
    assert count / total == pytest.approx(0.15, abs=0.002)
    assert count > 40_000
    three_sigma = 3 * 0.5 / count**0.5
    assert np.mean(after == MASK) == pytest.approx(0.8, abs=three_sigma)
    assert np.mean(after == before) == pytest.approx(0.1 + 0.1 / ordinary, abs=three_sigma)
    replaced = after[(after != MASK) & (after != before)]
    assert set(replaced.tolist()) == set(range(5, VOCABULARY)), "every ordinary token and no special one"
    shares = np.bincount(replaced, minlength=VOCABULARY)[5:] / len(replaced)
    assert shares == pytest.approx(1 / ordinary, abs=5 * (1 / ordinary / len(replaced)) ** 0.5)


def test_every_token_is_equally_likely_to_be_masked(tmp_path):
    store = store_of(tmp_path, masked_units(1, longest=1) + masked_units(300, seed=3, longest=20))
    unit = int(np.argmax(store.tokens))
    hits = np.zeros(store.tokens[unit])
    for step in range(1, 2001):
        hits[draw(store, unit, step=step)[1].rows] += 1
    ordinary = len(hits) - 2
    assert hits[0] == hits[-1] == 0
    assert hits[1:-1] / 2000 == pytest.approx(masked_tokens(ordinary) / ordinary, abs=0.04)


def same(one, other) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1].rows, other[1].rows)


def test_training_masks_are_a_function_of_seed_step_pack_and_place(store):
    unit = int(np.argmax(store.tokens))
    first = draw(store, unit)
    assert same(first, draw(store, unit))
    for changed in ({"step": 2}, {"pack": 1}, {"place": 1}, {"seed": 2}):
        assert not same(first, draw(store, unit, **changed)), changed


def test_evaluation_masks_depend_on_the_unit_alone(store):
    unit = int(np.argmax(store.tokens))
    first = draw(store, unit, step=EVALUATION)
    assert same(first, draw(store, unit, step=EVALUATION, pack=3, place=5, seed=9))
    tokens, placed = store.column("tokens", unit), store.placed(unit, 0)
    other = Masking(TinyTokenizer(), 1)(tokens, placed, unit + 1, EVALUATION, 0, 0)
    assert not same(first, other)


def test_the_draw_is_pinned(store):
    """The same numbers on every machine and in later versions of numpy, or a continued run would differ."""
    unit = int(np.argmin(abs(store.tokens - 62)))
    masked, placed = draw(store, unit, step=7, pack=2, place=3, seed=5)
    assert placed.rows.tolist() == [8, 17, 23, 28, 30, 38, 42, 44, 47]
    assert masked[placed.rows].tolist() == [MASK, MASK, MASK, MASK, MASK, 18, 57, MASK, MASK]


def test_special_tokens_within_a_text_are_left_alone(tmp_path):
    units = masked_units(1)
    units[0].sequences, units[0].target = [[0, 10, 3, 3, 3, 4, 11, 2]], [1]
    store = store_of(tmp_path, units)
    chosen = {draw(store, 0, step=step)[1].rows.item() for step in range(1, 60)}
    assert chosen == {1, 6}


def test_a_tokenizer_without_a_mask_token_is_refused():
    tokenizer = TinyTokenizer()
    tokenizer.mask_token_id = None
    with pytest.raises(UserError, match="no mask token"):
        masking_of([MLM], tokenizer, 0)
    assert masking_of([], tokenizer, 0) is None


def planner_of(prepared) -> Planner:
    sizes = {name: len(item.train) for name, item in prepared.items()}
    stream = Stream(sizes, dict.fromkeys(sizes, 1 / len(sizes)), seed=1)
    return Planner(stream, [item.train.tokens for item in prepared.values()], 256, 4)


def batches(prepared, steps, rank=0, world_size=1, planner=None, first_step=1) -> dict[tuple[int, int], tuple]:
    """(step, pack) -> its tokens, and the positions and targets of its masked tokens."""
    planner, found = planner or planner_of(prepared), {}
    loader = TrainLoader(planner, masked_collator(prepared), rank, world_size, pin=False, first_step=first_step)
    for step, data in zip(range(first_step, first_step + steps), loader, strict=False):
        for batch in data.batches:
            heads = [batch.heads[name][key].tolist() for name in ("mlm", "mlm-de") for key in ("rows", "target")]
            found[step, batch.number] = batch.input_ids.tolist(), heads
    return found


@pytest.mark.parametrize("world_size", [2, 4])
def test_masks_do_not_depend_on_the_number_of_ranks(prepared, world_size):
    alone, shared = batches(prepared, 3), {}
    for rank in range(world_size):
        shared |= batches(prepared, 3, rank, world_size)
    assert shared == alone and len(alone) == 3 * len(packs_of_rank(4, 0, 1))
    assert any(MASK in tokens for tokens, _ in alone.values())


def test_a_continued_run_draws_what_the_unbroken_one_would(prepared):
    unbroken = batches(prepared, 6)
    planner = planner_of(prepared)
    states = [planner.next_step().state for _ in range(4)]
    again = planner_of(prepared)
    again.restore(states[-1])
    continued = batches(prepared, 2, planner=again, first_step=5)
    assert continued == {key: value for key, value in unbroken.items() if key[0] > 4}
    again = planner_of(prepared)
    again.restore(states[-1])
    miscounted = batches(prepared, 2, planner=again)
    assert list(miscounted.values()) != list(continued.values()), "the comparison can fail"


def test_a_unit_drawn_twice_is_masked_twice(prepared):
    collator = masked_collator(prepared)
    unit = int(np.argmax(prepared["mlm"].train.tokens))
    batch = collator(np.array([1, 1]), np.array([unit, unit]), 0, 1)
    assert not np.array_equal(*np.split(batch.input_ids.numpy(), 2))


def test_dev_masks_do_not_depend_on_packs(prepared):
    collator = masked_collator(prepared, split="dev")
    together = collator(np.full(9, 2), np.arange(9)).input_ids.tolist()
    apart = [collator(np.array([2]), np.array([unit])).input_ids.tolist() for unit in range(9)]
    assert sum(apart, []) == together
