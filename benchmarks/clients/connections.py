"""Which TCP connections a process holds to a port, as Linux tells."""

from __future__ import annotations

import itertools
from pathlib import Path

ESTABLISHED = "01"
"""As /proc/net/tcp writes it."""


def local_ports(pid: int, port: int) -> set[int]:
    """Our ends of the process's connections to that port; empty once it has ended."""
    inodes = set()
    try:
        for one in Path(f"/proc/{pid}/fd").iterdir():
            link = one.readlink().name
            if link.startswith("socket:["):
                inodes.add(link.removeprefix("socket:[").removesuffix("]"))
    except OSError:  # it has ended, or closed one meanwhile
        pass
    found = set()
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]  # grpcio: the second
    for line in itertools.chain(*tables):
        _, local, remote, state, _, _, _, _, _, inode, *_ = line.split()
        if state == ESTABLISHED and inode in inodes and int(remote.split(":")[1], 16) == port:
            found.add(int(local.split(":")[1], 16))
    return found
