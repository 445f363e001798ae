"""Natural language inference: ANLI, MultiNLI and SNLI look-alikes whose labels follow from how they are made.

Entailment drops or generalises what the premise says, contradiction negates or excludes it, neutral adds something
that the premise leaves open. As in the real sets, words of the hypothesis alone often give the label away.
"""

from __future__ import annotations

import random
from pathlib import Path

from trainer.sample.files import DEV, TRAIN, draw, others, stream, write_jsonl, write_tsv
from trainer.sample.multilingual import TRAIN_PLACES
from trainer.sample.sentences import inference
from trainer.sample.words import CITIES, DAYS, EVENTS, JOBS, NAMES, a, full_name, sentence, she

LABELS = ("entailment", "neutral", "contradiction")
GENRES = ("fiction", "government", "slate", "telephone", "travel")
_OPENINGS = {
    "fiction": "{who} {past} {day}.",
    "government": "The records of the city show that {who} {past} {day}.",
    "slate": "It is a fact that {who} {past} {day}.",
    "telephone": "yeah well i can tell you that {who} {past} {day}.",
}
_CAPTIONS = (  # doing, more general, impossible at the same time, unsaid
    ("playing a guitar on a small stage", "making music", "sleeping in a bed", "giving a first concert"),
    ("riding a bicycle along the beach", "outdoors", "swimming under water", "going home from work"),
    ("eating soup in a crowded kitchen", "having a meal", "standing alone in a field", "celebrating a birthday"),
    ("reading a newspaper on a bench", "reading", "running a race", "looking for a new flat"),
    ("throwing a ball in the park", "outdoors", "lying in a bathtub", "training for a match"),
    ("painting a wall in bright colours", "using paint", "driving a lorry", "decorating a first home"),
    ("carrying a heavy box up the stairs", "carrying something", "asleep on a sofa", "moving to another city"),
    ("selling oranges at a market stall", "selling fruit", "sitting in a cinema", "earning money for a holiday"),
    ("swimming in a cold lake", "in the water", "sitting on a dry rock", "preparing for a contest"),
    ("dancing in front of a large crowd", "dancing", "all alone", "celebrating a wedding"),
)
_PEOPLE = ("A man", "A woman", "A boy", "A girl", "An old man", "A young woman", "A tall boy", "A little girl")
_COLOURS = ("a red shirt", "a blue coat", "a green hat", "a white scarf", "black shoes", "a yellow jacket")


def mnli(rng: random.Random, label: str) -> tuple[str, str, str]:
    """Premise, hypothesis and genre."""
    genre = rng.choice(GENRES)
    if genre == "travel":  # the sentences in which XNLI's look-alike is written in every language
        return (*inference("en", rng, label, TRAIN_PLACES), genre)
    name, job, city, day = rng.choice(NAMES), rng.choice(JOBS), rng.choice(CITIES), rng.choice(DAYS)
    base, past, general = rng.choice(EVENTS)
    premise = _OPENINGS[genre].format(who=f"{name}, {a(job)} from {city},", past=past, day=day)
    hypotheses = {
        "entailment": (
            f"{name} is {a(job)}.", f"{name} comes from {city}.", f"{name} {general}.", f"Someone {general} {day}.",
            f"Someone from {city} {past}.", f"{a(job)} {past} {day}.",
        ),
        "neutral": (
            f"{name} wants to {base} again soon.", f"{name} {past} with two friends.", f"{name} has no brothers.",
            f"{name} hopes to visit {others(rng, CITIES, city)[0]} next year.", f"{name} was very tired afterwards.",
            f"{name} {past} because of a promise.",
        ),
        "contradiction": (
            f"{name} did not {base}.", f"{name} has never been to {city}.", f"Nobody {past} {day}.",
            f"{name} is not {a(job)}.", f"No {job} {past} {day}.", f"{name} slept all day long {day}.",
        ),
    }  # fmt: skip
    return premise, sentence(rng.choice(hypotheses[label])), genre


def snli(rng: random.Random, label: str) -> tuple[str, str]:
    """Premise and hypothesis in the manner of picture captions."""
    who, wearing = rng.choice(_PEOPLE), rng.choice(_COLOURS)
    doing, general, impossible, unsaid = rng.choice(_CAPTIONS)
    short = "The " + who.split()[-1]
    hypotheses = {
        "entailment": (f"Someone is {general}.", f"{short} is {general}.", f"{short} is wearing {wearing}."),
        "neutral": (f"{short} is {unsaid}.", f"{short} is waiting for a friend.", f"{short} bought {wearing} today."),
        "contradiction": (f"{short} is {impossible}.", f"{short} is not {doing}.", f"Nobody is {general}."),
    }
    return f"{who} wearing {wearing} is {doing}.", rng.choice(hypotheses[label])


def anli(rng: random.Random, label: str) -> tuple[str, str, str]:
    """Context, hypothesis and the annotator's reason."""
    name, job = full_name(rng), rng.choice(JOBS)
    home, abroad, third = rng.sample(CITIES, 3)
    born, moved = rng.randint(1930, 1960), rng.randint(1970, 1990)
    base, past, general = rng.choice(EVENTS)
    context = (
        f"{name} (born {born}) is {a(job)} from {home}. In {moved} {she(name.split()[0])} moved to {abroad} and stayed "
        f"there for {rng.randint(2, 15)} years. A local newspaper wrote that {she(name.split()[0])} {past} one "
        f"rainy afternoon, and a photograph proves it."
    )
    hypotheses = {
        "entailment": (
            f"{name} was born in {born}.", f"{name} has lived in {abroad}.", f"{name} is {a(job)}.",
            f"{name} {general}.", f"{name} moved to another city in {moved}.",
        ),
        "neutral": (
            f"{name} has a large family.", f"{name} also travelled to {third}.", f"{name} did not like {abroad}.",
            f"{name} {past} every year.", f"{name} hopes to become {a(others(rng, JOBS, job)[0])}.",
        ),
        "contradiction": (
            f"{name} was not born in {born}.", f"{name} has never lived in {abroad}.", f"{name} is not {a(job)}.",
            f"{name} did not {base}.", f"{name} never left {home}.",
        ),
    }  # fmt: skip
    reasons = {
        "entailment": "The context says so.",
        "neutral": "The context does not tell.",
        "contradiction": "The context says the opposite.",
    }
    return context, rng.choice(hypotheses[label]), reasons[label]


def _mnli_splits(seed: int) -> tuple[list[tuple], list[tuple]]:
    rng, taken = stream(seed, "mnli"), set()
    return draw(rng, mnli, LABELS, TRAIN, taken), draw(rng, mnli, LABELS, DEV, taken)


def write_mnli(folder: Path, seed: int) -> None:
    """GLUE's TSV files."""
    for name, raters, examples in zip(("train", "dev_matched"), (1, 5), _mnli_splits(seed), strict=True):
        votes = [f"label{i + 1}" for i in range(raters)]
        parses = [f"sentence{i}_{kind}" for kind in ("binary_parse", "parse") for i in (1, 2)]
        columns = ["index", "promptID", "pairID", "genre", *parses, "sentence1", "sentence2", *votes, "gold_label"]
        rows = [
            {"index": i, "genre": genre, "sentence1": premise, "sentence2": hypothesis, "gold_label": label}
            | {"promptID": f"{i}", "pairID": f"{i}{label[0]}"}
            | dict.fromkeys(votes, label)
            for i, (premise, hypothesis, genre, label) in enumerate(examples)
        ]
        write_tsv(folder / f"{name}.tsv", columns, rows)


def write_anli_plus(folder: Path, seed: int) -> None:
    """ANLI's three rounds, the examples of `write_mnli` as MultiNLI's JSON lines, and SNLI with unlabelled rows."""
    rng, taken = stream(seed, "anli"), set()
    for part in ("R1", "R2", "R3"):
        for split, count in (("train", TRAIN // 3), ("dev", DEV // 3)):
            rows = [
                {"uid": f"{part}-{split}-{i}", "context": context, "hypothesis": hypothesis}
                | {"label": label[0], "model_label": rng.choice("enc"), "emturk": False, "genre": "wiki"}
                | {"reason": reason, "tag": ""}
                for i, (context, hypothesis, reason, label) in enumerate(draw(rng, anli, LABELS, count, taken))
            ]
            write_jsonl(folder / "anli_v1.0" / part / f"{split}.jsonl", rows)
    for name, examples in zip(("train", "dev_matched"), _mnli_splits(seed), strict=True):
        rows = [
            {"annotator_labels": [label], "genre": genre, "gold_label": label, "pairID": f"{i}{label[0]}"}
            | {"promptID": f"{i}", "sentence1": premise, "sentence2": hypothesis}
            for i, (premise, hypothesis, genre, label) in enumerate(examples)
        ]
        write_jsonl(folder / "multinli_1.0" / f"multinli_1.0_{name}.jsonl", rows)
    rng, taken = stream(seed, "snli"), set()
    for split, count, without in (("train", TRAIN, 6), ("dev", DEV, 3)):
        rows = [
            {"annotator_labels": [label], "captionID": f"{i}.jpg#0", "gold_label": "-" if i < without else label}
            | {"pairID": f"{i}.jpg#0r1{label[0]}", "sentence1": premise, "sentence2": hypothesis}
            for i, (premise, hypothesis, label) in enumerate(draw(rng, snli, LABELS, count + without, taken))
        ]
        write_jsonl(folder / "snli_1.0" / f"snli_1.0_{split}.jsonl", rows)
