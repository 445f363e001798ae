import pytest

from trainer.errors import UserError
from trainer.tasks.languages import LANGUAGES, fill_in, has_placeholder, language_of


def test_codes_and_names_are_unique():
    for names in ([x.code for x in LANGUAGES.values()], [x.iso3 for x in LANGUAGES.values()]):
        assert len(set(names)) == len(names)
    assert all(len(x.code) == 2 and len(x.iso3) == 3 and x.name.istitle() for x in LANGUAGES.values())


def test_placeholders():
    assert fill_in("{language}/{iso3}-eng.{Name}_{name}.{02..21}", "zh") == "zh/cmn-eng.Chinese_chinese.{02..21}"
    assert has_placeholder("x.{iso3}") and not has_placeholder("AUTO/{02..21}/*.auto")


@pytest.mark.parametrize(("code", "said"), [("german", "'de'"), ("deu", "'de'"), ("xx", "one of: af, am, ar")])
def test_an_unknown_code_names_the_nearest(code, said):
    with pytest.raises(UserError, match=f"(?s)unknown language '{code}'.*{said}"):
        language_of(code)
