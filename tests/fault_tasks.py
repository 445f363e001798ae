"""Faults in a real run, planted through its recipe: `task_files=[tests/fault_tasks.py]`, TEST_FAULT in the environment.

TEST_FAULT=nan@4        the loss of one pack is not a number at step 4; nan@4-: at every step from then on
TEST_FAULT=hang@4:1     rank 1 stops in its forward pass of step 4
TEST_FAULT=slow@1-:1    rank 1 sleeps half a second in each forward pass
TEST_FAULT=crash@4:1    rank 1 raises
"""

import os
import re
import time

from trainer.engine import Engine
from trainer.model.multitask import MultiTaskModel
from trainer.tasks.spec import Task

TASKS: list[Task] = []


def _plant() -> None:
    kind, first, more, rank = re.fullmatch(r"(\w+)@(\d+)(-?)(?::(\d+))?", os.environ["TEST_FAULT"]).groups()
    micro_step, encode, now = Engine.micro_step, MultiTaskModel.encode, {"step": 0}

    def faulty_micro_step(self, batch, factors, step):
        now["step"] = step if batch.number == self.world.rank else 0  # the rank's first pack
        return micro_step(self, batch, factors, step)

    def faulty_encode(self, batch):
        due = now["step"] >= int(first) if more else now["step"] == int(first)
        hidden = encode(self, batch)
        if not due or os.environ.get("RANK", "0") != (rank or "0"):
            return hidden
        if kind == "hang":
            time.sleep(3600)
        if kind == "slow":
            time.sleep(0.5)
        if kind == "crash":
            raise RuntimeError("planted crash")
        return hidden * float("nan") if kind == "nan" else hidden

    Engine.micro_step, MultiTaskModel.encode = faulty_micro_step, faulty_encode


if os.environ.get("TEST_FAULT"):
    _plant()
