"""Reading checkpoints: nothing in them is executed; parameters come together from any cut."""

import os
import pickle
import zipfile

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import CreateLossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from trainer.engine_parts.shards import STATES, Shards, full_state, load, parts
from trainer.errors import UserError


class Runs:
    """Unpickled without care, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_executed(tmp_path, zipped):
    marker, file = tmp_path / "executed", tmp_path / "a.pt"
    torch.save({"weights": torch.ones(2), "more": Runs(marker)}, file, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(file) == zipped
    with pytest.raises(UserError, match="is refused: it holds posix.mkdir besides tensors"):
        load(file)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.is_dir(), "the same file, loaded without care, would have"


def test_no_file_of_this_kind(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "a.pt")


def test_what_deepspeed_saves_is_read(tmp_path):
    scale = {"init_scale": 256.0, "scale_window": 10, "min_scale": 1, "delayed_shift": 1}
    scaler = CreateLossScaler(torch.float16, 1.0, True, {**scale, "consecutive_hysteresis": False})
    scaler.cur_scale, scaler.cur_iter = 128.0, 7
    state = {"stage": ZeroStageEnum.gradients, "scaler": scaler, "where": fragment_address(3, 4), "none": None}
    torch.save(state, tmp_path / "a.pt")
    found = load(tmp_path / "a.pt")
    assert found["stage"] is ZeroStageEnum.gradients and found["where"] == fragment_address(3, 4)
    assert vars(found["scaler"]) == vars(scaler)


class Getattr:
    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return getattr, self.arguments


def test_members_of_enumerations_pickled_as_some_python_versions_do(tmp_path):
    torch.save({"stage": Getattr(ZeroStageEnum, "weights")}, tmp_path / "a.pt")
    assert load(tmp_path / "a.pt")["stage"] is ZeroStageEnum.weights
    torch.save({"stage": Getattr(fragment_address, "__init__")}, tmp_path / "b.pt")
    with pytest.raises((UserError, pickle.UnpicklingError), match="getattr"):
        load(tmp_path / "b.pt")


SHAPES = [{"a": torch.Size([3, 5]), "b": torch.Size([4])}, {"c": torch.Size([2])}]
WHOLE = {
    name: {key: torch.arange(shape.numel()) + 100.0 * i for i, key in enumerate(STATES)}
    for group in SHAPES for name, shape in group.items()
}  # fmt: skip


def write(folder, ranks: int, stage: int) -> None:
    """The files of a checkpoint in DeepSpeed's layout, of WHOLE, cut for `ranks`."""
    model = {"param_shapes": SHAPES, "buffer_names": [], "shared_params": {"tied": "c"}, "module": {}}
    for rank in range(ranks):
        flats, mappings = [], []
        for shapes in SHAPES:
            names = list(shapes)
            if stage == 3:
                flat = {key: [] for key in STATES}
                for name in names:
                    size = -(-shapes[name].numel() // ranks)
                    start, numel = parts(shapes[name].numel(), ranks)[rank]
                    for key in STATES:
                        own = WHOLE[name][key][start : start + numel]
                        flat[key].append(torch.nn.functional.pad(own, (0, size - numel), value=-1.0))
                flats.append({key: torch.cat(values) for key, values in flat.items()})
                continue
            total = sum(shape.numel() for shape in shapes.values())
            size = -(-total // ranks)
            begin, at, mapping = rank * size, 0, {}
            for name in names:
                low, high = max(at, begin), min(at + shapes[name].numel(), begin + size)
                if low < high:
                    mapping[name] = fragment_address(numel=high - low, start=low - begin)
                at += shapes[name].numel()
            mappings.append(mapping)
            whole = {key: torch.cat([WHOLE[name][key] for name in names]) for key in STATES}
            flats.append({key: values[begin : begin + size].clone() for key, values in whole.items()})
        base = {
            "state": {
                g: {"step": torch.tensor(7.0), "exp_avg": f["exp_avg"], "exp_avg_sq": f["exp_avg_sq"]}
                for g, f in enumerate(flats)
            }
        }
        weights = [flat["fp32"] for flat in flats]
        if stage == 3:
            state = {"zero_stage": ZeroStageEnum.weights, "optimizer_state_dict": base, "fp32_flat_groups": weights}
            torch.save(model, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        else:
            state = {"base_optimizer_state": base, "single_partition_of_fp32_groups": weights,
                     "param_slice_mappings": mappings, "zero_stage": ZeroStageEnum(stage)}  # fmt: skip
            torch.save(model, folder / "mp_rank_00_model_states.pt")
        torch.save({"optimizer_state_dict": state}, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3, 11])
def test_parameters_come_together_from_any_cut(tmp_path, stage, ranks):
    write(tmp_path, ranks, stage)
    shards = Shards(tmp_path)
    assert shards.step == 7
    for name, states in WHOLE.items():
        for key, expected in states.items():
            assert torch.equal(shards.whole(name, key), expected.reshape(shards.shapes[name])), (name, key)
    some = torch.empty(4)
    shards.read("a", "exp_avg", 6, some)
    assert torch.equal(some, WHOLE["a"]["exp_avg"][6:10])
    state = full_state(tmp_path)
    assert set(state) == {"a", "b", "c", "tied"} and torch.equal(state["tied"], state["c"])


def test_a_missing_rank_is_named(tmp_path):
    write(tmp_path, 3, 2)
    (tmp_path / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(UserError, match="no optim_states of rank 1"):
        Shards(tmp_path)
    (tmp_path / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()  # only rank 0's is left
    with pytest.raises(UserError, match="holds"):
        Shards(tmp_path).whole("a")


def test_stage_3_parts():
    assert parts(10, 4) == [(0, 3), (3, 3), (6, 3), (9, 1)]
    assert parts(2, 4) == [(0, 1), (1, 1), (2, 0), (2, 0)]
