"""Every error latentserve raises on purpose, and the gRPC status code each one becomes.

    LatentserveError
    ├── InvalidInput         INVALID_ARGUMENT     names field, got and expected
    ├── Unauthenticated      UNAUTHENTICATED      no token, or none that is valid
    ├── PermissionDenied     PERMISSION_DENIED    the token is valid, but not for that
    ├── ModelNotFound        NOT_FOUND            no such model or version
    ├── Unsupported          FAILED_PRECONDITION  this model cannot do that
    ├── BundleError          FAILED_PRECONDITION  the bundle is broken or too new
    ├── Overloaded           RESOURCE_EXHAUSTED   shed: the queue or the token's rate is full; says when to retry
    ├── DeadlineExceeded     DEADLINE_EXCEEDED    the client's deadline passed
    ├── Cancelled            CANCELLED            the client cancelled the call
    ├── Unavailable          UNAVAILABLE          draining, or not reachable
    └── InternalError        INTERNAL             a fault of the server; shows nothing of its inside

The service raises these, the transport turns them into codes, and the client turns the codes back
into these: both ends use one name for one error.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Code(IntEnum):
    """The gRPC status codes in use, by their numbers on the wire."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class LatentserveError(Exception):
    """Root of the tree.

    Attributes:
        code: the gRPC status code it becomes.
        done: if a client's call of many rows ended early, its result for the first rows; None if there are none.
    """

    code: Code = Code.INTERNAL
    done: Any = None


class InvalidInput(LatentserveError):
    """The input is malformed. The message names the field, what was got and what was expected."""

    code = Code.INVALID_ARGUMENT

    @classmethod
    def at(cls, field: str, *, got: object, expected: object) -> InvalidInput:
        """An error whose message has the common form."""
        return cls(f"{field}: got {got}, expected {expected}")


class Unauthenticated(LatentserveError):
    """The client sent no token, or an invalid one. The message does not say which tokens are."""

    code = Code.UNAUTHENTICATED


class PermissionDenied(LatentserveError):
    """The client's token does not allow this method or model."""

    code = Code.PERMISSION_DENIED


class ModelNotFound(LatentserveError):
    """No such model, or no such version of it."""

    code = Code.NOT_FOUND


class Unsupported(LatentserveError):
    """The model exists but does not support the call, for instance reconstruct without a decoder."""

    code = Code.FAILED_PRECONDITION


class BundleError(LatentserveError):
    """A bundle cannot be served: a file is missing or changed, or the schema is unknown."""

    code = Code.FAILED_PRECONDITION


class Overloaded(LatentserveError):
    """The request was shed: the queue is full, or the client's token has exceeded its rate.

    Attributes:
        retry_after_seconds: when to retry, an estimate from the rows that wait.
    """

    code = Code.RESOURCE_EXHAUSTED

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(LatentserveError):
    """The client's deadline passed before the answer was ready."""

    code = Code.DEADLINE_EXCEEDED


class Cancelled(LatentserveError):
    """The client cancelled the call."""

    code = Code.CANCELLED


class Unavailable(LatentserveError):
    """The server is draining or cannot be reached; another replica may answer."""

    code = Code.UNAVAILABLE


class InternalError(LatentserveError):
    """A fault of the server. The message holds an id to find it in the server's log, no more."""

    code = Code.INTERNAL


BY_CODE: dict[Code, type[LatentserveError]] = {
    Code.INVALID_ARGUMENT: InvalidInput,
    Code.UNAUTHENTICATED: Unauthenticated,
    Code.PERMISSION_DENIED: PermissionDenied,
    Code.NOT_FOUND: ModelNotFound,
    Code.FAILED_PRECONDITION: Unsupported,
    Code.RESOURCE_EXHAUSTED: Overloaded,
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    Code.CANCELLED: Cancelled,
    Code.UNAVAILABLE: Unavailable,
    Code.INTERNAL: InternalError,
}
"""The error that a client raises for a status code."""


def from_code(number: int, message: str, retry_after_seconds: float = 0.0) -> LatentserveError:
    """The error for a gRPC status that is not OK."""
    if number == Code.RESOURCE_EXHAUSTED:
        return Overloaded(message, retry_after_seconds)
    if number in BY_CODE:
        return BY_CODE[Code(number)](message)
    return LatentserveError(f"gRPC status {number}: {message}")
