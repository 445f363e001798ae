"""What counts as a change under a run that is continued."""

import json
from types import SimpleNamespace

import pytest

from trainer import resume
from trainer.config import load_recipe
from trainer.engine import derive_config, read_config
from trainer.errors import UserError
from trainer.resume import TOKENIZER, changes, version_changes
from trainer.watch import alike


def identity(*overrides: str) -> dict:
    config = load_recipe(None, ["train.steps=5", *overrides])
    recipe = resume._flat(config) | resume.engine_settings(config)
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


def test_the_engine_s_file_is_compared_by_what_it_says(tmp_path):
    def says(**settings) -> dict:
        (tmp_path / "a.json").write_text(json.dumps({**read_config("ds_configs/zero2.json"), **settings}))
        return identity(f"engine.config={tmp_path / 'a.json'}")

    was = identity("engine.config=ds_configs/zero2.json")
    assert changes(was, says()) == [], "the same in another file"
    faster = {"stage": 2, "overlap_comm": False, "reduce_bucket_size": 9}
    assert changes(was, says(zero_optimization=faster, steps_per_print=9, gradient_clipping="auto")) == []
    assert changes(was, says(prescale_gradients=True)) == ["prescale_gradients in engine.config"]
    assert changes(was, says(fp16={"enabled": False, "loss_scale": 8})) == ["fp16.loss_scale in engine.config"]
    stage = changes(was, identity("engine.config=ds_configs/zero3.json"))
    assert stage == ["zero_optimization.stage in engine.config"]
    earlier = {key: value for key, value in was.items() if "engine.config" not in key}
    assert changes({**earlier, "engine.config": "gone.json"}, was) == []


@pytest.mark.parametrize("change", ["tasks=[qqp,mnli]", "train.packs_per_step=2", "train.pack_tokens=99"])
def test_what_decides_the_examples_of_a_step_is_never_accepted(change):
    was, config = identity("tasks=[mnli,qqp]"), load_recipe(None, ["train.steps=5", "checkpoint.accept_changes=true"])
    session = SimpleNamespace(config=config, identity=identity("tasks=[mnli,qqp]", change))
    resume._check_identity(session, {"identity": was}, "step-1")
    with pytest.raises(UserError, match="cannot be continued with another") as error:
        resume._check_order(session, {"identity": was}, "step-1")
    assert change.partition("=")[0] in error.value.what and "run.name" in error.value.fix
    session.identity = identity("tasks=[mnli,qqp]", "train.learning_rate=1.0")
    resume._check_order(session, {"identity": was}, "step-1")


def test_an_order_of_the_optimizer_s_state_that_cannot_be_re_cut_is_refused(tmp_path):
    settings = read_config("ds_configs/zero2.json")
    settings["zero_optimization"]["round_robin_gradients"] = True
    (tmp_path / "a.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="round_robin_gradients"):
        derive_config(load_recipe(None, ["train.steps=5", f"engine.config={tmp_path / 'a.json'}"]), 2, "bf16")
