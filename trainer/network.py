"""This machine's networks."""

from __future__ import annotations

import ipaddress
import socket

import psutil


def interface_towards(address: str) -> str | None:
    """The network interface by which this machine reaches an address or a name.

    None where there is no way, or none that leaves the machine: a name may stand for its loopback.
    """
    try:
        family, *_, place = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # of a datagram socket, which sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return None
    if ipaddress.ip_address(own.partition("%")[0]).is_loopback:
        return None
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, entries in interfaces for entry in entries if entry.address == own), None)
