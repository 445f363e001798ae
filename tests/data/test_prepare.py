import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.config import DataSection, RunConfig
from trainer.data import prepare as prepare_module
from trainer.data import workers as workers_module
from trainer.data.prepare import open_prepared, open_split, prepare, tokenizer_fingerprint
from trainer.errors import NoExamples, UserError
from trainer.tasks import FORMATS
from trainer.tasks.intermediate import CCG, MNLI, SQUAD_V2
from trainer.tasks.mlm import MLM
from trainer.tasks.xtreme import PANX, TARGETS, XNLI

TASKS = {"mnli": MNLI, "ccg": CCG}


def pair(first: str, label: str = "neutral") -> str:
    return json.dumps({"premise": first, "hypothesis": "the dog ran", "label": label}) + "\n"


@pytest.fixture
def config(tmp_path) -> RunConfig:
    """MNLI (one row of four without gold label) and CCG (a tag of dev is not in train) in files."""
    data = tmp_path / "data"
    for name in TASKS:
        (data / name).mkdir(parents=True)
    rows = [
        pair("the cat sat"),
        pair("a house", "-"),
        pair("the city", "entailment"),
        pair("a red dog", "contradiction"),
    ]
    (data / "mnli/train.jsonl").write_text("".join(rows))
    (data / "mnli/dev.jsonl").write_text(pair("the man"))
    (data / "ccg/train.stagged").write_text("the|DT|NP/N cat|NN|N sat|VB|S\na|DT|NP/N dog|NN|N\n")
    (data / "ccg/dev.stagged").write_text("the|DT|NP/N cat|NN|S/S\n")
    return RunConfig(data=DataSection(source="files", folder=str(data), store=str(tmp_path / "store"), workers=1))


def with_data(config: RunConfig, **changes) -> RunConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def test_what_the_table_says(config, tiny_tokenizer):
    rows = {(row["task"], row["split"]): row for row in prepare(config, TASKS, tiny_tokenizer)}
    assert list(rows) == [("mnli", "train"), ("mnli", "dev"), ("ccg", "train"), ("ccg", "dev")]
    lengths = [
        len(tiny_tokenizer(first, "the dog ran")["input_ids"]) for first in ("the cat sat", "the city", "a red dog")
    ]
    train = rows["mnli", "train"]
    assert train["examples"] == train["units"] == 3
    assert train["tokens"] == sum(lengths)
    assert (train["p50"], train["p99"], train["max"]) == (sorted(lengths)[1], max(lengths), max(lengths))
    assert train["counts"] == {"dropped": 1}
    assert rows["ccg", "dev"]["counts"] == {"unseen_tags": 1}
    assert {row["state"] for row in rows.values()} == {"prepared"}


def test_what_is_opened(config, tiny_tokenizer):
    prepare(config, TASKS, tiny_tokenizer)
    opened = open_prepared(config, TASKS, tiny_tokenizer)
    expected = [tiny_tokenizer(first, "the dog ran")["input_ids"] for first in ("the cat sat", "the city", "a red dog")]
    train = opened["mnli"].train
    assert [train.column("tokens", i).tolist() for i in range(len(train))] == expected
    labels = ["neutral", "entailment", "contradiction"]
    assert [train.column("target", i).tolist() for i in range(3)] == [[MNLI.labels.index(label)] for label in labels]
    assert train.used_vocabulary().tolist() == sorted({token for sequence in expected for token in sequence})
    assert [reference["label"] for reference in train.references()] == labels
    assert opened["ccg"].task.labels == ("N", "NP/N", "S")
    assert opened["ccg"].dev.column("target", 0).tolist() == [1, -1]


def test_a_second_time_nothing_is_tokenised(config, tiny_tokenizer, monkeypatch):
    prepare(config, TASKS, tiny_tokenizer)

    def never(*_):
        raise AssertionError("tokenised again")

    for name in ("pair_classification", "token_tagging"):
        monkeypatch.setattr(FORMATS[name], "encode", never)
    assert {row["state"] for row in prepare(config, TASKS, tiny_tokenizer)} == {"up to date"}


def test_unprepared_names_the_command(config, tiny_tokenizer):
    with pytest.raises(UserError, match=r"mnli \(train\) is not prepared") as caught:
        open_prepared(config, TASKS, tiny_tokenizer)
    assert "xstilts prepare" in caught.value.fix and "data.prepare=auto" in caught.value.fix


def test_one_changed_byte_makes_it_stale(config, tiny_tokenizer):
    prepare(config, TASKS, tiny_tokenizer)
    path = f"{config.data.folder}/mnli/train.jsonl"
    content = open(path).read()
    open(path, "w").write(content.replace("cat", "cut"))
    with pytest.raises(UserError, match=r"(?m)mnli \(train\) is stale: made with another data$") as caught:
        open_prepared(config, TASKS, tiny_tokenizer)
    assert "xstilts prepare" in caught.value.fix
    states = [row["state"] for row in prepare(config, TASKS, tiny_tokenizer)]
    assert states == ["prepared", "up to date", "up to date", "up to date"]
    open_prepared(config, TASKS, tiny_tokenizer)


def test_another_tokenizer_makes_it_stale(config, tiny_tokenizer):
    prepare(config, TASKS, tiny_tokenizer)
    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["wonderful"])
    with pytest.raises(UserError, match="(?m)made with another tokenizer$"):
        open_prepared(config, TASKS, other)


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 20},
        {"labels": MNLI.labels[::-1]},
        {"label_names": {"e": "entailment"}},
        {"drop_labels": ("-", "x")},
    ],
)
def test_another_definition_makes_it_stale(config, tiny_tokenizer, change):
    prepare(config, TASKS, tiny_tokenizer)
    changed = {"mnli": dataclasses.replace(MNLI, **change)}
    with pytest.raises(UserError, match="(?m)made with another task definition$"):
        open_prepared(config, changed, tiny_tokenizer)


def _first_is_a(row):
    return {"first": "a", "second": "b", "label": row["label"]}


def _first_is_b(row):
    return {"first": "b", "second": "b", "label": row["label"]}


def _function(text: str):
    """A function without a source file, as one that is typed in."""
    names: dict = {}
    exec(text, names)
    return names["work"]


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("adapt", _first_is_a, _first_is_b),
        ("adapt", _function("def work(row): return {**row, 'first': 'a', 'second': 'b'}"),
         _function("def work(row): return {**row, 'first': 'b', 'second': 'b'}")),
        ("keep", _function("def work(row, code): return any(x in {'y', 'z'} for x in code) or True"),
         _function("def work(row, code): return any(x in {'y', 'zz'} for x in code) or True")),
    ],
)  # fmt: skip
def test_another_function_makes_it_stale(config, tiny_tokenizer, name, one, other):
    task = dataclasses.replace(MNLI, **{name: one})
    prepare(config, {"mnli": task}, tiny_tokenizer)
    open_prepared(config, {"mnli": task}, tiny_tokenizer)
    with pytest.raises(UserError, match="(?m)made with another task definition$"):
        open_prepared(config, {"mnli": dataclasses.replace(MNLI, **{name: other})}, tiny_tokenizer)


def test_the_code_of_a_function_is_the_same_in_every_process():
    text = """
from tests.data.test_prepare import _function
from trainer.data.prepare import _source
print(_source(_function("def work(row, code): return [x for x in code if x in {1, 2, None, 'y', 'z'}]")))
"""
    runs = [
        subprocess.run([sys.executable, "-c", text], env={**os.environ, "PYTHONHASHSEED": seed}, text=True,
                       capture_output=True, check=True, timeout=120).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1] and "frozenset" not in runs[0] and " at 0x" not in runs[0]


def test_a_newer_format_makes_it_stale(config, tiny_tokenizer, monkeypatch):
    prepare(config, TASKS, tiny_tokenizer)
    monkeypatch.setattr(FORMATS["pair_classification"], "version", 99)
    with pytest.raises(UserError, match="(?m)made with another task definition$"):
        open_prepared(config, TASKS, tiny_tokenizer)


def test_what_is_not_read_does_not_make_it_stale(config, tiny_tokenizer):
    prepare(config, TASKS, tiny_tokenizer)
    open_prepared(config, {"mnli": dataclasses.replace(MNLI, family="other", hub={})}, tiny_tokenizer)


def test_new_tags_in_train_make_dev_stale(config, tiny_tokenizer):
    prepare(config, TASKS, tiny_tokenizer)
    with open(f"{config.data.folder}/ccg/train.stagged", "a") as file:
        file.write("blue|JJ|N/N\n")
    states = [row["state"] for row in prepare(config, TASKS, tiny_tokenizer)]
    assert states == ["up to date", "up to date", "prepared", "prepared"]


def test_calls_do_not_change_a_tokenizers_fingerprint(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a cat"], truncation=True, max_length=4, padding="max_length")
    assert tokenizer_fingerprint(tokenizer) == before


def test_an_empty_split(config, tiny_tokenizer):
    open(f"{config.data.folder}/mnli/train.jsonl", "w").write(pair("a", "-") * 3)
    with pytest.raises(UserError, match=r"mnli \(train\) is empty") as caught:
        prepare(config, TASKS, tiny_tokenizer)
    assert "3 rows were read and dropped" in caught.value.why


def test_text_without_anything_to_mask_is_an_empty_split(config, tiny_tokenizer):
    folder = Path(config.data.folder) / "mlm"
    folder.mkdir()
    (folder / "en.txt").write_text("<mask>\n</s>\n")
    (folder / "en.dev.txt").write_text("the cat\n</s>\n")
    with pytest.raises(NoExamples, match=r"mlm \(train\) is empty: none of its 2 examples can be used") as caught:
        prepare(config, {"mlm": MLM}, tiny_tokenizer)
    assert caught.value.why == "nothing to mask: 2" and "mlm" in caught.value.fix
    assert not list(Path(config.data.store).glob("*mlm-*"))
    (folder / "en.txt").write_text("<mask>\nthe dog\n")
    train, dev = prepare(config, {"mlm": MLM}, tiny_tokenizer)
    assert train["units"] == dev["units"] == 1 and train["counts"] == dev["counts"] == {"nothing_to_mask": 1}


def test_a_label_outside_the_set_names_file_and_line(config, tiny_tokenizer):
    path = f"{config.data.folder}/mnli/train.jsonl"
    open(path, "a").write(pair("a", "perhaps"))
    with pytest.raises(UserError, match=r"mnli/train.jsonl:5: label 'perhaps' is none of entailment"):
        prepare(config, TASKS, tiny_tokenizer)
    assert not list(Path(config.data.store).glob("*mnli-*"))


def test_truncated_examples_are_counted(config, tiny_tokenizer):
    short = {"mnli": dataclasses.replace(MNLI, max_length=9)}
    row = prepare(config, short, tiny_tokenizer)[0]
    assert row["counts"] == {"dropped": 1, "truncated": 2} and row["max"] == 9


def test_windows_are_units_of_one_example(config, tiny_tokenizer):
    folder = Path(config.data.folder) / "squad_v2"
    folder.mkdir()
    answers = [{"text": "cat", "answer_start": 4}]
    questions = [{"id": "1", "question": "what sat", "answers": answers}, {"id": "2", "question": "who", "answers": []}]
    paragraphs = [{"context": "the cat sat in the house and " * 3, "qas": questions}]
    for split in ("train", "dev"):
        (folder / f"{split}.json").write_text(json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]}))
    task = {"squad_v2": dataclasses.replace(SQUAD_V2, max_length=20)}
    row = prepare(config, task, tiny_tokenizer)[0]
    store = open_prepared(config, task, tiny_tokenizer)["squad_v2"].train
    assert row["examples"] == 2 and row["units"] == len(store) == 2 + row["counts"]["windows"] > 3
    assert sorted(set(store.example.tolist())) == [0, 1] and np.all(np.diff(store.example) >= 0)


def test_progress_is_told(config, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK", 2)
    told = []
    prepare(config, {"mnli": MNLI}, tiny_tokenizer, lambda what, done: told.append((what, done)))
    assert told == [("mnli train", 2), ("mnli train", 3), ("mnli dev", 1)]


def test_several_processes_give_the_same_bytes(config, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK", 8)
    monkeypatch.setattr(prepare_module, "PARALLEL_FROM", 16)
    words = "the a of in is was and to what who where cat dog house".split()
    rows = [pair(" ".join(words[: 1 + i % 14]), "-" if i % 9 == 4 else "neutral") for i in range(150)]
    open(f"{config.data.folder}/mnli/train.jsonl", "w").write("".join(rows))
    one = with_data(config, store=str(tmp_path / "one"))
    two = with_data(config, store=str(tmp_path / "two"), workers=2)
    tasks = {"mnli": dataclasses.replace(MNLI, max_length=16)}
    first, second = (prepare(recipe, tasks, tiny_tokenizer)[0] for recipe in (one, two))
    assert first == second and first["counts"]["truncated"] > 0 and first["counts"]["dropped"] == 17
    (folder,) = (tmp_path / "one").glob("mnli-train-*")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "two" / folder.name / path.name).read_bytes()
    assert workers_module._function == []  # the pool, not this process, did the work


def xnli_of(config: RunConfig) -> Path:
    folder = Path(config.data.folder) / "xnli"
    folder.mkdir(exist_ok=True)
    rows = [("de", "the cat", "neutral"), ("de", "a dog", "-"), ("fr", "the city", "entailment")]
    lines = [f"{language}\t{label}\t{first}\tthe man" for language, first, label in rows]
    (folder / "xnli.test.tsv").write_text("\n".join(["language\tgold_label\tsentence1\tsentence2", *lines]))
    return folder


def test_a_test_split_in_one_language(config, tiny_tokenizer):
    xnli_of(config)
    task = XNLI.in_language("de")
    with pytest.raises(UserError, match=r"xnli-de \(test\) is not prepared"):
        open_split(config, task, "test", tiny_tokenizer)
    told = []
    store = open_split(config, task, "test", tiny_tokenizer, make=True, progress=lambda *what: told.append(what))
    assert told == [("xnli-de test", 1)]
    assert [reference["label"] for reference in store.references()] == ["neutral"]
    assert store.manifest["counts"] == {"dropped": 1, "other_language": 1}
    assert len(open_split(config, task, "test", tiny_tokenizer)) == len(store) == 1
    french = open_split(config, XNLI.in_language("fr"), "test", tiny_tokenizer, make=True)
    assert french.references()[0]["label"] == "entailment"


def test_a_language_without_examples(config, tiny_tokenizer):
    folder = xnli_of(config)
    with pytest.raises(NoExamples, match=r"xnli-sw \(test\) is empty") as caught:
        open_split(config, XNLI.in_language("sw"), "test", tiny_tokenizer, make=True)
    assert "3 are of other languages" in caught.value.why
    (folder / "xnli.test.tsv").write_text("")
    with pytest.raises(NoExamples, match="xnli.test.tsv has no rows"):
        open_split(config, XNLI.in_language("de"), "test", tiny_tokenizer, make=True)


def test_test_splits_are_not_trained_on(config, tiny_tokenizer):
    with pytest.raises(UserError, match="xnli has no training data"):
        prepare(config, {"xnli": XNLI}, tiny_tokenizer)
    with pytest.raises(UserError, match="tatoeba has no training data"):
        open_split(config, TARGETS["tatoeba"], "train", tiny_tokenizer, make=True)


def test_test_splits_of_tagging_need_the_tags_of_the_training_split(config, tiny_tokenizer):
    with pytest.raises(ValueError, match="the dev split of ccg cannot be read before its training split"):
        open_split(config, CCG, "dev", tiny_tokenizer, make=True)
    open_split(config, CCG, "train", tiny_tokenizer, make=True)
    task = dataclasses.replace(CCG, labels=("N", "NP/N", "S"))
    assert open_split(config, task, "dev", tiny_tokenizer, make=True).column("target", 0).tolist() == [1, -1]


def test_variants_have_stores_of_their_own_and_fixed_tags(config, tiny_tokenizer):
    for code, tag in (("en", "B-PER"), ("de", "B-LOC")):
        folder = Path(config.data.folder) / "panx" / code
        folder.mkdir(parents=True)
        for split in ("train", "dev"):
            (folder / split).write_text(f"{code}:cat\t{tag}\n")
    tasks = {task.name: task for task in (PANX, PANX.in_language("de"))}
    rows = prepare(config, tasks, tiny_tokenizer)
    assert [row["task"] for row in rows] == ["panx", "panx", "panx-de", "panx-de"]
    opened = open_prepared(config, tasks, tiny_tokenizer)
    assert opened["panx"].task.labels == opened["panx-de"].task.labels == PANX.labels
    assert [item.train.column("target", 0).tolist() for item in opened.values()] == [[1], [5]]


def test_functions_of_a_task_do_not_travel_to_other_processes(config, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK", 2)
    monkeypatch.setattr(prepare_module, "PARALLEL_FROM", 2)
    own = {"adapt": lambda row: {**row, "first": "a", "second": "b"}, "keep": lambda row, code: True}
    task = dataclasses.replace(MNLI, **own)
    assert len(open_split(with_data(config, workers=2), task, "train", tiny_tokenizer, make=True)) == 3
