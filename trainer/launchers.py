"""Launchers: the command line that starts a run's processes, and that command while it runs.

deepspeed    the processes of this machine, or of all hosts of a hostfile over pdsh and ssh
srun         one task on each node of a Slurm job; `trainer.node` starts the processes of its node
torchrun     the processes of this machine, or of one node of many
python       one process
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer import hosts, slurm
from trainer.errors import UserError
from trainer.gpus import gpus_of_node, wanted
from trainer.hosts import Host
from trainer.running import Running

PORTS = range(20000, 32000)  # below the ephemeral ports, which any connection may take
ENVIRONMENT_FILE = "deepspeed_env"  # in the run's folder
_PROCESSES = re.compile(r"--(?:num_gpus|num_accelerators|nproc[_-]per[_-]node)$")
_NODES = re.compile(r"--nnodes$")


@dataclass(frozen=True)
class Launcher:
    """A command that takes `--module trainer ...` (deepspeed), `...` (srun) or `-m trainer ...` (the others).

    Attributes:
        words: of the command, without the hostfile.
        hosts: those that deepspeed starts processes on over ssh; none: this machine alone.
        hostfile: the file they come from, which may name more.
    """

    words: tuple[str, ...]
    hosts: tuple[Host, ...] = ()
    hostfile: Path | None = None

    @property
    def name(self) -> str:
        return Path(self.words[0]).name

    @property
    def is_deepspeed(self) -> bool:
        return self.name == "deepspeed"

    @property
    def is_python(self) -> bool:
        """One plain process, without a launcher."""
        return self.name.startswith("python") and "-m" not in self.words

    @property
    def is_on_every_node(self) -> bool:
        """Each node has one of its own for the same run: torchrun's way."""
        return self.name == "torchrun" and (_number(self.words, _NODES) or 1) > 1

    @property
    def processes(self) -> int | None:
        """Of one run, on all hosts; None where the launcher does not say, and takes every GPU."""
        if self.hosts:
            return sum(host.slots for host in self.hosts)
        if self.name == "srun":
            return int(self.words[-1]) * slurm.nodes(os.environ)
        each = _number(self.words, _PROCESSES)
        if self.is_deepspeed:
            included = self.words[self.words.index("--include") + 1] if "--include" in self.words else ""
            return each or (included.count(",") + 1 if ":" in included else None)
        if self.name == "torchrun":
            return each and each * (_number(self.words, _NODES) or 1)
        return 1

    def on(self, slots: Mapping[str, int]) -> Launcher:
        """The same launcher on only these hosts of the hostfile, with that many processes on each."""
        return dataclasses.replace(self, hosts=tuple(Host(name, count) for name, count in slots.items()))

    def command(self, arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
        """The whole command line that runs `xstilts ARGUMENTS` as every process of a run.

        With a hostfile, MASTER_ADDR and MASTER_PORT in `environ` say where the processes meet; by default on the first
        host, at a random port.

        Raises:
            UserError: a path or a host's name cannot be handed on; the hosts could not meet at MASTER_ADDR and
                MASTER_PORT.
        """
        words = list(self.words)
        if not self.is_deepspeed:
            return [*words, *([] if self.name == "srun" else ["-m", "trainer"]), *arguments]
        port = None  # of this machine's own: two cells of a Slurm array may share it
        if self.hosts:
            hosts.check_remote_path(os.path.abspath("."), "the working folder")
            hosts.check_remote_path(sys.executable, "the interpreter")
            for host in self.hosts:
                if "@" in host.name:  # which --include takes for the end of a host
                    fix = f"{host.name.rpartition('@')[2]} in the hostfile, and its User in ~/.ssh/config"
                    raise UserError(f"deepspeed cannot start processes on {host.name!r}, with a user's name", fix=fix)
            # By ssh even to a single host, which need not be this machine.
            included = [f"{host.name}:{','.join(map(str, range(host.slots)))}" for host in self.hosts]
            words += ["--hostfile", str(self.hostfile), "--include", "@".join(included)]
            words += ["--force_multi", "--no_ssh_check"]
            hosts.check_meeting_place(environ, len(self.hosts))
            address = environ.get("MASTER_ADDR") or hosts.default_address(self.hosts[0])
            port = environ.get("MASTER_PORT")
            if address and not _has(words, "--master_addr"):
                words += ["--master_addr", address]
            arguments = [hosts.remote_word(word) for word in arguments]
        if not _has(words, "--master_port"):
            words += ["--master_port", port or str(free_port())]
        return [*words, "--module", "trainer", *arguments]

    def environment(self, folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """What the command is to be started in. What other hosts get is written to a file in the run's `folder`.

        Raises:
            UserError: a variable cannot be handed over; the folder cannot be written; Slurm does not name the nodes.
        """
        if self.name == "srun":
            hosts.check_meeting_place(environ, slurm.nodes(environ))
            place = {"MASTER_ADDR": slurm.first_node, "MASTER_PORT": lambda: str(free_port())}
            return {**environ, **{name: environ.get(name) or find() for name, find in place.items()}}
        if not self.hosts:
            return dict(environ)
        text = hosts.environment_file(hosts.handed_over(environ)[0]) + hosts.users_environment_file(environ)
        try:
            file = hosts.private_file(folder / ENVIRONMENT_FILE, text)
        except OSError as error:
            fix = "run.folder=FOLDER elsewhere, on a file system that all hosts see"
            raise UserError(f"run folder {folder} cannot be written", why=str(error), fix=fix) from None
        ssh = f"{hosts.SSH_OPTIONS} {environ.get('PDSH_SSH_ARGS_APPEND', '')}".strip()
        return {**environ, "DS_ENV_FILE": str(file.resolve()), "PDSH_SSH_ARGS_APPEND": ssh}

    def start(self, arguments: Sequence[str], folder: Path, environ: Mapping[str, str] = os.environ, **options):
        """Start `xstilts ARGUMENTS` as every process of a run; a `Running`.

        Args:
            folder: the run's.
            options: of subprocess.Popen, e.g. stdout.
        """
        command = self.command(arguments, environ)
        return Running(command, self.environment(folder, environ), self.hosts, self.is_python, **options)


def open_launcher(
    text: str,
    hostfile: Path | None = None,
    processes: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Launcher:
    """The launcher that a user named, by a command line such as `deepspeed --num_gpus 2`.

    Args:
        hostfile: for deepspeed; a `--hostfile` in `text` says the same.
        processes: on each node, for srun, which has no option for them.

    Raises:
        UserError: it is not there, or the hostfile or the processes are wrong, or not for this launcher.
    """
    words = shlex.split(text)
    if not words:
        raise UserError("--launcher names no command", fix='e.g. --launcher "deepspeed --num_gpus 2"')
    found = find_command(words[0])
    if found is None:
        fix = 'name one that is on the path, e.g. --launcher "deepspeed --num_gpus 2"'
        raise UserError(f"the launcher {words[0]!r} does not exist", fix=fix)
    launcher = Launcher((found, *words[1:]))
    if launcher.name == "srun":
        launcher = srun(processes or slurm.gpus(environ) or gpus_of_node() or 1, words[1:])
    elif processes:
        fix = "in it, e.g. deepspeed --num_gpus N or torchrun --nproc_per_node N"
        raise UserError("a launcher's command line says itself how many processes, not --processes", fix=fix)
    if launcher.is_deepspeed:
        for option in {"-H", "--hostfile"} & set(words[:-1]):
            place = launcher.words.index(option)
            hostfile = Path(launcher.words[place + 1])
            launcher = Launcher((*launcher.words[:place], *launcher.words[place + 2 :]))
    if hostfile is None:
        return _on_visible_gpus(launcher, environ) if launcher.is_deepspeed else launcher
    if not launcher.is_deepspeed:
        fix = "leave out --hostfile: in a Slurm job srun knows the nodes, and launch/torchrun.sh is started on each"
        raise UserError(f"only deepspeed reads a hostfile, not {launcher.name}", fix=fix)
    return Launcher(launcher.words, hosts.read_hostfile(hostfile), Path(hostfile))


def _on_visible_gpus(launcher: Launcher, environ: Mapping[str, str]) -> Launcher:
    """deepspeed's --num_gpus takes the first GPUs of the machine, whatever CUDA_VISIBLE_DEVICES says: so these are
    named instead.

    Raises:
        UserError: there are fewer, or they have names.
    """
    visible, count = environ.get("CUDA_VISIBLE_DEVICES", ""), _number(launcher.words, _PROCESSES)
    devices = visible.split(",")
    if not visible or not count or not wanted(environ) or not gpus_of_node():
        return launcher
    if count > len(devices) or not all(map(str.isdigit, devices)):
        what = f"deepspeed cannot start {count} processes on the GPUs of CUDA_VISIBLE_DEVICES={visible}"
        why = "it takes numbers only, one a process"
        raise UserError(what, why=why, fix=f'--launcher "torchrun --standalone --nproc_per_node {len(devices)}"')
    place = next(i for i, word in enumerate(launcher.words) if _PROCESSES.match(word.partition("=")[0]))
    rest = launcher.words[place + (1 if "=" in launcher.words[place] else 2) :]
    return Launcher((*launcher.words[:place], "--include", f"localhost:{','.join(devices[:count])}", *rest))


def srun(processes: int, options: Sequence[str] = ()) -> Launcher:
    """One task on each node of this Slurm job, which starts that many processes there."""
    nodes = slurm.nodes(os.environ)  # said outright, as a job's SLURM_NTASKS would prevail over --ntasks-per-node
    words = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1", *options]
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):  # which srun itself has not read since Slurm 22.05
        words.append(f"--cpus-per-task={cores}")
    return Launcher(("srun", *words, sys.executable, "-u", "-m", "trainer.node", str(processes)))


def find_command(name: str) -> str | None:
    """Where a command is: on the path, or beside this Python, whose environment may not be activated."""
    beside = Path(sys.executable).parent / name
    return shutil.which(name) or (str(beside) if beside.is_file() else None)


def free_port() -> int:
    """A port of this machine that nothing listens on.

    Raises:
        UserError: there seems to be none.
    """
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise UserError("a hundred random ports are all taken", fix="--launcher 'deepspeed --master_port PORT ...'")


def _number(words: Sequence[str], option: re.Pattern) -> int | None:
    """The whole number that an option has, as `--option N` or `--option=N`."""
    for word, after in zip(words, (*words[1:], ""), strict=True):
        name, _, value = word.partition("=")
        if option.match(name) and (value or after).isdigit():
            return int(value or after)
    return None


def _has(words: Sequence[str], option: str) -> bool:
    return any(word == option or word.startswith(option + "=") for word in words)
