"""What torch does again and again while it writes a graph, done once.

- Its table of ONNX operators is built anew for each graph: here it is built once a process, and each graph has a copy.
- Whether there is a GPU is asked at each operator, by a search for NVIDIA's library: here it is asked once a graph.
- The garbage collector walks through every object of every module, to find nothing: here it waits for the graph.
- Each of a hundred rules of onnxscript's optimiser is matched in full with each node, of whatever operator: here those
  of another operator are passed over. Up to here, the graph is the same, byte by byte.
- Torch traces the whole program a second time to replace operators that ONNX lacks. Where ONNX lacks only some that
  `_spelled` knows, their nodes are replaced one by one: the same operators under other names, or equal ones for views.

All of this is inside of torch and onnxscript, whose versions are pinned.
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
from torch import fx

Spelling = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""An operator, its arguments, and those with a name."""

aten: Any = torch.ops.aten
REGISTRY = "torch.onnx._internal.exporter._registration"
PASSES, DECOMPOSITIONS = "torch.onnx._internal.exporter._fx_passes", "torch.onnx._internal.exporter._decomp"
MATCHER, BASICS = "onnxscript.rewriter._matcher", "onnxscript.rewriter._basics"
CHECKS = {
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range_for_size.default,
}
"""Nodes that torch removes before it writes the graph."""
UNSAFE = {aten.native_batch_norm.default, aten.dropout.default}
"""What its schema calls pure, and torch replaces nonetheless: in training these write, or draw."""
VIEWS = {aten.flatten.using_ints, aten.contiguous.default}
"""What torch replaces although ONNX has it, as it does with all views that are made of others: these are tried."""
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


@contextlib.contextmanager
def sparing() -> Iterator[None]:
    """Graphs that are written within are written in less time."""
    with (
        _operators_are_read_once(),
        _gpus_are_counted_once(),
        _garbage_waits(),
        _rules_look_at_the_operator(),
        _programs_are_traced_once(),
    ):
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


@contextlib.contextmanager
def _programs_are_traced_once() -> Iterator[None]:
    passes: Any = importlib.import_module(PASSES)
    decompose = getattr(passes, "decompose_with_registry", None)
    asks = hasattr(importlib.import_module(DECOMPOSITIONS), "get_onnx_implemented_overloads")
    if decompose is None or not asks or isinstance(decompose, functools.partial):  # the last: of another thread
        yield
        return
    passes.decompose_with_registry = functools.partial(_decomposed, decompose)
    try:
        yield
    finally:
        passes.decompose_with_registry = decompose


def _decomposed(decompose: Callable[..., Any], program: Any, registry: Any) -> Any:
    """As `decompose`, without its trace where every node stays or is spelled here."""
    known = {*importlib.import_module(DECOMPOSITIONS).get_onnx_implemented_overloads(registry), *CHECKS} - UNSAFE
    nodes = [node for node in program.graph.nodes if node.op not in ("placeholder", "output")]
    spelled = {node: _spelled(node) for node in nodes}
    if not all(spelling is not None or _stays(node, known) for node, spelling in spelled.items()):
        return decompose(program, registry)
    for node, spelling in spelled.items():
        if spelling is not None:
            node.target, node.args, node.kwargs = spelling
    return program


def _stays(node: fx.Node, known: set[Any]) -> bool:
    """Whether torch, too, would leave the node as it is, or write what comes to the same."""
    if node.op != "call_function" or node.target not in known:
        return False
    target: Any = node.target
    if (schema := getattr(target, "_schema", None)) is None:  # Python's own, of sizes
        return True
    is_view = any(one.alias_info is not None for one in schema.returns)
    is_replaced = is_view and target not in VIEWS and target.has_kernel_for_dispatch_key(COMPOSITE)
    return not (schema.is_mutable or is_replaced)


def _spelled(node: fx.Node) -> Spelling | None:
    """What torch's own decomposition calls in place of an operator that ONNX lacks."""
    if node.kwargs:
        return None
    match (node.target, *node.args):
        case (aten.to.dtype, fx.Node() as x, torch.dtype() as dtype):
            return aten._to_copy.default, (x,), {"dtype": dtype}
        case (aten.square.default, x):
            return aten.pow.Tensor_Scalar, (x, 2), {}
        case (aten.rsub.Scalar, x, other):
            return aten.sub.Tensor, (other, x), {}
        case (aten.numpy_T.default, fx.Node() as x):
            return aten.permute.default, (x, list(reversed(range(x.meta["val"].ndim)))), {}
    return None
