"""The contract: a run's folder, its events, evaluating it, exporting it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from tests.launching import DEMO, deepspeed, finish, steps
from trainer.cli import run_command
from trainer.config import NINE_TASKS
from trainer.events import read_events
from trainer.export import TOLERANCE, compare_with_probe, load_probe


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def run(request, store, tmp_path_factory):
    """A short run of all nine tasks with two processes, at ZeRO stage 2 and 3."""
    folder = tmp_path_factory.mktemp("runs")
    command = ["train", str(DEMO), store, f"run.folder={folder}", "train.steps=6", "checkpoint.every_steps=2",
               "evaluation.every_steps=3", "evaluation.limit=20",
               f"engine.config=ds_configs/zero{request.param}.json"]  # fmt: skip
    before = set(Path("/dev/shm").glob("deepspeed*"))
    output = finish(deepspeed(command, 2))
    assert set(Path("/dev/shm").glob("deepspeed*")) <= before, "a run leaves no shared memory behind"
    for task in NINE_TASKS:
        assert f"\n{task} " in output, "a row of the table at the end"
    return folder / "demo"


def test_the_run_folder_and_its_events(run):
    assert {p.name for p in run.iterdir()} == {"recipe.yaml", "events.jsonl", "checkpoints", "ranks", "export", "lock"}
    found = steps(run)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    for event in found.values():
        assert set(event["examples"]) == set(NINE_TASKS)
        assert set(event["task_loss"]) == {task for task, count in event["examples"].items() if count}
        assert event["useful_tokens_per_second"] == pytest.approx(event["tokens"] / event["step_seconds"])
        assert event["pack_fill"] == event["tokens"] / (4 * 1024)
        assert event["memory_bytes"] > 1e8
        weighted = sum(event["task_loss"].get(t, 0) * n for t, n in event["examples"].items()) / sum(
            event["examples"].values()
        )
        assert event["loss"] == pytest.approx(weighted)
    evaluations = [e for e in read_events(run / "events.jsonl") if e["event"] == "evaluation"]
    assert [e["step"] for e in evaluations] == [3, 6]
    assert set(evaluations[-1]["scores"]) == set(NINE_TASKS)


def test_old_checkpoints_go_and_the_best_stays(run):
    kept = {p.name for p in (run / "checkpoints").iterdir()}
    best = json.loads((run / "checkpoints" / "step-6" / "state.json").read_text())["best"]["step"]
    assert kept == {"step-4", "step-6", f"step-{best}", "latest"}


def test_evaluating_the_run_or_its_export_gives_the_scores_of_the_live_model(run, capfd):
    expected = [e for e in read_events(run / "events.jsonl") if e["event"] == "evaluation"][-1]["scores"]
    for folder in (run, run / "export"):
        capfd.readouterr()
        assert run_command(["evaluate", str(folder)]) == 0
        printed = capfd.readouterr().out
        assert (f"checkpoint: {run / 'checkpoints/step-6'}\n" in printed) == (folder == run)
        for task, scores in expected.items():
            for value in scores.values():
                assert f"{value:.2f}" in printed, (folder, task, scores)


def test_the_export_is_the_model(run, tmp_path, capfd):
    out = tmp_path / "export"
    assert run_command(["export", str(run), str(out)]) == 0
    assert "its hidden states are the live model's" in capfd.readouterr().out
    for name in ("model.safetensors", "heads.safetensors"):
        offline, live = load_file(out / name), load_file(run / "export" / name)
        assert offline.keys() == live.keys()
        assert all(torch.equal(offline[key], live[key]) for key in live)
    model, info = AutoModel.from_pretrained(out, add_pooling_layer=False, output_loading_info=True)
    assert not any(info.values()), "strict: nothing missing, nothing unexpected"
    assert model.config.model_type == "xlm-roberta"
    assert AutoTokenizer.from_pretrained(out)("A man sat.")["input_ids"][0] == 0
    card = (out / "README.md").read_text()
    assert all(task in card for task in NINE_TASKS) and "shows that the machine works" in card


def test_damaged_weights_are_named(run, tmp_path, capfd):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    weights = next((copy / "checkpoints/step-6/engine/state").iterdir())
    weights.write_bytes(weights.read_bytes()[:-9])
    out = tmp_path / "out"
    (out / "before").mkdir(parents=True)
    (out / "heads.json").touch()
    assert run_command(["export", str(copy), str(out)]) == 0
    printed = capfd.readouterr().out
    assert "warning: checkpoint" in printed and "step-6 is damaged and passed over" in printed
    assert f"checkpoint: {copy / 'checkpoints/step-4'}\n" in printed
    assert [path.name for path in tmp_path.glob("*out*")] == ["out"] and not (out / "before").exists()
    for name in ("heads.safetensors", "model.safetensors"):  # in that order: the encoder is opened first
        (out / name).write_bytes((out / name).read_bytes()[:-9])
        assert run_command(["evaluate", str(out)]) == 2
        error = capfd.readouterr().err
        assert "error: the weights in " in error and "are damaged" in error and "Traceback" not in error


def test_the_verification_notices_a_changed_weight(run, tmp_path):
    folder = tmp_path / "changed"
    model = AutoModel.from_pretrained(run / "export", add_pooling_layer=False)
    probe = load_probe(next((run / "checkpoints" / "step-6").glob("probe.safetensors")))
    assert compare_with_probe(run / "export", probe) < TOLERANCE["fp32"]
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[0] += 0.05
    model.save_pretrained(folder)
    assert compare_with_probe(folder, probe) > TOLERANCE["fp32"]


def test_evaluation_does_not_depend_on_the_number_of_processes(run, capfd):
    assert run_command(["evaluate", str(run / "export")]) == 0
    alone = capfd.readouterr().out
    shared = finish(deepspeed(["evaluate", str(run / "export")], 2))
    rows = [line.split()[:2] for line in alone.splitlines() if line.startswith(NINE_TASKS)]
    assert len(rows) == 9
    assert rows == [line.split()[:2] for line in shared.splitlines() if line.startswith(NINE_TASKS)]


@pytest.mark.slow
def test_a_bf16_run_exports_its_fp32_weights_live_and_from_the_checkpoint(store, tmp_path, capfd):
    command = ["train", str(DEMO), store, f"run.folder={tmp_path}", "train.steps=3", "engine.dtype=bf16",
               "evaluation.end_limit=2"]  # fmt: skip
    finish(deepspeed(command, 2))
    assert run_command(["export", str(tmp_path / "demo"), str(tmp_path / "again")]) == 0
    live, offline = (load_file(f / "model.safetensors") for f in (tmp_path / "demo" / "export", tmp_path / "again"))
    assert all(torch.equal(offline[key], live[key]) for key in live)
    assert any(not torch.equal(value, value.bfloat16().float()) for value in live.values())
    (event,) = [e for e in read_events(tmp_path / "demo" / "events.jsonl") if e["event"] == "export"]
    assert 0 < event["difference"] < TOLERANCE["bf16"]
