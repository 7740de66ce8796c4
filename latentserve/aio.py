"""The client for asyncio: see `latentserve.client`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from latentserve import calls, rpc, streaming
from latentserve.calls import Analysis, Call, Decision, Guarantee, Priority, Scores
from latentserve.errors import LatentserveError
from latentserve.items import Items
from latentserve.progress import REQUESTS_IN_FLIGHT, Progress
from latentserve.streaming import Item
from latentserve.v1 import embedding_pb2 as pb

R = TypeVar("R")


class AsyncClient:
    """As `Client`, for asyncio: every method is awaited. Make it where the event loop runs."""

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
            self._channel = grpc.aio.insecure_channel(target, rpc.OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, rpc.OPTIONS)
        self._methods = rpc.stubs(self._channel)
        self._timeout_seconds = timeout_seconds
        self._priority = priority

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def embed(self, items: Items, model: str = "", version: int = 0) -> NDArray[np.float32]:
        """As `Client.embed`."""
        return await self._run(calls.embed(items, model, version))

    async def reconstruct(self, items: Items, model: str = "", version: int = 0) -> NDArray[np.float32]:
        """As `Client.reconstruct`."""
        return await self._run(calls.reconstruct(items, model, version))

    async def score(
        self,
        items: Items,
        alpha: float | None = None,
        model: str = "",
        version: int = 0,
        guarantee: Guarantee = "marginal",
        decision: Decision = "per_row",
        maps: bool = False,
    ) -> Scores:
        """As `Client.score`."""
        return await self._run(calls.score(items, alpha, guarantee, decision, model, version, maps))

    def score_stream(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        alpha: float | None = None,
        model: str = "",
        version: int = 0,
        timeout_seconds: float | None = None,
        guarantee: Guarantee = "marginal",
        maps: bool = False,
    ) -> AsyncIterator[Scores | LatentserveError]:
        """As `Client.score_stream`, with `async for`; items may be asynchronous too."""
        options = streaming.ScoreOptions(alpha, guarantee, model, version, self._priority, maps)
        return streaming.results_async(self._methods["ScoreStream"], items, options, timeout_seconds, self._shown)

    async def analyze(
        self,
        items: Items,
        outputs: Iterable[str],
        alpha: float | None = None,
        model: str = "",
        version: int = 0,
        guarantee: Guarantee | None = None,
        decision: Decision | None = None,
    ) -> Analysis:
        """As `Client.analyze`."""
        return await self._run(calls.analyze(items, outputs, alpha, guarantee, decision, model, version))

    async def decode(self, latents: NDArray[Any], model: str = "", version: int = 0) -> NDArray[np.float32]:
        """As `Client.decode`."""
        return await self._run(calls.decode(latents, model, version))

    async def get_model(self, model: str = "", version: int = 0) -> pb.GetModelResponse:
        """As `Client.get_model`."""
        return await self._run(calls.get_model(model, version))

    async def list_models(self) -> pb.ListModelsResponse:
        """As `Client.list_models`."""
        return await self._run(calls.list_models())

    async def _run(self, call: Call[R]) -> R:
        progress = Progress(call, self._priority, self._timeout_seconds)
        under_way: deque[Any] = deque()
        try:
            async for request in progress.requests_async():
                if len(under_way) == REQUESTS_IN_FLIGHT:
                    progress.answered(await under_way.popleft())
                method = self._methods[call.method]
                shown = (*self._shown, *rpc.routing(request))
                under_way.append(method(request, timeout=self._timeout_seconds, metadata=shown))
                await asyncio.sleep(0)  # let the request leave before the next is built
            while under_way:
                progress.answered(await under_way.popleft())
        except grpc.RpcError as error:
            raise progress.failed(rpc.error_of(error)) from error
        finally:
            for request in under_way:
                request.cancel()
        return progress.result()
