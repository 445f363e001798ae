"""The targets of XTREME (Hu et al. 2020, arXiv 2003.11080), as data; `TARGETS` has XTREME-R's as well.

A target is trained in English, on itself or on the task that its `head` names, and tested in all of its languages.
Files lie in `data.folder`/<task name>/ under the names of the original distributions, or of XTREME's own preprocessing
({split}-{language}.tsv, without a header line).
"""

from __future__ import annotations

from trainer.tasks import xtreme_r
from trainer.tasks.intermediate import NLI_COLUMNS, NLI_DROPPED, NLI_LABELS, NLI_SPELLINGS, SPAN_COLUMNS
from trainer.tasks.languages import language_of
from trainer.tasks.spec import Task, hub_splits

HUB = "google/xtreme"
UPOS = tuple("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())
ENTITIES = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")

XNLI_LANGUAGES = tuple("ar bg de el en es fr hi ru sw th tr ur vi zh".split())
PAWSX_LANGUAGES = tuple("de en es fr ja ko zh".split())
UDPOS_LANGUAGES = tuple(
    "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh".split()
)
PANX_LANGUAGES = tuple(sorted((*UDPOS_LANGUAGES, "bn", "jv", "ka", "ml", "ms", "my", "sw")))
XQUAD_LANGUAGES = tuple("ar de el en es hi ru th tr vi zh".split())
MLQA_LANGUAGES = tuple("ar de en es hi vi zh".split())
TYDIQA_LANGUAGES = tuple("ar bn en fi id ko ru sw te".split())
TYDIQA_NAMES = {language_of(code).name.lower() for code in TYDIQA_LANGUAGES}
BUCC_LANGUAGES = tuple("de fr ru zh".split())
TATOEBA_LANGUAGES = tuple(sorted({*PANX_LANGUAGES} - {"en", "ms", "my", "yo"}))  # XTREME's scorer; the paper counts 33


def of_language(row: dict, language: str) -> bool:
    """Whether a row is of a language, going by its `language` column; rows without one are."""
    return row.get("language", language) == language


def id_of_language(row: dict, language: str) -> bool:
    """Whether a question's id begins with the language's name, as TyDi QA's do: "korean-3543942044825767374-0".

    Its training file holds all nine languages: without this, nothing trained on it would be zero-shot. XTREME cuts it
    into a file a language, whose ids have no name.
    """
    name = str(row.get("id", "")).partition("-")[0]
    return name not in TYDIQA_NAMES or name == language_of(language).name.lower()


# Conneau et al. 2018, arXiv 1809.05053: all languages in one file
XNLI = Task(
    name="xnli",
    format="pair_classification",
    family="nli",
    columns=NLI_COLUMNS,
    header=("premise", "hypothesis", "label"),
    labels=NLI_LABELS,
    label_names=NLI_SPELLINGS,
    drop_labels=NLI_DROPPED,
    files={
        split: ((f"xnli.{split}.tsv", f"XNLI-1.0/xnli.{split}.tsv", f"{split}-{{language}}.tsv"),)
        for split in ("dev", "test")
    },
    hub=hub_splits("facebook/xnli", "{language}", dev="validation", test="test"),
    languages=XNLI_LANGUAGES,
    keep=of_language,
    head="mnli",
    group="sentence_pair",
)


def _pawsx_files(split: str, *names: str) -> tuple[tuple[str, ...], ...]:
    paths = (f"{folder}{{language}}/{name}.tsv" for folder in ("", "x-final/") for name in names)
    return ((*paths, f"{split}-{{language}}.tsv"),)


# Yang et al. 2019, arXiv 1908.11828
PAWSX = Task(
    name="pawsx",
    format="pair_classification",
    columns={"first": ("sentence1",), "second": ("sentence2",), "label": ("label",)},
    header=("sentence1", "sentence2", "label"),
    labels=("0", "1"),
    files={
        "train": _pawsx_files("train", "train", "translated_train"),
        "dev": _pawsx_files("dev", "dev_2k"),
        "test": _pawsx_files("test", "test_2k"),
    },
    hub=hub_splits("google-research-datasets/paws-x", "{language}", train="train", dev="validation", test="test"),
    languages=PAWSX_LANGUAGES,
    group="sentence_pair",
)


def _treebanks(split: str) -> tuple[tuple[str, ...], ...]:
    """Every treebank of a language, as XTREME joins them."""
    name = f"{{language}}_*-ud-{split}.conllu"
    folders = ("", "UD_*/", "ud-treebanks-v2.5/UD_*/")
    return ((*(folder + name for folder in folders), f"{{language}}-{split}.conllu", f"{split}-{{language}}.tsv"),)


# Universal Dependencies 2.5, Nivre et al. 2020, arXiv 2004.10643
UDPOS = Task(
    name="udpos",
    format="token_tagging",
    columns={"words": ("words", "tokens"), "tags": ("tags", "pos_tags")},
    labels=UPOS,
    files={split: _treebanks(split) for split in ("train", "dev", "test")},
    hub=hub_splits(HUB, "udpos.{Name}", train="train", dev="validation", test="test"),
    metric="f1",
    languages=UDPOS_LANGUAGES,
    group="structured",
)

# WikiANN, Pan et al. 2017, in the splits of Rahimi et al. 2019, arXiv 1902.00193
PANX = Task(
    name="panx",
    format="token_tagging",
    columns={"words": ("words", "tokens"), "tags": ("tags", "ner_tags")},
    labels=ENTITIES,
    files={split: ((f"{{language}}/{split}", f"{split}-{{language}}.tsv"),) for split in ("train", "dev", "test")},
    hub=hub_splits(HUB, "PAN-X.{language}", train="train", dev="validation", test="test"),
    metric="f1",
    languages=PANX_LANGUAGES,
    group="structured",
)

# Artetxe et al. 2020, arXiv 1910.11856
XQUAD = Task(
    name="xquad",
    format="span_extraction",
    family="span",
    columns=SPAN_COLUMNS,
    files={"test": (("xquad.{language}.json",),)},
    hub=hub_splits("google/xquad", "xquad.{language}", test="validation"),
    max_length=384,
    metric="mean",
    languages=XQUAD_LANGUAGES,
    head="squad_v1",
    group="qa",
)


def _mlqa_files(split: str) -> tuple[tuple[str, ...], ...]:
    name = f"{split}/{split}-context-{{language}}-question-{{language}}.json"
    return ((name, f"MLQA_V1/{name}"),)


# Lewis et al. 2020, arXiv 1910.07475: questions in the language of their contexts
MLQA = Task(
    name="mlqa",
    format="span_extraction",
    family="span",
    columns=SPAN_COLUMNS,
    files={split: _mlqa_files(split) for split in ("dev", "test")},
    hub=hub_splits(HUB, "MLQA.{language}.{language}", dev="validation", test="test"),
    max_length=384,
    metric="mean",
    languages=MLQA_LANGUAGES,
    head="squad_v1",
    group="qa",
    answer_rules={code: "mlqa-en" if code == "en" else code for code in MLQA_LANGUAGES},
)

TYDIQA_TRAIN = (
    "tydiqa-goldp-v1.1-train.json",
    "tydiqa-goldp-v1.1-train/tydiqa-goldp-v1.1-train.json",
    "tydiqa-goldp-v1.1-train/tydiqa.goldp.{language}.train.json",
    "{name}_tydiqa_train.json",
)
TYDIQA_DEV = (
    "tydiqa-goldp-v1.1-dev/tydiqa.goldp.{language}.dev.json",
    "tydiqa-goldp-v1.1-dev/tydiqa.{language}.dev.json",
    "tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-{name}.json",
    "{name}_tydiqa_dev.json",
    "tydiqa-goldp-v1.1-dev.json",
)

# The gold passage task of TyDi QA, Clark et al. 2020, arXiv 2003.05002. Its tests are not public: as in XTREME its dev
# sets are the tests, of which the English one is the dev set of training too.
TYDIQA = Task(
    name="tydiqa",
    format="span_extraction",
    family="span",
    columns=SPAN_COLUMNS,
    files={
        "train": (TYDIQA_TRAIN,),
        "dev": (TYDIQA_DEV,),
        "test": (TYDIQA_DEV,),
    },
    hub=hub_splits(HUB, "tydiqa", train="train", dev="validation", test="validation"),
    max_length=384,
    metric="mean",
    languages=TYDIQA_LANGUAGES,
    keep=id_of_language,
    group="qa",
)

# LASER's cut of Tatoeba, Artetxe and Schwenk 2019, arXiv 1812.10464: the English file, then the other. XTREME's own
# files are looked for only to be refused with the reason: their lines do not correspond (`retrieval_files`).
TATOEBA = Task(
    name="tatoeba",
    format="sentence_retrieval",
    files={
        "test": tuple(
            (f"tatoeba.{{iso3}}-eng.{iso3}", f"v1/tatoeba.{{iso3}}-eng.{iso3}", f"{{language}}-en.{code}")
            for iso3, code in (("eng", "en"), ("{iso3}", "{language}"))
        )
    },
    hub=hub_splits(HUB, "tatoeba.{iso3}", test="validation"),
    max_length=512,
    languages=TATOEBA_LANGUAGES,
    group="retrieval",
)


def _mined(*splits: str) -> tuple[tuple[str, ...], ...]:
    """The other language, English and the gold pairs of the first split that is there."""
    names = [f"{{language}}-en.{split}" for split in splits]
    return tuple(
        tuple(path for name in names for path in (f"{{language}}-en/{name}.{side}", f"{name}.{side}"))
        for side in ("{language}", "en", "gold")
    )


# Zweigenbaum et al. 2018: three files of the sample split, which thresholds are tuned on, three of the training split,
# whose gold pairs are public. XTREME calls them dev and test. The hub has gold pairs only, which is no mining.
BUCC2018 = Task(
    name="bucc2018",
    format="sentence_retrieval",
    files={"test": (*_mined("sample", "dev"), *_mined("training", "test", "dev"))},
    max_length=512,
    metric="f1",
    languages=BUCC_LANGUAGES,
    group="retrieval",
)

XTREME = (XNLI, PAWSX, UDPOS, PANX, XQUAD, MLQA, TYDIQA, BUCC2018, TATOEBA)
TARGETS = {task.name: task for task in XTREME} | xtreme_r.TARGETS
