import dataclasses
import gzip
import json

import pytest

from trainer.data.readers import read_rows
from trainer.errors import NoExamples, UserError
from trainer.tasks.intermediate import CCG, HELLASWAG, MNLI, QQP, SQUAD_V2
from trainer.tasks.xtreme import PAWSX, XNLI, XQUAD

AUTO = (
    "ID=wsj_0001.2 PARSER=GOLD NUMPARSE=1\n"
    "(<T S[dcl] 0 2> (<T S[dcl] 1 2> (<L NP NNP NNP Vinken NP>) (<L (S[dcl]\\NP)/NP VBZ VBZ is (S[dcl]\\NP_1)/NP_2>) )"
    " (<L . . . . .>) )\n"
)
MNLI_PLAIN = dataclasses.replace(MNLI, header=("sentence1", "sentence2", "label"))


def read(folder, name, content, task):
    raw = content.encode() if isinstance(content, str) else content
    path = folder / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return [(place.removeprefix(str(folder) + "/"), row) for place, row in read_rows(path, task)]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_json_lines(tmp_path, suffix):
    rows = read(tmp_path, f"a.jsonl{suffix}", '{"a": 1}\n\n{"a": "\u2028é"}\n', HELLASWAG)
    assert rows == [(f"a.jsonl{suffix}:1", {"a": 1}), (f"a.jsonl{suffix}:3", {"a": "\u2028é"})]


def test_json_list_and_squad(tmp_path):
    assert read(tmp_path, "a.json", '[{"a": 1}]', MNLI) == [("a.json: entry 0", {"a": 1})]
    answers = [{"text": "b", "answer_start": 2}]
    questions = [
        {"id": 7, "question": "q", "answers": answers},
        {"id": "x", "question": "r", "answers": [], "plausible_answers": answers, "is_impossible": True},
    ]
    tree = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "a b", "qas": questions}]}]}
    (_, first), (place, second) = read(tmp_path, "s.json", json.dumps(tree), SQUAD_V2)
    assert first == {
        "id": "7",
        "question": "q",
        "context": "a b",
        "answers": {"text": ["b"], "answer_start": [2]},
        "is_impossible": False,
    }
    assert place == "s.json: question x" and second["answers"] == {"text": [], "answer_start": []}


def test_csv_is_quoted_and_tsv_is_not(tmp_path):
    rows = read(tmp_path, "a.csv", 'x,y\n"a, ""b""\nc",1\n\nd,2\n', MNLI)
    assert rows == [("a.csv:2", {"x": 'a, "b"\nc', "y": "1"}), ("a.csv:5", {"x": "d", "y": "2"})]
    rows = read(tmp_path, "a.tsv", b'\xef\xbb\xbfx\ty\r\n"a\t1\r\nb"\x0c\t2\r\n', MNLI)
    assert rows == [("a.tsv:2", {"x": '"a', "y": "1"}), ("a.tsv:3", {"x": 'b"\x0c', "y": "2"})]


def test_header_of_the_task(tmp_path):
    ((place, row),) = read(tmp_path, "a.txt", "p\th\tneutral\n", MNLI_PLAIN)
    assert place == "a.txt:1" and row == {"sentence1": "p", "sentence2": "h", "label": "neutral"}


def test_broken_lines_of_qqp_lose_their_label(tmp_path):
    rows = read(tmp_path, "train.tsv", "question1\tquestion2\tis_duplicate\na\nb\tc\t1\n", QQP)
    assert [row["is_duplicate"] for _, row in rows] == ["", "1"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "Vinken\tNP\nis\t(S[dcl]\\NP)/NP\n.\t.\n\n\nYes\tS\n"),
        ("a.tsv", "Vinken\tNNP\tNP\nis\tVBZ\t(S[dcl]\\NP)/NP\n.\t.\t.\n\nYes\tUH\tS\n"),
        ("a.stagged", "Vinken|NNP|NP is|VBZ|(S[dcl]\\NP)/NP .|.|.\nYes|UH|S\n"),
        ("a.txt", "Vinken|NP is|(S[dcl]\\NP)/NP .|.\nYes|S\n"),
        ("a.txt", "Vinken|NNP|NP\nis|VBZ|(S[dcl]\\NP)/NP\n.|.|.\n\nYes|UH|S\n"),
        ("a.auto", AUTO + "ID=wsj_0001.3\n(<L S UH UH Yes S>)\n"),
    ],
)
def test_tagged_text(tmp_path, name, content):
    rows = [row for _, row in read(tmp_path, name, content, CCG)]
    assert rows == [
        {"words": ["Vinken", "is", "."], "tags": ["NP", "(S[dcl]\\NP)/NP", "."]},
        {"words": ["Yes"], "tags": ["S"]},
    ]


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', MNLI, "a.jsonl:2: malformed JSON"),
        ("a.jsonl", "[1]\n", MNLI, "a.jsonl:1: not a JSON object"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', MNLI, "a.json:2: malformed JSON"),
        ("a.json", '{"a": 1}', MNLI, "neither SQuAD's layout"),
        ("a.json", '{"data": [{"paragraphs": [{"context": "c"}]}]}', SQUAD_V2, "article 0"),
        ("a.tsv", "x\ty\na\tb\na\tb\tc\n", MNLI, "a.tsv:3: 3 columns instead of 2"),
        ("a.tsv", "x\ty\na\n", MNLI_PLAIN, "a.tsv:1: 2 columns instead of 3"),
        ("a.tsv", "x\ty\tz\tzz\na\n", dataclasses.replace(MNLI, drop_labels=()), "a.tsv:2: 1 columns instead of 4"),
        ("a.csv", 'x,y\n1,2\n"a,b\n', MNLI, "a.csv:3: malformed CSV"),
        ("a.tsv", b"x\ty\na\t\xff\n", MNLI, "a.tsv:2: not UTF-8"),
        ("a.tsv", "x\ty\n", MNLI, "a.tsv has no rows"),
        ("a.jsonl", "", MNLI, "a.jsonl has no rows"),
        ("a.tsv", "the\tNP\ncat\n", CCG, "a.tsv:2: 'cat' is not a word"),
        ("a.auto", "ID=1\n(<T S 0 1>\n", CCG, "a.auto:2: not a derivation"),
        ("a.parquet", "x", MNLI, "do not know how to read .parquet"),
    ],
)
def test_faults_name_file_and_line(tmp_path, name, content, task, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path, name, content, task)
    assert message in str(caught.value)


def test_a_cut_gzip_file(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-10])
    with pytest.raises(UserError, match="cannot read"):
        list(read_rows(path, MNLI))


XNLI_DE = XNLI.in_language("de")


def test_a_header_line_is_seen_where_the_task_names_columns_for_files_without(tmp_path):
    plain = "p\th\tneutral\n"
    expected = {"premise": "p", "hypothesis": "h", "label": "neutral"}
    assert [row for _, row in read(tmp_path, "dev-de.tsv", plain, XNLI_DE)] == [expected]
    original = "language\tgold_label\tsentence1\tsentence2\nde\tneutral\tp\th\n"
    ((place, row),) = read(tmp_path, "xnli.dev.tsv", original, XNLI_DE)
    assert place == "xnli.dev.tsv:2"
    assert row == {"language": "de", "gold_label": "neutral", "sentence1": "p", "sentence2": "h"}
    ((_, row),) = read(tmp_path, "a.csv", "id,sentence1,sentence2,label\n1,p,h,0\n", PAWSX)
    assert row["label"] == "0"
    rows = read(tmp_path, "dev-de.tsv", "sentence1\tsentence2\tneutral\n", XNLI_DE)  # no name of a label column
    assert len(rows) == 1


@pytest.mark.parametrize("beside", ["test.labels.de.txt", "test.labels.txt"])
def test_labels_beside_a_test_without(tmp_path, beside):
    (tmp_path / "test.labels.fr.txt").write_text("entailment\n")
    (tmp_path / beside).write_text("neutral\ncontradiction\n")
    rows = [row for _, row in read(tmp_path, "test-de.tsv", "a\tb\nc\td\n", XNLI_DE)]
    assert [(row["premise"], row["label"]) for row in rows] == [("a", "neutral"), ("c", "contradiction")]
    ((_, row),) = read(tmp_path, "test-de.tsv", "a\tb\tentailment\n", XNLI_DE)  # its own come first
    assert row["label"] == "entailment"
    with pytest.raises(UserError, match=f"(?s){beside} does not fit .*test-de.tsv has 1 rows, {beside} 2 labels"):
        read(tmp_path, "test-de.tsv", "a\tb\n", XNLI_DE)


def test_a_test_without_labels_says_where_they_may_lie(tmp_path):
    with pytest.raises(UserError, match=r"(?s)test-de.tsv:1: 2 columns instead of 3.*test.labels\[.de\].txt"):
        read(tmp_path, "test-de.tsv", "a\tb\n", XNLI_DE)


@pytest.mark.parametrize(
    ("name", "content", "task"),
    [
        ("a.json", "", XQUAD),
        ("a.json", '{"data": []}', XQUAD),
        ("a.json.gz", " \n", XQUAD),
        ("test-de.tsv", "", XNLI_DE),
        ("xnli.test.tsv", "sentence1\tsentence2\tgold_label\n", XNLI_DE),
        ("a.jsonl", "\n", MNLI),
    ],
)
def test_files_without_rows(tmp_path, name, content, task):
    with pytest.raises(NoExamples, match=f"{name} has no rows"):
        read(tmp_path, name, content, task)
