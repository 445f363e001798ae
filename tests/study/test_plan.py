"""Cells: which there are, what they run, what decides their result."""

import json
import re
from pathlib import Path

import pytest

from tests.launching import ROOT
from trainer.config import load_recipe
from trainer.errors import UserError
from trainer.launchers import open_launcher
from trainer.study.plan import HARMLESS, make_cells, target_tasks
from trainer.study.run import check_packs
from trainer.study.spec import load_study

STUDIES = sorted((ROOT / "launch" / "recipes" / "studies").glob("*.yaml"))


def overrides_of(arguments):
    return [word for word in arguments if "=" in word]


def test_the_cells_of_the_small_study(cells_of, tmp_path):
    _, cells = cells_of()
    baseline = ["tiny-none-xnli-seed1", "tiny-none-panx-seed1", "tiny-none-tatoeba"]
    mnli = ["tiny-mnli-seed1", *(f"tiny-mnli-{target}-seed1" for target in ("xnli", "panx", "tatoeba"))]
    again = [name.replace("seed1", "seed2") for name in [*baseline[:2], *mnli]]
    assert list(cells) == [*baseline, *mnli, *again]
    assert cells["tiny-mnli-seed1"].folder == tmp_path / "study" / "intermediate" / "tiny-mnli-seed1"
    assert cells["tiny-none-tatoeba"].folder == tmp_path / "study" / "cells" / "tiny-none-tatoeba"
    assert [step.name for step in cells["tiny-none-xnli-seed1"].steps] == ["train", "evaluate"]
    assert [step.name for step in cells["tiny-none-tatoeba"].steps] == ["evaluate"]
    assert cells["tiny-none-tatoeba"].seed is None
    assert cells["tiny-mnli-tatoeba-seed2"].needs == "tiny-mnli-seed2"
    assert cells["tiny-none-xnli-seed2"].needs is None


def test_training_commands_are_recipes_that_load(cells_of, tmp_path):
    _, cells = cells_of(overrides={"data.source": "sample", "train": {"steps": 5, "learning_rate": 1e-5}})
    cell = cells["tiny-mnli-xnli-seed2"]
    command, recipe, *overrides = cell.steps[0].arguments
    config = load_recipe(recipe, overrides)
    assert command == "train"
    assert config.run_folder / "export" == cell.export
    assert (config.seed, config.tasks, config.train.steps, config.train.learning_rate) == (2, ("mnli",), 5, 1e-5)
    assert config.model.encoder == str(tmp_path / "study" / "intermediate" / "tiny-mnli-seed2" / "run" / "export")
    assert (config.model.init, config.model.tokenizer) == ("pretrained", None)
    assert cell.steps[1].arguments[:4] == ("evaluate", str(cell.export), "--tasks", "xnli")


def test_an_encoder_starts_as_its_entry_says_and_its_export_as_it_is(cells_of):
    entry = {"encoder": "FacebookAI/xlm-roberta-base", "init": "random", "overrides": {"train.steps": 9}}
    _, cells = cells_of(encoders={"tiny": entry}, targets__tatoeba={"recipe": "launch/recipes/demo.yaml"})
    first = load_recipe(cells["tiny-mnli-seed1"].steps[0].arguments[1], cells["tiny-mnli-seed1"].steps[0].arguments[2:])
    assert (first.model.encoder, first.model.init, first.train.steps) == (entry["encoder"], "random", 9)
    after = overrides_of(cells["tiny-mnli-panx-seed1"].steps[0].arguments)
    assert "model.init=pretrained" in after and "train.steps=9" in after


def test_retrieval_is_evaluated_from_the_encoder_or_the_export(cells_of, tmp_path):
    target = {"evaluate": ["tatoeba"], "languages": ["de", "fr"], "layer": 3, "pooling": "cls"}
    overrides = {"data": {"source": "sample"}, "train.steps": 5}
    _, cells = cells_of(targets__tatoeba=target, overrides=overrides)
    plain = cells["tiny-none-tatoeba"].steps[0].arguments
    assert plain[:2] == ("evaluate", "sample")
    assert plain[2:12:2] == ("--tasks", "--out", "--languages", "--layer", "--pooling")
    assert plain[3:13:2] == ("tatoeba", str(cells["tiny-none-tatoeba"].folder / "evaluation"), "de,fr", "3", "cls")
    assert overrides_of(plain) == [
        "data.source=sample", "model.encoder=sample", "model.revision=main", "model.tokenizer=null",
        "model.init=pretrained",
    ]  # fmt: skip
    export = cells["tiny-mnli-tatoeba-seed1"].steps[0].arguments
    assert export[1] == str(tmp_path / "study" / "intermediate" / "tiny-mnli-seed1" / "run" / "export")
    assert overrides_of(export) == ["data.source=sample"]


def test_leaving_a_task_out(cells_of):
    entry = {"recipe": "launch/recipes/demo.yaml", "leave_out": ["ccg", "mnli"]}
    _, cells = cells_of(intermediate__mnli=entry)
    config = cells["tiny-mnli-seed1"].config
    assert len(config.tasks) == 7 and not {"ccg", "mnli"} & set(config.tasks)
    assert "tasks=" + json.dumps(config.tasks, separators=(",", ":")) in cells["tiny-mnli-seed1"].steps[0].arguments


def test_identity_names_what_decides_and_nothing_else(cells_of):
    def identity(name="tiny-mnli-xnli-seed1", **changes):
        return cells_of(**changes)[1][name].identity

    same = identity()
    assert identity(overrides={"data": {"source": "sample", "store": "elsewhere"}, "log.every_steps": 3}) == same
    assert identity(folder="elsewhere") == same
    changed = identity(intermediate__mnli__overrides={"tasks": ["mnli"], "train.steps": 7})
    assert {key for key in same if same[key] != changed[key]} == {"intermediate.train.steps"}
    changed = identity(encoders={"tiny": "FacebookAI/xlm-roberta-base"})
    assert {key for key in same if same[key] != changed[key]} == {"intermediate.model.encoder"}
    changed = identity(targets__xnli__languages=["de"])
    assert {key for key in same if same[key] != changed[key]} == {"languages"}
    retrieval = identity("tiny-none-tatoeba")
    changed = identity("tiny-none-tatoeba", overrides={"data": {"source": "files", "folder": "x"}})
    assert {key for key in changed if retrieval.get(key) != changed[key]} == {"data.source", "data.folder"}


def test_what_is_harmless_to_a_run_is_harmless_to_a_cell():
    from trainer import resume

    assert set(HARMLESS) <= set(resume.HARMLESS)


@pytest.mark.parametrize(
    ("changes", "said", "fix"),
    [
        ({"targets__xnli__evaluate": ["xnly"]}, "targets.xnli: unknown target 'xnly'", "'xnli'"),
        ({"targets__xnli__evaluate": ["mnli"]}, "targets.xnli: mnli is no target", "xnli"),
        ({"targets__mlqa": None}, "targets.mlqa names no recipe, but mlqa is scored by a trained head", "squad_v1"),
        ({"targets__xnli__overrides": {"train.step": 3}}, "targets.xnli", "'train.steps'"),
        ({"intermediate__mnli__overrides": {"tasks": ["mnly"]}}, "unknown task 'mnly'", "'mnli'"),
        ({"intermediate__mnli__leave_out": ["qqq"]}, "leave_out names 'qqq'", ""),
        ({"targets__xnli__layer": 3}, "targets.xnli chooses layer or pooling", "leave them out"),
        ({"targets__xnli__languages": ["xx"]}, "languages names 'xx'", "de"),
        (
            {"encoders": {"tiny": {"encoder": "sample", "init": "random"}}},
            "encoders.tiny.init is 'random', but tatoeba of none trains nothing",
            "targets.tatoeba.recipe, to train first, or a study of tiny without tatoeba",
        ),
        (
            {"encoders": {"tiny": {"encoder": "sample", "tokenizer": "xlm-roberta-base"}}},
            "encoders.tiny.tokenizer is 'xlm-roberta-base', but tatoeba",
            "targets.tatoeba.recipe",
        ),
        (
            {"intermediate__mnli-xnli": {"recipe": "launch/recipes/demo.yaml"}},
            "two cells of the study would be called tiny-mnli-xnli-seed1",
            "rename",
        ),
    ],
)
def test_bad_cells_are_refused(cells_of, changes, said, fix):
    with pytest.raises(UserError) as error:
        cells_of(**changes)
    assert said in error.value.what
    assert fix in error.value.fix


def test_retrieval_after_training_takes_any_encoder(cells_of):
    """What is evaluated is then an export, whose weights and tokenizer are its own."""
    entry = {"encoder": "sample", "init": "random", "tokenizer": "xlm-roberta-base"}
    trained = {"mnli": {"recipe": "launch/recipes/demo.yaml"}}
    _, cells = cells_of(encoders={"tiny": entry}, intermediate=trained)
    assert cells["tiny-mnli-tatoeba-seed1"].needs == "tiny-mnli-seed1"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_of_the_repository_runs_with_the_launchers_of_its_header(path):
    named = re.findall(r'^#   xstilts study .*--launcher "(.*?)"', path.read_text(), re.MULTILINE)
    assert named or path.stem == "demo"
    cells = make_cells(load_study(path))
    for text in named or [f"torchrun --nproc_per_node {count}" for count in (1, 2, 4)]:
        check_packs(cells, open_launcher(text).processes)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_of_the_repository_has_its_cells(path):
    study = load_study(path)
    assert study.name == path.stem
    cells = make_cells(study)
    evaluated = [cell for cell in cells if cell.target]
    runs = sum(entry.recipe is not None for entry in study.intermediate.values())
    assert len(cells) - len(evaluated) == runs * len(study.encoders) * len(study.seeds)
    assert all(Path(cell.steps[0].arguments[1]).is_file() for cell in cells if cell.config)
    assert set(target_tasks(study)) == {task for cell in cells for task in cell.tasks}
