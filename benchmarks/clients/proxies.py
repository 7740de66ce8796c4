"""Proxies in front of one replica: Envoy as it is deployed, nginx and haproxy in a few lines of configuration."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import envoy as proxied
from benchmarks.processes.child import ChildProcess, free_port

NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 0;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream replica {{ server 127.0.0.1:{replica}; keepalive 8; }}
  server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://replica; }} }}
}}
"""
HAPROXY = """\
global
  maxconn 256
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:{port} proto h2
  default_backend replica
backend replica
  server replica 127.0.0.1:{replica} proto h2
"""


class ProxyProcess(ChildProcess):
    """A proxy as a child process; ready when entered.

    Attributes:
        target: where to call.
    """

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.target = f"127.0.0.1:{port}"
        self._port = port
        super().__init__(command, log)

    def ready(self) -> bool:
        """It listens."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


@dataclass(frozen=True)
class Proxy:
    """One of them.

    Attributes:
        name: for the table.
        version: of it.
        lacks: why it cannot run here; empty if it can.
        before: makes it, given the replica's port and a folder of its own.
    """

    name: str
    version: str
    lacks: str
    before: Callable[[int, Path], AbstractContextManager[proxied.EnvoyProcess | ProxyProcess]]


def proxies() -> list[Proxy]:
    """Every proxy, whether it can run here or not."""
    try:
        envoy, lacks = str(proxied.binary()), ""
    except FileNotFoundError as error:
        envoy, lacks = "", str(error)
    return [
        Proxy("Envoy", _version(envoy, "--version"), lacks, lambda port, folder: proxied.EnvoyProcess((port,), folder)),
        _debian("nginx", NGINX, ("-c",)),
        _debian("haproxy", HAPROXY, ("-db", "-f")),
    ]


def _debian(name: str, text: str, arguments: tuple[str, ...]) -> Proxy:
    binary = shutil.which(name, path="/usr/sbin:/usr/bin") or shutil.which(name) or ""

    def before(replica: int, folder: Path) -> ProxyProcess:
        port, file = free_port(), folder / f"{name}.conf"
        file.write_text(text.format(port=port, replica=replica, folder=folder))
        return ProxyProcess([binary, *arguments, str(file)], port, folder / f"{name}.log")

    return Proxy(name, _version(binary, "-v"), "" if binary else f"{name}: not found, Debian has it", before)


def _version(binary: str, flag: str) -> str:
    """The first number with points that a program says of itself."""
    if not binary:
        return ""
    said = subprocess.run([binary, flag], capture_output=True, text=True)
    number = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return number[0] if number else ""
