"""The nine English intermediate tasks of X-STILTs (arXiv 2005.13013, section 3), as data.

Files lie in `data.folder`/<task name>/ under the names of the original distributions, GLUE's or the hub's. Names with
{language} hold a task's translation: `mnli-de` reads those of `mnli`.
"""

from __future__ import annotations

from trainer.tasks.spec import HubPart, Task

NLI_LABELS = ("entailment", "neutral", "contradiction")
NLI_COLUMNS = {
    "first": ("premise", "sentence1", "context"),
    "second": ("hypothesis", "sentence2", "hypo"),
    "label": ("gold_label", "label"),
    "id": ("uid", "pairID", "id"),
}
NLI_SPELLINGS = {"contradictory": "contradiction"}  # in XNLI's translations of MNLI
NLI_DROPPED = ("-", "-1")  # no majority among the annotators

MNLI_TRAIN = ("multinli_1.0_train.jsonl", "multinli_1.0/multinli_1.0_train.jsonl", "MNLI/train.tsv")
MNLI_DEV = ("multinli_1.0_dev_matched.jsonl", "multinli_1.0/multinli_1.0_dev_matched.jsonl", "MNLI/dev_matched.tsv")
XNLI_MT = ("multinli.train.{language}.tsv", "XNLI-MT-1.0/multinli/multinli.train.{language}.tsv")
SQUAD_MT = "{language}_squad-translate-train"  # of MLQA, arXiv 1910.07475
SQUAD_MT_TRAIN = ("squad.translate.train.en-{language}.json", f"{SQUAD_MT}-train-v1.1.json")  # the first of XTREME


def _plain(split: str, *more: str) -> tuple[str, ...]:
    suffixes = ("jsonl", "json", "tsv", "csv", "txt")
    return (*more, *(f"{name}.{suffix}" for name in (split, f"{split}-{{language}}") for suffix in suffixes))


def _anli(split: str) -> tuple[tuple[str, ...], ...]:
    return tuple((f"R{n}/{split}.jsonl", f"anli_v1.0/R{n}/{split}.jsonl") for n in (1, 2, 3))


def _snli(split: str) -> tuple[str, ...]:
    names = (f"snli_1.0_{split}.jsonl", f"snli_1.0_{split}.txt")
    return (*names, *(f"snli_1.0/{name}" for name in names), f"SNLI/{split}.tsv")


def hellaswag_row(row: dict) -> dict:
    """Prompt `ctx_a`, options `ctx_b` + ending; exports without the two halves have only `ctx`."""
    begun = f"{row['ctx_b']} " if "ctx_a" in row and row["ctx_b"] else ""
    prompt = row["ctx_a"] if "ctx_a" in row else row["ctx"]
    choices = [f"{begun}{ending}" for ending in row["endings"]]
    return {"id": row.get("ind", ""), "prompt": prompt, "choices": choices, "label": row["label"]}


def cosmos_qa_row(row: dict) -> dict:
    """Prompt: context, then question, which is what a long prompt keeps."""
    choices = [row[f"answer{i}"] for i in range(4)]
    prompt = f"{row['context']} {row['question']}"
    return {"id": row.get("id", ""), "prompt": prompt, "choices": choices, "label": row["label"]}


def commonsense_qa_row(row: dict) -> dict:
    """The original nests stem and options below `question`; the hub has them side by side."""
    if isinstance(row["question"], dict):
        prompt = row["question"]["stem"]
        options = {choice["label"]: choice["text"] for choice in row["question"]["choices"]}
    else:
        prompt = row["question"]
        options = dict(zip(row["choices"]["label"], row["choices"]["text"], strict=True))
    label = row.get("answerKey", "")
    if label in options:
        label = list(options).index(label)
    return {"id": row.get("id", ""), "prompt": prompt, "choices": list(options.values()), "label": label}


# Adversarial NLI, Nie et al. 2020, arXiv 1910.14599, with MNLI and SNLI (Bowman et al. 2015, arXiv 1508.05326)
ANLI_PLUS = Task(
    name="anli_plus",
    format="pair_classification",
    family="nli",
    columns=NLI_COLUMNS,
    labels=NLI_LABELS,
    label_names={"e": "entailment", "n": "neutral", "c": "contradiction"},
    drop_labels=NLI_DROPPED,
    files={
        "train": (*_anli("train"), MNLI_TRAIN, _snli("train")),
        "dev": (*_anli("dev"), MNLI_DEV, _snli("dev")),
    },
    hub={
        "train": (
            *(HubPart("facebook/anli", f"train_r{n}") for n in (1, 2, 3)),
            HubPart("nyu-mll/glue", "train", "mnli"),
            HubPart("stanfordnlp/snli", "train"),
        ),
        "dev": (
            *(HubPart("facebook/anli", f"dev_r{n}") for n in (1, 2, 3)),
            HubPart("nyu-mll/glue", "validation_matched", "mnli"),
            HubPart("stanfordnlp/snli", "validation"),
        ),
    },
)

# Multi-Genre NLI, Williams et al. 2018, arXiv 1704.05426
MNLI = Task(
    name="mnli",
    format="pair_classification",
    family="nli",
    columns=NLI_COLUMNS,
    labels=NLI_LABELS,
    label_names=NLI_SPELLINGS,
    drop_labels=NLI_DROPPED,
    files={
        "train": (_plain("train", *MNLI_TRAIN, *XNLI_MT),),
        "dev": (_plain("dev", *MNLI_DEV, "dev_matched.tsv"),),
    },
    hub={
        "train": (HubPart("nyu-mll/glue", "train", "mnli"), HubPart("facebook/xnli", "train", "{language}")),
        "dev": (
            HubPart("nyu-mll/glue", "validation_matched", "mnli"),
            HubPart("facebook/xnli", "validation", "{language}"),
        ),
    },
)

# Quora Question Pairs, Iyer et al. 2017, in GLUE's cut (Wang et al. 2019, arXiv 1804.07461)
QQP = Task(
    name="qqp",
    format="pair_classification",
    family="paraphrase",
    columns={
        "first": ("question1", "sentence1"),
        "second": ("question2", "sentence2"),
        "label": ("is_duplicate", "label"),
    },
    labels=("not_duplicate", "duplicate"),
    label_names={"0": "not_duplicate", "1": "duplicate"},
    drop_labels=("", "-1"),  # "": GLUE's file has a few lines broken in two, whose label is lost
    files={"train": (_plain("train", "QQP/train.tsv"),), "dev": (_plain("dev", "QQP/dev.tsv"),)},
    hub={
        "train": (HubPart("nyu-mll/glue", "train", "qqp"),),
        "dev": (HubPart("nyu-mll/glue", "validation", "qqp"),),
    },
    metric="f1",
)

SPAN_COLUMNS = {"question": ("question",), "context": ("context",), "answers": ("answers",)}

# SQuAD v1.1, Rajpurkar et al. 2016, arXiv 1606.05250
SQUAD_V1 = Task(
    name="squad_v1",
    format="span_extraction",
    family="span",
    columns=SPAN_COLUMNS,
    files={
        "train": (_plain("train", "train-v1.1.json", *SQUAD_MT_TRAIN),),
        "dev": (_plain("dev", "dev-v1.1.json", f"{SQUAD_MT}-dev-v1.1.json"),),
    },
    hub={"train": (HubPart("rajpurkar/squad", "train"),), "dev": (HubPart("rajpurkar/squad", "validation"),)},
    max_length=384,
    metric="f1",
)

# SQuAD v2.0, Rajpurkar et al. 2018, arXiv 1806.03822
SQUAD_V2 = Task(
    name="squad_v2",
    format="span_extraction",
    family="span_no_answer",
    columns=SPAN_COLUMNS,
    labels=("no_answer",),
    files={"train": (_plain("train", "train-v2.0.json"),), "dev": (_plain("dev", "dev-v2.0.json"),)},
    hub={"train": (HubPart("rajpurkar/squad_v2", "train"),), "dev": (HubPart("rajpurkar/squad_v2", "validation"),)},
    max_length=384,
    metric="f1",
)

# HellaSwag, Zellers et al. 2019, arXiv 1905.07830
HELLASWAG = Task(
    name="hellaswag",
    format="multiple_choice",
    family="multiple_choice",
    adapt=hellaswag_row,
    drop_labels=("", "-1"),
    files={"train": (_plain("train", "hellaswag_train.jsonl"),), "dev": (_plain("dev", "hellaswag_val.jsonl"),)},
    hub={"train": (HubPart("Rowan/hellaswag", "train"),), "dev": (HubPart("Rowan/hellaswag", "validation"),)},
    choices=4,
)

# CCG supertagging, CCGbank, Hockenmaier and Steedman 2007: LDC2005T13, so not on the hub
CCG = Task(
    name="ccg",
    format="token_tagging",
    family="ccg",
    columns={"words": ("words", "tokens"), "tags": ("tags", "supertags")},
    files={
        "train": (
            ("train.auto", "train.stagged", *_plain("train"))
            + ("AUTO/{02..21}/*.auto", "data/AUTO/{02..21}/*.auto", "ccgbank_1_1/data/AUTO/{02..21}/*.auto"),
        ),
        "dev": (
            ("dev.auto", "dev.stagged", *_plain("dev"))
            + ("AUTO/00/*.auto", "data/AUTO/00/*.auto", "ccgbank_1_1/data/AUTO/00/*.auto"),
        ),
    },
)

# Cosmos QA, Huang et al. 2019, arXiv 1909.00277
COSMOS_QA = Task(
    name="cosmos_qa",
    format="multiple_choice",
    family="multiple_choice",
    adapt=cosmos_qa_row,
    drop_labels=("", "-1"),
    files={"train": (_plain("train"),), "dev": (_plain("dev", "valid.csv"),)},
    hub={"train": (HubPart("allenai/cosmos_qa", "train"),), "dev": (HubPart("allenai/cosmos_qa", "validation"),)},
    choices=4,
)

# CommonsenseQA, Talmor et al. 2019, arXiv 1811.00937
COMMONSENSE_QA = Task(
    name="commonsense_qa",
    format="multiple_choice",
    family="multiple_choice",
    adapt=commonsense_qa_row,
    drop_labels=("",),
    files={"train": (_plain("train", "train_rand_split.jsonl"),), "dev": (_plain("dev", "dev_rand_split.jsonl"),)},
    hub={"train": (HubPart("tau/commonsense_qa", "train"),), "dev": (HubPart("tau/commonsense_qa", "validation"),)},
    choices=5,
)

TASKS = {
    task.name: task for task in (ANLI_PLUS, MNLI, QQP, SQUAD_V1, SQUAD_V2, HELLASWAG, CCG, COSMOS_QA, COMMONSENSE_QA)
}
