"""The clients' use of gRPC: the channel's options, a callable for each method, and the mapping of errors."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from latentserve.errors import InvalidInput, LatentserveError, from_code
from latentserve.v1 import embedding_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["EmbeddingService"]
MODEL_HEADER = "x-latentserve-model"
"""Header with the model's name, by which a proxy chooses a replica that serves it."""
TOKEN = "LATENTSERVE_TOKEN"
"""Environment variable with the bearer token of clients that have no `token` argument."""
_UNREACHED = re.compile(r"last error: \w+: ipv[46]:(?P<address>\S+): (?P<why>.*)")
"""Of gRPC's message, the address that was tried last and what came of it."""
_LOCAL = ("unix:", "unix-abstract:", "vsock:")
Metadata = tuple[tuple[str, str], ...]
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],  # over all addresses of a name, such as a headless Service
    "methodConfig": [
        {
            "name": [{"service": _SERVICE.full_name}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],  # the latter as the server says
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},  # a server that answers no call is not asked four times
}
OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.per_rpc_retry_buffer_size", 4 * 2**20),  # a request of `items.BYTES_PER_REQUEST`, whole
)


def stubs(channel: grpc.Channel | grpc.aio.Channel) -> dict[str, Any]:
    """A callable per method of the service, made from its descriptor."""
    return {
        method.name: (channel.stream_stream if method.client_streaming else channel.unary_unary)(
            f"/{_SERVICE.full_name}/{method.name}",
            request_serializer=_message(method.input_type).SerializeToString,
            response_deserializer=_message(method.output_type).FromString,
        )
        for method in _SERVICE.methods
    }


def authorization(token: str | None, target: str, encrypted: bool, token_over_plaintext: bool) -> Metadata:
    """The metadata of a token, by default the environment's; empty for an empty token.

    Raises:
        InvalidInput: it is no token, or would be sent where others can read it. The message does not contain it.
    """
    token = os.environ.get(TOKEN, "") if token is None else token
    if not token:
        return ()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise InvalidInput.at("token", got=f"{len(token)} characters", expected="printable ASCII without spaces")
    if not (encrypted or token_over_plaintext or is_local(target)):
        expected = "credentials for TLS with it, or token_over_plaintext=True where the network is trusted"
        raise InvalidInput.at("token", got=f"one for {target!r} over plaintext", expected=expected)
    return (("authorization", f"Bearer {token}"),)


def is_local(target: str) -> bool:
    """Whether a gRPC target is on this machine whatever the network is. Source: doc/naming.md of gRPC."""
    if target.startswith(_LOCAL):
        return True
    scheme, colon, rest = target.partition(":")
    if scheme in ("dns", "ipv4", "ipv6") and colon:
        target = rest.rpartition("/")[2]  # dns:[//authority/]host[:port]
    return all(_is_loopback(one) for one in target.split(","))


def _is_loopback(address: str) -> bool:
    host = address[1:].partition("]")[0] if address.startswith("[") else address
    host = host.rpartition(":")[0] if host.count(":") == 1 else host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def routing(request: Any) -> Metadata:
    """The metadata of a request that names a model."""
    name = request.model.name if "model" in request.DESCRIPTOR.fields_by_name else ""
    return ((MODEL_HEADER, name),) if name.isascii() and name.isprintable() and name else ()


def _message(descriptor: Any) -> Any:
    return getattr(pb, descriptor.name)


def error_of(error: grpc.RpcError) -> LatentserveError:
    """The error of `latentserve.errors` for a gRPC error."""
    call: Any = error
    code = call.code()
    metadata = dict(call.trailing_metadata() or ())
    told = _in_words(call.details() or code.name)
    return from_code(code.value[0], told, int(metadata.get("retry-after-ms", 0)) / 1000)


def _in_words(details: str) -> str:
    """What gRPC says of a server that it cannot reach, in a sentence that names the address."""
    found = _UNREACHED.search(details)
    if found is None:
        return details
    address, why = urllib.parse.unquote(found["address"]), found["why"]
    if "HTTP/2" in why or why == "Socket closed":
        return f"{address} does not speak gRPC in plaintext (is it the port of the metrics, or does it want TLS?)"
    if why.startswith(refused := "Failed to connect to remote host: "):
        return f"nobody listens at {address} ({why.removeprefix(refused)})"
    return f"{address}: {why}"
