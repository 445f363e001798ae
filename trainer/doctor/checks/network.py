"""Clocks agree, names resolve, and ports can be reached."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

from trainer.doctor.cluster import Cluster
from trainer.doctor.registry import Finding, check, failure, passed, question, warning

ROUNDS = 7  # of asking for the time, of which the fastest counts
SKEW_WARN, SKEW_FAIL = 1.0, 10.0  # seconds
CONNECT = 5.0  # seconds until a port counts as blocked


@check("clocks", needs_hosts=True)
def clocks(cluster: Cluster) -> Iterator[Finding]:
    """the hosts' clocks agree"""
    offsets = {}
    for host in cluster.names:
        rounds = []
        for _ in range(ROUNDS):
            before = time.time()
            answers = cluster.ask(clock, of=[host])
            after = time.time()
            if answers.errors:
                yield from answers.failures()
                break
            # The answer was given somewhere between: half of the round trip is the most it can be wrong by.
            rounds.append((after - before, answers[host] - (before + after) / 2))
        if rounds:
            offsets[host] = min(rounds)
    if cluster.first not in offsets:
        return
    error, reference = offsets[cluster.first]
    skews = {host: offset - reference for host, (_, offset) in offsets.items()}
    accuracy = (max(trip for trip, _ in offsets.values()) + error) / 2
    far = {host: skew for host, skew in skews.items() if abs(skew) > SKEW_WARN + accuracy}
    for host, skew in far.items():
        says = f"{host}'s clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} {cluster.first}'s"
        fix = f"start a time service on both: {cluster.on(host, 'sudo timedatectl set-ntp true')}"
        yield (failure if abs(skew) > SKEW_FAIL else warning)(says, fix, skew_seconds=skew)
    if not far:
        widest = max(skews.values()) - min(skews.values())
        says = f"within {max(widest, 0.001) * 1e3:.0f} ms (measured to {accuracy * 1e3:.1f} ms)"
        yield passed(says, skew_seconds=skews)


@question
def clock() -> float:
    """Seconds since the epoch."""
    return time.time()


@check("ports", needs_hosts=True)
def ports(cluster: Cluster) -> Iterator[Finding]:
    """the first host's master port and the hosts' free ports can be reached"""
    wanted = {host: [cluster.port, 0] if host == cluster.first else [0] for host in cluster.names}
    opened = cluster.ask(listen, token=cluster.token, each={host: {"ports": p} for host, p in wanted.items()})
    other = f"another port: --master-port {cluster.port + 1}, here and in the launcher"
    yield from opened.failures(other)
    targets = [(host, cluster.address(host), port) for host, ports in opened.items() for port in ports]
    each = {host: {"targets": [target[1:] for target in targets if target[0] != host]} for host in cluster.names}
    reached = cluster.ask(reach, token=cluster.token, timeout=CONNECT + 20, each=each)
    cluster.ask(stop_listening)
    yield from reached.failures()
    blocked = [finding for host in reached for finding in _blocked(cluster, host, targets, reached[host])]
    yield from blocked
    if not (blocked or opened.errors or reached.errors):
        yield passed(f"{cluster.port} on {cluster.first} (master), and a free port of each host from every other")


def _blocked(cluster: Cluster, host: str, targets, errors: list[str | None]) -> Iterator[Finding]:
    """A finding for each port that a host could not reach."""
    others = [target for target in targets if target[0] != host]
    for (target, address, port), error in zip(others, errors, strict=True):
        if error is None:
            continue
        master = target == cluster.first and port == cluster.port
        kind = "the master port" if master else "a free port, as gloo and NCCL take"
        says = f"{host} cannot reach {target} at {address}:{port} ({kind}): {error}"
        if "resolve" in error:
            fix = f"a line for {target} in /etc/hosts of {host}, or its address in the hostfile"
        elif master:
            test = f"timeout 5 bash -c 'echo > /dev/tcp/{address}/{port}'"
            fix = f"open TCP {port} on {target} for {host} (test: {cluster.on(host, test)}), or --master-port OTHER"
        else:
            fix = f"allow every TCP port between {host} and {target}, e.g. in the firewall or security group"
        yield failure(says, fix, blocked={"from": host, "to": address, "port": port})


_listening: list[socket.socket] = []


@question
def listen(ports: list[int], token: str) -> list[int]:
    """Listen on ports (0: a free one) until `stop_listening`, and say `token` to whoever connects; their numbers."""
    from trainer.errors import UserError

    for port in ports:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
        try:
            server.bind(("", port))
        except OSError as error:
            stop_listening()
            raise UserError(f"port {port} cannot be opened", why=error.strerror or str(error)) from None
        server.listen(1024)
        _listening.append(server)
        threading.Thread(target=_greet, args=(server, token.encode()), daemon=True).start()
    return [server.getsockname()[1] for server in _listening]


def _greet(server: socket.socket, token: bytes) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:  # closed
            return
        with client:
            client.sendall(token)
            client.settimeout(CONNECT)
            try:
                client.recv(1)  # the client closes first: its side, not the master port, then lingers
            except OSError:
                pass


@question
def stop_listening() -> None:
    while _listening:
        server = _listening.pop()
        try:
            server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        except OSError:
            pass
        server.close()


@question
def reach(targets: list[tuple[str, int]], token: str) -> list[str | None]:
    """For each (host, port): why it cannot be reached, or None."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(lambda target: _connect(*target, token.encode()), targets))


def _connect(host: str, port: int, token: bytes) -> str | None:
    try:
        address = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
    except OSError as error:
        return f"its name does not resolve ({error.strerror or error})"
    try:
        with socket.create_connection(address, CONNECT) as connection:
            said = connection.recv(64)
            return None if said == token else "something else listens there"
    except TimeoutError:
        return f"no answer within {CONNECT:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
