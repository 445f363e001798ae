"""Checkpoints of real runs: several ranks write one, files of strangers are refused, a run goes on after a kill."""

import json
import os
import subprocess

import pytest
import torch
import xxhash

from tests.launching import DEMO, finish, start_ranks, wait_for_step
from trainer import checkpoint
from trainer.cli import run_command
from trainer.events import read_events
from trainer.exits import Exit


def test_every_rank_learns_at_the_same_step_that_one_could_not_write(tmp_path):
    finish(start_ranks([str(tmp_path)], 2, module="tests.runs.checkpoint_worker"))
    told = [json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1] and told[0]["code"] == Exit.DISK and "No space left" in told[0]["why"]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-1", "latest"}
    folder = tmp_path / "checkpoints" / "step-1"
    checkpoint.verify(folder)
    assert [torch.load(folder / f"part-{rank}.pt")[0].item() for rank in (0, 1)] == [0, 1]


def small(store, folder, *more: str) -> list[str]:
    return ["train", str(DEMO), store, f"run.folder={folder}", "tasks=[mnli]", "train.steps=3",
            "train.packs_per_step=2", "train.pack_tokens=512",
            "checkpoint.every_steps=1", "evaluation.end_limit=2", *more]  # fmt: skip


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def replace(folder, file, content: bytes) -> None:
    """Change a checkpoint as a stranger would who knows how its manifest is made."""
    file.write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = {"size": len(content), "xxh3": xxhash.xxh3_128_hexdigest(content)}
    manifest["files"][str(file.relative_to(folder))] = entry
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("stage", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_planted_pickle_is_named_and_not_executed(stage, store, tmp_path, capfd):
    command = small(store, tmp_path, f"engine.config=ds_configs/zero{stage}.json")
    assert run_command(command) == 0
    folder, marker = tmp_path / "demo" / "checkpoints" / "step-3", tmp_path / "executed"
    checkpoint.verify(folder)
    kept = {path.name for path in (tmp_path / "demo" / "checkpoints").iterdir()}
    assert kept == {"step-2", "step-3", "latest"}
    assert not list(folder.rglob("*.py")), "no program in it"
    for kind in ("*model_states.pt", "*optim_states.pt"):
        for file in (folder / "engine" / "state").glob(kind):
            before = file.read_bytes()
            content = torch.load(file, weights_only=False)
            torch.save({**content, "planted": Runs(marker)}, tmp_path / "planted.pt")
            replace(folder, file, (tmp_path / "planted.pt").read_bytes())
            for arguments in (command, ["export", str(tmp_path / "demo"), str(tmp_path / "out")]):
                capfd.readouterr()
                assert run_command(arguments) == 2
                error = capfd.readouterr().err
                assert f"{file.name} is refused: it holds posix.mkdir" in error and "Traceback" not in error
            assert not marker.exists()
            replace(folder, file, before)
    assert run_command(["export", str(tmp_path / "demo"), str(tmp_path / "out")]) == 0


@pytest.mark.slow
def test_saving_in_the_background_changes_nothing(store, tmp_path):
    for name, background in (("background", "true"), ("blocking", "false")):
        more = f"run.name={name}", f"checkpoint.background={background}", "train.steps=6"
        finish(start_ranks(small(store, tmp_path, *more), 2))
    runs = [tmp_path / name for name in ("background", "blocking")]
    losses = [[e["loss"] for e in read_events(run / "events.jsonl") if e["event"] == "step"] for run in runs]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    for run in runs:
        events = [e for e in read_events(run / "events.jsonl") if e["event"] == "checkpoint"]
        assert [e["step"] for e in events] == [1, 2, 3, 4, 5, 6]
        assert all(e["bytes"] > 1e6 and 0 < e["stalled_seconds"] <= e["seconds"] for e in events)
    states = [checkpoint.checkpoint_folders(run)[-1] / "engine" / "state" for run in runs]
    for file in states[0].iterdir():
        assert file.stat().st_size == (states[1] / file.name).stat().st_size


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_and_the_checkpoint_before_is_used(store, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    command = small(store, disk, "train.steps=60", "checkpoint.every_steps=10")
    try:
        run = disk / "demo"
        process = start_ranks(command, 1)
        wait_for_step(process, run, 12)
        free = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - (2 << 20)))
        output, _ = process.communicate(timeout=120)
        assert process.returncode == Exit.DISK, output
        assert "could not be written" in output and "next: free some space" in output and "Traceback" not in output
        good = checkpoint.newest_good(run, pytest.fail)
        assert checkpoint.step_of(good) >= 10
        (disk / "filler").unlink()
        assert f"continued from {good}" in finish(start_ranks(command, 1)).replace("\n", "")
        assert not list((run / "checkpoints").glob(".*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
