"""The file as it was given, in ONNX Runtime: what the bundle's graph is compared with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from export.sources.onnx_file.reading import File
from export.sources.source import SourceError
from latentserve.cpus import available_cpus
from latentserve.devices import CPU

FATAL = 4
"""Of ONNX Runtime's log: what goes wrong is told by an error."""


def session(model: str | bytes) -> ort.InferenceSession:
    """Runs a graph on the CPU, silently."""
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = available_cpus()
    return ort.InferenceSession(model, options, providers=[CPU])


def reason(error: Exception) -> str:
    """What ONNX Runtime says, without the places in its own source."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip()).splitlines()[0]
    return re.sub(r"/\S*onnxruntime\S*:\d+ .*?\) ", "", text)[:300]


class Original:
    """The user's own file.

    Args:
        file: as it was read.
        outputs: tensors that are wanted: inner ones are made outputs, and nothing else is changed.

    Raises:
        SourceError: ONNX Runtime cannot load it.
    """

    def __init__(self, file: File, outputs: Sequence[str]) -> None:
        self.outputs = list(outputs)
        given = {one.name for one in file.model.graph.output}
        inner = [name for name in dict.fromkeys(outputs) if name not in given]
        try:
            if inner:
                changed = onnx.ModelProto()
                changed.CopyFrom(file.model)
                changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
                self.session = session(changed.SerializeToString())
            else:
                self.session = session(str(file.path))
        except Exception as error:  # ONNX Runtime raises its own classes and plain RuntimeError
            message = f"onnx: {file.path.name}: got a file that ONNX Runtime {ort.__version__} cannot load"
            raise SourceError(f"{message} ({reason(error)}), expected one that it can") from None
        self.types = {one.name: one.type for one in self.session.get_outputs()}
        (entry,) = self.session.get_inputs()
        self.input = entry.name

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def run(self, x: NDArray[Any], fixed_rows: int | None = None) -> list[NDArray[np.float32]]:
        """The wanted tensors for some rows.

        Args:
            x: what the file takes.
            fixed_rows: the number of rows that it takes at once; None: any.
        """
        if fixed_rows is None:
            return self._run(x)
        parts = [self._filled(x[start : start + fixed_rows], fixed_rows) for start in range(0, len(x), fixed_rows)]
        return parts[0] if len(parts) == 1 else [np.concatenate(one) for one in zip(*parts, strict=True)]

    def _filled(self, x: NDArray[Any], num: int) -> list[NDArray[np.float32]]:
        filled = np.concatenate([x, np.repeat(x[-1:], num - len(x), axis=0)])
        return [one[: len(x)] if one.ndim and len(one) == num else one for one in self._run(filled)]

    def _run(self, x: NDArray[Any]) -> list[NDArray[np.float32]]:
        got: list[NDArray[np.float32]] = self.session.run(self.outputs, {self.input: x})
        return got
