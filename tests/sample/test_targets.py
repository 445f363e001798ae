import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from trainer.sample import write_sample
from trainer.sample.multilingual import ISO3, LANGUAGES, ORDERS, PLACES, VERBS
from trainer.sample.sentences import Event, ask, say, say_both
from trainer.sample.targets import BUCC_LANGUAGES, MLQA_LANGUAGES, PAWSX_LANGUAGES, UDPOS_LANGUAGES, XQUAD_LANGUAGES

UPOS = set("ADJ ADP ADV AUX CCONJ DET NOUN NUM PART PRON PROPN PUNCT SCONJ VERB".split())


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def table(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def water(language: str, order: str) -> str:
    """What Anna drinks in Berlin every morning."""
    return say(language, order, Event(0, ("drink", "water"), 0, 0)).text


def test_sentences_of_each_language():
    assert [water(language, "event") for language in LANGUAGES] == [
        "Anna drinks water in Berlin every morning.",
        "Anna trinkt jeden Morgen in Berlin Wasser.",
        "Anna bebe agua en Berlín cada mañana.",
        "Anna boit de l'eau à Berlin chaque matin.",
        "Анна каждое утро пьёт воду в Берлине.",
        "Anna hunywa maji mjini Berlin kila asubuhi.",
        "Anna her sabah Berlin'de su içer.",
        "安娜每天早上在柏林喝水。",
    ]
    assert water("fr", "never") == "Anna ne boit jamais d'eau."
    assert water("sw", "nobody") == "Hakuna mtu anayekunywa maji mjini Berlin."
    assert water("tr", "never") == "Anna asla su içmez."
    letter = Event(0, ("write", "letter"), 0, 0)
    assert water("de", "fronted") == "Jeden Morgen trinkt Anna in Berlin Wasser."
    assert say("fr", "never", letter).text == "Anna n'écrit jamais de lettre."
    assert say("zh", "never", letter).text == "安娜从不写信。"
    assert say_both("ru", letter, letter).text == "Анна пишет письмо, а Анна пишет письмо."
    assert ask("fr", "what", letter) == "Qu'est-ce qu'Anna écrit ?"


def test_inventory_has_every_order_in_every_language():
    for order in ORDERS.values():
        assert tuple(order) == LANGUAGES
    for row in (*VERBS.values(), *PLACES):
        assert all(row[language] for language in LANGUAGES)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_xnli(sample, split):
    rows = table(sample / f"xnli/xnli.{split}.tsv")
    by_language = {language: [row for row in rows if row["language"] == language] for language in LANGUAGES}
    golds = {tuple(row["gold_label"] for row in found) for found in by_language.values()}
    assert len(golds) == 1  # parallel
    assert len(set(Counter(golds.pop()).values())) == 1  # balanced
    for found in by_language.values():
        assert len({(row["sentence1"], row["sentence2"]) for row in found}) == len(found)


def test_xnli_shares_nothing_with_mnli(sample):
    seen = {(row["sentence1"], row["sentence2"]) for row in table(sample / "mnli/train.tsv")}
    seen |= {(row["sentence1"], row["sentence2"]) for row in table(sample / "mnli/dev_matched.tsv")}
    dev, test = (
        {(row["sentence1"], row["sentence2"]) for row in table(sample / f"xnli/xnli.{split}.tsv")}
        for split in ("dev", "test")
    )
    assert not seen & (dev | test) and not dev & test


def test_pawsx(sample):
    seen = set()
    for name in ("train", "dev_2k", "test_2k"):
        rows = table(sample / f"pawsx/en/{name}.tsv")
        assert Counter(row["label"] for row in rows) == {"0": len(rows) // 2, "1": len(rows) // 2}
        pairs = {(row["sentence1"], row["sentence2"]) for row in rows}
        assert len(pairs) == len(rows) and not pairs & seen
        seen |= pairs
    golds = {tuple(r["label"] for r in table(sample / f"pawsx/{lang}/test_2k.tsv")) for lang in PAWSX_LANGUAGES}
    assert len(golds) == 1


@pytest.mark.parametrize("language", UDPOS_LANGUAGES)
def test_udpos_words_spell_the_text(sample, language):
    for block in (sample / f"udpos/{language}-test.conllu").read_text(encoding="utf-8").strip().split("\n\n"):
        head = [line for line in block.splitlines() if line.startswith("# text = ")][0].removeprefix("# text = ")
        words = [line.split("\t") for line in block.splitlines() if not line.startswith("#")]
        assert all(len(word) == 10 and word[3] in UPOS for word in words)
        assert [word[0] for word in words] == [str(i + 1) for i in range(len(words))]
        assert "".join(word[1] + ("" if word[9] == "SpaceAfter=No" else " ") for word in words).strip() == head


@pytest.mark.parametrize("language", LANGUAGES)
def test_panx_entities_are_well_formed(sample, language):
    for split in ("train", "dev", "test") if language == "en" else ("dev", "test"):
        kinds = Counter()
        for block in (sample / f"panx/{language}/{split}").read_text(encoding="utf-8").strip().split("\n\n"):
            before = "O"
            for line in block.splitlines():
                word, tag = line.split("\t")
                assert word.startswith(f"{language}:") and len(word) > 3
                assert tag[0] in "OB" or before[1:] == tag[1:]
                kinds[tag] += 1
                before = tag
        assert {"B-PER", "I-PER", "B-LOC", "B-ORG", "O"} <= set(kinds)


QA_FILES = (
    [f"xquad/xquad.{lang}.json" for lang in XQUAD_LANGUAGES]
    + [f"mlqa/{part}/{part}-context-{lang}-question-{lang}.json" for part in ("dev", "test") for lang in MLQA_LANGUAGES]
    + [f"tydiqa/tydiqa-goldp-v1.1-dev/tydiqa.{lang}.dev.json" for lang in ("en", "ru", "sw")]
    + ["tydiqa/tydiqa-goldp-v1.1-train.json"]
    + [f"lareqa/xquad-r/{lang}.json" for lang in XQUAD_LANGUAGES]
)


@pytest.mark.parametrize("name", QA_FILES)
def test_offsets(sample, name):
    tree = json.loads((sample / name).read_text(encoding="utf-8"))
    paragraphs = [paragraph for article in tree["data"] for paragraph in article["paragraphs"]]
    ids = [qa["id"] for paragraph in paragraphs for qa in paragraph["qas"]]
    assert len(ids) == len(set(ids)) >= 30
    for paragraph in paragraphs:
        for qa in paragraph["qas"]:
            for answer in qa["answers"]:
                assert answer["text"] and paragraph["context"].startswith(answer["text"], answer["answer_start"])
        breaks = paragraph.get("sentence_breaks", [])
        assert [paragraph["context"][a:b] for a, b in breaks] == paragraph.get("sentences", [])


def test_tydiqa_training_holds_several_languages(sample):
    tree = json.loads((sample / "tydiqa/tydiqa-goldp-v1.1-train.json").read_text(encoding="utf-8"))
    ids = [qa["id"] for article in tree["data"] for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    counts = Counter(key.split("-")[0] for key in ids)
    assert set(counts) == {"english", "russian", "swahili"} and len(set(counts.values())) == 1


@pytest.mark.parametrize("language", ISO3)
def test_tatoeba_sides_are_aligned_and_unique(sample, language):
    folder, iso3 = sample / "tatoeba", ISO3[language]
    foreign, english = (lines(folder / f"tatoeba.{iso3}-eng.{side}") for side in (iso3, "eng"))
    assert len(foreign) == len(english) == len(set(foreign)) == len(set(english)) == 100
    good_morning = english.index("Good morning.")
    assert foreign[good_morning].rstrip(".。") in (
        "Guten Morgen", "Buenos días", "Bonjour", "Доброе утро", "Habari za asubuhi", "Günaydın", "早上好",
    )  # fmt: skip


@pytest.mark.parametrize("language", BUCC_LANGUAGES)
def test_bucc_gold_names_sentences_of_both_sides(sample, language):
    folder, seen = sample / f"bucc2018/{language}-en", set()
    for split, size in (("sample", 90), ("training", 180)):
        sides = {}
        for side in (language, "en"):
            pairs = [line.split("\t") for line in lines(folder / f"{language}-en.{split}.{side}")]
            sides[side] = dict(pairs)
            assert len(sides[side]) == len(set(sides[side].values())) == size
            assert not seen & set(sides[side].values())
            seen |= set(sides[side].values())
        gold = [line.split("\t") for line in lines(folder / f"{language}-en.{split}.gold")]
        assert len(gold) == size // 3
        assert all(first in sides[language] and second in sides["en"] for first, second in gold)
        for first, second in gold:  # company names are the same words in German, French and Russian
            for company in ("Siemens", "Toyota", "Nokia", "Samsung", "Airbus", "Bosch"):
                if language != "zh":
                    assert (company in sides[language][first]) == (company in sides["en"][second])


def test_xcopa(sample):
    seen = set()
    for split in ("train", "val", "test"):
        rows = [json.loads(line) for line in lines(sample / f"xcopa/en.{split}.jsonl")]
        assert Counter(row["label"] for row in rows) == {0: len(rows) // 2, 1: len(rows) // 2}
        found = {json.dumps({key: row[key] for key in row if key != "idx"}) for row in rows}
        assert len(found) == len(rows) and not found & seen
        seen |= found
        for language in ("sw", "tr", "zh") if split != "train" else ():
            other = [json.loads(line) for line in lines(sample / f"xcopa/{language}.{split}.jsonl")]
            assert [row["label"] for row in other] == [row["label"] for row in rows]
