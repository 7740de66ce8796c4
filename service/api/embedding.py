"""The calls: protobuf messages in, protobuf messages out. Translates and decides nothing; knows no transport."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import numpy as np

from latentserve.errors import InvalidInput
from latentserve.inputs import ANOMALY_MAP, CODES, INPUT, AudioInput, ImageInput, TensorSpec
from latentserve.records import printable
from latentserve.tensors import data_type, to_tensor
from latentserve.v1 import embedding_pb2 as pb
from service.api.inference import EMBEDDING, RECONSTRUCTION, SCORES, Context, Inference, Outcome
from service.api.maps import anomaly_maps, bounded, image_format
from service.models.decisions import DecisionRule, Decisions, Guarantee, ScoreOptions
from service.models.decoding import Arriving
from service.models.maps import MapOptions
from service.models.model import LATENT, ServedModel
from service.models.repository import Repository

TENSOR_OF_OUTPUT = {
    pb.OUTPUT_EMBEDDING: EMBEDDING,
    pb.OUTPUT_LATENT: LATENT,
    pb.OUTPUT_RECONSTRUCTION: RECONSTRUCTION,
    pb.OUTPUT_SCORE: SCORES,
    pb.OUTPUT_ANOMALY_MAP: ANOMALY_MAP,
    pb.OUTPUT_CODES: CODES,
}
PRIORITIES: dict[int, int] = {
    pb.PRIORITY_UNSPECIFIED: 0,
    pb.PRIORITY_LOW: -1,
    pb.PRIORITY_NORMAL: 0,
    pb.PRIORITY_HIGH: 1,
}
GUARANTEES: dict[int, Guarantee] = {
    pb.GUARANTEE_UNSPECIFIED: "marginal",
    pb.GUARANTEE_MARGINAL: "marginal",
    pb.GUARANTEE_CONDITIONAL: "conditional",
}
DECISIONS: dict[int, DecisionRule] = {
    pb.DECISION_UNSPECIFIED: "per_row",
    pb.DECISION_PER_ROW: "per_row",
    pb.DECISION_FALSE_DISCOVERY_RATE: "false_discovery_rate",
}
MODALITIES = {"image": pb.MODALITY_IMAGE, "audio": pb.MODALITY_AUDIO}

T = TypeVar("T")


class EmbeddingServicer:
    """One method for each call of `latentserve.v1.EmbeddingService`, named in snake case.

    Args:
        inference: finds models and runs them.
        repository: the models.
        max_request_bytes: of a request.
    """

    def __init__(self, inference: Inference, repository: Repository, max_request_bytes: int) -> None:
        self._inference = inference
        self._repository = repository
        self._max_request_bytes = max_request_bytes

    async def embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """See the proto."""
        model = self._find(request.model, context)
        running = self._run(model, request, {EMBEDDING}, context)
        del request  # as `Inference.run` says
        tensors = (await running).tensors
        return pb.EmbedResponse(model=_version(model), embeddings=to_tensor(tensors[EMBEDDING]))

    async def reconstruct(self, request: pb.ReconstructRequest, context: Context) -> pb.ReconstructResponse:
        """See the proto."""
        model = self._find(request.model, context)
        running = self._run(model, request, {RECONSTRUCTION}, context)
        del request
        tensors = (await running).tensors
        return pb.ReconstructResponse(model=_version(model), reconstructions=to_tensor(tensors[RECONSTRUCTION]))

    async def score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """See the proto."""
        model = self._find(request.model, context)
        wants = {SCORES, ANOMALY_MAP} if request.maps else {SCORES}
        running = self._run(model, request, wants, context)
        del request
        _, decisions, maps = await running
        assert decisions is not None
        return pb.ScoreResponse(
            model=_version(model),
            out_of_distribution=_out_of_distribution(model, decisions),
            anomaly_maps=None if maps is None else anomaly_maps(model, maps),
        )

    async def analyze(self, request: pb.AnalyzeRequest, context: Context) -> pb.AnalyzeResponse:
        """See the proto."""
        model = self._find(request.model, context)
        wants = _wanted(request)
        running = self._run(model, request, wants, context)
        del request
        tensors, decisions, maps = await running
        response = pb.AnalyzeResponse(model=_version(model))
        if EMBEDDING in wants:
            response.embeddings.CopyFrom(to_tensor(tensors[EMBEDDING]))
        if LATENT in wants:
            response.latents.CopyFrom(to_tensor(tensors[LATENT]))
        if RECONSTRUCTION in wants:
            response.reconstructions.CopyFrom(to_tensor(tensors[RECONSTRUCTION]))
        if CODES in wants:
            response.codes.CopyFrom(to_tensor(tensors[CODES]))
        if decisions is not None:
            response.out_of_distribution.CopyFrom(_out_of_distribution(model, decisions))
        if maps is not None:
            response.anomaly_maps.CopyFrom(anomaly_maps(model, maps))
        return response

    async def decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        """See the proto."""
        model = self._find(request.model, context)
        running = self._run_latents(model, request, context)
        del request
        tensors = (await running).tensors
        return pb.DecodeResponse(model=_version(model), reconstructions=to_tensor(tensors[RECONSTRUCTION]))

    async def get_model(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """See the proto."""
        model = self._find(request.model, context)
        ours = model.decoder.limits
        limits = pb.Limits(
            max_rows_per_request=ours.max_request_rows,
            max_bytes_per_request=self._max_request_bytes,
            max_bytes_per_item=ours.max_item_bytes,
            max_pixels_per_item=ours.max_item_pixels,
            max_pixels_per_request=ours.max_request_pixels,
        )
        return pb.GetModelResponse(model=_describe(model), limits=limits)

    async def list_models(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """See the proto."""
        return pb.ListModelsResponse(
            models=[
                _describe(model) for model in self._repository.served() if context.caller.sees(model.manifest.name)
            ],
            rejected=[
                pb.RejectedBundle(name=one.name, version=one.version, reason=one.reason)
                for one in (self._repository.rejected if context.caller.admin else ())
            ],
        )

    def _find(self, selector: pb.ModelSelector, context: Context) -> ServedModel:
        return self._inference.find(selector.name, selector.version, context)

    def _run(self, model: ServedModel, request: Any, wants: set[str], context: Context) -> Coroutine[Any, Any, Outcome]:
        arrive: Callable[[], Arriving] = partial(model.decoder.arriving, request.input, context.size_bytes)
        map_options = None
        if ANOMALY_MAP in wants:
            self._inference.require(model, wants, context)
            map_options = _map_options(model, request)
            arrive = bounded(arrive, model, self._max_request_bytes)
        options = _options(model, request) if SCORES in wants else None
        priority = _priority(request, context)
        return self._inference.run(model, arrive, wants, priority, context, INPUT, options, map_options)

    def _run_latents(
        self, model: ServedModel, request: pb.DecodeRequest, context: Context
    ) -> Coroutine[Any, Any, Outcome]:
        def arrive() -> Arriving:
            return model.decoder.arriving_tensor(request.latents, model.manifest.outputs[LATENT], "latents")

        priority = _priority(request, context)
        return self._inference.run(model, arrive, {RECONSTRUCTION}, priority, context, LATENT)


def _priority(request: Any, context: Context) -> int:
    return context.caller.lowered(_named(PRIORITIES, request.priority, "priority", pb.Priority))


def _wanted(request: pb.AnalyzeRequest) -> set[str]:
    if not request.outputs:
        raise InvalidInput.at("outputs", got="none", expected="at least one")
    for output in request.outputs:
        if output not in TENSOR_OF_OUTPUT:
            known = ", ".join(pb.Output.Name(code) for code in TENSOR_OF_OUTPUT)
            raise InvalidInput.at("outputs", got=output, expected=f"among {known}")
    wants = {TENSOR_OF_OUTPUT[output] for output in request.outputs}
    able = {"alpha": {SCORES, ANOMALY_MAP}, "guarantee": {SCORES, ANOMALY_MAP}, "decision": {SCORES}}
    for field, _ in request.ListFields():
        if field.name in able and not able[field.name] & wants:
            expected = "none without OUTPUT_SCORE" + (" or OUTPUT_ANOMALY_MAP" if field.name != "decision" else "")
            raise InvalidInput.at(field.name, got=getattr(request, field.name), expected=expected)
    return wants


def _options(model: ServedModel, request: pb.ScoreRequest | pb.AnalyzeRequest) -> ScoreOptions:
    return model.policy.options(*_level(request), _named(DECISIONS, request.decision, "decision", pb.Decision))


def _map_options(model: ServedModel, request: pb.ScoreRequest | pb.AnalyzeRequest) -> MapOptions:
    assert model.map_policy is not None  # the model was asked whether it has a map
    return model.map_policy.options(*_level(request))


def _level(request: pb.ScoreRequest | pb.AnalyzeRequest) -> tuple[float | None, Guarantee]:
    alpha = request.alpha if request.HasField("alpha") else None
    return alpha, _named(GUARANTEES, request.guarantee, "guarantee", pb.Guarantee)


def _named(names: dict[int, T], code: int, field: str, enum: Any) -> T:
    """What a code of an enum means to us."""
    if code not in names:
        known = ", ".join(enum.Name(one) for one in names)
        raise InvalidInput.at(field, got=code, expected=f"among {known}")
    return names[code]


def _version(model: ServedModel) -> pb.ModelVersion:
    manifest = model.manifest
    return pb.ModelVersion(name=manifest.name, version=manifest.version, embedding_space=manifest.embedding_space)


def _out_of_distribution(model: ServedModel, decisions: Decisions) -> pb.OutOfDistribution:
    detectors, options = [detector.name for detector in model.manifest.detectors], decisions.options
    return pb.OutOfDistribution(
        detectors=detectors,
        scores=to_tensor(decisions.scores),
        p_values=decisions.p_values.tolist(),
        flagged=decisions.flagged.tolist(),
        alpha=options.alpha,
        deciding_detector=detectors[0],
        detector_p_values=to_tensor(decisions.detector_p_values.astype(np.float32)),
        guarantee=f"GUARANTEE_{options.guarantee.upper()}",
        decision=f"DECISION_{options.decision.upper()}",
    )


def _describe(model: ServedModel) -> pb.Model:
    manifest = model.manifest
    return pb.Model(
        name=manifest.name,
        version=manifest.version,
        embedding_space=manifest.embedding_space,
        modality=MODALITIES[manifest.input.modality],
        input=_spec(manifest.input.spec),
        outputs=[_spec(spec) for spec in manifest.outputs.values()],
        detectors=[
            pb.Detector(
                name=detector.name,
                num_calibration_rows=detector.num_calibration_rows,
                smallest_p_value=detector.smallest_p_value,
                smallest_conditional_p_value=detector.smallest_conditional_p_value,
                delta=detector.delta,
                calibration_sha256=detector.calibration_sha256,
                method=detector.method,
                calibration=detector.calibration,
            )
            for detector in manifest.detectors
        ],
        default_alpha=manifest.default_alpha,
        execution_provider=model.execution_provider,
        method=manifest.provenance.method,
        data=printable(manifest.provenance.data),
        created_at=manifest.provenance.created_at,
        evaluations=[
            pb.Evaluation(name=figure.name, value=figure.value, data=printable(figure.data))
            for figure in manifest.evaluations
        ],
        audio=_audio(manifest.input),
        resize=manifest.input.in_words if isinstance(manifest.input, ImageInput) else "",
        source=printable(model.source),
        image=image_format(manifest.input),
        map_detector=manifest.map_detector,
    )


def _audio(given: ImageInput | AudioInput) -> pb.AudioFormat | None:
    if isinstance(given, AudioInput):
        return pb.AudioFormat(sample_rate_hz=given.sample_rate_hz, num_samples=given.num_samples)
    return None


def _spec(spec: TensorSpec) -> pb.TensorSpec:
    return pb.TensorSpec(name=spec.name, dtype=data_type(np.dtype(spec.dtype)), shape=spec.shape)
