"""`onnx:FILE`: an encoder that is an ONNX file of somebody else's.

reading      the file, and what stands in the way of it
describing   its input: layout, size, scale (`entry`: how rows become it)
choosing     the tensors that become the embedding and the patches (`pooling`: how)
building     the bundle's graph: the file's own, cut out, with our input and outputs (`parts`: nodes of ours;
                 `freeing`: any number of rows)
verifying    that graph beside the file (`original`), row by row
network      both, as an encoder
"""

from __future__ import annotations

import onnx
import onnxruntime as ort

from export.sources.onnx_file.building import Plan
from export.sources.onnx_file.choosing import chosen
from export.sources.onnx_file.describing import entry_of
from export.sources.onnx_file.network import OnnxEncoder
from export.sources.onnx_file.original import Original
from export.sources.onnx_file.reading import File, read
from export.sources.onnx_file.verifying import verified
from export.sources.source import Network, SourceOptions

LICENCES = ("licence", "license")


def open(argument: str, options: SourceOptions) -> Network:  # noqa: A001 (as every source has it)
    """Opens a file, and verifies that a bundle can be made of it.

    Raises:
        SourceError: it cannot, or the options do not fit it.
    """
    file = read(argument)
    entry = entry_of(file, options)
    pooled, places = chosen(file, entry, options)
    plan = Plan(file, entry, pooled, places)
    original = Original(file, plan.tensors)
    return Network(
        model=OnnxEncoder(plan, original, verified(plan, original)),
        input=entry.input,
        source=f"onnx:{argument}",
        weights_sha256=file.sha256,
        licence=_licence(file),
        versions=_versions(file),
    )


def _licence(file: File) -> str:
    said = {one.key.lower(): one.value for one in file.model.metadata_props}
    return next((said[name] for name in LICENCES if name in said), "")


def _versions(file: File) -> dict[str, str]:
    model = file.model
    versions = {"onnx": onnx.__version__, "onnxruntime": ort.__version__, "opset": str(file.opset)}
    if model.producer_name:
        versions["producer"] = f"{model.producer_name} {model.producer_version}".strip()
    return versions
