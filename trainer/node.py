"""One node's part of a Slurm job. srun starts this once on every node; it starts the ranks of its node.

    srun --ntasks-per-node=1 python -m trainer.node PROCESSES train RECIPE [key=value ...]

Below it is deepspeed's per-node launcher, which, unlike torchrun, ends with the exit code of the rank that failed.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence

from trainer import gpus, slurm
from trainer.errors import UserError
from trainer.running import Running


def node_command(processes: int, arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The command that starts this node's ranks.

    Args:
        processes: on every node.
        arguments: of `xstilts`.
        environ: SLURM_PROCID, the number of this node; MASTER_ADDR and MASTER_PORT, where all ranks meet.

    Raises:
        UserError: srun started this more than once a node, or a variable is missing, or a GPU.
    """
    nodes, fix = slurm.nodes(environ), "xstilts launch RECIPE, or launch/slurm.sbatch, which set it"
    missing = [name for name in ("SLURM_PROCID", "MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
    if missing:
        raise UserError(f"{', '.join(missing)} is not set, which srun and its caller decide", fix=fix)
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or nodes)
    if tasks != nodes:
        raise UserError(f"srun started {tasks} tasks on {nodes} nodes", fix="srun --ntasks-per-node=1")
    visible = environ.get("CUDA_VISIBLE_DEVICES") if gpus.wanted(environ) else None
    devices = visible.split(",") if visible else [str(i) for i in range(processes)]
    if len(devices) < processes:
        fix = "ask Slurm for as many GPUs a node as there are to be processes"
        raise UserError(f"{processes} processes are to run here, but there are {len(devices)} GPUs", fix=fix)
    me = int(environ["SLURM_PROCID"])
    # deepspeed counts the processes of every node by its list, and takes the devices of its own.
    world = {f"node{node}": devices[:processes] if node == me else list(range(processes)) for node in range(nodes)}
    encoded = base64.urlsafe_b64encode(json.dumps(world).encode()).decode()
    place = [f"--master_addr={environ['MASTER_ADDR']}", f"--master_port={environ['MASTER_PORT']}"]
    launcher = ["deepspeed.launcher.launch", f"--world_info={encoded}", f"--node_rank={me}", *place, "--module"]
    return [sys.executable, "-u", "-m", *launcher, "trainer", *arguments]


def main() -> None:
    processes, *arguments = sys.argv[1:]
    try:
        running = Running(node_command(int(processes), arguments, os.environ), os.environ)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    sys.exit(running.wait_passing_signals())


if __name__ == "__main__":
    main()
