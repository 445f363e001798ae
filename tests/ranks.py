"""`python tests/ranks.py N MODULE ARGUMENTS`: N processes of one run, started as a launcher does, but at no cost.

When one fails the others get a SIGTERM, later a SIGKILL; the exit code is that of the first to fail.
"""

import os
import signal
import subprocess
import sys
import time

GRACE = 20.0  # seconds for the others to save and to say why they end


def main(count: int, module: str, arguments: list[str]) -> int:
    world = {"WORLD_SIZE": str(count), "LOCAL_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    ranks = []
    for rank in map(str, range(count)):
        command = [sys.executable, "-u", "-m", module, f"--local_rank={rank}", *arguments]
        own = {**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank}
        ranks.append(subprocess.Popen(command, env=own))
    while None in (codes := [rank.poll() for rank in ranks]) and not any(codes):
        time.sleep(0.05)
    first = next((rank.returncode for rank in ranks if rank.returncode), 0)
    deadline = time.monotonic() + GRACE
    for number in (signal.SIGTERM, signal.SIGKILL):
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
            time.sleep(0.05)
    return first if first >= 0 else 128 - first


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
