"""The service under Ray Serve: each replica is a server of ours, and Ray starts, spreads and counts the replicas.

    pip install 'latentserve[serve]' 'ray[serve]'
    serve run deploy/ray/serve.yml

Clients speak to Ray's gRPC proxy with the protocol that they know: `Client("HOST:9000", ...)`. Batching, decisions and
golden rows are the server's, which listens on a loopback port of the replica's machine; a call costs one hop more.
Status and message of a call come through. Streams (`ScoreStream`), the Open Inference door, tokens and the deadline of
a caller, which Ray does not tell, do not.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from typing import Any, TypeVar

import grpc
from ray import serve

from latentserve.v1 import embedding_pb2 as pb
from latentserve.v1 import embedding_pb2_grpc as rpc

R = TypeVar("R")
FREE_PORTS = ("--port", "0", "--metrics-port", "0")
READY = re.compile(r"ready grpc=(\S+)")


@serve.deployment
class Latentserve:
    """One replica.

    Args:
        models: folder of bundles, on the replica's machine.
        options: more of `latentserve serve`, such as `--device cuda`.
    """

    def __init__(self, models: str, options: list[str]) -> None:
        command = [sys.executable, "-m", "latentserve", "serve", "--models", models, *FREE_PORTS, *options]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        for line in self._server.stdout:
            if ready := READY.search(line):
                self._channel = grpc.aio.insecure_channel(ready[1], options=[("grpc.max_receive_message_length", -1)])
                self._stub = rpc.EmbeddingServiceStub(self._channel)  # type: ignore[no-untyped-call]
                threading.Thread(target=self._server.stdout.read, daemon=True).start()  # a full pipe would stop it
                return
        raise RuntimeError(f"the server of {models} did not start, status {self._server.wait()}: its log says why")

    def check_health(self) -> None:
        """Ray starts another replica when this raises."""
        if self._server.poll() is not None:
            raise RuntimeError(f"the server ended with status {self._server.returncode}")

    async def __del__(self) -> None:
        self._server.terminate()  # it answers what it has accepted
        await asyncio.to_thread(self._server.wait)

    async def _asked(self, name: str, request: Any, response: type[R], context: Any) -> R:
        try:
            answer: R = await getattr(self._stub, name)(request)
            return answer
        except grpc.aio.AioRpcError as error:
            context.set_code(error.code())
            context.set_details(error.details())
            return response()

    async def Embed(self, request: pb.EmbedRequest, grpc_context: Any) -> pb.EmbedResponse:  # noqa: N802
        """See the proto."""
        return await self._asked("Embed", request, pb.EmbedResponse, grpc_context)

    async def Reconstruct(self, request: pb.ReconstructRequest, grpc_context: Any) -> pb.ReconstructResponse:  # noqa: N802
        """See the proto."""
        return await self._asked("Reconstruct", request, pb.ReconstructResponse, grpc_context)

    async def Score(self, request: pb.ScoreRequest, grpc_context: Any) -> pb.ScoreResponse:  # noqa: N802
        """See the proto."""
        return await self._asked("Score", request, pb.ScoreResponse, grpc_context)

    async def Analyze(self, request: pb.AnalyzeRequest, grpc_context: Any) -> pb.AnalyzeResponse:  # noqa: N802
        """See the proto."""
        return await self._asked("Analyze", request, pb.AnalyzeResponse, grpc_context)

    async def Decode(self, request: pb.DecodeRequest, grpc_context: Any) -> pb.DecodeResponse:  # noqa: N802
        """See the proto."""
        return await self._asked("Decode", request, pb.DecodeResponse, grpc_context)

    async def GetModel(self, request: pb.GetModelRequest, grpc_context: Any) -> pb.GetModelResponse:  # noqa: N802
        """See the proto."""
        return await self._asked("GetModel", request, pb.GetModelResponse, grpc_context)

    async def ListModels(self, request: pb.ListModelsRequest, grpc_context: Any) -> pb.ListModelsResponse:  # noqa: N802
        """See the proto."""
        return await self._asked("ListModels", request, pb.ListModelsResponse, grpc_context)


def app(arguments: dict[str, Any]) -> Any:
    """The application: `models`, and `options` of `latentserve serve`."""
    return Latentserve.bind(arguments["models"], arguments.get("options", []))  # type: ignore[attr-defined]
