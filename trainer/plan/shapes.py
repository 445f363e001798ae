"""Sizes of a recipe's model, counted without memory or weights, and of its data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel

from trainer.config import RunConfig
from trainer.data.mixture import mixture_rates, variants_of
from trainer.data.prepare import open_prepared, tasks_of
from trainer.errors import UserError
from trainer.model import encoder as encoders
from trainer.model.vocabulary import WORTH_IT, used_rows
from trainer.tasks import FORMATS, load_tasks
from trainer.tasks.spec import Task

HISTOGRAM = Path(__file__).resolve().parents[2] / "benchmarks/lengths/nine_tasks.json"
GUESSED_MEAN, GUESSED_EFFECTIVE = 60.0, 130.0  # tokens, of the nine tasks; only where nothing better is known
UNKNOWN_TAGS = 1363  # CCGbank's, the largest label set of the nine tasks (arXiv 2005.13013)
READS_TOKENS = ("span_extraction", "token_tagging")


@dataclass(frozen=True)
class Shape:
    """Numbers of an encoder with its heads.

    Attributes:
        pre_norm: layers normalise before attention and feed-forward (XLM-R XL) instead of after.
        rows: trained rows of the word embeddings, of `vocabulary`.
        in_layers: parameters of the layers; parameters: of everything that is trained; largest: of the largest one.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    inner: int
    pre_norm: bool
    dropout: float
    attention_dropout: float
    rows: int
    vocabulary: int
    in_layers: int
    parameters: int
    largest: int


@dataclass(frozen=True)
class HeadLoad:
    """What one task's head has to do: whether it reads every token (else one a sequence), its outputs, its task's share
    of the tokens, and the tokens of one of its units.

    A `tied` head is a masked language model's: it reads some tokens, and its outputs are those of the vocabulary, of
    which there are logits for a few rows at a time only.
    """

    every_token: bool
    outputs: int
    share: float
    unit_tokens: float
    tied: bool = False


@dataclass(frozen=True)
class Data:
    """Lengths in tokens, of a mixture.

    Attributes:
        mean: of a sequence; effective: sum(s^2) / sum(s), the keys a token attends to.
        longest: the largest unit (all options of a multiple-choice example), which a pack has to hold.
        tokens: of one epoch, None if unknown.
        kept: embedding rows the data and the tokenizer's special tokens use, None if unknown.
        source: where this is from, for the reader of a plan.
    """

    mean: float
    effective: float
    longest: int
    tokens: float | None
    kept: int | None
    loads: tuple[HeadLoad, ...]
    source: str


def describe(config: RunConfig) -> tuple[Shape, Data]:
    """Of a recipe; parameter counts are exact, from the encoder's config alone.

    Raises:
        UserError: the encoder's config cannot be loaded. The published sizes of XLM-R are known without a hub.
    """
    settings = _settings(config)
    data = describe_data(config, settings.vocab_size)
    return describe_model(config, settings, data), data


def describe_data(config: RunConfig, vocabulary: int) -> Data:
    """From the prepared stores, else from the committed statistics of the nine tasks, else guessed."""
    tasks = load_tasks(config)
    prepared = None
    if all(any(Path(config.data.store).glob(f"{name}-train-*")) for name in tasks):  # else no need to ask the hub
        try:
            tokenizer = encoders.load_tokenizer(config)
            prepared = open_prepared(config, tasks, tokenizer)
        except UserError:  # stale, or no hub: the plan says what it goes by instead
            pass
    if prepared is not None:
        stores = [store for item in prepared.values() for store in (item.train, item.dev)]
        kept = len(used_rows(stores, tokenizer.all_special_ids, vocabulary))
        if any(task.format == "masked_lm" for task in tasks.values()):
            kept = None  # the whole vocabulary is trained
        table = {
            name: _Lengths(len(item.train), int(item.train.tokens.sum()), *_moments(item.train.sequence_lengths))
            for name, item in prepared.items()
        }
        longest = max(int(item.train.tokens.max()) for item in prepared.values())
        return _mix(config, tasks_of(prepared), table, longest, kept, "the prepared data", vocabulary)
    longest = max(task.max_length * max(1, task.choices) for task in tasks.values())
    table = _committed(tasks)
    if table is not None:
        return _mix(config, tasks, table, longest, None, "lengths measured on samples of the nine tasks", vocabulary)
    loads = tuple(_load(task, 1 / len(tasks), GUESSED_MEAN, vocabulary) for task in tasks.values())
    source = f"a guessed mean of {GUESSED_MEAN:.0f} tokens, as the data is not prepared"
    return Data(GUESSED_MEAN, GUESSED_EFFECTIVE, longest, None, None, loads, source)


def describe_model(config: RunConfig, settings, data: Data) -> Shape:
    """Of an encoder with these transformers settings, its vocabulary trimmed as the recipe would for this data."""
    with torch.device("meta"):
        encoder = AutoModel.from_config(settings, add_pooling_layer=False)
    total = sum(p.numel() for p in encoder.parameters())
    in_layers = sum(p.numel() for p in encoder.encoder.layer.parameters())
    rows = settings.vocab_size
    if config.model.vocabulary != "full" and data.kept is not None:
        saved = (rows - data.kept) * settings.hidden_size / total
        if config.model.vocabulary == "trimmed" or saved >= WORTH_IT:
            rows = data.kept
    hidden, inner = settings.hidden_size, settings.intermediate_size
    heads = sum(_head_parameters(load, hidden) for load in _distinct_heads(config, data.loads))
    parameters = total - (settings.vocab_size - rows) * hidden + heads
    attention = (3 if config.kernels.layers == "fused" else 1) * hidden * hidden
    return Shape(
        name=config.model.encoder,
        layers=settings.num_hidden_layers,
        hidden=hidden,
        heads=settings.num_attention_heads,
        inner=inner,
        pre_norm=settings.model_type == "xlm-roberta-xl",
        dropout=settings.hidden_dropout_prob,
        attention_dropout=settings.attention_probs_dropout_prob,
        rows=rows,
        vocabulary=settings.vocab_size,
        in_layers=in_layers,
        parameters=parameters,
        largest=max(rows * hidden, inner * hidden, attention),
    )


def _settings(config: RunConfig):
    name = config.model.encoder
    published = name.split("/")[-1]
    if published in encoders.SHAPES and not Path(name).is_dir():
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, init="random"))
        return encoders.encoder_config(config, published)
    return encoders.encoder_config(config, encoders.encoder_folder(config))


@dataclass(frozen=True)
class _Lengths:
    units: float
    tokens: float
    mean: float
    effective: float


def _moments(lengths: np.ndarray, counts: np.ndarray | None = None) -> tuple[float, float]:
    lengths = lengths.astype(np.float64)
    counts = np.ones_like(lengths) if counts is None else counts
    total = float((lengths * counts).sum())
    return total / float(counts.sum()), float((lengths**2 * counts).sum()) / total


def _committed(tasks: Mapping[str, Task]) -> dict[str, _Lengths] | None:
    """Of the committed statistics, scaled to the published number of examples; None if a task is not in them."""
    if not HISTOGRAM.is_file():
        return None
    known = json.loads(HISTOGRAM.read_text())["tasks"]
    if not set(tasks) <= set(known):
        return None
    table = {}
    for name in tasks:
        row = known[name]
        scale = (row["published_examples"] or row["examples"]) / row["examples"]
        lengths, counts = np.array([(int(k), v) for k, v in row["lengths"].items()], np.float64).T
        table[name] = _Lengths(row["units"] * scale, row["tokens"] * scale, *_moments(lengths, counts))
    return table


def _mix(
    config, tasks, table: Mapping[str, _Lengths], longest: int, kept: int | None, source: str, vocabulary: int
) -> Data:
    sizes = {name: round(row.units) for name, row in table.items()}
    rates = mixture_rates(sizes, config.mixture, variants=variants_of(tasks.values()))
    weight = {name: rates[name] * row.tokens / row.units for name, row in table.items()}
    total = sum(weight.values())
    share = {name: value / total for name, value in weight.items()}
    return Data(
        mean=1 / sum(share[name] / row.mean for name, row in table.items()),
        effective=sum(share[name] * row.effective for name, row in table.items()),
        longest=longest,
        tokens=sum(row.tokens for row in table.values()),
        kept=kept,
        loads=tuple(_load(tasks[name], share[name], row.tokens / row.units, vocabulary) for name, row in table.items()),
        source=source,
    )


def _load(task: Task, share: float, unit_tokens: float, vocabulary: int) -> HeadLoad:
    if task.format == "masked_lm":
        return HeadLoad(True, vocabulary, share, unit_tokens, tied=True)
    outputs = FORMATS[task.format].outputs(task) or UNKNOWN_TAGS  # 0: the training split defines the tags
    return HeadLoad(task.format in READS_TOKENS, outputs, share, unit_tokens)


def _distinct_heads(config: RunConfig, loads: tuple[HeadLoad, ...]) -> list[HeadLoad]:
    tasks, by_family = load_tasks(config), config.model.heads == "family"
    heads = {
        (by_family and task.family) or task.head or name: load
        for (name, task), load in zip(tasks.items(), loads, strict=True)
    }
    return list(heads.values())


def _head_parameters(load: HeadLoad, hidden: int) -> int:
    """As trainer.model.heads builds them: one projection, and before it a dense layer where a sequence is read; a tied
    one has a dense layer, a LayerNorm and a bias."""
    if load.tied:
        return (hidden + 1) * hidden + 2 * hidden + load.outputs
    projection = (hidden + 1) * load.outputs
    return projection if load.every_token else (hidden + 1) * hidden + projection
