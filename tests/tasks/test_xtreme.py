import dataclasses
import json
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest

from trainer.config import DataSection, RunConfig, load_recipe
from trainer.data.prepare import prepare
from trainer.data.sources import find_files, iter_examples
from trainer.errors import UserError
from trainer.sample import targets as sample
from trainer.tasks import FORMATS, check_task, known_tasks, load_targets, load_tasks
from trainer.tasks.intermediate import MNLI, SQUAD_V1
from trainer.tasks.spec import HubPart, Task
from trainer.tasks.xtreme import TARGETS
from trainer.tasks.xtreme_r import TRAINING_TASKS

RECIPES = Path(__file__).resolve().parents[2] / "launch" / "recipes" / "targets"
RETRIEVAL = ("bucc2018", "tatoeba", "lareqa")
TRAINED = {  # recipe -> tasks: one for every target that trains
    "xnli": ("mnli",), "pawsx": ("pawsx",), "udpos": ("udpos",), "panx": ("panx",), "xquad_mlqa": ("squad_v1",),
    "tydiqa": ("tydiqa",), "xcopa": ("siqa", "copa"),
}  # fmt: skip
LANGUAGES = {  # XTREME, tables 1 and 7; XTREME-R; Tatoeba as XTREME's scorer has it
    "xnli": 15, "pawsx": 7, "udpos": 33, "panx": 40, "xquad": 11, "mlqa": 7, "tydiqa": 9, "bucc2018": 4, "tatoeba": 36,
    "xcopa": 11, "lareqa": 11,
}  # fmt: skip
SAMPLE = {  # languages and examples of the built-in sample's test parts
    "xnli": (sample.LANGUAGES, sample.DEV), "pawsx": (sample.PAWSX_LANGUAGES, sample.TEST),
    "udpos": (sample.UDPOS_LANGUAGES, sample.TEST), "panx": (sample.LANGUAGES, sample.TEST),
    "xquad": (sample.XQUAD_LANGUAGES, sample.TEST), "mlqa": (sample.MLQA_LANGUAGES, sample.TEST),
    "tydiqa": (sample.TYDIQA_LANGUAGES, sample.TEST), "xcopa": (sample.CAUSE_LANGUAGES, sample.TEST),
}  # fmt: skip


def examples(task: Task, split: str, data: DataSection, counts: Counter | None = None) -> list[dict]:
    read = FORMATS[task.format].example
    found = [read(row, task) for _, row in iter_examples(task, split, data, counts)]
    return [example for example in found if example is not None]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataSection:
    return DataSection(source="sample", store=str(tmp_path_factory.mktemp("store")))


def test_the_targets_and_their_languages():
    assert {name: len(task.languages) for name, task in TARGETS.items()} == LANGUAGES
    for name, task in TARGETS.items():
        assert list(task.languages) == sorted(set(task.languages)), name
        assert ("en" in task.languages) == (name not in ("xcopa", *RETRIEVAL[:2])), name
        assert task.group == "retrieval" if name in RETRIEVAL else "train" in task.files or task.head, name
        assert set(task.files) >= set(task.hub), name
        pickle.dumps(task.in_language("de"))


@pytest.mark.parametrize("name", [*sorted(TARGETS.keys() - RETRIEVAL), *TRAINING_TASKS])
def test_their_formats_can_read_them(name):
    check_task(known_tasks()[name])


def test_a_task_in_a_language():
    german = TARGETS["panx"].in_language("de")
    assert (german.name, german.language, german.head, german.folder) == ("panx-de", "de", "panx", "panx")
    assert german.files["dev"] == (("de/dev", "dev-de.tsv"),)
    assert german.hub["dev"] == (HubPart("google/xtreme", "validation", "PAN-X.de"),)
    assert TARGETS["udpos"].in_language("zh").hub_parts("test")[0].config == "udpos.Chinese"
    assert TARGETS["panx"].in_language("en") is TARGETS["panx"] and german.in_language("de") is german
    assert TARGETS["xnli"].in_language("de").head == "mnli"
    with pytest.raises(ValueError, match="panx-de is in de already"):
        german.in_language("fr")
    with pytest.raises(UserError, match="unknown language 'xx'"):
        TARGETS["panx"].in_language("xx")


def test_what_has_no_placeholder_is_english():
    german = MNLI.in_language("de")
    assert all("de" in path for part in german.files["train"] for path in part)
    assert MNLI.hub_parts("train") == (HubPart("nyu-mll/glue", "train", "mnli"),)
    assert german.hub_parts("train") == german.hub["train"] == (HubPart("facebook/xnli", "train", "de"),)
    assert SQUAD_V1.in_language("de").hub == {}
    parts = {"train": (("a.tsv",), ("{language}.tsv",)), "dev": (("{iso3}.tsv",),)}
    assert Task("x", "token_tagging", files=parts).in_language("de").files == {"dev": (("deu.tsv",),)}
    everything = TARGETS["xnli"].in_language("de")  # its files hold all languages, as `keep` says
    assert everything.files["test"] == (("xnli.test.tsv", "XNLI-1.0/xnli.test.tsv", "test-de.tsv"),)


def test_a_recipe_may_name_a_task_in_another_language():
    tasks = load_tasks(RunConfig(tasks=("mnli", "mnli-de", "panx-sw"), data=DataSection(max_length=99)))
    assert [(task.name, task.head, task.max_length) for task in tasks.values()] == [
        ("mnli", "", 99), ("mnli-de", "mnli", 99), ("panx-sw", "panx", 99),
    ]  # fmt: skip
    for name, message in (
        ("mnli-xx", "unknown language 'xx'"),
        ("mnli-en", "did you mean 'mnli'"),
        ("mnly-de", "unknown task 'mnly-de'"),
    ):
        with pytest.raises(UserError, match=message):
            load_tasks(RunConfig(tasks=(name,)))


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("xnli", r"xnli trains on mnli: tasks: \[mnli\]"),
        ("xnli-de", r"xnli trains on mnli: tasks: \[mnli-de\]"),
        ("mlqa", r"trains on squad_v1: tasks: \[squad_v1\]"),
        ("xcopa", "trains on copa"),
        ("tatoeba", "xstilts evaluate MODEL --tasks tatoeba"),
    ],
)
def test_what_is_only_tested_cannot_be_trained(name, instead):
    with pytest.raises(UserError, match=f"(?s){name} has no training data.*{instead}"):
        load_tasks(RunConfig(tasks=(name,)))


def test_own_files_make_any_target_trainable():
    config = RunConfig(tasks=("xnli",), data=DataSection(files={"xnli": {"train": ("a.tsv",), "dev": ("b.tsv",)}}))
    assert load_tasks(config)["xnli"].head == "mnli"


def test_targets_by_name(tmp_path):
    assert list(load_targets(RunConfig())) == list(TARGETS)
    custom = {"mine": {"format": "pair_classification", "columns": {"first": "a", "label": "b"}, "labels": ["0", "1"],
                       "languages": ["en", "de"], "head": "pawsx", "group": "sentence_pair",
                       "files": {"test": "{language}.tsv"}}}  # fmt: skip
    tasks = load_targets(RunConfig(custom_tasks=custom, data=DataSection(max_length=50)), ["mine", "xnli"])
    assert [(task.name, task.max_length) for task in tasks.values()] == [("mine", 50), ("xnli", 50)]
    assert tasks["mine"].in_language("de").files["test"][0][0].endswith("/de.tsv")
    for name, message in (("mnli", "no target.*\n.*xnli"), ("xnly", "unknown target 'xnly'.*\n.*'xnli'")):
        with pytest.raises(UserError, match=message):
            load_targets(RunConfig(), [name])
    custom["mine"]["languages"] = ["english"]
    with pytest.raises(UserError, match="unknown language 'english'.*\n.*\n.*'en'"):
        load_targets(RunConfig(custom_tasks=custom))


@pytest.mark.parametrize("name", SAMPLE)
def test_every_language_of_the_sample(data, name):
    task, (languages, count) = TARGETS[name], SAMPLE[name]
    for code in languages:
        found = examples(task.in_language(code), "test", data)
        assert len(found) == count, code
        if task.format == "token_tagging":
            assert {tag for example in found for tag in example["tags"]} <= set(task.labels)


def test_a_language_that_is_not_there_names_what_was_looked_for(data):
    with pytest.raises(UserError, match=r"xquad-ja \(test\) is missing.*\n.*xquad\.ja\.json") as caught:
        find_files(TARGETS["xquad"].in_language("ja"), "test", data)
    assert "data.files.xquad-ja.test" in caught.value.fix


def test_training_on_tydiqa_is_english_only(data):
    """The trap: its training file has all languages."""
    counts: Counter[str] = Counter()
    found = examples(TARGETS["tydiqa"], "train", data, counts)
    assert {example["id"].split("-")[0] for example in found} == {"english"}
    assert counts == {"other_language": (len(sample.TYDIQA_LANGUAGES) - 1) * len(found)} and found
    russian = examples(TARGETS["tydiqa"].in_language("ru"), "train", data)
    assert {example["id"].split("-")[0] for example in russian} == {"russian"} and len(russian) == len(found)


def test_tydiqa_as_xtreme_cuts_it_into_languages(tmp_path):
    """A file a language, whose ids are numbers only, and the whole file beside them, which counts first."""
    folder, task = tmp_path / "tydiqa" / "tydiqa-goldp-v1.1-train", TARGETS["tydiqa"]
    folder.mkdir(parents=True)
    data = DataSection(source="files", folder=str(tmp_path))

    def write(name: str, ids: list[str]) -> None:
        answers = [{"text": "c", "answer_start": 0}]
        questions = [{"id": key, "question": key, "answers": answers} for key in ids]
        tree = {"data": [{"paragraphs": [{"context": "c", "qas": questions}]}]}
        (folder / name).write_text(json.dumps(tree))

    write("tydiqa.goldp.en.train.json", ["0", "1"])
    write("tydiqa.goldp.ko.train.json", ["0"])
    assert [e["id"] for e in examples(task, "train", data)] == ["0", "1"]
    assert [e["id"] for e in examples(task.in_language("ko"), "train", data)] == ["0"]
    write("tydiqa-goldp-v1.1-train.json", ["korean-5-0", "english-7-0"])
    assert [e["id"] for e in examples(task, "train", data)] == ["english-7-0"]
    assert [e["id"] for e in examples(task.in_language("ko"), "train", data)] == ["korean-5-0"]


def test_xcopa_as_xtreme_downloads_it(tmp_path):
    (tmp_path / "xcopa").mkdir()
    data = DataSection(source="files", folder=str(tmp_path))
    for name in ("train.en", "val.en", "val.et", "test.et"):
        row = {"premise": name, "choice1": "a", "choice2": "b", "question": "cause", "label": 1, "idx": 0}
        (tmp_path / f"xcopa/{name}.jsonl").write_text(json.dumps(row) + "\n")
    copa, estonian = TRAINING_TASKS["copa"], TARGETS["xcopa"].in_language("et")
    read = (copa, "train"), (copa, "dev"), (estonian, "dev"), (estonian, "test")
    found = [examples(task, split, data)[0]["prompt"].split()[0] for task, split in read]
    assert found == ["train.en", "val.en", "val.et", "test.et"]


def test_each_language_of_xnli_is_its_own(data):
    texts = {code: examples(TARGETS["xnli"].in_language(code), "test", data)[0]["first"] for code in ("en", "de", "zh")}
    assert len(set(texts.values())) == 3 and texts["en"].isascii()


def test_rows_of_copa_and_social_iqa():
    copa, siqa = TRAINING_TASKS["copa"], TRAINING_TASKS["siqa"]
    row = {"premise": "It rained.", "choice1": "a", "choice2": "b", "question": "effect", "label": 1, "idx": 3}
    read = FORMATS["multiple_choice"].example
    expected = {"id": "3", "prompt": "It rained. What happened as a result?", "choices": ["a", "b"], "label": 1}
    assert read(copa.adapt(row), copa) == read(copa.adapt(row | {"label": "choice2"}), copa) == expected
    assert copa.adapt(row | {"question": "cause"})["prompt"] == "It rained. What was the cause?"
    row = {"context": "c", "question": "q?", "answerA": "x", "answerB": "y", "answerC": "z"}
    for label in ({"correct": "C"}, {"label": "3"}):
        example = read(siqa.adapt(row | label), siqa)
        assert example == {"id": "", "prompt": "c q?", "choices": ["x", "y", "z"], "label": 2}
    assert read(siqa.adapt(row | {"label": ""}), siqa) is None


def test_answers_of_mlqa_are_compared_by_the_rules_of_their_language():
    kind, mlqa = FORMATS["span_extraction"], TARGETS["mlqa"]
    predictions, references = [{"text": "die Brücke"}], [{"id": "q", "answers": ["eine Brücke"]}]
    assert kind.score(predictions, references, mlqa.in_language("de"))["mean"] == 100
    assert kind.score(predictions, references, TARGETS["xquad"].in_language("de")) == {
        "exact_match": 0, "f1": 50, "mean": 25,
    }  # fmt: skip
    assert "mean" not in kind.score(predictions, references, SQUAD_V1)
    assert mlqa.answer_rules["en"] == "mlqa-en" and set(mlqa.answer_rules) == set(mlqa.languages)


@pytest.mark.parametrize("name", TRAINED)
def test_there_is_a_recipe_for_every_target_that_trains(name):
    config = load_recipe(RECIPES / f"{name}.yaml")
    assert config.run.name == name and config.tasks == TRAINED[name]
    assert (config.train.learning_rate, config.train.warmup) == (1e-5, 0.1)
    epochs = {"xnli": 2, "pawsx": 5, "udpos": 10, "panx": 10, "xquad_mlqa": 2, "tydiqa": 2}
    assert config.train.epochs == epochs.get(name, config.train.epochs)
    tasks = load_tasks(config)
    heads = {task.head or name for name, task in TARGETS.items() if name not in RETRIEVAL}
    assert heads & set(tasks)
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(TRAINED)


def table(path: Path) -> list[list[str]]:
    rows = re.findall(r"^\| *(.*?) *\|$", path.read_text(), re.M)
    return [[cell.strip() for cell in row.split("|")] for row in rows]


def real_counts(folder: Path) -> dict[tuple[str, str, str], int]:
    """(task, split, language) -> examples, as the READMEs beside the real data state them."""
    splits = {"dev": 2490, "test": 5010}
    counts = {("xnli", split, code): n for code in TARGETS["xnli"].languages for split, n in splits.items()}
    counts |= {("pawsx", "dev", code): 2000 for code in TARGETS["pawsx"].languages}
    counts |= {("pawsx", "test", code): 2000 for code in ("de", "zh")}  # no labels of the others
    names = {"arabic": "ar", "bengali": "bn", "english": "en", "finnish": "fi", "indonesian": "id", "korean": "ko",
             "russian": "ru", "swahili": "sw", "telugu": "te"}  # fmt: skip
    for name in ("udpos", "udpos_xtreme", "panx", "xquad", "mlqa", "tydiqa", "xcopa"):
        for row in table(folder / name / "README.md"):
            if name == "udpos" and (found := re.match(r"(..)_.*-ud-(\w+)\.conllu", row[0])):
                counts[name, found[2], found[1]] = int(row[4])
            elif name in ("udpos_xtreme", "panx") and (found := re.match(r"(\w+)-(..)\.tsv", row[0])):
                counts[name, found[1], found[2]] = int(row[1])
            elif name == "xquad" and (found := re.match(r"xquad\.(..)\.json", row[0])):
                counts[name, "test", found[1]] = int(row[3])
            elif name == "mlqa" and (found := re.match(r"dev-context-(..)-", row[0])):
                counts[name, "dev", found[1]] = int(row[2])
            elif name == "tydiqa" and (found := re.match(r"(\w+)_tydiqa_(\w+)\.json", row[0])):
                for split in ("train",) if found[2] == "train" else ("dev", "test"):
                    counts[name, split, names[found[1]]] = int(row[1])
            elif name == "xcopa" and row[0] != "language" and row[0].isalpha():
                split = {"val": "dev"}.get(row[1], row[1])
                counts["copa" if row[0] == "en" else name, split, row[0]] = int(row[2].split()[0])
    return counts | {("siqa", "dev", "en"): 1954}


LARGE = ("udpos_xtreme", "panx")  # millions of words


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
        for name in ("xnli", "pawsx", "udpos", "xquad", "mlqa", "tydiqa", "xcopa", "copa", "siqa", *LARGE)
    ],
)
def test_real_files_have_their_stated_counts(real_data, name):
    task = known_tasks()["udpos" if name == "udpos_xtreme" else name]
    data = DataSection(source="files", folder=str(real_data))
    stated = {key[1:]: n for key, n in real_counts(real_data).items() if key[0] == name}
    assert stated
    for (split, code), count in stated.items():
        variant = task.in_language(code)
        if name == "udpos_xtreme":
            variant = dataclasses.replace(variant, folder=name)
        assert len(examples(variant, split, data)) == count, (split, code)


def test_real_tests_without_labels_are_refused(real_data):
    data = DataSection(source="files", folder=str(real_data))
    with pytest.raises(UserError, match="(?s)test-fr.tsv.gz:1: 2 columns instead of 3.*labels"):
        examples(TARGETS["pawsx"].in_language("fr"), "test", data)


def test_what_trains_on_itself_is_prepared_from_the_sample(data, tiny_tokenizer):
    config = RunConfig(tasks=("pawsx", "udpos", "panx", "tydiqa", "copa"), data=dataclasses.replace(data, workers=1))
    rows = {(row["task"], row["split"]): row for row in prepare(config, load_tasks(config), tiny_tokenizer)}
    assert len(rows) == 10 and all(row["examples"] for row in rows.values())
    assert not any(row["counts"].get("unseen_tags") for row in rows.values())
    assert rows["tydiqa", "train"]["counts"]["other_language"] == 2 * rows["tydiqa", "train"]["examples"]
