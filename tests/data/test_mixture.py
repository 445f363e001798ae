import pytest

from trainer.config import MixtureSection
from trainer.data.mixture import mixture_rates, variants_of
from trainer.errors import UserError
from trainer.tasks.intermediate import MNLI
from trainer.tasks.mlm import MLM

SIZES = {"small": 100, "middle": 400, "large": 1600}


def rates(sizes=SIZES, budget=None, **mixture) -> list[float]:
    return list(mixture_rates(sizes, MixtureSection(**mixture), budget).values())


def test_proportional_ignores_temperature_and_cap():
    expected = [100 / 2100, 400 / 2100, 1600 / 2100]
    assert rates(strategy="proportional", temperature=5.0, cap=100) == pytest.approx(expected)


def test_temperature_two_takes_square_roots():
    assert rates(strategy="temperature", temperature=2.0, cap=None) == pytest.approx([10 / 70, 20 / 70, 40 / 70])


def test_cap_comes_before_temperature():
    assert rates(strategy="temperature", temperature=2.0, cap=400) == pytest.approx([10 / 50, 20 / 50, 20 / 50])


def test_temperature_one_without_cap_is_proportional():
    assert rates(strategy="temperature", temperature=1.0, cap=None) == pytest.approx(rates(strategy="proportional"))


def test_examples_proportional_with_the_papers_cap():
    sizes = {"qqp": 363_846, "cosmos_qa": 25_262}
    expected = [131_072 / (131_072 + 25_262), 25_262 / (131_072 + 25_262)]
    assert rates(sizes, strategy="temperature", temperature=1.0, cap=131_072) == pytest.approx(expected)


def test_uniform():
    assert rates(strategy="uniform") == pytest.approx([1 / 3] * 3)


def test_weights_are_normalised_and_in_the_order_of_the_tasks():
    weights = {"large": 1.0, "small": 2.0, "middle": 5.0}
    assert rates(strategy="weights", weights=weights) == pytest.approx([0.25, 0.625, 0.125])


def test_rates_carry_the_tasks_names():
    assert list(mixture_rates(SIZES, MixtureSection(strategy="uniform"))) == ["small", "middle", "large"]


def test_unimax_by_hand():
    """Budget 1,200, one pass at most: 400 each is more than `small` has, so 1,100 are left for two, 550 each, more
    than `middle` has; `large` gets the remaining 700."""
    found = rates(strategy="unimax", unimax_epochs=1.0, budget=1200)
    assert found == pytest.approx([100 / 1200, 400 / 1200, 700 / 1200])


def unimax_of_the_paper(sizes: list[int], budget: float, epochs: float) -> list[float]:
    """arXiv 2304.09151, algorithm 1, line by line, with its own names (characters there are units here)."""
    by_size = sorted(range(len(sizes)), key=lambda i: sizes[i])
    remaining, taken = budget, {}
    for index, language in enumerate(by_size):
        uniform = remaining / (len(sizes) - index)
        taken[language] = sizes[language] * epochs if uniform > sizes[language] * epochs else uniform
        remaining -= taken[language]
    total = sum(taken.values())
    return [taken[i] / total for i in range(len(sizes))]


@pytest.mark.parametrize("budget", [50, 900, 5_000, 40_000])
@pytest.mark.parametrize("epochs", [1.0, 2.5])
def test_unimax_against_the_paper(budget, epochs):
    sizes = {"a": 900, "b": 70, "c": 70, "d": 12_000, "e": 3}
    found = rates(sizes, strategy="unimax", unimax_epochs=epochs, budget=budget)
    assert found == pytest.approx(unimax_of_the_paper(list(sizes.values()), budget, epochs))


def test_unimax_is_uniform_while_no_task_runs_out_and_proportional_when_all_do():
    assert rates(strategy="unimax", budget=150) == pytest.approx([1 / 3] * 3)
    assert rates(strategy="unimax", budget=10_000) == pytest.approx(rates(strategy="proportional"))


@pytest.mark.parametrize("strategy", ["proportional", "temperature", "uniform", "weights", "unimax"])
def test_rates_sum_to_one(strategy):
    weights = {"small": 0.3, "middle": 0.1, "large": 9.0}
    assert sum(rates(strategy=strategy, weights=weights, temperature=3.0)) == pytest.approx(1.0)


def test_a_task_without_data_is_named():
    with pytest.raises(UserError, match="task empty has no training examples"):
        rates({"full": 3, "empty": 0})


@pytest.mark.parametrize("weights", [{"small": 1.0, "large": 1.0}, {"small": 1.0, "middle": 0.0, "large": 1.0}])
def test_missing_and_zero_weights_are_named(weights):
    with pytest.raises(UserError, match="no rate above 0 to middle") as caught:
        rates(strategy="weights", weights=weights)
    assert "mixture.weights.middle=1.0" in caught.value.fix


LANGUAGES = {"qqp": 400, "mlm": 1024, "mlm-de": 32}  # 1024^0.2 = 4, 32^0.2 = 2
VARIANTS = {"mlm": "mlm", "mlm-de": "mlm"}


def of_languages(sizes=LANGUAGES, budget=None, **mixture) -> dict[str, float]:
    return mixture_rates(sizes, MixtureSection(**mixture), budget, VARIANTS)


@pytest.mark.parametrize(
    "mixture, qqp, mlm",
    [
        ({"strategy": "proportional"}, 400, 1056),
        ({"strategy": "temperature", "cap": 600}, 400, 600),
        ({"strategy": "temperature", "cap": None, "temperature": 2.0}, 20, 1056**0.5),
        ({"strategy": "uniform"}, 1, 1),
        ({"strategy": "unimax"}, 400, 1056),
        ({"strategy": "weights", "weights": {"qqp": 3.0, "mlm": 1.0}}, 3, 1),
    ],
)
def test_languages_of_a_task_count_as_one_and_share_its_rate(mixture, qqp, mlm):
    found = of_languages(smoothing=0.2, **mixture)
    assert list(found) == list(LANGUAGES)
    rate = mlm / (qqp + mlm)
    assert found == pytest.approx({"qqp": 1 - rate, "mlm": rate * 4 / 6, "mlm-de": rate * 2 / 6})


@pytest.mark.parametrize("smoothing, english", [(1.0, 1024 / 1056), (0.0, 0.5), (0.3, 8 / (8 + 2**1.5))])
def test_smoothing_by_hand(smoothing, english):
    """1.0 is proportional, 0.0 uniform; 1024^0.3 = 2^3, 32^0.3 = 2^1.5."""
    found = of_languages(strategy="uniform", smoothing=smoothing)
    assert found == pytest.approx({"qqp": 0.5, "mlm": english / 2, "mlm-de": (1 - english) / 2})


def test_xlm_rs_smoothing_is_the_default():
    assert MixtureSection().smoothing == 0.3


def test_unimax_gives_the_languages_one_even_share():
    found = of_languages(strategy="unimax", budget=600)
    assert found["qqp"] == pytest.approx(0.5) and found["mlm"] + found["mlm-de"] == pytest.approx(0.5)


def test_languages_may_be_weighed_themselves():
    found = of_languages(strategy="weights", weights={"qqp": 2.0, "mlm": 1.0, "mlm-de": 5.0})
    assert found == pytest.approx({"qqp": 0.25, "mlm": 0.125, "mlm-de": 0.625})
    sizes, variants = {"mlm-de": 32, "mlm-fr": 32}, {"mlm-de": "mlm", "mlm-fr": "mlm"}
    section = MixtureSection(strategy="weights", weights={"mlm": 7.0})
    assert mixture_rates(sizes, section, variants=variants) == pytest.approx({"mlm-de": 0.5, "mlm-fr": 0.5})


@pytest.mark.parametrize(
    "weights, said",
    [
        ({"qqp": 1.0}, "no rate above 0 to mlm, mlm-de"),
        ({"qqp": 1.0, "mlm-de": 1.0}, "no rate above 0 to mlm"),
        ({"qqp": 1.0, "mlm": 0.0}, "no rate above 0 to mlm"),
    ],
)
def test_languages_without_a_weight_are_named(weights, said):
    with pytest.raises(UserError, match=f"{said}\n"):
        of_languages(strategy="weights", weights=weights)


def test_a_task_and_its_languages_cannot_both_be_weighed():
    sizes, variants = {"mlm-de": 32, "mlm-fr": 32}, {"mlm-de": "mlm", "mlm-fr": "mlm"}
    section = MixtureSection(strategy="weights", weights={"mlm": 1.0, "mlm-de": 1.0, "mlm-fr": 1.0})
    with pytest.raises(UserError, match="names mlm and some of its languages"):
        mixture_rates(sizes, section, variants=variants)


def test_variants_are_known_by_their_language():
    tasks = [MNLI, MNLI.in_language("de"), MLM, MLM.in_language("sw")]
    assert variants_of(tasks) == {"mnli": "mnli", "mnli-de": "mnli", "mlm": "mlm", "mlm-sw": "mlm"}
