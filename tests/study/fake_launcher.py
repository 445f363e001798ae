"""Stands for a launcher: writes the files that `train` and `evaluate` write, without training or evaluating anything.

The environment says what goes wrong:
    FAKE_CALLS   file that gets a line for every command: its name and its cell
    FAKE_FAIL    command:cell names that end with exit code 3
    FAKE_EMPTY   command:cell names that end well but leave nothing behind
    FAKE_HOLD    command:cell name that first makes FAKE_CALLS.held, then waits for FAKE_CALLS.release; training told to
                 stop says so in its run folder and ends with 0, as some launchers do
    FAKE_SCORES  JSON file: cell name -> task -> average
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path


def main() -> None:
    module, name, command, *arguments = sys.argv[1:]
    assert (module, name) == ("-m", "trainer"), sys.argv
    given = dict(word.split("=", 1) for word in arguments if "=" in word and not word.startswith("-"))
    cell = Path(given["run.folder"] if command == "train" else option(arguments, "--out")).resolve()
    cell = cell if command == "train" else cell.parent
    calls = Path(os.environ["FAKE_CALLS"])
    with open(calls, "a") as file:
        file.write(f"{command}:{cell.name}\n")
    label = f"{command}:{cell.name}"
    if label == os.environ.get("FAKE_HOLD"):
        if command == "train":
            begin(cell / "run")
            train(cell, arguments, given)  # an export alone does not make a run complete
        calls.with_suffix(".held").write_text("")
        give_up = time.monotonic() + 60
        while not calls.with_suffix(".release").exists() and time.monotonic() < give_up:
            time.sleep(0.02)
    if label in os.environ.get("FAKE_FAIL", "").split():
        print("first line of the output")
        print(f"error: {label} does not want to", file=sys.stderr)
        sys.exit(3)
    if label not in os.environ.get("FAKE_EMPTY", "").split():
        (train if command == "train" else evaluate)(cell, arguments, given)
        if command == "train":
            write_event(cell / "run", "finish")
    print(f"{label} is done")


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def begin(run: Path) -> None:
    """What the ranks of a run do first, and when they are told to stop."""
    write_event(run, "start")
    who = {"rank": 0, "host": socket.gethostname(), "pid": os.getpid(), "attempt": os.environ["XSTILTS_ATTEMPT"]}
    (run / "ranks").mkdir(exist_ok=True)
    (run / "ranks" / "rank-0.json").write_text(json.dumps(who))

    def stop(number, frame) -> None:
        cause = f"stopped by {signal.Signals(number).name}; saved at step 7"
        (run / "ranks" / "exit-0.json").write_text(json.dumps({**who, "code": 28, "cause": cause}))
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)


def write_event(run: Path, event: str) -> None:
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "events.jsonl", "a") as file:
        file.write(json.dumps({"event": event, "step": 0}) + "\n")


def train(cell: Path, arguments: list[str], given: dict[str, str]) -> None:
    assert Path(arguments[0]).is_file(), "no such recipe"
    start = Path(given["model.encoder"])
    if "/" in str(start):
        assert (start / "config.json").is_file(), f"no export in {start}"
    export = cell / "run" / "export"
    export.mkdir(parents=True, exist_ok=True)
    (export / "config.json").write_text(json.dumps(given))


def evaluate(cell: Path, arguments: list[str], given: dict[str, str]) -> None:
    scores = json.loads(Path(os.environ["FAKE_SCORES"]).read_text()) if "FAKE_SCORES" in os.environ else {}
    tasks = {}
    for task in option(arguments, "--tasks").split(","):
        average = scores.get(cell.name, {}).get(task, 50.0)
        languages = {"en": average + 1, "de": average - 1}
        tasks[task] = {
            "group": "",
            "metric": "accuracy",
            "average": average,
            "languages": {code: {"accuracy": value, "examples": 4} for code, value in languages.items()},
            "skipped": {"sw": "its file is empty"} if task == "panx" else {},
        }
    out = Path(option(arguments, "--out"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.json").write_text(json.dumps({"tasks": tasks, "groups": {}, "about": {"given": given}}))


if __name__ == "__main__":
    main()
