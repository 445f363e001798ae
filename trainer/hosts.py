"""The hosts of a run: the hostfile, whether they answer, and the environment that goes with a run to them.

DeepSpeed's launcher starts the processes of other hosts over ssh, in a fresh login shell: of the environment it was
started in it hands on only names that begin with PYTHON, MLFLOW, MV2 or UCX (and NCCL where it sees a GPU). The others
that matter go through a file that it reads, which DS_ENV_FILE names (deepspeed/launcher/runner.py).
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError

CONNECT_SECONDS = 10
# A host that is gone says nothing: without these questions an ssh to it would wait for hours.
# A shared connection (ControlMaster) would ask none either.
SSH_OPTIONS = (
    f"-o BatchMode=yes -o ConnectTimeout={CONNECT_SECONDS} -o ServerAliveInterval=5 -o ServerAliveCountMax=3 "
    "-o ControlMaster=no -o ControlPath=none"
)
AT_ONCE = 64  # ssh connections
_LINE = re.compile(r"(?P<name>[^\s#]+)\s+slots=(?P<slots>\d+)\s*(#.*)?$")

PREFIXES = (
    "CUBLAS_", "CUDA_", "CUDNN_", "DEEPSPEED_", "DS_", "FI_", "GLOO_", "GOMP_", "HF_", "HUGGINGFACE_", "KMP_", "MKL_",
    "MLFLOW_", "NCCL_", "OMP_", "OPENBLAS_", "PYTORCH_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_", "UCX_",
    "WANDB_", "XSTILTS_",
)  # fmt: skip
NAMES = frozenset({
    "CURL_CA_BUNDLE", "HTTPS_PROXY", "HTTP_PROXY", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LD_PRELOAD", "NO_PROXY",
    "PATH", "PYTHONFAULTHANDLER", "PYTHONHASHSEED", "PYTHONUNBUFFERED", "PYTHONWARNINGS", "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy",
})  # fmt: skip
OWN = frozenset({"CUDA_VISIBLE_DEVICES", "DS_ENV_FILE"})  # each host's own: the launcher sets the first from the slots
_SECRET = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$")
_SPECIAL_IN_QUOTES = re.compile(r'([\\"$`])')


@dataclass(frozen=True)
class Host:
    """A line of a hostfile: what ssh calls the host, and how many processes (GPUs) it gives."""

    name: str
    slots: int


def read_hostfile(path: str | Path) -> tuple[Host, ...]:
    """The hosts of a file with lines `NAME slots=N`, in order; empty lines and `#` comments are skipped.

    Raises:
        UserError: the file is missing or names no host; a line is malformed or names a host again.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"hostfile {path} cannot be read", why=str(error), fix="see launch/hostfile.example") from None
    hosts: dict[str, Host] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None or not int(match["slots"]):
            raise UserError(f"line {number} of hostfile {path} is {line!r}", fix="NAME slots=N, e.g. node1 slots=8")
        if match["name"] in hosts:
            raise UserError(f"line {number} of hostfile {path} names {match['name']} again", fix="one line a host")
        hosts[match["name"]] = Host(match["name"], int(match["slots"]))
    if not hosts:
        raise UserError(f"hostfile {path} names no host", fix="NAME slots=N, e.g. node1 slots=8")
    return tuple(hosts.values())


def ssh_command(host: str, command: Sequence[str]) -> list[str]:
    """The words that run a command on a host, without a terminal, a password or a long wait for a host that is gone."""
    return ["ssh", *shlex.split(SSH_OPTIONS), host, shlex.join(command)]


def not_answering(hosts: Iterable[Host], seconds: float = 2 * CONNECT_SECONDS) -> dict[str, str]:
    """Hosts that no command can be run on by ssh, and why; all are asked at once.

    Args:
        seconds: after which a host counts as silent.
    """

    def ask(host: Host) -> str:
        try:
            command = ssh_command(host.name, ["true"])
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"no answer within {seconds:.0f} s"
        said = done.stderr.strip().splitlines() or [f"ssh ended with exit code {done.returncode}"]
        return said[-1] if done.returncode else ""

    hosts = tuple(hosts)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {host.name: why for host, why in zip(hosts, pool.map(ask, hosts), strict=True) if why}


def handed_over(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The variables that go to the other hosts, and the names of those that would but look secret.

    The launcher puts them on command lines, which every user of a machine can read. A proxy's address with a password
    in it counts as secret.
    """
    wanted = {k: v for k, v in environ.items() if (k.startswith(PREFIXES) or k in NAMES) and k not in OWN}
    secret = {k for k, v in wanted.items() if _SECRET.search(k) or ("proxy" in k.lower() and "@" in v)}
    return {k: v for k, v in sorted(wanted.items()) if k not in secret}, sorted(secret)


def environment_file(variables: Mapping[str, str]) -> str:
    """The text of a `.deepspeed_env` file after which the hosts' shells have exactly these values.

    DeepSpeed strips each value and, where it has special characters, puts it between double quotes without escaping
    anything; pdsh then replaces %h and the like.

    Raises:
        UserError: a value has a line break, which the file cannot hold.
    """
    lines = []
    for name, value in variables.items():
        if "\n" in value or "\r" in value:
            raise UserError(
                f"environment variable {name} has a line break, which cannot be handed to other hosts",
                fix=f"unset {name}, or set it in the login shell of every host",
            )
        text = _SPECIAL_IN_QUOTES.sub(r"\\\1", value).replace("%", "%%")
        if value != value.strip():  # kept from DeepSpeed's strip() between closed pairs of its own quotes
            text = f'""{text}""'
        lines.append(f"{name}={text}\n")
    return "".join(lines)


def users_environment_file(environ: Mapping[str, str]) -> str:
    """The lines of the user's own .deepspeed_env files (DS_ENV_FILE, or in ~ and here), of which DeepSpeed reads both.

    Raises:
        UserError: a line has no "=", on which DeepSpeed would end with a traceback.
    """
    name, text = environ.get("DS_ENV_FILE", ".deepspeed_env"), ""
    for path in dict.fromkeys(Path(folder).expanduser() / name for folder in ("~", ".")):
        for number, line in enumerate(path.read_text().splitlines() if path.is_file() else (), 1):
            if "=" not in line:
                fix = "NAME=VALUE on every line, no empty lines, no comments"
                raise UserError(f"line {number} of {path} is {line!r}", fix=fix)
            text += f"{line}\n"
    return text


def remote_word(word: str) -> str:
    """A word of the trainer's command line so that the shell of another host gets it as it is.

    DeepSpeed puts words with a blank between double quotes, in which it escapes only these; other words it leaves to
    the shell, with all their brackets and dollars.
    """
    if " " in word:
        return re.sub(r"([\\$`])", r"\\\1", word).replace("%", "%%")
    return shlex.quote(word).replace("%", "%%")


def check_remote_path(path: str, what: str) -> str:
    """The path, if a shell takes it as it is.

    Raises:
        UserError: it has characters that DeepSpeed hands to a shell unquoted.
    """
    if shlex.quote(path) != path or "%" in path:
        why = "the deepspeed launcher hands it to the shells of other hosts without quotes"
        raise UserError(f"{what} {path!r} has characters that are special to a shell", why=why, fix="rename it")
    return path


def default_address(host: Host) -> str | None:
    """The first host's address as this machine resolves it; None where that is no address others could use."""
    try:
        address = socket.gethostbyname(host.name.rpartition("@")[2])
    except OSError:  # a name that only ssh's configuration knows
        return None
    return None if address.startswith("127.") else address


def check_meeting_place(environ: Mapping[str, str], count: int) -> None:
    """MASTER_ADDR and MASTER_PORT, where they are set, are a place where the processes of so many hosts can meet.

    Raises:
        UserError: they are not. torch would wait there for half an hour.
    """
    address, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    if address and count > 1 and re.match(r"127\.|localhost|::1$|0\.0\.0\.0$", address):
        why = "each host takes that for itself, so that their processes would never meet"
        fix = "unset MASTER_ADDR, or set it to the address of the first host"
        raise UserError(f"MASTER_ADDR={address} is no address of one host for another", why=why, fix=fix)
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        fix = "unset MASTER_PORT, or set it to a port that the firewall lets through"
        raise UserError(f"MASTER_PORT={port} is no port", why="it is a number from 1 to 65535", fix=fix)


def private_file(path: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return path
