"""xstilts as an arm: a real Session and the real loop, with dropout, without evaluation and checkpoints.

    python -m benchmarks.ours SPEC.json        (by benchmarks.arms; or through the deepspeed launcher)

SPEC: `recipe` (path; null: the nine tasks), `overrides` (of its keys), `workload` (null: the recipe's prepared data;
or {"stores": folder} of `benchmarks.workload.synthetic`), `cores` (on a CPU: all processes' together).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch

from benchmarks import arms, workload
from trainer import engine, loop
from trainer import session as sessions
from trainer.session import Session

NEVER = 10**9  # steps


def out_of_the_way(folder: str) -> list[str]:
    """Overrides that leave only training steps, at a constant learning rate."""
    return [
        f"train.steps={NEVER}", "train.schedule=constant", "train.warmup=0.0",
        f"checkpoint.every_steps={NEVER}", "checkpoint.every_minutes=null", "checkpoint.keep=1",
        "checkpoint.resume=false", "evaluation.every_steps=null", "data.prepare=refuse",
        f"run.folder={folder}", "run.name=run",
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Train until the parent says stop."""
    spec = arms.spec_of(arguments)
    channel = arms.connect()
    if "cores" in spec and not torch.cuda.is_available():
        arms.use_cores(spec["cores"])
    engine.start()  # the process group, and DeepSpeed's memory, before memory is looked at
    run(spec, channel)


def run(spec: Mapping[str, Any], channel: arms.Channel) -> None:
    """Open the session and train, a `channel.step` a step.

    Raises:
        Stop: the parent says so.
        UserError: as `open_session`.
    """
    config, _, prepared = workload.open_workload(
        {**spec, "overrides": [*out_of_the_way(spec["folder"]), *spec["overrides"]]}
    )
    baseline = arms.used_bytes()
    report = Reporter(channel)
    # The stores may be synthetic ones, which belong to no source and no tokenizer.
    with mock.patch.object(sessions, "open_prepared", lambda *_: prepared):
        session = sessions.open_session(config, lambda total: [report])
    report.measure_phases(session)
    channel.ready(baseline_bytes=baseline, **facts(session), **report.start)
    loop.train(session)


class Reporter:
    """An event sink that turns `step` events into `channel.step`."""

    def __init__(self, channel: arms.Channel):
        self.channel, self.start, self._padded = channel, {}, 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "start":
            self.start = {key: event[key] for key in ("dtype", "device", "stage", "world_size", "notes", "rates")}
        elif event["event"] == "step":
            self.channel.step(event["tokens"], self._padded, sum(event["examples"].values()))

    def measure_phases(self, session: Session) -> None:
        """Count the waits for data, and DeepSpeed's forward, backward and step to phases, from outside."""
        live = session.engine.engine
        for method, phase in (("forward", "forward"), ("backward", "backward"), ("step", "optimizer")):
            arms.wrap(self.channel, live, method, phase)
        inner = session.loader
        session.loader = lambda: self._waits(inner(), session.world.size)

    def _waits(self, loader, world_size: int) -> Iterator:
        steps = iter(loader)
        while True:
            with self.channel.phase("data"):
                step = next(steps)
            self._padded = world_size * sum(len(batch.input_ids) for batch in step.batches)
            yield step


def facts(session: Session) -> dict[str, Any]:
    """What throughput is computed from: parameters trained, those of the encoder without embeddings, layers, width,
    and the effective sequence length of the mixture."""
    shape = session.engine.model.encoder.config
    counts = {
        name: getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 leaves placeholders
        for name, parameter in session.engine.model.named_parameters()
    }
    outside = ("encoder.embeddings.", "heads.")
    return {
        "parameters": sum(counts.values()),
        "encoder_parameters": sum(n for name, n in counts.items() if not name.startswith(outside)),
        "layers": shape.num_hidden_layers,
        "hidden": shape.hidden_size,
        "effective_length": workload.effective_length(session.prepared, session.rates),
        "packs_per_step": session.config.train.packs_per_step,
        "pack_tokens": session.config.train.pack_tokens,
    }


def leave(work) -> None:
    """Run `work` and end the process at once, whatever the other ranks and the loader's thread are doing."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:  # the parent shows the log's end
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    leave(main)
