"""`xstilts study` from end to end: plan, cells, tables, exit codes."""

import csv
import io
import json
import os
import subprocess
import sys
import time

import pytest
from rich.console import Console

from tests.launching import ROOT, kill_all, xstilts
from tests.study.conftest import LAUNCHER_TEXT
from trainer.cli import run_command
from trainer.config import load_recipe
from trainer.study import command
from trainer.study.cost import Cost, costs_of

DEMO_STUDY = ROOT / "launch" / "recipes" / "studies" / "demo.yaml"


@pytest.fixture
def study(calls, capfd, monkeypatch):
    """Runs the command on the fake launcher, its costs made up; (exit code, output, errors)."""
    costs = {"tiny-mnli-seed1": Cost(300, 1.2e6, 90.0), "tiny-mnli-seed2": Cost(None, None, None, "no data")}

    def estimate(cells, processes):
        return {cell.name: cost for cell in cells if (cost := costs.get(cell.name))}

    monkeypatch.setattr(command, "estimate", estimate)

    def run(path, *arguments):
        capfd.readouterr()
        code = run_command(["study", str(path), "--launcher", LAUNCHER_TEXT, *arguments])
        return code, *capfd.readouterr()

    return run


def test_a_study_ends_with_all_its_tables(study, write, tmp_path, calls):
    code, out, _ = study(write())
    assert code == 0
    tables = tmp_path / "study" / "tables"
    names = {str(path.relative_to(tables)) for path in tables.rglob("*") if path.is_file()}
    assert names == {
        *(f"{name}.{kind}" for name in ("scores", "differences") for kind in ("md", "csv", "tex")),
        "differences.png",
        *(f"languages/{task}.csv" for task in ("xnli", "panx", "tatoeba")),
    }
    assert "tiny: scores" in out and "differences to none" in out and "50.0" in out
    assert "13 cells: 0 done, 13 to do" in out
    assert "training 1.2M tokens, about 1m30s and 1 run of unknown length" in " ".join(out.split())
    assert "![differences to none](differences.png)" in (tables / "differences.md").read_text()
    rows = list(csv.DictReader(open(tables / "languages" / "xnli.csv")))
    assert rows[0]["en"] == "51.0000" and rows[0]["average"] == "50.0000"
    before = len(calls())
    code, out, _ = study(write())
    assert code == 0 and len(calls()) == before and "tiny: scores" in out


def test_without_matplotlib_only_the_heat_map_is_left_out(study, write, tmp_path, calls, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, _ = study(write(), "--tables")
    assert code == 0 and out.count("warning") == 1 and "pip install 'xstilts[bench]'" in out
    tables = tmp_path / "study" / "tables"
    assert not (tables / "differences.png").exists()
    assert "differences.png" not in (tables / "differences.md").read_text()


def test_a_dry_run_runs_nothing(study, write, tmp_path, calls):
    code, out, _ = study(write(), "--dry-run")
    assert code == 0 and not calls() and not (tmp_path / "study").exists()
    assert "\ntiny-mnli-seed2 " in out and "\n  tiny-mnli-panx-seed2 " in out and "\ntiny-none-panx-seed2 " in out
    assert "unknown: no data" in out and "evaluates" not in out
    code, out, _ = study(write(targets={"retrieval": {"evaluate": ["tatoeba", "lareqa"]}}), "--dry-run")
    assert code == 0 and "retrieval evaluates tatoeba, lareqa" in out


def test_the_plan_shows_long_names_whole(cells_of):
    """In 80 columns, with the longest figures there are."""
    names = {"nine_tasks_translated": {"recipe": str(DEMO_STUDY.parents[1] / "demo.yaml")}}
    targets = {"xquad_mlqa": {"recipe": "launch/recipes/demo.yaml", "evaluate": ["xquad", "mlqa"]}}
    _, cells = cells_of(encoders={"xlmr_large": "sample"}, intermediate=names, targets=targets)
    costs = dict.fromkeys(cells, Cost(121_437, 3.3e9, 86400.0 * 112))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(command.plan_table(list(cells.values()), dict.fromkeys(cells, "changed"), costs))
    lines = console.export_text().splitlines()
    for name in cells:
        (line,) = [line for line in lines if name in line.split()]
        assert line.split()[1:] == ["changed", "121,437", "112d00h"] and len(line.rstrip()) <= 80
    assert max(map(len, cells)) == 49


def test_failures_end_the_command_with_1(study, write, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_FAIL", "train:tiny-mnli-seed1")
    code, out, error = study(write())
    assert code == 1
    assert error.endswith("exit 1: 4 cells are not done, 9 are; failed: tiny-mnli-seed1\n") and "next: " in error
    assert "tiny-mnli-seed1 failed: train ended with exit code 3: " in out and "; log: " in out
    text = (tmp_path / "study" / "tables" / "scores.md").read_text()
    assert "50.0 (1 of 2)" in text and "missing: xnli of tiny mnli (seeds 1)" in text


def test_one_cell(study, write, calls, tmp_path):
    code, _, error = study(write(), "--cell", "tiny-mnli-xnli-seed1")
    assert code == 2 and "starts from the export of tiny-mnli-seed1, which is not done" in error
    assert study(write(), "--cell", "tiny-mnli-seed1")[0] == 0
    assert study(write(), "--cell", "tiny-mnli-xnli-seed1")[0] == 0
    assert len(calls()) == 3 and not (tmp_path / "study" / "tables").exists()
    code, out, _ = study(write(), "--cell", "tiny-mnli-xnli-seed1")
    assert code == 0 and "is done already" in out and len(calls()) == 3
    code, _, error = study(write(), "--cell", "tiny-mnly-seed1")
    assert code == 2 and "did you mean 'tiny-mnli-seed1'" in error


def test_tables_of_what_is_there(study, write, calls, tmp_path):
    assert study(write(), "--cell", "tiny-none-tatoeba")[0] == 0
    code, out, _ = study(write(), "--tables")
    assert code == 0 and len(calls()) == 1
    assert "missing" in out
    [baseline, _, _, mnli, *_] = csv.DictReader(open(tmp_path / "study" / "tables" / "scores.csv"))
    assert (baseline["tatoeba"], baseline["total"], mnli["tatoeba"]) == ("50.0000", "", "")


def test_changed_settings(study, write, calls):
    study(write())
    before = len(calls())
    code, _, error = study(write(), "targets.xnli.overrides.train.steps=5")
    assert code == 2 and "train.steps changed" in error and "--redo" in error and len(calls()) == before
    code, out, _ = study(write(), "targets.xnli.overrides.train.steps=5", "--dry-run")
    assert code == 0 and "tiny-none-xnli-seed1 changed: train.steps: 300 -> 5" in out
    code, out, _ = study(write(), "targets.xnli.overrides.train.steps=5", "--redo")
    assert code == 0 and len(calls()) == before + 8 and "xnli-seed1.before-1" in out


def test_cells_are_run_again_by_name(study, write, calls, tmp_path):
    study(write())
    folder = tmp_path / "study" / "cells"
    scores = folder / "tiny-mnli-panx-seed1" / "evaluation" / "scores.json"
    scores.write_text(scores.read_text().replace("its file is empty", "no test files"))
    assert "xstilts study STUDY --redo tiny-mnli-panx-seed1\n" in study(write(), "--tables")[1]
    before = len(calls())
    names = ("--redo", "tiny-mnli-panx-*", "tiny-none-tatoeba")
    code, out, _ = study(write(), *names, "--slurm")
    assert code == 0 and out.count(" --cell ") == 3 and out.count("tiny-none-tatoeba --cell ") == 3
    code, out, _ = study(write(), *names, "seeds=[1,2]")
    expected = ["evaluate:tiny-none-tatoeba", "evaluate:tiny-mnli-panx-seed1"]  # whose training is good
    expected += ["train:tiny-mnli-panx-seed2", "evaluate:tiny-mnli-panx-seed2"]
    assert code == 0 and calls()[before:] == expected
    assert (scores.parent.with_name("evaluation.before-1") / "scores.json").is_file()
    assert (folder / "tiny-mnli-panx-seed2.before-1" / "done.json").is_file()
    assert "STUDY --redo" not in out
    (folder / "tiny-mnli-panx-seed2" / "done.json").unlink()  # only begun
    assert study(write(), "--redo", "tiny-mnli-seed2")[0] == 0  # and what starts from it
    assert len(calls()) == before + len(expected) + 6
    code, _, error = study(write(), "--redo", "tiny-mnli-panks-*")
    assert code == 2 and "no such cell" in error and len(calls()) == before + len(expected) + 6


def test_the_tables_of_a_study_run_anew_lack_what_is_still_to_be_run(study, write, calls, tmp_path):
    """As in the last job of a Slurm script, when a cell failed before it was run anew."""
    study(write())
    before = len(calls())
    changed = "targets.xnli.overrides.train.steps=5"
    assert study(write(), changed, "--tables")[0] == 2
    code, out, error = study(write(), changed, "--tables", "--redo")
    assert code == 0 and len(calls()) == before, error
    assert "tiny-none-xnli-seed1 changed: train.steps: 300 -> 5; missing below" in out
    assert "missing: xnli of tiny none (seeds 1, 2)" in (tmp_path / "study" / "tables" / "scores.md").read_text()


def test_processes_that_cannot_share_a_step_are_refused_before_anything_runs(study, write, calls, tmp_path):
    path = write(targets__panx__overrides={"tasks": ["ccg"], "train.packs_per_step": 6})
    eight = ("--launcher", "torchrun --nproc_per_node 8")
    for mode in (("--dry-run",), ("--slurm",), ()):
        code, out, error = study(path, *eight, *mode)
        assert code == 2 and not calls() and not (tmp_path / "study").exists()
        assert "8 processes cannot share the 4 packs of a step of tiny-none-xnli-seed1 evenly" in error
        assert "9 more cells" in error and "deepspeed --num_gpus 2" in error
        assert ("13 cells" in out) == (mode == ("--dry-run",)) and "#!" not in out
    four = ("--launcher", "torchrun --nproc_per_node 4")
    code, _, error = study(path, *four, "--dry-run")
    assert code == 2 and "the 6 packs of a step of tiny-none-panx-seed1" in error and "3 more cells" in error
    for works in ((*four, "overrides.engine.plan=auto"), ("--launcher", "torchrun --nproc_per_node 2")):
        assert study(path, *works, "--dry-run")[0] == 0
    assert study(path)[0] == 0
    assert study(path, *eight)[0] == 0  # every cell is done


def test_the_slurm_script_goes_to_standard_output_alone(study, write, calls):
    code, out, _ = study(write(), "--slurm", "seeds=[1]")
    assert code == 0 and out.startswith("#!/usr/bin/env bash\n") and not calls()
    assert "seeds=[1]" in out and "--cell tiny-mnli-tatoeba-seed1" in out


def test_bad_input_is_one_error(study, write, tmp_path):
    for changes, said in (
        (None, "does not exist"),
        ({"targets": {}}, "is empty"),
        ({"folder": "/dev/null/x"}, "/dev/null/x cannot be written"),
    ):
        code, _, error = study(tmp_path / "no.yaml" if changes is None else write(**changes))
        assert code == 2 and said in error and "next: " in error and "Traceback" not in error


def test_costs_are_those_of_the_planner(tmp_path):
    store = f"data.store={tmp_path / 'store'}"
    demo = str(ROOT / "launch" / "recipes" / "demo.yaml")
    known, unknown = costs_of([load_recipe(demo, [store, "model.encoder=xlm-roberta-base"]),
                               load_recipe(demo, [store, "model.encoder=xlm-roberta-base", "train.steps=null",
                                                  "train.epochs=2", "tasks=[panx]"])], 1)  # fmt: skip
    assert known.steps == 300 and known.seconds > 0
    assert known.tokens == pytest.approx(300 * 4 * 1024, rel=0.01)
    assert (unknown.steps, unknown.tokens, unknown.seconds) == (None, None, None)
    assert "not prepared" in unknown.why


@pytest.mark.long
def test_the_demo_study_killed_and_continued(tmp_path):
    """The sample study as it is, killed once within an intermediate run and once within a target."""
    overrides = [f"folder={tmp_path / 'study'}", f"overrides.data.store={tmp_path / 'store'}"]
    arguments = [sys.executable, "-m", "trainer", "study", str(DEMO_STUDY), *overrides]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    finished: dict[str, float] = {}
    for held in ("intermediate/sample-squad_v1-seed1", "cells/sample-squad_v1-panx-seed1"):
        out = open(tmp_path / "out.txt", "a")
        process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)
        while not (tmp_path / "study" / held / "run" / "events.jsonl").exists():
            assert process.poll() is None, (tmp_path / "out.txt").read_text()[-3000:]
            time.sleep(0.1)
        kill_all(process)
        finished = {str(p): p.stat().st_mtime for p in (tmp_path / "study").rglob("done.json")} | finished
    assert len(finished) >= 8
    done = xstilts("study", DEMO_STUDY, *overrides, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for path, modified in finished.items():
        assert os.stat(path).st_mtime == modified, f"{path} was redone"
    tables = tmp_path / "study" / "tables"
    rows = list(csv.DictReader(open(tables / "scores.csv")))
    means = {row["intermediate"]: row for row in rows if row["statistic"] == "mean"}
    assert set(means) == {"none", "mnli", "squad_v1", "nine_tasks"}
    for row in means.values():
        assert all(row[column] for column in ("xnli", "panx", "xquad", "tatoeba", "non-retrieval", "total"))
    assert (tables / "differences.png").stat().st_size > 5000
    scores = json.loads((tmp_path / "study/cells/sample-mnli-xnli-seed1/evaluation/scores.json").read_text())
    assert float(means["mnli"]["xnli"]) == pytest.approx(scores["tasks"]["xnli"]["average"], abs=1e-4)
