"""The README is true: its commands run, its code runs, its tables are those of the code.

A comment before each block says how it is tested: `fast` and `slow` ones are run, in order, in one folder that has
`launch` and `ds_configs` as a clone has; `file NAME` is written there; `no, REASON` is not run.
"""

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trainer.config import RunConfig, known_keys, load_recipe
from trainer.tasks import FORMATS
from trainer.tasks.intermediate import TASKS
from trainer.tasks.languages import fill_in
from trainer.tasks.xtreme import TARGETS
from trainer.tasks.xtreme_r import TRAINING_TASKS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(?:<!-- test: (?P<how>[^\n]*?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
BLOCKS = [(match["how"], match["kind"], match["text"]) for match in BLOCK.finditer(README)]


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder with what a clone has, the files the README shows, and `xstilts` and `python` on the path."""
    for name in ("launch", "ds_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for how, _, text in BLOCKS:
        if how and how.startswith("file "):
            (tmp_path / how.removeprefix("file ")).write_text(text)
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "xstilts").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trainer "$@"\n')
    (commands / "xstilts").chmod(0o755)
    return tmp_path


def run(kind: str, text: str, place: Path) -> str:
    """Run a block; its output."""
    command = ["bash", "-euo", "pipefail", "-c", text] if kind == "bash" else [sys.executable, "-c", text]
    path = f"{place / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    alone = {"PATH": path, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | alone | offline
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def blocks(how: str) -> list[tuple[str, str]]:
    return [(kind, text) for said, kind, text in BLOCKS if said == how]


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the first table below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_block_says_how_it_is_tested():
    for how, kind, text in BLOCKS:
        if kind != "bibtex":
            assert how and re.match(r"fast$|slow$|file \S+$|no, .+", how), f"{kind} block: {text[:80]}"


def test_fast_blocks_run(place):
    assert blocks("fast")
    for kind, text in blocks("fast"):
        run(kind, text, place)


@pytest.mark.slow
def test_slow_blocks_run(place):
    for kind, text in blocks("slow"):
        run(kind, text, place)
    assert (place / "exports" / "first" / "model.safetensors").is_file()
    run("bash", "xstilts train weather.yaml data.prepare=auto train.steps=1 train.detect_anomaly=false", place)


@pytest.mark.slow
def test_the_launcher_command_runs_on_the_sample(place):
    [line] = [line for line in README.splitlines() if line.startswith("deepspeed --num_gpus 2")]
    assert line == "deepspeed --num_gpus 2 --module trainer train launch/recipes/nine_tasks.yaml run.name=x"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = line.replace("nine_tasks.yaml", "demo.yaml").replace("--module", f"--master_port {port} --module")
    run("bash", f"{line} train.steps=3 train.packs_per_step=2", place)
    assert (place / "runs" / "x" / "export" / "config.json").is_file()


def test_recipe_key_table_lists_every_key_with_its_default():
    leaves = [key for key in known_keys() if not any(other.startswith(key + ".") for other in known_keys())]
    shown = {row[0].strip("`"): row[1].strip("`") for row in table("Recipe keys")}
    assert list(shown) == leaves
    for key, text in shown.items():
        default = RunConfig().to_dict()
        for part in key.split("."):
            default = default[part]
        value = text if isinstance(default, str) else yaml.safe_load(text)  # YAML takes `off` for false
        assert (float(value) if isinstance(default, float) else value) == default, key


def test_task_files_table_names_files_the_tasks_read():
    shown = {row[0].strip("`"): row[1:] for row in table("Real data")}
    assert set(shown) == set(TASKS)
    for name, cells in shown.items():
        for split, cell in zip(("train", "dev"), cells, strict=True):
            known = {path for part in TASKS[name].files[split] for path in part}
            for path in re.findall(r"`([^`]+\.\w+)`", cell):
                listed = path.replace("02..21", "{02..21}")
                assert "..." in path or listed in known, f"{name}: {path} is not among {sorted(known)}"


def test_target_files_table_names_files_the_targets_read():
    shown = {row[0].strip("`"): row[1:] for row in table("Targets, in languages never trained on") if len(row) == 3}
    assert set(TARGETS) <= set(shown)
    tasks = TARGETS | TRAINING_TASKS

    def files(name: str, split: str, languages: tuple[str, ...]) -> set[str]:
        paths = {path for part in tasks[name].files.get(split, ()) for path in part}
        return {fill_in(path, code) for path in paths for code in languages}

    for name in TARGETS:
        trained = [name, "copa", "siqa"] if name == "xcopa" else [name]
        training = {path for task in trained for split in ("train", "dev") for path in files(task, split, ("en",))}
        for cell, known in zip(shown[name], (training, files(name, "test", tasks[name].languages)), strict=True):
            for path in re.findall(r"`([^`]+)`", cell):
                is_file = "/" in path[:-1] or "." in path[1:]  # neither siqa/ nor .gold
                assert not is_file or path in known, f"{name}: {path} is not among {sorted(known)}"


def test_deepspeed_table_names_every_file_and_its_stage():
    shown = {row[0].strip("`"): int(row[1]) for row in table("DeepSpeed files")}
    files = {str(p.relative_to(ROOT)): json.loads(p.read_text()) for p in (ROOT / "ds_configs").glob("*.json")}
    assert shown == {name: settings["zero_optimization"]["stage"] for name, settings in files.items()}


def test_formats_and_columns_are_those_of_the_code():
    section = README.split("## A task of your own")[1].split("```")[0]
    shown = dict(re.findall(r"`(\w+)` \((?:columns )?([\w, ]+)[;)]", section.replace("\n", " ")))
    assert {name: tuple(roles.split(", ")) for name, roles in shown.items()} == {
        name: tuple(kind.roles) for name, kind in FORMATS.items()
    }


def test_event_table_lists_the_fields_that_are_emitted():
    emitted: dict[str, str] = {}
    for path in ("loop.py", "session.py", "cli.py", "checkpoint_writer.py", "resume.py"):
        source = (ROOT / "trainer" / path).read_text()
        for kind, call in re.findall(r'\.emit\(\s*"(\w+)",(.*?)\n?\s*\)\n', source, re.S):
            emitted[kind] = emitted.get(kind, "") + call
    shown = {row[0].strip("`"): re.sub(r"\([^)]*\)", "", row[1]).split(", ") for row in table("The run folder")}
    assert set(shown) == set(emitted)
    for kind, fields in shown.items():
        for field in fields:
            assert re.search(rf"\b{field.strip()}=", emitted[kind]), f"event {kind} has no {field}"


def test_paths_that_are_named_exist():
    for path in re.findall(r"`((?:launch|ds_configs|trainer)/[\w./-]+\w)`", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`([A-Z]+(?:\.md)?)`", README):
        if name.endswith(".md") or name == "LICENSE":
            assert (ROOT / name).is_file(), name


def test_custom_task_of_the_readme_is_what_it_says(place, monkeypatch):
    from trainer.tasks import load_tasks

    monkeypatch.chdir(place)
    tasks = load_tasks(load_recipe("weather.yaml", ["task_files=[rhymes.py]", "tasks=[weather,rhymes]"]))
    assert dataclasses.asdict(tasks["weather"])["labels"] == ("supported", "refuted")
    assert tasks["rhymes"].choices == 2
