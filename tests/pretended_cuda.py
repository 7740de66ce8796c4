"""CUDA's libraries as empty shells: a machine without a GPU can ask where ONNX Runtime would put the nodes of a graph.

ONNX Runtime assigns nodes to providers when it opens a session, by the kernels it has, before anything runs. Its CUDA
provider opens if the functions it calls exist and say that all went well, so that is what these libraries do: memory
is the host's, and no kernel ever runs. A session opened over them must not be run.

    python -m tests.pretended_cuda LIBRARIES FOLDER    opens every graph that FOLDER/graphs.json names, prints JSON
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import onnxruntime as ort

from latentserve import records
from latentserve.bundle import Graph
from latentserve.devices import CUDA
from latentserve.errors import BundleError
from service.engine.devices import check_gpus
from service.engine.providers import DeviceConfig, node_counts, open_session

PROVIDER = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
LIBRARIES = {"cublasLt": "libcublasLt.so.13", "cublas": "libcublas.so.13", "cuda": "libcudart.so.13"}
"""Sonames by how the functions begin; the driver's begin with cu and a capital letter."""
DRIVER, UNUSED = "libcuda.so.1", "libcurand.so.10"
ASKED = ("cuInit", "cuDeviceGetCount")
"""Of the driver, by us: there are two GPUs."""
MEASURED_OPTIONS = ((("use_tf32", "1"),), (("cudnn_conv_algo_search", "EXHAUSTIVE"),), (("prefer_nhwc", "1"),))
"""What `benchmarks.gpu` tries in place of our settings."""
HEADERS = "#include <stdlib.h>\n#include <string.h>\n"
ALLOCATE = "(void **p, size_t n) { *p = malloc(n); return 0; }"
CREATE = "(void **p) { *p = malloc(64); return 0; }"
COPY = "(void *to, void *from, size_t n) { memcpy(to, from, n); return 0; }"
BODIES = {
    **dict.fromkeys(("cudaMalloc", "cudaMallocHost", "cudaHostAlloc"), ALLOCATE),
    **dict.fromkeys(("cudaFree", "cudaFreeHost"), "(void *p) { free(p); return 0; }"),
    **dict.fromkeys(("cudaMemcpy", "cudaMemcpyAsync"), COPY),
    **dict.fromkeys(("cudaStreamCreate", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"), CREATE),
    **dict.fromkeys(("cublasCreate_v2", "cublasLtCreate"), CREATE),
    "cudaMemGetInfo": "(size_t *free, size_t *all) { *free = *all = (size_t)8 << 30; return 0; }",
    "cudaGetDevice": "(int *device) { *device = 0; return 0; }",
    **dict.fromkeys(("cudaGetDeviceCount", "cuDeviceGetCount"), "(int *count) { *count = 2; return 0; }"),
    "cudaGetDeviceProperties": "(char *p, int device) { memset(p, 0, 700); return 0; }",
    "cudaStreamIsCapturing": "(void *stream, int *is) { *is = 0; return 0; }",
}


def build(folder: Path) -> None:
    """Compiles the libraries.

    Raises:
        OSError: there is no compiler or no `nm`.
        subprocess.CalledProcessError: one of them fails.
    """
    listed = subprocess.run(["nm", "-D", "--undefined-only", PROVIDER], capture_output=True, text=True, check=True)
    functions: dict[str, list[str]] = defaultdict(list, {UNUSED: [], DRIVER: list(ASKED)})
    for line in listed.stdout.splitlines():
        function = line.split()[1].split("@")[0]
        plain = function.lstrip("_")
        if library := next((soname for start, soname in LIBRARIES.items() if plain.startswith(start)), None):
            functions[library].append(function)
        elif plain.startswith("cu") and plain[2:3].isupper() and plain not in ASKED:
            functions[DRIVER].append(function)
    for soname, of_library in functions.items():
        _compile(folder, soname, of_library)


def _compile(folder: Path, soname: str, functions: list[str]) -> None:
    source, versions = folder / f"{soname}.c", folder / f"{soname}.map"
    source.write_text(HEADERS + "\n".join(_definition(function) for function in functions))
    versions.write_text(f"{soname} {{ global: *; }};\n")
    command = ["gcc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{soname},--version-script={versions}"]
    subprocess.run([*command, "-o", folder / soname, source], check=True)


def _definition(function: str) -> str:
    if function == "__cudaRegisterFatBinary":
        return f"void **{function}(void *p) {{ static void *handle; return &handle; }}"
    if function in ("cudaGetErrorString", "cudaGetErrorName"):
        return f'const char *{function}(int error) {{ return "pretended"; }}'
    return f"int {function}{BODIES.get(function, '(void) { return 0; }')}"


def main(libraries: Path, folder: Path) -> None:
    """Prints, for each graph, how many nodes went to which provider, or why ONNX Runtime refused it."""
    for library in sorted(libraries.glob("*.so.*")):
        if library.suffix not in (".c", ".map"):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    found: dict[str, object] = {}
    check_gpus(["cuda:0", "cuda:1"])
    for text in json.loads((folder / "graphs.json").read_text()):
        graph = records.from_json(Graph, text)
        try:
            found[graph.file] = node_counts(open_session(folder, graph, CUDA, DeviceConfig("cuda", 1, 8)))
            open_session(folder, graph, CUDA, DeviceConfig("cuda", 1, 8, cuda_graphs=True))  # asks for more
            second = node_counts(open_session(folder, graph, CUDA, DeviceConfig("cuda:1", 1, 8)))
            assert second == found[graph.file], second
            for options in MEASURED_OPTIONS:
                open_session(folder, graph, CUDA, DeviceConfig("cuda", 1, 8, cuda_options=options))
        except BundleError as error:
            found[graph.file] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
