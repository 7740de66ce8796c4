"""An encoder that is an ONNX file: asked through ONNX Runtime, and written into a bundle as one graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from export.graphs import graph_of, without_traces
from export.sources.onnx_file.building import Plan
from export.sources.onnx_file.original import Original
from export.sources.onnx_file.verifying import outputs_of
from latentserve.bundle import Graph
from training.methods.encoding import Encoding

BATCH_ROWS = 32
"""At once: activations of a large network take tens of MB a row."""


class OnnxEncoder(nn.Module):
    """The user's own file, and the graph that was made of it.

    Args:
        plan: what is read of the file.
        original: the file.
        graph: input -> embedding, and patches if they are kept.
    """

    def __init__(self, plan: Plan, original: Original, graph: onnx.ModelProto) -> None:
        super().__init__()
        self.plan, self.original, self.graph = plan, original, graph

    def encode(self, x: Tensor, /) -> Encoding:
        """Runs the file itself, with rows prepared in numpy: what the bundle's graph is compared with."""
        parts = []
        for some in torch.split(x.detach().cpu().float(), BATCH_ROWS):
            tensors = self.original.run(self.plan.entry.prepared(some.numpy()), self.plan.entry.fixed_rows)
            parts.append(outputs_of(self.plan, tensors))
        outputs = [torch.from_numpy(np.concatenate(one)).to(x) for one in zip(*parts, strict=True)]
        return Encoding(outputs[0], patches=outputs[1] if len(outputs) > 1 else None)

    def write_graph(self, path: Path) -> Graph:
        """Writes the graph with all of its weights."""
        onnx.save(without_traces(self.graph), path)
        return graph_of(path)
