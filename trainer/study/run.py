"""Running cells one after another: a finished one is skipped, a failed one holds up only what needs it."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from trainer.attempt import End, stopped_by
from trainer.errors import UserError
from trainer.exits import Exit
from trainer.launchers import Launcher
from trainer.running import signals_taken
from trainer.study import record
from trainer.study.launch import Stopped, last_lines, run_step
from trainer.study.plan import Cell, Step
from trainer.study.results import lacks_files, read_scores
from trainer.tasks.custom import nearest
from trainer.ui.human import duration

GOOD = ("done", "done before")
Say = Callable[[str], None]


class CellsFailed(UserError):
    """Some cells of a study did not end well, through no fault of the command."""

    exit_code = 1


@dataclass(frozen=True)
class Outcome:
    """How a cell ended (`done`, `done before`, `failed`, `blocked`), why, its log, and the log's last lines."""

    cell: Cell
    state: str
    reason: str = ""
    log: Path | None = None
    lines: tuple[str, ...] = ()


def refuse_changed(cells: Sequence[Cell], redo: bool, say: Say) -> None:
    """Cells done or begun with other settings: an error, or with `redo` set aside to be run anew.

    Raises:
        UserError: naming the first such cell and its changed keys.
    """
    changed = {cell.name: (cell, found) for cell in cells if (found := record.changes(cell))}
    if not changed:
        return
    if redo:
        for cell, _ in changed.values():
            say(f"{cell.name} is run anew; what there was of it is now in {record.set_aside(cell)}")
        return
    name, (cell, found) = next(iter(changed.items()))
    others = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    raise UserError(
        f"{name}{others} was run with other settings: {found[0].split(':')[0]} changed",
        why=f"{cell.folder}: {'; '.join(found[:3])}",
        fix="undo the change, choose another folder=..., or --redo to run these cells anew",
    )


def matching(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells that a pattern names, and those that start from one of them.

    Raises:
        UserError: a pattern names none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(cell.name, pattern) for cell in cells):
            fix = nearest(pattern, [cell.name for cell in cells])
            raise UserError(f"--redo names {pattern}, and the study has no such cell", fix=fix)
    named = {cell.name for cell in cells if any(fnmatchcase(cell.name, pattern) for pattern in patterns)}
    return [cell for cell in cells if cell.name in named or cell.needs in named]


def run_again(wanted: Sequence[Cell], again: Sequence[Cell], say: Say) -> None:
    """Set aside what there is of cells that are done; where an evaluation only lacked test files, not the training.

    Args:
        wanted: those of this process; of `again`, which are all to be run anew, in a Slurm array only one.
    """
    names = {cell.name for cell in again}
    for cell in filter(is_done, wanted):
        if cell.name not in names or cell.needs in names:
            continue  # what it starts from sets it aside, done or only begun
        lacking = False
        if cell.target is not None:
            with contextlib.suppress(UserError):  # scores that cannot be read
                lacking = lacks_files(read_scores(cell))
        if lacking:
            say(f"{cell.name} is evaluated again; its scores so far are now in {record.set_evaluation_aside(cell)}")
            continue
        for anew in (cell, *(below for below in again if below.needs == cell.name)):
            if aside := record.set_aside(anew):
                say(f"{anew.name} is run again; what there was of it is now in {aside}")


def check_starts(wanted: Sequence[Cell], cells: Sequence[Cell]) -> None:
    """Before any time is spent: the exports that cells start from are there, or their runs are among those wanted.

    Raises:
        UserError: an export is missing.
    """
    by_name, running = {cell.name: cell for cell in cells}, {cell.name for cell in wanted if not is_done(cell)}
    for cell in wanted:
        if is_done(cell) or cell.needs is None or cell.needs in running:
            continue
        before = by_name[cell.needs]
        if not is_done(before):
            fix = f"run it first: --cell {before.name}"
            raise UserError(f"{cell.name} starts from the export of {before.name}, which is not done", fix=fix)
        if not before.steps[0].product.is_file():
            raise UserError(
                f"{cell.name} starts from {before.export}, and there is no export",
                why=f"{before.folder / record.DONE} says that it was done",
                fix=f"delete {before.folder}, and it is run anew",
            )


def check_packs(cells: Sequence[Cell], processes: int, again: Collection[Cell] = ()) -> None:
    """Before any time is spent: so many processes can share the packs of a step evenly, in each cell that is left to
    do. Where `engine.plan` chooses the packs, it makes them fit.

    Args:
        again: cells that are to be run though they are done.

    Raises:
        UserError: they cannot, naming the first such cell.
    """
    configs = {cell.name: cell.config for cell in cells if cell.config and (not is_done(cell) or cell in again)}
    packs = {name: config.train.packs_per_step for name, config in configs.items() if config.engine.plan == "off"}
    uneven = [name for name, count in packs.items() if count % processes]
    if not uneven:
        return
    others = f" (nor those of {len(uneven) - 1} more cells)" if len(uneven) > 1 else ""
    common = math.gcd(*packs.values())
    most = next(count for count in range(processes, 0, -1) if common % count == 0)
    raise UserError(
        f"{processes} processes cannot share the {packs[uneven[0]]} packs of a step of {uneven[0]} evenly{others}",
        why="every process takes the same number of packs, so that a step is the same with any number of processes",
        fix=f'--launcher "deepspeed --num_gpus {most}", or other train.packs_per_step in the study',
    )


def is_done(cell: Cell) -> bool:
    return record.state_of(cell) == "done"


def run_cells(cells: Sequence[Cell], launcher: Launcher, say: Say) -> dict[str, Outcome]:
    """Run what is not done yet, in order; the outcome of every cell by name.

    Args:
        say: told what happens, a line at a time.

    Raises:
        Stopped: a signal came. The cell that was running has saved, and goes on at the next start.
    """
    with signals_taken() as told:
        return _run_cells(cells, launcher, say, told)


def _run_cells(cells: Sequence[Cell], launcher: Launcher, say: Say, told: Sequence[int]) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    todo = [cell.name for cell in cells if not is_done(cell)]
    for cell in cells:
        if cell.name not in todo:
            outcomes[cell.name] = Outcome(cell, "done before")
            continue
        before = outcomes.get(cell.needs or "")
        if before and before.state not in GOOD:
            outcomes[cell.name] = Outcome(cell, "blocked", f"needs {before.cell.name}", before.log)
            continue
        say(f"[{todo.index(cell.name) + 1}/{len(todo)}] {cell.name}")
        try:
            outcomes[cell.name] = run_cell(cell, launcher, say, told)
        except Stopped:
            raise
        except (UserError, OSError) as error:
            outcomes[cell.name] = Outcome(cell, "failed", " ".join(str(error).split()))
        outcome = outcomes[cell.name]
        if outcome.state == "failed":
            say(f"  failed: {outcome.reason}")
            for line in outcome.lines:
                say(f"  | {line}")
    return outcomes


def run_cell(cell: Cell, launcher: Launcher, say: Say, told: Sequence[int] = ()) -> Outcome:
    """Run the steps of one cell that are not done yet, and note that it is done.

    Args:
        told: signals to this process; it may grow meanwhile.

    Raises:
        UserError: its folder cannot be used, or it was begun with other settings meanwhile.
        Stopped: by a signal to this process or to the run.
    """
    with record.locked(cell, say, told) as lock:
        if is_done(cell):  # by the process that was waited for
            return Outcome(cell, "done before")
        refuse_changed([cell], False, say)
        record.mark(cell)
        ran = False
        for step in cell.steps:
            if step.name in record.steps_done(cell) and step.product.is_file():
                continue
            if told:
                raise _stopped(cell, told)
            if step.name == "evaluate":  # what an earlier one has left is not this one's
                step.product.unlink(missing_ok=True)
            log = cell.folder / f"{step.name}.log"
            before = log.stat().st_size if log.exists() else 0
            say(f"  {step.name}, into {log}")
            began = time.monotonic()
            end = run_step(launcher, cell, step, log, lock, told)
            if problem := _problem(cell, step, end):
                if step.name == "evaluate" and not ran and told and told[0] == signal.SIGUSR1:
                    # It would take as long the next time, and begin anew each time.
                    return Outcome(cell, "failed", "evaluate takes longer than this job may: sbatch --time=...", log)
                if told or end.code in (Exit.STOPPED, Exit.INTERRUPTED):
                    raise _stopped(cell, told, end)
                return Outcome(cell, "failed", f"{step.name} {problem}", log, tuple(last_lines(log, before)))
            record.mark(cell, step, time.monotonic() - began)
            ran = True
        seconds = sum(record.steps_done(cell).values())
        record.finish(cell)
    say(f"  done, {duration(seconds)}{_headline(cell)}")
    return Outcome(cell, "done")


def failures(outcomes: Mapping[str, Outcome]) -> list[str]:
    """A line for each cell that is not done: what happened to it, and its log."""
    lines = []
    for outcome in outcomes.values():
        if outcome.state not in GOOD:
            log = f"; log: {outcome.log}" if outcome.log else ""
            lines.append(f"{outcome.cell.name} {outcome.state}: {outcome.reason}{log}")
    return lines


def _stopped(cell: Cell, told: Sequence[int], end: End | None = None) -> Stopped:
    code, cause = stopped_by(told[0]) if told else (Exit(end.code), "its run was stopped")
    why = f"its run: {end.cause}" if end else ""
    return Stopped(code, f"{cell.name}: {cause}", why=why, fix="the same command again: the cell goes on")


def _problem(cell: Cell, step: Step, end: End) -> str:
    """Why a step that has ended is not done; "" if it is."""
    if end.code:
        return f"ended with exit code {int(end.code)}: {end.cause}"
    if not step.product.is_file():
        return f"ended well, but left no {step.product}"
    if step.name == "evaluate":
        try:
            read_scores(cell)
        except UserError as error:
            return f"ended well, but {error.what}"
    return ""


def _headline(cell: Cell) -> str:
    if cell.target is None:
        return ""
    averages = {name: scores.average for name, scores in read_scores(cell).items()}
    return "".join(f", {name} {'not scored' if value is None else f'{value:.1f}'}" for name, value in averages.items())
