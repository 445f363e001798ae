import io

import pytest
from rich.console import Console

from trainer.ui.evaluating import EvaluationProgress


def run(interactive: bool) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=interactive, force_interactive=interactive)
    with EvaluationProgress(console) as progress:
        for done in (500, 640):
            progress("panx-de test", done, None)
        for done in (1, 2, 3):
            progress("panx test", done, 3)
    return console.file.getvalue()


def test_a_log_has_a_line_for_each_thing_that_is_done():
    assert run(interactive=False) == "preparing panx-de test ...\nevaluating panx test ...\n"


@pytest.mark.parametrize("expected", ["preparing panx-de test", "640/640", "evaluating panx test", "3/3"])
def test_a_terminal_has_bars(expected):
    assert expected in run(interactive=True)
