"""A node's part of a Slurm job: which ranks it starts."""

import base64
import json

import pytest

from trainer.errors import UserError
from trainer.node import node_command

SLURM = {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2",
         "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}  # fmt: skip


def world(command: list[str]) -> dict:
    [text] = [word.partition("=")[2] for word in command if word.startswith("--world_info=")]
    return json.loads(base64.urlsafe_b64decode(text))


def test_the_nodes_ranks_and_where_they_meet():
    command = node_command(2, ["train", "recipe.yaml"], SLURM)
    assert world(command) == {"node0": [0, 1], "node1": ["0", "1"]}
    assert {"--node_rank=1", "--master_addr=node1", "--master_port=29500"} <= set(command)
    assert command[-4:] == ["--module", "trainer", "train", "recipe.yaml"]


def test_slurms_choice_of_gpus_is_kept():
    command = node_command(2, [], {**SLURM, "CUDA_VISIBLE_DEVICES": "3,5,7"})
    assert world(command) == {"node0": [0, 1], "node1": ["3", "5"]}
    with pytest.raises(UserError, match="4 processes are to run here, but there are 3 GPUs"):
        node_command(4, [], {**SLURM, "CUDA_VISIBLE_DEVICES": "3,5,7"})


@pytest.mark.parametrize(
    "cpu", [{"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, {"CUDA_VISIBLE_DEVICES": "3", "DS_ACCELERATOR": "cpu"}]
)
def test_on_the_cpu_there_are_as_many_processes_as_asked_for(cpu):
    assert world(node_command(3, [], {**SLURM, **cpu}))["node1"] == ["0", "1", "2"]


def test_more_tasks_than_nodes_are_refused():
    with pytest.raises(UserError, match="16 tasks on 2 nodes") as error:
        node_command(8, [], {**SLURM, "SLURM_STEP_NUM_TASKS": "16"})
    assert "--ntasks-per-node=1" in error.value.fix


def test_outside_of_slurm_it_is_refused():
    with pytest.raises(UserError, match="SLURM_PROCID, MASTER_ADDR, MASTER_PORT is not set"):
        node_command(1, [], {})
