"""`xstilts study`: the plan, the cells, the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.errors import UserError
from trainer.launchers import Launcher
from trainer.launching import processes_of
from trainer.study import plot, record, tables
from trainer.study.cost import Cost, estimate, total
from trainer.study.launch import Stopped, open_launcher
from trainer.study.plan import Cell, make_cells, target_tasks
from trainer.study.results import Grid, collect, differences_grid, remarks, scores_grid
from trainer.study.run import (
    GOOD,
    CellsFailed,
    check_packs,
    check_starts,
    failures,
    is_done,
    matching,
    refuse_changed,
    run_again,
    run_cells,
)
from trainer.study.slurm import slurm_script
from trainer.study.spec import Study, dump_study, load_study
from trainer.tasks.custom import nearest
from trainer.ui.human import count, duration
from trainer.ui.tables import new_table


@dataclass(frozen=True)
class Options:
    """The command line: at most one of the first four.

    Attributes:
        dry_run: show the plan and stop.
        slurm: give a script instead of running.
        only_tables: write the tables of what is done, run nothing.
        cell: run this one.
        redo: run cells again: those of these patterns, or where there are none, those run with other settings.
        launcher: of the runs; None: see `open_launcher`.
    """

    dry_run: bool = False
    slurm: bool = False
    only_tables: bool = False
    cell: str | None = None
    redo: tuple[str, ...] | None = None
    launcher: str | None = None


def run_study(
    path: Path, overrides: Sequence[str], options: Options, console: Console, print_plain: Callable[[str], None]
) -> None:
    """The whole command.

    Args:
        overrides: `key=value` of study keys.
        print_plain: takes the Slurm script, for standard output.

    Raises:
        UserError: the study, its recipes or what is there of it are wrong, before anything is run.
        CellsFailed: some cells failed, after all others were run and the tables written.
        Stopped: by a signal; no tables are written.
    """
    study = load_study(path, overrides)
    cells = make_cells(study)

    def say(line: str) -> None:
        console.print(Text(line), soft_wrap=True)

    again = matching(cells, options.redo or ())
    unchanged = [] if options.redo == () else [cell for cell in cells if cell not in again]  # or an error
    if options.slurm:
        refuse_changed(unchanged, False, say)
        launcher = options.launcher and open_launcher(options.launcher)
        if launcher and launcher.name != "srun":  # else the GPUs of each job decide
            check_packs(cells, launcher.processes or 1, again)
        todo = [cell for cell in cells if not is_done(cell) or cell in again]
        print_plain(slurm_script(study, todo, _words(path, overrides, options)))
        return
    if options.only_tables:
        if options.redo is not None:  # some may still wait to be run anew, as in the last job of a Slurm script
            for line in _changed(cells):
                say(f"{line}; missing below until it is run anew")
        else:
            refuse_changed(cells, False, say)
        _end_with_tables(study, cells, console)
        return
    launcher = open_launcher(options.launcher)
    if options.dry_run:
        _show(console, *_plan(cells, launcher), *(Text(f"{cell.name} is to be run again") for cell in again))
        check_packs(cells, processes_of(launcher), again)
        return
    wanted = [cell for cell in cells if options.cell in (None, cell.name)]
    if not wanted:
        raise UserError(f"the study has no cell {options.cell!r}", fix=nearest(options.cell, [c.name for c in cells]))
    check_packs(wanted, processes_of(launcher), again)
    refuse_changed([cell for cell in wanted if cell in unchanged], False, say)
    refuse_changed(wanted, True, say)
    run_again(wanted, again, say)
    check_starts(wanted, cells)
    if options.cell is None:
        _prepare_folder(study)
    next_command = "the same command without --redo" if options.redo else "the same command again"
    outcomes = {}
    if not all(map(is_done, wanted)):
        if options.cell is None:
            _show(console, *_plan(cells, launcher))
        try:
            outcomes = run_cells(wanted, launcher, say)
        except Stopped as stopped:
            stopped.fix = f"{next_command}: the cell goes on"
            raise
    if options.cell is None:
        _end_with_tables(study, cells, console)
    if problems := failures(outcomes):
        for line in problems:
            say(line)
        good = sum(outcome.state in GOOD for outcome in outcomes.values())
        failed = [name for name, outcome in outcomes.items() if outcome.state == "failed"]
        fix = f"mend what the logs say, then {next_command}: cells that are done are skipped"
        raise CellsFailed(f"{len(problems)} cells are not done, {good} are; failed: {', '.join(failed)}", fix=fix)
    if options.cell is not None and not outcomes:
        say(f"{options.cell} is done already")


def _plan(cells: Sequence[Cell], launcher: Launcher) -> list:
    """What is printed before a study runs."""
    states = {cell.name: record.state_of(cell) for cell in cells}
    costs = estimate([cell for cell in cells if states[cell.name] != "done"], launcher.processes)
    shown: list = [plan_table(cells, states, costs)]
    evaluated = {cell.target: cell.tasks for cell in cells if cell.target and cell.tasks != (cell.target,)}
    shown += [Text(f"{target} evaluates {', '.join(names)}") for target, names in evaluated.items()]
    tokens, seconds, unknown = total(costs)
    done = sum(state == "done" for state in states.values())
    rest = f" and {unknown} {'run' if unknown == 1 else 'runs'} of unknown length" if unknown else ""
    about = f"; training {count(tokens)} tokens, about {duration(seconds)}{rest}, evaluation not counted"
    shown.append(Text(f"{len(cells)} cells: {done} done, {len(cells) - done} to do{about if costs else ''}"))
    for why in dict.fromkeys(cost.why for cost in costs.values() if cost.why):
        shown.append(Text(f"unknown: {why}"))
    return shown + [Text(line) for line in _changed(cells)]


def _changed(cells: Sequence[Cell]) -> list[str]:
    found = {cell.name: record.changes(cell) for cell in cells}
    return [f"{name} changed: {'; '.join(changes[:3])}" for name, changes in found.items() if changes]


def plan_table(cells: Sequence[Cell], states: Mapping[str, str], costs: Mapping[str, Cost]) -> Table:
    """A row for each cell: its name, whether it is done, and what its training will take."""
    table = new_table()
    table.add_column("cell\n  starts from the run above", no_wrap=True)  # whole, as --cell takes it
    table.add_column("state", no_wrap=True)
    for name in ("steps", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        cost = costs.get(cell.name)
        known = [] if cost is None else [(cost.steps, "{:,}".format), (cost.seconds, duration)]
        figures = [Text("unknown" if value is None else shown(value)) for value, shown in known] or [Text("-")] * 2
        state = states[cell.name]
        style = {"done": "dim", "changed": "red"}.get(state, "")
        table.add_row(Text(f"{'  ' if cell.needs else ''}{cell.name}"), Text(state), *figures, style=style)
    return table


def _prepare_folder(study: Study) -> None:
    try:
        dump_study(study, Path(study.folder) / "study.yaml")
    except OSError as error:
        raise UserError(
            f"study folder {study.folder} cannot be written", why=str(error), fix="folder=FOLDER elsewhere"
        ) from None


def _end_with_tables(study: Study, cells: Sequence[Cell], console: Console) -> None:
    results = collect(study, target_tasks(study), cells, [cell.name for cell in cells if is_done(cell)])
    folder = Path(study.folder) / "tables"
    differences = differences_grid(results)
    drawn = differences is not None and plot.can_draw()
    picture = plot.heat_map(differences, folder / "differences.png") if drawn else None
    written = tables.write_tables(folder, results, picture)
    shown: list[Grid] = [scores_grid(results), *([differences] if differences else [])]
    for grid in shown:
        for table in tables.terminal_tables(grid):
            _show(console, table, "")
    left_out = [f"warning: {plot.MISSING}"] if differences and not drawn else []
    files = f"{len(written) + bool(picture)} files of tables are in {folder}"
    for line in [tables.NOTE, *remarks(results), *left_out, files]:
        console.print(Text(line), soft_wrap=True)


def _show(console: Console, *what) -> None:
    for one in what:
        console.print(one)


def _words(path: Path, overrides: Sequence[str], options: Options) -> list[str]:
    launcher = ["--launcher", options.launcher] if options.launcher else []
    redo = [] if options.redo is None else ["--redo", *options.redo]
    return ["xstilts", "study", str(path), *overrides, *launcher, *redo]
