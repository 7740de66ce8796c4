"""What the servicer hands to the queue, without a queue."""

from __future__ import annotations

import asyncio
import math
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from latentserve.bundle import TensorSpec
from latentserve.errors import InvalidInput
from latentserve.inputs import ImageInput
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from service.api.calls import Call, services
from service.api.embedding import EmbeddingServicer
from service.api.inference import Context, Inference
from service.api.open_inference.servicer import OpenInference
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb
from service.models.decoding import Decoder, Limits
from service.models.repository import Repository
from service.observing.metrics import Metrics


def resident_bytes() -> int:
    """Memory of this process; 0 where that is not told."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * resource.getpagesize() if file.exists() else 0


class Queue:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[int, frozenset[str], float, int]] = []
        self.kept: list[tuple[int, int, float, int]] = []
        self.resident: list[int] = []

    def reserve(self, rows: int, size_bytes: int, deadline: float, priority: int) -> Any:
        self.kept.append((rows, size_bytes, deadline, priority))
        return nullcontext()

    async def submit(
        self, rows: Any, wants: frozenset[str], deadline: float, priority: int, reservation: Any
    ) -> dict[str, Any]:
        self.given.append((len(rows), wants, deadline, priority))
        self.resident.append(resident_bytes())
        return {name: np.zeros((1, 3), np.float32) for name in wants}


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def servicer(queue: Queue) -> EmbeddingServicer:
    outputs = {"embedding": TensorSpec("embedding", "float32", (3,)), "latent": TensorSpec("latent", "float32", (3,))}
    outputs["reconstruction"] = TensorSpec("reconstruction", "float32", (3,))
    outputs["scores"] = TensorSpec("scores", "float32", (1,))
    model = SimpleNamespace(
        policy=SimpleNamespace(options=lambda *_: None),
        manifest=SimpleNamespace(name="m", version=1, embedding_space="e", outputs=outputs, detectors=()),
        decoder=Decoder(ImageInput(4, 4, 1), Limits(2**24, 2**24, 2**24), cast(ThreadPoolExecutor, None)),
        queues={"input": queue, "latent": queue},
        monitor=None,
    )
    repository = cast(Repository, SimpleNamespace(find=lambda *_: model))
    return EmbeddingServicer(Inference(repository, Metrics()), repository, 2**30)


IMAGES = pb.Input(tensor=to_tensor(np.zeros((2, 4, 4, 1), np.uint8)))


@pytest.mark.parametrize(
    ("priority", "expected"),
    [(None, 0), (pb.PRIORITY_LOW, -1), (pb.PRIORITY_NORMAL, 0), (pb.PRIORITY_HIGH, 1)],
)
def test_priority_and_deadline_of_the_call_reach_the_queue(
    servicer: EmbeddingServicer, queue: Queue, priority: pb.Priority | None, expected: int
) -> None:
    context = Context("Embed", deadline=7.0)
    asyncio.run(servicer.embed(pb.EmbedRequest(input=IMAGES, priority=priority), context))
    latents = to_tensor(np.zeros((1, 3), np.float32))
    asyncio.run(servicer.decode(pb.DecodeRequest(latents=latents, priority=priority), Context("Decode")))
    assert queue.given == [
        (2, frozenset({"embedding"}), 7.0, expected),
        (1, frozenset({"reconstruction"}), math.inf, expected),
    ]
    assert queue.kept == [(2, 2 * 16, 7.0, expected), (1, 3 * 4, math.inf, expected)]


def test_a_priority_that_does_not_exist_is_named(servicer: EmbeddingServicer, queue: Queue) -> None:
    request = pb.EmbedRequest.FromString(pb.EmbedRequest(input=IMAGES).SerializeToString() + b"\x18\x09")
    with pytest.raises(InvalidInput, match="priority: got 9, expected among PRIORITY_UNSPECIFIED, PRIORITY_LOW"):
        asyncio.run(servicer.embed(request, Context("Embed")))
    assert queue.given == []


@pytest.mark.parametrize("call", ["Embed", "Decode", "ModelInfer", "ScoreStream"])
def test_while_rows_wait_neither_their_message_nor_its_bytes_are_held(
    servicer: EmbeddingServicer, queue: Queue, call: str
) -> None:
    """Only the rows are: of 32 MiB that came, not twice as much may be in memory."""
    size = 32 * 2**20
    images = pb.Input(tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[size // 16, 4, 4, 1], data=bytes(size)))
    latents = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[size // 12, 3], data=bytes(size // 12 * 12))
    infer = open_pb.ModelInferRequest(raw_input_contents=[bytes(size)])
    infer.inputs.add(name="input", datatype="UINT8", shape=[size // 16, 4, 4, 1])
    infer.outputs.add(name="embedding")
    # What comes after the rows have run is of no interest here: nothing decides on scores.
    messages: dict[str, Any] = {
        "Embed": pb.EmbedRequest(input=images),
        "Decode": pb.DecodeRequest(latents=latents),
        "ModelInfer": infer,
        "ScoreStream": pb.ScoreStreamRequest(request=pb.ScoreRequest(input=images)),
    }
    bodies = [messages[call].SerializeToString()]
    del images, latents, infer, messages
    open_inference = OpenInference(servicer._inference, servicer._repository, lambda: True, lambda _: True, 2**30)
    methods = {
        name: one for calls in services(servicer, open_inference, Metrics()).values() for name, one in calls.items()
    }

    async def answer() -> int:
        before = resident_bytes() - size  # the body's
        made = methods[call]
        if isinstance(made, Call):
            await made.answer(bodies.pop(), math.inf)
        else:
            one = made._begin(bodies.pop(), math.inf)
            await one
        return before

    before = asyncio.run(answer())
    assert len(queue.resident) == 1
    assert queue.resident[0] - before < 1.5 * size
