import json

import pytest

from benchmarks import report, results
from trainer.errors import UserError


def test_a_result_carries_its_provenance(tmp_path):
    path = results.write("speed", {"setting": {}, "arms": {}}, tmp_path)
    result = results.read(path)
    assert path.name == "speed.json" and result["benchmark"] == "speed"
    assert result["provenance"]["torch"] and result["provenance"]["deepspeed"] and "driver" not in str(tmp_path)
    assert results.write("speed", {}, tmp_path / "other.json").name == "other.json"


def test_a_bad_result_leaves_the_old_one(tmp_path):
    results.write("speed", {"x": 1}, tmp_path)
    with pytest.raises(ValueError):
        results.write("speed", {"x": float("nan")}, tmp_path)
    assert results.read(tmp_path / "speed.json")["x"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]
    (tmp_path / "speed.json").write_text("{")
    with pytest.raises(UserError, match="cannot read the result"):
        results.read(tmp_path / "speed.json")


def test_plots_are_pictures(tmp_path):
    bars = {"a": {"median": 2.0, "lowest": 1.0, "highest": 3.0}, "b": {"median": 0.0, "lowest": 0.0, "highest": 0.0}}
    lines = {"x (predicted)": [(1, 1.0), (8, 0.9)]}
    paths = [
        results.plot_bars(tmp_path / "bars.json", "Bars", "tokens/s", bars),
        results.plot_lines(tmp_path / "lines.json", "Lines", ("ranks", "efficiency"), lines),
    ]
    for path in paths:
        assert path.suffix == ".png" and path.read_bytes().startswith(b"\x89PNG")


def spread(median: float) -> dict:
    return {"median": median, "lowest": median / 2, "highest": 2 * median}


@pytest.fixture
def folder(tmp_path):
    """Result files of every kind, with figures that are easy to find again."""
    imbalance = {"8": {"mean": 0.001, "worst": 0.004}}
    plans = {"fill": {"mean": 0.9987, "worst_step": 0.9876}, "imbalance_by_world_size": imbalance}
    every = {
        "versus_hf_gpu": {
            "arms": {"xstilts": {"useful_tokens_per_second": spread(98765.0)}},
            "ratios": {"padded": spread(2.5)},
        },
        "throughput_cpu": {
            "setting": {"best_pack_tokens": 4096, "model": "mini", "device": "cpu"},
            "ceilings": {"matmul_flops_per_second": 123e9},
            "arms": {"packs of 4,096": {"useful_tokens_per_second": spread(4321.0), "mfu": 0.456}},
            "ratios": {"everything on over without fused layers": spread(1.25)},
        },
        "scaling_cpu": {"ratios": {"weak scaling efficiency of 2 processes": spread(0.9)}},
        "mixing": {"arms": {report.PAPER: {"worst_rate_error": 0.00012, "plans": plans}}},
        "memory": {"arms": {"zero2": {"error": -0.034}}},
        "suite_gpu": {"parts": []},
    }  # fmt: skip
    for name, result in every.items():
        results.write(name, result, tmp_path)
    return tmp_path


def test_the_table_has_the_figures_of_the_result_files(folder):
    table = report.render(folder)
    figures = ("98,765", "2.50 x", "4,321", "45.6%", "1.25 x", "0.62 x - 2.50 x", "90.0%", "0.012%", "99.87%", "-3.4%")
    for figure in figures:
        assert figure in table, figure
    lines = table.splitlines()
    assert {line.count("|") for line in lines} == {6}
    assert table.index("98,765") < table.index("4,321") < table.index("90.0%")
    assert "mini, " in table and "suite" not in table


def test_a_stale_readme_is_noticed_and_mended(folder, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{report.BEGIN}\n| old |\n{report.END}\n\nEnd.\n")
    assert not report.is_current(readme, folder)
    with pytest.raises(SystemExit) as stale:
        report.main(readme, folder, check=True)
    assert stale.value.code == 1
    report.main(readme, folder, check=False)
    assert report.is_current(readme, folder)
    text = readme.read_text()
    assert text.startswith("# Title\n") and text.endswith("\nEnd.\n") and "| old |" not in text
    result = json.loads((folder / "throughput_cpu.json").read_text())
    result["arms"]["packs of 4,096"]["mfu"] = 0.5
    (folder / "throughput_cpu.json").write_text(json.dumps(result))
    assert not report.is_current(readme, folder)


def test_a_readme_without_markers_is_refused(folder, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n")
    with pytest.raises(UserError, match="no place for the benchmark table"):
        report.main(readme, folder, check=True)


def test_the_readme_has_the_figures_of_the_committed_results():
    if report.BEGIN not in report.README.read_text():
        pytest.skip("the README has no benchmark table yet")
    assert report.is_current(), "next: python -m benchmarks report"
