"""What every client is asked to ask, and the answers that grpcio's blocking client gets for it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from google.protobuf import descriptor_pb2
from numpy.typing import NDArray
from PIL import Image

from benchmarks.clients.asked import joined
from latentserve import rpc
from latentserve.errors import Code
from latentserve.tensors import from_tensor, to_tensor
from latentserve.v1 import embedding_pb2 as pb

SMALL_ROWS, MANY_ROWS, STREAM_ITEMS = 3, 1024, 1000
"""The second is the most that a request may bring by default: a fifth of a second where batches have one row."""
UNKNOWN_MODEL = "unbekannt-größe-模型"
"""Its name comes back in the message, which is percent-encoded on the wire."""
LARGE_SIDE, LARGE_ITEMS = 2240, 2
"""Two RGB bitmaps of 15 MB."""


@dataclass(frozen=True)
class Expected:
    """How one call must end.

    Attributes:
        code: gRPC status.
        text: of the message.
        embeddings: that come with OK.
    """

    code: int = 0
    text: str = ""
    embeddings: pb.Tensor | None = None


@dataclass(frozen=True)
class Asked:
    """An EmbedRequest as bytes, and how it must end."""

    request: bytes
    expected: Expected


@dataclass(frozen=True)
class Questions:
    """All of them.

    Attributes:
        small: a few rows.
        many: so many rows that they take a while.
        unknown: no such model.
        large: 30 MB.
        stream: ScoreStreamRequests of one row each.
        scores: of the detectors for each of them, [n, K].
        p_values: of each of them.
    """

    small: Asked
    many: Asked
    unknown: Asked
    large: Asked
    stream: tuple[bytes, ...]
    scores: NDArray[np.float32]
    p_values: tuple[float, ...]


def questions(target: str) -> Questions:
    """Asks a server that serves one model of images."""
    with grpc.insecure_channel(target, rpc.OPTIONS) as channel:
        stubs = rpc.stubs(channel)
        model = stubs["GetModel"](pb.GetModelRequest()).model
        rows = np.random.default_rng(0).integers(0, 16, (MANY_ROWS, *model.input.shape), np.uint8)

        def asked(given: pb.Input) -> Asked:
            request = pb.EmbedRequest(model=pb.ModelSelector(name=model.name), input=given)
            answer = stubs["Embed"](request)
            return Asked(request.SerializeToString(), Expected(embeddings=answer.embeddings))

        scored = stubs["Score"](pb.ScoreRequest(input=_tensor(rows[:STREAM_ITEMS]))).out_of_distribution
        return Questions(
            small=asked(_tensor(rows[:SMALL_ROWS])),
            many=asked(_tensor(rows)),
            unknown=_unknown(rows[:1]),
            large=asked(pb.Input(encoded=pb.EncodedItems(items=_bitmaps()))),
            stream=tuple(_stream_request(number, rows[number]) for number in range(STREAM_ITEMS)),
            scores=from_tensor(scored.scores, "scores"),
            p_values=tuple(scored.p_values),
        )


def write(found: Questions, asked: Asked, folder: Path) -> None:
    """What a client program finds in its folder."""
    folder.mkdir(parents=True)
    (folder / "small.bin").write_bytes(found.small.request)
    (folder / "request.bin").write_bytes(asked.request)
    (folder / "stream.bin").write_bytes(joined(found.stream))
    files = descriptor_pb2.FileDescriptorSet()
    pb.DESCRIPTOR.CopyToProto(files.file.add())
    (folder / "descriptors.bin").write_bytes(files.SerializeToString())


def _tensor(rows: NDArray[np.uint8]) -> pb.Input:
    return pb.Input(tensor=to_tensor(np.ascontiguousarray(rows)))


def _unknown(rows: NDArray[np.uint8]) -> Asked:
    request = pb.EmbedRequest(model=pb.ModelSelector(name=UNKNOWN_MODEL), input=_tensor(rows))
    return Asked(request.SerializeToString(), Expected(Code.NOT_FOUND.value, UNKNOWN_MODEL))


def _bitmaps() -> list[bytes]:
    """Noise, so that no compression makes it small on its way."""
    found = []
    for seed in range(LARGE_ITEMS):
        pixels = np.random.default_rng(seed).integers(0, 256, (LARGE_SIDE, LARGE_SIDE, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "bmp")
        found.append(file.getvalue())
    return found


def _stream_request(number: int, row: NDArray[np.uint8]) -> bytes:
    score = pb.ScoreRequest(input=_tensor(row[None]))
    return pb.ScoreStreamRequest(id=number, request=score).SerializeToString()
