"""`checkpoint.resume=false` starts a run afresh once, not at each start by its supervisor or Slurm."""

import pytest

from trainer import afresh
from trainer.checkpoint import checkpoint_folders

SUPERVISED = [{"XSTILTS_ATTEMPT": f"{number}-ab12"} for number in (1, 2)]
QUEUED = [{"XSTILTS_ATTEMPT": f"1-{token}", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": count}
          for token, count in (("cd34", "0"), ("ef56", "1"))]  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run with a checkpoint of an earlier time."""
    (tmp_path / "checkpoints").mkdir()
    save(tmp_path, 9)
    return tmp_path


def save(run, step: int) -> None:
    folder = run / "checkpoints" / f"step-{step}"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")


OVER_SSH = [{"XSTILTS_ATTEMPT": f"1-{token}", "XSTILTS_JOB": job} for token, job in (("cd34", "7/0"), ("ef56", "7/1"))]
ON_TWO_NODES = [{"XSTILTS_ATTEMPT": name} for name in ("1-ab12", "2-0099")]  # rank 0 is on the other one then


def start(run, environ) -> list[str]:
    """As a run begins; the checkpoints it then has."""
    if afresh.is_due(run, environ):
        afresh.begin(run, [afresh.supervisor(environ), "0099"], environ)
    return [folder.name for folder in checkpoint_folders(run)]


@pytest.mark.parametrize("first, again", [SUPERVISED, QUEUED, OVER_SSH, ON_TWO_NODES])
def test_a_restart_keeps_the_run_s_own_checkpoints(run, first, again):
    assert start(run, first) == [] and (run / "checkpoints.before-1/step-9").is_dir()
    save(run, 2)
    assert start(run, again) == ["step-2"]
    assert start(run, {"XSTILTS_ATTEMPT": "1-0000", "SLURM_JOB_ID": "8"}) == [], "the same command again"
    assert (run / "checkpoints.before-2/step-2").is_dir()


@pytest.mark.parametrize("again", [SUPERVISED[1], QUEUED[1]])
def test_a_restart_before_the_run_had_begun_starts_afresh(run, again):
    assert start(run, again) == []


def test_without_a_supervisor_every_start_is_afresh(run):
    for _ in range(2):
        assert start(run, {}) == []
        save(run, 2)
