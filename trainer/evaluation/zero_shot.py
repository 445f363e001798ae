"""Zero-shot evaluation: heads trained in one language, scored on the test sets of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from trainer import distributed
from trainer.config import DataSection, RunConfig
from trainer.data.loader import Collator, PackedBatch
from trainer.data.prepare import open_split
from trainer.data.sources import find_files, on_hub
from trainer.errors import NoExamples, UserError
from trainer.evaluation.dev import Part, decode, run_packs
from trainer.evaluation.results import NO_EXAMPLES, NO_FILES, LanguageResult, Skipped, TargetResult
from trainer.model.encoder import position_offset
from trainer.model.heads import members_of
from trainer.restore import RestoredModel
from trainer.tasks import FORMATS
from trainer.tasks.spec import Task

Progress = Callable[[str, int, int | None], None]  # (what, done, in all if that is known)


def evaluate_targets(
    restored: RestoredModel,
    tasks: Mapping[str, Task],
    languages: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, TargetResult]:
    """Scores and predictions of targets on the test sets of their languages; on rank 0 only, {} on the others.

    A target's packs of all languages are pooled and dealt to the ranks; they do not depend on the number of ranks. All
    test data is opened, and prepared where it is not yet, before any of it is evaluated. A language whose test file has
    no rows is skipped, with the reason.

    Args:
        tasks: name -> target, in English.
        languages: of those that each target has; None: all of which there are files, the others are skipped.
        progress: told how many examples are prepared, then how many packs this rank has done.

    Raises:
        UserError: no head for a target, a language it does not have, missing or malformed test data, test labels that
            the head does not know, sequences that the encoder has too few positions for, outputs that are no numbers.
    """
    heads = restored.model.heads
    chosen = {name: head_for(task, heads.tasks, heads.members) for name, task in tasks.items()}
    known = {name: _with_head_labels(task, heads.tasks[chosen[name]]) for name, task in tasks.items()}
    wanted = {
        name: {code: task.in_language(code) for code in languages_for(task, languages)} for name, task in known.items()
    }
    skipped = distributed.on_first(
        lambda: _prepare(restored.config, restored.tokenizer, wanted, languages is None, progress)
    )
    parts: dict[str, dict[str, Part]] = {name: {} for name in wanted}
    for name, variants in wanted.items():
        for code, task in variants.items():
            if code not in skipped[name]:
                store = open_split(restored.config, task, "test", restored.tokenizer)
                parts[name][code] = Part(chosen[name], task, store)
                _check_fit(parts[name][code], restored)
    results = {}
    for name, task in known.items():
        found = _evaluate(restored, parts[name], name, progress)
        results[name] = TargetResult(task, found, skipped[name], _notes(chosen[name], parts[name]))
    return results if restored.world.first else {}


def prepare_tests(
    config: RunConfig,
    trained: Mapping[str, Task],
    tasks: Mapping[str, Task],
    tokenizer,
    progress: Progress | None = None,
) -> dict[str, dict[str, Skipped]]:
    """Prepare what `evaluate_targets` will read in all languages, before there is a model; task -> language -> why it
    is skipped.

    Args:
        trained: the tasks of the recipe, with their labels filled in.
        tasks: as for `evaluate_targets`.

    Raises:
        UserError: as `evaluate_targets` does before it evaluates.
    """
    members = members_of(trained, config.model.heads == "family")
    known = {name: _with_head_labels(task, trained[head_for(task, trained, members)]) for name, task in tasks.items()}
    wanted = {name: {code: task.in_language(code) for code in task.languages} for name, task in known.items()}
    return _prepare(config, tokenizer, wanted, True, progress)


def languages_for(task: Task, languages: Sequence[str] | None) -> list[str]:
    """Those of a target's languages that are asked for, in the target's order; None asks for all.

    Raises:
        UserError: it has none of them.
    """
    chosen = [code for code in task.languages if languages is None or code in languages]
    if not chosen:
        fix = f"leave it out of --tasks, or --languages, of {', '.join(task.languages)}"
        raise UserError(f"{task.name} is not in {' or '.join(languages or ())}", fix=fix)
    return chosen


def head_for(task: Task, tasks: Mapping[str, Task], members: Mapping[str, Sequence[str]]) -> str:
    """The model's task whose head scores a target: the one that the target names, else the only head of its family.

    Args:
        tasks: the model's, by name; members: its heads, each with the names of the tasks that share it.

    Raises:
        UserError: there is no such head, or several.
    """
    wanted = task.head or task.name
    named = [name for name in tasks if wanted in (name, tasks[name].head)]  # mnli; or mnli-de, whose head is mnli's
    if named:
        return named[0]
    alike = [names for names in members.values() if _alike(tasks[names[0]], task)]
    if len(alike) == 1:
        return alike[0][0]
    several = f"the model has several heads that could score {task.name}: {', '.join(names[0] for names in alike)}"
    raise UserError(
        several if alike else f"the model has no head that could score {task.name}",
        why=f"it was trained on {', '.join(tasks)}",
        fix=f"fine-tune it: xstilts train RECIPE tasks=[{wanted}] model.encoder=EXPORT, then evaluate its export",
    )


def _alike(trained: Task, target: Task) -> bool:
    same_labels = not target.labels or set(trained.labels) == set(target.labels)
    return bool(target.family) and (trained.format, trained.family) == (target.format, target.family) and same_labels


def _with_head_labels(task: Task, trained: Task) -> Task:
    """The target with its labels in the order of the head's outputs."""
    unknown = [label for label in task.labels if label not in trained.labels]
    if trained.format != task.format or unknown:
        raise UserError(
            f"the head of {trained.name} cannot score {task.name}",
            why=f"it does not know the labels {', '.join(unknown)}" if unknown else f"it is of {trained.format}",
            fix=f"evaluate a model whose {trained.name} has the labels of {task.name}",
        )
    return replace(task, labels=trained.labels)


def _prepare(
    config: RunConfig,
    tokenizer,
    wanted: Mapping[str, Mapping[str, Task]],
    skip_missing: bool,
    progress: Progress | None,
) -> dict[str, dict[str, Skipped]]:
    """Prepare what is not yet; task -> language -> why it is skipped."""
    told = progress and (lambda what, done: progress(what, done, None))
    skipped: dict[str, dict[str, Skipped]] = {name: {} for name in wanted}
    for name, variants in wanted.items():
        first_missing = None
        for code, task in variants.items():
            missing = missing_file(task, config.data) if skip_missing else None
            try:
                if missing:
                    first_missing = first_missing or missing
                    skipped[name][code] = Skipped(NO_FILES, missing.why)
                else:
                    open_split(config, task, "test", tokenizer, make=True, progress=told)
            except NoExamples as error:
                skipped[name][code] = Skipped(NO_EXAMPLES, error.what)
        if first_missing and len(skipped[name]) == len(variants):
            raise first_missing
    return skipped


def missing_file(task: Task, data: DataSection) -> UserError | None:
    """What is missing of a target's test files, in its language already; None where nothing is, or the hub has it."""
    if on_hub(task, "test", data):
        return None
    try:
        find_files(task, "test", data)
    except UserError as error:
        return error
    return None


def _check_fit(part: Part, restored: RestoredModel) -> None:
    encoder, counts = restored.model.encoder, part.store.manifest["counts"]
    positions = encoder.config.max_position_embeddings - position_offset(encoder.config)
    longest = part.store.sequence_lengths.max(initial=0)
    if longest > positions:
        what = f"{part.task.name} (test) has sequences of {longest} tokens, the encoder {positions} positions"
        raise UserError(what, fix=f"data.max_length={positions}")
    if counts.get("unseen_tags"):
        tags = {tag for reference in part.store.references() for tag in reference["tags"]} - set(part.task.labels)
        raise UserError(
            f"{part.task.name} (test) has tags that the head of {part.head} does not know: {', '.join(sorted(tags))}",
            why=f"{counts['unseen_tags']:,} words have them; it was trained with {', '.join(part.task.labels)}",
            fix="correct the test file, train on data that has them, or name the other languages: --languages",
        )


def _notes(head: str, parts: Mapping[str, Part]) -> list[str]:
    """Which head it is, and what preparing dropped, cut or split, over all languages."""
    counts = sum((Counter(part.store.manifest["counts"]) for part in parts.values()), Counter())
    counts.pop("other_language", None)  # in one file with them
    said = ", ".join(f"{what.replace('_', ' ')} {count:,}" for what, count in sorted(counts.items()))
    return [f"scored by the head of {head}", *([f"test data: {said}"] if said else [])]


@torch.no_grad()
def _evaluate(
    restored: RestoredModel, parts: Mapping[str, Part], name: str, progress: Progress | None
) -> dict[str, LanguageResult]:
    """Language -> result, on rank 0."""
    model, each = restored.ready(), list(parts.values())
    batch_of = _batches(model.heads.tasks, each, restored.tokenizer.pad_token_id)
    told = progress and (lambda done, total: progress(f"{name} test", done, total))
    outputs = run_packs(model, each, batch_of, restored.pack_tokens, restored.world, progress=told)
    results = {}
    if restored.world.first:
        for code, part, found in zip(parts, each, outputs, strict=True):
            predictions, references = decode(part, found)
            scores = FORMATS[part.task.format].score(predictions, references, part.task)
            results[code] = LanguageResult(scores, len(references), predictions, references)
    return results


def _batches(
    tasks: Mapping[str, Task], parts: Sequence[Part], pad_token: int
) -> Callable[[int, np.ndarray], PackedBatch]:
    """Packs of a part as a model with the heads of `tasks` reads them: no rows for any head but the part's own."""
    collators = [Collator(tasks, dict.fromkeys(tasks, part.store), pad_token, None) for part in parts]
    places = [list(tasks).index(part.head) for part in parts]

    def batch_of(part: int, units: np.ndarray) -> PackedBatch:
        return collators[part](np.full(len(units), places[part]), units)

    return batch_of
