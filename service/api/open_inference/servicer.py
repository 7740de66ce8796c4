"""The calls of the Open Inference Protocol: its messages in, its messages out. Decides nothing; knows no transport.

A model's tensors have the names they have in the bundle; `p_value` and `flagged` are what the scores mean. The rows are
`input`, as the model takes them or as files (BYTES), or `latent` for a model that decodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

import latentserve
from latentserve.errors import InvalidInput, LatentserveError, PermissionDenied
from latentserve.inputs import ANOMALY_MAP, INPUT, ON_REQUEST, ImageInput, TensorSpec
from latentserve.records import printable
from service.api.inference import RECONSTRUCTION, SCORES, Context, Inference, Outcome
from service.api.maps import bounded
from service.api.open_inference import tensors as tensors_of
from service.api.open_inference.request import (
    OF_MAPS,
    OF_SCORES,
    Parameters,
    arriving_of,
    parameters_of,
    queue_of,
    wanted_of,
)
from service.api.open_inference.stubs import open_inference_grpc_pb2 as pb
from service.models.decisions import ScoreOptions
from service.models.maps import MapOptions
from service.models.model import LATENT, ServedModel
from service.models.repository import Repository

P_VALUE, FLAGGED = "p_value", "flagged"
DECIDED = (P_VALUE, FLAGGED)
MOST_DIGITS = 18  # of a version, which is an int64 in our own protocol
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
EXTENSIONS = ("model_configuration", "model_repository(index)")
_TRITON = {name: pb.DataType.Value(f"TYPE_{name}") for name in tensors_of.DATATYPES}


class Output(NamedTuple):
    """A tensor by the protocol's words: its name, its type, its shape without the rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class OpenInference:
    """One method for each call of `inference.GRPCInferenceService`, named in snake case.

    Args:
        inference: finds models and runs them.
        repository: the models.
        ready: whether the server takes calls.
        well: whether a model can answer them.
        max_request_bytes: of a request, and of the maps of an answer.
    """

    def __init__(
        self,
        inference: Inference,
        repository: Repository,
        ready: Callable[[], bool],
        well: Callable[[ServedModel], bool],
        max_request_bytes: int,
    ) -> None:
        self._inference = inference
        self._repository = repository
        self._ready = ready
        self._well = well
        self._max_request_bytes = max_request_bytes

    async def server_live(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """See the proto."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """See the proto."""
        return pb.ServerReadyResponse(ready=self._ready())

    async def model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """See the proto."""
        try:
            model = self._find(request.name, request.version, context)
        except PermissionDenied:
            raise
        except LatentserveError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._ready() and self._well(model))

    async def server_metadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """See the proto."""
        return pb.ServerMetadataResponse(name="latentserve", version=latentserve.__version__, extensions=EXTENSIONS)

    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """See the proto."""
        model = self._find(request.name, request.version, context)
        manifest, given = model.manifest, model.manifest.input
        return pb.ModelMetadataResponse(
            name=manifest.name,
            versions=[str(one) for one in sorted(self._repository.models[manifest.name], reverse=True)],
            platform=PLATFORM,
            inputs=[_metadata(_output(manifest.input.spec))],
            outputs=[_metadata(output) for output in _outputs(model)],
            properties={
                "embedding_space": manifest.embedding_space,
                "method": manifest.provenance.method,
                **({"source": printable(model.source)} if model.source else {}),
                "data": printable(manifest.provenance.data),
                "execution_provider": model.execution_provider,
                "detectors": ",".join(detector.name for detector in manifest.detectors),
                "default_alpha": f"{manifest.default_alpha:g}",
                **({"resize": given.in_words} if isinstance(given, ImageInput) else {}),
                **({"map_detector": manifest.map_detector} if manifest.map_detector else {}),
            },
        )

    async def model_config(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """See the proto."""
        model = self._find(request.name, request.version, context)
        config = pb.ModelConfig(
            name=model.manifest.name,
            platform=PLATFORM,
            backend=BACKEND,
            max_batch_size=model.decoder.limits.max_request_rows,
            dynamic_batching=pb.ModelDynamicBatching(),
        )
        name, datatype, shape = _output(model.manifest.input.spec)
        config.input.add(name=name, data_type=_TRITON[datatype], dims=shape)
        for name, datatype, shape in _outputs(model):
            config.output.add(name=name, data_type=_TRITON[datatype], dims=shape)
        return pb.ModelConfigResponse(config=config)

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """See the proto."""
        response = pb.RepositoryIndexResponse()
        for model in self._repository.served():
            if not context.caller.sees(model.manifest.name):
                continue
            response.models.add(name=model.manifest.name, version=str(model.manifest.version), state="READY")
        for one in () if request.ready or not context.caller.admin else self._repository.rejected:
            response.models.add(name=one.name, version=str(one.version), state="UNAVAILABLE", reason=one.reason)
        return response

    async def model_infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """See the proto."""
        arrived = time.monotonic()
        model = self._find(request.model_name, request.model_version, context)
        parameters = parameters_of(request)
        priority = context.caller.lowered(parameters.priority)
        if parameters.timeout_seconds is not None:
            context.deadline = min(context.deadline, arrived + parameters.timeout_seconds)
        queue = queue_of(request)
        wanted = _wanted(model, request, queue)
        if ANOMALY_MAP in wanted:
            self._inference.require(model, [ANOMALY_MAP], context)
        options, map_options = _options(model, parameters, wanted), _map_options(model, parameters, wanted)
        wants = {SCORES if name in DECIDED else name for name in wanted}
        given = partial(arriving_of, request, context.size_bytes, model.decoder, model.manifest.outputs.get(LATENT))
        arrive = bounded(given, model, self._max_request_bytes) if ANOMALY_MAP in wanted else given
        running = self._inference.run(model, arrive, wants, priority, context, queue, options, map_options)
        request_id = request.id
        del request, given, arrive  # as `Inference.run` says
        return _response(model, request_id, wanted, await running)

    def _find(self, name: str, text: str, context: Context) -> ServedModel:
        if text and not (text.isdecimal() and len(text) <= MOST_DIGITS):
            raise InvalidInput.at("model_version", got=repr(text), expected="a whole number, or nothing for the newest")
        return self._inference.find(name, int(text or 0), context)


def _outputs(model: ServedModel) -> list[Output]:
    """What can be requested."""
    outputs = [_output(spec) for spec in model.manifest.outputs.values()]
    if model.manifest.detectors:
        outputs += [Output(P_VALUE, "FP64", (1,)), Output(FLAGGED, "BOOL", (1,))]
    return outputs


def _output(spec: TensorSpec) -> Output:
    return Output(spec.name, tensors_of.datatype(np.dtype(spec.dtype)), spec.shape)


def _wanted(model: ServedModel, request: pb.ModelInferRequest, queue: str) -> list[str]:
    if queue == INPUT:
        return wanted_of(request, [output.name for output in _outputs(model) if output.name not in ON_REQUEST])
    wanted = wanted_of(request, [RECONSTRUCTION])
    if wanted != [RECONSTRUCTION]:
        raise InvalidInput.at("outputs", got=wanted, expected=f"{RECONSTRUCTION!r}, all that {LATENT!r} leads to")
    return wanted


def _options(model: ServedModel, parameters: Parameters, wanted: list[str]) -> ScoreOptions | None:
    if set(DECIDED) & set(wanted):
        return model.policy.options(parameters.alpha, parameters.guarantee, parameters.decision)
    for name in OF_SCORES:
        of_map = name in OF_MAPS and ANOMALY_MAP in wanted
        if name in parameters.given and not of_map:
            able = [P_VALUE, FLAGGED, *([ANOMALY_MAP] if name in OF_MAPS else [])]
            expected = f"none unless {', '.join(able[:-1])} or {able[-1]} is requested"
            raise InvalidInput.at(f"parameters[{name!r}]", got="it", expected=expected)
    return None


def _map_options(model: ServedModel, parameters: Parameters, wanted: list[str]) -> MapOptions | None:
    if ANOMALY_MAP not in wanted or model.map_policy is None:
        return None
    return model.map_policy.options(parameters.alpha, parameters.guarantee)


def _response(model: ServedModel, request_id: str, wanted: list[str], outcome: Outcome) -> pb.ModelInferResponse:
    manifest = model.manifest
    tensors, decisions, maps = outcome
    response = pb.ModelInferResponse(model_name=manifest.name, model_version=str(manifest.version), id=request_id)
    response.parameters["embedding_space"].string_param = manifest.embedding_space
    if decisions is not None:
        tensors = {**tensors, P_VALUE: decisions.p_values[:, None], FLAGGED: decisions.flagged[:, None]}
        response.parameters["alpha"].double_param = decisions.options.alpha
        response.parameters["guarantee"].string_param = decisions.options.guarantee
        response.parameters["decision"].string_param = decisions.options.decision
        response.parameters["deciding_detector"].string_param = manifest.detectors[0].name
    if maps is not None:
        response.parameters["map_alpha"].double_param = maps.options.alpha
        response.parameters["map_guarantee"].string_param = maps.options.guarantee
        response.parameters["map_threshold"].double_param = maps.threshold
        response.parameters["map_detector"].string_param = manifest.map_detector
    for name in wanted:
        tensors_of.write(response, name, tensors[name])
    return response


def _metadata(output: Output) -> pb.ModelMetadataResponse.TensorMetadata:
    name, datatype, shape = output
    return pb.ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype, shape=(-1, *shape))
