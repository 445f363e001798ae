"""Reading comprehension: passages from templates, whose filled slots are the answers and give their own offsets."""

from __future__ import annotations

import random
import string
from pathlib import Path

from trainer.sample.files import stream, write_json
from trainer.sample.multilingual import TRAIN_PLACES
from trainer.sample.sentences import ANSWER_SLOTS, Event, ask, distinct_events, paragraph_of
from trainer.sample.words import CITIES, FOODS, JOBS, a, full_name, she

_SHOPS = ("a bakery", "a bookshop", "a bicycle shop", "a flower shop", "a music shop", "a toy shop")
_GOODS = ("wooden toys", "old maps", "fresh bread", "garden tools", "glass bottles", "woollen hats")
_WORKPLACES = ("a hospital", "a theatre", "a printing house", "a shipyard", "a hotel", "a railway station")
_MONTHS = ("January", "March", "April", "June", "July", "September", "October", "December")
_MUSIC = ("brass bands", "folk singers", "a children's choir", "jazz trios", "drum groups", "church organs")
_FESTIVALS = ("Lantern Festival", "Apple Festival", "Harvest Festival", "River Festival", "Kite Festival")
_MUSEUMS = ("Glass Museum", "Clock Museum", "Railway Museum", "Salt Museum", "Island Museum")
_EXHIBITS = ("a golden cup", "a stone lion", "a wooden boat", "a silver crown", "an iron bell")

# passage, answerable questions as slot -> question, questions it leaves open as (question, slot that looks right)
_PASSAGES = (
    (
        "{name} was born in {birthplace} in {birthyear}. After school {who} trained as {job} and worked in {workplace} "
        "for {years} years. In {moveyear} {name} moved to {home} and opened {shop} there. The shop sold {goods} and "
        "had {staff} employees.",
        {
            "birthplace": "Where was {name} born?",
            "birthyear": "In which year was {name} born?",
            "job": "What did {name} train as?",
            "workplace": "Where did {name} work after school?",
            "years": "For how many years did {name} work in {workplace}?",
            "moveyear": "When did {name} move to {home}?",
            "home": "Which city did {name} move to?",
            "shop": "What did {name} open in {home}?",
            "goods": "What did the shop of {name} sell?",
            "staff": "How many employees did the shop have?",
        },
        (
            ("Who married {name}?", "name"),
            ("When did {name} die?", "moveyear"),
            ("Where did {name} spend the holidays?", "birthplace"),
            ("How much money did {name} earn?", "staff"),
            ("When did {name} sell {shop}?", "moveyear"),
        ),
    ),
    (
        "The {festival} is held in {town} every {month}. It was first organised by {founder} in {year}. Visitors come "
        "to taste {food} and to listen to {music}. In the best year the festival had {visitors} guests, and tickets "
        "cost {price} euros.",
        {
            "town": "Where is the {festival} held?",
            "month": "In which month does the {festival} take place?",
            "founder": "Who organised the {festival} first?",
            "year": "When was the {festival} first organised?",
            "food": "What do visitors of the {festival} taste?",
            "music": "Whom do visitors of the {festival} listen to?",
            "visitors": "How many guests did the {festival} have in the best year?",
            "price": "How much did tickets for the {festival} cost?",
        },
        (
            ("Who owns the {festival}?", "founder"),
            ("When was the {festival} forbidden?", "year"),
            ("How many guests were injured at the {festival}?", "visitors"),
            ("In which month is the {festival} planned?", "month"),
        ),
    ),
    (
        "The {museum} stands on the bank of the river in {town}. It was designed by {architect} and opened in {year}. "
        "Its most famous piece is {exhibit}, which {finder} found in {foundyear}. The museum has {rooms} rooms and "
        "belongs to the city.",
        {
            "town": "In which city does the {museum} stand?",
            "architect": "Who designed the {museum}?",
            "year": "When did the {museum} open?",
            "exhibit": "What is the most famous piece of the {museum}?",
            "finder": "Who found {exhibit}?",
            "foundyear": "When was {exhibit} found?",
            "rooms": "How many rooms does the {museum} have?",
        },
        (
            ("Who burgled the {museum}?", "finder"),
            ("When was {exhibit} stolen?", "foundyear"),
            ("How many guards does the {museum} employ?", "rooms"),
            ("When was the {museum} painted?", "year"),
        ),
    ),
)


def _slots(rng: random.Random) -> dict[str, str]:
    founder, finder = full_name(rng), full_name(rng)
    birthplace, home = rng.sample(CITIES, 2)
    return {
        "name": founder, "who": she(founder.split()[0]), "founder": founder, "architect": founder, "finder": finder,
        "birthplace": birthplace, "home": home, "town": home, "job": a(rng.choice(JOBS)),
        "birthyear": str(rng.randint(1850, 1899)), "moveyear": str(rng.randint(1921, 1959)),
        "year": str(rng.randint(1900, 1949)), "foundyear": str(rng.randint(1950, 1999)),
        "workplace": rng.choice(_WORKPLACES), "shop": rng.choice(_SHOPS), "goods": rng.choice(_GOODS),
        "years": str(rng.randint(2, 9)), "staff": str(rng.randint(11, 49)), "month": rng.choice(_MONTHS),
        "food": rng.choice(FOODS), "music": rng.choice(_MUSIC), "festival": rng.choice(_FESTIVALS),
        "museum": rng.choice(_MUSEUMS), "exhibit": rng.choice(_EXHIBITS), "rooms": str(rng.randint(5, 40)),
        "visitors": f"{rng.randint(2, 90)},000", "price": str(rng.randint(3, 20)),
    }  # fmt: skip


def fill(template: str, slots: dict[str, str]) -> tuple[str, dict[str, int]]:
    """The filled template, and where in it each slot begins for the first time."""
    text, starts = "", {}
    for literal, slot, _, _ in string.Formatter().parse(template):
        text += literal
        if slot:
            starts.setdefault(slot, len(text))
            text += slots[slot]
    return text, starts


def event_questions(language: str, events: list[Event], kinds: list[str], prefix: str) -> dict:
    """A SQuAD paragraph about events of the parallel inventory, one question of the given kind for each.

    Returns:
        {"context", "qas", "sentences", "sentence_breaks"}; the last two are XQuAD-R's additions.
    """
    context, breaks, said = paragraph_of(language, events)
    qas = []
    for i, (event, kind, (begin, _), sentence) in enumerate(zip(events, kinds, breaks, said, strict=True)):
        start, end = sentence.spans[ANSWER_SLOTS[kind]]
        answer = {"text": sentence.text[start:end], "answer_start": begin + start}
        qas.append({"answers": [answer], "id": f"{prefix}-{i}", "question": ask(language, kind, event)})
    return {
        "context": context,
        "qas": qas,
        "sentences": [sentence.text for sentence in said],
        "sentence_breaks": [list(pair) for pair in breaks],
    }


def squad_paragraph(paragraph: dict) -> dict:
    return {"context": paragraph["context"], "qas": paragraph["qas"]}


def _passage(rng: random.Random, prefix: str, impossible: int, several: bool) -> dict:
    template, questions, open_questions = rng.choice(_PASSAGES)
    slots = _slots(rng)
    context, starts = fill(template, slots)
    qas = []
    for slot in rng.sample(sorted(questions), 4 - impossible):
        answers = [{"text": slots[slot], "answer_start": starts[slot]}]
        if several:  # annotators differ: the same words, or the preposition as well
            start = starts[slot] - 3 if context[starts[slot] - 3 : starts[slot]] == "in " else starts[slot]
            longer = {"text": context[start : starts[slot] + len(slots[slot])], "answer_start": start}
            answers += [dict(answers[0]), longer]
        qas.append({"question": questions[slot].format(**slots), "answers": answers})
    for question, slot in rng.sample(open_questions, impossible):
        plausible = [{"text": slots[slot], "answer_start": starts[slot]}]
        qas.append({"question": question.format(**slots), "answers": [], "plausible_answers": plausible})
    rng.shuffle(qas)
    return {"context": context, "qas": [{"id": f"{prefix}-{i}", **qa} for i, qa in enumerate(qas)]}


def _articles(rng: random.Random, split: str, articles: int, version2: bool) -> list[dict]:
    data = []
    for i in range(articles):
        paragraphs = []
        for j in range(4):
            prefix = f"{split}-{i}-{j}"
            if j == 3 and split == "train":  # XQuAD's and MLQA's look-alikes are written so
                events = distinct_events(rng, 3, TRAIN_PLACES)
                kinds = rng.sample(sorted(ANSWER_SLOTS), 3)
                paragraphs.append(squad_paragraph(event_questions("en", events, kinds, prefix)))
            else:
                paragraphs.append(_passage(rng, prefix, rng.choice((1, 2)) if version2 else 0, split == "dev"))
        if version2:
            for qa in (qa for paragraph in paragraphs for qa in paragraph["qas"]):
                qa["is_impossible"] = not qa["answers"]
        data.append({"title": f"Sample {split} article {i + 1}", "paragraphs": paragraphs})
    return data


def write_squad(folder: Path, seed: int, version: str) -> None:
    """SQuAD's JSON files of version `1.1` or `2.0`."""
    rng = stream(seed, f"squad-{version}")
    for split, articles in (("train", 24), ("dev", 6)):
        name = f"v{version}" if version == "2.0" else version
        data = _articles(rng, split, articles, version == "2.0")
        write_json(folder / f"{split}-v{version}.json", {"version": name, "data": data})
