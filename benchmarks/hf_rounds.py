"""The course of the comparison with Hugging Face: the gate, the sweep of the baseline, and the rounds."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks import arms, workload
from benchmarks.hf_settings import Setting
from trainer.errors import UserError

OURS, DEFAULT, BEST = "xstilts", "hf_dynamic", "hf_best"
GATE = "parity"


@dataclass(frozen=True)
class Comparison:
    """What all arms share.

    Attributes:
        tokens: useful tokens of a step, on average; packs: ours of a step, and the tokens of each.
        warmup: steps before an arm's first turn; steps, seconds: the least a turn has.
    """

    work: workload.Workload
    overrides: tuple[str, ...]
    processes: int
    tokens: float
    packs: tuple[int, int]
    warmup: int
    steps: int
    seconds: float

    def ours(self) -> arms.Arm:
        packs, pack_tokens = self.packs
        sizes = (f"train.packs_per_step={packs}", f"train.pack_tokens={pack_tokens}")
        return arms.Arm(OURS, "benchmarks.ours", self.work.spec(*self.overrides, *sizes), self.processes)

    def theirs(self, setting: Setting) -> arms.Arm:
        spec = {**self.work.spec(*self.overrides), "hf": asdict(setting)}
        return arms.Arm(setting.name, "benchmarks.hf_trainer", spec, self.processes)

    def gate(self) -> arms.Arm:
        return arms.Arm(GATE, "benchmarks.hf_parity", self.work.spec(*self.overrides))


class Fleet:
    """Arms that are kept ready from one use to the next where there is room for all, and else started anew.

    Args:
        at_once: how many may be alive, and are built, at a time.
    """

    def __init__(self, at_once: int, keep: bool):
        self.at_once, self.keep = at_once, keep
        self._stack, self._kept = contextlib.ExitStack(), arms.Running()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exception) -> None:
        self._stack.__exit__(*exception)

    @contextlib.contextmanager
    def ready(self, wanted: Sequence[arms.Arm]) -> Iterator[arms.Running]:
        """The arms wanted; those that could not be built are in `failed`."""
        if not self.keep:
            with arms.start(wanted, self.at_once, tolerate=True) as running:
                yield running
            return
        known = self._kept.keys() | self._kept.failed.keys()
        if new := [arm for arm in wanted if arm.name not in known]:
            started = self._stack.enter_context(arms.start(new, self.at_once, tolerate=True))
            self._kept.update(started)
            self._kept.failed.update(started.failed)
        part = arms.Running()
        for arm in wanted:
            if arm.name in self._kept:
                part[arm.name] = self._kept[arm.name]
            else:
                part.failed[arm.name] = self._kept.failed[arm.name]
        yield part


def measure(
    comparison: Comparison,
    settings: Sequence[Setting],
    default: Setting,
    rounds: int,
    finalists: int,
    compiled: bool,
    at_once: int,
    say: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """The whole course.

    Args:
        settings: of the sweep; default: the setting that is timed with ours in any case.
        finalists: how many of the sweep's fastest are timed with ours; compiled: sweep these once more, compiled. One
            that dies in the rounds (of memory, as large batches are rare) is left out, with its reason.
        at_once: arms alive at a time.
        say: told how it goes, a line at a time.
        keep: given the result so far after each round, so that a comparison that is cut off still counts.

    Returns:
        `parity`, `sweep`, `arms` {name: figures}, `failed` {name: reason}, `default` and `best` (names), `ratios`.

    Raises:
        UserError: the models differ.
        ArmDied: ours or the default did.
    """
    with Fleet(at_once, keep=at_once >= len(settings) + 2) as fleet:
        if fleet.keep:  # all are built at the same time
            with fleet.ready([comparison.gate(), comparison.ours(), *map(comparison.theirs, settings)]):
                pass
        with fleet.ready([comparison.gate()]) as running:
            figures = gate(running)
        for dtype, found in figures.items():
            far = found["ours"]
            say(f"parity in {dtype}: loss {far['loss']:.1e} apart, 1 - gradient cosine {far['gradient']:.1e}")
        swept = sweep(comparison, fleet, settings, say)
        if compiled:
            again = [replace(setting, compile=True) for setting in fastest(swept, finalists)]
            swept = sorted(swept + sweep(comparison, fleet, again, say), key=rate, reverse=True)
        chosen = list(dict.fromkeys([default, *fastest(swept, finalists)]))
        with fleet.ready([comparison.ours(), *map(comparison.theirs, chosen)]) as running:

            def result(turns: Mapping[str, list[arms.Turn]]) -> dict[str, Any]:
                table = rows(turns, running, [setting for setting in chosen if setting.name in turns])
                best = max((name for name in table if name != OURS), key=lambda name: table[name]["overall"])
                failed = {name: last_error(reason) for name, reason in running.failed.items()}
                ratios = {DEFAULT: table[default.name]["ours_over_it"], BEST: table[best]["ours_over_it"]}
                names = {"default": default.name, "best": best}
                return {"parity": figures, "sweep": swept, "arms": table, "failed": failed, **names, "ratios": ratios}

            return result(final(comparison, running, default, rounds, lambda turns: keep(result(turns))))


def gate(running: arms.Running) -> dict[str, Any]:
    """The figures of `hf_parity`, by dtype.

    Raises:
        UserError: the models differ.
    """
    if GATE in running.failed:
        raise arms.ArmDied(running.failed[GATE])
    figures = running[GATE].facts
    for dtype, found in figures.items():
        if found["failed"]:
            raise UserError(
                f"our model and the Hugging Face model differ in {dtype}",
                why=f"{found['failed']}; what computes something else cannot be compared in speed",
                fix="python -m pytest tests/benchmarks tests/model",
            )
    return figures


def sweep(
    comparison: Comparison, fleet: Fleet, settings: Sequence[Setting], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A turn for each setting: fastest first, then those that failed, with their reason."""
    rows = []
    for start in range(0, len(settings), fleet.at_once):
        group = settings[start : start + fleet.at_once]
        with fleet.ready([comparison.theirs(setting) for setting in group]) as running:
            turns = (comparison.steps, comparison.seconds)
            found = arms.interleave(running, comparison.warmup, 1, *turns, tolerate=True)
        for setting in group:
            row: dict[str, Any] = {"name": setting.name, "setting": asdict(setting)}
            if setting.name in found:
                row |= arms.summary(found[setting.name])
                say(f"{setting.name}: {rate(row):,.0f} useful tokens/s, fill {row['fill']:.0%}")
            else:
                row["failed"] = last_error(running.failed[setting.name])
                say(f"{setting.name}: failed: {row['failed']}")
            rows.append(row)
    return sorted(rows, key=rate, reverse=True)


def final(
    comparison: Comparison,
    running: arms.Running,
    default: Setting,
    rounds: int,
    after_round: Callable[[dict[str, list[arms.Turn]]], None],
) -> dict[str, list[arms.Turn]]:
    """The turns of ours and of the chosen settings, which run turn about; of those that lived to the end.

    Raises:
        ArmDied: ours or the default did.
    """

    def check() -> None:
        for name in (OURS, default.name):
            if name in running.failed:
                raise arms.ArmDied(running.failed[name])

    def after(turns: dict[str, list[arms.Turn]]) -> None:
        check()
        after_round(turns)

    check()
    turns = (comparison.steps, comparison.seconds)
    found = arms.interleave(running, comparison.warmup, rounds, *turns, tolerate=True, after_round=after)
    check()
    return found


def rows(
    turns: Mapping[str, list[arms.Turn]], running: arms.Running, settings: Sequence[Setting]
) -> dict[str, dict[str, Any]]:
    """Figures of ours and of the given settings.

    Besides `arms.summary`: `facts`, `setting`, `useful_tokens_per_step`, `overall` (useful tokens/s of all turns
    together), and `ours_over_it`: ratios of the rounds, and `overall`.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, taken in turns.items():
        row = arms.summary(taken)
        row["useful_tokens_per_step"] = row["useful_tokens"] / row["steps"]
        row["overall"] = row["useful_tokens"] / row["seconds"]
        table[name] = {**row, "facts": running[name].facts}
    for setting in settings:
        row = table[setting.name]
        overall = table[OURS]["overall"] / row["overall"]
        row["setting"] = asdict(setting)
        row["ours_over_it"] = {**arms.ratio_of_rounds(turns[OURS], turns[setting.name]), "overall": overall}
    return table


def fastest(swept: Sequence[Mapping[str, Any]], count: int) -> list[Setting]:
    """The first settings of a sweep that ran."""
    return [Setting(**row["setting"]) for row in swept if "failed" not in row][:count]


def rate(row: Mapping[str, Any]) -> float:
    """Useful tokens/s of a row of the sweep; 0 where it failed."""
    return row["useful_tokens_per_second"]["median"] if "failed" not in row else 0.0


def last_error(text: str) -> str:
    """The last line of a log that says an error, without the folders of this machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and not line.startswith("File")]
    return re.sub(r"(/[\w.+-]+)+/", "", (errors or lines)[-1])[:300]
