"""The recipe: every key a run understands, with its default. Frozen, strict, dumped with every run.

A recipe is a YAML file; `base: other.yaml` starts from another one; `key.subkey=value` on the command line overrides.
Values are read as YAML, so `train.steps=100`, `tasks=[mnli,qqp]` and `model.dropout=null` mean what they look like.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import UserError

NINE_TASKS = ("anli_plus", "mnli", "qqp", "squad_v1", "squad_v2", "hellaswag", "ccg", "cosmos_qa", "commonsense_qa")


@dataclass(frozen=True)
class RunSection:
    name: str = "run"
    folder: str = "runs"  # parent of the run's folder


@dataclass(frozen=True)
class ModelSection:
    encoder: str = "FacebookAI/xlm-roberta-large"  # hub name, folder, or `sample` (the built-in tiny encoder)
    revision: str = "main"
    tokenizer: str | None = None  # name or folder; default: the encoder's own
    init: str = "pretrained"  # pretrained | random (weights from the encoder's config)
    dropout: float | None = None  # overrides all of the encoder's
    gradient_checkpointing: bool = False
    heads: str = "task"  # task: a head each | family: one for all tasks of a family
    vocabulary: str = "auto"  # trimmed: train only the rows the prepared data uses | full | auto: by what it saves


@dataclass(frozen=True)
class DataSection:
    source: str = "hub"  # hub | files | sample
    folder: str | None = None  # files: FOLDER/TASK/<original file names>
    files: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)  # task -> split -> paths, instead
    store: str = "store"  # where prepared data lies
    prepare: str = "refuse"  # when the store is missing or stale: refuse | auto (prepare first, on one process)
    workers: int = 0  # processes that tokenise; 0: one per core
    max_length: int | None = None  # overrides every task's


@dataclass(frozen=True)
class MixtureSection:
    strategy: str = "temperature"  # proportional | temperature | uniform | weights | unimax
    temperature: float = 1.0
    cap: int | None = 131072  # K of min(n, K)^(1/T)
    weights: dict[str, float] = field(default_factory=dict)  # strategy weights: task -> relative rate (mlm: mlm-de too)
    unimax_epochs: float = 1.0  # unimax: most passes over any one task
    smoothing: float = 0.3  # languages of one task share its rate by n^smoothing; 1.0: proportionally (XLM-R: 0.3)


@dataclass(frozen=True)
class TrainSection:
    steps: int | None = None  # optimizer steps; when null, they follow from
    epochs: float | None = None  # passes over the prepared data's tokens
    packs_per_step: int = 8
    pack_tokens: int = 16384
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    warmup: float = 0.1  # share of the steps
    schedule: str = "linear"  # linear | cosine | constant
    clip: float = 1.0
    loss_weights: dict[str, float] = field(default_factory=dict)  # task -> factor
    log_classes: bool = False  # divide each loss by log(number of classes) (arXiv 2101.11038)
    deterministic: bool = False
    detect_anomaly: bool = False


@dataclass(frozen=True)
class EngineSection:
    config: str = "ds_configs/zero2.json"
    dtype: str = "auto"  # auto (bf16 on GPU, fp32 on CPU) | bf16 | fp16 | fp32
    plan: str = "off"  # auto: config, model.gradient_checkpointing and the packs of a step by what fits (xstilts plan)


@dataclass(frozen=True)
class KernelsSection:
    layers: str = "fused"  # fused: encoder layers with one query-key-value product and fused dropout | plain
    attention: str = "auto"  # auto: the fastest that fits | packed_varlen | packed_cpu | packed_sdpa
    compile: str = "auto"  # elementwise parts of fused layers by torch.compile: on | off | auto (on GPUs)


@dataclass(frozen=True)
class CheckpointSection:
    every_steps: int = 1000
    every_minutes: float | None = None
    keep: int = 2  # newest ones kept, besides the best
    background: bool = True  # write while training goes on; false: training waits
    resume: bool = True  # continue from the newest checkpoint of the run, when there is one
    accept_changes: bool = False  # continue although the recipe or the data changed


@dataclass(frozen=True)
class EvaluationSection:
    every_steps: int | None = None  # besides the evaluation at the end
    limit: int | None = None  # examples a task at intervals
    end_limit: int | None = None  # examples a task at the end; null: all
    pack_tokens: int | None = None  # default: train.pack_tokens


@dataclass(frozen=True)
class WatchSection:
    hang_factor: float = 20.0  # end the run when nothing happens for so many times the median step, and at least
    hang_seconds: float = 300.0  # so long
    meet_seconds: float = 300.0  # end a process that has not met all others so long after its start
    start_seconds: float = 3600.0  # the same before the first step: loading and compiling
    nonfinite_steps: int = 5  # end the run after so many steps in a row without a finite loss
    spike: float = 10.0  # flag losses so many interquartile ranges above the last steps' median; 0: none
    straggler: float = 1.5  # name a rank whose own work takes so many times the others'


@dataclass(frozen=True)
class LogSection:
    every_steps: int = 1  # lines on the terminal; events.jsonl has every step


@dataclass(frozen=True)
class RunConfig:
    seed: int = 0
    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    tasks: tuple[str, ...] = NINE_TASKS
    task_files: tuple[str, ...] = ()  # Python files that define tasks
    custom_tasks: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> fields of a task
    mixture: MixtureSection = MixtureSection()
    train: TrainSection = TrainSection()
    engine: EngineSection = EngineSection()
    kernels: KernelsSection = KernelsSection()
    checkpoint: CheckpointSection = CheckpointSection()
    evaluation: EvaluationSection = EvaluationSection()
    watch: WatchSection = WatchSection()
    log: LogSection = LogSection()

    @property
    def run_folder(self) -> Path:
        return Path(self.run.folder) / self.run.name

    def to_dict(self) -> dict[str, Any]:
        return _plain(dataclasses.asdict(self))


CHOICES = {
    "model.init": ("pretrained", "random"),
    "model.heads": ("task", "family"),
    "model.vocabulary": ("auto", "trimmed", "full"),
    "kernels.layers": ("fused", "plain"),
    "kernels.attention": ("auto", "packed_varlen", "packed_cpu", "packed_sdpa"),
    "kernels.compile": ("auto", "on", "off"),
    "data.source": ("hub", "files", "sample"),
    "data.prepare": ("refuse", "auto"),
    "mixture.strategy": ("proportional", "temperature", "uniform", "weights", "unimax"),
    "train.schedule": ("linear", "cosine", "constant"),
    "engine.dtype": ("auto", "bf16", "fp16", "fp32"),
    "engine.plan": ("off", "auto"),
}
POSITIVE = (
    "mixture.temperature", "mixture.cap", "mixture.unimax_epochs", "train.steps", "train.epochs",
    "train.packs_per_step", "train.pack_tokens", "train.learning_rate", "train.epsilon", "train.clip",
    "checkpoint.every_steps",
    "checkpoint.every_minutes", "checkpoint.keep", "evaluation.every_steps", "evaluation.limit", "evaluation.end_limit",
    "evaluation.pack_tokens", "log.every_steps", "data.max_length", "watch.hang_factor", "watch.hang_seconds",
    "watch.meet_seconds", "watch.start_seconds", "watch.nonfinite_steps", "watch.straggler",
)  # fmt: skip


def load_recipe(path: str | Path | None, overrides: typing.Sequence[str] = ()) -> RunConfig:
    """The configuration of a recipe file (None: of one that is empty) with `key=value` overrides applied.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown (the nearest known one is named), a value has
            the wrong type or is outside its range.
    """
    config = load_strict(RunConfig, path, overrides)
    _check(config)
    return config


def load_strict(kind, path: str | Path | None, overrides: typing.Sequence[str] = (), what: str = "recipe", change=None):
    """A YAML file, its `base` below it and `key=value` overrides above it, as the frozen dataclass `kind`.

    Args:
        what: what errors call the file.
        change: turns the tree of plain YAML into what `kind` expects, for shorthands.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown (the nearest known one is named), a value has
            the wrong type.
    """
    tree = {} if path is None else _read_tree(Path(path), what)
    for override in overrides:
        _apply(tree, override)
    return _build(kind, change(tree) if change else tree, "", kind, what)


def dump_recipe(config: RunConfig, path: Path) -> None:
    path.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True))


def _read_tree(path: Path, what: str = "recipe", seen: tuple[Path, ...] = ()) -> dict:
    if not path.is_file():
        raise UserError(f"{what} {path} does not exist", fix="ls launch/recipes/")
    if path.resolve() in seen:
        raise UserError(f"{what} {path} is its own base")
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{what} {path} is not valid YAML", why=" ".join(str(error).split())) from None
    if not isinstance(tree, dict):
        raise UserError(f"{what} {path} must be a mapping of keys, not a {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    return _merge(_read_tree(path.parent / str(base), what, (*seen, path.resolve())), tree)


def _merge(below: dict, above: dict) -> dict:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(tree: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r} is not of the form key=value", fix="e.g. train.steps=100")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"the value of override {override!r} is not valid YAML") from None
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise UserError(f"override {override!r}: {parent} has no keys below it")
    tree[last] = value


def _build(kind, value, where: str, root, what: str):
    """`value`, from YAML, as the annotated type `kind`; `where` is its dotted key below `root`, of a `what`."""
    inside = functools.partial(_build, root=root, what=what)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{what} key {where} must be a mapping of keys, not {value!r}")
        hints, prefix = typing.get_type_hints(kind), f"{where}." if where else ""
        for key in value:
            if key not in hints:
                known = [*known_keys(root), *(prefix + name for name in hints)]
                raise _unknown_key(f"{prefix}{key}", known, what, root)
        below = {k: inside(hints[k], v, prefix + k) for k, v in value.items()}
        return kind(**below)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return inside(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise UserError(f"{what} key {where} needs {len(args)} values, not {value!r}")
        inner = args[0]
        return tuple(inside(inner, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {str(k): inside(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, str):  # YAML reads 1e-5 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, bool):  # YAML 1.1 reads on and off as booleans
        return "on" if value else "off"
    if kind in (int, float, str, bool) and type(value) is kind:
        return value
    expected = "list" if origin is tuple else "mapping" if origin is dict else kind.__name__
    raise UserError(f"{what} key {where} must be a {expected}, not {value!r}")


def known_keys(kind=RunConfig, prefix: str = "") -> list[str]:
    """Every dotted key of a recipe, sections included."""
    keys = []
    for name, hint in typing.get_type_hints(kind).items():
        keys.append(prefix + name)
        if dataclasses.is_dataclass(hint):
            keys += known_keys(hint, f"{prefix}{name}.")
    return keys


def _unknown_key(key: str, keys: list[str], what: str, root) -> UserError:
    near = difflib.get_close_matches(key, keys, n=1) or [k for k in keys if k.split(".")[-1] == key.split(".")[-1]]
    return UserError(
        f"unknown {what} key {key!r}",
        why="a misspelt key would silently train something else",
        fix=f"did you mean {near[0]!r}?" if near else f"{root.__module__.replace('.', '/')}.py lists every key",
    )


def _get(config, key: str):
    for part in key.split("."):
        config = getattr(config, part)
    return config


def _check(config: RunConfig) -> None:
    for key, allowed in CHOICES.items():
        if _get(config, key) not in allowed:
            raise UserError(f"recipe key {key} is {_get(config, key)!r}", fix=f"one of: {', '.join(allowed)}")
    for key in POSITIVE:
        value = _get(config, key)
        if value is not None and not value > 0:
            raise UserError(f"recipe key {key} must be above 0, not {value!r}")
    for key in ("train.weight_decay", "data.workers", "mixture.smoothing"):
        if _get(config, key) < 0:
            raise UserError(f"recipe key {key} must be at least 0, not {_get(config, key)!r}")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"recipe key seed must be at least 0 and below 2^32, not {config.seed}")
    if not all(0 <= beta < 1 for beta in config.train.betas):
        raise UserError(f"recipe key train.betas must be at least 0 and below 1, not {list(config.train.betas)}")
    if not 0 <= config.train.warmup <= 1:
        raise UserError(f"recipe key train.warmup is a share of the steps, between 0 and 1, not {config.train.warmup}")
    if config.model.dropout is not None and not 0 <= config.model.dropout < 1:
        raise UserError(f"recipe key model.dropout must be at least 0 and below 1, not {config.model.dropout}")
    if not config.tasks:
        raise UserError("recipe key tasks is empty", fix="name at least one; `xstilts tasks` lists them")
    if len(set(config.tasks)) != len(config.tasks):
        raise UserError(f"recipe key tasks names a task twice: {', '.join(config.tasks)}")
    if config.train.steps is None and config.train.epochs is None:
        raise UserError("the recipe says neither train.steps nor train.epochs", fix="e.g. train.steps=1000")
    if config.data.source == "files" and not config.data.folder and not config.data.files:
        raise UserError("data.source is files, but neither data.folder nor data.files is set")
    for key in ("mixture.weights", "train.loss_weights"):
        for task in _get(config, key):
            languages = key == "mixture.weights" and any(name.rpartition("-")[0] == task for name in config.tasks)
            if task not in config.tasks and not languages:
                raise UserError(f"{key} names {task!r}, which is not among the recipe's tasks")


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
