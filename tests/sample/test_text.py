from pathlib import Path

import pytest

from trainer.sample.files import TRAIN
from trainer.sample.multilingual import LANGUAGES, TEST_PLACES
from trainer.sample.text import DEV_DOCUMENTS, write_mlm


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mlm")
    write_mlm(folder, 0)
    return folder


def documents(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def test_each_language_has_text_of_its_own(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{language}{split}.txt" for language in LANGUAGES for split in ("", ".dev")
    )
    sizes = [len(documents(folder, language)) for language in LANGUAGES]
    assert sizes[0] == TRAIN and sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 5
    english, german = documents(folder, "en"), documents(folder, "de")
    assert english[0].endswith(".") and not set(english) & set(german)


@pytest.mark.parametrize("language", LANGUAGES)
def test_documents_differ_and_dev_is_apart(folder, language):
    train, dev = documents(folder, language), documents(folder, f"{language}.dev")
    assert len(dev) == DEV_DOCUMENTS
    assert len(set(train + dev)) == len(train) + len(dev)
    assert {text.count("。" if language == "zh" else ".") for text in train} == {1, 2, 3, 4}


def test_no_place_of_the_targets_tests_occurs(folder):
    english = " ".join(documents(folder, "en"))
    assert not any(place["en"].split()[-1] in english for place in TEST_PLACES)


def test_same_seed_same_bytes(folder, tmp_path):
    write_mlm(tmp_path / "same", 0)
    write_mlm(tmp_path / "other", 1)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "same" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / path.name).read_bytes()
