"""Exit codes and causes."""

import errno
import pickle
from pathlib import Path

import pytest
import torch

from trainer.errors import NoExamples, UserError
from trainer.exits import Exit, RunError, explain


@pytest.mark.parametrize(
    "error, code",
    [
        (UserError("a key is unknown", why="why", fix="fix"), Exit.USER),
        (NoExamples("nothing"), Exit.USER),
        (RunError(Exit.DISK, "full"), Exit.DISK),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (MemoryError(), Exit.MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), Exit.MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), Exit.DISK),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:5"), Exit.PEER),
        (RuntimeError("NCCL error: remote process exited or there was a network error"), Exit.PEER),
        (ConnectionResetError(104, "Connection reset by peer"), Exit.PEER),
        (RuntimeError("shape '[3]' is invalid for input of size 4"), Exit.BUG),
        (FileNotFoundError(2, "No such file", "x"), Exit.BUG),
        (KeyError("connection closed"), Exit.BUG),
    ],
)
def test_each_cause_has_its_code(error, code):
    found, cause = explain(error)
    assert found == code
    assert cause and "\n" not in cause


def test_an_error_keeps_its_code_between_processes():
    error = pickle.loads(pickle.dumps(RunError(Exit.NOT_FINITE, "what", why="why", fix="fix")))
    assert (error.exit_code, error.what, error.why, error.fix) == (Exit.NOT_FINITE, "what", "why", "fix")


def test_the_readme_lists_every_code():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ") and line.count("|") >= 3}
    assert {str(code.value) for code in Exit} <= rows
