import gzip
import json
import re
from pathlib import Path

import datasets
import pytest

from trainer.config import DataSection
from trainer.data.retrieval_files import open_parallel, read_parallel
from trainer.data.sources import find_files
from trainer.errors import NoExamples, UserError
from trainer.tasks.xtreme import TARGETS, XNLI

TATOEBA, BUCC, LAREQA = (TARGETS[name] for name in ("tatoeba", "bucc2018", "lareqa"))


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


def files(folder: Path) -> DataSection:
    return DataSection(source="files", folder=str(folder), store=str(folder / "store"))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_tatoeba_is_english_first(tmp_path, suffix):
    write(tmp_path, f"tatoeba/tatoeba.cmn-eng.eng{suffix}", "Hello.\nYes.\nBye.\n")
    write(tmp_path, f"tatoeba/tatoeba.cmn-eng.cmn{suffix}", "你好。\n是。\n再见。\n")
    text = open_parallel(TATOEBA.in_language("zh"), files(tmp_path))
    assert text.queries == ["Bye.", "Hello.", "Yes."], "XTREME's order"
    assert text.candidates == ["你好。", "是。", "再见。"]
    assert text.gold == [(0, 2), (1, 0), (2, 1)]
    assert text.query_ids == ["2", "0", "1"] and text.candidate_ids == ["0", "1", "2"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_tatoeba_as_xtreme_preprocesses_it_is_refused(tmp_path, suffix):
    write(tmp_path, f"tatoeba/de-en.en{suffix}", "Bye.\nHello.\n")
    write(tmp_path, f"tatoeba/de-en.de{suffix}", "Hallo.\nTschüss.\n")
    with pytest.raises(UserError, match="(?s)de-en.en.* does not translate de-en.de.*sorts the English side.*LASER"):
        open_parallel(TATOEBA.in_language("de"), files(tmp_path))


def test_unaligned_files_name_both_counts(tmp_path):
    english, other = write(tmp_path, "a.eng", "a\nb\n"), write(tmp_path, "a.deu", "a\n")
    with pytest.raises(UserError, match="(?s)not aligned.*a.eng has 2 lines, a.deu 1"):
        read_parallel([english, other], TATOEBA.in_language("de"))
    with pytest.raises(UserError, match="a.deu:2: an empty line"):
        read_parallel([english, write(tmp_path, "a.deu", "a\n \n")], TATOEBA.in_language("de"))
    with pytest.raises(NoExamples, match="a.deu has no rows"):
        read_parallel([english, write(tmp_path, "a.deu", "")], TATOEBA.in_language("de"))
    with pytest.raises(UserError, match="2 files, not from 1"):
        read_parallel([english], TATOEBA.in_language("de"))


def test_tatoeba_from_the_hub(tmp_path, monkeypatch):
    def load_dataset(path, name, split, revision):
        assert (path, name, split) == ("google/xtreme", "tatoeba.swh", "validation")
        return datasets.Dataset.from_dict({"source_sentence": ["Habari."], "target_sentence": ["Hello."]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    text = open_parallel(TATOEBA.in_language("sw"), DataSection(source="hub", store=str(tmp_path)))
    assert (text.queries, text.candidates, text.gold) == (["Hello."], ["Habari."], [(0, 0)])


def bucc(folder: Path, splits: dict[str, str], below: str = "de-en/") -> None:
    for split, said in splits.items():
        stem = f"bucc2018/{below}de-en.{split}"
        write(folder, f"{stem}.de", f"de-2\t{said} zwei\nde-1\t{said} eins\nde-7\t{said} eins\n")
        write(folder, f"{stem}.en", f"en-1\t{said} one\nen-9\t{said} nine\n")
        write(folder, f"{stem}.gold", "de-1\ten-1\n")


@pytest.mark.parametrize(
    ("splits", "below"),
    [
        ({"sample": "s", "training": "t"}, "de-en/"),
        ({"sample": "s", "training": "t", "test": "x"}, "de-en/"),
        ({"dev": "s", "test": "t"}, ""),  # XTREME's names
    ],
)
def test_bucc_has_two_splits(tmp_path, splits, below):
    bucc(tmp_path, splits, below)
    for split, said in (("sample", "s"), ("training", "t")):
        text = open_parallel(BUCC.in_language("de"), files(tmp_path), split)
        assert text.queries == [f"{said} zwei", f"{said} eins", f"{said} eins"]  # repetitions are kept
        assert text.candidates == [f"{said} one", f"{said} nine"]
        assert (text.query_ids, text.candidate_ids) == (["de-2", "de-1", "de-7"], ["en-1", "en-9"])
        assert text.gold == [(1, 0)]


def test_bucc_with_one_split_uses_it_twice(tmp_path):
    bucc(tmp_path, {"dev": "d"})
    task, data = BUCC.in_language("de"), files(tmp_path)
    assert len(find_files(task, "test", data)) == 6
    assert open_parallel(task, data, "sample") == open_parallel(task, data, "training")


@pytest.mark.parametrize("missing", ["de", "en", "gold"])  # gold: as XTREME's download is
def test_bucc_files_of_different_splits_are_refused(tmp_path, missing):
    bucc(tmp_path, {"dev": "d", "test": "t"}, "")
    (tmp_path / f"bucc2018/de-en.test.{missing}").unlink()
    with pytest.raises(UserError, match=f"(?s)different splits: .*de-en.dev.{missing}.*missing file of dev or test"):
        open_parallel(BUCC.in_language("de"), files(tmp_path), "training")


@pytest.mark.parametrize(
    ("side", "content", "message"),
    [
        ("gold", "de-1\ten-2\n", "gold:1: 'en-2' is no sentence of de-en.sample.en"),
        ("gold", "de-1 en-1\n", "gold:1: not a pair of ids"),
        ("de", "de-1 eins\n", "de:1: not an id and a sentence"),
        ("de", "de-1\ta\nde-1\tb\n", "de:2: the id 'de-1' comes a second time"),
    ],
)
def test_malformed_bucc_files_are_named(tmp_path, side, content, message):
    bucc(tmp_path, {"sample": "s", "training": "t"})
    write(tmp_path, f"bucc2018/de-en/de-en.sample.{side}", content)
    with pytest.raises(UserError, match=message) as caught:
        open_parallel(BUCC.in_language("de"), files(tmp_path), "sample")
    assert "bucc2018-de" in caught.value.fix
    assert open_parallel(BUCC.in_language("de"), files(tmp_path), "training").gold


def xquad_r(**changes) -> str:
    paragraph = {
        "context": "Ja. Nein.",
        "sentence_breaks": [[0, 3], [4, 9]],
        "qas": [
            {"id": "a", "question": "A?", "answers": [{"text": "Nein", "answer_start": 4}]},
            {"id": "b", "question": "B?", "answers": [{"text": "Ja", "answer_start": 0}]},
            {"id": "c", "question": "C?", "answers": [{"text": "N", "answer_start": 4}]},
        ],
    }
    second = {**paragraph, "qas": [{"id": "d", "question": "D?", "answers": [{"text": "J", "answer_start": 0}]}]}
    return json.dumps({"data": [{"paragraphs": [paragraph | changes]}, {"paragraphs": [second]}]})


def test_lareqa_pools_the_sentences_of_all_paragraphs(tmp_path):
    write(tmp_path, "lareqa/xquad-r/de.json", xquad_r())
    text = open_parallel(LAREQA.in_language("de"), files(tmp_path))
    assert text.queries == ["A?", "B?", "C?", "D?"] and text.query_ids == ["a", "b", "c", "d"]
    assert text.candidates == ["Ja.Ja. Nein.", "Nein.Ja. Nein."] * 2, "as XTREME-R writes them"
    assert text.candidate_ids == ["de_1_0", "de_1_1", "de_2_0", "de_2_1"]
    assert text.gold == [(0, 1), (1, 0), (2, 1), (3, 2)]  # two questions, one sentence


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (xquad_r(context=None), "not in XQuAD-R's layout"),
        (xquad_r(sentence_breaks=[[0, 3], [5, 9]]), "question a: its answer begins in no sentence"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "(?s)not in XQuAD-R's layout.*sentence_breaks"),
        ("[1]", "not in XQuAD-R's layout"),
    ],
)
def test_malformed_lareqa_files_are_named(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_parallel([write(tmp_path, "de.json", content)], LAREQA.in_language("de"))


@pytest.mark.parametrize("content", ["", '{"data": []}'])
def test_lareqa_without_questions(tmp_path, content):
    with pytest.raises(NoExamples):
        read_parallel([write(tmp_path, "de.json", content)], LAREQA.in_language("de"))


def test_other_tasks_are_no_retrieval(tmp_path):
    with pytest.raises(ValueError, match="xnli-de"):
        read_parallel([tmp_path], XNLI.in_language("de"))


def test_real_tatoeba_has_its_stated_pairs(real_data):
    data = DataSection(source="files", folder=str(real_data))
    stated = dict(re.findall(r"\b([a-z]{3}) (\d+)", (real_data / "tatoeba/README.md").read_text().split("equal:")[-1]))
    for code in TATOEBA.languages:
        task = TATOEBA.in_language(code)
        iso3 = task.files["test"][1][0].rsplit(".", 1)[-1]
        assert len(open_parallel(task, data).gold) == int(stated.pop(iso3)), code
    assert not stated


def test_real_tatoeba_is_in_the_order_of_xtremes_hidden_labels(real_data):
    data = DataSection(source="files", folder=str(real_data))
    for code in TATOEBA.languages:
        labels = (real_data / f"xtreme_mock/labels/tatoeba/test-{code}.tsv").read_text().split()
        gold = open_parallel(TATOEBA.in_language(code), data).gold
        assert [query for query, _ in gold] == list(range(len(gold)))
        assert [candidate for _, candidate in gold][: len(labels)] == [int(label) for label in labels], code


def test_real_bucc_and_lareqa_have_their_stated_counts(real_data):
    data = DataSection(source="files", folder=str(real_data))
    text = open_parallel(BUCC.in_language("zh"), data, "sample")
    assert (len(text.queries), len(text.candidates), len(text.gold)) == (8624, 13589, 257)
    rows = re.findall(r"^\| (\w\w) \| (\d+) \| (\d+) \|$", (real_data / "lareqa/README.md").read_text(), re.M)
    assert sorted(code for code, *_ in rows) == sorted(LAREQA.languages)
    for code, questions, sentences in rows:
        text = open_parallel(LAREQA.in_language(code), data)
        assert (len(text.queries), len(text.candidates)) == (int(questions), int(sentences)), code
        assert len(text.gold) == int(questions) == len({query for query, _ in text.gold})
