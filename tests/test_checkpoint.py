"""Which checkpoint is used, which are deleted, and what is said of damaged ones."""

import json
import os

import pytest
import xxhash

from trainer import checkpoint
from trainer.errors import UserError
from trainer.exits import Exit, RunError


@pytest.fixture
def run(tmp_path):
    """A run's folder and a maker of checkpoints in it, of two files each."""

    def make(*numbers: int) -> None:
        for step in numbers:
            folder = tmp_path / "checkpoints" / f"step-{step}"
            folder.mkdir(parents=True)
            files = {"state.json": json.dumps({"step": step, "format": 2}).encode(), "weights": os.urandom(1000)}
            entries = {n: {"size": len(b), "xxh3": xxhash.xxh3_128_hexdigest(b)} for n, b in files.items()}
            for name, content in files.items():
                (folder / name).write_bytes(content)
            (folder / "manifest.json").write_text(json.dumps({"files": entries}))

    return tmp_path, make


def names(run) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_newest_good_one_is_used_and_damaged_ones_are_named(run):
    folder, make = run
    make(10, 20, 30, 40)
    checkpoints, said = folder / "checkpoints", []
    flip(checkpoints / "step-40" / "weights")
    os.truncate(checkpoints / "step-30" / "weights", 500)
    assert checkpoint.newest_good(folder, said.append) == checkpoints / "step-20"
    assert len(said) == 2
    assert "step-40/weights has changed since it was written" in said[0]
    assert "step-30/weights has 500 bytes instead of 1,000" in said[1]


def test_all_damaged_ends_with_a_code_of_its_own(run):
    folder, make = run
    make(1, 2)
    for step in (1, 2):
        (folder / "checkpoints" / f"step-{step}" / "weights").unlink()
    with pytest.raises(RunError, match="no usable checkpoint") as error:
        checkpoint.newest_good(folder, lambda text: None)
    assert error.value.exit_code == Exit.CHECKPOINT
    assert "step-1" in error.value.why and "next: " in str(error.value)


def test_ranks_share_the_checksums_and_each_compares_all_sizes(run):
    folder, make = run
    make(1)
    step = folder / "checkpoints" / "step-1"
    flip(step / "state.json")

    def finds(share: int) -> bool:
        try:
            checkpoint.verify(step, share, 2)
            return False
        except checkpoint.CorruptCheckpoint:
            return True

    assert [finds(0), finds(1)] == [False, True], "the smaller of two files is the second rank's"
    os.truncate(step / "state.json", 3)
    assert [finds(0), finds(1)] == [True, True]


def test_only_the_newest_and_the_best_stay(run):
    folder, make = run
    make(10, 20, 30, 40)
    (folder / "checkpoints" / ".step-35.ab12.partial").mkdir()
    checkpoint.prune(folder, newest=40, keep=2, best=10)
    assert names(folder) == ["step-10", "step-30", "step-40"]


def test_of_good_ones_none_goes_for_a_damaged_later_one(run):
    folder, make = run
    make(20, 30, 35, 40)  # 40 was found damaged, the run went on from 30 and wrote 35
    checkpoint.prune(folder, newest=35, keep=2, best=40)
    assert names(folder) == ["step-30", "step-35"]


def test_one_that_a_user_has_renamed_is_left_alone(run):
    folder, make = run
    make(10, 20, 30)
    (folder / "checkpoints" / "step-10").rename(folder / "checkpoints" / "step-10-keep")
    checkpoint.prune(folder, newest=30, keep=1, best=None)
    assert names(folder) == ["step-10-keep", "step-30"]
    assert checkpoint.newest_good(folder, pytest.fail).name == "step-30"


@pytest.mark.parametrize("files", [{"weights": {"size": 1000, "sha256": "0"}}, {"weights": 1000}, ["weights"]])
def test_a_manifest_of_another_kind_is_damage(run, files):
    folder, make = run
    make(1, 2)
    (folder / "checkpoints/step-2/manifest.json").write_text(json.dumps({"files": files}))
    said = []
    assert checkpoint.newest_good(folder, said.append).name == "step-1"
    assert "step-2 is damaged and passed over" in said[0]


def test_one_that_is_being_read_stays(run):
    folder, make = run
    make(10, 20, 30)
    with checkpoint.held(folder / "checkpoints" / "step-10"):
        checkpoint.prune(folder, newest=30, keep=1, best=None)
        assert names(folder) == ["step-10", "step-30"]
    checkpoint.prune(folder, newest=30, keep=1, best=None)
    assert names(folder) == ["step-30"]


def test_a_later_format_is_refused(run):
    folder, make = run
    make(1)
    step = folder / "checkpoints" / "step-1"
    (step / "state.json").write_text(json.dumps({"format": checkpoint.FORMAT + 1}))
    with pytest.raises(UserError, match=f"has format {checkpoint.FORMAT + 1}"):
        checkpoint.read_state(step)
    (step / "state.json").write_text("{}")
    assert checkpoint.read_state(step)["format"] == 1


def test_a_checkpoint_that_is_deleted_is_never_one_that_lacks_files(run, monkeypatch):
    """Killed at any moment of the deletion, no folder is left that looks complete."""
    folder, make = run
    make(10, 20, 30)
    seen = []
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda path, **_: seen.append(path.name))
    checkpoint.prune(folder, newest=30, keep=1, best=None)
    assert sorted(set(seen)) == [".step-10.partial", ".step-20.partial"]
    assert [path.name for path in checkpoint.checkpoint_folders(folder)] == ["step-30"]
