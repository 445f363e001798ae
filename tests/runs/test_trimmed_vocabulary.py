"""Training only the embedding rows that occur gives the run that trains all of them, killed in the middle or not."""

import pytest
import torch
from safetensors.torch import load_file

from tests.launching import DEMO, finish, kill_at_step, start_ranks, steps, xstilts
from trainer.events import read_events
from trainer.model.vocabulary import NAME, load_kept_rows

STEPS = 50


def command(folder, store, vocabulary, stage=2, steps=STEPS):
    return ["train", str(DEMO), store, f"run.folder={folder}", f"run.name={vocabulary}", f"train.steps={steps}",
            "tasks=[mnli,qqp]", "train.packs_per_step=2", "train.pack_tokens=512", "train.weight_decay=0.1",
            "checkpoint.every_steps=20", "evaluation.end_limit=2", f"model.vocabulary={vocabulary}",
            f"engine.config=ds_configs/zero{stage}.json"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """An untrimmed run, and a trimmed one that was killed."""
    folder = tmp_path_factory.mktemp("runs")
    finish(start_ranks(command(folder, store, "full"), 1))
    kill_at_step(start_ranks(command(folder, store, "trimmed"), 1), folder / "trimmed", 30, rank=0)
    assert "continued from" in finish(start_ranks(command(folder, store, "trimmed"), 1))
    return folder


@pytest.mark.slow
def test_losses_are_the_untrimmed_runs(runs):
    full, trimmed = steps(runs / "full"), steps(runs / "trimmed")
    assert list(full) == list(trimmed) == list(range(1, STEPS + 1))
    for step, expected in full.items():
        assert trimmed[step]["example_ids_hash"] == expected["example_ids_hash"]
        assert trimmed[step]["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert trimmed[step]["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)
    notes = next(e for e in read_events(runs / "trimmed" / "events.jsonl") if e["event"] == "start")["notes"]
    assert any("rows are trained" in note for note in notes)


@pytest.mark.slow
def test_the_export_is_the_untrimmed_runs(runs, tmp_path):
    full, trimmed = (load_file(runs / name / "export" / "model.safetensors") for name in ("full", "trimmed"))
    assert full.keys() == trimmed.keys()
    kept = load_kept_rows(runs / "trimmed" / "checkpoints" / f"step-{STEPS}")
    rows = full[NAME.removeprefix("encoder.")]
    assert 0 < len(kept) < len(rows)
    for name, value in full.items():
        assert torch.allclose(trimmed[name], value, rtol=1e-5, atol=2e-6), name
    left_out = torch.ones(len(rows), dtype=bool)
    left_out[torch.from_numpy(kept)] = False
    assert torch.allclose(trimmed[NAME.removeprefix("encoder.")][left_out], rows[left_out], rtol=2e-6, atol=0)
    # From the checkpoint, without the live model.
    done = xstilts("export", runs / "trimmed", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.allclose(again[name], value, rtol=0, atol=1e-7) for name, value in trimmed.items())


@pytest.mark.slow
def test_a_run_is_not_continued_with_other_rows(runs, store):
    done = xstilts(*command(runs, store, "trimmed"), "model.vocabulary=full", "checkpoint.accept_changes=true")
    assert done.returncode == 2
    assert "not laid out as this run's" in done.stderr


@pytest.mark.slow
def test_stage_3_trims_too(store, tmp_path):
    for vocabulary in ("full", "trimmed"):
        finish(start_ranks(command(tmp_path, store, vocabulary, stage=3, steps=6), 2))
    full, trimmed = steps(tmp_path / "full"), steps(tmp_path / "trimmed")
    for step in range(1, 7):
        assert trimmed[step]["loss"] == pytest.approx(full[step]["loss"], rel=1e-6)
