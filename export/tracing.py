"""What torch does again and again while it writes a graph, done once.

- Its table of ONNX operators is built anew for each graph: here it is built once a process, and each graph has a copy.
- Whether there is a GPU is asked at each operator, by a search for NVIDIA's library: here it is asked once a graph.
- The garbage collector walks through every object of every module, to find nothing: here it waits for the graph.
- Each of a hundred rules of onnxscript's optimiser is matched in full with each node, of whatever operator: here those
  of another operator are passed over.

The graph is the same, byte by byte. All of this is inside of torch and onnxscript: where they look otherwise, they do
as they do.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

REGISTRY = "torch.onnx._internal.exporter._registration"
MATCHER, BASICS = "onnxscript.rewriter._matcher", "onnxscript.rewriter._basics"


@contextlib.contextmanager
def sparing() -> Iterator[None]:
    """Graphs that are written within are written in less time."""
    with _operators_are_read_once(), _gpus_are_counted_once(), _garbage_waits(), _rules_look_at_the_operator():
        yield


@contextlib.contextmanager
def _operators_are_read_once() -> Iterator[None]:
    registry = getattr(importlib.import_module(REGISTRY), "ONNXRegistry", None)
    own = vars(registry).get("from_torchlib")
    if not isinstance(own, classmethod):
        yield
        return
    kind: Any = registry
    kind.from_torchlib = functools.partial(_copied, own.__func__, kind)
    try:
        yield
    finally:
        kind.from_torchlib = own


def _copied(build: Callable[..., Any], kind: type, **options: Any) -> Any:
    whole = _built(build, kind, **options)
    ours = copy.copy(whole)
    ours.functions = {target: list(known) for target, known in whole.functions.items()}
    return ours


@functools.cache
def _built(build: Callable[..., Any], kind: type, **options: Any) -> Any:
    return build(kind, **options)


@contextlib.contextmanager
def _gpus_are_counted_once() -> Iterator[None]:
    """Torch keeps the number only once CUDA is at work, as CUDA_VISIBLE_DEVICES might change until then."""
    cuda: Any = torch.cuda
    known = getattr(cuda, "_cached_device_count", 0)
    if known is not None:
        yield
        return
    cuda._cached_device_count = cuda.device_count()
    try:
        yield
    finally:
        cuda._cached_device_count = None


@contextlib.contextmanager
def _garbage_waits() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _rules_look_at_the_operator() -> Iterator[None]:
    kind: Any = getattr(importlib.import_module(MATCHER), "SimplePatternMatcher", None)
    result: Any = getattr(importlib.import_module(BASICS), "MatchResult", None)
    match = vars(kind).get("match") if kind is not None else None
    if match is None or result is None:
        yield
        return
    kind.match = functools.partialmethod(_matched, match, result().fail("another operator"))
    try:
        yield
    finally:
        kind.match = match


def _matched(
    matcher: Any, match: Callable[..., Any], failed: Any, model: Any, graph: Any, node: Any, **options: Any
) -> Any:
    """As `match`, of which the first thing to fail is that the pattern ends in another operator."""
    operator = matcher.pattern.output_nodes[0].op_identifier()
    if operator is not None and operator != node.op_identifier():
        return failed
    return match(matcher, model, graph, node, **options)
