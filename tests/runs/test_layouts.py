"""Layout independence: ranks x accumulation, ZeRO stage and offload change nothing that is trained."""

import pytest
import torch

from tests.launching import finish, start_ranks
from tests.runs.layouts_worker import RUNS

pytestmark = pytest.mark.slow
STEPS = 5


@pytest.fixture(scope="module")
def results(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    found = {}
    for ranks in (1, 2):
        arguments = [str(folder / f"{ranks}.pt"), str(STEPS), store, f"run.folder={folder}"]
        finish(start_ranks(arguments, ranks, module="tests.runs.layouts_worker"), timeout=900)
        found[ranks] = torch.load(folder / f"{ranks}.pt")
    return found


@pytest.mark.parametrize("stage, dropout", RUNS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_layout_trains_the_same(results, ranks, stage, dropout):
    expected, found = results[1][f"zero2 dropout {dropout}"], results[ranks][f"{stage} dropout {dropout}"]
    assert found["hashes"] == expected["hashes"]
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    scale = max(gradient.abs().max() for gradient in expected["gradients"].values())
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        assert (found["gradients"][name] - gradient).abs().max() <= 1e-5 * scale, name


def test_the_comparison_can_fail(results):
    on, off = results[1]["zero2 dropout null"], results[1]["zero2 dropout 0.0"]
    assert on["hashes"] == off["hashes"]
    assert on["losses"] != pytest.approx(off["losses"], rel=1e-4)
    assert any(gradient.abs().max() > 0 for gradient in on["gradients"].values())
