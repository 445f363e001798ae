import json

import pytest

from benchmarks import loss_curves


def test_differences_of_two_curves():
    found = loss_curves.compare([1.0, 2.0, 4.0], [1.1, 2.0, 4.2])
    assert found["largest_relative"] == pytest.approx(0.1)
    assert found["mean_relative"] == pytest.approx(0.3 / 7)
    assert loss_curves.compare([1.0, 2.0], [1.0, 2.0]) == {"largest_relative": 0, "mean_relative": 0}


def test_a_run_that_fails_shows_why(tmp_path):
    with pytest.raises(RuntimeError, match="unknown recipe key"):
        loss_curves.train(loss_curves.RECIPE, ["train.stps=3"], 2, tmp_path, "bad")


@pytest.mark.long
def test_fused_and_plain_runs_coincide(store, tmp_path):
    out = tmp_path / "loss_curves.json"
    words = [store, "tasks=[mnli,ccg]", "train.packs_per_step=1", "train.pack_tokens=256"]
    loss_curves.main([*words, "--steps", "12", "--out", str(out)])
    result = json.loads(out.read_text())
    assert out.with_suffix(".png").is_file()
    for arm, figures in result["differences"]["without dropout"].items():
        assert figures["largest_relative"] < 1e-5, arm
    for arm, figures in result["differences"]["with dropout"].items():
        assert 1e-5 < figures["largest_relative"] < 0.5, arm
