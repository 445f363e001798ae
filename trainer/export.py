"""Export: a plain Hugging Face folder, verified against the model that was trained before it is called one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save, save_file
from transformers import AutoModel

from trainer import __version__, checkpoint
from trainer.config import RunConfig, dump_recipe
from trainer.errors import UserError
from trainer.model.encoder import quiet_transformers
from trainer.tasks.spec import Task

PROBE_SEQUENCES = 12
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.02}  # of the hidden states, as a share of their norm

Probe = dict[str, torch.Tensor]


def probe_hidden_states(session) -> Probe:
    """Hidden states of the live model on a few dev sequences; all ranks must call it."""
    collator, names = session.dev_collator(), list(session.prepared)
    chosen = [
        (task, unit) for unit in range(2) for task in range(len(names)) if unit < len(session.prepared[names[task]].dev)
    ]
    pairs = np.array(chosen[:PROBE_SEQUENCES])
    batch = collator(pairs[:, 0], pairs[:, 1])
    hidden = session.engine.hidden_states(batch.to(session.world.device)).cpu()
    return {
        "input_ids": batch.input_ids,
        "token_type_ids": batch.token_type_ids,
        "cu_seqlens": batch.cu_seqlens,
        "hidden": hidden,
    }


def probe_bytes(probe: Probe) -> bytes:
    """The content of a checkpoint's probe.safetensors."""
    return save({name: value.contiguous() for name, value in probe.items()})


def load_probe(path: Path) -> Probe:
    return load_file(str(path))


def write_export(
    out: Path,
    state: Mapping[str, torch.Tensor],
    encoder_config,
    tokenizer,
    tasks: Mapping[str, Task],
    config: RunConfig,
    probe: Probe,
    dtype: str,
    scores: dict[str, Any] | None,
    step: int,
) -> float:
    """Write the encoder, the tokenizer, the heads and a model card; compare with the live model; rename into place.

    Args:
        state: fp32 weights of the whole MultiTaskModel.
        dtype: what the live model computed in; sets how close the exported one must come.

    Returns:
        How far exported and live hidden states are apart; see `compare_with_probe`.

    Raises:
        UserError: the folder exists and is not an export, cannot be written, or does not give the live hidden states.
    """
    if out.exists() and not (out / "heads.json").is_file() and any(out.iterdir()):
        raise UserError(f"{out} exists and is not an export", fix="choose another folder, or delete it first")
    temporary, before = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.before")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        encoder_config = type(encoder_config).from_dict(encoder_config.to_dict())
        with torch.device("meta"):  # a shell for the weights, so that a large model is not held twice
            encoder = AutoModel.from_config(encoder_config, add_pooling_layer=False, dtype=torch.float32)
        below = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
        encoder.load_state_dict(below, strict=True, assign=True)
        with quiet_transformers():
            encoder.save_pretrained(temporary)
        del encoder, below
        tokenizer.save_pretrained(temporary)
        heads = {name.removeprefix("heads."): v.contiguous() for name, v in state.items() if name.startswith("heads.")}
        save_file(heads, str(temporary / "heads.safetensors"))
        (temporary / "heads.json").write_text(
            json.dumps(_head_description(tasks, config), indent=1, ensure_ascii=False)
        )
        dump_recipe(config, temporary / "recipe.yaml")
        (temporary / "README.md").write_text(model_card(config, tasks, scores, step))
        difference = compare_with_probe(temporary, probe)
        if not difference <= TOLERANCE[dtype]:
            raise UserError(
                f"the exported encoder's hidden states differ from the live one's by {difference:.2%} of their norm",
                why=f"at most {TOLERANCE[dtype]:.2%} is rounding in {dtype}; the export was not kept",
                fix="report this with the run's recipe.yaml",
            )
        for path in [*temporary.rglob("*"), temporary]:
            checkpoint.sync(path)
        _swap(temporary, out, before)
    except OSError as error:
        raise UserError(
            f"cannot write the export {out}", why=str(error), fix="free some space, or choose another folder"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return difference


def _swap(new: Path, out: Path, before: Path) -> None:
    """Put a folder in the place of another one, which is whole or gone at any moment."""
    shutil.rmtree(before, ignore_errors=True)
    if out.exists():
        os.replace(out, before)
    try:
        os.replace(new, out)
    except OSError:
        if before.exists():
            os.replace(before, out)
        raise
    checkpoint.sync(out.parent)
    shutil.rmtree(before, ignore_errors=True)


def compare_with_probe(folder: Path, probe: Probe) -> float:
    """How far a folder's hidden states, in fp32 and one plain unpacked sequence at a time, are from the probe's: the
    norm of the difference as a share of the probe's norm. (Single values do not tell: in bf16 one of a million was
    0.19 standard deviations off by rounding alone.)"""
    with quiet_transformers():
        encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32).eval()
    found, bounds = [], probe["cu_seqlens"].tolist()
    for start, end in zip(bounds, bounds[1:], strict=False):
        with torch.no_grad():
            inputs = {name: probe[name][None, start:end] for name in ("input_ids", "token_type_ids")}
            found.append(encoder(**inputs).last_hidden_state[0])
    # NaN stays NaN, which no tolerance passes.
    return (torch.linalg.vector_norm(torch.cat(found) - probe["hidden"]) / probe["hidden"].norm()).item()


def _head_description(tasks: Mapping[str, Task], config: RunConfig) -> dict[str, Any]:
    described = {
        name: {"format": task.format, "labels": task.labels, "choices": task.choices, "family": task.family}
        for name, task in tasks.items()
    }
    return {"heads": config.model.heads, "tasks": described}


def model_card(config: RunConfig, tasks: Mapping[str, Task], scores: dict[str, Any] | None, step: int) -> str:
    """README.md of an export: what it is, what it was trained on, its scores, its recipe."""
    rows = []
    for name, task in tasks.items():
        found = (scores or {}).get(name, {})
        shown = ", ".join(f"{metric} {value:.2f}" for metric, value in found.items()) or "not evaluated"
        rows.append(f"| {name} | {task.format.replace('_', ' ')} | {shown} |")
    table, warning = "\n".join(rows), ""
    if "sample" in (config.data.source, config.model.encoder):
        warning = "\n**Made with the built-in sample: it shows that the machine works, not that the method does.**\n"
    return f"""---
library_name: transformers
base_model: {config.model.encoder}
tags: [xstilts, intermediate-task-training]
---

# {config.run.name}

An encoder after English intermediate-task training (arXiv 2005.13013), started from
`{config.model.encoder}` and trained for {step} steps on {len(tasks)} task(s) by xstilts {__version__}.
{warning}
    from transformers import AutoModel, AutoTokenizer
    encoder = AutoModel.from_pretrained("FOLDER", add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained("FOLDER")

The task heads lie in `heads.safetensors` (described by `heads.json`); Hugging Face tools ignore them.

| task | format | dev scores |
|---|---|---|
{table}

## Recipe

```yaml
{yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True).strip()}
```
"""


def newest_checkpoint(run: Path, say: Callable[[str], None]) -> Path:
    """The newest undamaged checkpoint of a run.

    Args:
        say: told which it is, and which damaged ones are passed over, a line each.

    Raises:
        UserError: the folder is no run, or has no usable checkpoint.
    """
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run} is not a run folder: it has no recipe.yaml", fix="ls runs/")
    folder = checkpoint.newest_good(run, lambda text: say(f"warning: {text}"))
    if folder is None:
        raise UserError(f"run {run} has no checkpoint yet", fix=f"train it first: xstilts train {run / 'recipe.yaml'}")
    say(f"checkpoint: {folder}")
    return folder
