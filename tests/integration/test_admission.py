"""Admission to the real server, for every way in: what does not fit is rejected before anything of it is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from latentserve.client import Client
from latentserve.errors import InvalidInput, LatentserveError, Overloaded
from latentserve.v1 import embedding_pb2 as pb
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb
from tests.waiting import eventually

SIDE = 100
PIXELS = SIDE * SIDE
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def file(encode: Callable[..., bytes]) -> bytes:
    return encode(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 1), dtype=np.uint8))


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def served(
    repository: Path, file: bytes, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ServedProcess]:
    """Takes the bytes of two files at once, and the pixels of three in a request."""
    log = tmp_path_factory.mktemp("admission") / "log"
    bounds = ("--max-request-pixels", str(3 * PIXELS), "--max-decoding-bytes", str(len(file) * 5 // 2))
    with ServedProcess(repository, log, (*bounds, "--transport", request.param)) as process:
        yield process


def infer(target: str, files: list[bytes]) -> None:
    """By the Open Inference Protocol; raises our own error."""
    request = open_pb.ModelInferRequest(model_name="digits-vae")
    request.inputs.add(name="input", datatype="BYTES", shape=[len(files)]).contents.bytes_contents.extend(files)
    with grpc.insecure_channel(target) as channel:
        try:
            call: Any = channel.unary_unary(INFER)
            call(request.SerializeToString(), timeout=20)
        except grpc.RpcError as error:
            kinds = {grpc.StatusCode.INVALID_ARGUMENT: InvalidInput, grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded}
            raise kinds[error.code()](error.details() or "") from error


def ask(way: str, target: str, files: list[bytes]) -> None:
    with Client(target) as client:
        if way == "embed":
            client.embed(files)
        elif way == "open inference":
            infer(target, files)
        else:
            (answer,) = client.score_stream([files[0]]) if len(files) == 1 else _streamed(target, files)
            if isinstance(answer, LatentserveError):
                raise answer


def _streamed(target: str, files: list[bytes]) -> list[Any]:
    """One message of a stream of scores with several files, which our client does not send."""
    score = pb.ScoreRequest(input=pb.Input(encoded=pb.EncodedItems(items=files)))
    body = pb.ScoreStreamRequest(id=1, request=score).SerializeToString()
    with grpc.insecure_channel(target) as channel:
        call: Any = channel.stream_stream("/latentserve.v1.EmbeddingService/ScoreStream")
        (answer,) = call(iter([body]), timeout=20)
    response = pb.ScoreStreamResponse.FromString(answer)
    kinds = {3: InvalidInput, 8: Overloaded}
    return [kinds[response.code](response.message) if response.code else response]


@pytest.mark.parametrize("way", ["embed", "open inference", "score stream"])
def test_what_a_request_would_cost_is_known_before_any_of_it_is_decoded(
    served: ServedProcess, file: bytes, way: str, encode: Callable[..., bytes], digits: NDArray[np.uint8]
) -> None:
    small = encode(np.zeros((SIDE, SIDE, 1), np.uint8))

    def decoded() -> float:
        page = served.metrics()
        return sum(page.get(f'latentserve_decoded_items_total{{wanted="{wanted}"}}', 0) for wanted in ("true", "false"))

    def dropped(reason: str) -> float:
        queue = 'model="digits-vae",queue="input"'
        return served.metrics().get(f'latentserve_dropped_rows_total{{{queue},reason="{reason}",version="1"}}', 0)

    before, invalid, full = decoded(), dropped("invalid"), dropped("full")
    said = f"got {5 * PIXELS} pixels in all, expected at most {3 * PIXELS} in a request"
    with pytest.raises(InvalidInput, match=said):
        ask(way, served.target, [small] * 5)
    with pytest.raises(Overloaded, match=f"too much is to be decoded: 0 of {len(file) * 5 // 2} bytes wait"):
        ask(way, served.target, [file] * 3)
    assert decoded() == before
    assert (dropped("invalid"), dropped("full")) == (invalid + 5, full + 3)
    ask(way, served.target, [file] * 2)
    eventually(lambda: decoded() == before + 2)
    page = served.metrics()
    queue = '{model="digits-vae",queue="input",version="1"}'
    held = [page[f"latentserve_{name}"] for name in ("decoding_bytes", "decoding_pixels", f"queue_rows{queue}")]
    assert held == [0, 0, 0]
    with Client(served.target) as client:
        assert len(client.embed(digits[:3])) == 3  # arrays need no decoding
