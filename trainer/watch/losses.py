"""Losses that are not finite, and losses that leap."""

from __future__ import annotations

import math
import statistics
from collections import deque

from trainer.exits import Exit, RunError

FP16_OVERFLOWS = 100  # in a row; the loss scale halves at each, so that a sane run needs a few dozen at its start
WINDOW, LEAST = 64, 32  # steps


class SkipWatch:
    """Counts steps without an update.

    Args:
        limit: so many in a row whose loss (or, but in fp16, gradient) is not finite end the run.
    """

    def __init__(self, limit: int, dtype: str):
        self.limit, self.dtype = limit, dtype
        self.total, self._streak, self._overflows, self._last = 0, 0, 0, 0

    def add(self, step: int, loss_not_finite: bool, said: str) -> None:
        """Raises RunError (NOT_FINITE) at the end of its patience."""
        if step != self._last + 1:
            self._streak = self._overflows = 0
        self.total, self._last, self._overflows = self.total + 1, step, self._overflows + 1
        self._streak = self._streak + 1 if loss_not_finite or self.dtype != "fp16" else 0
        if self._streak >= self.limit:
            raise RunError(
                Exit.NOT_FINITE,
                f"{self._streak} steps in a row, up to step {step}, had no finite loss; at the last, {said}",
                fix="look at those examples; a lower train.learning_rate; the limit is watch.nonfinite_steps",
            )
        if self._overflows >= FP16_OVERFLOWS:
            raise RunError(
                Exit.NOT_FINITE,
                f"the last {self._overflows} steps overflowed in fp16, up to step {step}: nothing is learnt",
                fix="engine.dtype=bf16, or fp32",
            )


class SpikeWatch:
    """Flags losses far above the last ones: more than `factor` times their interquartile range above their median.

    Args:
        factor: 0 flags none.
    """

    def __init__(self, factor: float):
        self.factor = factor
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def add(self, step: int, loss: float) -> str | None:
        """Take a step's loss; the sentence that flags it, or None."""
        if not math.isfinite(loss):
            return None  # said elsewhere
        said = None
        if self.factor and len(self._losses) >= LEAST:
            low, middle, high = statistics.quantiles(self._losses, n=4)
            if loss > middle + self.factor * max(high - low, 1e-3 * abs(middle)):
                said = f"step {step}: the loss leapt to {loss:.4g}, from a median of {middle:.4g}"
        self._losses.append(loss)
        return said
