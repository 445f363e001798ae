"""Plain text in the sample's eight languages, for masked language modelling."""

from __future__ import annotations

import random
from pathlib import Path

from trainer.sample.files import TRAIN, draw, stream, write_lines
from trainer.sample.multilingual import LANGUAGES, TRAIN_PLACES
from trainer.sample.sentences import distinct_events, paragraph_of

DEV_DOCUMENTS = 30  # a language


def write_mlm(folder: Path, seed: int) -> None:
    """A document a line, from one sentence to four; each language has text of its own, and less than the one before."""
    for rank, language in enumerate(LANGUAGES, 1):
        rng, taken = stream(seed, f"mlm-{language}"), set()

        def document(rng: random.Random, sentences: int, language: str = language) -> tuple[str]:
            return (paragraph_of(language, distinct_events(rng, sentences, TRAIN_PLACES))[0],)

        for name, count in ((language, TRAIN // rank), (f"{language}.dev", DEV_DOCUMENTS)):
            drawn = draw(rng, document, (1, 2, 3, 4), count, taken)
            write_lines(folder / f"{name}.txt", [text for text, _ in drawn])
