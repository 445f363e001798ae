"""The XTREME and XTREME-R targets in their own layouts, written from the parallel inventory.

A task is written in those of the sample's eight languages that the real task has, and its examples are the same in
every language. English training parts and all test parts share no example.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trainer.sample.causes import CAUSE_LANGUAGES, cause_or_effect, copa_row
from trainer.sample.files import DEV, TRAIN, draw, others, stream, write_json, write_jsonl, write_lines, write_tsv
from trainer.sample.multilingual import (
    ACTIONS,
    COMPANIES,
    FULL_NAMES,
    ISO3,
    LANGUAGES,
    NAMES,
    ORDERS,
    PHRASES,
    PLACES,
    PREDICATES,
    SURNAMES,
    TEST_PLACES,
    TRAIN_PLACES,
)
from trainer.sample.nli import LABELS
from trainer.sample.reading import event_questions, squad_paragraph
from trainer.sample.sentences import ANSWER_SLOTS, Event, distinct_events, infer, random_event, say, say_both

PAWSX_LANGUAGES = ("en", "de", "es", "fr", "zh")
UDPOS_LANGUAGES = ("en", "de", "es", "fr", "ru", "tr", "zh")  # Swahili has no treebank in the real task either
XQUAD_LANGUAGES = ("en", "de", "es", "ru", "tr", "zh")
MLQA_LANGUAGES = ("en", "de", "es", "zh")
TYDIQA_LANGUAGES = ("en", "ru", "sw")
BUCC_LANGUAGES = ("de", "fr", "ru", "zh")
VALIDATION, TEST = 30, 60  # examples a language


def write_xnli(folder: Path, seed: int) -> None:
    """XNLI's own TSV: all languages in one file."""
    rng, taken = stream(seed, "xnli"), set()
    columns = ["language", "gold_label", *(f"sentence{i}_{k}" for k in ("binary_parse", "parse") for i in (1, 2))]
    columns += ["sentence1", "sentence2", "promptID", "pairID", "genre", *(f"label{i}" for i in range(1, 6))]
    columns += ["sentence1_tokenized", "sentence2_tokenized", "match"]
    for split, count in (("dev", TEST), ("test", DEV)):
        specs = draw(rng, lambda rng, label: infer(rng, label, TEST_PLACES), LABELS, count, taken)
        rows = []
        for language in LANGUAGES:
            for i, (event, order, about, label) in enumerate(specs):
                row = {"language": language, "gold_label": label, "promptID": i + 1, "pairID": i + 1, "match": True}
                row |= {"genre": "travel", **{f"label{k}": label for k in range(1, 6)}}
                for k, said in ((1, say(language, "event", event)), (2, say(language, order, about))):
                    row |= {f"sentence{k}": said.text, f"sentence{k}_tokenized": " ".join(w.form for w in said.words)}
                rows.append(row)
        write_tsv(folder / f"xnli.{split}.tsv", columns, rows)


def paraphrase(rng: random.Random, label: int) -> tuple:
    """How two sentences differ, and the events that they tell; label 1: they say the same."""
    kind = rng.choice(("order", "fronted") if label else ("exchange", "never", "elsewhere"))
    if kind in ("order", "exchange"):
        names, actions = rng.sample(range(len(NAMES)), 2), rng.sample(ACTIONS, 2)
        return (kind, *(Event(name, action, 0, 0) for name, action in zip(names, actions, strict=True)))
    event = random_event(rng)
    place = others(rng, range(len(PLACES)), event.place)[0] if kind == "elsewhere" else event.place
    return kind, event, replace(event, place=place)


def _paraphrase_texts(language: str, kind: str, first: Event, second: Event) -> tuple[str, str]:
    if kind == "order":
        return say_both(language, first, second).text, say_both(language, second, first).text
    if kind == "exchange":
        crossed = replace(first, name=second.name), replace(second, name=first.name)
        return say_both(language, first, second).text, say_both(language, *crossed).text
    other = say(language, "never there" if kind == "never" else "fronted", second)
    return say(language, "event", first).text, other.text


def write_pawsx(folder: Path, seed: int) -> None:
    rng, taken = stream(seed, "pawsx"), set()
    for name, count, languages in (
        ("train", TRAIN, ("en",)), ("dev_2k", VALIDATION, PAWSX_LANGUAGES), ("test_2k", TEST, PAWSX_LANGUAGES),
    ):  # fmt: skip
        specs = draw(rng, paraphrase, (0, 1), count, taken)
        for language in languages:
            rows = []
            for i, (kind, first, second, label) in enumerate(specs):
                texts = _paraphrase_texts(language, kind, first, second)
                rows.append({"id": i + 1, "sentence1": texts[0], "sentence2": texts[1], "label": label})
            write_tsv(folder / language / f"{name}.tsv", ("id", "sentence1", "sentence2", "label"), rows)


def telling(rng: random.Random, order: str) -> tuple[Event]:
    """An event with whatever the word order mentions, and nothing else, so that equal sentences are equal events."""
    event = random_event(rng)
    used = ORDERS[order]["en"].split()
    if "V" not in used:
        event = replace(event, action=ACTIONS[0])
    if "N" not in used:
        event = replace(event, name=0)
    if "P" not in used:
        event = replace(event, place=0)
    if "T" not in used:
        event = replace(event, time=0)
    if "C" in used:
        event = replace(event, company=rng.randrange(len(COMPANIES)))
    if "X" in used:
        event = replace(event, predicate=rng.randrange(len(PREDICATES)))
    return (event,)


def _with_surname(rng: random.Random, order: str) -> tuple[Event]:
    (event,) = telling(rng, order)
    if "N" in ORDERS[order]["en"].split() and rng.random() < 0.7:
        event = replace(event, surname=rng.randrange(len(SURNAMES)))
    return (event,)


def write_udpos(folder: Path, seed: int) -> None:
    """CoNLL-U with forms and universal tags; columns the sample knows nothing of are `_`."""
    _write_tagged(folder, seed, "udpos", UDPOS_LANGUAGES, telling, tuple(ORDERS), _conllu)


def write_panx(folder: Path, seed: int) -> None:
    """WikiANN's `language:word TAB tag`; Chinese is split into characters."""
    orders = ("event", "lives", "works", "someone")
    _write_tagged(folder, seed, "panx", LANGUAGES, _with_surname, orders, _wikiann)


def _write_tagged(
    folder: Path,
    seed: int,
    name: str,
    languages: tuple[str, ...],
    make: Callable,
    orders: tuple[str, ...],
    write: Callable[[Path, str, str, list], None],
) -> None:
    rng, taken = stream(seed, name), set()
    for split, count in (("train", TRAIN), ("dev", DEV), ("test", TEST)):
        specs = draw(rng, make, orders, count, taken)
        for language in ("en",) if split == "train" else languages:
            write(folder, language, split, [say(language, order, event) for event, order in specs])


def _conllu(folder: Path, language: str, split: str, sentences: list) -> None:
    lines = []
    for i, said in enumerate(sentences):
        lines += [f"# sent_id = {split}-{i + 1}", f"# text = {said.text}"]
        glued_next = [*said.glued[1:], False]
        for k, (word, glued) in enumerate(zip(said.words, glued_next, strict=True)):
            misc = "SpaceAfter=No" if glued else "_"
            lines.append("\t".join((str(k + 1), word.form, "_", word.tag, *"_____", misc)))
        lines.append("")
    write_lines(folder / f"{language}-{split}.conllu", lines)


def _wikiann(folder: Path, language: str, split: str, sentences: list) -> None:
    lines = []
    for said in sentences:
        for word in said.words:
            pieces = list(word.form) if language == "zh" and not word.form.isascii() else [word.form]
            tags = [word.entity] + [word.entity.replace("B-", "I-")] * (len(pieces) - 1)
            lines += [f"{language}:{piece}\t{tag}" for piece, tag in zip(pieces, tags, strict=True)]
        lines.append("")
    write_lines(folder / language / split, lines)


def _paragraphs(rng: random.Random, count: int, places: list[dict]) -> list[tuple[list[Event], list[str]]]:
    """Events of each paragraph and what is asked about each."""
    kinds = sorted(ANSWER_SLOTS)
    return [(distinct_events(rng, 3, places), rng.sample(kinds, 3)) for _ in range(count)]


def _articles(language: str, specs: list, prefix: str, keep: Callable[[dict], dict] = squad_paragraph) -> list[dict]:
    paragraphs = [keep(event_questions(language, *spec, f"{prefix}{i}")) for i, spec in enumerate(specs)]
    return [
        {"title": f"Sample {i // 5 + 1}", "paragraphs": paragraphs[i : i + 5]} for i in range(0, len(paragraphs), 5)
    ]


def write_xquad(folder: Path, seed: int) -> None:
    specs = _paragraphs(stream(seed, "xquad"), TEST // 3, TEST_PLACES)
    for language in XQUAD_LANGUAGES:
        write_json(folder / f"xquad.{language}.json", {"data": _articles(language, specs, "x"), "version": "1.1"})


def write_lareqa(folder: Path, seed: int) -> None:
    """XQuAD-R: XQuAD's paragraphs, with their sentences as candidate answers."""
    specs = _paragraphs(stream(seed, "xquad"), TEST // 3, TEST_PLACES)
    for language in XQUAD_LANGUAGES:
        data = _articles(language, specs, "x", keep=dict)
        write_json(folder / "xquad-r" / f"{language}.json", {"data": data, "version": "1.1"})


def write_mlqa(folder: Path, seed: int) -> None:
    rng = stream(seed, "mlqa")
    for split, count in (("dev", VALIDATION), ("test", TEST)):
        specs = _paragraphs(rng, count // 3, TEST_PLACES)
        for language in MLQA_LANGUAGES:
            name = f"{split}-context-{language}-question-{language}.json"
            data = _articles(language, specs, f"{split}-")
            write_json(folder / split / name, {"version": 1.0, "data": data})


def write_tydiqa(folder: Path, seed: int) -> None:
    """One training file for all languages, as in the original: the ids' prefixes tell them apart."""
    rng, version = stream(seed, "tydiqa"), "tydiqa-goldp-v1.1"
    train = []
    for language in TYDIQA_LANGUAGES:
        train += _articles(language, _paragraphs(rng, TRAIN // 6, TRAIN_PLACES), f"{FULL_NAMES[language]}-1")
        dev = _articles(language, _paragraphs(rng, TEST // 3, TEST_PLACES), f"{FULL_NAMES[language]}-2")
        write_json(folder / f"{version}-dev" / f"tydiqa.{language}.dev.json", {"data": dev, "version": version})
    rng.shuffle(train)
    write_json(folder / f"{version}-train.json", {"data": train, "version": version})


def _parallel(rng: random.Random, language: str, count: int, seen: set[str]) -> list[tuple[str, str]]:
    """Different (sentence, English sentence) pairs; neither side occurs in `seen`, to which both are added."""
    orders, pairs = sorted(ORDERS), []
    while len(pairs) < count:
        order = rng.choice(orders)
        (event,) = telling(rng, order)
        pair = say(language, order, event).text, say("en", order, event).text
        if seen.isdisjoint(pair):
            seen.update(pair)
            pairs.append(pair)
    return pairs


def write_tatoeba(folder: Path, seed: int) -> None:
    """Line i of one file translates line i of the other."""
    for language, iso3 in ISO3.items():
        rng = stream(seed, f"tatoeba-{language}")
        pairs = [(row[language], row["en"]) for row in PHRASES]
        pairs += _parallel(rng, language, 100 - len(pairs), {text for pair in pairs for text in pair})
        rng.shuffle(pairs)
        write_lines(folder / f"tatoeba.{iso3}-eng.{iso3}", [pair[0] for pair in pairs])
        write_lines(folder / f"tatoeba.{iso3}-eng.eng", [pair[1] for pair in pairs])


def write_bucc2018(folder: Path, seed: int) -> None:
    """Two corpora that share a third of their sentences, and the gold list of those."""
    for language in BUCC_LANGUAGES:
        rng, seen = stream(seed, f"bucc2018-{language}"), set()
        for split, size in (("sample", 90), ("training", 180)):
            both = _parallel(rng, language, size // 3, seen)
            foreign = [pair[0] for pair in both + _parallel(rng, language, size - len(both), seen)]
            english = [pair[1] for pair in both + _parallel(rng, language, size - len(both), seen)]
            sides = {}
            for code, sentences in ((language, foreign), ("en", english)):
                numbers = rng.sample(range(1, len(sentences) + 1), len(sentences))
                sides[code] = [f"{code}-{number:09}" for number in numbers]
                lines = sorted(f"{key}\t{text}" for key, text in zip(sides[code], sentences, strict=True))
                write_lines(folder / f"{language}-en" / f"{language}-en.{split}.{code}", lines)
            gold = zip(sides[language][: len(both)], sides["en"][: len(both)], strict=True)
            lines = sorted(f"{key}\t{english_key}" for key, english_key in gold)
            write_lines(folder / f"{language}-en" / f"{language}-en.{split}.gold", lines)


def write_xcopa(folder: Path, seed: int) -> None:
    """XCOPA's JSON lines; English, which XCOPA leaves to COPA, has a training part."""
    rng, taken = stream(seed, "xcopa"), set()
    for split, count in (("train", 4 * VALIDATION), ("val", VALIDATION), ("test", TEST)):
        specs = draw(rng, cause_or_effect, (0, 1), count, taken)
        for language in ("en",) if split == "train" else CAUSE_LANGUAGES:
            rows = [copa_row(language, *spec, i) for i, spec in enumerate(specs)]
            write_jsonl(folder / f"{language}.{split}.jsonl", rows)
