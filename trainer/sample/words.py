"""English words that several of the sample's grammars share."""

from __future__ import annotations

import random

WOMEN = ("Anna", "Maria", "Laura", "Sofia", "Elena", "Clara", "Julia", "Nina", "Eva", "Irene", "Sara", "Alice")
MEN = ("Peter", "Thomas", "David", "Daniel", "Martin", "Simon", "Oscar", "Paul", "Victor", "Adam", "Leo", "Felix")
NAMES = WOMEN + MEN
SURNAMES = (
    "Weber", "Silva", "Novak", "Rossi", "Moreau", "Meyer", "Hansen", "Kowalski", "Brown", "Garcia", "Tanaka", "Okafor",
)  # fmt: skip
CITIES = (
    "Berlin", "Madrid", "Paris", "Rome", "London", "Moscow", "Nairobi", "Istanbul", "Tokyo", "Beijing", "Vienna",
    "Lisbon", "Oslo", "Cairo", "Dublin", "Prague",
)  # fmt: skip
JOBS = (
    "nurse", "baker", "teacher", "carpenter", "farmer", "pilot", "painter", "tailor", "sailor", "librarian", "plumber",
    "gardener", "dentist", "engineer", "actor", "astronomer",
)  # fmt: skip
ANIMALS = ("cat", "dog", "horse", "rabbit", "parrot", "goat", "turtle", "hamster", "goldfish", "sheep")
FOODS = ("lentil soup", "apple pie", "brown rice", "fish stew", "potato salad", "corn bread", "rice pudding")
SUBJECT_LANGUAGES = ("French", "Swahili", "Turkish", "Russian", "Spanish", "German", "Chinese", "Arabic")

# what somebody does: base form, past tense, and a more general past tense that follows from it
EVENTS = (
    ("buy a loaf of bread", "bought a loaf of bread", "bought some food"),
    ("repair an old bicycle", "repaired an old bicycle", "repaired something"),
    ("paint the garden fence", "painted the garden fence", "painted something"),
    ("cook a pot of soup", "cooked a pot of soup", "made some food"),
    ("write a long letter", "wrote a long letter", "wrote something"),
    ("play the violin", "played the violin", "made music"),
    ("plant three apple trees", "planted three apple trees", "planted some trees"),
    ("read a thick novel", "read a thick novel", "read a book"),
    ("wash a small dog", "washed a small dog", "washed an animal"),
    ("drive a yellow bus", "drove a yellow bus", "drove a vehicle"),
    ("catch two big fish", "caught two big fish", "caught some fish"),
    ("sell a wooden table", "sold a wooden table", "sold some furniture"),
    ("build a stone wall", "built a stone wall", "built something"),
    ("teach a class of children", "taught a class of children", "taught some children"),
    ("climb a steep hill", "climbed a steep hill", "climbed a hill"),
    ("lose a silver ring", "lost a silver ring", "lost some jewellery"),
)
DAYS = ("yesterday", "on Monday", "on Tuesday", "on Wednesday", "on Thursday", "on Friday", "on the first of May")


def a(noun: str) -> str:
    """The noun with its indefinite article: `a baker`, `an actor`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def she(name: str) -> str:
    return "she" if name in WOMEN else "he"


def full_name(rng: random.Random) -> str:
    return f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[0].upper() + text[1:]
