"""Masked language modelling in real runs: tied embeddings at every stage, resume, evaluation, export."""

import pytest
import torch
from safetensors.torch import load_file

from tests.launching import DEMO, finish, kill_at_step, start_ranks, steps, xstilts
from tests.runs.masked_lm_worker import STAGES
from trainer.events import read_events

EMBEDDINGS = "encoder.embeddings.word_embeddings.weight"
TASKS = "tasks=[mnli,mlm,mlm-de,mlm-zh]"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text_store(tmp_path_factory) -> str:
    """The data of TASKS, prepared once."""
    override = f"data.store={tmp_path_factory.mktemp('store')}"
    done = xstilts("prepare", DEMO, override, TASKS)
    assert done.returncode == 0, done.stderr
    return override


@pytest.fixture(scope="module")
def results(text_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    found = {}
    for ranks in (1, 2):
        arguments = [str(folder / f"{ranks}.pt"), "4", text_store, TASKS, f"run.folder={folder}"]
        finish(start_ranks(arguments, ranks, module="tests.runs.masked_lm_worker"), timeout=600)
        found[ranks] = torch.load(folder / f"{ranks}.pt")
    return found


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_layout_trains_the_same(results, ranks, stage):
    expected, found = results[1]["zero2"], results[ranks][stage]
    assert found["hashes"] == expected["hashes"]
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    scale = max(gradient.abs().max() for gradient in expected["gradients"].values())
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        assert (found["gradients"][name] - gradient).abs().max() <= 1e-5 * scale, name


def test_the_projections_gradient_reaches_rows_that_no_text_has(results):
    """The softmax moves every row of the word embeddings; a lookup only those that occur."""
    gradient = results[2]["zero3"]["gradients"][EMBEDDINGS]
    assert (gradient != 0).any(1).all()


def command(folder, text_store, name, total=14):
    return ["train", str(DEMO), text_store, TASKS, f"run.folder={folder}", f"run.name={name}", f"train.steps={total}",
            "checkpoint.every_steps=4", "evaluation.limit=2", "engine.config=ds_configs/zero3.json"]  # fmt: skip


@pytest.mark.long
def test_a_killed_run_continues_bit_identically(text_store, tmp_path):
    finish(start_ranks(command(tmp_path, text_store, "unbroken"), 2))
    kill_at_step(start_ranks(command(tmp_path, text_store, "killed"), 2), tmp_path / "killed", 7, rank=1)
    assert max(steps(tmp_path / "killed")) < 14
    assert "continued from" in finish(start_ranks(command(tmp_path, text_store, "killed"), 2))
    unbroken, killed = steps(tmp_path / "unbroken"), steps(tmp_path / "killed")
    for step, expected in unbroken.items():
        for field in ("loss", "task_loss", "grad_norm", "example_ids_hash"):
            assert killed[step][field] == expected[field], (step, field)


@pytest.mark.long
def test_it_learns_and_the_export_scores_as_the_run_did(text_store, tmp_path):
    finish(start_ranks(command(tmp_path, text_store, "run", total=60), 1))
    events = read_events(tmp_path / "run" / "events.jsonl")
    start = next(event for event in events if event["event"] == "start")
    assert any("masked LM head: new" in note for note in start["notes"])
    assert any("all" in note and "rows are trained, as mlm predicts" in note for note in start["notes"])
    assert set(start["rates"]) == {"mnli", "mlm", "mlm-de", "mlm-zh"}
    assert start["rates"]["mlm"] > start["rates"]["mlm-de"] > start["rates"]["mlm-zh"]
    losses = [event["task_loss"]["mlm"] for event in events if event["event"] == "step"]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    scores = next(event for event in events if event["event"] == "evaluation")["scores"]
    assert 0 < scores["mlm"]["accuracy"] <= 100 and 1 < scores["mlm"]["perplexity"] < 4000
    heads = load_file(tmp_path / "run" / "export" / "heads.safetensors")
    assert {name for name in heads if "mlm" in name} == {
        f"heads.mlm.{part}" for part in ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias", "bias")
    }
    done = xstilts("evaluate", tmp_path / "run" / "export", text_store)
    assert done.returncode == 0, done.stderr
    assert f"{scores['mlm-de']['accuracy']:.2f}" in done.stdout
    assert "perplexity=" in done.stdout
