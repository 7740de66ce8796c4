"""Bearer tokens: who may call, what, and how much of it. Knows no transport and no file.

    admit(path, header)   before anything of a request's body is read: whose call it is, and may they make it
    Caller.charge(rows)   before any of it is decoded: each request, each message of a stream
    Caller.check_model    when the request names a model
    Caller.lowered        the priority it gets

A token is held as its SHA-256 (`grants`). That is enough for 256 random bits, which nobody can try out; it would not
be for a password. Whoever has none, or one that is not (or no longer) ours, hears UNAUTHENTICATED in one and the same
sentence; whoever is known but not allowed, PERMISSION_DENIED. Why: docs/adr/0020-who-gets-in.md.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from latentserve.errors import Overloaded, PermissionDenied, Unauthenticated
from latentserve.v1 import embedding_pb2 as pb
from service.api.access.grants import METHODS, Grant
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb
from service.observing.metrics import Metrics

HEALTH, REFLECTION = "/grpc.health.v1.Health/", "/grpc.reflection."
_OPEN = f"/{open_pb.DESCRIPTOR.services_by_name['GRPCInferenceService'].full_name}/"
PROBES = frozenset(_OPEN + name for name in ("ServerLive", "ServerReady", "ModelReady"))
"""What the Open Inference Protocol calls health."""
PRIORITIES = {"low": -1, "normal": 0, "high": 1}
LONGEST_HEADER = 512
"""Characters; ours have 57. A longer one is not hashed."""
NOT_ONE_OF_OURS = "authorization: got no valid token, expected 'Bearer' and a token of this server"


@dataclass
class Bucket:
    """Rows that may come now.

    It fills by `rate` up to `burst`. A request larger than that waits for it to be full, and leaves a debt that is paid
    before the next: so over any time no more than `burst` + `rate` x seconds + one request.
    """

    rate: float
    burst: float
    clock: Callable[[], float] = time.monotonic
    level: float = 0.0
    at: float = 0.0

    def __post_init__(self) -> None:
        self.level, self.at = self.burst, self.clock()

    def bound(self, rate: float, burst: float) -> None:
        """From now on. What was owed stays owed."""
        self._fill()
        self.rate, self.burst, self.level = rate, burst, min(self.level, burst)

    def take(self, rows: float) -> float:
        """Takes them and returns 0, or returns the seconds until they may come."""
        self._fill()
        short = min(rows, self.burst) - self.level
        if short > 0:
            return short / self.rate
        self.level -= rows
        return 0.0

    def _fill(self) -> None:
        now = self.clock()
        self.level, self.at = min(self.burst, self.level + (now - self.at) * self.rate), now


class Caller:
    """Makes calls with one token, and lives as long as it: changes of the file hold for open streams, too."""

    def __init__(self, grant: Grant | None, metrics: Metrics | None = None, bucket: Bucket | None = None) -> None:
        self._metrics = metrics
        self.now(grant, bucket)

    def now(self, grant: Grant | None, bucket: Bucket | None) -> None:
        """What it may do from now on; None: anything, there are no tokens. Without a bucket at any rate."""
        self._grant = grant
        self._bucket = bucket
        self.name = grant.name if grant else ""
        self.admin = grant is None or grant.admin
        self._methods = METHODS if grant is None else grant.allowed
        self._every_model = grant is None or "*" in grant.models
        self._ceiling = PRIORITIES[grant.priority if grant else "high"]
        self._ends = grant.ends if grant else math.inf

    def revoke(self) -> None:
        """Its token is no longer ours."""
        self._ends = -math.inf

    def check(self) -> None:
        """Raises Unauthenticated if the token has expired, or was taken away."""
        if self._ends < math.inf and time.time() >= self._ends:
            self._refused("expired")
            raise Unauthenticated(NOT_ONE_OF_OURS)

    def check_method(self, name: str) -> None:
        """Raises PermissionDenied if it may not call that."""
        if name not in self._methods:
            self._refused("method")
            raise PermissionDenied(f"the token may not call {name}")

    def check_admin(self) -> None:
        """Raises PermissionDenied unless it is an administrator's."""
        if not self.admin:
            self._refused("method")
            raise PermissionDenied("the token is not an administrator's")

    def sees(self, model: str) -> bool:
        """Whether it is to know of that model."""
        if self._every_model or self._grant is None:
            return True
        return any(fnmatchcase(model, pattern) for pattern in self._grant.models)

    def check_model(self, name: str) -> None:
        """Raises PermissionDenied, whether there is such a model or not, if it may not use that."""
        if not self.sees(name):
            self._refused("model")
            raise PermissionDenied(f"model.name: got {name!r}, expected a model that the token may use")

    def charge(self, rows: int) -> None:
        """Counts a request.

        Raises:
            Unauthenticated: see `check`.
            Overloaded: it has asked for more than it may, and says when to come again.
        """
        if self._grant is None:
            return
        self.check()
        rows = max(1, rows)
        if self._bucket is not None and (seconds := self._bucket.take(rows)):
            self._refused("rate")
            rate = self._grant.rows_per_second
            raise Overloaded(f"the token may ask for {rate:g} rows a second, it has asked for more", seconds)
        if self._metrics is not None:
            self._metrics.access_rows.labels(self.name).inc(rows)

    def lowered(self, priority: int) -> int:
        """The priority that it gets if it asks for this one."""
        return min(priority, self._ceiling)

    def _refused(self, why: str) -> None:
        if self._metrics is not None:
            self._metrics.access_refused.labels(self.name, why).inc()


ANYBODY = Caller(None)
"""Where there are no tokens, and of what is open to all."""


class Access:
    """The tokens in force.

    Args:
        grants: what each name may do.
        metrics: record who was rejected, and why.
        open_health: whether health needs no token.
        open_reflection: whether reflection needs none.
    """

    def __init__(
        self, grants: Sequence[Grant], metrics: Metrics, open_health: bool = True, open_reflection: bool = False
    ) -> None:
        self._metrics = metrics
        self._open = (HEALTH,) * open_health + (REFLECTION,) * open_reflection
        self._open_probes = PROBES if open_health else frozenset()
        self._buckets: dict[str, Bucket] = {}
        self._callers: dict[bytes, Caller] = {}
        self.take(grants)

    def take(self, grants: Sequence[Grant]) -> None:
        """Puts these in force. Grants that stay keep what they used up; callers that go are rejected in streams too."""
        buckets: dict[str, Bucket] = {}
        callers: dict[bytes, Caller] = {}
        for grant in grants:
            bucket = self._bucket(grant)
            if bucket is not None:
                buckets[grant.name] = bucket
            for digest in map(bytes.fromhex, grant.sha256):
                caller = self._callers.get(digest)
                if caller is None or caller.name != grant.name:
                    caller = Caller(grant, self._metrics, bucket)
                caller.now(grant, bucket)
                callers[digest] = caller
        for digest, caller in self._callers.items():
            if callers.get(digest) is not caller:
                caller.revoke()
        for name in {caller.name for caller in self._callers.values()} - {grant.name for grant in grants}:
            self._metrics.access_rows.remove_by_labels({"token": name})
            self._metrics.access_refused.remove_by_labels({"token": name})
        self._buckets, self._callers = buckets, callers

    def _bucket(self, grant: Grant) -> Bucket | None:
        if grant.rows_per_second == math.inf:
            return None
        rate, burst = grant.rows_per_second, max(grant.burst_rows or grant.rows_per_second, 1.0)
        bucket = self._buckets.get(grant.name) or Bucket(rate, burst)
        bucket.bound(rate, burst)
        return bucket

    def admit(self, path: str, authorization: str | None) -> Caller:
        """Whose call this is.

        Args:
            path: `/package.Service/Method`.
            authorization: the header, if there is one.

        Raises:
            Unauthenticated: no token, or none of ours.
            PermissionDenied: the token is not for this method.
        """
        if path in self._open_probes or path.startswith(self._open):
            return ANYBODY
        caller = self.caller(authorization)
        name = path.rpartition("/")[2]
        if name in METHODS and path not in PROBES:
            caller.check_method(name)
        return caller

    def caller(self, authorization: str | None) -> Caller:
        """Whose token this is. Takes as long whichever it is, and if it is none. Raises Unauthenticated."""
        scheme, _, token = (authorization or "")[: LONGEST_HEADER + 1].partition(" ")
        found: Caller | None = None
        if scheme.lower() == "bearer" and token and len(authorization or "") <= LONGEST_HEADER:
            digest = hashlib.sha256(token.strip().encode("latin-1", "replace")).digest()
            for known, caller in self._callers.items():
                if hmac.compare_digest(known, digest):
                    found = caller
        if found is None:
            self._metrics.access_refused.labels("", "unknown" if authorization else "missing").inc()
            raise Unauthenticated(NOT_ONE_OF_OURS)
        found.check()
        return found


def rows_of(request: Any, most: int) -> int:
    """Rows a request says it has, at most so many: more is rejected anyway, and an error must not cost for ever."""
    request = getattr(request, "request", request)  # a message of a score stream
    if isinstance(request, open_pb.ModelInferRequest):
        shape = request.inputs[0].shape if request.inputs else ()
    elif isinstance(request, pb.DecodeRequest):
        shape = request.latents.shape
    elif not hasattr(request, "input"):
        return 0
    elif request.input.WhichOneof("rows") == "encoded":
        return min(len(request.input.encoded.items), most)
    else:
        shape = request.input.tensor.shape
    return max(0, min(shape[0], most)) if shape else 0
