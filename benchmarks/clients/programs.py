"""The clients: how each is started, what it lacks here, and what it cannot do anywhere."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROTOS = HERE.parents[1] / "protos"
NPM = (
    *("@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1", "@bufbuild/buf@1.75.0", "@bufbuild/protobuf@2.17.0"),
    *("@connectrpc/connect@2.1.2", "@connectrpc/connect-node@2.1.2"),
)
DEBIAN = "g++ pkg-config libgrpc++-dev protobuf-compiler-grpc"
"""What Debian calls what the C++ client needs."""
AT_ONCE, BUF_AT_ONCE = 4, 3
"""Calls under way when the server is told to stop; `buf curl` starts a process for each."""


@dataclass(frozen=True)
class Program:
    """A client.

    Attributes:
        name: for the table.
        version: of the library.
        command: that starts it, before its arguments.
        environment: more variables.
        lacks: why it cannot run here; empty if it can.
        cannot: by check, why it cannot do that anywhere.
        at_once: calls that it has under way while the server drains.
        build: makes the command, where it must be made.
    """

    name: str
    version: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    lacks: str = ""
    cannot: dict[str, str] = field(default_factory=dict)
    at_once: int = AT_ONCE
    build: Callable[[], None] = lambda: None


def programs(tools: Path) -> list[Program]:
    """Every client, whether it can run here or not."""
    return [
        _python("grpcio", "grpcio_sync", "grpcio"),
        _python("grpcio asyncio", "grpcio_aio", "grpcio"),
        _python("tritonclient", "triton", "tritonclient", {"stream": "its protocol has no such call"}),
        _node(tools, "grpc-js", "grpc_js.cjs", "@grpc/grpc-js"),
        _node(tools, "connect-node", "connect_node.cjs", "@connectrpc/connect-node"),
        _buf(tools),
        _cpp(tools),
    ]


def install(tools: Path) -> None:
    """Brings npm's packages into a folder; whose scripts are not run.

    Raises:
        FileNotFoundError: there is no npm.
        subprocess.CalledProcessError: npm failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm: not found, expected it beside node")
    tools.mkdir(parents=True, exist_ok=True)
    (tools / "package.json").write_text('{"private": true}\n')
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    subprocess.run([npm, "install", "--save-exact", *quiet, *NPM], cwd=tools, check=True)


def _python(name: str, module: str, package: str, cannot: dict[str, str] | None = None) -> Program:
    if importlib.util.find_spec(package.replace("grpcio", "grpc")) is None:
        return Program(name, lacks=f"{package} is not installed (make setup)")
    command = (sys.executable, "-m", f"benchmarks.clients.{module}")
    return Program(name, importlib.metadata.version(package), command, cannot=cannot or {})


def _node(tools: Path, name: str, file: str, package: str) -> Program:
    node, version = shutil.which("node"), _npm_version(tools, package)
    if node is None:
        return Program(name, lacks="node: not found")
    if not version:
        return Program(name, lacks=f"{package} is not installed (--install)")
    environment = {"NODE_PATH": str(tools.absolute() / "node_modules"), "PROTOS": str(PROTOS)}
    said = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    return Program(name, f"{version} on node {said.removeprefix('v')}", (node, str(HERE / file)), environment)


def _buf(tools: Path) -> Program:
    version, name = _npm_version(tools, "@bufbuild/buf"), "buf curl"
    if not version:
        return Program(name, lacks="@bufbuild/buf is not installed (--install)")
    command = (sys.executable, "-m", "benchmarks.clients.buf_curl")
    cannot = {
        "deadline": "its time counts from its own start, and it takes no grpc-timeout",
        "cancel": "it has no way to",
        "gzip": "it compresses no requests",
        "keep-alive": "a connection for each call",
    }
    buf = {"BUF": str(tools.absolute() / "node_modules" / ".bin" / "buf")}
    return Program(name, version, command, buf, cannot=cannot, at_once=BUF_AT_ONCE)


def _npm_version(tools: Path, package: str) -> str:
    """Of a package in the folder; empty if it is not there."""
    manifest = tools / "node_modules" / package / "package.json"
    return str(json.loads(manifest.read_text())["version"]) if manifest.exists() else ""


def _cpp(tools: Path) -> Program:
    name, plugin = "grpc++", shutil.which("grpc_cpp_plugin")
    if plugin is None or any(shutil.which(one) is None for one in ("g++", "protoc", "pkg-config")):
        return Program(name, lacks=f"not all of Debian's {DEBIAN} is installed")
    asked = subprocess.run(["pkg-config", "--modversion", "grpc++"], capture_output=True, text=True)
    if asked.returncode != 0:
        return Program(name, lacks=f"pkg-config finds no grpc++, of Debian's {DEBIAN}")
    folder = (tools / "cpp").absolute()
    return Program(name, asked.stdout.strip(), (str(folder / "client"),), build=lambda: _compile(folder, plugin))


def _compile(folder: Path, plugin: str) -> None:
    """The C++ client; anew where its sources are younger."""
    program, sources = folder / "client", (HERE / "client.cc", PROTOS / "latentserve" / "v1" / "embedding.proto")
    if program.exists() and all(program.stat().st_mtime > one.stat().st_mtime for one in sources):
        return
    folder.mkdir(parents=True, exist_ok=True)
    stubs = (f"--cpp_out={folder}", f"--grpc_out={folder}", f"--plugin=protoc-gen-grpc={plugin}")
    subprocess.run(["protoc", f"-I{PROTOS}", *stubs, str(sources[1])], check=True)
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "grpc++", "protobuf"], capture_output=True, text=True)
    files = [str(file) for file in (sources[0], *sorted(folder.glob("latentserve/v1/*.cc")))]
    compiler = ["g++", "-std=c++17", "-O1", "-pthread", f"-I{folder}"]
    subprocess.run([*compiler, *files, "-o", str(program), *flags.stdout.split()], check=True)
