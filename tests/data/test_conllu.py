import gzip
from pathlib import Path

import pytest

from trainer.config import DataSection
from trainer.data.readers import read_rows
from trainer.data.sources import find_files
from trainer.errors import NoExamples, UserError
from trainer.tasks import FORMATS
from trainer.tasks.xtreme import UDPOS

ZWNJ = "\u200c"


def read(folder: Path, content: str, language: str = "en", name: str = "x_y-ud-test.conllu") -> list[tuple[str, dict]]:
    path = folder / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return [(place.removeprefix(f"{folder}/"), row) for place, row in read_rows(path, UDPOS.in_language(language))]


def word(number, form, tag="NOUN", head="_", enhanced="_"):
    return "\t".join([str(number), form, "_", tag, "_", "_", str(head), "_", enhanced, "_"]) + "\n"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_multiword_tokens_are_one_token(tmp_path, suffix):
    content = (
        "# sent_id = 1\n# text = vámonos al mar\n"
        + word("1-2", "vámonos", "_") + word(1, "vamos", "VERB", 0) + word(2, "nos", "PRON", 1)
        + word("3-4", "al", "_") + word(3, "a", "ADP", 5) + word(4, "el", "DET", 5) + word("4.1", "gran", "ADJ")
        + word(5, "mar", "NOUN", 1) + "\n\n# text = #1\n" + word(1, "#", "SYM") + word(2, "1", "NUM")
    )  # fmt: skip
    name = f"es_gsd-ud-test.conllu{suffix}"
    assert read(tmp_path, content, "es", name) == [
        (f"{name}:3", {"words": "vámonos al mar".split(), "tags": "VERB ADP NOUN".split()}),
        (f"{name}:14", {"words": ["#", "1"], "tags": ["SYM", "NUM"]}),
    ]


@pytest.mark.parametrize(
    ("language", "words", "tag"),
    [
        ("en", [("NOUN", 2), ("DET", 0)], "DET"),  # the one nearer to the root, whatever the order
        ("en", [("PART", 3), ("ADP", 3), ("X", 0)], "ADP"),  # equally near: by the order of most languages
        ("es", [("PRON", 3), ("ADP", 3), ("X", 0)], "PRON"),
        ("en", [("ADP", 3), ("PRON", 3), ("X", 0)], "PRON"),
        ("fr", [("CCONJ", 3), ("PART", 3), ("X", 0)], "PART"),  # French and others do not list CCONJ
        ("it", [("NOUN", 3), ("DET", 3), ("X", 0)], "DET"),
        ("en", [("ADP", 3), ("ADP", 3), ("X", 0)], "ADP"),
        ("en", [("DET", 2), ("VERB", 1), ("X", 0)], "VERB"),  # a circle
        ("en", [("DET", "_"), ("VERB", "_"), ("X", "_")], "VERB"),  # a file without heads
    ],
)
def test_the_tag_of_a_multiword_token(tmp_path, language, words, tag):
    last = 2
    content = word(f"1-{last}", "ab", "_") + "".join(word(i, "a", *what) for i, what in enumerate(words, 1))
    ((_, row),) = read(tmp_path, content, language)
    assert row["tags"][0] == tag and row["words"][0] == "ab" and len(row["words"]) == 1 + len(words) - last


def test_enhanced_dependencies_count_as_heads(tmp_path):
    """ "its": by its head alone PRON would win, but XTREME's tool adds the enhanced edges to the same graph."""
    content = (
        word("1-2", "its", "_") + word(1, "it", "PRON", 3, "3:nsubj|4:nsubj:xsubj") + word(2, "s", "AUX", 3, "3:cop")
    )
    ((_, row),) = read(tmp_path, content + word(3, "big", "ADJ", 0, "0:root") + word(4, "too", "ADV", 3, "3.1:x|3:y"))
    assert row == {"words": ["its", "big", "too"], "tags": ["AUX", "ADJ", "ADV"]}


def test_spaces_and_non_joiners_within_tokens_are_left_out(tmp_path):
    ((_, row),) = read(
        tmp_path, word(1, "Hà Nội", "PROPN") + word("2-3", f"می{ZWNJ}خواهم", "_") + word(2, "a") + word(3, "b")
    )
    assert row["words"] == ["HàNội", "میخواهم"]


def test_sentences_without_words_are_left_out_and_counted(tmp_path):
    hidden = word(1, "_") + word(2, "_") + "\n"
    almost = word(1, "_") + word(2, "x") + word(3, "_") + "\n"
    full = word(1, "_", "PUNCT") + word(2, "a") + word(3, "b") + "\n"
    rows = [row for _, row in read(tmp_path, hidden + almost + full)]
    assert [row["words"] for row in rows] == [None, None, ["_", "a", "b"]]
    assert [FORMATS["token_tagging"].example(row, UDPOS) is None for row in rows] == [True, True, False]


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
        (word("2-3", "ab") + word(1, "a"), ":1: malformed CoNLL-U: multiword token 2-3 after word 0"),
        (word("1-2", "ab") + word(1, "a"), ":1: malformed CoNLL-U: a multiword token lacks its last words"),
    ],
)
def test_malformed_files_are_named(tmp_path, content, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n"])
def test_files_without_sentences(tmp_path, content):
    with pytest.raises(NoExamples, match="has no rows"):
        read(tmp_path, content)


def real_sentences(real_data: Path, language: str, folder: str) -> list[dict]:
    task, data = UDPOS.in_language(language), DataSection(source="files", folder=str(real_data))
    if folder == "udpos":
        ((_, path),) = find_files(task, "test", data)
    else:
        path = next((real_data / folder).glob(f"test-{language}.tsv*"))
    return [row for _, row in read_rows(path, task)]


@pytest.mark.parametrize(
    ("language", "tokens", "tags"),  # tokens of XTREME's file; the share of tags that later UD releases did not change
    [("el", 10_422, 0.98), ("he", None, 0.98), ("mr", 376, 0.99), ("bg", 15_724, 0.999), ("te", 721, 1.0)],
)
def test_real_treebanks_are_xtremes(real_data, language, tokens, tags):
    ours, theirs = (real_sentences(real_data, language, folder) for folder in ("udpos", "udpos_xtreme"))
    assert len(ours) == len(theirs)
    if tokens:
        assert sum(len(row["words"]) for row in ours) == tokens
    same = [(a, b) for a, b in zip(ours, theirs, strict=True) if a["words"] == b["words"]]
    assert len(same) >= 0.97 * len(theirs)
    pairs = [pair for a, b in same for pair in zip(a["tags"], b["tags"], strict=True)]
    assert sum(a == b for a, b in pairs) >= tags * len(pairs)


def test_real_hebrew_begins_with_xtremes_hidden_labels(real_data):
    blocks = (real_data / "xtreme_mock/labels/udpos/test-he.tsv").read_text().strip().split("\n\n")
    labels = [block.split("\n") for block in blocks]
    tags = [row["tags"] for row in real_sentences(real_data, "he", "udpos")][: len(labels)]
    assert (
        list(map(len, tags)) == list(map(len, labels)) == [len(block) for block in labels] and sum(map(len, tags)) == 47
    )
    assert sum(a != b for one, other in zip(tags, labels, strict=True) for a, b in zip(one, other, strict=True)) <= 1
