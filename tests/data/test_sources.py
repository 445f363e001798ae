import dataclasses
import gzip
import json
import os
from collections import Counter

import datasets
import pytest

from trainer.config import DataSection
from trainer.data import sources
from trainer.data.sources import find_files, iter_examples, source_fingerprint
from trainer.errors import NoExamples, UserError
from trainer.tasks import FORMATS
from trainer.tasks.intermediate import ANLI_PLUS, CCG, COMMONSENSE_QA, COSMOS_QA, HELLASWAG, MNLI, QQP, SQUAD_V2
from trainer.tasks.spec import HubPart, Task
from trainer.tasks.xtreme import PANX, UDPOS, XNLI


def files(tmp_path, **more) -> DataSection:
    return DataSection(source="files", folder=str(tmp_path / "data"), store=str(tmp_path / "store"), **more)


def write(tmp_path, name: str, text: str):
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def pair(label) -> str:
    return json.dumps({"premise": "a", "hypothesis": "b", "label": label}) + "\n"


def test_rows_carry_role_names(tmp_path):
    write(tmp_path, "mnli/train.jsonl.gz", pair("neutral"))
    ((place, row),) = iter_examples(MNLI, "train", files(tmp_path))
    assert place.endswith("mnli/train.jsonl.gz:1")
    assert row == {"first": "a", "second": "b", "label": "neutral", "id": "train.jsonl.gz:1"}


def test_all_parts_in_their_order(tmp_path):
    for n in (1, 2, 3):
        row = {"uid": n, "context": "a", "hypothesis": "b", "label": "e"}
        write(tmp_path, f"anli_plus/R{n}/dev.jsonl", json.dumps(row))
    glue = "sentence1\tsentence2\tlabel1\tgold_label\na\tb\tneutral\tneutral\n"
    write(tmp_path, "anli_plus/MNLI/dev_matched.tsv", glue)
    with pytest.raises(UserError, match="(?s)anli_plus .dev. is missing.*snli_1.0_dev.jsonl") as caught:
        list(iter_examples(ANLI_PLUS, "dev", files(tmp_path)))
    assert "with .gz" in str(caught.value)
    row = {"sentence1": "a", "sentence2": "b", "gold_label": "-"}
    write(tmp_path, "anli_plus/snli_1.0/snli_1.0_dev.jsonl", json.dumps(row))
    rows = [row for _, row in iter_examples(ANLI_PLUS, "dev", files(tmp_path))]
    assert [row["label"] for row in rows] == ["e", "e", "e", "neutral", "-"]
    assert [row["id"] for row in rows[:3]] == [1, 2, 3]


def test_sections_of_ccgbank_are_read_in_order(tmp_path):
    for section in range(23):
        write(tmp_path, f"ccg/data/AUTO/{section:02d}/wsj_{section:02d}01.auto", f"(<L N N N w{section} N>)\n")
    write(tmp_path, "ccg/data/AUTO/02/wsj_0200.auto.gz", "(<L N N N first N>)\n")
    write(tmp_path, "ccg/data/AUTO/02/wsj_0201.auto.gz", "(<L N N N again N>)\n")
    words = [row["words"] for _, row in iter_examples(CCG, "train", files(tmp_path))]
    assert words == [["first"], *([f"w{section}"] for section in range(2, 22))]
    assert [row["words"] for _, row in iter_examples(CCG, "dev", files(tmp_path))] == [["w0"]]
    (tmp_path / "data/ccg/data/AUTO/07/wsj_0701.auto").unlink()
    with pytest.raises(UserError, match=r"\{02..21\}"):
        find_files(CCG, "train", files(tmp_path))


def test_named_files_come_first(tmp_path):
    write(tmp_path, "mnli/train.jsonl", pair("neutral"))
    other = write(tmp_path, "other.jsonl", pair("entailment"))
    for source in ("files", "hub", "sample"):
        data = dataclasses.replace(files(tmp_path, files={"mnli": {"train": (str(other),)}}), source=source)
        assert [row["label"] for _, row in iter_examples(MNLI, "train", data)] == ["entailment"]


def test_a_column_an_option(tmp_path):
    columns = {"prompt": ("context",), "choices": ("answerA", "answerB"), "label": ("correct",)}
    task = Task("siqa", "multiple_choice", columns, choices=2, files={"train": (("train.jsonl",),)})
    write(tmp_path, "siqa/train.jsonl", json.dumps({"context": "c", "answerA": "x", "answerB": "y", "correct": "B"}))
    ((_, row),) = iter_examples(task, "train", files(tmp_path))
    assert FORMATS["multiple_choice"].example(row, task) == {
        "id": "train.jsonl:1",
        "prompt": "c",
        "choices": ["x", "y"],
        "label": 1,
    }


def test_missing_columns_and_odd_rows_are_named(tmp_path):
    write(tmp_path, "mnli/train.tsv", "a b\tc d\tneutral\ne\tf\tneutral\n")
    with pytest.raises(UserError, match=r"(?s)train.tsv:2: no column for first .*header"):
        list(iter_examples(MNLI, "train", files(tmp_path)))
    write(tmp_path, "hellaswag/hellaswag_val.jsonl", '{"endings": []}\n')
    with pytest.raises(UserError, match="(?s)hellaswag_val.jsonl:1: not a row of hellaswag.*'ctx'"):
        list(iter_examples(HELLASWAG, "dev", files(tmp_path)))


def test_a_task_off_the_hub_says_what_to_set(tmp_path):
    with pytest.raises(UserError, match="(?s)not on the hub.*data.folder=FOLDER"):
        list(iter_examples(CCG, "train", DataSection(source="hub", store=str(tmp_path))))


@pytest.fixture
def hub(monkeypatch):
    """A hub of one data set, with the calls that were made to it."""
    calls = []
    label = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features(
        premise=datasets.Value("string"), hypothesis=datasets.Value("string"), label=label, tags=datasets.List(label)
    )
    rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, -1], "tags": [[0], [1, 2]]}

    def load_dataset(path, name=None, **options):
        calls.append((path, name, options))
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_class_ids_of_the_hub_become_names(hub):
    rows = [row for _, row in iter_examples(MNLI, "train", DataSection())]
    assert [row["label"] for row in rows] == ["contradiction", "-1"]
    assert rows[0]["id"] == "train[0]"
    assert hub == [("nyu-mll/glue", "mnli", {"split": "train", "revision": "main"})]
    columns = {"words": ("premise",), "tags": ("tags",)}
    tagging = Task("t", "token_tagging", columns, hub={"train": (HubPart("x/y", "train"),)})
    tags = [row["tags"] for _, row in iter_examples(tagging, "train", DataSection())]
    assert tags == [["entailment"], ["neutral", "contradiction"]]


def test_an_unreachable_hub_is_one_error(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match="(?s)nyu-mll/glue/mnli/train.*ConnectionError: no route.*HF_HUB_OFFLINE"):
        next(iter_examples(MNLI, "train", DataSection()))


def test_fingerprints_follow_the_bytes(tmp_path, monkeypatch):
    path = write(tmp_path, "mnli/train.jsonl", pair("neutral"))
    data = files(tmp_path)
    first = source_fingerprint(MNLI, "train", data)
    os.utime(path, (1, 1))
    assert source_fingerprint(MNLI, "train", data) == first
    path.write_text(pair("entailment"))
    assert source_fingerprint(MNLI, "train", data) != first
    path.write_text(pair("neutral"))
    assert source_fingerprint(MNLI, "train", data) == first
    path.rename(path.with_name("train.json"))
    assert source_fingerprint(MNLI, "train", data) != first
    moved = tmp_path / "elsewhere"
    (tmp_path / "data").rename(moved)
    (moved / "mnli/train.json").rename(moved / "mnli/train.jsonl")
    assert source_fingerprint(MNLI, "train", dataclasses.replace(data, folder=str(moved))) == first


def test_known_files_are_not_read_again(tmp_path, monkeypatch):
    write(tmp_path, "mnli/train.jsonl", pair("neutral"))
    data = files(tmp_path)
    first = source_fingerprint(MNLI, "train", data)
    assert len(json.loads((tmp_path / "store/file_hashes.json").read_text())) == 1
    monkeypatch.setattr(sources.xxhash, "xxh3_128", counted := Counted(sources.xxhash.xxh3_128))
    assert source_fingerprint(MNLI, "train", data) == first
    assert counted.calls == 1  # the list of hashes alone
    (tmp_path / "store/file_hashes.json").write_text("damaged")
    assert source_fingerprint(MNLI, "train", data) == first and counted.calls == 3


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self):
        self.calls += 1
        return self.function()


def test_fingerprints_of_the_hub_follow_its_names(hub):
    data = DataSection()
    moved = dataclasses.replace(MNLI, hub={"train": (dataclasses.replace(MNLI.hub["train"][0], revision="v2"),)})
    assert source_fingerprint(MNLI, "train", data) != source_fingerprint(moved, "train", data)
    assert not hub


def test_the_sample_is_written_once(tmp_path, monkeypatch):
    import sys
    import types

    calls = []

    def write_sample(folder):
        calls.append(folder)
        (folder / "mnli").mkdir()
        (folder / "mnli/multinli_1.0_train.jsonl").write_text(pair("neutral"))

    monkeypatch.setitem(sys.modules, "trainer.sample", types.SimpleNamespace(write_sample=write_sample))
    data = DataSection(source="sample", store=str(tmp_path / "store"))
    for _ in range(2):
        assert [row["label"] for _, row in iter_examples(MNLI, "train", data)] == ["neutral"]
    assert len(calls) == 1 and sorted(os.listdir(tmp_path / "store")) == ["sample"]
    source_fingerprint(MNLI, "train", data)


NLI_IDS = {"0": "entailment", "1": "neutral", "2": "contradiction"}
REAL = [  # (task, files, examples, dropped): the counts that the folders' READMEs state
    (SQUAD_V2, ("squad2/dev-v2.0.json.gz",), 6078, 0),
    (HELLASWAG, ("hellaswag/hellaswag_val.jsonl.gz",), 10042, 0),
    (COSMOS_QA, ("cosmosqa/valid.csv.gz",), 2985, 0),
    (COMMONSENSE_QA, ("commonsenseqa/dev_rand_split.jsonl.gz",), 1218, 0),
    (CCG, ("brown/dev.tsv.gz",), 5869, 0),
    (ANLI_PLUS, ("nli/cad/original/train.tsv", "nli/cad/original/dev.tsv"), 1866, 0),
    (
        dataclasses.replace(MNLI, header=("sentence1", "sentence2", "label"), label_names=NLI_IDS),
        ("nli/snli/dev.txt.gz",),
        9842,
        0,
    ),
    (
        dataclasses.replace(QQP, header=("question1", "question2", "label")),
        ("paraphrase/quora/dev.txt.gz", "paraphrase/quora/test.txt.gz"),
        20000,
        0,
    ),
    (
        dataclasses.replace(
            QQP, columns={"first": ("#1 String",), "second": ("#2 String",), "label": ("Quality",)}, drop_labels=()
        ),
        ("paraphrase/mrpc/msr_paraphrase_train.txt.gz",),
        4076,
        0,
    ),
]


@pytest.mark.parametrize(("task", "names", "examples", "dropped"), REAL, ids=lambda value: getattr(value, "name", None))
def test_real_files_read_to_their_stated_counts(real_data, tmp_path, task, names, examples, dropped):
    paths = tuple(str(real_data / name) for name in names)
    data = DataSection(store=str(tmp_path), files={task.name: {"dev": paths}})
    read = FORMATS[task.format].example
    found = [read(row, task) for _, row in iter_examples(task, "dev", data)]
    assert (sum(e is not None for e in found), found.count(None)) == (examples, dropped)
    assert len(find_files(task, "dev", data)) == len(names)
    if task is SQUAD_V2:
        assert sum(not e["answers"] for e in found) == 3168
    if task is CCG:
        assert sum(len(e["words"]) for e in found) == 116104


def xnli(tmp_path):
    rows = [("de", "neutral", "a"), ("fr", "neutral", "b"), ("de", "entailment", "c")]
    lines = ["language\tgold_label\tsentence1\tsentence2", *("\t".join((*row, "h")) for row in rows)]
    return write(tmp_path, "xnli/xnli.test.tsv", "\n".join(lines))


def test_rows_of_other_languages_are_left_out_and_counted(tmp_path):
    xnli(tmp_path)
    counts = Counter()
    rows = [row for _, row in iter_examples(XNLI.in_language("de"), "test", files(tmp_path), counts)]
    assert [row["first"] for row in rows] == ["a", "c"] and counts == {"other_language": 1}
    assert not list(iter_examples(XNLI.in_language("sw"), "test", files(tmp_path)))


def test_a_variant_reads_below_its_bases_folder(tmp_path):
    write(tmp_path, "mnli/multinli.train.de.tsv", "premise\thypo\tlabel\nA\tB\tcontradictory\n")
    write(tmp_path, "mnli/multinli_1.0_train.jsonl", pair("neutral"))
    german = MNLI.in_language("de")
    ((_, row),) = iter_examples(german, "train", files(tmp_path))
    assert FORMATS[german.format].example(row, german)["label"] == "contradiction"
    ((_, row),) = iter_examples(MNLI, "train", files(tmp_path))
    assert row["label"] == "neutral"
    with pytest.raises(UserError, match="mnli-de .dev. is missing"):
        find_files(german, "dev", files(tmp_path))
    with pytest.raises(UserError, match="(?s)nothing to read ccg-de.*their names do not tell languages apart"):
        find_files(dataclasses.replace(CCG, files={"dev": (("dev.auto",),)}).in_language("de"), "dev", files(tmp_path))


def test_paths_with_placeholders_name_the_files_of_all_languages(tmp_path):
    for code in ("en", "de"):
        write(tmp_path, f"mine/dev-{code}.tsv", f"{code}\tO\n")
    named = {"panx": {"test": (str(tmp_path / "data/mine/dev-{language}.tsv"),)}}
    for source in ("files", "hub"):
        data = dataclasses.replace(files(tmp_path, files=named), source=source)
        for code in ("en", "de"):
            ((_, row),) = iter_examples(PANX.in_language(code), "test", data)
            assert row["words"] == [code]
    one = {"panx": {"test": (str(tmp_path / "data/mine/dev-en.tsv"),)}}  # English alone
    with pytest.raises(UserError, match="panx-de .test. is missing"):
        find_files(PANX.in_language("de"), "test", files(tmp_path, files=one))
    all_in_one = {"xnli": {"test": (str(xnli(tmp_path)),)}}
    assert len(list(iter_examples(XNLI.in_language("fr"), "test", files(tmp_path, files=all_in_one)))) == 1


def test_all_treebanks_of_a_language_are_read(tmp_path):
    for name in ("de_gsd-ud-test.conllu", "de_pud-ud-test.conllu.gz", "en_ewt-ud-test.conllu", "de_gsd-ud-dev.conllu"):
        write(tmp_path, f"udpos/{name}", f"1\t{name[:6]}\t_\tX\t_\t_\t_\t_\t_\t_\n")
    german = UDPOS.in_language("de")
    rows = [row for _, row in iter_examples(german, "test", files(tmp_path))]
    assert [row["words"] for row in rows] == [["de_gsd"], ["de_pud"]]
    write(tmp_path, "udpos/de_zzz-ud-test.conllu", "")  # one of several: damaged, not a language without examples
    with pytest.raises(UserError, match="(?s)de_zzz-ud-test.conllu has no rows.*one of 3 files") as caught:
        list(iter_examples(german, "test", files(tmp_path)))
    assert not isinstance(caught.value, NoExamples)


def test_an_empty_file_is_no_examples(tmp_path):
    write(tmp_path, "udpos/test-de.tsv", "\n")
    with pytest.raises(NoExamples, match="udpos-de .test. is empty: .*test-de.tsv has no rows"):
        list(iter_examples(UDPOS.in_language("de"), "test", files(tmp_path)))


def test_fingerprints_follow_labels_that_lie_beside(tmp_path):
    write(tmp_path, "xnli/test-de.tsv", "a\tb\n")
    labels = write(tmp_path, "xnli/test.labels.txt", "neutral\n")
    first = source_fingerprint(XNLI.in_language("de"), "test", files(tmp_path))
    labels.write_text("entailment\n")
    assert source_fingerprint(XNLI.in_language("de"), "test", files(tmp_path)) != first


def test_variants_of_the_hub(hub):
    list(iter_examples(MNLI.in_language("de"), "train", DataSection()))
    list(iter_examples(XNLI, "test", DataSection()))
    assert [(name, config, options["split"]) for name, config, options in hub] == [
        ("facebook/xnli", "de", "train"), ("facebook/xnli", "en", "test"),
    ]  # fmt: skip
    german, english = (source_fingerprint(XNLI.in_language(code), "test", DataSection()) for code in ("de", "en"))
    assert german != english
