"""What is compared: settings of the Hugging Face arm, and our packs of the same number of tokens a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.hf_data import STRATEGIES
from trainer.data.packing import FULL
from trainer.errors import UserError

PACK_TOKENS = 16384  # most tokens of a pack
MICRO_BATCHES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Setting:
    """How the baseline is run.

    Attributes:
        micro_batch: examples of a micro-batch of one process (with batch_rebalance: on average).
        accumulation: micro-batches of an optimizer step.
        sampling: one of `hf_data.STRATEGIES`.
        compile: torch.compile of the encoder's layers, for any shape.
        workers: data loader processes; None: none on a CPU, whose cores the model needs, and 4 beside a GPU.
    """

    micro_batch: int = 32
    accumulation: int = 1
    sampling: str = "random"
    compile: bool = False
    workers: int | None = None

    @property
    def name(self) -> str:
        return f"hf_{self.sampling}_{self.micro_batch}" + ("_compiled" if self.compile else "")


def packs_for(tokens: float, largest: int, processes: int, multiple: int = 8) -> tuple[int, int]:
    """(packs per step, tokens of a pack) with which a step holds about `tokens` useful tokens.

    Args:
        largest: tokens of the largest unit, which must fit.
    """
    most = max(PACK_TOKENS, largest)
    packs = processes * max(1, math.ceil(tokens / (processes * most)))
    size = math.ceil(tokens / packs / FULL / multiple) * multiple
    return packs, max(size, largest)


def default_setting(examples: int, processes: int, most: int = 32) -> Setting:
    """Dynamic padding, micro-batches of `most` examples, or fewer where a step has fewer."""
    micro_batch = min(most, examples // processes)
    return Setting(micro_batch, examples // (micro_batch * processes))


def candidates(examples: int, processes: int, micro_batches: Sequence[int] = MICRO_BATCHES) -> list[Setting]:
    """What the sweep tries: every strategy with every micro-batch that makes up a step of `examples`.

    batch_rebalance shares a step out among micro-batches: with one of them it is the same as random.
    """
    settings = []
    for micro_batch in micro_batches:
        accumulation, rest = divmod(examples, micro_batch * processes)
        if rest or not accumulation:
            continue
        for strategy in STRATEGIES:
            if strategy != "batch_rebalance" or accumulation * processes > 1:
                settings.append(Setting(micro_batch, accumulation, strategy))
    return settings


def check_examples(examples: int, processes: int, most: int = 32) -> None:
    """Raises UserError where a step cannot be cut into the default setting's micro-batches."""
    setting = default_setting(max(examples, processes), processes, most)
    if examples != setting.micro_batch * setting.accumulation * processes:
        raise UserError(
            f"--examples-per-step {examples} cannot be shared among {processes} processes in micro-batches of "
            f"{setting.micro_batch}",
            fix=f"--examples-per-step {most * processes}",
        )
