"""The memory benchmark: its cases are runnable recipes, its table is whole, and (slow) a real run is as predicted."""

import pytest
from rich.console import Console

from benchmarks import memory
from trainer.config import load_recipe
from trainer.plan import need


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    return memory.setting(tmp_path_factory.mktemp("memory"), None, 1024)


def test_every_case_has_a_prediction_of_its_own(common):
    peaks = {}
    for name, (processes, overrides) in memory.CASES.items():
        _, predicted = need(load_recipe(memory.DEMO, [*common, *overrides]), "cpu", processes)
        assert predicted.peak == sum(predicted.parts.values()) > 3e8
        peaks[name] = predicted.peak
    assert len(set(peaks.values())) == len(memory.CASES)


def test_the_table_shows_predicted_measured_and_error():
    parts = dict.fromkeys(("weights", "fp32 weights", "gradients", "optimizer state", "activations", "buffers"), 1e8)
    row = {"predicted_parts": parts, "predicted_bytes": 6e8, "measured_bytes": 5e8, "error": 0.2}
    console = Console(width=100, record=True, file=open("/dev/null", "w"))
    console.print(memory.table({"stage 2": row, "stage 3": {**row, "measured_bytes_freed_blocks_kept": 9e8}}))
    text = console.export_text()
    assert all(word in text for word in ("200", "600", "500", "+20.0%", "900"))
    assert "…" not in text


SLOW, LONG = pytest.mark.slow, pytest.mark.long  # bf16 takes minutes on cores that only emulate it


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=SLOW) for name in ("stage 0", "stage 2", "stage 3")]
    + [pytest.param("bf16, ckpt", marks=LONG)],
)
def test_a_real_run_needs_what_is_predicted(case, common):
    processes, overrides = memory.CASES[case]
    row = memory.compare(common, processes, overrides)
    assert abs(row["error"]) < 0.1, row
