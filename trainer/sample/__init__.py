"""The built-in sample: small data sets of every task, written by this project, in the tasks' original file layouts.

Hand-written grammars (templates with typed slots) make the sentences, so that they are correct, their labels hold by
construction, and nothing has to be downloaded or licensed. They are far simpler than the real tasks and repeat
themselves: the sample shows that the machine works, not that the method does.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from trainer.sample.choice import write_commonsense_qa, write_cosmos_qa, write_hellaswag
from trainer.sample.files import write_text
from trainer.sample.nli import write_anli_plus, write_mnli
from trainer.sample.qqp import write_qqp
from trainer.sample.reading import write_squad
from trainer.sample.supertags import write_ccg
from trainer.sample.targets import (
    write_bucc2018,
    write_lareqa,
    write_mlqa,
    write_panx,
    write_pawsx,
    write_tatoeba,
    write_tydiqa,
    write_udpos,
    write_xcopa,
    write_xnli,
    write_xquad,
)
from trainer.sample.text import write_mlm

WRITERS = {  # task -> writes its folder
    "anli_plus": write_anli_plus,
    "mnli": write_mnli,
    "qqp": write_qqp,
    "squad_v1": partial(write_squad, version="1.1"),
    "squad_v2": partial(write_squad, version="2.0"),
    "hellaswag": write_hellaswag,
    "ccg": write_ccg,
    "cosmos_qa": write_cosmos_qa,
    "commonsense_qa": write_commonsense_qa,
    "mlm": write_mlm,
    "xnli": write_xnli,
    "pawsx": write_pawsx,
    "udpos": write_udpos,
    "panx": write_panx,
    "xquad": write_xquad,
    "mlqa": write_mlqa,
    "tydiqa": write_tydiqa,
    "bucc2018": write_bucc2018,
    "tatoeba": write_tatoeba,
    "xcopa": write_xcopa,
    "lareqa": write_lareqa,
}

README = """\
# Built-in sample

**This sample shows that the machine works, not that the method does.** Scores on it say nothing about any model's
quality and must not be compared with published ones.

Every sentence was written for this project, as templates with slots that a seeded generator fills: no text comes from
the tasks' real data sets, only the file layouts are theirs. Labels follow from how an example is made (an inference
hypothesis generalises, negates or adds to its premise; a duplicate question is another wording of the same intent), so
they are right, but regular: a small model can guess many of them from single words, which is what makes training
visible within a few hundred steps.

- Nine English intermediate tasks: anli_plus, mnli, qqp, squad_v1, squad_v2, hellaswag, ccg, cosmos_qa, commonsense_qa.
  multinli_1.0 within anli_plus holds the sentences of mnli, as in the real ones. The derivations of ccg come from a
  small grammar of this project and not from CCGbank.
- Plain text in eight languages, for masked language modelling: mlm.
- Targets, the same examples in every language (en, de, es, fr, ru, sw, tr, zh, as far as the real task has them):
  xnli, pawsx, udpos, panx, xquad, mlqa, tydiqa, bucc2018, tatoeba, xcopa, lareqa.

The files of a seed are the same, byte for byte, on every machine. Licence: that of the project.
"""


def write_sample(folder: Path, seed: int = 0) -> None:
    """Write FOLDER/<task>/<the task's original file names>, and a README.md last, once all else is there.

    Every file is a function of `seed` alone; existing files of the same names are replaced.
    """
    folder = Path(folder)
    for task, write in WRITERS.items():
        write(folder / task, seed)
    write_text(folder / "README.md", README)
