"""Bad input: one error that says what, why and what to do next; exit code 2, no traceback, nothing lost."""

import json
import os
import shutil
import subprocess

import pytest

from tests.launching import DEMO, ROOT, deepspeed
from trainer.cli import run_command
from trainer.exits import Exit


@pytest.fixture
def fails(capfd):
    """Runs a command that must fail; its error text."""

    def run(*arguments: object, code: int = Exit.USER) -> str:
        capfd.readouterr()
        assert run_command(list(map(str, arguments))) == code
        error = capfd.readouterr().err
        assert error.startswith("error: ") and "next: " in error and "Traceback" not in error
        return error

    return run


@pytest.fixture
def files(tmp_path):
    """Overrides for a recipe that reads mnli from two small files of the test's own."""
    rows = [{"premise": f"A man sat {i}.", "hypothesis": "He sat.", "label": "entailment"} for i in range(8)]
    folder = tmp_path / "data" / "mnli"
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [
        "data.source=files",
        f"data.folder={tmp_path / 'data'}",
        "tasks=[mnli]",
        f"data.store={tmp_path / 'store'}",
    ]
    return folder, overrides


@pytest.fixture
def tiny_run(store, tmp_path):
    """Overrides of a run that ends after two steps, with a checkpoint at each."""
    return [store, f"run.folder={tmp_path}", "tasks=[mnli,qqp]", "train.steps=2", "train.packs_per_step=1",
            "checkpoint.every_steps=1", "log.every_steps=100"]  # fmt: skip


def test_unknown_key(fails):
    assert "did you mean 'train.steps'" in fails("train", DEMO, "train.step=5")


def test_unknown_task(fails):
    assert "mnli" in fails("prepare", DEMO, "tasks=[mnly]")


def test_missing_recipe(fails):
    assert "no.yaml does not exist" in fails("train", "no.yaml")


def test_missing_file(fails, files):
    folder, overrides = files
    (folder / "dev.jsonl").unlink()
    assert "dev.jsonl" in fails("prepare", DEMO, *overrides)


def test_malformed_json_line(fails, files):
    folder, overrides = files
    with open(folder / "train.jsonl", "a") as file:
        file.write('{"premise": "cut off\n')
    assert "train.jsonl:9" in fails("prepare", DEMO, *overrides)


def test_label_outside_the_set(fails, files):
    folder, overrides = files
    with open(folder / "train.jsonl", "a") as file:
        file.write(json.dumps({"premise": "A", "hypothesis": "B", "label": "perhaps"}) + "\n")
    error = fails("prepare", DEMO, *overrides)
    assert "train.jsonl:9" in error and "perhaps" in error and "contradiction" in error


def test_empty_data_set(fails, files):
    folder, overrides = files
    (folder / "train.jsonl").write_text(json.dumps({"premise": "A", "hypothesis": "B", "label": "-"}) + "\n")
    error = fails("prepare", DEMO, *overrides)
    assert "empty" in error and "1 rows" in error


def test_store_of_another_tokenizer(fails, tiny_run, store, tmp_path):
    encoder = tmp_path / "encoder"
    shutil.copytree(store.removeprefix("data.store=") + "/sample-encoder", encoder)
    tokenizer = json.loads((encoder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][10][1] -= 1.0
    (encoder / "tokenizer.json").write_text(json.dumps(tokenizer))
    error = fails("train", DEMO, *tiny_run, f"model.encoder={encoder}", "data.prepare=refuse")
    assert "another tokenizer" in error and "xstilts prepare" in error


def test_unprepared_data(fails, tiny_run, tmp_path):
    error = fails("train", DEMO, *tiny_run, f"data.store={tmp_path / 'elsewhere'}", "data.prepare=refuse")
    assert "is not prepared" in error and "xstilts prepare" in error


def test_hub_out_of_reach(tmp_path):
    command = [
        os.sys.executable,
        "-m",
        "trainer",
        "prepare",
        "launch/recipes/nine_tasks.yaml",
        f"data.store={tmp_path}",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "cannot load the tokenizer of 'FacebookAI/xlm-roberta-large'" in done.stderr and "next: " in done.stderr
    assert "Traceback" not in done.stderr


def test_world_size_that_does_not_divide_the_packs(store, tmp_path):
    process = deepspeed(["train", str(DEMO), store, f"run.folder={tmp_path}", "train.packs_per_step=3"], 2)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "train.packs_per_step is 3, which 2 processes cannot share evenly" in output
    assert "next: " in output and "Traceback" not in output


@pytest.mark.parametrize(
    "overrides", [["engine.dtype=fp16"], ["engine.dtype=fp16", "engine.config=ds_configs/zero0.json"]]
)
def test_impossible_dtype(fails, tiny_run, overrides):
    assert "fp16" in fails("train", DEMO, *tiny_run, *overrides)


def test_ds_config_that_contradicts_the_recipe(fails, tiny_run, tmp_path):
    settings = json.loads((ROOT / "ds_configs" / "zero2.json").read_text())
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**settings, "gradient_clipping": 5.0}))
    assert "gradient_clipping to 5.0, but the recipe makes it 1.0" in fails(
        "train", DEMO, *tiny_run, f"engine.config={path}"
    )


def test_corrupt_checkpoint(fails, tiny_run, tmp_path, capfd):
    assert run_command(["train", str(DEMO), *tiny_run]) == 0
    checkpoints = tmp_path / "demo" / "checkpoints"
    damaged = next((checkpoints / "step-2" / "engine" / "state").glob("*model_states.pt"))
    os.truncate(damaged, damaged.stat().st_size // 2)
    capfd.readouterr()
    assert run_command(["train", str(DEMO), *tiny_run]) == 0  # the one before is good, and is used
    output = capfd.readouterr().out
    assert "step-2 is damaged" in output and f"continued from {checkpoints / 'step-1'}" in output.replace("\n", "")
    for file in checkpoints.rglob("*model_states.pt"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    error = fails("train", DEMO, *tiny_run, code=Exit.CHECKPOINT)
    assert "no usable checkpoint" in error and "checksum" in error


def test_changed_recipe_under_a_run(fails, tiny_run):
    assert run_command(["train", str(DEMO), *tiny_run]) == 0
    error = fails("train", DEMO, *tiny_run, "train.learning_rate=0.5")
    assert "train.learning_rate changed" in error
    assert (
        run_command(["train", str(DEMO), *tiny_run, "train.learning_rate=0.5", "checkpoint.accept_changes=true"]) == 0
    )


def test_unwritable_run_folder(fails, tiny_run, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails("train", DEMO, *tiny_run, f"run.folder={tmp_path / 'file'}")


def test_disk_too_small(fails, tiny_run, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        error = fails("train", DEMO, *tiny_run, f"run.folder={small}")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert "0.0 GB free" in error and "checkpoints need" in error


def test_neither_run_nor_export(fails, tmp_path):
    assert "neither a run nor an export" in fails("evaluate", tmp_path)
    assert "is not a run folder" in fails("export", tmp_path, tmp_path / "out")
