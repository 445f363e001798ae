"""Multiple choice: HellaSwag, Cosmos QA and CommonsenseQA look-alikes with one sensible option each.

Half of the wrong options are sensible elsewhere, so that only the prompt rules them out; the others nowhere.
"""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

from trainer.sample.files import DEV, TRAIN, draw, others, place, stream, write_jsonl, write_text
from trainer.sample.words import NAMES, she

_WHO = (("A woman", "she"), ("A man", "he"), ("A girl", "she"), ("A boy", "he"), ("An old man", "he"),
        ("A young woman", "she"), ("A tall man", "he"), ("A grandmother", "she"))  # fmt: skip

# activity, first sentences, sensible endings
_ACTIVITIES = (
    ("Washing dishes", ("{} is standing at a sink full of dirty plates.", "{} fills a sink with hot water and plates."),
     ("rubs a plate with a sponge.", "rinses the plates and dries them.", "puts soap on a dirty plate.")),
    ("Baking a cake", ("{} is mixing flour and eggs in a bowl.", "{} pours cake dough into a tin."),
     ("puts the cake tin into the oven.", "adds sugar to the dough.", "waits until the cake is brown.")),
    ("Playing football", ("{} is running over a field with a ball.", "{} stands in front of a goal with a ball."),
     ("kicks the ball into the goal.", "passes the ball to a team mate.", "shoots at the goal and scores.")),
    ("Cutting hair", ("{} is sitting in a barber's chair.", "{} sits down in front of the barber's mirror."),
     ("watches the barber cut the hair.", "looks at the new haircut.", "asks the barber for shorter hair.")),
    ("Painting a wall", ("{} opens a tin of white paint.", "{} is standing in front of a wall with a brush."),
     ("dips the brush into the paint.", "covers the wall with white paint.", "paints the wall from top to bottom.")),
    ("Riding a bicycle", ("{} is pumping up the tyre of a bicycle.", "{} gets on a bicycle and puts on a helmet."),
     ("rides the bicycle down the road.", "starts to pedal along the road.", "pedals up a small hill.")),
    ("Gardening", ("{} is digging a hole in the garden.", "{} carries a small plant into the garden."),
     ("puts the plant into the earth.", "waters the plant in the hole.", "presses the earth around the plant.")),
    ("Playing the piano", ("{} sits down at a piano.", "{} opens a piano and a book of music."),
     ("presses the keys and plays a song.", "plays the song from the music book.", "moves both hands over the keys.")),
    ("Fishing", ("{} is sitting by a lake with a rod.", "{} throws a line into the lake."),
     ("pulls a fish out of the lake.", "waits for a fish to bite.", "puts a worm on the hook.")),
    ("Walking the dog", ("{} puts a lead on a dog.", "{} is walking a dog in the park."),
     ("throws a stick for the dog.", "lets the dog run in the park.", "pulls the dog away from a cat.")),
    ("Shining shoes", ("{} is holding a pair of dirty shoes.", "{} takes a brush and a pair of shoes."),
     ("brushes the dust off the shoes.", "polishes the shoes with a cloth.", "puts black cream on the shoes.")),
    ("Building a snowman", ("{} is rolling a big ball of snow.", "{} puts one ball of snow on another."),
     ("gives the snowman a carrot nose.", "puts a hat on the snowman.", "rolls a smaller snowball for the head.")),
)  # fmt: skip
_ABSURD = (
    "eats the whole street for breakfast.", "turns into a cloud of numbers.", "folds the ocean into a pocket.",
    "melts the moon with a spoon.", "sings to the roof until it walks away.", "swallows a mountain and a bridge.",
    "reads the wind backwards to a stone.", "puts the sun into a drawer.", "drinks a house made of paper.",
    "marries the number seven.", "sells the sky to a chair.", "flies home through a keyhole.",
)  # fmt: skip

# what somebody tells, a question, sensible answers
_SITUATIONS = (
    ("{name} left the house without a coat. It began to snow and the bus was late.", "What will {name} probably feel ?",
     ("very cold .", "freezing in the snow .")),
    ("{name} forgot to set the alarm clock. When {she} woke up it was already ten.",
     "What may happen to {name} today ?",
     ("arriving late at work .", "missing the first meeting .")),
    ("{name} trained every day for a year. Last Sunday {she} crossed the line before all other runners.",
     "How does {name} probably feel now ?", ("proud of winning the race .", "happy about the victory .")),
    ("{name} found a wallet in the street. There was a name and a telephone number in it.", "What may {name} do next ?",
     ("call the owner of the wallet .", "give the wallet back .")),
    ("{name} ate three plates of fish that smelled strange. In the night {she} could not sleep.",
     "Why could {name} not sleep ?", ("because of a stomach ache .", "because the fish was bad .")),
    ("The cat of {name} did not come home for two days. {name} put up pictures of it in every street.",
     "Why did {name} put up the pictures ?", ("to find the lost cat .", "to ask people about the cat .")),
    ("{name} bought flowers and a card. Tomorrow the mother of {name} turns sixty.", "What are the flowers for ?",
     ("a birthday present .", "congratulating the mother .")),
    ("The phone of {name} fell into the river. {name} had planned to call a friend that evening.",
     "What is true about the evening ?", ("there was no call .", "the friend waited for a call in vain .")),
    ("{name} moved to a new city and knows nobody there. On Friday {she} joined a dancing class.",
     "Why did {name} join the class ?", ("to meet new people .", "to make friends in the city .")),
    ("The car of {name} made a loud noise and stopped. {name} was far away from the next village.",
     "What may {name} need ?", ("a mechanic to repair the car .", "help with the broken car .")),
    ("{name} watered the tomatoes every evening. In August they were big and red.", "What may {name} do now ?",
     ("pick the ripe tomatoes .", "make a tomato salad .")),
    ("{name} lent a book to a neighbour a year ago. Yesterday {she} rang at the neighbour's door.",
     "What may {name} have asked for ?", ("getting the book back .", "the book from last year .")),
)  # fmt: skip
_ABSURD_ANSWERS = (
    "a contract with the moon .", "to teach stones to dance .", "because clouds are made of iron .",
    "a suitcase full of silence .", "to paint the wind green .", "because spoons can vote .",
    "a ladder down to yesterday .", "to sell the letter k .", "because fish drive trains .",
)  # fmt: skip
NONE_OF_THEM = "None of the above choices ."

# stems, then thing: answer; answers belong to one thing only
_FACTS = (
    (("Where would you keep {}?", "Where does {} usually belong?", "What is the usual place of {}?"), {
        "fresh milk": "refrigerator", "a winter coat": "wardrobe", "a parked car": "garage", "a spare pillow": "bed",
        "money that earns interest": "bank", "a toothbrush": "bathroom", "a load of dirty plates": "dishwasher",
        "coins for the shop": "purse", "the mail": "letter box", "a novel": "bookshelf",
    }),
    (("What do you need in order to {}?", "What would somebody use to {}?", "What helps people to {}?"), {
        "cut paper": "scissors", "drive in a nail": "hammer", "see the stars": "telescope", "write a note": "pencil",
        "sweep the floor": "broom", "open a locked door": "key", "sew a button": "needle", "eat soup": "spoon",
        "measure the heat": "thermometer", "cross a river": "boat",
    }),
    (("Who would you ask to {}?", "Whose job is it to {}?", "Who is trained to {}?"), {
        "pull a tooth": "dentist", "bake rolls": "baker", "fly a plane": "pilot", "teach children": "teacher",
        "put out a fire": "firefighter", "repair a water pipe": "plumber", "milk cows": "farmer",
        "sew a suit": "tailor", "defend the accused": "lawyer", "cut hair": "barber",
    }),
    (("Which animal {}?", "What kind of animal {}?", "What do you call the animal that {}?"), {
        "barks at strangers": "dog", "gives wool": "sheep", "makes honey": "bee", "has a very long neck": "giraffe",
        "carries its house": "snail", "hunts mice in the house": "cat", "spins a web": "spider",
        "lays eggs for us": "hen", "has a trunk": "elephant", "lives in the sea and has eight arms": "octopus",
    }),
    (("How would somebody feel after {}?", "What mood follows {}?", "What does one feel after {}?"), {
        "winning a prize": "joy", "losing a friend": "grief", "a day without food": "hunger",
        "a night without sleep": "tiredness", "seeing a ghost": "fear", "telling a lie": "guilt",
        "a very dull lecture": "boredom", "being insulted": "anger", "eating very salty fish": "thirst",
    }),
)  # fmt: skip


def _wrong(rng: random.Random, elsewhere: list[str], absurd: tuple[str, ...]) -> list[str]:
    """Three wrong options: one or two that suit another prompt, the rest absurd."""
    count = rng.choice((1, 2))
    return rng.sample(elsewhere, count) + rng.sample(absurd, 3 - count)


def hellaswag(rng: random.Random, label: int) -> tuple[str, str, str, tuple[str, ...]]:
    """Activity, first sentence, beginning of the second, endings."""
    who, pronoun = rng.choice(_WHO)
    activity, contexts, endings = rng.choice(_ACTIVITIES)
    elsewhere = [end for name, _, ends in _ACTIVITIES if name != activity for end in ends]
    options = place(rng, rng.choice(endings), _wrong(rng, elsewhere, _ABSURD), label)
    return activity, rng.choice(contexts).format(who), pronoun, options


def cosmos(rng: random.Random, label: int) -> tuple[str, str, tuple[str, ...]]:
    """Context, question, answers; in some, none of the first answers suits and an option says so."""
    name = rng.choice(NAMES)
    story, question, answers = rng.choice(_SITUATIONS)
    context = story.format(name=name, she=she(name))
    elsewhere = [answer for told, _, rest in _SITUATIONS if told != story for answer in rest]
    wrong = _wrong(rng, elsewhere, _ABSURD_ANSWERS)
    right = rng.choice(answers)
    chance = rng.random()
    if chance < 0.1:
        right = NONE_OF_THEM
    elif chance < 0.2:
        wrong[-1] = NONE_OF_THEM
    return context, question.format(name=name), place(rng, right, wrong, label)


def commonsense(rng: random.Random, label: str) -> tuple[str, str, tuple[str, ...]]:
    """Question, the thing it asks about, answers."""
    kind = rng.choice(_FACTS)
    stems, facts = kind
    thing = rng.choice(sorted(facts))
    same = others(rng, sorted(facts.values()), facts[thing], count=2)
    elsewhere = sorted(answer for other in _FACTS if other is not kind for answer in other[1].values())
    options = place(rng, facts[thing], same + rng.sample(elsewhere, 2), "ABCDE".index(label))
    return rng.choice(stems).format(thing), thing, options


def write_hellaswag(folder: Path, seed: int) -> None:
    rng, taken = stream(seed, "hellaswag"), set()
    for split, count in (("train", TRAIN), ("val", DEV)):
        rows = [
            {"ind": i, "activity_label": activity, "ctx_a": first, "ctx_b": begun, "ctx": f"{first} {begun}"}
            | {"split": split, "split_type": "indomain", "label": label, "endings": list(endings)}
            | {"source_id": f"activitynet~v_sample{i}"}
            for i, (activity, first, begun, endings, label) in enumerate(draw(rng, hellaswag, range(4), count, taken))
        ]
        write_jsonl(folder / f"hellaswag_{split}.jsonl", rows)


def write_cosmos_qa(folder: Path, seed: int) -> None:
    rng, taken = stream(seed, "cosmos_qa"), set()
    for split, count in (("train", TRAIN), ("valid", DEV)):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("id", "context", "question", "answer0", "answer1", "answer2", "answer3", "label"))
        for i, (context, question, answers, label) in enumerate(draw(rng, cosmos, range(4), count, taken)):
            writer.writerow((f"{split}-{i}", context, question, *answers, label))
        write_text(folder / f"{split}.csv", text.getvalue())


def write_commonsense_qa(folder: Path, seed: int) -> None:
    rng, taken = stream(seed, "commonsense_qa"), set()
    for split, count in (("train", TRAIN), ("dev", DEV)):
        rows = []
        for i, (stem, concept, answers, label) in enumerate(draw(rng, commonsense, "ABCDE", count, taken)):
            choices = [{"label": letter, "text": text} for letter, text in zip("ABCDE", answers, strict=True)]
            question = {"question_concept": concept, "choices": choices, "stem": stem}
            rows.append({"answerKey": label, "id": f"{split}-{i}", "question": question})
        write_jsonl(folder / f"{split}_rand_split.jsonl", rows)
