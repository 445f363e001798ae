import io
import math

import pytest
from rich.console import Console

from trainer.ui.terminal import Terminal, live_view

NINE = ("anli_plus", "mnli", "qqp", "squad_v1", "squad_v2", "hellaswag", "ccg", "cosmos_qa", "commonsense_qa")


def start(tasks=("mnli", "qqp"), **fields):
    rates = {task: 1 / len(tasks) for task in tasks}
    return {"event": "start", "time": 100.0, "total_steps": 300, "first_step": 1, "tasks": list(tasks), "rates": rates,
            "world_size": 2, "stage": 2, "dtype": "bf16", "device": "cpu", "run_folder": "runs/a",
            "packs_per_step": 8, "pack_tokens": 16384, "notes": [], **fields}  # fmt: skip


def step(number, **fields):
    return {"event": "step", "time": 100.0 + number, "step": number, "loss": 1.09861, "tokens": 4096,
            "task_loss": {"mnli": 1.1, "qqp": 0.69}, "examples": {"mnli": 3, "qqp": 1}, "learning_rate": 1e-5,
            "grad_norm": 2.311, "step_seconds": 0.66, "useful_tokens_per_second": 4096.0, "memory_bytes": 1.2e9,
            **fields}  # fmt: skip


@pytest.fixture
def plain():
    return Console(file=io.StringIO(), width=80, force_terminal=False)


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    return Console(file=io.StringIO(), width=80, height=40, force_terminal=True, force_interactive=True)


def lines(console):
    return console.file.getvalue().splitlines()


def test_a_plain_line_shows_every_figure(plain):
    Terminal(300, console=plain)(step(12))
    assert lines(plain) == [
        "step 12/300  loss 1.0986  lr 1.0e-05  grad 2.31  4,096 tok/s  1.2 GB  eta 3m10s  mnli 1.10 qqp 0.69"
    ]


def test_figures_that_are_not_known_are_left_out(plain):
    Terminal(console=plain)({"event": "step", "step": 3, "loss": math.nan})
    assert lines(plain) == ["step 3  loss nan"]


def test_one_line_stands_for_the_steps_since_the_last_and_the_final_step_has_one(plain):
    terminal = Terminal(5, every=2, console=plain)
    for number, speed in enumerate((1000.0, 3000.0, 5000.0, 7000.0, 9000.0), 1):
        terminal(step(number, useful_tokens_per_second=speed))
    shown = lines(plain)
    assert [line.split()[1] for line in shown] == ["2/5", "4/5", "5/5"]
    assert [line.split(" tok/s")[0].split()[-1] for line in shown] == ["2,000", "6,000", "9,000"]


def test_a_whole_plain_run_has_no_escape_codes_and_says_where_everything_lies(plain):
    terminal = Terminal(console=plain)
    terminal(start(notes=["warm-up: 30 steps, 10% of 300"]))
    terminal(step(1))
    terminal({"event": "checkpoint", "time": 1.0, "step": 1, "path": "runs/a/[step1]", "seconds": 75, "bytes": 2.3e9})
    terminal({"event": "warning", "time": 1.0, "message": "slow attention", "reason": "no GPU"})
    terminal({"event": "evaluation", "time": 2.0, "step": 1000, "scores": {"qqp": {"accuracy": 91.234, "f1": 88.0}}})
    terminal({"event": "finish", "time": 290.0, "run_folder": "runs/a", "export": "runs/a/export"})
    terminal.close()
    text = plain.file.getvalue()
    assert "\x1b" not in text
    for expected in (
        "total steps 300",
        "pack tokens 16,384",
        "mnli 50.0%, qqp 50.0%",
        "note: warm-up: 30 steps, 10% of 300",
        "checkpoint  step 1  path runs/a/[step1]  seconds 1m15s  bytes 2.3 GB",
        "\nWARNING  slow attention  reason no GPU\n",
        "evaluation at step 1,000",
        "finished at step 1 after 3m10s",
        "run folder: runs/a\n",
        "export: runs/a/export\n",
    ):
        assert expected in text
    assert any(line.split() == ["qqp", "91.23", "accuracy", "f1=88.00"] for line in lines(plain))


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_live_view_shows_every_figure_whole(width):
    terminal = Terminal(console=Console(file=io.StringIO()))
    terminal(start(NINE, total_steps=100_000))
    examples = {**dict.fromkeys(NINE, 1_000_000), "mnli": 2_000_000}
    terminal(step(30_000, examples=examples, task_loss=dict.fromkeys(NINE, 1.25),
                  useful_tokens_per_second=1_234_567.0, step_seconds=0.5, memory_bytes=123.4e9))  # fmt: skip
    console = Console(file=io.StringIO(), width=width)
    console.print(live_view(terminal.progress))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert text.startswith("step 30000/100000 ") and "30.0%" in text and "eta 9h43m" in text
    assert "loss 1.0986  lr 1.0e-05  grad 2.31  1.2M tok/s  123.4 GB" in text
    rows = [line.split() for line in text.splitlines()[-9:]]
    assert rows[1] == ["mnli", "1.2500", "2,000,000", "11.1%", "20.0%"]
    assert rows[2:] == [[task, "1.2500", "1,000,000", "11.1%", "10.0%"] for task in NINE[2:]]


def test_on_a_terminal_the_view_is_live_and_its_last_state_stays(live):
    terminal = Terminal(console=live)
    terminal(start())
    for number in range(1, 301):
        terminal(step(number))
    terminal({"event": "warning", "time": 1.0, "message": "loss scale fell"})
    terminal({"event": "finish", "time": 101.0, "run_folder": "runs/a"})
    text = live.file.getvalue()
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert text.count("step 300/300") == 1
    assert "loss scale fell" in text and "\x1b[1;30;43mWARNING" in text
    assert text.index("step 300/300") < text.index("finished at step 300")
    assert text.count("tok/s") < 300  # not one drawing a step


def test_closing_early_gives_the_cursor_back(live):
    terminal = Terminal(console=live)
    terminal(step(1))
    terminal.close()
    terminal.close()
    text = live.file.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
