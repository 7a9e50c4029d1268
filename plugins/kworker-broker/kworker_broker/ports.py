"""Ports of the loopback that nobody else will take by chance."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 15_000


def free(count: int) -> list[int]:
    """`count` different ports that could be bound just now.

    They lie below the range from which the system takes the near ends of connections. A port
    of that range could be taken by any client while its node is down, even by a client that
    connects to this very port and meets itself.
    """
    ports: list[int] = []
    candidates = random.SystemRandom().sample(range(_LOWEST, _highest()), 2_000)
    while len(ports) < count:
        port = candidates.pop()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
    return ports


def listening(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _highest() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return first if first > _LOWEST + 5_000 else 32_768
