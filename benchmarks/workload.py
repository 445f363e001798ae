"""What arms train on: a recipe's prepared data, or synthetic data of the same shapes; and models by size.

Synthetic stores are real stores: units have the lengths of real units (`benchmarks/lengths/nine_tasks.json`), token ids
follow Zipf's law over as many distinct ids as the real tasks use, tasks are drawn at the published data sets' rates.
So packing, collating and trimming have the work they have on real data; only what is learnt means nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import lengths
from trainer.config import RunConfig, load_recipe
from trainer.data.prepare import Prepared, open_prepared
from trainer.data.store import Store, columns_of, write_store
from trainer.errors import UserError
from trainer.model.encoder import SHAPES, load_tokenizer, quiet_transformers
from trainer.tasks import load_tasks
from trainer.tasks.intermediate import TASKS
from trainer.tasks.spec import Task, Unit

BASE = Path(__file__).resolve().parents[1] / "launch/recipes/nine_tasks.yaml"  # below workloads that name no recipe
DEV_UNITS = 8
CAP = 1 << 17  # of the mixture (nine_tasks.yaml)
ZIPF_SHIFT = 2.7  # Mandelbrot's: p(rank) ~ 1 / (rank + 2.7)
BOS, EOS, FIRST = 0, 2, 5  # XLM-R's ids; below FIRST all are special

_LARGE = SHAPES["xlm-roberta-large"][1]
_MINI = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536}
_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
MODELS = {
    "tiny": {**_LARGE, **_TINY, "vocab_size": 2000},
    "mini": {**_LARGE, **_MINI},
    "xlm-roberta-large": _LARGE,
}


@dataclass(frozen=True)
class Workload:
    """A recipe with overrides, or synthetic data.

    Attributes:
        recipe: a YAML file; None for synthetic data.
        stores: folder of synthetic stores; None for the recipe's own.
        overrides: of recipe keys, on either.
        says: what a result file records about it.
    """

    recipe: str | None
    stores: str | None
    overrides: tuple[str, ...]
    says: dict[str, Any] = field(default_factory=dict)

    def spec(self, *overrides: str) -> dict[str, Any]:
        """The spec of an arm of `benchmarks.ours`, with more overrides."""
        workload = {"stores": self.stores} if self.stores else None
        return {"recipe": self.recipe, "overrides": [*self.overrides, *overrides], "workload": workload}


def choose(
    folder: Path,
    model: str,
    recipe: str | None = None,
    overrides: tuple[str, ...] = (),
    units_per_task: int = 2000,
    seed: int = 0,
) -> Workload:
    """The workload of a benchmark: the recipe's prepared data under a model of MODELS, or synthetic data.

    Args:
        folder: where the model's folder and synthetic stores are written.

    Raises:
        UserError: unknown model, or the recipe's data is not prepared.
    """
    encoder = model_folder(model, folder / model)
    random = (f"model.encoder={encoder}", "model.init=random")
    if recipe is None:
        vocabulary = MODELS[model]["vocab_size"]
        synthetic(folder / "stores", seed, units_per_task, vocabulary)
        says = {"data": "synthetic", "units_per_task": units_per_task, "seed": seed, "model": model}
        return Workload(None, str(folder / "stores"), (*random, *mixture_overrides(), *overrides), says)
    config = load_recipe(recipe, overrides)
    tokenizer = config.model.tokenizer or config.model.encoder
    prepared = open_prepared(config, load_tasks(config), load_tokenizer(config))
    says = {"data": Path(recipe).name, "units": {name: len(item.train) for name, item in prepared.items()}}
    own = (*overrides, *random, f"model.tokenizer={tokenizer}")
    return Workload(str(recipe), None, own, {**says, "model": model})


def open_workload(spec: Mapping[str, Any]) -> tuple[RunConfig, Any, dict[str, Prepared]]:
    """The recipe, tokenizer and data of an arm's spec (`recipe`, `overrides`, `workload`), in the arm's process."""
    config = load_recipe(spec.get("recipe") or BASE, spec["overrides"])
    tokenizer = load_tokenizer(config)
    if spec.get("workload"):
        return config, tokenizer, open_synthetic(Path(spec["workload"]["stores"]), config)
    return config, tokenizer, open_prepared(config, load_tasks(config), tokenizer)


def model_folder(name: str, folder: Path) -> Path:
    """Write a Hugging Face folder for random weights: config.json, and a tokenizer that knows the special tokens.

    Raises:
        UserError: no such model.
    """
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, PreTrainedTokenizerFast

    if name not in MODELS:
        raise UserError(f"unknown benchmark model {name!r}", fix=f"one of: {', '.join(MODELS)}")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(special)}, unk_token="<unk>"))
    roles = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    with quiet_transformers():
        AutoConfig.for_model("xlm-roberta", **MODELS[name]).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", **roles).save_pretrained(
            folder
        )
    return folder


def mixture_overrides(statistics: Mapping[str, Any] | None = None) -> list[str]:
    """Rates of the published sizes capped at 2^17 examples, in units, whatever the sizes of the stores."""
    tasks = (statistics or lengths.load())["tasks"]
    weights = {
        name: min(entry["published_examples"], CAP) * entry["units"] / entry["examples"]
        for name, entry in tasks.items()
    }
    return ["mixture.strategy=weights", f"mixture.weights={json.dumps(weights)}"]


def synthetic(folder: Path, seed: int, units_per_task: int, vocabulary: int) -> dict[str, Prepared]:
    """Write stores of random units and open them.

    Args:
        units_per_task: of the training splits; shapes are drawn from the recorded ones, with replacement.
        vocabulary: token ids are below it; a model smaller than the recorded vocabulary uses as large a share of it.
    """
    statistics = lengths.load()
    random = np.random.default_rng(seed)
    share = min(1.0, vocabulary / statistics["source"]["vocabulary"])
    used = max(64, round(share * statistics["used_vocabulary"]))
    common = FIRST + random.choice(vocabulary - FIRST, min(used, vocabulary - FIRST), replace=False)  # by frequency
    for name, entry in statistics["tasks"].items():
        wanted = min(len(common), max(32, round(share * entry["used_vocabulary"])))
        # Tasks share the frequent half of their words; the other half differs.
        rare = random.choice(common[wanted // 2 :], wanted - wanted // 2, replace=False)
        words = np.concatenate([common[: wanted // 2], rare])
        labels = tuple(TASKS[name].labels) or tuple(f"tag{i:04d}" for i in range(entry["labels"]))
        task = dataclasses.replace(TASKS[name], labels=labels)
        for split, count in (("train", units_per_task), ("dev", DEV_UNITS)):
            shapes = random.integers(0, len(entry["shapes"]), count)
            units = _units(task, [entry["shapes"][i] for i in shapes.tolist()], words, random)
            manifest = {
                "task": name,
                "split": split,
                "fingerprint": {"data": f"synthetic {seed} {units_per_task} {vocabulary}"},
                "labels": list(labels),
                "examples": count,
                "counts": {},
            }
            write_store(folder / f"{name}-{split}", [columns_of(units)], ({} for _ in units), manifest)
    return open_synthetic(folder)


def open_synthetic(folder: Path, config: RunConfig | None = None) -> dict[str, Prepared]:
    """What `synthetic` wrote; with a recipe, only its tasks, in its order."""
    names = config.tasks if config else [name for name in TASKS if (folder / f"{name}-train").is_dir()]
    prepared = {}
    for name in names:
        train, dev = Store(folder / f"{name}-train"), Store(folder / f"{name}-dev")
        prepared[name] = Prepared(dataclasses.replace(TASKS[name], labels=tuple(train.manifest["labels"])), train, dev)
    return prepared


def effective_length(prepared: Mapping[str, Prepared], rates: Mapping[str, float]) -> float:
    """s_eff = E[sum s^2] / E[sum s] over units drawn at the rates, s being a sequence's tokens.

    Attention's cost per token is proportional to it: a token attends to the tokens of its own sequence.
    """
    squares = tokens = 0.0
    for name, item in prepared.items():
        sequences = item.train.sequence_lengths.astype(np.float64)
        squares += rates[name] * float((sequences**2).sum()) / len(item.train)
        tokens += rates[name] * float(sequences.sum()) / len(item.train)
    return squares / tokens


def _units(task: Task, shapes: list[list[int]], words: np.ndarray, random: np.random.Generator) -> list[Unit]:
    options = max(1, task.choices)
    ids = _words(sum(sum(shape[:options]) for shape in shapes), words, random)
    units, at = [], 0
    for example, shape in enumerate(shapes):
        sequences = []
        for size in shape[:options]:
            sequences.append([BOS, *ids[at + 1 : at + size - 1].tolist(), EOS])
            at += size
        rows, target = _answer(task, shape, random)
        offsets = list(range(2 * (shape[2] - shape[1]))) if task.format == "span_extraction" else []
        units.append(Unit(sequences, target, rows, None, example, offsets))
    return units


def _answer(task: Task, shape: list[int], random: np.random.Generator) -> tuple[list[int], list[int]]:
    """Rows and a random target."""
    if task.format == "span_extraction":
        begin, end = shape[1:]
        return [begin, end], sorted(random.integers(0, end - begin + 1, 2).tolist())
    if task.format == "token_tagging":
        length, count = shape
        rows = 1 + np.sort(random.choice(length - 2, count, replace=False))
        return rows.tolist(), random.integers(0, len(task.labels), count).tolist()
    return [], [int(random.integers(task.choices or len(task.labels)))]


def _words(count: int, words: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """int64 (count,): every word once, as far as a half of the tokens goes, the others by Zipf's law; shuffled."""
    once = words[: count // 2]
    share = 1.0 / (np.arange(len(words)) + ZIPF_SHIFT)
    rest = random.choice(words, count - len(once), p=share / share.sum())
    return random.permutation(np.concatenate([once, rest]))
