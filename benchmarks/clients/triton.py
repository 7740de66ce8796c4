"""NVIDIA's tritonclient (Open Inference Protocol): a program as `asked` says, without `stream`.

Its messages have the names that ours of that protocol have, so this process holds none of the service's own.
"""

from __future__ import annotations

import queue
import time
from typing import Any

import grpc
import numpy as np
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from benchmarks.clients.asked import PING_SECONDS, PING_TIMEOUT_SECONDS, Work
from latentserve.tensors import from_tensor, to_tensor
from latentserve.v1 import embedding_pb2 as pb

_CODES = {str(status): status.value[0] for status in grpc.StatusCode}


def main(work: Work) -> None:
    """Does what it was told."""
    pings = triton.KeepAliveOptions(PING_SECONDS * 1000, PING_TIMEOUT_SECONDS * 1000, True, 0)
    secure: dict[str, Any] = {"ssl": True, "root_certificates": str(work.folder / "ca.pem")} if work.ca else {}
    with triton.InferenceServerClient(
        work.target, keepalive_options=pings if work.verb == "idle" else None, **secure
    ) as client:
        do(work, client)


def do(work: Work, client: Any) -> None:
    """The verb."""
    if work.verb not in ("call", "gzip"):
        hear(work, lambda: client.infer(**given(work.small)))
    if work.verb == "many":
        answers: list[queue.Queue[Any]] = [queue.Queue() for _ in range(work.number)]
        for answer in answers:
            begin(client, work.request, answer)
        for answer in answers:
            hear(work, lambda answer=answer: taken(answer))
        return
    if work.verb == "idle":
        time.sleep(work.number)
    elif work.verb == "gzip":
        hear(work, lambda: client.infer(**given(work.request), compression_algorithm="gzip"))
    elif work.verb == "cancel":
        answer = queue.Queue()
        call = begin(client, work.request, answer)
        time.sleep(work.number / 1000)
        call.cancel()
        hear(work, lambda: taken(answer))
    else:
        hear(work, lambda: client.infer(**given(work.request), client_timeout=work.number / 1000 or None))
    if work.verb not in ("call", "gzip"):
        hear(work, lambda: client.infer(**given(work.small)))
    if work.verb == "idle":
        time.sleep(1)


def given(request: bytes) -> dict[str, Any]:
    """An EmbedRequest as arguments of `infer`."""
    asked = pb.EmbedRequest.FromString(request)
    if asked.input.WhichOneof("rows") == "encoded":
        rows, datatype = np.array(list(asked.input.encoded.items), np.object_), "BYTES"
    else:
        rows, datatype = from_tensor(asked.input.tensor, "input"), "UINT8"
    tensor = triton.InferInput("input", rows.shape, datatype)
    tensor.set_data_from_numpy(rows)
    outputs = [triton.InferRequestedOutput("embedding")]
    return {"model_name": asked.model.name, "inputs": [tensor], "outputs": outputs}


def begin(client: Any, request: bytes, answer: queue.Queue[Any]) -> Any:
    """Asks without waiting; the result or the error comes into the queue."""
    return client.async_infer(**given(request), callback=lambda result, error: answer.put(error or result))


def taken(answer: queue.Queue[Any]) -> Any:
    """What came into the queue.

    Raises:
        InferenceServerException: that came.
    """
    got = answer.get(timeout=60)
    if isinstance(got, Exception):
        raise got
    return got


def hear(work: Work, ask: Any) -> None:
    """Asks, and says how it ended."""
    try:
        embedding = ask().as_numpy("embedding")
    except InferenceServerException as error:
        work.heard(_CODES.get(str(error.status()), 2), str(error.message()))
        return
    work.heard(0, "", pb.EmbedResponse(embeddings=to_tensor(embedding)).SerializeToString())


if __name__ == "__main__":
    main(Work.read())
