"""Reads a request of the Open Inference Protocol: its parameters, its one tensor, the outputs that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from latentserve.errors import InvalidInput
from latentserve.inputs import INPUT, TensorSpec
from service.api.open_inference import tensors as tensors_of
from service.api.open_inference.stubs import open_inference_grpc_pb2 as pb
from service.models.decisions import DecisionRule, Guarantee
from service.models.decoding import Arriving, Decoder
from service.models.model import LATENT

PRIORITIES = {0: 0, 1: 1, 2: 0, 3: -1}
"""Triton's (1 is the highest, 0 the default) to the queue's."""
OF_SCORES = ("alpha", "guarantee", "decision")
OF_MAPS = ("alpha", "guarantee")
KNOWN = (*OF_SCORES, "priority", "timeout")


@dataclass(frozen=True)
class Parameters:
    """What the parameters of a request say.

    Attributes:
        alpha: level of the decision, or None for the bundle's.
        guarantee: see `ScoreOptions`.
        decision: see there.
        priority: the queue's.
        timeout_seconds: from arrival, or None.
        given: names of those that were there.
    """

    alpha: float | None
    guarantee: Guarantee
    decision: DecisionRule
    priority: int
    timeout_seconds: float | None
    given: frozenset[str]


def parameters_of(request: pb.ModelInferRequest) -> Parameters:
    """Reads them. An unknown one is an error, for it may have been meant.

    Raises:
        InvalidInput: unknown, or out of range.
    """
    for name in request.parameters:
        if name not in KNOWN:
            raise InvalidInput.at(f"parameters[{name!r}]", got="it", expected=f"among {', '.join(KNOWN)}")
    values = {name: _value(one) for name, one in request.parameters.items()}
    timeout = _number(values, "timeout") / 1e6
    priority = _number(values, "priority")
    if priority not in PRIORITIES:
        raise InvalidInput.at("parameters['priority']", got=values["priority"], expected="0 to 3")
    if timeout < 0:
        raise InvalidInput.at("parameters['timeout']", got=values["timeout"], expected="0 or more microseconds")
    return Parameters(
        alpha=_number(values, "alpha") if "alpha" in values else None,
        guarantee=_choice(values, "guarantee", get_args(Guarantee)),
        decision=_choice(values, "decision", get_args(DecisionRule)),
        priority=PRIORITIES[int(priority)],
        timeout_seconds=timeout or None,
        given=frozenset(values),
    )


def _value(parameter: pb.InferParameter) -> Any:
    return getattr(parameter, parameter.WhichOneof("parameter_choice") or "string_param")


def _number(values: dict[str, Any], name: str) -> float:
    try:
        return float(values.get(name, 0))
    except ValueError:
        raise InvalidInput.at(f"parameters[{name!r}]", got=repr(values[name]), expected="a number") from None


def _choice(values: dict[str, Any], name: str, choices: tuple[Any, ...]) -> Any:
    """One of some words; the first if nothing is said."""
    value = values.get(name, choices[0])
    if value not in choices:
        raise InvalidInput.at(f"parameters[{name!r}]", got=repr(value), expected=f"one of {', '.join(choices)}")
    return value


def queue_of(request: pb.ModelInferRequest) -> str:
    """Which of a model's queues the one tensor of a request goes to. Raises InvalidInput if none or several came."""
    names = [one.name for one in request.inputs]
    if len(names) != 1 or names[0] not in (INPUT, LATENT):
        raise InvalidInput.at("inputs", got=names or "none", expected=f"exactly one, {INPUT!r} or {LATENT!r}")
    return names[0]


def wanted_of(request: pb.ModelInferRequest, able: Sequence[str]) -> list[str]:
    """Names of outputs in the order they were asked for, each once; all that are possible if none was."""
    for one in request.outputs:
        if one.parameters:
            raise InvalidInput.at(f"outputs[{one.name!r}].parameters", got=sorted(one.parameters), expected="none")
    return list(dict.fromkeys(one.name for one in request.outputs)) or list(able)


def arriving_of(
    request: pb.ModelInferRequest, size_bytes: int, decoder: Decoder, latent: TensorSpec | None
) -> Arriving:
    """What the one tensor will take: `input`, as rows or files, or `latent`, which is of the given kind.

    Raises:
        InvalidInput: it is not what the model takes.
    """
    tensor = request.inputs[0]
    field = f"inputs[{tensor.name!r}]"
    if tensor.name == INPUT and tensor.datatype == tensors_of.BYTES:
        return decoder.arriving_files(tensors_of.read_files(request, decoder.limits), size_bytes, field)
    spec = decoder.spec if tensor.name == INPUT else latent
    assert spec is not None
    shape = tensors_of.shape_of(request, spec, decoder.limits)
    return decoder.arriving_rows(shape[0], spec, field, lambda: tensors_of.show(request, shape))
