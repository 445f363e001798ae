"""Sentence retrieval without training: Tatoeba, BUCC and LAReQA from an encoder's own sentence vectors.

Vectors are computed on all ranks, and searched on the first; similarity is the cosine throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from trainer import distributed, engine
from trainer.config import RunConfig
from trainer.data.retrieval_files import ParallelText, open_parallel
from trainer.distributed import World
from trainer.errors import NoExamples, UserError
from trainer.evaluation.metrics import accuracy
from trainer.evaluation.mining import mine, tune_threshold, unique_sentences
from trainer.evaluation.neighbours import nearest
from trainer.evaluation.results import NO_EXAMPLES, NO_FILES, LanguageResult, Skipped, TargetResult
from trainer.evaluation.scorer import TOP, bucc_f1, mean_average_precision
from trainer.evaluation.vectors import choose_layer, sentence_vectors
from trainer.evaluation.zero_shot import Progress, languages_for, missing_file
from trainer.plan.devices import available_memory
from trainer.tasks.spec import Task

CPU_PACK_TOKENS = 4096  # what stays near a CPU's cache is faster

Splits = tuple[ParallelText, ...]  # what is scored; for BUCC: what the threshold is tuned on, then what is scored
ByLanguage = dict[str, LanguageResult]
Embed = Callable[[Sequence[str]], torch.Tensor]  # float32 (layers, n, H) of n sentences


def evaluate_retrieval(
    encoder: torch.nn.Module,
    tokenizer,
    config: RunConfig,
    world: World,
    tasks: Mapping[str, Task],
    languages: Sequence[str] | None = None,
    layer: int | str | None = None,
    pooling: str = "mean",
    progress: Progress | None = None,
) -> dict[str, TargetResult]:
    """Scores of retrieval tasks, in per cent, on every rank; the number of ranks changes nothing.

    Args:
        encoder: with packed attention; it is moved to the rank's device and to `engine.dtype`.
        config: says where the files are (`data`), what to compute in (`engine.dtype`), and `evaluation.pack_tokens`
            (default: `train.pack_tokens`; on CPUs at most 4,096).
        tasks: name -> task, in English, of the format sentence_retrieval.
        languages: of those that each task has; None: all of which there are files, the others are skipped.
        layer: see `choose_layer`; default: XTREME's, 14 of 24, 8 of 12, or as deep as the former.
        pooling: mean (over all tokens) or cls.
        progress: told how many packs of each part of a task this rank has done.

    Raises:
        UserError: a task that needs a head, a language that a task does not have, a missing or malformed file, an
            unknown layer or pooling.
    """
    layer = choose_layer(layer, encoder)
    return evaluate_layers(encoder, tokenizer, config, world, tasks, [layer], languages, pooling, progress)[layer]


def evaluate_layers(
    encoder: torch.nn.Module,
    tokenizer,
    config: RunConfig,
    world: World,
    tasks: Mapping[str, Task],
    layers: Sequence[int],
    languages: Sequence[str] | None = None,
    pooling: str = "mean",
    progress: Progress | None = None,
) -> dict[int, dict[str, TargetResult]]:
    """What `evaluate_retrieval` gives, by layer; the encoder runs once for as many of them as memory has room for.

    The vectors of a task (BUCC: of a split in one language) are held by every process: layers x sentences x width x 4
    bytes.

    Raises:
        UserError: as `evaluate_retrieval` does; or the vectors of a single layer need more memory than is free.
    """
    for task in tasks.values():
        if task.name not in PROTOCOLS:
            fix = f"one of: {', '.join(PROTOCOLS)}"
            raise UserError(f"{task.name} is no retrieval task", why="it needs a trained head", fix=fix)
    encoder.to(world.device, engine.DTYPES[engine.choose_dtype(config, world.device)]).eval()
    pack_tokens = pack_tokens_for(config, world.device)
    depth, default = len(encoder.encoder.layer), choose_layer(None, encoder)
    results: dict[int, dict[str, TargetResult]] = {layer: {} for layer in layers}
    for name, task in tasks.items():
        texts, skipped = read_languages(task, config, languages)
        told = progress and partial(progress, f"{name} test")
        for group in layer_groups(layers, sentences_at_once(task, texts), encoder.config.hidden_size, world):
            counts = {"truncated": 0}
            embed = partial(
                sentence_vectors, encoder, tokenizer, layers=group, world=world, pooling=pooling,
                pack_tokens=pack_tokens, max_length=task.max_length, counts=counts, progress=told,
            )  # fmt: skip
            by_layer, notes = [{} for _ in group], []
            if texts:
                by_layer, notes = PROTOCOLS[task.name](task, texts, embed, world.device)
            if counts["truncated"]:
                notes = [*notes, f"{counts['truncated']:,} sentences were truncated to {task.max_length} tokens"]
            for layer, found in zip(group, by_layer, strict=True):
                vectors = f"vectors: {pooling} of hidden_states[{layer}] of {depth} layers; default: {default}"
                chosen = {code: found[code] for code in languages_for(task, languages) if code in found}
                results[layer][name] = TargetResult(task, chosen, skipped, [vectors, *notes])
    return results


def sentences_at_once(task: Task, texts: Mapping[str, Splits]) -> int:
    """Sentences of a task whose vectors are held at one time."""
    sizes = [[len(text.queries) + len(text.candidates) for text in splits] for splits in texts.values()]
    if task.name == "bucc2018":
        return max(map(max, sizes), default=0)
    return sum(map(sum, sizes))


def layer_groups(layers: Sequence[int], sentences: int, width: int, world: World) -> list[list[int]]:
    """Layers whose vectors fit together into half of the memory that is free on every host; at least one in each.

    Args:
        sentences: that have a vector at one time; width: numbers of a vector, of 4 bytes each.

    Raises:
        UserError: one layer needs more than all that is free; on every rank.
    """
    free = min(distributed.gather_objects(available_memory() / world.local_size))
    layer = 4 * sentences * width
    if layer > free:
        raise UserError(
            f"the vectors of {sentences:,} sentences need {layer / 1e9:.1f} GB, of which {free / 1e9:.1f} GB are free",
            why="every process holds those of all sentences" if world.local_size > 1 else "",
            fix="name fewer languages (--languages), use fewer processes on a host, or one with more memory",
        )
    size = max(1, int(free / 2 / max(1, layer)))
    return [list(layers[first : first + size]) for first in range(0, len(layers), size)]


def pack_tokens_for(config: RunConfig, device: torch.device) -> int:
    """Tokens of a pack of sentences: `evaluation.pack_tokens`; default: `train.pack_tokens`, on CPUs at most 4,096."""
    if config.evaluation.pack_tokens is None and device.type == "cpu":
        return min(config.train.pack_tokens, CPU_PACK_TOKENS)
    return config.evaluation.pack_tokens or config.train.pack_tokens


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """The vectors in length 1, in place."""
    return F.normalize(vectors, dim=-1, out=vectors)


def read_languages(
    task: Task, config: RunConfig, languages: Sequence[str] | None
) -> tuple[dict[str, Splits], dict[str, Skipped]]:
    """Language -> its sentences, and why others are skipped: no file, or an empty one.

    Raises:
        UserError: no language of the task's, a missing file of one that was asked for, a malformed file, or no language
            with files at all.
    """
    asked = languages_for(task, languages)
    splits = ("sample", "training") if task.name == "bucc2018" else ("test",)
    texts: dict[str, Splits] = {}
    skipped: dict[str, Skipped] = {}
    first_missing: UserError | None = None
    for code in task.languages if task.name == "lareqa" else asked:  # LAReQA's candidates are those of all languages
        local = task.in_language(code)
        if missing := missing_file(local, config.data):
            if languages is not None and code in asked:
                raise missing
            first_missing, skipped[code] = first_missing or missing, Skipped(NO_FILES, missing.why)
            continue
        try:
            texts[code] = tuple(open_parallel(local, config.data, split) for split in splits)
        except NoExamples as error:
            skipped[code] = Skipped(NO_EXAMPLES, error.what)
            continue
        if not texts[code][-1].gold:
            del texts[code]
            skipped[code] = Skipped("no gold pairs")
    if first_missing and not texts:
        raise first_missing
    return texts, {code: why for code, why in skipped.items() if code in asked}


def _tatoeba(task: Task, texts: Mapping[str, Splits], embed, device) -> tuple[list[ByLanguage], list[str]]:
    """The nearest candidate of each query; as all texts are embedded at once, ranks have equal work."""
    sizes = [size for (text,) in texts.values() for size in (len(text.queries), len(text.candidates))]
    vectors = _unit(embed([s for (text,) in texts.values() for side in (text.queries, text.candidates) for s in side]))

    def search() -> list[ByLanguage]:
        results: list[ByLanguage] = []
        for of_layer in vectors:
            parts = iter(of_layer.split(sizes))
            found: ByLanguage = {}
            for code, (text,) in texts.items():
                predictions = nearest(next(parts), next(parts), 1, device).indices[:, 0].tolist()
                references = [candidate for _, candidate in sorted(text.gold)]
                scores = {"accuracy": accuracy(predictions, references)}
                found[code] = LanguageResult(scores, len(references), predictions, references)
            results.append(found)
        return results

    return distributed.on_first(search), []


def _bucc(task: Task, texts: Mapping[str, Splits], embed, device) -> tuple[list[ByLanguage], list[str]]:
    """Mined pairs above the threshold that is best on the sample split."""
    results: list[ByLanguage] = []
    notes = []
    for code, (sample, training) in texts.items():
        tuning = _mined(sample, embed, device)
        scored = tuning if sample == training else _mined(training, embed, device)
        gold, thresholds = _gold_pairs(training), []
        results = results or [{} for _ in scored]
        for found, sample_mined, (pairs, margins) in zip(results, tuning, scored, strict=True):
            threshold = tune_threshold(*sample_mined, set(_gold_pairs(sample)))
            predictions = [pair for pair, margin in zip(pairs, margins, strict=True) if margin >= threshold]
            found[code] = LanguageResult(bucc_f1(predictions, gold), len(gold), predictions, gold)
            thresholds.append(f"{threshold:.4f}")
        where = "the pairs it is scored on, as there is one split only" if sample == training else "the sample split"
        notes.append(f"{code}: margin of at least {', '.join(thresholds)}, tuned on {where}")
    return results, notes


def _mined(text: ParallelText, embed, device) -> list[tuple[list[tuple[str, str]], list[float]]]:
    """For each layer, the ids of mined pairs and their margins, the largest first."""
    (left, left_single), (right, right_single) = map(unique_sentences, (text.queries, text.candidates))
    sentences = [*(text.queries[i] for i in left), *(text.candidates[i] for i in right)]
    vectors = _unit(embed(sentences))

    def search():
        mined = []
        for of_layer in vectors:
            pairs, margins = mine(of_layer[: len(left)], of_layer[len(left) :], device)
            kept = left_single[pairs[:, 0]] & right_single[pairs[:, 1]]
            rows, columns = left[pairs[kept, 0]].tolist(), right[pairs[kept, 1]].tolist()
            ids = [(text.query_ids[i], text.candidate_ids[j]) for i, j in zip(rows, columns, strict=True)]
            mined.append((ids, margins[kept].tolist()))
        return mined

    return distributed.on_first(search)


def _gold_pairs(text: ParallelText) -> list[tuple[str, str]]:
    return [(text.query_ids[i], text.candidate_ids[j]) for i, j in text.gold]


def _lareqa(task: Task, texts: Mapping[str, Splits], embed, device) -> tuple[list[ByLanguage], list[str]]:
    """The 20 best candidates, in all languages together, of each question that has an answer."""
    pool = [key for (text,) in texts.values() for key in text.candidate_ids]
    answers: dict[str, list[str]] = {}  # of a question, in all languages
    for (text,) in texts.values():
        for query, candidate in text.gold:
            answers.setdefault(text.query_ids[query], []).append(text.candidate_ids[candidate])
    asked = {code: [i for i, key in enumerate(text.query_ids) if key in answers] for code, (text,) in texts.items()}
    queries = [texts[code][0].queries[i] for code, places in asked.items() for i in places]
    vectors = _unit(embed([*queries, *(s for (text,) in texts.values() for s in text.candidates)]))

    def search() -> list[ByLanguage]:
        results: list[ByLanguage] = []
        for of_layer in vectors:
            ranked = nearest(of_layer[: len(queries)], of_layer[len(queries) :], TOP, device).indices.tolist()
            rankings = iter([pool[place] for place in places] for places in ranked)
            found: ByLanguage = {}
            for code, places in asked.items():
                ids = [texts[code][0].query_ids[i] for i in places]
                predictions = [next(rankings) for _ in places]
                references = [{"id": f"{key}_{code}", "answers": answers[key]} for key in ids]
                score = mean_average_precision(predictions, [answers[key] for key in ids])
                found[code] = LanguageResult({task.metric: score}, len(ids), predictions, references)
            results.append(found)
        return results

    what = f"candidates: {len(pool):,} sentences, each with its paragraph, of {', '.join(texts)} together"
    return distributed.on_first(search), [what]


PROTOCOLS = {"tatoeba": _tatoeba, "bucc2018": _bucc, "lareqa": _lareqa}
