"""A model on targets: those with heads by zero-shot transfer, the others by retrieval, in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import distributed, engine
from trainer.config import RunConfig, load_recipe
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluation.layer_sweep import sweep_layers
from trainer.evaluation.results import Skipped, TargetResult, check_writable
from trainer.evaluation.retrieval import PROTOCOLS, evaluate_retrieval, read_languages
from trainer.evaluation.vectors import choose_layer, open_encoder
from trainer.evaluation.zero_shot import Progress, evaluate_targets, languages_for, prepare_tests
from trainer.restore import RestoredModel, is_export, is_ours, open_model
from trainer.session import replace_section
from trainer.tasks import load_targets
from trainer.tasks.spec import Task


@dataclass
class TargetRun:
    """A model opened for targets; `restored` is None for an encoder without heads."""

    model: str
    config: RunConfig
    world: World
    tasks: dict[str, Task]
    languages: Sequence[str] | None
    encoder: torch.nn.Module
    tokenizer: Any
    restored: RestoredModel | None

    def evaluate(
        self, layer: int | str | None = None, pooling: str | None = None, progress: Progress | None = None
    ) -> dict[str, TargetResult]:
        """Results of the tasks in the order they were asked for; on rank 0 only, {} on the others.

        Args:
            layer, pooling: of retrieval; see `evaluate_retrieval`.

        Raises:
            UserError: see `evaluate_targets` and `evaluate_retrieval`; a layer or pooling, but no retrieval.
        """
        scored, retrieved = _parted(self.tasks)
        if retrieved:
            choose_layer(layer, self.encoder)  # an unknown one is refused before anything is evaluated
        elif layer is not None or pooling is not None:
            fix = f"add one of {', '.join(PROTOCOLS)} to --tasks, or leave it out"
            raise UserError("a layer or pooling is chosen, but none of the tasks is retrieval", fix=fix)
        results: dict[str, TargetResult] = {}
        if scored:
            results |= evaluate_targets(self.restored, scored, self.languages, progress)
        for name, task in retrieved.items():
            languages = self.languages and languages_for(task, self.languages)
            results |= evaluate_retrieval(
                self.encoder, self.tokenizer, self.config, self.world, {name: task}, languages, layer,
                pooling or "mean", progress,
            )  # fmt: skip
        return {name: results[name] for name in self.tasks} if self.world.first else {}

    def sweep(self, pooling: str | None = None, progress: Progress | None = None) -> dict[str, Any]:
        """Retrieval scores by layer, on every rank; see `sweep_layers`.

        Raises:
            UserError: a task is not retrieval; see `sweep_layers`.
        """
        scored, retrieved = _parted(self.tasks)
        if scored:
            fix = f"--layer all with --tasks, of {', '.join(PROTOCOLS)}"
            raise UserError(f"{', '.join(scored)} cannot be scored by layer", why="heads read the last one", fix=fix)
        return sweep_layers(
            self.encoder,
            self.tokenizer,
            self.config,
            self.world,
            retrieved,
            self.languages,
            pooling or "mean",
            progress,
        )

    def about(self, layer: int | str | None, pooling: str | None) -> dict[str, Any]:
        """What is evaluated and how, for scores.json."""
        checkpoint = self.restored and self.restored.checkpoint
        return {
            "model": self.model,
            "checkpoint": checkpoint and str(checkpoint),
            "dtype": engine.choose_dtype(self.config, self.world.device),
            "languages": None if self.languages is None else list(self.languages),
            "layer": layer,
            "pooling": pooling,
        }


def open_for_targets(
    model: Path,
    names: Sequence[str],
    overrides: Sequence[str] = (),
    languages: Sequence[str] | None = None,
    out: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> TargetRun:
    """Check what is asked for, join the ranks and open the model.

    Args:
        model: a run, an export, or for retrieval any Hugging Face folder or hub name.
        names: of targets.
        overrides: of the recipe of a run or export; of the default recipe for other models.
        languages: of the targets'; None: all.
        out: where results are to be written.
        say: as `open_model`.

    Raises:
        UserError: an unknown target or language, a model without the heads it needs, a folder that cannot be written.
    """
    if is_ours(model):
        config = load_recipe(model / "recipe.yaml", overrides)
    else:
        config = load_recipe(None, ["train.steps=1", *overrides])  # a recipe must say so; nothing is trained
    if not names:
        raise UserError("--tasks names no target", fix="e.g. --tasks xnli,panx,tatoeba")
    tasks = load_targets(config, names)
    _check_languages(tasks, languages)
    scored, _ = _parted(tasks)
    if scored and not is_ours(model):
        heads = dict.fromkeys(task.head or name for name, task in scored.items())
        raise UserError(
            f"{model} has no heads, which {', '.join(scored)} cannot be scored without",
            why=f"it is neither a run nor an export of one; only {', '.join(PROTOCOLS)} need no heads",
            fix=f"train {' and '.join(heads)}: xstilts train RECIPE tasks=[{','.join(heads)}] model.encoder={model}, "
            "with one of launch/recipes/targets/; then evaluate that run's export",
        )
    world = engine.start()
    if out:
        distributed.on_first(lambda: check_writable(out))
    if scored or (is_ours(model) and not is_export(model)):
        restored = open_model(model, overrides, dev_data=False, say=say)
        encoder, tokenizer = restored.model.encoder, restored.tokenizer
        return TargetRun(str(model), restored.config, world, tasks, languages, encoder, tokenizer, restored)
    if is_ours(model):  # its folder holds all that the recipe chose
        config = replace_section(config, "model", tokenizer=None, init="pretrained")
    encoder, tokenizer = open_encoder(str(model), config, world)
    return TargetRun(str(model), config, world, tasks, languages, encoder, tokenizer, None)


def prepare_targets(
    config: RunConfig,
    trained: Mapping[str, Task],
    tasks: Mapping[str, Task],
    tokenizer,
    progress: Progress | None = None,
) -> dict[str, dict[str, Skipped]]:
    """Fetch and prepare all that evaluating targets reads, so that it needs no network; task -> language -> why it will
    be skipped.

    Args:
        trained: the tasks of the recipe, with their labels filled in.

    Raises:
        UserError: no head of the recipe's scores a target, missing or malformed test data.
    """
    scored, retrieved = _parted(tasks)
    skipped = prepare_tests(config, trained, scored, tokenizer, progress)
    for name, task in retrieved.items():  # read as it is; what comes from the hub stays in its cache
        _, skipped[name] = read_languages(task, config, None)
    return {name: skipped[name] for name in tasks}


def default_out(model: Path) -> Path:
    """Where the results of a model go: into its folder, or for a hub name below evaluation/ here."""
    return model / "evaluation" if model.is_dir() else Path("evaluation") / str(model).replace("/", "--")


def _parted(tasks: Mapping[str, Task]) -> tuple[dict[str, Task], dict[str, Task]]:
    """Those that a head scores, and those of sentence retrieval."""
    retrieved = {name: task for name, task in tasks.items() if task.format == "sentence_retrieval"}
    return {name: task for name, task in tasks.items() if name not in retrieved}, retrieved


def _check_languages(tasks: Mapping[str, Task], languages: Sequence[str] | None) -> None:
    known = sorted({code for task in tasks.values() for code in task.languages})
    for code in languages or ():
        if code not in known:
            raise UserError(f"{', '.join(tasks)}: no language {code!r}", fix=f"--languages, of {', '.join(known)}")
    for task in tasks.values():
        languages_for(task, languages)
