"""Parameter counts against models that are really built, and the mixture's lengths."""

import json
from pathlib import Path

import pytest
import torch

from tests.launching import DEMO
from trainer.config import load_recipe
from trainer.data.prepare import open_prepared, prepare
from trainer.model.build import build_model
from trainer.model.encoder import load_tokenizer
from trainer.plan.shapes import describe
from trainer.tasks import load_tasks

NINE = Path(DEMO).with_name("nine_tasks.yaml")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Overrides of the demo with its data prepared."""
    overrides = [f"data.store={tmp_path_factory.mktemp('store')}", "tasks=[mnli,squad_v2,ccg,hellaswag]"]
    config = load_recipe(DEMO, overrides)
    prepare(config, load_tasks(config), load_tokenizer(config))
    return overrides


@pytest.mark.parametrize(
    "changes", [(), ("model.vocabulary=trimmed",), ("kernels.layers=plain",), ("model.heads=family",)]
)
def test_counts_are_those_of_the_model_that_is_built(demo, changes):
    config = load_recipe(DEMO, [*demo, *changes])
    shape, data = describe(config)
    tokenizer = load_tokenizer(config)
    prepared = open_prepared(config, load_tasks(config), tokenizer)
    model, *_ = build_model(config, prepared, tokenizer, torch.device("cpu"), "fp32")
    sizes = [p.numel() for p in model.parameters()]
    assert shape.parameters == sum(sizes)
    assert shape.largest == max(sizes)
    assert shape.in_layers == sum(p.numel() for p in model.encoder.encoder.layer.parameters())
    assert data.longest == max(int(item.train.tokens.max()) for item in prepared.values())
    assert data.source == "the prepared data"


def test_a_masked_language_model_is_counted_as_it_is_built(tmp_path):
    """One tied head for its languages, and the whole vocabulary."""
    config = load_recipe(DEMO, [f"data.store={tmp_path}", "tasks=[mnli,mlm,mlm-de]"])
    tokenizer = load_tokenizer(config)
    prepare(config, load_tasks(config), tokenizer)
    shape, data = describe(config)
    prepared = open_prepared(config, load_tasks(config), tokenizer)
    model, *_ = build_model(config, prepared, tokenizer, torch.device("cpu"), "fp32")
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.rows == shape.vocabulary == len(tokenizer) and data.kept is None
    assert [load.tied for load in data.loads] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "millions"), [("FacebookAI/xlm-roberta-large", 558.8), ("facebook/xlm-roberta-xl", 3475.9)]
)
def test_published_sizes_are_known_without_a_hub(name, millions, tmp_path):
    config = load_recipe(NINE, [f"model.encoder={name}", f"data.store={tmp_path}", "tasks=[mnli]"])
    shape, data = describe(config)
    head = (shape.hidden + 1) * (shape.hidden + 3)
    assert (shape.parameters - head) / 1e6 == pytest.approx(millions, rel=1e-3)
    assert shape.rows == shape.vocabulary, "what is used is unknown until the data is prepared"
    assert data.kept is None


def test_lengths_of_the_nine_tasks_come_from_the_committed_statistics(tmp_path):
    config = load_recipe(NINE, [f"data.store={tmp_path}"])
    _, data = describe(config)
    assert 50 < data.mean < data.effective < 384
    assert data.longest == 5 * 256, "five options of commonsense_qa"
    assert sum(load.share for load in data.loads) == pytest.approx(1)


def test_other_tasks_get_a_guess_that_says_so(tmp_path, monkeypatch):
    statistics = tmp_path / "lengths.json"
    statistics.write_text(json.dumps({"tasks": {}}))
    monkeypatch.setattr("trainer.plan.shapes.HISTOGRAM", statistics)
    _, data = describe(load_recipe(NINE, [f"data.store={tmp_path}", "tasks=[mnli,qqp]"]))
    assert "guessed" in data.source and data.tokens is None
