import gzip

import pytest

from trainer.data.readers import read_rows
from trainer.errors import NoExamples, UserError
from trainer.tasks.xtreme import PANX, UDPOS


def read(folder, name, content, task=UDPOS):
    path = folder / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return [(place.removeprefix(f"{folder}/"), row) for place, row in read_rows(path, task)]


def word(number, form, tag="NOUN"):
    return "\t".join([str(number), form, "_", tag, *"______"]) + "\n"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_conllu(tmp_path, suffix):
    content = (
        "# sent_id = 1\n# text = vámonos al mar\n"
        + word("1-2", "vámonos", "_") + word(1, "vamos", "VERB") + word(2, "nos", "PRON")
        + word("3-4", "al", "_") + word(3, "a", "ADP") + word(4, "el", "DET") + word("4.1", "gran", "ADJ")
        + word(5, "mar") + "\n\n# text = #1\n" + word(1, "#", "SYM") + word(2, "1", "NUM")
    )  # fmt: skip
    name = f"es_gsd-ud-test.conllu{suffix}"
    assert read(tmp_path, name, content) == [
        (f"{name}:3", {"words": "vamos nos a el mar".split(), "tags": "VERB PRON ADP DET NOUN".split()}),
        (f"{name}:14", {"words": ["#", "1"], "tags": ["SYM", "NUM"]}),
    ]


def test_a_word_of_a_treebank_may_hold_spaces(tmp_path):
    ((_, row),) = read(tmp_path, "vi.conllu", word(1, "Hà Nội", "PROPN"))
    assert row["words"] == ["Hà Nội"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (word(1, "a") + "2\tb\tNOUN\n", ":2: malformed CoNLL-U: 3 columns"),
        (word(1, "a").replace("\t", " "), ":1: malformed CoNLL-U: 1 columns"),
        (word(1, "a") + word(3, "b"), ":2: malformed CoNLL-U: id 3 after word 1"),
        (word(1, "a") + word(1, "b"), "an empty line ends it"),
        (word("x", "a"), ":1: malformed CoNLL-U: id x after word 0"),
        (word(1, "a") + word(2, " "), ":2: malformed CoNLL-U: word 2 has no form or no universal tag"),
        (word(1, "a", "_"), "word 1 has no form or no universal tag"),
        ("# text = secret\n" + word(1, "_") + word(2, "_"), ":2: the words are hidden for their licence"),
    ],
)
def test_malformed_conllu_is_named(tmp_path, content, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path, "en_x-ud-test.conllu", content)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n"])
def test_files_without_sentences(tmp_path, content):
    with pytest.raises(NoExamples, match="has no rows"):
        read(tmp_path, "en_x-ud-test.conllu", content)


@pytest.mark.parametrize("name", ["train", "train.gz", "train-de.tsv"])
def test_wikianns_prefix_is_taken_off(tmp_path, name):
    content = "de:Die\tO\nde:de:Stadt\tB-LOC\n\nde:Bonn\tB-LOC\n"
    rows = [row for _, row in read(tmp_path, name, content, PANX.in_language("de"))]
    assert rows == [{"words": ["Die", "de:Stadt"], "tags": ["O", "B-LOC"]}, {"words": ["Bonn"], "tags": ["B-LOC"]}]


def test_files_without_the_prefix_are_left_as_they_are(tmp_path):
    rows = [row for _, row in read(tmp_path, "dev-de.tsv", "Die\tO\nde:Stadt\tO\n", PANX.in_language("de"))]
    assert rows == [{"words": ["Die", "de:Stadt"], "tags": ["O", "O"]}]


def test_a_word_without_the_prefix_is_named(tmp_path):
    with pytest.raises(UserError, match=r"dev:3: 'fr:La\\tO' does not begin with 'de:'"):
        read(tmp_path, "dev", "de:Die\tO\n\nfr:La\tO\n", PANX.in_language("de"))
    with pytest.raises(UserError, match=r"dev:1: 'de:\\tO' is not a word with its tag"):
        read(tmp_path, "dev", "de:\tO\n", PANX.in_language("de"))


def test_tests_as_xtreme_ships_them_have_no_tags(tmp_path):
    with pytest.raises(UserError, match="test-de.tsv:1: 'Die' is not a word with its tag"):
        read(tmp_path, "test-de.tsv", "Die\nStadt\n", PANX.in_language("de"))
