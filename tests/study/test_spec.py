"""Study files: read strictly, completed, refused clearly."""

import pytest
import yaml

from trainer.errors import UserError
from trainer.study.spec import EncoderEntry, dump_study, flat, load_study


def test_shorthands_and_defaults(write, tmp_path):
    study = load_study(write(encoders={"tiny": "sample", "long": {"encoder": "x/y", "init": "random"}}, folder=""))
    assert study.encoders == {"tiny": EncoderEntry("sample"), "long": EncoderEntry("x/y", init="random")}
    assert study.folder == "runs/studies/small"
    assert study.baseline == "none"
    assert study.targets["tatoeba"].evaluate == ("tatoeba",) and study.targets["tatoeba"].recipe is None


def test_recipes_are_found_beside_the_study_first(write, tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {steps: 3}\n")
    study = load_study(write(intermediate={"a": "mine.yaml", "b": "launch/recipes/demo.yaml"}))
    assert study.intermediate["a"].recipe == str(tmp_path / "mine.yaml")
    assert study.intermediate["b"].recipe == "launch/recipes/demo.yaml"
    assert study.baseline is None


def test_overrides_change_study_keys(write):
    study = load_study(write(), ["seeds=[7]", "overrides.train.steps=3", "encoders.other=sample"])
    assert study.seeds == (7,)
    assert flat(study.overrides) == {"data.source": "sample", "data.prepare": "auto", "train.steps": 3}
    assert list(study.encoders) == ["tiny", "other"]


def test_a_study_is_dumped_as_it_is(write, tmp_path):
    study = load_study(write())
    dump_study(study, tmp_path / "out" / "study.yaml")
    assert load_study(tmp_path / "out" / "study.yaml") == study
    assert set(yaml.safe_load((tmp_path / "out" / "study.yaml").read_text())) >= {"seeds", "encoders", "targets"}


@pytest.mark.parametrize(
    ("changes", "said", "fix"),
    [
        ({"encoders": {}}, "is empty: it has no encoders", "encoders:"),
        ({"targets": {}}, "is empty: it has no targets", "targets:"),
        ({"seeds": []}, "is empty: it has no seeds", "seeds:"),
        ({"sedes": [1]}, "unknown study key 'sedes'", "'seeds'"),
        ({"targets__xnli": {"recip": "x"}}, "unknown study key 'targets.xnli.recip'", "'targets.xnli.recipe'"),
        ({"seeds": "one"}, "study key seeds must be a list", ""),
        ({"seeds": [1, 1]}, "seeds must be different", ""),
        ({"encoders__tiny": {}}, "encoders.tiny names no encoder", "encoders.tiny.encoder"),
        ({"encoders": {"a/b": "sample"}}, "'a/b', which cannot name a folder", "letters"),
        ({"intermediate__mnli": "no.yaml"}, "intermediate.mnli.recipe names no.yaml", "ls launch/recipes"),
        ({"intermediate__other": None}, "several entries without a recipe: none, other", "keep one"),
        ({"intermediate__none": {"leave_out": ["mnli"]}}, "intermediate.none has no recipe", "recipe"),
        ({"baseline": "mnly"}, "baseline names 'mnly'", "'mnli'"),
        ({"overrides": {"seed": 3}}, "overrides sets seed, which the study sets", "seeds"),
        ({"overrides": {"run.name": "x"}}, "overrides sets run.name", "folder"),
        ({"targets__xnli__overrides": {"model": {"init": "random"}}}, "targets.xnli.overrides sets model.init", "init"),
        ({"targets__panx__evaluate": ["xnli"]}, "xnli is evaluated by two targets, xnli and panx", "two studies"),
        ({"targets__tatoeba": {"pooling": "max"}}, "targets.tatoeba.pooling is 'max'", "mean, cls"),
        ({"encoders__tiny": "runs/studies/x/export"}, "runs/studies/x/export, and there is no such folder", "train"),
    ],
)
def test_bad_studies_are_refused(write, changes, said, fix):
    with pytest.raises(UserError) as error:
        load_study(write(**changes))
    assert said in error.value.what
    assert fix in error.value.fix


def test_a_missing_file_and_a_file_that_is_no_yaml(tmp_path):
    with pytest.raises(UserError, match="study .*no.yaml does not exist"):
        load_study(tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_text("seeds: [1")
    with pytest.raises(UserError, match="study .*bad.yaml is not valid YAML"):
        load_study(tmp_path / "bad.yaml")
