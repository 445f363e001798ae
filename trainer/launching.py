"""`xstilts launch`: chooses the launcher of a run, says which and why, checks what would fail later, and runs it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer import hosts, slurm
from trainer.attempt import Attempt
from trainer.claim import launch_claimed
from trainer.config import RunConfig, load_recipe
from trainer.data.packing import packs_of_rank
from trainer.errors import UserError
from trainer.exits import RunError
from trainer.gpus import check_seen, gpus_of_node
from trainer.launchers import Launcher, find_command, open_launcher, srun
from trainer.running import Running, signals_taken
from trainer.supervise import Patience, Supervisor

DEEPSPEED = "deepspeed --log_level warning"


@dataclass(frozen=True)
class Options:
    """Of the command.

    Attributes:
        launcher: deepspeed, srun, torchrun, python, or a command line of one of them; None: see `choose`.
        processes: on each host (or this machine); None: the hostfile's slots, or one a GPU.
        dry_run: say what would be run, and stop.
        supervise: start the run again when it was ended by what may pass; see `trainer.supervise`, also for
        retries, pause, and wait_for_hosts (seconds).
    """

    hostfile: Path | None = None
    launcher: str | None = None
    processes: int | None = None
    dry_run: bool = False
    supervise: bool = False
    retries: int = 10
    pause: float = 1.0
    wait_for_hosts: float = 300.0


def choose(options: Options, environ: Mapping[str, str] = os.environ) -> tuple[Launcher, str]:
    """The launcher of a run, and why it is that one.

    In this order: the one that is named; deepspeed over ssh where there is a hostfile; srun in a Slurm job; deepspeed
    where there are GPUs or more than one process is asked for; else one plain process, which uses all cores.

    Raises:
        UserError: the hostfile or the launcher is wrong, or they do not go together.
    """
    named, here = options.launcher, options.processes
    if int(environ.get("WORLD_SIZE", 1)) > 1:
        fix = "start xstilts launch as one plain process; it starts the others"
        raise UserError("xstilts launch was started by a launcher, as one of several processes", fix=fix)
    if named and named not in ("deepspeed", "srun", "torchrun", "python"):
        return open_launcher(named, options.hostfile, here, environ), "--launcher gives its command line"
    if options.hostfile and here:
        raise UserError("--processes and --hostfile contradict each other", fix="slots=N in the hostfile")
    if options.hostfile:
        launcher = open_launcher(DEEPSPEED if named in (None, "deepspeed") else named, options.hostfile)
        many = " and ".join(filter(None, [", ".join(h.name for h in launcher.hosts[:-1]), launcher.hosts[-1].name]))
        return launcher, f"over ssh, because the hostfile names {many}"
    in_job = "SLURM_JOB_ID" in environ and not slurm.in_task(environ)
    because = "because --launcher names it"
    if named == "srun" or (not named and in_job and shutil.which("srun")):
        because = because if named else f"because this is a Slurm job of {slurm.nodes(environ)} nodes"
        return srun(here or slurm.gpus(environ) or gpus_of_node() or 1), because
    if named == "python":
        return Launcher((sys.executable,)), because
    gpus = gpus_of_node()
    if named == "torchrun":
        return open_launcher(f"torchrun --standalone --nproc_per_node {here or gpus or 1}"), because
    if not named and not gpus and (here or 1) == 1:
        return Launcher((sys.executable,)), "because there is no GPU, and one process uses all cores"
    count = here or gpus or 1
    if gpus and count > gpus:
        fix = f"--processes {gpus}, or more devices in CUDA_VISIBLE_DEVICES"
        raise UserError(f"{count} processes are asked for, but there are {gpus} GPUs", fix=fix)
    because = because if named else "because there are GPUs" if gpus else f"because {count} processes are asked for"
    visible = environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpus else []
    if not named and any(visible) and not all(map(str.isdigit, visible)):
        because = "because CUDA_VISIBLE_DEVICES has names, of which deepspeed takes numbers only"
        return open_launcher(f"torchrun --standalone --nproc_per_node {count}"), because
    return open_launcher(f"{DEEPSPEED} --num_gpus {count}", environ=environ), because


def launch(
    recipe: Path,
    overrides: Sequence[str],
    options: Options,
    say: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Train a recipe with the launcher that `choose` gives; returns when the run is done.

    Args:
        say: told what is run, and why, a line at a time.

    Raises:
        UserError: before anything is started: a wrong recipe, hostfile or number of processes, a missing program, a
            host that does not answer, GPUs that torch does not see.
        RunError: the run failed; its exit code and cause are those of the rank that says most.
    """
    config = load_recipe(recipe, overrides)
    launcher, why = choose(options, environ)
    if not launcher.hosts and launcher.name != "srun" and not gpus_of_node():
        check_seen(environ)
        environ = {"DS_ACCELERATOR": "cpu", **environ}
    arguments = ["train", str(recipe), *overrides]
    for line in describe(config, launcher, why, environ):
        say(line)
    say(f"command: {shlex.join(launcher.command(arguments, environ))}")
    if options.dry_run:
        return
    check_programs(launcher)
    if not options.supervise:  # which waits for hosts itself
        check_answers(launcher)
    alone = contextlib.nullcontext() if launcher.is_on_every_node else launch_claimed(config.run_folder, say)
    with alone:
        if options.supervise:
            supervise(config, launcher, arguments, options, say, environ)
            return
        with signals_taken() as told:
            start = lambda own: launcher.start(arguments, config.run_folder, {**environ, **own})  # noqa: E731
            end = Attempt(config.run_folder, start, say).end(told)
    if end.code:
        raise RunError(end.code, end.cause)


def supervise(
    config: RunConfig,
    launcher: Launcher,
    arguments: Sequence[str],
    options: Options,
    say: Callable[[str], None],
    environ: Mapping[str, str],
) -> None:
    """Start and restart a run until it is complete; raises as `Supervisor.run` does."""

    def start(slots: Mapping[str, int], own: Mapping[str, str]) -> Running:
        chosen, variables = launcher.on(slots) if slots else launcher, {**environ, **own}
        if chosen.hosts and chosen.hosts[0].name != launcher.hosts[0].name:
            variables.pop("MASTER_ADDR", None)  # of the host that is gone
        return chosen.start(arguments, config.run_folder, variables)

    def packs() -> int | None:
        if config.engine.plan == "off":
            return config.train.packs_per_step
        planned = config.run_folder / "recipe.yaml"  # of an earlier start, which chose them
        return load_recipe(planned).train.packs_per_step if planned.is_file() else None

    hosts_of_run = {host.name: host.slots for host in launcher.hosts}
    patience = Patience(options.retries, options.pause)
    Supervisor(config.run_folder, packs, start, hosts_of_run, patience, options.wait_for_hosts, say).run()


def describe(config: RunConfig, launcher: Launcher, why: str, environ: Mapping[str, str]) -> list[str]:
    """What will be run, for people, a line each.

    Raises:
        UserError: the processes cannot share the packs of a step evenly.
    """
    count, packs = processes_of(launcher), config.train.packs_per_step
    lines = [f"launcher: {launcher.name}, {why}"]
    if config.engine.plan == "off":  # else the plan decides the packs, when it knows the GPUs
        each = len(packs_of_rank(packs, 0, count))
        lines.append(f"processes: {count}; each takes {each} of the {packs} packs of a step")
    if launcher.hosts:
        given, secret = hosts.handed_over(environ)
        lines.append(f"environment handed to the hosts: {', '.join(given)}")
        if secret:
            fix = "put them into .deepspeed_env to hand them over all the same"
            lines.append(f"not handed over, since command lines are public: {', '.join(secret)} ({fix})")
    return lines


def processes_of(launcher: Launcher) -> int:
    """Processes of a run; where the launcher's words do not say, one a GPU."""
    return launcher.processes or gpus_of_node() or 1


def check_programs(launcher: Launcher) -> None:
    """Before anything is started: the programs are there.

    Raises:
        UserError: naming the first that is not.
    """
    if not launcher.hosts:
        if find_command(launcher.words[0]) is None:
            raise UserError(f"the launcher {launcher.name} does not exist", fix="name another one with --launcher")
        return
    for program, package in (("pdsh", "pdsh"), ("ssh", "openssh-client")):
        if shutil.which(program) is None:
            fix = f"apt-get install {package}, or torchrun on each host (launch/torchrun.sh)"
            raise UserError(f"there is no {program} here, which deepspeed starts other hosts' processes with", fix=fix)


def check_answers(launcher: Launcher) -> None:
    """Before anything is started: every host answers.

    Raises:
        UserError: naming the first that does not.
    """
    if silent := hosts.not_answering(launcher.hosts):
        name, why = next(iter(silent.items()))
        others = f" (nor do {', '.join(list(silent)[1:])})" if len(silent) > 1 else ""
        fix = f"ssh {name} true must work without a password; or leave it out of {launcher.hostfile}"
        raise UserError(f"host {name} does not answer{others}", why=why, fix=fix)
