"""What saving costs: the shares, and that the command works."""

import json

import pytest

from benchmarks import checkpointing, report


def turn(seconds: float) -> dict:
    return {"useful_tokens": 1000, "seconds": seconds}


def test_what_is_lost_is_the_share_that_the_neighbour_did_not_need():
    found = checkpointing.lost([turn(8.0), turn(9.0)], [turn(10.0), turn(10.0)])
    assert found == {
        "median": pytest.approx(0.15), "lowest": pytest.approx(0.1), "highest": pytest.approx(0.2)
    }  # fmt: skip


@pytest.mark.slow
def test_the_command(tmp_path):
    checkpointing.main(["--dry", "--out", str(tmp_path)])
    (file,) = tmp_path.glob("checkpointing_*.json")
    result = json.loads(file.read_text())
    rows = result["arms"]
    assert rows["no checkpoints"]["checkpoints"] == 0
    for name in ("background", "blocking"):
        assert rows[name]["checkpoints"] >= 1 and rows[name]["checkpoint_bytes"] > 1e5
        assert rows[name]["checkpoint_stalled_seconds"] <= rows[name]["checkpoint_seconds"]
        assert -10 < result["lost"][name]["median"] < 1
    assert "background checkpoints: training time lost to saving" in report.render(tmp_path)
