"""Exits with 0 if a server is serving, for a container's health check.

    python -m latentserve.health localhost:50051                  queries grpc.health.v1 over plaintext
    python -m latentserve.health http://localhost:9464/ready      works also if gRPC uses TLS or needs a token
    python -m latentserve.health https://localhost:9464/ready     works if that page uses TLS, too (--metrics-tls)
    python -m latentserve.health http://localhost:9464/metrics    reads latentserve_ready

The default target is localhost:50051.
"""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request
from typing import Any

from latentserve.spelling import as_typed

TARGET = "localhost:50051"
TIMEOUT_SECONDS = 2.0
SERVING, NOT_SERVING = "SERVING", "NOT_SERVING"


def command(arguments: list[str]) -> int:
    """`latentserve health [TARGET]`; returns the exit status."""
    if arguments[:1] in (["-h"], ["--help"]) or len(arguments) > 1:
        print(as_typed(__doc__))
        return 0 if len(arguments) == 1 else 2
    return main(arguments[0] if arguments else TARGET)


def main(target: str) -> int:
    """Queries the target and prints its answer."""
    try:
        answer = ready(target) if target.startswith(("http://", "https://")) else serving(target)
    except OSError as error:
        print(f"{target}: {error}", file=sys.stderr)
        return 1
    print(answer)
    return 0 if answer == SERVING else 1


def ready(url: str) -> str:
    """The answer of the metrics server. Raises OSError if there is none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = (
        False,
        ssl.CERT_NONE,
    )  # no secret is sent; the answer is one word
    directly = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # whatever the environment says
        urllib.request.HTTPSHandler(context=context),
    )
    try:
        with directly.open(url, timeout=TIMEOUT_SECONDS) as page:
            lines = page.read().decode().splitlines()
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 503:  # which is what /ready says
                raise
        return NOT_SERVING
    return SERVING if "latentserve_ready 1.0" in lines or lines == [SERVING] else NOT_SERVING


def serving(target: str) -> str:
    """The answer of grpc.health.v1. Raises ConnectionError if there is no answer."""
    import grpc  # imported here: the import takes half a second, which the metrics page does not need
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(target) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise ConnectionError(error.code().name) from error
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
