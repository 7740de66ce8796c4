"""What servicers do for one caller and not for another: the priority they get, what they are shown."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from latentserve.errors import InvalidInput, ModelNotFound, PermissionDenied
from latentserve.inputs import ImageInput, TensorSpec
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from service.api.access.callers import Caller
from service.api.embedding import EmbeddingServicer
from service.api.inference import Context, Inference
from service.api.open_inference.servicer import OpenInference
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb
from service.models.decoding import Decoder, Limits
from service.models.repository import Rejected, Repository
from service.observing.metrics import Metrics
from tests.service.api.test_access import grant

ROWS = np.zeros((2, 4, 4, 1), np.uint8)


class Queue:
    """Keeps the priorities it was given."""

    def __init__(self) -> None:
        self.priorities: list[int] = []
        self.at_admission: list[int] = []

    def reserve(self, rows: int, size_bytes: int, deadline: float, priority: int) -> Any:
        self.at_admission.append(priority)
        return nullcontext()

    async def submit(self, rows: Any, wants: Any, deadline: float, priority: int, reservation: Any) -> dict[str, Any]:
        self.priorities.append(priority)
        return {name: np.zeros((len(rows), 3), np.float32) for name in wants}


def served(queue: Queue) -> tuple[EmbeddingServicer, OpenInference]:
    outputs = {name: TensorSpec(name, "float32", (3,)) for name in ("embedding", "latent", "reconstruction")}
    spec = TensorSpec("input", "uint8", (4, 4, 1))
    manifest = SimpleNamespace(
        name="m", version=1, embedding_space="e", outputs=outputs, input=SimpleNamespace(spec=spec), detectors=()
    )
    decoder = Decoder(ImageInput(4, 4, 1), Limits(1024, 2**24, 2**24), cast(ThreadPoolExecutor, None))
    model = SimpleNamespace(manifest=manifest, decoder=decoder, queues={"input": queue, "latent": queue}, monitor=None)
    repository = Repository(models={"m": {1: cast(Any, model)}, "n": {1: cast(Any, model)}})
    repository.rejected.append(Rejected("broken", 1, "a secret path"))
    inference = Inference(repository, Metrics())
    return EmbeddingServicer(inference, repository, 2**20), OpenInference(
        inference, repository, lambda: True, lambda _: True, 2**20
    )


@pytest.mark.parametrize(("ceiling", "got"), [("low", -1), ("normal", 0), ("high", 1)])
def test_the_ceiling_holds_in_both_protocols_and_every_queue(ceiling: str, got: int) -> None:
    queue = Queue()
    servicer, open_inference = served(queue)
    context = Context("x", caller=Caller(grant("a", priority=ceiling)))
    model, high = pb.ModelSelector(name="m"), pb.PRIORITY_HIGH
    given = pb.Input(tensor=to_tensor(ROWS))
    latents = to_tensor(np.zeros((1, 3), np.float32))
    asyncio.run(servicer.embed(pb.EmbedRequest(model=model, input=given, priority=high), context))
    asyncio.run(servicer.decode(pb.DecodeRequest(model=model, latents=latents, priority=high), context))
    tensor = open_pb.ModelInferRequest.InferInputTensor(name="input", datatype="UINT8", shape=ROWS.shape)
    output = open_pb.ModelInferRequest.InferRequestedOutputTensor(name="embedding")
    infer = open_pb.ModelInferRequest(
        model_name="m", inputs=[tensor], outputs=[output], raw_input_contents=[ROWS.tobytes()]
    )
    infer.parameters["priority"].int64_param = 1  # the highest, by that protocol
    asyncio.run(open_inference.model_infer(infer, context))
    assert queue.priorities == queue.at_admission == [got] * 3


def test_refused_bundles_are_shown_to_administrators_and_models_to_those_who_may_use_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servicer, open_inference = served(Queue())
    monkeypatch.setattr("service.api.embedding._describe", lambda model: pb.Model(name=model.manifest.name))
    for caller, models, refused in (
        (Caller(None), 2, 1),
        (Caller(grant("boss", admin=True)), 2, 1),
        (Caller(grant("user")), 2, 0),
        (Caller(grant("elsewhere", models=("x",))), 0, 0),
    ):
        context = Context("ListModels", caller=caller)
        answer = asyncio.run(servicer.list_models(pb.ListModelsRequest(), context))
        assert (len(answer.models), len(answer.rejected)) == (models, refused)
        index = asyncio.run(open_inference.repository_index(open_pb.RepositoryIndexRequest(), context))
        assert len(index.models) == models + refused


def test_names_of_models_are_told_to_those_who_may_use_them() -> None:
    servicer, open_inference = served(Queue())
    context = Context("Embed", caller=Caller(grant("a", models=("m", "gone"))))
    with pytest.raises(ModelNotFound, match=r"expected one of \['m'\]"):
        asyncio.run(servicer.get_model(pb.GetModelRequest(model=pb.ModelSelector(name="gone")), context))
    with pytest.raises(PermissionDenied, match="got 'n'"):
        asyncio.run(servicer.get_model(pb.GetModelRequest(model=pb.ModelSelector(name="n")), context))
    with pytest.raises(PermissionDenied, match="got 'n'"):
        asyncio.run(open_inference.model_ready(open_pb.ModelReadyRequest(name="n"), context))
    everything = Context("Embed", caller=Caller(grant("b")))
    with pytest.raises(InvalidInput, match=r"expected one of \['m', 'n'\]"):
        asyncio.run(servicer.get_model(pb.GetModelRequest(), everything))
