"""What XTREME-R (Ruder et al. 2021, arXiv 2104.07412) adds to XTREME's targets, as data: XCOPA, with the two English
tasks that are trained for it, and LAReQA.
"""

from __future__ import annotations

from trainer.tasks.spec import Task, hub_splits

XCOPA_LANGUAGES = tuple("et ht id it qu sw ta th tr vi zh".split())
LAREQA_LANGUAGES = tuple("ar de el en es hi ru th tr vi zh".split())


def copa_row(row: dict) -> dict:
    """Prompt: the premise and what is asked for, in the words of XCOPA's baselines (arXiv 2005.00333)."""
    asked = {"cause": "What was the cause?", "effect": "What happened as a result?"}
    prompt = f"{row['premise']} {asked[row['question']]}"
    choices = [row["choice1"], row["choice2"]]
    return {"id": row.get("idx", ""), "prompt": prompt, "choices": choices, "label": row["label"]}


def siqa_row(row: dict) -> dict:
    """Prompt: context, then question. The files mark the right answer by letter, the hub counts from 1."""
    label = row["correct"] if "correct" in row else "ABC"[int(row["label"]) - 1] if row["label"] else ""
    choices = [row[f"answer{letter}"] for letter in "ABC"]
    return {"id": "", "prompt": f"{row['context']} {row['question']}", "choices": choices, "label": label}


def _copa_files(split: str) -> tuple[tuple[str, ...], ...]:
    return ((f"en/{split}-en.jsonl", f"en.{split}.jsonl", f"{split}.en.jsonl", f"{split}.jsonl"),)


def _xcopa_files(split: str) -> tuple[tuple[str, ...], ...]:
    name = f"{split}.{{language}}.jsonl"
    return ((f"{{language}}/{name}", f"data/{{language}}/{name}", f"{{language}}.{split}.jsonl", name),)


# Choice of Plausible Alternatives, Roemmele et al. 2011, in SuperGLUE's form; lies with XCOPA, whose English it is
COPA = Task(
    name="copa",
    format="multiple_choice",
    family="multiple_choice",
    adapt=copa_row,
    label_names={"choice1": "0", "choice2": "1"},  # on the hub
    drop_labels=("", "-1"),
    files={"train": _copa_files("train"), "dev": _copa_files("val")},
    hub=hub_splits("aps/super_glue", "copa", revision="refs/convert/parquet", train="train", dev="validation"),
    choices=2,
    folder="xcopa",
)

# Social IQa, Sap et al. 2019, arXiv 1904.09728
SIQA = Task(
    name="siqa",
    format="multiple_choice",
    family="multiple_choice",
    adapt=siqa_row,
    drop_labels=("",),
    files={"train": (("socialIQa_v1.4_trn.jsonl",),), "dev": (("socialIQa_v1.4_dev.jsonl",),)},
    hub=hub_splits("lighteval/siqa", train="train", dev="validation"),
    choices=3,
)

# Ponti et al. 2020, arXiv 2005.00333
XCOPA = Task(
    name="xcopa",
    format="multiple_choice",
    family="multiple_choice",
    adapt=copa_row,
    files={"dev": _xcopa_files("val"), "test": _xcopa_files("test")},
    hub=hub_splits("cambridgeltl/xcopa", "{language}", dev="validation", test="test"),
    choices=2,
    languages=XCOPA_LANGUAGES,
    head="copa",
    group="sentence_pair",
)

# XQuAD-R of LAReQA, Roy et al. 2020, arXiv 2004.05484; 256 tokens of a candidate (XTREME-R's run_eval_lareqa.sh)
LAREQA = Task(
    name="lareqa",
    format="sentence_retrieval",
    files={"test": (("xquad-r/{language}.json", "{language}.json"),)},
    max_length=256,
    metric="map@20",
    languages=LAREQA_LANGUAGES,
    group="retrieval",
)

TRAINING_TASKS = {task.name: task for task in (COPA, SIQA)}
TARGETS = {task.name: task for task in (XCOPA, LAREQA)}
