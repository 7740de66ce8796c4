"""What torch need not do again: the graph is the same, and torch is as it was."""

from __future__ import annotations

import contextlib
import gc
import importlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from export import graphs, tracing
from export.graphs import export_graph


class Small(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x @ torch.full((3, 2), 0.5)).relu()


def test_the_graph_is_the_same_and_torch_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = importlib.import_module(tracing.REGISTRY).ONNXRegistry
    before = vars(registry)["from_torchlib"]
    tracing._built.cache_clear()
    for name in ("first", "second"):
        export_graph(Small(), {"x": torch.zeros(2, 3)}, ["y"], tmp_path / name)
    assert (tracing._built.cache_info().misses, tracing._built.cache_info().hits >= 1) == (1, True)
    assert vars(registry)["from_torchlib"] is before
    assert gc.isenabled()
    monkeypatch.setattr(graphs, "sparing", contextlib.nullcontext)
    export_graph(Small(), {"x": torch.zeros(2, 3)}, ["y"], tmp_path / "plain")
    assert len({(tmp_path / name).read_bytes() for name in ("first", "second", "plain")}) == 1


def test_rules_of_other_operators_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = importlib.import_module(tracing.MATCHER).SimplePatternMatcher
    before, begin, begun = vars(kind)["match"], kind._init_match, list[str]()
    monkeypatch.setattr(kind, "_init_match", lambda self, verbose: begun.append("") or begin(self, verbose))
    export_graph(Small(), {"x": torch.zeros(2, 3)}, ["y"], tmp_path / "first")
    assert vars(kind)["match"] is before
    sparing, begun[:] = len(begun), []
    monkeypatch.setattr(graphs, "sparing", contextlib.nullcontext)
    export_graph(Small(), {"x": torch.zeros(2, 3)}, ["y"], tmp_path / "plain")
    assert 0 < 10 * sparing < len(begun)


def test_gpus_are_counted_once_and_anew_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(torch.cuda, "_cached_device_count", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: counted.append(1) or 0)
    for _ in range(2):
        with tracing.sparing():
            assert torch.cuda._cached_device_count == 0
            assert not gc.isenabled()
        assert torch.cuda._cached_device_count is None
    assert len(counted) == 2


class Spelled(nn.Module):
    """Of what ONNX lacks, only what has a spelling."""

    def forward(self, x: Tensor) -> Tensor:
        return (1 - x.double().square()).float() @ torch.full((2, 3), 0.5).T


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y += 1
        return y.square()


class Lacking(nn.Module):
    """An operator that ONNX lacks and that has no spelling."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.batch_norm(x, torch.zeros(3), torch.ones(3)).square()


class Viewed(nn.Module):
    """A view that ONNX would have, and that torch makes another of."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (3, 1)).square().flatten(1)


class Flat(nn.Module):
    """The two views that stay."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, None].permute(0, 2, 1).contiguous().flatten(1).square()


@pytest.mark.parametrize(
    ("module", "traces"), [(Spelled(), 0), (Flat(), 0), (InPlace(), 1), (Lacking(), 1), (Viewed(), 1)]
)
def test_programs_are_traced_again_only_where_they_must(
    module: nn.Module, traces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, traced = importlib.import_module(tracing.PASSES), []
    decompose = passes.decompose_with_registry
    monkeypatch.setattr(passes, "decompose_with_registry", lambda *given: traced.append(1) or decompose(*given))
    x = torch.tensor([[0.5, -2.0, 3.0], [1.0, 0.0, -1.0], [0.1, 0.2, 0.3]])
    export_graph(module, {"x": x[:2]}, ["y"], tmp_path / "graph")
    (served,) = onnxruntime.InferenceSession(tmp_path / "graph").run(["y"], {"x": x.numpy()})
    np.testing.assert_allclose(served, module(x).numpy(), rtol=1e-6)
    assert len(traced) == traces
    monkeypatch.setattr(graphs, "sparing", contextlib.nullcontext)
    export_graph(module, {"x": x[:2]}, ["y"], tmp_path / "plain")
    ours, plain = ([node.op_type for node in onnx.load(tmp_path / name).graph.node] for name in ("graph", "plain"))
    assert ours == plain
