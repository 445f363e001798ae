"""What `xstilts plan` shows: memory by part, the ways of running, and the choice with its reasons."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trainer.plan import Plan
from trainer.ui.human import count, duration, percent, size
from trainer.ui.tables import new_table


def plan_view(plan: Plan) -> Group:
    """The whole answer, 80 columns wide."""
    return Group(
        Text(_heading(plan)), Text(), memory_table(plan), Text(), ways_table(plan), Text(), *map(Text, _choice(plan))
    )


def memory_table(plan: Plan) -> Table:
    """A row per configuration, without and with gradient checkpointing: GB of one device at its peak."""
    table = new_table(f"memory of one {'GPU' if plan.devices.kind == 'cuda' else 'process'} at its peak, GB")
    table.add_column("config", no_wrap=True)
    for name in ("weight", "grad", "optim", "activ", "buffer", "reserve", "sum", "host"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    for option in plan.options:
        parts = option.memory.parts
        columns = (
            parts["weights"] + parts["fp32 weights"],
            parts["gradients"],
            parts["optimizer state"],
            parts["activations"],
            parts["buffers"],
            option.reserve,
            option.memory.peak + option.reserve,
            option.memory.host,
        )
        fits = Text("yes", "green") if option.fits else Text(f"-{-option.room / 1e9:.1f}", "red")
        table.add_row(_way(option), *(f"{value / 1e9:.1f}" for value in columns), fits, style=_style(plan, option))
    return table


def ways_table(plan: Plan) -> Table:
    """A row per way that fits: the packs it would take, the largest pack, and how fast it would be."""
    table = new_table()
    for name in ("config", "packs", "largest\npack", "step", "tokens/s\neach", "tokens/s\nin all", "effici-\nency"):
        table.add_column(name, justify="left" if name == "config" else "right", no_wrap=True)
    for option in plan.options:
        speed = option.speed
        largest = plan.largest[option.config, option.checkpointing]
        rates = ("-",) * 4
        if option.fits:
            each = speed.tokens_per_second / plan.devices.count
            rates = (
                f"{speed.seconds:.3g} s",
                count(each),
                count(speed.tokens_per_second),
                percent(speed.efficiency),
            )
        packs = f"{option.packs_per_step} x {option.pack_tokens:,}" if option.fits else "-"
        table.add_row(_way(option), packs, f"{largest:,}" if largest else "none", *rates, style=_style(plan, option))
    return table


def _way(option) -> str:
    """zero2.json is shown as 2."""
    return Path(option.config).stem.removeprefix("zero") + (" +ckpt" if option.checkpointing else "")


def _style(plan: Plan, option) -> str:
    return "bold" if option is plan.chosen else "" if option.fits else "dim"


def _heading(plan: Plan) -> str:
    shape, devices, data = plan.shape, plan.devices, plan.data
    trimmed = f", {shape.rows:,} of {shape.vocabulary:,} embedding rows" if shape.rows < shape.vocabulary else ""
    nodes = f" on {devices.nodes} nodes" if devices.nodes > 1 else ""
    return (
        f"{shape.name}: {count(shape.parameters)} parameters ({count(shape.in_layers)} in layers{trimmed}), "
        f"{plan.dtype}, {'fused' if plan.kernels.fused else 'plain'} layers, {plan.kernels.attention}\n"
        f"{devices.count} x {devices.name}{nodes}, {size(devices.memory)} each\n"
        f"lengths: mean {data.mean:.0f}, weighted by tokens {data.effective:.0f}, at most {data.longest} "
        f"an example ({data.source})"
    )


def _choice(plan: Plan) -> list[str]:
    chosen, devices, speed = plan.chosen, plan.devices, plan.chosen.speed
    settings = (
        f"engine.config={chosen.config}",
        f"model.gradient_checkpointing={str(chosen.checkpointing).lower()}",
        f"train.pack_tokens={chosen.pack_tokens}",
        f"train.packs_per_step={chosen.packs_per_step}",
    )
    source = "measured here" if devices.kind == "cpu" else "of an A100, assumed" if devices.assumed else "data sheet"
    lines = [f"chosen: {' '.join(settings)}", *(f"  {reason}" for reason in plan.reasons)]
    lines.append(
        f"  assumed: {percent(speed.utilisation)} of {devices.matmul / 1e12:.3g} TFLOP/s ({source}), "
        f"{size(devices.bandwidth)}/s between devices; memory peaks when: {chosen.memory.peak_moment}"
    )
    if plan.seconds is None:
        lines.append("  time: unknown, as the recipe counts epochs and the data is not prepared")
    else:
        lines.append(f"  time: {plan.steps:,} steps, about {duration(plan.seconds)} without evaluation and checkpoints")
    return lines
