"""The clients' calls without a transport: arrays to requests, responses to arrays.

Each function makes a `Call`: the method's name, the requests it takes (large inputs are split into several:
`latentserve.items`), and how to join their responses. `Client` and `AsyncClient` only send them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from latentserve.answers import Analysis as Analysis
from latentserve.answers import Scores as Scores
from latentserve.conformal import rejected
from latentserve.errors import InvalidInput, Unavailable
from latentserve.items import Cut, Items, Part, cut, cut_latents
from latentserve.maps import AnomalyMaps, joined
from latentserve.tensors import from_tensor
from latentserve.v1 import embedding_pb2 as pb

OUTPUTS = {
    "embedding": pb.OUTPUT_EMBEDDING,
    "latent": pb.OUTPUT_LATENT,
    "reconstruction": pb.OUTPUT_RECONSTRUCTION,
    "score": pb.OUTPUT_SCORE,
    "anomaly_map": pb.OUTPUT_ANOMALY_MAP,
    "codes": pb.OUTPUT_CODES,
}

Priority = Literal["low", "normal", "high"]
PRIORITIES: dict[Priority, pb.Priority] = {
    "low": pb.PRIORITY_LOW,
    "normal": pb.PRIORITY_NORMAL,
    "high": pb.PRIORITY_HIGH,
}

Guarantee = Literal["marginal", "conditional"]
GUARANTEES: dict[Guarantee, pb.Guarantee] = {
    "marginal": pb.GUARANTEE_MARGINAL,
    "conditional": pb.GUARANTEE_CONDITIONAL,
}
Decision = Literal["per_row", "false_discovery_rate"]
DECISIONS: dict[Decision, pb.Decision] = {
    "per_row": pb.DECISION_PER_ROW,
    "false_discovery_rate": pb.DECISION_FALSE_DISCOVERY_RATE,
}

R = TypeVar("R")


@dataclass(frozen=True)
class Call(Generic[R]):
    """One call of a client.

    Attributes:
        method: name of it.
        cut: the caller's items, split; a call without items has a single empty part.
        ask: makes the request of a part.
        join: makes the result of the responses.
    """

    method: str
    cut: Cut
    ask: Callable[[Part], Any]
    join: Callable[[list[Any]], R]

    @property
    def requests(self) -> Iterator[Any]:
        """All of them, in order; to be taken once."""
        return map(self.ask, self.cut.parts)


def with_priority(request: Any, priority: Priority) -> Any:
    """Sets the priority of a request and returns it; requests that carry no rows have no priority.

    Raises:
        InvalidInput: no such priority.
    """
    if priority not in PRIORITIES:
        raise InvalidInput.at("priority", got=repr(priority), expected=f"one of {list(PRIORITIES)}")
    if "priority" in request.DESCRIPTOR.fields_by_name:
        request.priority = PRIORITIES[priority]
    return request


def embed(items: Items, model: str, version: int) -> Call[NDArray[np.float32]]:
    """float32 [n, D]."""
    ask = partial(_ask, pb.EmbedRequest, model=_selector(model, version))
    return Call("Embed", cut(items), ask, lambda responses: _rows(responses, "embeddings"))


def reconstruct(items: Items, model: str, version: int) -> Call[NDArray[np.float32]]:
    """float32 [n, height, width, channels], 0 to 1."""
    ask = partial(_ask, pb.ReconstructRequest, model=_selector(model, version))
    return Call("Reconstruct", cut(items), ask, lambda responses: _rows(responses, "reconstructions"))


def score(
    items: Items | Cut,
    alpha: float | None,
    guarantee: Guarantee,
    decision: Decision,
    model: str,
    version: int,
    maps: bool = False,
) -> Call[Scores]:
    """Out-of-distribution answers; the items may be split already."""
    if not isinstance(maps, (bool, np.bool_)):
        raise InvalidInput.at("maps", got=repr(maps), expected="True or False")
    asked = _asked(alpha, guarantee, decision)
    ask = partial(_ask, pb.ScoreRequest, model=_selector(model, version), maps=bool(maps), **asked)
    return Call("Score", items if isinstance(items, Cut) else cut(items), ask, _scores)


def analyze(
    items: Items,
    outputs: Iterable[str],
    alpha: float | None,
    guarantee: Guarantee | None,
    decision: Decision | None,
    model: str,
    version: int,
) -> Call[Analysis]:
    """Any mix of outputs from one pass of the encoder."""
    wanted = list(outputs)
    if unknown := [name for name in wanted if name not in OUTPUTS]:
        raise InvalidInput.at("outputs", got=repr(unknown[0]), expected=f"among {list(OUTPUTS)}")
    codes = [OUTPUTS[name] for name in wanted]
    asked = _asked(alpha, guarantee, decision)
    ask = partial(_ask, pb.AnalyzeRequest, model=_selector(model, version), outputs=codes, **asked)
    return Call("Analyze", cut(items), ask, _analysis)


def _ask(kind: Any, part: Part, **fields: Any) -> Any:
    return kind(input=part.message, **fields)


def _asked(alpha: float | None, guarantee: Guarantee | None, decision: Decision | None) -> dict[str, Any]:
    """The score options as fields of a request."""
    if alpha is not None and not isinstance(alpha, (int, float, np.floating)):
        raise InvalidInput.at("alpha", got=repr(alpha), expected="a number")
    if guarantee is not None and guarantee not in GUARANTEES:
        raise InvalidInput.at("guarantee", got=repr(guarantee), expected=f"one of {list(GUARANTEES)}")
    if decision is not None and decision not in DECISIONS:
        raise InvalidInput.at("decision", got=repr(decision), expected=f"one of {list(DECISIONS)}")
    return {
        "alpha": None if alpha is None else float(alpha),
        "guarantee": GUARANTEES[guarantee] if guarantee else None,
        "decision": DECISIONS[decision] if decision else None,
    }


def decode(latents: Any, model: str, version: int) -> Call[NDArray[np.float32]]:
    """float32 [n, height, width, channels], 0 to 1."""
    selector = _selector(model, version)

    def ask(part: Part) -> pb.DecodeRequest:
        return pb.DecodeRequest(model=selector, latents=part.message)

    return Call("Decode", cut_latents(latents), ask, lambda responses: _rows(responses, "reconstructions"))


def get_model(model: str, version: int) -> Call[pb.GetModelResponse]:
    """A model's inputs, outputs, execution provider and provenance."""
    request = pb.GetModelRequest(model=_selector(model, version))
    return Call("GetModel", _no_rows(), lambda _: request, lambda responses: cast(pb.GetModelResponse, responses[0]))


def list_models() -> Call[pb.ListModelsResponse]:
    """Every model served and every bundle rejected."""
    request = pb.ListModelsRequest()
    return Call(
        "ListModels", _no_rows(), lambda _: request, lambda responses: cast(pb.ListModelsResponse, responses[0])
    )


def _no_rows() -> Cut:
    return Cut(iter([Part()]), 0)


def _selector(model: str, version: int) -> pb.ModelSelector:
    if not isinstance(model, str):
        raise InvalidInput.at("model", got=repr(model), expected="a name")
    if not isinstance(version, (int, np.integer)) or not 0 <= version < 2**63:
        raise InvalidInput.at("version", got=repr(version), expected="0 (newest) or greater")
    return pb.ModelSelector(name=model, version=int(version))


def _rows(responses: list[Any], name: str) -> NDArray[Any]:
    _one_model(responses)
    return np.concatenate([from_tensor(getattr(response, name), name) for response in responses])


def _analysis(responses: list[pb.AnalyzeResponse]) -> Analysis:
    def rows(name: str) -> NDArray[Any] | None:
        return _rows(responses, name) if responses[0].HasField(cast(Any, name)) else None

    scored = responses[0].HasField("out_of_distribution")
    return Analysis(
        model=_one_model(responses),
        embeddings=rows("embeddings"),
        latents=rows("latents"),
        reconstructions=rows("reconstructions"),
        scores=_scores(responses) if scored else None,
        anomaly_maps=_maps(responses),
        codes=rows("codes"),
    )


def _maps(responses: Sequence[pb.AnalyzeResponse | pb.ScoreResponse]) -> AnomalyMaps | None:
    if not responses[0].HasField("anomaly_maps"):
        return None
    return joined([response.anomaly_maps for response in responses])


def _scores(responses: Sequence[pb.AnalyzeResponse | pb.ScoreResponse]) -> Scores:
    _one_model(responses)
    parts = [response.out_of_distribution for response in responses]
    p_values = np.concatenate([np.array(part.p_values) for part in parts])
    flagged = np.concatenate([np.array(part.flagged, dtype=np.bool_) for part in parts])
    if parts[0].decision == pb.DECISION_FALSE_DISCOVERY_RATE:  # the server saw only the rows of a part
        flagged = rejected(p_values, parts[0].alpha)
    return Scores(
        detectors=tuple(parts[0].detectors),
        scores=np.concatenate([from_tensor(part.scores, "scores") for part in parts]),
        detector_p_values=np.concatenate([from_tensor(part.detector_p_values, "p_values") for part in parts]),
        p_values=p_values,
        flagged=flagged,
        alpha=parts[0].alpha,
        deciding_detector=parts[0].deciding_detector,
        anomaly_maps=_maps(responses),
    )


def _one_model(responses: Sequence[Any]) -> pb.ModelVersion:
    """A long input goes out in parts: rows of two versions must never be joined to one array."""
    first = responses[0].model
    for response in responses:
        if response.model != first:
            raise Unavailable(
                f"model {first.name} changed from version {first.version} to {response.model.version}"
                " during the call: ask again, or name the version"
            )
    return cast(pb.ModelVersion, first)
