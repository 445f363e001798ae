"""The gate before timing: the fast model computes what the plain one does, on the same pack, without dropout.

    python -m benchmarks.parity [RECIPE] [key=value ...] [--model MODEL] [--dtype bf16] [--out FOLDER]

The reference is the plain model in fp32. In fp32 the fast model must agree with it to rounding; in bf16 and fp16 it
must be about as near to it as the plain model in that dtype is.
"""

from __future__ import annotations

import argparse
import copy
import gc
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.command import no_traceback, take_recipe
from benchmarks.workload import BASE, Workload, choose, open_workload
from trainer import engine
from trainer.config import load_recipe
from trainer.data.loader import Collator, PackedBatch
from trainer.data.masking import masking_of
from trainer.data.prepare import tasks_of
from trainer.distributed import World
from trainer.loop import loss_factors
from trainer.model.build import build_model
from trainer.model.fused import plain_names
from trainer.model.multitask import MultiTaskModel
from trainer.model.vocabulary import NAME as EMBEDDING
from trainer.model.vocabulary import kept_rows
from trainer.session import make_planner, replace_section, resolve_mixture

PLAIN = ("kernels.layers=plain", "kernels.attention=packed_sdpa", "model.vocabulary=full")
PACK = 4096  # tokens, or those of the largest example
# So little that nothing is dropped, but not 0, with which the CPU's kernels of their own would not run. The GPU's flash
# kernel counts dropout in 256ths, rounded up.
NO_DROPOUT = {"cpu": "1.0e-12", "cuda": "0.0"}
# In fp32: relative difference of the loss, of hidden states in their standard deviations, 1 - cosine of gradients.
LIMITS = {"loss": 1e-4, "hidden": 1e-3, "gradient": 1e-4}
SLACK = 1.5  # in lower precision: how much farther than the plain model in the same dtype it may be
NEGLIGIBLE = 1e-4  # of the whole gradient's norm: smaller ones (key biases, by theory 0) have no direction


class ParityFailed(RuntimeError):
    """The models differ; nothing is timed."""


@dataclass
class Outcome:
    """Of one pack, on the CPU in fp32: loss, hidden states (T, H), gradients under transformers' names."""

    loss: float
    hidden: torch.Tensor
    gradients: dict[str, torch.Tensor]
    kept: torch.Tensor | None


def gate(workload: Workload, overrides: tuple[str, ...] = (), dtype: str = "auto") -> dict[str, Any]:
    """The figures of the comparison of a workload's model with everything on against the plain one.

    Raises:
        ParityFailed: beyond the limits.
    """
    device = World.from_environment().device
    no_dropout = (*overrides, f"model.dropout={NO_DROPOUT[device.type]}", f"engine.dtype={dtype}")
    config, tokenizer, prepared = open_workload(workload.spec(*no_dropout))
    dtype = engine.choose_dtype(config, device)
    batch, factors = _batch(config, tokenizer, prepared, device)

    def outcome(model: MultiTaskModel, dtype: str) -> Outcome:
        model = model.to(device, engine.DTYPES[dtype])
        try:
            return run(model, batch, factors)
        finally:
            model.to("meta")
            gc.collect()

    plain_config = load_recipe(*recipe_of(workload, *no_dropout, *PLAIN))
    plain, _, _ = build_model(plain_config, prepared, tokenizer, device, dtype)
    reference = outcome(copy.deepcopy(plain), "fp32")
    figures = {}
    if dtype != "fp32":
        figures["plain"] = compare(outcome(plain, dtype), reference)
    del plain
    fast, _, notes = build_model(config, prepared, tokenizer, device, dtype)
    figures["fast"] = compare(outcome(fast, dtype), reference)
    result = {"dtype": dtype, "device": device.type, "tokens": batch.tokens, "notes": notes, **figures}
    result["limits"] = limits(figures.get("plain"))
    check(result)
    return result


def run(model: MultiTaskModel, batch: PackedBatch, factors: Mapping[str, float]) -> Outcome:
    """Forward and backward of a pack, as in training."""
    model.train()
    hidden = {}
    hook = model.heads.register_forward_pre_hook(lambda _, arguments: hidden.update(states=arguments[0]))
    loss, _ = model(batch, factors)
    hook.remove()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    kept = kept_rows(model.encoder)
    return Outcome(
        loss=float(loss.detach()),
        hidden=hidden["states"].detach()[: batch.tokens].float().cpu(),
        gradients={name: g.detach().float().cpu() for name, g in plain_names(gradients).items()},
        kept=None if kept is None else torch.from_numpy(kept),
    )


def compare(found: Outcome, reference: Outcome) -> dict[str, Any]:
    """How far `found` is from `reference`.

    Returns:
        `loss`: relative difference; `hidden`: largest difference of a hidden state, in the reference's standard
        deviations, and its `hidden_mean`; `gradient`: 1 - cosine of the whole gradient; `gradient_norm`: relative
        difference of norms; `worst_gradient` and `worst_parameter`: the largest 1 - cosine of one parameter's.
    """
    gradients = found.gradients
    if found.kept is not None:
        whole = torch.zeros_like(reference.gradients[EMBEDDING])
        whole[found.kept] = gradients[EMBEDDING]
        gradients = {**gradients, EMBEDDING: whole}
    if gradients.keys() != reference.gradients.keys():
        raise ParityFailed(f"parameters differ: {sorted(gradients.keys() ^ reference.gradients.keys())[:4]}")
    dots, ours, theirs = {}, {}, {}
    for name, gradient in reference.gradients.items():
        a, b = gradients[name].double().flatten(), gradient.double().flatten()
        dots[name], ours[name], theirs[name] = float(a @ b), float(a @ a), float(b @ b)
    norm, whole_norm = sum(ours.values()) ** 0.5, sum(theirs.values()) ** 0.5
    far = {
        name: 1.0 - dots[name] / max(ours[name] * theirs[name], 1e-300) ** 0.5
        for name in dots
        if max(ours[name], theirs[name]) ** 0.5 > NEGLIGIBLE * whole_norm
    }
    worst = max(far, key=far.get)
    difference = (found.hidden - reference.hidden).abs() / reference.hidden.std()
    return {
        "loss": abs(found.loss - reference.loss) / abs(reference.loss),
        "hidden": float(difference.max()),
        "hidden_mean": float(difference.mean()),
        "gradient": 1.0 - sum(dots.values()) / (norm * whole_norm),
        "gradient_norm": abs(norm - whole_norm) / whole_norm,
        "worst_gradient": far[worst],
        "worst_parameter": worst,
    }


def limits(plain: Mapping[str, Any] | None) -> dict[str, float]:
    """What `loss`, `hidden` and `gradient` may be: LIMITS, and SLACK times those of the plain model in the dtype."""
    return {key: LIMITS[key] + SLACK * (plain[key] if plain else 0.0) for key in LIMITS}


def check(result: Mapping[str, Any]) -> None:
    """Raises ParityFailed, with the figures, where one is beyond its limit or not a number."""
    beyond = [
        f"{key} {result['fast'][key]:.2e} (limit {limit:.2e})"
        for key, limit in result["limits"].items()
        if not result["fast"][key] <= limit
    ]
    if beyond:
        raise ParityFailed(f"the fast model is not the plain one in {result['dtype']}: {', '.join(beyond)}")


def recipe_of(workload: Workload, *overrides: str) -> tuple[Any, list[str]]:
    """File and overrides of a workload's recipe, for `load_recipe`."""
    spec = workload.spec(*overrides)
    return spec["recipe"] or BASE, spec["overrides"]


def _batch(config, tokenizer, prepared, device: torch.device):
    """A pack in which every task has an example where it fits, and the factors of its losses."""
    largest = max(int(item.train.tokens.max()) for item in prepared.values())
    overrides = {"pack_tokens": max(PACK, largest), "packs_per_step": 1}
    small = replace_section(config, "train", **overrides)
    rates, _ = resolve_mixture(replace_section(small, "train", steps=1), prepared)
    planner = make_planner(small, prepared, rates)
    packs = [pack for _ in range(8) for pack in planner.next_step().packs]
    pack = max(packs, key=lambda pack: len(set(pack.tasks.tolist())))
    stores = {name: item.train for name, item in prepared.items()}
    constant = overrides["pack_tokens"] if device.type == "cuda" else None
    tasks = tasks_of(prepared)
    masking = masking_of(tasks.values(), tokenizer, config.seed)
    batch = Collator(tasks, stores, tokenizer.pad_token_id, constant, masking)(pack.tasks, pack.units)
    return batch.to(device), loss_factors(config.train, tasks, len(pack.units), len(tokenizer))


def table(result: Mapping[str, Any]) -> Table:
    """The figures as a person reads them."""
    shown = Table("against plain fp32", *LIMITS, "worst parameter's gradient", title=f"Parity, {result['dtype']}")
    for name in ("plain", "fast"):
        if name in result:
            row = result[name]
            shown.add_row(name, *(f"{row[key]:.2e}" for key in LIMITS), f"{row['worst_gradient']:.2e}")
    shown.add_row("limit", *(f"{result['limits'][key]:.2e}" for key in LIMITS), "")
    return shown


def main(arguments: list[str] | None = None) -> None:
    """The command; exit code 1 when the models differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="RECIPE | key=value")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    options = parser.parse_intermixed_args(arguments)
    recipe = take_recipe(options.words)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        with no_traceback(console, ParityFailed):
            units = 40 if options.model == "tiny" else 400
            workload = choose(Path(folder), options.model, recipe, tuple(options.words), units_per_task=units)
            result = gate(workload, dtype=options.dtype)
    console.print(table(result))
    results.write("parity", {"setting": workload.says, "parity": result}, options.out)


if __name__ == "__main__":
    main()
