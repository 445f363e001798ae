"""Duplicate questions: two wordings of one intent about one topic; or another topic, another intent, or both."""

from __future__ import annotations

import random
from pathlib import Path

from trainer.sample.files import DEV, TRAIN, draw, others, stream, write_tsv
from trainer.sample.words import ANIMALS, CITIES, SUBJECT_LANGUAGES, a

_AN_ANIMAL = tuple(map(a, ANIMALS))

# topics, then wordings of one intent
INTENTS = (
    (SUBJECT_LANGUAGES, ("How can I learn {} quickly?", "What is the fastest way to learn {}?",
                         "How do I learn {} in a short time?", "Is there a quick way to study {}?")),
    (SUBJECT_LANGUAGES, ("How many people speak {}?", "What is the number of speakers of {}?",
                         "How large is the number of people who speak {}?", "By how many people is {} spoken?")),
    (CITIES, ("How much does a flight to {} cost?", "What is the price of a flight to {}?",
              "How expensive are plane tickets to {}?", "What do I pay for a plane ticket to {}?")),
    (CITIES, ("What should I eat in {}?", "Which dishes are worth trying in {}?",
              "What is the best food in {}?", "Which local food should I try in {}?")),
    (_AN_ANIMAL, ("How long does {} live?", "What is the lifespan of {}?",
                  "How old can {} get?", "What age does {} usually reach?")),
    (_AN_ANIMAL, ("What does {} eat?", "What is the right food for {}?",
                  "What should I feed {}?", "Which food is healthy for {}?")),
)  # fmt: skip


def qqp(rng: random.Random, label: int) -> tuple[str, str]:
    """Two questions; label 1: they ask the same."""
    intent = rng.choice(INTENTS)
    topics, wordings = intent
    topic = rng.choice(topics)
    first, second = rng.sample(wordings, 2)
    if label:
        return first.format(topic), second.format(topic)
    chance = rng.random()
    if chance < 0.2:
        return first.format(topic), second.format(others(rng, topics, topic)[0])
    related = [other for other in INTENTS if other[0] is topics and other is not intent]
    if chance < 0.5:
        return first.format(topic), rng.choice(rng.choice(related)[1]).format(topic)
    other_topics, other_wordings = rng.choice([other for other in INTENTS if other[0] is not topics])
    return first.format(topic), rng.choice(other_wordings).format(rng.choice(other_topics))


def write_qqp(folder: Path, seed: int) -> None:
    """GLUE's TSV files."""
    rng, taken, number = stream(seed, "qqp"), set(), 0
    for split, count in (("train", TRAIN), ("dev", DEV)):
        rows = []
        for first, second, label in draw(rng, qqp, (0, 1), count, taken):
            rows.append({"id": number, "qid1": 2 * number + 1, "qid2": 2 * number + 2, "is_duplicate": label})
            rows[-1] |= {"question1": first, "question2": second}
            number += 1
        write_tsv(folder / f"{split}.tsv", ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"), rows)
