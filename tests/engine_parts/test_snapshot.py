"""Copies of a training state: complete, independent of what training does next, as small as what is theirs."""

from collections import OrderedDict
from pathlib import Path

import torch

from trainer.engine_parts.snapshot import SnapshotEngine, copied


def test_a_copy_does_not_change_with_the_original():
    weights = torch.ones(3)
    state = OrderedDict(a=weights, b=[weights.double(), (1, "x", {"c": weights})], shape=torch.Size([2, 3]))
    new = copied(state, {})
    weights.zero_()
    assert type(new) is OrderedDict and list(new) == ["a", "b", "shape"]
    assert new["shape"] == torch.Size([2, 3]) and type(new["shape"]) is torch.Size
    assert new["a"].tolist() == new["b"][0].tolist() == [1, 1, 1]
    assert new["b"][1][:2] == (1, "x")
    assert new["b"][1][2]["c"] is new["a"], "tied weights stay tied"


def test_a_part_of_a_large_tensor_is_copied_alone():
    flat = torch.arange(1000.0)
    new = copied({"part": flat[10:20], "other": flat[20:30]}, {})
    assert new["part"].tolist() == flat[10:20].tolist() and new["other"].tolist() == flat[20:30].tolist()
    assert new["part"].untyped_storage().nbytes() == 40


def test_saving_touches_no_disk(tmp_path):
    engine = SnapshotEngine()
    engine.create(None)
    engine.makedirs(str(tmp_path / "folder"))
    engine.save({"a": torch.ones(1)}, str(tmp_path / "folder" / "a.pt"))
    taken = engine.take()
    taken.wait()
    assert list(taken.files) == [Path(tmp_path / "folder" / "a.pt")]
    assert not list(tmp_path.iterdir())
    assert not engine.take().files
