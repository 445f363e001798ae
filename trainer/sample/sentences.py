"""Sentences of the parallel inventory: words with part of speech and entity, and where each part lies in the text."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace

from trainer.sample.files import others
from trainer.sample.multilingual import (
    ACTIONS,
    AND,
    COMPANIES,
    NAMES,
    OBJECTS,
    ORDERS,
    PLACES,
    PREDICATES,
    QUESTIONS,
    SURNAMES,
    TIMES,
    VERBS,
)

_VOWELS = "aeiouéèêAEIOUÉ"
_FULL_STOP = {"zh": "。"}


@dataclass(frozen=True)
class Word:
    form: str
    tag: str
    slot: str = ""  # the slot of the word order it fills, if any
    entity: str = "O"


@dataclass(frozen=True)
class Event:
    """Who does what, where and when: indices into the inventory's tables, so that it can be said in any language."""

    name: int
    action: tuple[str, str]
    place: int
    time: int
    surname: int | None = None
    company: int = 0
    predicate: int = 0


@dataclass
class Sentence:
    """A sentence in one language.

    Attributes:
        glued: whether each word follows the one before without a space.
        spans: slot -> (start, end) characters within `text`; for the place, the city alone.
    """

    words: list[Word]
    glued: list[bool]
    text: str
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)


def random_event(rng: random.Random, places: list[dict] = PLACES) -> Event:
    """An event in one of the given rows of `PLACES`; surname, company and predicate are the caller's to vary."""
    return Event(
        name=rng.randrange(len(NAMES)),
        action=rng.choice(ACTIONS),
        place=PLACES.index(rng.choice(places)),
        time=rng.randrange(len(TIMES)),
    )


def say(language: str, order: str, event: Event) -> Sentence:
    """The event in the given word order (a key of `ORDERS`), as a sentence with a full stop."""
    return assemble(language, _words(language, order, event))


def say_both(language: str, first: Event, second: Event) -> Sentence:
    """The short forms of two events joined by `and`."""
    conjunction = _cell(AND[language], "CCONJ", "")
    return assemble(language, _words(language, "short", first) + conjunction + _words(language, "short", second))


def assemble(language: str, words: list[Word]) -> Sentence:
    """Words as running text: elision, capital, full stop, spaces."""
    if language == "fr":
        words = _elide(words)
    first = words[0]
    words = [replace(first, form=first.form[0].upper() + first.form[1:]), *words[1:]]
    words.append(Word(_FULL_STOP.get(language, "."), "PUNCT"))
    text, glued, spans = "", [], {}
    for before, word in zip([None, *words], words, strict=False):
        joined = before is None or language == "zh" or word.tag == "PUNCT" or before.form.endswith("'")
        glued.append(joined)
        text += word.form if joined else f" {word.form}"
        slot = word.slot
        if slot and not (slot == "P" and word.tag != "PROPN"):
            end = len(text)
            spans[slot] = (spans.get(slot, (end - len(word.form),))[0], end)
    return Sentence(words, glued, text, spans)


def _words(language: str, order: str, event: Event) -> list[Word]:
    verb, thing = event.action
    forms = VERBS[verb][language].split(",")
    words = []
    for part in ORDERS[order][language].split():
        if part == "N":
            words += _person(language, event)
        elif part[0] == "V":
            number = int(part[1:] or 0)
            words.append(Word(forms[min(number, len(forms) - 1)] if number else forms[0], "VERB", "V"))
        elif part == "O":
            words += _cell(OBJECTS[thing][language], "NOUN", "O")
        elif part == "-O":  # without article or measure word: "jamais de pain", "从不读书"
            bare = _cell(OBJECTS[thing][language], "NOUN", "O")[-1:]
            words += [Word("de", "ADP", "O"), *bare] if language == "fr" else bare
        elif part == "P":
            words += [
                replace(word, entity="B-LOC" if word.tag == "PROPN" else "O")
                for word in _cell(PLACES[event.place][language], "PROPN", "P")
            ]
        elif part == "T":
            words += _cell(TIMES[event.time][language], "NOUN", "T")
        elif part == "X":
            words += _cell(PREDICATES[event.predicate][language], "VERB", "X")
        elif part == "C":
            words.append(Word(COMPANIES[event.company][language], "PROPN", "C", "B-ORG"))
        else:
            words += _cell(part, "", "")
    return words


def _person(language: str, event: Event) -> list[Word]:
    words = [Word(NAMES[event.name][language], "PROPN", "N", "B-PER")]
    if event.surname is not None:
        if language == "zh":
            words.append(Word("·", "PUNCT", "N", "I-PER"))
        words.append(Word(SURNAMES[event.surname][language], "PROPN", "N", "I-PER"))
    return words


def _cell(cell: str, usual: str, slot: str) -> list[Word]:
    parts = [part.partition("/") for part in cell.split()]
    return [Word(form, tag or usual, slot) for form, _, tag in parts]


def _elide(words: list[Word]) -> list[Word]:
    following = [word.form[0] for word in words[1:]] + [" "]
    return [
        replace(word, form=word.form[:-1] + "'") if word.form in ("ne", "de") and after in _VOWELS else word
        for word, after in zip(words, following, strict=True)
    ]


def ask(language: str, kind: str, event: Event) -> str:
    """A question about the event: who, what, where or when."""
    said = say(language, "short", event)
    parts = {slot: said.text[start:end] for slot, (start, end) in said.spans.items()}
    question = QUESTIONS[kind][language].format(**parts, B=event.action[0])
    return re.sub(rf"\bque (?=[{_VOWELS}])", "qu'", question) if language == "fr" else question


ANSWER_SLOTS = {"who": "N", "what": "O", "where": "P", "when": "T"}


def paragraph_of(language: str, events: list[Event]) -> tuple[str, list[tuple[int, int]], list[Sentence]]:
    """Text of consecutive events, each sentence's (start, end) characters, and the sentences."""
    text, breaks, sentences = "", [], []
    for event in events:
        said = say(language, "event", event)
        if text and language != "zh":
            text += " "
        breaks.append((len(text), len(text) + len(said.text)))
        text += said.text
        sentences.append(said)
    return text, breaks, sentences


def distinct_events(rng: random.Random, count: int, places: list[dict]) -> list[Event]:
    """Events that share no person, action, place or time, so that questions about them have one answer."""
    events = [random_event(rng, places) for _ in range(count)]
    columns = (
        rng.sample(range(len(NAMES)), count),
        rng.sample(ACTIONS, count),
        rng.sample([PLACES.index(place) for place in places], count),
        rng.sample(range(len(TIMES)), count),
    )
    return [
        replace(event, name=name, action=action, place=place, time=time)
        for event, name, action, place, time in zip(events, *columns, strict=True)
    ]


def infer(rng: random.Random, label: str, places: list[dict]) -> tuple[Event, str, Event]:
    """A premise's event, and the word order and event of a hypothesis with the given label."""
    event = random_event(rng, places)
    if label == "entailment":
        return event, rng.choice(("short", "someone")), event
    if label == "contradiction":
        return event, rng.choice(("never", "nobody", "never there")), event
    if rng.random() < 0.3:  # something else the same person may do
        return event, "short", replace(event, action=others(rng, ACTIONS, event.action)[0])
    return event, "predicate", replace(event, predicate=rng.randrange(len(PREDICATES)))


def inference(language: str, rng: random.Random, label: str, places: list[dict]) -> tuple[str, str]:
    """Premise and hypothesis in one language."""
    event, order, about = infer(rng, label, places)
    return say(language, "event", event).text, say(language, order, about).text
