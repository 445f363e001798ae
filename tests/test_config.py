import dataclasses
from pathlib import Path

import pytest
import yaml

from trainer.config import CHOICES, POSITIVE, RunConfig, dump_recipe, known_keys, load_recipe
from trainer.errors import UserError

RECIPES = Path(__file__).resolve().parents[1] / "launch/recipes"


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and loads it with overrides; `train.steps` is there, as each must say it."""

    def load(text: str = "", *overrides: str, name: str = "recipe.yaml", steps: bool = True) -> RunConfig:
        path = tmp_path / name
        path.write_text(text)
        return load_recipe(path, [*(["train.steps=10"] if steps else []), *overrides])

    return load


def error(recipe, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        recipe(*arguments, **options)
    return str(caught.value)


def test_an_empty_recipe_is_the_defaults(recipe):
    assert recipe() == dataclasses.replace(RunConfig(), train=dataclasses.replace(RunConfig().train, steps=10))


def test_sections_and_values(recipe):
    config = recipe("seed: 3\ntasks: [mnli]\ntrain: {pack_tokens: 512, betas: [0.9, 0.98]}\ndata: {source: sample}")
    assert (config.seed, config.tasks, config.data.source) == (3, ("mnli",), "sample")
    assert (config.train.pack_tokens, config.train.betas) == (512, (0.9, 0.98))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_loads(path):
    assert load_recipe(path).tasks


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("seed=7", "seed", 7),
        ("train.learning_rate=1e-5", "train.learning_rate", 1e-5),
        ("train.learning_rate=3.0e-05", "train.learning_rate", 3e-5),
        ("train.clip=2", "train.clip", 2.0),
        ("tasks=[mnli, qqp]", "tasks", ("mnli", "qqp")),
        ("tasks=[qqp,mnli]", "tasks", ("qqp", "mnli")),
        ("model.dropout=null", "model.dropout", None),
        ("model.dropout=0.3", "model.dropout", 0.3),
        ("mixture.cap=null", "mixture.cap", None),
        ("model.gradient_checkpointing=true", "model.gradient_checkpointing", True),
        ("model.encoder=some/folder=with-equals", "model.encoder", "some/folder=with-equals"),
        ("train.betas=[0.9, 0.95]", "train.betas", (0.9, 0.95)),
        ("mixture.weights={mnli: 2, qqp: 0.5}", "mixture.weights", {"mnli": 2.0, "qqp": 0.5}),
        ("mixture.weights.mnli=2", "mixture.weights", {"mnli": 2.0}),
        ("mixture.smoothing=1", "mixture.smoothing", 1.0),
        ("data.files.mnli.train=[a.jsonl, b.jsonl]", "data.files", {"mnli": {"train": ("a.jsonl", "b.jsonl")}}),
    ],
)
def test_overrides(recipe, override, key, value):
    found = recipe("model: {dropout: 0.2}\nmixture: {cap: 5}", override)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


def test_the_last_override_wins(recipe):
    assert recipe("seed: 1", "seed=2", "seed=3").seed == 3


def test_an_override_keeps_its_neighbours(recipe):
    config = recipe("mixture: {weights: {mnli: 1.0}}", "mixture.weights.qqp=3")
    assert config.mixture.weights == {"mnli": 1.0, "qqp": 3.0}


@pytest.mark.parametrize(
    "override, unknown, nearest",
    [
        ("train.learning_rte=1", "train.learning_rte", "train.learning_rate"),
        ("trian.steps=1", "trian", "train"),
        ("model.dropuot=1", "model.dropuot", "model.dropout"),
        ("pack_tokens=1", "pack_tokens", "train.pack_tokens"),
        ("train.temperature=1", "train.temperature", "mixture.temperature"),
    ],
)
def test_an_unknown_key_names_the_nearest(recipe, override, unknown, nearest):
    text = error(recipe, "", override)
    assert f"unknown recipe key '{unknown}'" in text
    assert f"did you mean '{nearest}'?" in text


def test_an_unknown_key_in_a_file(recipe):
    assert "did you mean 'train.warmup'?" in error(recipe, "train: {warm_up: 0.1}")
    assert "trainer/config.py lists every key" in error(recipe, "zzzzzz: 1")


@pytest.mark.parametrize(
    "override, complaint",
    [
        ("seed=1.5", "seed must be a int, not 1.5"),
        ("seed=true", "seed must be a int, not True"),
        ("train.steps=ten", "train.steps must be a int, not 'ten'"),
        ("train.learning_rate=fast", "train.learning_rate must be a float, not 'fast'"),
        ("train.learning_rate=true", "train.learning_rate must be a float, not True"),
        ("model.encoder=5", "model.encoder must be a str, not 5"),
        ("model.encoder=null", "model.encoder must be a str, not None"),
        ("model.gradient_checkpointing=1", "model.gradient_checkpointing must be a bool, not 1"),
        ("tasks=mnli", "tasks must be a list, not 'mnli'"),
        ("tasks=[mnli, 3]", "tasks[1] must be a str, not 3"),
        ("train.betas=[0.9]", "train.betas needs 2 values"),
        ("mixture.weights=[1]", "mixture.weights must be a mapping"),
        ("mixture.weights.mnli=much", "mixture.weights.mnli must be a float"),
        ("train=null", "train must be a mapping of keys, not None"),
        ("seed.x=1", "seed has no keys below it"),
        ("steps", "is not of the form key=value"),
        ("=3", "is not of the form key=value"),
        ("tasks=[mnli", "is not valid YAML"),
    ],
)
def test_wrong_types_are_named(recipe, override, complaint):
    assert complaint in error(recipe, "seed: 0", override)


@pytest.mark.parametrize("key", POSITIVE)
@pytest.mark.parametrize("value", ["0", "-1"])
def test_what_must_be_above_zero(recipe, key, value):
    assert f"{key} must be above 0" in error(recipe, "", f"{key}={value}")


def test_not_a_number_is_not_above_zero(recipe):
    assert "train.learning_rate must be above 0" in error(recipe, "", "train.learning_rate=.nan")


@pytest.mark.parametrize("key", CHOICES)
def test_choices_are_listed(recipe, key):
    text = error(recipe, "", f"{key}=surely_not")
    assert f"{key} is 'surely_not'" in text and ", ".join(CHOICES[key]) in text


@pytest.mark.parametrize(
    "override, complaint",
    [
        ("train.warmup=1.1", "train.warmup is a share of the steps"),
        ("train.warmup=-0.1", "train.warmup is a share of the steps"),
        ("model.dropout=1.0", "model.dropout must be at least 0 and below 1"),
        ("model.dropout=-0.1", "model.dropout must be at least 0 and below 1"),
        ("tasks=[]", "tasks is empty"),
        ("tasks=[mnli, qqp, mnli]", "names a task twice"),
        ("data.source=files", "neither data.folder nor data.files"),
        ("mixture.weights.sst=1", "mixture.weights names 'sst'"),
        ("mixture.smoothing=-0.1", "mixture.smoothing must be at least 0"),
        ("train.loss_weights.sst=1", "train.loss_weights names 'sst'"),
    ],
)
def test_ranges_and_contradictions(recipe, override, complaint):
    assert complaint in error(recipe, "", override)


def test_steps_or_epochs_must_be_said(recipe):
    assert "neither train.steps nor train.epochs" in error(recipe, steps=False)
    assert recipe("train: {epochs: 2}", steps=False).train.epochs == 2.0


def test_base_recipes(recipe, tmp_path):
    (tmp_path / "below").mkdir()
    grand = "seed: 1\ntrain: {pack_tokens: 64, packs_per_step: 2}\ntasks: [mnli, qqp]"
    (tmp_path / "below/grand.yaml").write_text(grand)
    (tmp_path / "parent.yaml").write_text("base: below/grand.yaml\ntrain: {packs_per_step: 4}\ntasks: [ccg]")
    config = recipe("base: parent.yaml\ntrain: {clip: 0.5}", "train.pack_tokens=128")
    assert (config.seed, config.tasks) == (1, ("ccg",))
    assert (config.train.pack_tokens, config.train.packs_per_step, config.train.clip) == (128, 4, 0.5)


def test_a_base_that_leads_back(recipe, tmp_path):
    (tmp_path / "other.yaml").write_text("base: recipe.yaml")
    assert "is its own base" in error(recipe, "base: other.yaml")
    assert "does not exist" in error(recipe, "base: nothing.yaml")


@pytest.mark.parametrize(
    "text, complaint", [("a: [", "not valid YAML"), ("- 1\n- 2", "must be a mapping of keys, not a list")]
)
def test_files_that_are_no_recipes(recipe, text, complaint):
    assert complaint in error(recipe, text)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "nothing.yaml")


def test_what_is_dumped_loads_as_it_was(recipe, tmp_path):
    config = recipe(
        "data: {files: {mnli: {train: [ä.jsonl]}}}\ncustom_tasks: {mine: {format: x, labels: [a, b]}}",
        "train.learning_rate=1e-5", "model.dropout=null", "mixture.weights.mnli=0.1", "run.name=5e-1x",
    )  # fmt: skip
    dump_recipe(config, tmp_path / "dumped.yaml")
    assert load_recipe(tmp_path / "dumped.yaml") == config
    dumped = yaml.safe_load((tmp_path / "dumped.yaml").read_text())
    assert set(dumped) == {field.name for field in dataclasses.fields(RunConfig)}


def test_a_config_cannot_be_changed(recipe):
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe().train.steps = 5


def test_tables_of_keys_name_existing_keys():
    keys = known_keys()
    assert set(CHOICES) | set(POSITIVE) <= set(keys)
    assert len(keys) == len(set(keys)) and "train.betas" in keys and "train" in keys


def test_a_weight_may_be_that_of_all_languages_of_a_task(recipe):
    config = recipe("tasks: [qqp, mlm-de, mlm-fr]", "mixture.weights={qqp: 1, mlm: 2}")
    assert config.mixture.weights == {"qqp": 1.0, "mlm": 2.0}
    with pytest.raises(UserError, match="train.loss_weights names 'mlm'"):
        recipe("tasks: [qqp, mlm-de]", "train.loss_weights.mlm=2")


def test_without_a_file_every_key_has_its_default():
    train = dataclasses.replace(RunConfig().train, steps=10)
    assert load_recipe(None, ["train.steps=10"]) == dataclasses.replace(RunConfig(), train=train)
    with pytest.raises(UserError, match="neither train.steps nor train.epochs"):
        load_recipe(None)
