"""CCG derivations in CCGbank's AUTO layout, from a small grammar that applies combinatory rules.

A derivation is built bottom-up by application, so every one is well-formed: `forward` checks X/Y Y -> X and `backward`
Y X\\Y -> X. Predicate-argument categories repeat the lexical category without CCGbank's co-indexation.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from trainer.sample.files import DEV, TRAIN, draw, stream, write_lines
from trainer.sample.words import CITIES, NAMES

_PEOPLE = ("baker", "teacher", "horse", "neighbour", "child", "painter", "sailor")
_THINGS = ("letter", "garden", "song", "boat", "house", "picture", "bridge")
_ADJECTIVES = ("old", "small", "quiet", "famous", "strange", "beautiful", "new", "large")
_TRANSITIVE = (("sees", "see", "seen"), ("likes", "like", "liked"), ("paints", "paint", "painted"),
               ("follows", "follow", "followed"), ("remembers", "remember", "remembered"))  # fmt: skip
_INTRANSITIVE = (("sleeps", "sleep", "slept"), ("waits", "wait", "waited"), ("arrives", "arrive", "arrived"))
_DETERMINERS = ("the", "a", "this", "every", "that")
_PREPOSITIONS = ("in", "near", "behind", "with")
_ADVERBS = ("quickly", "often", "again", "here", "today")

_VP = r"S[{}]\NP"
_MODIFIER = r"(S\NP)\(S\NP)"
PATTERNS = ("transitive", "intransitive", "ditransitive", "modal", "perfect", "copula", "clause", "passive")


@dataclass(frozen=True)
class Tree:
    """A node, or a leaf when it has a word."""

    category: str
    children: tuple[Tree, ...] = ()
    head: int = 0
    word: str = ""
    tag: str = ""

    def auto(self) -> str:
        if self.word:
            return f"(<L {self.category} {self.tag} {self.tag} {self.word} {self.category}>)"
        inner = " ".join(child.auto() for child in self.children)
        return f"(<T {self.category} {self.head} {len(self.children)}> {inner} )"


def _argument(category: str, slash: str) -> tuple[str, str]:
    """Result and argument of a functor category, its outermost slash being the last one outside brackets."""
    depth = 0
    for i in range(len(category) - 1, -1, -1):
        depth += (category[i] in ")]") - (category[i] in "([")
        if depth == 0 and category[i] in "/\\":
            if category[i] != slash:
                break
            return _bare(category[:i]), _bare(category[i + 1 :])
    raise ValueError(f"{category} takes no argument by {slash}")


def _bare(category: str) -> str:
    return category[1:-1] if category.startswith("(") and category.endswith(")") else category


def _matches(wanted: str, given: str) -> bool:
    """Whether the categories are equal where both have features."""
    plain = [part.replace("[nb]", "") for part in (wanted, given)]
    if "[" not in wanted:
        plain = [_featureless(part) for part in plain]
    return plain[0] == plain[1]


def _featureless(category: str) -> str:
    for feature in ("dcl", "b", "pt", "pss", "adj", "em", "nb"):
        category = category.replace(f"[{feature}]", "")
    return category


def forward(functor: Tree, argument: Tree, head: int = 0) -> Tree:
    """X/Y Y -> X. Raises ValueError if the argument is of another category."""
    result, wanted = _argument(functor.category, "/")
    if not _matches(wanted, argument.category):
        raise ValueError(f"{functor.category} does not apply to {argument.category}")
    return Tree(result, (functor, argument), head)


def backward(argument: Tree, functor: Tree, head: int = 1) -> Tree:
    """Y X\\Y -> X; a modifier passes its argument's features on. Raises ValueError as `forward`."""
    result, wanted = _argument(functor.category, "\\")
    if not _matches(wanted, argument.category):
        raise ValueError(f"{functor.category} does not apply to {argument.category}")
    modifies = result == wanted
    return Tree(argument.category if modifies else result, (argument, functor), 0 if modifies else head)


def leaf(category: str, tag: str, word: str) -> Tree:
    return Tree(category, word=word, tag=tag)


def _noun_phrase(rng: random.Random, depth: int = 0, nouns: tuple[str, ...] = _PEOPLE) -> Tree:
    kind = rng.random()
    if kind < 0.4:
        return Tree("NP", (leaf("N", "NNP", rng.choice(NAMES)),))
    noun = leaf("N", "NN", rng.choice(nouns))
    if rng.random() < 0.4:
        noun = forward(leaf("N/N", "JJ", rng.choice(_ADJECTIVES)), noun, head=1)
    phrase = forward(leaf("NP[nb]/N", "DT", rng.choice(_DETERMINERS)), noun, head=1)
    if depth or kind < 0.75:
        return phrase
    if kind < 0.88:
        preposition = leaf(r"(NP\NP)/NP", "IN", rng.choice(_PREPOSITIONS))
        return backward(phrase, forward(preposition, _noun_phrase(rng, depth + 1)))
    relative = leaf(r"(NP\NP)/(S[dcl]\NP)", "WDT", "that")
    return backward(phrase, forward(relative, _transitive(rng, "dcl", depth + 1)))


def _transitive(rng: random.Random, form: str, depth: int = 0) -> Tree:
    verb = rng.choice(_TRANSITIVE)["dcl b pt".split().index(form)]
    tag = dict(dcl="VBZ", b="VB", pt="VBN")[form]
    return forward(leaf(rf"({_VP.format(form)})/NP", tag, verb), _noun_phrase(rng, depth, _PEOPLE + _THINGS))


def _intransitive(rng: random.Random, form: str) -> Tree:
    verb = rng.choice(_INTRANSITIVE)["dcl b pt".split().index(form)]
    phrase = leaf(_VP.format(form), dict(dcl="VBZ", b="VB", pt="VBN")[form], verb)
    if rng.random() < 0.5:
        return backward(phrase, leaf(_MODIFIER, "RB", rng.choice(_ADVERBS)))
    preposition = leaf(rf"({_MODIFIER})/NP", "IN", rng.choice(_PREPOSITIONS))
    return backward(phrase, forward(preposition, Tree("NP", (leaf("N", "NNP", rng.choice(CITIES)),))))


def _verb_phrase(rng: random.Random, pattern: str) -> Tree:
    if pattern == "transitive":
        return _transitive(rng, "dcl")
    if pattern == "intransitive":
        return _intransitive(rng, "dcl")
    if pattern == "ditransitive":
        verb = leaf(rf"(({_VP.format('dcl')})/NP)/NP", "VBZ", rng.choice(("gives", "shows", "sells")))
        return forward(forward(verb, _noun_phrase(rng, 1)), _noun_phrase(rng, 1, _THINGS))
    if pattern == "modal":
        verb = leaf(rf"({_VP.format('dcl')})/({_VP.format('b')})", "MD", rng.choice(("can", "will", "must")))
        return forward(verb, rng.choice((_intransitive, _transitive))(rng, "b"))
    if pattern == "perfect":
        verb = leaf(rf"({_VP.format('dcl')})/({_VP.format('pt')})", "VBZ", "has")
        return forward(verb, rng.choice((_intransitive, _transitive))(rng, "pt"))
    if pattern == "copula":
        verb = leaf(rf"({_VP.format('dcl')})/({_VP.format('adj')})", "VBZ", "is")
        return forward(verb, leaf(_VP.format("adj"), "JJ", rng.choice(_ADJECTIVES)))
    if pattern == "clause":
        verb = leaf(rf"({_VP.format('dcl')})/S[em]", "VBZ", rng.choice(("says", "thinks", "knows")))
        inner = backward(_noun_phrase(rng, 1), _verb_phrase(rng, rng.choice(PATTERNS[:2])))
        return forward(verb, forward(leaf("S[em]/S[dcl]", "IN", "that"), inner))
    verb = leaf(rf"({_VP.format('dcl')})/({_VP.format('pss')})", "VBZ", "is")
    participle = leaf(_VP.format("pss"), "VBN", rng.choice(_TRANSITIVE)[2])
    agent = forward(leaf(rf"({_MODIFIER})/NP", "IN", "by"), _noun_phrase(rng, 1))
    return forward(verb, backward(participle, agent))


def derivation(rng: random.Random, pattern: str) -> tuple[str]:
    """One sentence's derivation as a line of an AUTO file."""
    clause = backward(_noun_phrase(rng), _verb_phrase(rng, pattern))
    return (Tree("S[dcl]", (clause, leaf(".", ".", "."))).auto(),)


def write_ccg(folder: Path, seed: int) -> None:
    rng, taken = stream(seed, "ccg"), set()
    for split, count in (("train", TRAIN), ("dev", DEV)):
        lines = []
        for i, (line, _) in enumerate(draw(rng, derivation, PATTERNS, count, taken)):
            lines += [f"ID={split}_0001.{i + 1} PARSER=GOLD NUMPARSE=1", line]
        write_lines(folder / f"{split}.auto", lines)
