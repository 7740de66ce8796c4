"""What the servicer hands to the queue, without a queue."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from latentserve.bundle import TensorSpec
from latentserve.errors import InvalidInput
from latentserve.inputs import ImageInput
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from service.config import Config
from service.decoding import Decoder
from service.inference import Context, Inference
from service.metrics import Metrics
from service.repository import Repository
from service.servicer import Servicer


class Lane:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[int, frozenset[str], float, int]] = []
        self.kept: list[tuple[int, int, float, int]] = []

    def reserve(self, rows: int, size_bytes: int, deadline: float, priority: int) -> Any:
        self.kept.append((rows, size_bytes, deadline, priority))
        return nullcontext()

    async def submit(
        self, rows: Any, wants: frozenset[str], deadline: float, priority: int, place: Any
    ) -> dict[str, Any]:
        self.given.append((len(rows), wants, deadline, priority))
        return {name: np.zeros((len(rows), 3), np.float32) for name in wants}


@pytest.fixture
def lane() -> Lane:
    return Lane()


@pytest.fixture
def servicer(lane: Lane) -> Servicer:
    config = Config(models="m")  # type: ignore[arg-type]
    outputs = {"embedding": TensorSpec("embedding", "float32", (3,)), "latent": TensorSpec("latent", "float32", (3,))}
    model = SimpleNamespace(
        manifest=SimpleNamespace(name="m", version=1, embedding_space="e", outputs=outputs | {"reconstruction": None}),
        decoder=Decoder(ImageInput(4, 4, 1), config.limits, cast(ThreadPoolExecutor, None)),
        lanes={"input": lane, "latent": lane},
        monitor=None,
    )
    repository = cast(Repository, SimpleNamespace(find=lambda *_: model))
    return Servicer(Inference(repository, Metrics()), repository, config)


IMAGES = pb.Input(tensor=to_tensor(np.zeros((2, 4, 4, 1), np.uint8)))


@pytest.mark.parametrize(
    ("priority", "expected"),
    [(None, 0), (pb.PRIORITY_LOW, -1), (pb.PRIORITY_NORMAL, 0), (pb.PRIORITY_HIGH, 1)],
)
def test_priority_and_deadline_of_the_call_reach_the_queue(
    servicer: Servicer, lane: Lane, priority: pb.Priority | None, expected: int
) -> None:
    context = Context("Embed", deadline=7.0)
    asyncio.run(servicer.embed(pb.EmbedRequest(input=IMAGES, priority=priority), context))
    latents = to_tensor(np.zeros((1, 3), np.float32))
    asyncio.run(servicer.decode(pb.DecodeRequest(latents=latents, priority=priority), Context("Decode")))
    assert lane.given == [
        (2, frozenset({"embedding"}), 7.0, expected),
        (1, frozenset({"reconstruction"}), math.inf, expected),
    ]
    assert lane.kept == [(2, 2 * 16, 7.0, expected), (1, 3 * 4, math.inf, expected)]


def test_a_priority_that_does_not_exist_is_named(servicer: Servicer, lane: Lane) -> None:
    request = pb.EmbedRequest.FromString(pb.EmbedRequest(input=IMAGES).SerializeToString() + b"\x18\x09")
    with pytest.raises(InvalidInput, match="priority: got 9, expected among PRIORITY_UNSPECIFIED, PRIORITY_LOW"):
        asyncio.run(servicer.embed(request, Context("Embed")))
    assert lane.given == []
