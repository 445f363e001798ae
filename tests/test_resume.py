"""What counts as a change under a run that is continued."""

import pytest

from trainer import resume
from trainer.config import load_recipe
from trainer.resume import TOKENIZER, changes, version_changes
from trainer.watch import alike


def identity(*overrides: str) -> dict:
    recipe = resume._flat(load_recipe(None, ["train.steps=5", *overrides]))
    return {**recipe, TOKENIZER: "a", "prepared data of mnli": "x"}


def test_changed_keys_are_named():
    was = identity("tasks=[mnli]", "train.loss_weights={mnli: 2.0}")
    now = identity("tasks=[mnli]", "train.learning_rate=0.5", "train.loss_weights={mnli: 3.0}")
    assert changes(was, was) == []
    assert changes(was, now) == ["train.learning_rate", "train.loss_weights.mnli"]
    assert changes(was, {**was, TOKENIZER: "b", "prepared data of mnli": "y"}) == ["prepared data of mnli", TOKENIZER]
    assert changes(identity("tasks=[mnli]"), was) == ["train.loss_weights", "train.loss_weights.mnli"]


def test_keys_without_effect_may_change():
    harmless = ["run.name=x", "log.every_steps=7", "checkpoint.keep=9", "data.store=y", "watch.meet_seconds=9"]
    assert changes(identity(), identity(*harmless)) == []


@pytest.mark.parametrize("key", ["kernels.compile", "train.log_classes", TOKENIZER])
def test_a_key_that_an_earlier_version_did_not_have_stood_at_its_default(key):
    was = identity()
    del was[key]
    assert changes(was, identity()) == []
    if key != TOKENIZER:
        value = {"kernels.compile": "off", "train.log_classes": "true"}[key]
        assert changes(was, identity(f"{key}={value}")) == [key]


def test_other_versions_are_told():
    now = alike.versions()
    assert version_changes(now) == [] and {"torch", "deepspeed", "xstilts"} <= now.keys()
    assert version_changes({**now, "torch": "1.0"}) == [f"torch 1.0 (now {now['torch']})"]
