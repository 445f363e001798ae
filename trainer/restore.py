"""A trained model without its training: from a run's newest checkpoint, or from an export."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainer import engine
from trainer.checkpoint import checkpoint_folders, held, read_state, step_of
from trainer.config import RunConfig, load_recipe
from trainer.data.prepare import Prepared, open_prepared, tasks_of
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluation.dev import Scores, evaluate_dev
from trainer.events import read_events
from trainer.export import load_probe, newest_checkpoint, write_export
from trainer.model.build import build_model, plain_state
from trainer.model.encoder import damaged_weights, load_tokenizer
from trainer.model.multitask import MultiTaskModel
from trainer.model.vocabulary import load_kept_rows
from trainer.session import dev_collator, replace_section
from trainer.tasks import load_tasks
from trainer.tasks.spec import Task


@dataclass
class RestoredModel:
    config: RunConfig
    world: World
    model: MultiTaskModel  # in fp32, on the CPU
    dtype: str  # to compute in
    tokenizer: object
    prepared: dict[str, Prepared]
    checkpoint: Path | None  # where the weights come from; None for an export

    def ready(self) -> MultiTaskModel:
        """The model, now on this rank's device and in the dtype to compute in."""
        return self.model.to(self.world.device, engine.DTYPES[self.dtype])

    @property
    def pack_tokens(self) -> int:
        return self.config.evaluation.pack_tokens or self.config.train.pack_tokens


class _NoStore:
    """In place of training data that a model is opened without."""

    sequence_lengths = np.empty(0, np.int32)

    def used_vocabulary(self) -> np.ndarray:
        return np.empty(0, np.int32)


def open_model(
    folder: Path,
    overrides: Sequence[str] = (),
    dev_data: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> RestoredModel:
    """The model of a run (its newest undamaged checkpoint) or of an export, every rank a whole copy.

    Args:
        dev_data: open the dev splits of its tasks, which `evaluate` needs. Without them an export can do without its
            training data; of a run, whose heads take their labels from it, it is looked for where the run left it.
        say: told, on rank 0, which checkpoint of a run it is, and which damaged ones are passed over.

    Raises:
        UserError: the folder is neither, or damaged; the weights do not fit the recipe, or the data is not prepared.
    """
    if not is_ours(folder):
        raise UserError(
            f"{folder} is neither a run nor an export: it has no recipe.yaml",
            why="evaluating on the tasks' dev sets needs their heads",
            fix="name a folder below runs/, or the export of a run",
        )
    config = load_recipe(folder / "recipe.yaml", overrides)
    exported = is_export(folder)
    config = replace_section(config, "kernels", layers="plain")  # the names the weights have outside of training
    config = replace_section(config, "model", vocabulary="full")
    if exported:
        config = replace_section(config, "model", encoder=str(folder), tokenizer=None, init="pretrained")
        checkpoint = None
    else:
        first = World.from_environment().first
        checkpoint = newest_checkpoint(folder, say if first else lambda text: None)
        kept = load_kept_rows(checkpoint)
        if kept is None:
            config = replace_section(config, "model", init="random")  # every weight comes from the checkpoint
    world = engine.start()
    dtype = engine.choose_dtype(config, world.device)
    tokenizer = load_tokenizer(config)
    if dev_data:
        prepared = open_prepared(config, load_tasks(config), tokenizer)
    elif exported:
        prepared = {name: Prepared(task, _NoStore(), _NoStore()) for name, task in _described(folder, config).items()}
    else:
        left = load_recipe(folder / "recipe.yaml")
        prepared = open_prepared(left, load_tasks(left), tokenizer)
    model = build_model(config, prepared, tokenizer, world.device, dtype)[0]
    if exported:
        state = {f"encoder.{name}": value for name, value in model.encoder.state_dict().items()}
        try:
            heads = load_file(str(folder / "heads.safetensors"))
        except SafetensorError as error:
            raise damaged_weights(folder / "heads.safetensors", error) from None
        state |= {f"heads.{name}": value for name, value in heads.items()}
        if dev_data:
            _check_labels(folder, prepared)
    else:
        with held(checkpoint):
            state, decay = engine.full_state_of_checkpoint(checkpoint / "engine"), read_state(checkpoint)["decay"]
        state = plain_state(state, kept, decay, model.encoder.get_input_embeddings().weight)
    _load(model, state, folder)
    return RestoredModel(config, world, model.eval(), dtype, tokenizer, prepared, checkpoint)


def evaluate(restored: RestoredModel) -> Scores:
    """Scores of every task's whole dev split, on every rank."""
    collator = dev_collator(restored.prepared, restored.tokenizer)
    with torch.no_grad():
        return evaluate_dev(restored.ready(), restored.prepared, collator, restored.pack_tokens, restored.world)


def export_run(
    run: Path, out: Path, overrides: Sequence[str] = (), say: Callable[[str], None] = lambda text: None
) -> tuple[Path, float]:
    """Write a run's newest checkpoint as a plain Hugging Face folder, compared with what the live model computed.

    Raises:
        UserError: no run, no usable checkpoint, or the export does not give the live model's hidden states.
    """
    if not checkpoint_folders(run):
        newest_checkpoint(run, say)  # says whether it is no run, or has saved nothing yet
    restored = open_model(run, overrides, say=say)
    events = read_events(run / "events.jsonl")
    step = step_of(restored.checkpoint)
    scores = [e["scores"] for e in events if e["event"] == "evaluation" and e["step"] == step]
    dtype = [e["dtype"] for e in events if e["event"] == "start"][-1]
    difference = write_export(
        out,
        restored.model.state_dict(),
        restored.model.encoder.config,
        restored.tokenizer,
        tasks_of(restored.prepared),
        load_recipe(run / "recipe.yaml"),
        load_probe(restored.checkpoint / "probe.safetensors"),
        dtype,
        scores[-1] if scores else None,
        step,
    )
    return out, difference


def is_ours(folder: Path) -> bool:
    """Whether a folder is a run or an export."""
    return (folder / "recipe.yaml").is_file()


def is_export(folder: Path) -> bool:
    return is_ours(folder) and (folder / "heads.safetensors").is_file()


def _described(folder: Path, config: RunConfig) -> dict[str, Task]:
    """An export's tasks with the labels that its heads were trained with."""
    heads = json.loads((folder / "heads.json").read_text())["tasks"]
    tasks = load_tasks(config)
    for name in tasks:
        if name not in heads:
            raise UserError(f"{folder} has no head for {name}", fix="leave `tasks` as its recipe.yaml has them")
    return {name: replace(task, labels=tuple(heads[name]["labels"])) for name, task in tasks.items()}


def _load(model: MultiTaskModel, state: dict[str, torch.Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(
            f"the weights in {folder} do not fit its recipe",
            why=" ".join(str(error).split())[:300],
            fix="evaluate it with the tasks and encoder it was trained with",
        ) from None


def _check_labels(folder: Path, prepared: dict[str, Prepared]) -> None:
    described = json.loads((folder / "heads.json").read_text())["tasks"]
    for name, item in prepared.items():
        if name in described and list(item.task.labels) != list(described[name]["labels"]):
            raise UserError(
                f"the head of {name} in {folder} was trained with other labels than the prepared data has",
                why=f"{len(described[name]['labels'])} labels then, {len(item.task.labels)} now, or in another order",
                fix="evaluate with the data it was trained on",
            )
