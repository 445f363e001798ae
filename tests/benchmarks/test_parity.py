import copy

import pytest
import torch

from benchmarks import parity, workload
from benchmarks.parity import Outcome


def outcome(loss: float = 2.0, **gradients: list[float]) -> Outcome:
    hidden = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    return Outcome(loss, hidden, {name: torch.tensor(values) for name, values in gradients.items()}, None)


def test_figures_are_differences():
    reference = outcome(a=[3.0, 0.0], b=[0.0, 4.0])
    found = outcome(2.02, a=[3.0, 0.0], b=[4.0, 0.0])
    found.hidden = reference.hidden + torch.tensor([[0.0, 0.0], [0.0, reference.hidden.std() / 2]])
    figures = parity.compare(found, reference)
    assert figures["loss"] == pytest.approx(0.01)
    assert figures["hidden"] == pytest.approx(0.5) and figures["hidden_mean"] == pytest.approx(0.125)
    assert figures["gradient"] == pytest.approx(1 - 9 / 25) and figures["gradient_norm"] == pytest.approx(0)
    assert figures["worst_parameter"] == "b" and figures["worst_gradient"] == pytest.approx(1.0)
    assert parity.compare(reference, reference)["gradient"] == pytest.approx(0)


def test_directions_of_negligible_gradients_do_not_count():
    reference, found = outcome(a=[1.0], b=[1e-7]), outcome(a=[1.0], b=[-1e-7])
    assert parity.compare(found, reference)["worst_gradient"] == pytest.approx(0)


def test_trimmed_gradients_are_compared_in_their_places():
    reference = outcome(**{parity.EMBEDDING: [[0.0], [2.0], [0.0], [1.0]]})
    found = outcome(**{parity.EMBEDDING: [[2.0], [1.0]]})
    found.kept = torch.tensor([1, 3])
    assert parity.compare(found, reference)["gradient"] == pytest.approx(0)
    found.kept = torch.tensor([0, 3])
    assert parity.compare(found, reference)["gradient"] == pytest.approx(1 - 1 / 5)


def test_other_parameters_are_a_failure():
    with pytest.raises(parity.ParityFailed, match="parameters differ"):
        parity.compare(outcome(a=[1.0]), outcome(b=[1.0]))


def test_limits_widen_with_the_plain_model_in_the_same_dtype():
    strict, wide = parity.limits(None), parity.limits({"loss": 0.01, "hidden": 0.2, "gradient": 0.03})
    assert strict == parity.LIMITS
    assert wide["gradient"] == pytest.approx(1e-4 + 1.5 * 0.03)
    figures = {"loss": 0.0, "hidden": 0.1, "gradient": 0.04}
    parity.check({"dtype": "bf16", "fast": figures, "limits": wide})
    with pytest.raises(parity.ParityFailed, match="hidden 1.00e-01"):
        parity.check({"dtype": "fp32", "fast": figures, "limits": strict})
    with pytest.raises(parity.ParityFailed, match="loss nan"):
        parity.check({"dtype": "bf16", "fast": {**figures, "loss": float("nan")}, "limits": wide})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return workload.choose(tmp_path_factory.mktemp("parity"), "tiny", units_per_task=40)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_fast_model_is_the_plain_one(tiny, dtype):
    result = parity.gate(tiny, dtype=dtype)
    assert result["tokens"] > 1000 and result["fast"]["gradient"] <= result["limits"]["gradient"]
    assert ("plain" in result) == (dtype == "bf16")
    notes = " ".join(result["notes"])
    assert "fused" in notes and "rows are trained" in notes


def test_a_mixture_with_masked_language_modelling(masked_mixture):
    recipe, overrides = masked_mixture
    result = parity.gate(workload.Workload(recipe, None, overrides), dtype="fp32")
    assert result["tokens"] > 1000 and result["fast"]["gradient"] <= result["limits"]["gradient"]
    assert "as mlm predicts over all of them" in " ".join(result["notes"])


def test_the_gate_can_fail(tiny, monkeypatch):
    build = parity.build_model

    def broken(config, *rest):
        model, *others = build(config, *rest)
        if config.kernels.layers == "fused":
            model = copy.deepcopy(model)
            with torch.no_grad():
                model.encoder.encoder.layer[0].intermediate.dense.weight.mul_(1.05)
        return model, *others

    monkeypatch.setattr(parity, "build_model", broken)
    with pytest.raises(parity.ParityFailed, match="the fast model is not the plain one in fp32"):
        parity.gate(tiny, dtype="fp32")
