"""The loader: a rank's packs of each step as tensors, made ahead of time in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from trainer.data.masking import EVALUATION, Masking
from trainer.data.packing import Pack, Planner, StepPlan, packs_of_rank
from trainer.data.store import Store
from trainer.tasks import FORMATS
from trainer.tasks.spec import PlacedUnit, Task

PREFETCH = 2  # steps
FILLER = 64  # longest sequence of padding that fills a pack up to a constant shape


@dataclass
class PackedBatch:
    """One pack, ready for the model.

    Attributes:
        number: the pack's position within its step (it seeds dropout).
        input_ids, position_ids: int64 (T,); positions count from 0 within each sequence.
        token_type_ids: int64 (T,), all zero where the tokenizer has none.
        cu_seqlens: int32 (sequences + 1,): where sequences begin, and the end of the last.
        lengths: tokens of each sequence, on the host; max_seqlen: of the longest.
        heads: task -> the arrays its format's `collate` gives, for every task of the mixture.
        units: task -> number of its units in the pack.
        tokens: useful tokens; T less these is padding, in sequences of its own at the end.
    """

    number: int
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    token_type_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    lengths: tuple[int, ...]
    max_seqlen: int
    heads: dict[str, dict[str, torch.Tensor]]
    units: dict[str, int]
    tokens: int

    def to(self, device: torch.device) -> PackedBatch:
        moved = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        heads = {
            task: {name: value.to(device, non_blocking=True) for name, value in arrays.items()}
            for task, arrays in self.heads.items()
        }
        return PackedBatch(**{**vars(self), **moved, "heads": heads})


@dataclass(frozen=True)
class Step:
    """One rank's share of a step, and the plan of the whole."""

    plan: StepPlan
    batches: list[PackedBatch]


class Collator:
    """Builds PackedBatches from stores.

    Args:
        pad_token: id that fills a pack up.
        constant_tokens: pad every pack to this many tokens (constant shapes, for GPUs); None leaves packs as long as
            they are.
        masking: for units of masked language modelling; None where there are none.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        stores: Mapping[str, Store],
        pad_token: int,
        constant_tokens: int | None,
        masking: Masking | None = None,
    ):
        self.tasks, self.stores = dict(tasks), [stores[name] for name in tasks]
        self.pad_token, self.constant_tokens, self.masking = pad_token, constant_tokens, masking
        self.masked = [task.format == "masked_lm" for task in self.tasks.values()]

    def __call__(self, tasks: np.ndarray, units: np.ndarray, number: int = 0, step: int = EVALUATION) -> PackedBatch:
        """A pack of the given units, in order.

        Args:
            tasks, units: int64 (units,): index into the tasks, and unit of that task's store.
            number: the pack's position within its step.
            step: of training, from 1 on; masks are drawn by it.
        """
        tokens, types, lengths = [], [], []
        placed: list[list[PlacedUnit]] = [[] for _ in self.stores]
        used = 0
        for place, (task, unit) in enumerate(zip(tasks.tolist(), units.tolist(), strict=True)):
            store = self.stores[task]
            values, own = store.column("tokens", unit), store.placed(unit, used)
            if self.masked[task]:
                values, own = self.masking(values, own, unit, step, number, place)
            tokens.append(values)
            kinds = store.column("types", unit)
            types.append(kinds if len(kinds) else np.zeros(len(values), np.int8))
            placed[task].append(own)
            lengths.append(own.lengths)
            used += len(values)
        fill = self._filler(used)
        lengths.append(fill)
        tokens.append(np.full(fill.sum(), self.pad_token, np.int32))
        types.append(np.zeros(fill.sum(), np.int8))
        all_lengths = np.concatenate(lengths)
        cu_seqlens = np.concatenate([[0], np.cumsum(all_lengths)])
        positions = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], all_lengths)
        heads = {}
        for (name, task), group in zip(self.tasks.items(), placed, strict=True):
            arrays = FORMATS[task.format].collate(group, task)
            heads[name] = {key: torch.from_numpy(value) for key, value in arrays.items()}
        return PackedBatch(
            number=number,
            input_ids=torch.from_numpy(np.concatenate(tokens).astype(np.int64)),
            position_ids=torch.from_numpy(positions.astype(np.int64)),
            token_type_ids=torch.from_numpy(np.concatenate(types).astype(np.int64)),
            cu_seqlens=torch.from_numpy(cu_seqlens.astype(np.int32)),
            lengths=tuple(all_lengths.tolist()),
            max_seqlen=int(all_lengths.max(initial=0)),
            heads=heads,
            units={name: len(group) for name, group in zip(self.tasks, placed, strict=True)},
            tokens=used,
        )

    def _filler(self, used: int) -> np.ndarray:
        """Lengths of the padding sequences behind `used` tokens; an empty pack gets one token, as models need some."""
        missing = (self.constant_tokens or max(used, 1)) - used
        whole, rest = divmod(max(missing, 0), FILLER)
        return np.array([FILLER] * whole + [rest] * (rest > 0), np.int32)


class TrainLoader:
    """Endless steps for one rank, prepared in a background thread.

    An error in the thread is raised in the loop, at the step it belongs to.

    Args:
        first_step: what the planner's next step is called; masks are drawn by it.
    """

    def __init__(
        self, planner: Planner, collator: Collator, rank: int, world_size: int, pin: bool, first_step: int = 1
    ):
        self.planner, self.collator, self.pin, self.step = planner, collator, pin, first_step
        self.mine = packs_of_rank(planner.packs_per_step, rank, world_size)

    def __iter__(self) -> Iterator[Step]:
        steps: queue.Queue = queue.Queue(PREFETCH)
        stop = threading.Event()

        def put(item) -> bool:
            while not stop.is_set():
                try:
                    steps.put(item, timeout=0.2)
                    return True
                except queue.Full:
                    continue
            return False

        def work():
            try:
                while put(self._step()):
                    pass
            except BaseException as error:  # handed to the loop, which raises it
                put(error)

        thread = threading.Thread(target=work, name="loader", daemon=True)
        thread.start()
        try:
            while True:
                step = steps.get()
                if isinstance(step, BaseException):
                    raise step
                yield step
        finally:
            stop.set()
            thread.join()

    def _step(self) -> Step:
        plan, step = self.planner.next_step(), self.step
        self.step += 1
        return Step(plan, [self._batch(plan.packs[number], number, step) for number in self.mine])

    def _batch(self, pack: Pack, number: int, step: int) -> PackedBatch:
        batch = self.collator(pack.tasks, pack.units, number, step)
        return pin_memory(batch) if self.pin else batch


def pin_memory(batch: PackedBatch) -> PackedBatch:
    pinned = {name: value.pin_memory() for name, value in vars(batch).items() if torch.is_tensor(value)}
    heads = {t: {name: value.pin_memory() for name, value in arrays.items()} for t, arrays in batch.heads.items()}
    return PackedBatch(**{**vars(batch), **pinned, "heads": heads})
