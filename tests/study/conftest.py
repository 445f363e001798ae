"""Small studies that run on the fake launcher."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import yaml

from tests.launching import DEMO
from trainer import attempt
from trainer.launchers import Launcher
from trainer.study.plan import make_cells
from trainer.study.spec import load_study

FAKE = Path(__file__).with_name("fake_launcher.py")
LAUNCHER = Launcher((sys.executable, str(FAKE)))
LAUNCHER_TEXT = shlex.join(LAUNCHER.words)


def tree(folder: Path) -> dict:
    """Two seeds, a baseline and one task, two targets that train and one that does not."""
    return {
        "name": "small",
        "folder": str(folder / "study"),
        "seeds": [1, 2],
        "encoders": {"tiny": "sample"},
        "intermediate": {"none": None, "mnli": {"recipe": str(DEMO), "overrides": {"tasks": ["mnli"]}}},
        "targets": {
            "xnli": {"recipe": str(DEMO), "overrides": {"tasks": ["mnli"]}},
            "panx": {"recipe": str(DEMO), "overrides": {"tasks": ["ccg"]}},
            "tatoeba": None,
        },
        "overrides": {"data": {"source": "sample", "prepare": "auto"}},
    }


@pytest.fixture
def write(tmp_path):
    """Writes the small study, changed; its path. A dotted key changes a value below, None takes it out."""

    def make(**changes) -> Path:
        study = tree(tmp_path)
        for key, value in changes.items():
            *parents, last = key.split("__")
            below = study
            for parent in parents:
                below = below[parent]
            below[last] = value
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        return path

    return make


@pytest.fixture
def cells_of(write):
    """The cells of the small study, changed, by name."""

    def make(*overrides: str, **changes):
        study = load_study(write(**changes), overrides)
        return study, {cell.name: cell for cell in make_cells(study)}

    return make


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The commands that the fake launcher was given so far, in order."""
    path = tmp_path / "calls"
    monkeypatch.setattr(attempt, "LOOK", 0.02)
    monkeypatch.setenv("FAKE_CALLS", str(path))
    for name in ("FAKE_FAIL", "FAKE_EMPTY", "FAKE_HOLD", "FAKE_SCORES", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return lambda: path.read_text().split() if path.exists() else []
