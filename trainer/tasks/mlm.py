"""Masked language modelling on plain text in many languages, X-STILTs' alternative to English-only training.

`mlm` reads English, `mlm-de` German, and so on; all share one head and, in a mixture, one task's rate. Files lie in
`data.folder`/mlm/, one document or sentence a line. From the hub comes Wikipedia, whose articles are in the order in
which they were begun: 100,000 of them at most, behind the 500 of the dev split.
"""

from __future__ import annotations

from trainer.tasks.spec import HubPart, Task

WIKIPEDIA, SNAPSHOT = "wikimedia/wikipedia", "20231101.{language}"


def _files(*stems: str) -> tuple[tuple[str, ...], ...]:
    return (tuple(f"{stem}.{suffix}" for stem in stems for suffix in ("txt", "jsonl")),)


MLM = Task(
    name="mlm",
    format="masked_lm",
    columns={"text": ("text",)},
    files={
        "train": _files("{language}", "{language}.train", "train-{language}", "{language}/train"),
        "dev": _files("{language}.dev", "{language}.valid", "dev-{language}", "{language}/dev"),
    },
    hub={
        "train": (HubPart(WIKIPEDIA, "train[500:100500]", SNAPSHOT),),
        "dev": (HubPart(WIKIPEDIA, "train[:500]", SNAPSHOT),),
    },
)

# XNLI's, PAWS-X's and TyDi QA's languages, and three more with large Wikipedias. (That the paper took 24 is a
# recollection, which ones it took is not known to us.)
LANGUAGES = tuple("en ar bg bn de el es fi fr hi id it ja ko nl pt ru sw te th tr ur vi zh".split())

TASKS = {MLM.name: MLM}
