"""Hosts that are this machine: an `ssh` on the path that runs its command here, with differences of each host's own."""

from __future__ import annotations

import os
from pathlib import Path

SSH = """#!/bin/sh
while [ "$1" != "${1#-}" ]; do if [ "$1" = -o ]; then shift; fi; shift; done
host=$1; shift
echo "Welcome to $host"
if [ -f "$PRETENDED/$host.sh" ]; then . "$PRETENDED/$host.sh"; fi
exec sh -c "$*"
"""


class PretendedHosts:
    """Attributes:
    environment: what makes a command find these hosts' `ssh`.
    hostfile: names them, one slot each.
    """

    def __init__(self, folder: Path, *names: str):
        self.folder = folder
        ssh = folder / "bin" / "ssh"
        ssh.parent.mkdir(parents=True)
        ssh.write_text(SSH)
        ssh.chmod(0o755)
        self.environment = {"PATH": f"{ssh.parent}:{os.environ['PATH']}", "PRETENDED": str(folder)}
        self.hostfile = folder / "hostfile"
        self.hostfile.write_text("".join(f"{name} slots=1\n" for name in names))

    def on(self, host: str, script: str) -> None:
        """A shell script that runs on a host before each command, in the shell that then runs it."""
        (self.folder / f"{host}.sh").write_text(script)

    def python_differs(self, host: str, **files: str) -> None:
        """Files, by name, that Python finds first on a host: sitecustomize.py, metadata of packages."""
        path = self.folder / f"python-{host}"
        for name, text in files.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.on(host, f"export PYTHONPATH={path}\n")
