"""The README's benchmark table, rendered from the result files between two markers, so that no figure is typed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import results
from benchmarks.provenance import RESULTS
from trainer.errors import UserError

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
HEAD = "| benchmark | measured | median | lowest - highest | machine |"
PAPER = "temperature 1, cap 2^17"  # the mixture of launch/recipes/nine_tasks.yaml

Result = Mapping[str, Any]
Row = tuple[str, str, str]  # what, median, spread


def versus_hf(result: Result) -> Iterator[Row]:
    for name, row in result["arms"].items():
        yield f"{name}: useful tokens/s", *_spread(row["useful_tokens_per_second"], "{:,.0f}")
    for name, ratio in result["ratios"].items():
        yield f"xstilts over {name}", *_spread(ratio, "{:.2f} x")


def throughput(result: Result) -> Iterator[Row]:
    best = f"packs of {result['setting']['best_pack_tokens']:,}"
    row = result["arms"][best]
    yield f"{best} tokens: useful tokens/s", *_spread(row["useful_tokens_per_second"], "{:,.0f}")
    yield f"{best} tokens: MFU (of {_tera(result['ceilings'])} TFLOP/s measured)", f"{row['mfu']:.1%}", ""
    for name, ratio in result["ratios"].items():
        yield name, *_spread(ratio, "{:.2f} x")


def scaling(result: Result) -> Iterator[Row]:
    for name, ratio in result["ratios"].items():
        yield name, *_spread(ratio, "{:.1%}")


def mixing(result: Result) -> Iterator[Row]:
    row = result["arms"][PAPER]
    plans = row["plans"]
    yield f"{PAPER}: largest difference of a task's rate", f"{row['worst_rate_error']:.3%}", ""
    yield f"{PAPER}: fill of packs", f"{plans['fill']['mean']:.2%}", f"lowest step {plans['fill']['worst_step']:.2%}"
    for ranks in ("8", "64"):
        if found := plans["imbalance_by_world_size"].get(ranks):
            worst = f"worst step {found['worst']:.2%}"
            yield f"{PAPER}: fullest of {ranks} ranks above the mean", f"{found['mean']:.2%}", worst


def data_throughput(result: Result) -> Iterator[Row]:
    yield "planning and collating on one core: tokens/s", *_spread(result["tokens_per_second"], "{:,.0f}")


def checkpointing(result: Result) -> Iterator[Row]:
    for name, share in result["lost"].items():
        yield f"{name} checkpoints: training time lost to saving", *_spread(share, "{:.1%}")


def memory(result: Result) -> Iterator[Row]:
    for name, row in result["arms"].items():
        if "error" in row:
            yield f"{name}: plan against measured peak", f"{row['error']:+.1%}", ""


# Result files by the beginning of their names, in the table's order.
ROWS: dict[str, tuple[str, Callable[[Result], Iterator[Row]]]] = {
    "versus_hf": ("Hugging Face Trainer", versus_hf),
    "throughput": ("training", throughput),
    "scaling": ("scaling", scaling),
    "mixing": ("mixing", mixing),
    "data_throughput": ("data", data_throughput),
    "memory": ("memory", memory),
    "checkpointing": ("saving", checkpointing),
}


def render(folder: Path = RESULTS) -> str:
    """The table of a folder's result files, in Markdown; only what was measured is in it."""
    lines = [HEAD, "|" + "---|" * HEAD.count(" | ") + "---|"]
    for beginning, (title, rows) in ROWS.items():
        for path in sorted(folder.glob(f"{beginning}*.json"), reverse=True):
            result = results.read(path)
            machine = machine_of(result)
            lines += [f"| {title} | {' | '.join(row)} | {machine} |" for row in rows(result)]
    return "\n".join(lines)


def machine_of(result: Result) -> str:
    """GPU or processor, and the model, in a few words."""
    with_ = result["provenance"]
    gpu = with_.get("gpu") if result.get("setting", {}).get("device") != "cpu" else None
    hardware = gpu or f"{with_['cpu']}, {with_['cores']} cores"
    model = result.get("setting", {}).get("model")
    return ", ".join(filter(None, [model if isinstance(model, str) else None, hardware]))


def replace(text: str, table: str) -> str:
    """A README with the table between its markers.

    Raises:
        UserError: it has no markers.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(
            "the README has no place for the benchmark table", fix=f"add the two lines {BEGIN} and {END} to it"
        )
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def is_current(readme: Path = README, folder: Path = RESULTS) -> bool:
    """Whether a README's table is the one its result files give."""
    text = readme.read_text()
    return replace(text, render(folder)) == text


def main(readme: Path, folder: Path, check: bool) -> None:
    """Rewrite the README's table, or with `check` exit with 1 when that would change it."""
    console = Console()
    if check:
        if not is_current(readme, folder):
            console.print(f"{readme.name} is stale; next: python -m benchmarks report", markup=False)
            raise SystemExit(1)
        return
    readme.write_text(replace(readme.read_text(), render(folder)))
    console.print(f"{readme.name}: {render(folder).count(chr(10)) - 1} rows", markup=False)


def _spread(values: Mapping[str, float], form: str) -> tuple[str, str]:
    return form.format(values["median"]), f"{form.format(values['lowest'])} - {form.format(values['highest'])}"


def _tera(ceilings: Mapping[str, Any]) -> str:
    return f"{ceilings['matmul_flops_per_second'] / 1e12:.3g}"
