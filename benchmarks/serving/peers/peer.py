"""What the benchmark knows of a server: how to start it, what to send it, which processes are its."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import uv

PEERS = Path("build/peers")


@dataclass(frozen=True)
class Peer:
    """A server of another project, serving one graph.

    Attributes:
        name: for the table.
        packages: pinned, for its environment.
        command: starts it, from `folder`.
        url: of its one method.
        body: by rows, what a request with so many images carries.
        headers: of a request.
        http1: speaks HTTP/1.1 instead of HTTP/2.
        environment: more variables.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    url: str
    body: dict[int, bytes]
    headers: tuple[str, ...]
    http1: bool = False
    environment: dict[str, str] = field(default_factory=dict)


def make_environment(name: str, packages: tuple[str, ...]) -> Path:
    """A virtual environment with some packages; returns its python. Made once."""
    folder = PEERS / f"{name}-env"
    python = (folder / "bin" / "python").absolute()
    if (folder / "done").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {', '.join(packages)}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([uv.find_uv_bin(), "pip", "install", "--quiet", "--python", python, *packages], check=True)
    (folder / "done").touch()
    return python


def start(peer: Peer, log: Path) -> subprocess.Popen[bytes]:
    """Starts a peer in a session of its own, so that all its processes can be counted and ended."""
    with log.open("wb") as file:
        return subprocess.Popen(
            peer.command,
            cwd=peer.folder,
            env=os.environ | peer.environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
