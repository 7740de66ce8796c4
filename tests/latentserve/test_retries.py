"""What a client does when a server turns it away for now: gRPC's own retries, by the server's word."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from latentserve.client import Client
from latentserve.errors import Overloaded
from latentserve.v1 import embedding_pb2 as pb

METHOD = "/latentserve.v1.EmbeddingService/ListModels"


class Full(grpc.GenericRpcHandler):
    """Turns away the first calls, with the pushback it is told to give."""

    def __init__(self) -> None:
        self.pushback, self.turned_away, self.calls = "10", 1, 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        if self.calls <= self.turned_away:
            context.set_trailing_metadata((("retry-after-ms", "10"), ("grpc-retry-pushback-ms", self.pushback)))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return pb.ListModelsResponse().SerializeToString()


@pytest.fixture
def full() -> Iterator[tuple[Full, str]]:
    handler = Full()
    server = grpc.server(ThreadPoolExecutor(2), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_a_client_comes_again_when_it_is_told_to(full: tuple[Full, str]) -> None:
    handler, target = full
    with Client(target) as client:
        assert not client.list_models().models
    assert handler.calls == 2


def test_a_client_that_is_told_not_to_come_again_hears_why_at_once(full: tuple[Full, str]) -> None:
    handler, target = full
    handler.pushback, handler.turned_away = "-1", 9
    with Client(target) as client, pytest.raises(Overloaded, match="full"):
        client.list_models()
    assert handler.calls == 1
