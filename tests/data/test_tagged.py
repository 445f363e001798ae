import gzip

import pytest

from trainer.data.readers import read_rows
from trainer.errors import UserError
from trainer.tasks.xtreme import PANX


def read(folder, name, content, task=PANX):
    path = folder / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return [(place.removeprefix(f"{folder}/"), row) for place, row in read_rows(path, task)]


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
