"""Rules of the house that a person would forget to check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from latentserve.v1 import embedding_pb2 as pb

ROOT = Path(__file__).resolve().parents[1]
ALLOWED_IMPORTS = {
    "latentserve": {"latentserve"},
    "service": {"service", "latentserve"},
    "training": {
        *("training", "latentserve.audio", "latentserve.cpus", "latentserve.images", "latentserve.inputs"),
        *("latentserve.spelling", "latentserve.records", "latentserve.lock"),
        *("latentserve.bundle", "latentserve.errors"),  # a bundle may be a teacher
    },
    "export": {"export", "training", "latentserve"},
    "deploy": {
        *("deploy", "service.observing.metric", "service.observing.metric_table"),
        *("service.config", "latentserve"),  # what the reference pages are made from
    },
}
ALLOWED_ROOMS = {
    "__main__": {"server", "config", "transport", "api", "engine"},
    "bulk": {"config", "models", "engine", "scheduling"},
    "server": {"reload", "config", "transport", "api", "models", "observing", "scheduling"},
    "reload": {"config", "transport", "api", "models", "observing", "engine"},
    "config": {"transport", "models", "observing", "engine", "scheduling"},
    "transport": {"api", "observing"},
    "api": {"models", "observing", "scheduling"},
    "models": {"observing", "engine", "scheduling"},
    "observing": {"scheduling"},
    "engine": {"scheduling"},
    "scheduling": set[str](),
}
"""The rooms of service/ from the top down, and which of them each may import."""
FORBIDDEN_LIBRARIES = {
    "latentserve": {"torch", "onnxruntime", "onnx", "prometheus_client"},
    "service": {"torch", "onnx", "lightning", "sklearn", "matplotlib"},
    "training": {"onnx", "onnxruntime", "grpc"},
    "export": {"grpc"},
    "deploy": {"torch", "onnx", "onnxruntime", "grpc"},
}
ALLOWED_LIBRARIES = {"training/teacher.py": {"onnxruntime"}, "deploy/ray/serve_app.py": {"grpc"}}
"""Files for which one is not forbidden: a teacher is a bundle, which is ONNX; a replica under Ray hands calls on."""


def sources(package: str) -> list[Path]:
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "_pb2" not in path.name]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, modules: set[str]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


@pytest.mark.parametrize("package", ALLOWED_IMPORTS)
def test_packages_import_only_along_the_arrows(package: str) -> None:
    for path in sources(package):
        for name in imports(path):
            if name.split(".")[0] in ALLOWED_IMPORTS:
                allowed = ALLOWED_IMPORTS[package] | ({"latentserve"} if name == "latentserve.records" else set())
                assert within(name, allowed), f"{path.relative_to(ROOT)} imports {name}"
            forbidden = FORBIDDEN_LIBRARIES[package] - ALLOWED_LIBRARIES.get(str(path.relative_to(ROOT)), set())
            assert not within(name, forbidden), f"{path.relative_to(ROOT)} imports {name}"


def room_of(path: Path) -> str:
    """The room of service/ in which a file stands: its own if it stands at the top."""
    return path.relative_to(ROOT / "service").parts[0].removesuffix(".py")


def test_service_has_these_rooms_and_no_others() -> None:
    found = {room_of(path) for path in sources("service")}
    assert found - {"__init__"} == set(ALLOWED_ROOMS)
    assert len(ALLOWED_ROOMS) == 11


def test_every_arrow_between_rooms_points_down() -> None:
    above: set[str] = set()
    for room, below in ALLOWED_ROOMS.items():
        above.add(room)
        assert not below & above, f"{room} may import {below & above}, which stand above it"


@pytest.mark.parametrize("room", ALLOWED_ROOMS)
def test_rooms_of_the_service_import_only_what_stands_below_them(room: str) -> None:
    for path in (path for path in sources("service") if room_of(path) == room):
        for name in (name for name in imports(path) if name.startswith("service.")):
            allowed = ALLOWED_ROOMS[room] | {room}
            assert name.split(".")[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_scheduler_knows_neither_grpc_nor_onnxruntime_nor_prometheus() -> None:
    named = {name.split(".")[0] for path in sources("service/scheduling") for name in imports(path)}
    assert named <= set(sys.stdlib_module_names) | {"numpy", "latentserve", "service"}


def test_calls_know_no_transport() -> None:
    for path in sources("service/api"):
        found = {name for name in imports(path) if name.split(".")[0] in ("grpc", "ssl", "socket")}
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_the_server_loads_no_torch() -> None:
    code = "import service.server, service.__main__, sys; print([m for m in ('torch', 'training', 'export', 'onnx', 'sklearn', 'matplotlib') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_contract_loads_only_numpy_grpc_and_protobuf() -> None:
    code = "import latentserve.client, latentserve.bundle, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "onnxruntime", "PIL", "pydantic", "prometheus_client"}


def test_stubs_are_what_the_protos_say() -> None:
    done = subprocess.run([ROOT / "deploy/check_stubs.sh", sys.executable], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("proto", ["latentserve/v1/embedding.proto", "inference/open_inference_grpc.proto"])
def test_every_message_field_and_value_of_a_proto_has_a_comment(proto: str) -> None:
    """Stands in for `buf lint` with COMMENTS where npm is missing."""
    lines = (ROOT / "protos" / proto).read_text().splitlines()
    declares = re.compile(r"^\s*(message|enum|service|rpc|oneof|optional|repeated|\w+ = \d+;|[\w.]+ \w+ = \d+;)")
    for number, line in enumerate(lines):
        if declares.match(line):
            assert lines[number - 1].strip().startswith("//"), f"line {number + 1}: {line.strip()} has no comment"


def test_names_of_the_contract_follow_the_style() -> None:
    for enum in pb.DESCRIPTOR.enum_types_by_name.values():
        prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper()
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(prefix) for value in enum.values)
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    assert service.name.endswith("Service")
    for method in service.methods:
        assert (method.input_type.name, method.output_type.name) == (f"{method.name}Request", f"{method.name}Response")


def test_no_file_is_too_long_to_be_read() -> None:
    for package in (*ALLOWED_IMPORTS, "benchmarks"):
        for path in sources(package):
            num_lines = len(path.read_text().splitlines())
            assert num_lines <= 300, f"{path.relative_to(ROOT)} has {num_lines} lines"


def test_no_committed_file_names_a_package_registry() -> None:
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.split()
    hosts = re.compile("pypi" + r"\.org|registry\." + "npmjs|files.python" + "hosted")
    for name in tracked or [str(path.relative_to(ROOT)) for path in (ROOT / "requirements").glob("*.txt")]:
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png",):
            assert not hosts.search(path.read_text(errors="ignore")), name


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.stem)
def test_every_requirement_is_pinned_with_a_hash(path: Path) -> None:
    blocks = re.split(r"\n(?=[\w.-]+==)", path.read_text())
    for block in blocks:
        assert re.match(r"(#.*\n)*[\w.-]+==", block), block[:80]
        assert "--hash=sha256:" in block, block[:80]
