"""The clients: numpy arrays, file paths or file bytes in, numpy arrays out.

    with Client("localhost:50051") as client:
        embeddings = client.embed(images)                  # float32 [n, D]
        scores = client.score(["a.jpg", "b.png"], alpha=0.01)
        embeddings = client.embed(["clip.wav"], model="fsdd-cpc_audio")

Inputs may have any length: they are split into requests, several of which are in flight at once. Every error is one of
`latentserve.errors`; it names the caller's own item, and its `done` holds the results that came before it. Both clients
make the same calls (`latentserve.calls`); they differ only in how they wait: the one for asyncio is `latentserve.aio`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from latentserve import calls, rpc, streaming
from latentserve.aio import AsyncClient as AsyncClient
from latentserve.calls import Analysis, Call, Decision, Guarantee, Priority, Scores
from latentserve.errors import LatentserveError
from latentserve.items import Items
from latentserve.progress import REQUESTS_IN_FLIGHT, Progress
from latentserve.streaming import Item
from latentserve.v1 import embedding_pb2 as pb

R = TypeVar("R")


class Client:
    """A blocking client. Safe to share between threads.

    Args:
        target: gRPC target of the server, for instance `localhost:50051`.
        timeout_seconds: for each request of a call; the server drops the request then, too.
        credentials: for TLS; plaintext without.
        priority: of every call; `low` for bulk jobs, so that other calls do not wait for them.
        token: sent with every call; default: LATENTSERVE_TOKEN of the environment. InvalidInput if it would be sent as
            plaintext beyond loopback.
        token_over_plaintext: send it all the same.
    """

    def __init__(
        self,
        target: str,
        timeout_seconds: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        priority: Priority = "normal",
        token: str | None = None,
        token_over_plaintext: bool = False,
    ) -> None:
        self._shown = rpc.authorization(token, target, credentials is not None, token_over_plaintext)
        if credentials is None:
            self._channel = grpc.insecure_channel(target, rpc.OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, rpc.OPTIONS)
        self._methods = rpc.stubs(self._channel)
        self._timeout_seconds = timeout_seconds
        self._priority = priority

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def embed(self, items: Items, model: str = "", version: int = 0) -> NDArray[np.float32]:
        """Embeddings, float32 [n, D]."""
        return self._run(calls.embed(items, model, version))

    def reconstruct(self, items: Items, model: str = "", version: int = 0) -> NDArray[np.float32]:
        """Reconstructions, float32 [n, height, width, channels], 0 to 1."""
        return self._run(calls.reconstruct(items, model, version))

    def score(
        self,
        items: Items,
        alpha: float | None = None,
        model: str = "",
        version: int = 0,
        guarantee: Guarantee = "marginal",
        decision: Decision = "per_row",
        maps: bool = False,
    ) -> Scores:
        """Out-of-distribution scores, p-values and decisions.

        Args:
            items: the rows.
            alpha: level of the decision; default: the bundle's.
            model: name; default: the only one.
            version: default: the newest.
            guarantee: `conditional` p-values hold for the calibration at hand, not only on average.
            decision: `false_discovery_rate` flags by Benjamini and Hochberg's procedure over all items.
            maps: where the items are out of distribution, too: `Scores.maps`, `regions` and `overlay`.
        """
        return self._run(calls.score(items, alpha, guarantee, decision, model, version, maps))

    def score_stream(
        self,
        items: Iterable[Item],
        alpha: float | None = None,
        model: str = "",
        version: int = 0,
        timeout_seconds: float | None = None,
        guarantee: Guarantee = "marginal",
        maps: bool = False,
    ) -> Iterator[Scores | LatentserveError]:
        """Score for pipelines: takes an endless stream of items, yields the scores or the error of each, in order.

        All items share one stream; a bad item affects no other. Items are taken a few ahead of the results that you
        take, in a thread of gRPC's.

        Args:
            items: a file each (path or bytes), one row, or an array of rows: see `streaming.Item`.
            alpha: level of the decision (default: the bundle's).
            model: name.
            version: 0 for the newest.
            timeout_seconds: for the whole stream; none by default.
            guarantee: as of `score`.
            maps: as of `score`.

        Raises:
            LatentserveError: the stream itself broke; the missing results will not come.
        """
        options = streaming.ScoreOptions(alpha, guarantee, model, version, self._priority, maps)
        return streaming.results(self._methods["ScoreStream"], items, options, timeout_seconds, self._shown)

    def analyze(
        self,
        items: Items,
        outputs: Iterable[str],
        alpha: float | None = None,
        model: str = "",
        version: int = 0,
        guarantee: Guarantee | None = None,
        decision: Decision | None = None,
    ) -> Analysis:
        """Any of `embedding`, `latent`, `reconstruction`, `score`, `anomaly_map` from one pass of the encoder."""
        return self._run(calls.analyze(items, outputs, alpha, guarantee, decision, model, version))

    def decode(self, latents: NDArray[Any], model: str = "", version: int = 0) -> NDArray[np.float32]:
        """Images from latents [n, L], float32 [n, height, width, channels], 0 to 1."""
        return self._run(calls.decode(latents, model, version))

    def get_model(self, model: str = "", version: int = 0) -> pb.GetModelResponse:
        """Describes a model and the server's limits."""
        return self._run(calls.get_model(model, version))

    def list_models(self) -> pb.ListModelsResponse:
        """Every model served and every bundle rejected."""
        return self._run(calls.list_models())

    def _run(self, call: Call[R]) -> R:
        progress = Progress(call, self._priority, self._timeout_seconds)
        under_way: deque[Any] = deque()
        try:
            for request in progress.requests():
                if len(under_way) == REQUESTS_IN_FLIGHT:
                    progress.answered(under_way.popleft().result())
                method = self._methods[call.method]
                shown = (*self._shown, *rpc.routing(request))
                under_way.append(method.future(request, timeout=self._timeout_seconds, metadata=shown))
            while under_way:
                progress.answered(under_way.popleft().result())
        except grpc.RpcError as error:
            raise progress.failed(rpc.error_of(error)) from error
        finally:
            for request in under_way:
                request.cancel()
        return progress.result()
