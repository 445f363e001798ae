"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, BinaryIO

import torch

from trainer import distributed
from trainer.checkpoint_writer import Content
from trainer.config import TrainSection
from trainer.data.mixture import variants_of
from trainer.data.packing import StepPlan
from trainer.evaluation.dev import Scores, evaluate_dev
from trainer.events import read_events
from trainer.export import probe_bytes, probe_hidden_states
from trainer.model.fused import compiled_graphs
from trainer.model.vocabulary import KEPT_ROWS, kept_rows, write_kept_rows
from trainer.resume import state_of
from trainer.session import Session
from trainer.tasks.spec import Task
from trainer.watch import told_to_stop

PROGRESS_SECONDS = 10.0  # between signs of life of a long evaluation


def train(session: Session) -> Scores:
    """Run every step that is left, checkpoint, evaluate; the scores at the end, on every rank."""
    config, engine, world = session.config, session.engine, session.world
    tasks, watch, steps = session.tasks, session.watch, range(session.first_step, session.total_steps + 1)
    saved_at, scores, skipped = time.monotonic(), None, engine.skipped_steps()
    _note_evaluation_before(session)
    for step, data in watch.timed(steps, session.loader()):
        began, plan = time.monotonic(), data.plan
        counts = plan.task_counts(len(tasks))
        factors = loss_factors(config.train, tasks, int(counts.sum()), len(session.tokenizer))
        losses = [engine.micro_step(batch.to(world.device), factors, step) for batch in data.batches]
        rate = learning_rate(step, session.total_steps, config.train)
        norm = engine.step(rate)
        if engine.skipped_steps() > skipped:
            skipped = engine.skipped_steps()
            watch.skipped(step, plan, data.batches, losses)
        else:
            session.decay *= 1 - rate * config.train.weight_decay
        session.examples = {name: session.examples[name] + n for name, n in zip(tasks, counts.tolist(), strict=True)}
        news = torch.cat([torch.stack(losses).double().sum(0), watch.extras(engine.forward_seconds).to(world.device)])
        sums = distributed.sum_over_ranks(news)
        _report(session, step, plan, sums, factors=factors, rate=rate, norm=norm, began=began)
        session.checkpoints.poll()

        last = step == session.total_steps
        evaluates = _due(config.evaluation.every_steps, step, last)
        due = evaluates or _due(config.checkpoint.every_steps, step, last) or _time_is_up(session, saved_at)
        if due or watch.stopping:
            folder = _save(session, step, plan)
            saved_at = time.monotonic()
            if watch.stopping or last:
                session.checkpoints.finish()
            if watch.stopping:
                raise told_to_stop(watch.stopping, folder)
        if evaluates:  # last: it may take long, and its step is safe now
            scores = _evaluate(session, step)
            _note_best(session, step, scores)
    session.checkpoints.finish()
    return scores or _evaluate(session, session.total_steps)


def loss_factors(train: TrainSection, tasks: Mapping[str, Task], units: int, vocabulary: int = 0) -> dict[str, float]:
    """What each unit's loss is multiplied by: its task's weight over the step's global count of units, and over
    log(classes) when the recipe says so (arXiv 2101.11038, section 3.3); of masked language modelling, those are the
    tokens of the `vocabulary`."""
    factors = {}
    for name, task in tasks.items():
        classes = {"span_extraction": task.max_length, "masked_lm": vocabulary}.get(task.format, len(task.labels))
        scale = math.log(max(2, task.choices or classes)) if train.log_classes else 1.0
        factors[name] = train.loss_weights.get(name, 1.0) / scale / max(units, 1)
    return factors


def learning_rate(step: int, total: int, train: TrainSection) -> float:
    """The rate of step 1, 2, ..., total: linear warm-up to the peak, then the schedule; never 0 within the run."""
    warmup = math.ceil(train.warmup * total)
    if step <= warmup:
        return train.learning_rate * step / warmup
    left = (total - step + 1) / (total - warmup + 1)
    shape = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}
    return train.learning_rate * shape[train.schedule]


def _report(
    session: Session,
    step: int,
    plan: StepPlan,
    sums: torch.Tensor,
    *,
    factors: Mapping[str, float],
    rate: float,
    norm: float | torch.Tensor,
    began: float,
) -> None:
    """Emit the `step` event.

    Reading a value waits for the GPU to have computed it: not for long, as DeepSpeed has read the norm before.

    Args:
        sums: over ranks, float64: losses by task, then what `Watch.extras` gives.
        factors: of the losses, by task; rate: of learning; norm: of the gradients; began: the step, by time.monotonic.
    """
    names, read, norm = list(session.prepared), sums.tolist(), float(norm)
    seconds = time.monotonic() - began
    losses, extras = read[: len(names)], read[len(names) :]
    loss = sum(factors[name] * total for name, total in zip(names, losses, strict=True))
    counts = plan.task_counts(len(names)).tolist()
    session.events.emit(
        "step",
        step=step,
        loss=loss,
        task_loss={name: total / n for name, total, n in zip(names, losses, counts, strict=True) if n},
        examples={name: n for name, n in zip(names, counts, strict=True)},
        example_ids_hash=plan.example_ids_hash(),
        tokens=plan.tokens,
        pack_fill=plan.fill,
        learning_rate=rate,
        grad_norm=norm,
        step_seconds=seconds,
        useful_tokens_per_second=plan.tokens / seconds,
        memory_bytes=session.engine.memory_bytes(),
        compiled_graphs=compiled_graphs(),
    )
    session.watch.read(step, extras, seconds, loss)


def _due(every: int | None, step: int, last: bool) -> bool:
    return last or (every is not None and step % every == 0)


def _time_is_up(session: Session, saved_at: float) -> bool:
    """Whether `checkpoint.every_minutes` have passed, by the clock of rank 0."""
    minutes = session.config.checkpoint.every_minutes
    return minutes is not None and distributed.from_first(time.monotonic() - saved_at > 60 * minutes)


def _evaluate(session: Session, step: int) -> Scores:
    section = session.config.evaluation
    pack_tokens = section.pack_tokens or session.config.train.pack_tokens
    limit = section.end_limit if step == session.total_steps else section.limit
    said = time.monotonic()
    session.watch.beat("evaluation")

    def progress(done: int, total: int) -> None:
        nonlocal said
        session.watch.beat()
        if time.monotonic() - said > PROGRESS_SECONDS and done < total:
            session.events.emit("progress", what="evaluation", packs_done=done, packs=total)
            said = time.monotonic()

    engine, collator = session.engine, session.dev_collator()
    scores = evaluate_dev(engine.logits, session.prepared, collator, pack_tokens, session.world, limit, progress)
    headline = {name: task.metric for name, task in session.tasks.items()}
    session.events.emit("evaluation", step=step, scores=scores, headline=headline)
    return scores


def _note_best(session: Session, step: int, scores: Scores) -> None:
    """Note a step as the best if the mean of the tasks' headline scores beats every earlier one; languages of a task
    count as one task."""
    by_task: dict[str, list[float]] = {}
    for name, base in variants_of(session.tasks.values()).items():
        by_task.setdefault(base, []).append(scores[name][session.tasks[name].metric])
    mean = fmean(map(fmean, by_task.values()))
    if not session.best or mean > session.best["score"]:
        session.best = {"score": mean, "step": step}


def _note_evaluation_before(session: Session) -> None:
    """Of the step that the run continues from: its checkpoint is taken before its evaluation, so does not know whether
    it is the best. The run's events do; where the run was ended before or in that evaluation, it is made now."""
    step = session.first_step - 1
    if step in (0, session.total_steps) or not _due(session.config.evaluation.every_steps, step, False):
        return
    scores = distributed.on_first(lambda: scores_of(session.config.run_folder / "events.jsonl", step))
    _note_best(session, step, scores or _evaluate(session, step))


def scores_of(events: Path, step: int) -> Scores | None:
    """The evaluation of a step since that step was last taken."""
    for event in reversed(read_events(events)):
        if event["event"] in ("evaluation", "step") and event["step"] == step:
            return event.get("scores")
    return None


def _save(session: Session, step: int, plan: StepPlan) -> Path:
    """Start writing a checkpoint; the folder where it will be once it is complete."""
    session.watch.beat("checkpoint")

    def take(folder: Path) -> tuple[Content, Callable[[], None]]:
        probe = probe_hidden_states(session)
        snapshot = session.engine.snapshot(folder / "engine")
        content: dict[str, Callable[[BinaryIO], Any]] = {
            str(path.relative_to(folder)): partial(torch.save, value) for path, value in snapshot.files.items()
        }
        if session.world.first:
            content["probe.safetensors"] = lambda file: file.write(probe_bytes(probe))
            if (kept := kept_rows(session.engine.model.encoder)) is not None:
                content[KEPT_ROWS] = partial(write_kept_rows, kept)
        return content, snapshot.wait

    return session.checkpoints.save(step, state_of(session, step, plan.state), take, session.best.get("step"))
