"""A mixture with masked language modelling, as in launch/recipes/nine_tasks_mlm.yaml, on the built-in sample."""

import pytest

from tests.launching import ROOT
from trainer.config import load_recipe
from trainer.data.prepare import prepare
from trainer.model.encoder import load_tokenizer
from trainer.tasks import load_tasks

NINE_TASKS_MLM = ROOT / "launch" / "recipes" / "nine_tasks_mlm.yaml"


@pytest.fixture(scope="session")
def masked_mixture(tmp_path_factory) -> tuple[str, tuple[str, ...]]:
    """The recipe and its overrides; the data is prepared."""
    overrides = ("data.source=sample", f"data.store={tmp_path_factory.mktemp('store')}", "data.workers=1",
                 "model.encoder=sample", "tasks=[qqp,mlm,mlm-de]")  # fmt: skip
    config = load_recipe(NINE_TASKS_MLM, overrides)
    prepare(config, load_tasks(config), load_tokenizer(config))
    return str(NINE_TASKS_MLM), overrides
