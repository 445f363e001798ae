"""Prepare: tokenise every split once, in parallel, into the store.

A store is named by the fingerprint of everything that decides its content: the source's bytes, the task's definition,
the format's version, the tokenizer. Preparing again finds it there; training finds out when any of it has changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from trainer.config import RunConfig
from trainer.data.sources import iter_examples, source_fingerprint
from trainer.data.store import Store, columns_of, write_store
from trainer.data.workers import Workers
from trainer.errors import NoExamples, UserError
from trainer.host import available_cores
from trainer.tasks import FORMATS, check_trainable
from trainer.tasks.custom import FUNCTIONS
from trainer.tasks.spec import TRAINING_SPLITS, Task

CHUNK = 500  # examples tokenised at a time
PARALLEL_FROM = 4 * CHUNK  # below this a pool of processes costs more than it saves

# Fields of a task that do not decide what its store holds, given its name, which has the language, and its sources.
NOT_PREPARED = ("files", "hub", "metric", "family", "language", "languages", "head", "folder", "group", "answer_rules")

Progress = Callable[[str, int], None]  # (task and split, examples done so far)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A task ready to train on: its definition with the labels filled in, and its stores."""

    task: Task
    train: Store
    dev: Store


def tokenizer_fingerprint(tokenizer) -> str:
    """Hash of what decides tokenisation; padding and truncation, which calls set, are left out."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings.pop("truncation"), settings.pop("padding")
    settings["names"] = sorted(tokenizer.model_input_names)
    settings["special"] = tokenizer.all_special_tokens
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()


def prepare(config: RunConfig, tasks: dict[str, Task], tokenizer, progress: Progress | None = None) -> list[dict]:
    """Prepare what is missing; one row a split for the table.

    Raises:
        UserError: bad data, with its place; see `trainer.data.sources`.
    """
    identity = tokenizer_fingerprint(tokenizer)
    rows = []
    for task in tasks.values():
        for split in TRAINING_SPLITS:
            store, made = _open(config, task, split, tokenizer, identity, True, progress)
            task = _with_labels(task, store)
            rows.append(_row(task, split, store, "prepared" if made else "up to date"))
    return rows


def open_prepared(config: RunConfig, tasks: dict[str, Task], tokenizer) -> dict[str, Prepared]:
    """The stores of a recipe's tasks.

    Raises:
        UserError: a store is missing, or belongs to other data, another tokenizer or another definition of the task.
    """
    identity = tokenizer_fingerprint(tokenizer)
    prepared = {}
    for name, task in tasks.items():
        stores = {}
        for split in TRAINING_SPLITS:
            stores[split], _ = _open(config, task, split, tokenizer, identity)
            task = _with_labels(task, stores[split])
        prepared[name] = Prepared(task, stores["train"], stores["dev"])
    return prepared


def open_split(
    config: RunConfig, task: Task, split: str, tokenizer, make: bool = False, progress: Progress | None = None
) -> Store:
    """The store of one split of one task, already in its language (`Task.in_language`).

    Args:
        task: has its labels filled in, where its format needs some and the split is not the training one.
        tokenizer: must not change between calls: its fingerprint is worked out once.
        make: prepare it first if need be; on one process, the others come after it.

    Raises:
        NoExamples: the source has no example, or none in the task's language.
        UserError: as `prepare` and `open_prepared` do.
    """
    if tokenizer not in _identities:
        _identities[tokenizer] = tokenizer_fingerprint(tokenizer)
    return _open(config, task, split, tokenizer, _identities[tokenizer], make, progress)[0]


_identities: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()  # a second's work for XLM-R's vocabulary


def _open(config, task, split, tokenizer, identity, make=False, progress=None) -> tuple[Store, bool]:
    """The store of a split, and whether it was made now."""
    if split == "train":
        check_trainable(task, config.data)
    elif task.format == "token_tagging" and not task.labels:
        raise ValueError(f"the {split} split of {task.name} cannot be read before its training split gives the labels")
    wanted = _fingerprint(config, task, split, identity)
    folder = _folder(config, task, split, wanted)
    missing = not (folder / "manifest.json").is_file()
    if missing:
        if not make:
            raise _missing(config, task, split, wanted)
        _prepare_split(config, task, split, tokenizer, wanted, folder, progress)
    return Store(folder), missing


def _fingerprint(config: RunConfig, task: Task, split: str, tokenizer: str) -> dict[str, str]:
    """The parts of a store's identity, by name, so that a difference can be named."""
    definition = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    for irrelevant in NOT_PREPARED:
        definition.pop(irrelevant)
    for name in FUNCTIONS:
        if function := definition.pop(name):
            definition[name] = _source(function)
    definition["format_version"] = FORMATS[task.format].version
    text = json.dumps(definition, sort_keys=True, default=str)
    return {
        "data": source_fingerprint(task, split, config.data),
        "task definition": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
        "tokenizer": tokenizer,
    }


def _source(function: Callable) -> Any:
    """A function's text, or its byte code where it has none: what it calls is left out."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt; an object that can be called
        function = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
        return _code(function) if function else repr(type(function))


def _code(code: CodeType) -> list:
    """What differs between two functions, and not between two runs, as the addresses and the order in a repr do."""
    constants = [sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in code.co_consts]
    parts = [_code(c) if isinstance(c, CodeType) else repr(c) for c in constants]
    return [code.co_code.hex(), code.co_names, parts]


def _folder(config: RunConfig, task: Task, split: str, fingerprint: dict[str, str]) -> Path:
    digest = hashlib.blake2b(json.dumps(fingerprint, sort_keys=True).encode(), digest_size=8).hexdigest()
    return Path(config.data.store) / f"{task.name}-{split}-{digest}"


def _missing(config: RunConfig, task: Task, split: str, wanted: dict[str, str]) -> UserError:
    fix = "xstilts prepare RECIPE (with the same overrides), or data.prepare=auto"
    near: tuple[Path, list[str]] | None = None  # the store that differs least
    for folder in sorted(Path(config.data.store).glob(f"{task.name}-{split}-*")):
        found = Store(folder).manifest["fingerprint"]
        changed = [part for part, value in wanted.items() if found.get(part) != value]
        if near is None or len(changed) < len(near[1]):
            near = folder, changed
    if near:
        return UserError(
            f"the prepared data of {task.name} ({split}) is stale: made with another {' and another '.join(near[1])}",
            why=f"{near[0]} does not match this recipe",
            fix=fix,
        )
    return UserError(f"{task.name} ({split}) is not prepared", why=f"nothing for it in {config.data.store}/", fix=fix)


def _with_labels(task: Task, store: Store) -> Task:
    return task if task.labels else dataclasses.replace(task, labels=tuple(store.manifest["labels"]))


def _prepare_split(config, task, split, tokenizer, fingerprint, folder, progress) -> None:
    counts: Counter[str] = Counter()
    if not task.labels and split == "train":
        examples = (example for _, example in _examples(config, task, split, Counter()))
        task = dataclasses.replace(task, labels=tuple(FORMATS[task.format].labels(examples)))
    references: list[dict] = []
    chunks: list[dict[str, np.ndarray]] = []
    for columns, chunk_counts, chunk_references in _encode_all(config, task, split, tokenizer, counts):
        chunks.append(columns)
        counts.update(chunk_counts)
        references += chunk_references
        if progress:
            progress(f"{task.name} {split}", len(references))
    what, why = "", ""
    if not references:
        what = "no labelled example in its source"
        why = f"{counts['dropped']:,} rows were read and dropped for want of a gold label or of words"
        if counts["other_language"]:
            why += f", {counts['other_language']:,} are of other languages"
    elif not any(len(columns["example"]) for columns in chunks):  # masked LM: only special and unknown tokens
        what = f"none of its {len(references):,} examples can be used with this tokenizer"
        why = ", ".join(f"{reason.replace('_', ' ')}: {count:,}" for reason, count in counts.items())
    if what:
        fix = f"check the files of {task.name}, or take it out of `tasks`"
        raise NoExamples(f"{task.name} ({split}) is empty: {what}", why=why, fix=fix)
    manifest = {
        "task": task.name,
        "split": split,
        "fingerprint": fingerprint,
        "labels": list(task.labels),
        "examples": len(references),
        "counts": dict(counts),
    }
    write_store(folder, chunks, references, manifest)


def _examples(config: RunConfig, task: Task, split: str, counts: Counter) -> Iterator[tuple[str, dict]]:
    read = FORMATS[task.format].example
    try:
        for place, row in iter_examples(task, split, config.data, counts):
            try:
                example = read(row, task)
            except ValueError as error:
                raise UserError(f"{place}: {error}", why=f"read as {task.name} ({task.format})") from None
            if example is None:
                counts["dropped"] += 1
            else:
                yield place, example
    except UserError as error:
        error.fix = (
            error.fix or f"mend or remove it, or check that this is a file of {task.name}; then the same command again"
        )
        raise


def _chunks(config, task, split, counts) -> Iterator[tuple[int, list[dict]]]:
    chunk: list[dict] = []
    first = 0
    for _, example in _examples(config, task, split, counts):
        chunk.append(example)
        if len(chunk) == CHUNK:
            yield first, chunk
            first, chunk = first + CHUNK, []
    if chunk:
        yield first, chunk


def _encode_all(config, task, split, tokenizer, counts):
    """Encoded chunks in order; a pool of processes joins in once the split proves large."""
    workers = config.data.workers or available_cores()
    chunks = _chunks(config, task, split, counts)
    pool, running = None, deque()
    with contextlib.ExitStack() as stack:
        for first, chunk in chunks:
            if workers == 1 or first < PARALLEL_FROM:
                yield _encode(task, tokenizer, first, chunk)
                continue
            if pool is None:
                sent = dataclasses.replace(task, adapt=None, keep=None)  # a user's functions may not travel
                pool = stack.enter_context(Workers(workers, functools.partial(_encode, sent, tokenizer)))
            running.append(pool.submit(first, chunk))
            while len(running) > 4 * workers:  # bounds memory, keeps the order
                yield pool.result(running.popleft())
        while running:
            yield pool.result(running.popleft())


def _encode(task, tokenizer, first, examples):
    counts: Counter[str] = Counter()
    encoder = FORMATS[task.format]
    units = encoder.encode(examples, first, task, tokenizer, counts)
    return columns_of(units), counts, [encoder.reference(example) for example in examples]


def _row(task: Task, split: str, store: Store, state: str) -> dict:
    p50, p90, p99 = np.percentile(store.sequence_lengths, [50, 90, 99], method="higher").tolist()
    return {
        "task": task.name,
        "split": split,
        "examples": store.manifest["examples"],
        "units": len(store),
        "tokens": int(store.tokens.sum()),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": int(store.sequence_lengths.max()),
        "counts": store.manifest["counts"],
        "vocabulary": len(store.used_vocabulary()),
        "state": state,
    }


def tasks_of(prepared: Mapping[str, Prepared]) -> dict[str, Task]:
    """The tasks with their labels filled in."""
    return {name: item.task for name, item in prepared.items()}
